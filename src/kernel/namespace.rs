//! Network namespaces: making one, working in one, and moving the whole process into one.
//!
//! Each thread has its own namespace, and a socket stays in that of the thread which opened it (setns(2),
//! network_namespaces(7)). So work in another namespace gets a thread of its own, which ends with the work: no
//! thread has to return to its namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;

use super::sys;
pub use crate::state::NamespaceId;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The network namespace of the calling thread.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// The inode of a namespace: unique among those that exist (namespaces(7)).
pub fn identity(namespace: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}

/// Whether the network namespace of the calling thread is that of the host's first process.
pub fn is_of_first_process() -> bool {
    let first = File::open("/proc/1/ns/net").and_then(identity);
    let own = current().and_then(identity);
    matches!((first, own), (Ok(first), Ok(own)) if first == own)
}

impl NamespaceId {
    /// Identifies the namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        let found = nix::sys::stat::fstat(current()?)?;
        let cookie = sys::namespace_cookie(&UnixDatagram::unbound()?).ok();
        let lo = if cookie.is_some() { None } else { lo_node().ok() };
        Ok(Self { device: found.st_dev, inode: found.st_ino, cookie, lo })
    }
}

/// The inode number of `lo` in sysfs. Each namespace has its own `lo`, and sysfs counts its inode numbers up
/// (`idr_alloc_cyclic` in `__kernfs_new_node`), so that none is used twice. A mount of sysfs shows the
/// interfaces of the namespace in which it was mounted: this function mounts its own, which ends with its thread.
fn lo_node() -> io::Result<u64> {
    on_a_thread(|| {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // Over /proc, as the kernel refuses to mount the same sysfs over itself at /sys.
        let as_is = |flags| mount(Some("lvsprov"), "/proc", Some("sysfs"), quiet | flags, none);
        // The kernel refuses (EBUSY) a mount that is writable where another is read-only, and vice versa.
        as_is(MsFlags::empty()).or_else(|_| as_is(MsFlags::MS_RDONLY))?;
        Ok(fs::metadata("/proc/class/net/lo")?.ino())
    })?
}

/// Makes a namespace without a name. It exists as long as the descriptor, a thread or a socket in it.
///
/// Its only interface is a `lo` that is down.
pub fn create() -> io::Result<OwnedFd> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        current()
    })?
}

/// Runs `work` on a thread of its own inside `namespace`, and waits for it.
///
/// Sockets that `work` opens and returns stay in that namespace. Threads that it starts are in it too: so is a
/// runtime that it makes.
pub fn run_in<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = namespace.as_fd();
    on_a_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })?
}

/// `work` may borrow; its panic continues in the caller.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        match worker.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Why a process did not enter a namespace.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The path does not exist.
    #[error("there is no network namespace at {path}: `ip netns add NAME` makes /run/netns/NAME")]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// The path is not a namespace.
    #[error(
        "{path} is not a network namespace, perhaps the plain file that is left of a deleted one: \
         remove it and make the namespace again"
    )]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot enter the network namespace {path}: root (CAP_SYS_ADMIN) is needed")]
    Denied {
        /// The path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The process has other threads, which would stay outside.
    #[error(
        "this process has {threads} threads already: entering a network namespace would move one \
         of them only"
    )]
    Threads {
        /// Number of threads.
        threads: usize,
    },
    /// Another error.
    #[error("cannot open the network namespace {path}")]
    Open {
        /// The path.
        path: PathBuf,
        /// The kernel's error when opening it.
        source: io::Error,
    },
}

/// Moves this process into the namespace at `path`. The process must have only one thread, from which later
/// threads inherit the namespace.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The value of `read` in two namespaces, of which the first was deleted before the second was made.
    fn two<T: Send>(read: impl Fn() -> io::Result<T> + Sync) -> [T; 2] {
        let one = || {
            let namespace = create().unwrap();
            let read = || (read().unwrap(), read().unwrap());
            run_in(&namespace, read).unwrap().1
        };
        [one(), one()]
    }

    #[test]
    fn a_namespace_differs_from_a_deleted_one_and_not_from_itself() {
        let [first, second] = two(NamespaceId::current);
        assert!(first.differs(&second), "{first:?} {second:?}");
        let namespace = create().unwrap();
        let here = || NamespaceId::current().unwrap();
        let (then, now) = (run_in(&namespace, here).unwrap(), run_in(&namespace, here).unwrap());
        assert!(!then.differs(&now));
        assert!(then.differs(&here()));
    }

    /// The identity on kernels before 5.14.
    #[test]
    fn the_inode_of_lo_differs_too() {
        let [first, second] = two(lo_node);
        assert_ne!(first, second);
        let namespace = create().unwrap();
        let node = || lo_node().unwrap();
        assert_eq!(run_in(&namespace, node).unwrap(), run_in(&namespace, node).unwrap());
        assert_eq!(node(), fs::metadata("/sys/class/net/lo").unwrap().ino());
    }

    #[test]
    fn a_field_that_one_side_lacks_is_no_difference() {
        let id = |cookie, lo| NamespaceId { device: 4, inode: 7, cookie, lo };
        assert!(!id(Some(1), None).differs(&id(None, Some(2))));
        assert!(!id(None, None).differs(&id(Some(1), Some(2))));
        assert!(id(Some(1), None).differs(&id(Some(2), None)));
        assert!(id(None, Some(1)).differs(&id(None, Some(2))));
        assert!(id(None, None).differs(&NamespaceId { inode: 8, ..id(None, None) }));
    }
}
