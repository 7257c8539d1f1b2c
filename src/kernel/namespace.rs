//! Network namespaces: making one, working in one, and moving the whole process into one.
//!
//! A thread is in a namespace, not a process, and a socket stays for ever in that of the thread which
//! opened it (setns(2), network_namespaces(7)). So whoever works in another namespace gets a thread
//! of its own that never comes back: it is impossible to forget to return.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// The network namespace of the calling thread.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// The inode that tells one namespace from another (namespaces(7)).
pub fn identity(namespace: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}

/// Makes a namespace without a name. It lives as long as the descriptor, a thread or a socket in it.
///
/// It has a `lo` that is down and nothing else.
pub fn create() -> io::Result<OwnedFd> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        current()
    })?
}

/// Runs `work` on a thread of its own inside `namespace`, and waits for it.
///
/// Sockets that `work` opens and returns stay in that namespace. The threads that it starts are in
/// there too: a runtime made by `work` is wholly inside.
pub fn run_in<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = namespace.as_fd();
    on_a_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })?
}

/// Scoped: borrows are fine, and a panic of `work` goes on in the caller.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        match worker.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Why the process is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// Nothing is at the path.
    #[error("there is no network namespace at {path}: `ip netns add NAME` makes /run/netns/NAME")]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Something is there, but no namespace.
    #[error(
        "{path} is not a network namespace: what is left when a namespace was deleted is a plain \
         file; remove it and make the namespace again"
    )]
    NotANamespace {
        /// What was opened.
        path: PathBuf,
    },
    /// The kernel says no.
    #[error("cannot enter the network namespace {path}: root (CAP_SYS_ADMIN) is needed")]
    Denied {
        /// What was opened.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Too late: threads that exist already would stay outside.
    #[error(
        "this process has {threads} threads already: entering a network namespace would move one \
         of them only"
    )]
    Threads {
        /// How many.
        threads: usize,
    },
    /// Something else.
    #[error("cannot open the network namespace {path}")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Moves this process into the namespace at `path`. For the start of a process: it must have one
/// thread only, from which all later ones inherit.
pub fn enter_process(path: &Path) -> Result<(), EnterError> {
    let at = || path.to_owned();
    let threads = fs::read_dir("/proc/self/task")
        .map_err(|source| EnterError::Open { path: at(), source })?
        .count();
    if threads != 1 {
        return Err(EnterError::Threads { threads });
    }
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => EnterError::Absent { path: at() },
        io::ErrorKind::PermissionDenied => EnterError::Denied { path: at(), source },
        _ => EnterError::Open { path: at(), source },
    })?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EINVAL => EnterError::NotANamespace { path: at() },
        other => EnterError::Denied { path: at(), source: other.into() },
    })
}
