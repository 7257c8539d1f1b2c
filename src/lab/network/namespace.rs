//! Network namespaces without a name: a file descriptor keeps each, so it vanishes with its holder.
//!
//! A namespace belongs to a thread (`setns(2)`), so whatever is done in one is done on a thread of
//! its own that ends with it: no thread is ever left in the wrong namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// The network namespace of the calling thread.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Makes a new, empty network namespace: lo only, and down.
pub fn create() -> io::Result<OwnedFd> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        current()
    })?
}

/// Runs `work` on a new thread inside `namespace` and waits for it. Threads that `work` starts are
/// in the namespace too.
pub fn run_in<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace: BorrowedFd<'_> = namespace.as_fd();
    on_own_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        io::Result::Ok(work())
    })?
}

/// The inode that tells one namespace from another.
pub fn identity(namespace: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn interfaces() -> Vec<String> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
        names.map(|name| name.trim().to_owned()).collect()
    }

    #[test]
    fn a_new_namespace_has_lo_only_and_the_caller_stays_where_it_was() {
        let before = identity(current().unwrap()).unwrap();
        let fresh = create().unwrap();
        assert_ne!(identity(&fresh).unwrap(), before);
        assert!(
            run_in(&fresh, interfaces).unwrap().iter().all(|name| name == "lo" || name == "tunl0")
        );
        assert_eq!(identity(current().unwrap()).unwrap(), before);
    }
}
