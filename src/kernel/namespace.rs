//! Network namespaces: making one, working in one, and moving the whole process into one.
//!
//! A thread is in a namespace, not a process, and a socket stays for ever in that of the thread which
//! opened it (setns(2), network_namespaces(7)). So whoever works in another namespace gets a thread
//! of its own that never comes back: it is impossible to forget to return.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::sys;

/// The network namespace of the calling thread.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// The inode that tells one namespace from another (namespaces(7)).
pub fn identity(namespace: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}

/// What tells a network namespace from every other, one that was deleted included. The inode alone does
/// not: the next namespace gets the number of one that is gone (`ida_alloc` takes the lowest that is free).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceId {
    /// The file system of the inode.
    pub device: u64,
    /// See [`identity`].
    pub inode: u64,
    /// See [`sys::namespace_cookie`]; `None` before Linux 5.14.
    pub cookie: Option<u64>,
    /// See [`lo_node`]; looked for where there is no cookie, `None` where sysfs cannot be mounted.
    pub lo: Option<u64>,
}

impl NamespaceId {
    /// That of the calling thread's.
    pub fn current() -> io::Result<Self> {
        let found = nix::sys::stat::fstat(current()?)?;
        let cookie = sys::namespace_cookie(&UnixDatagram::unbound()?).ok();
        let lo = if cookie.is_some() { None } else { lo_node().ok() };
        Ok(Self { device: found.st_dev, inode: found.st_ino, cookie, lo })
    }

    /// Whether it is surely another one than `other`: by what is known of both.
    pub fn differs(&self, other: &Self) -> bool {
        let differ = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a != b);
        (self.device, self.inode) != (other.device, other.inode)
            || differ(self.cookie, other.cookie)
            || differ(self.lo, other.lo)
    }
}

/// The inode number that `lo` has in sysfs. `lo` comes and goes with its namespace, and sysfs counts its
/// inodes up (`idr_alloc_cyclic` in `__kernfs_new_node`), so that none is used twice. A mount of sysfs shows
/// the interfaces of the namespace in which it was mounted: this is one of its own, which ends with its thread.
fn lo_node() -> io::Result<u64> {
    on_a_thread(|| {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // Any folder would do but /sys: where this very sysfs is mounted, it cannot be once more.
        let as_is = |flags| mount(Some("lvsprov"), "/proc", Some("sysfs"), quiet | flags, none);
        // One that is mounted already is read-only or not, and refuses to be the other (EBUSY).
        as_is(MsFlags::empty()).or_else(|_| as_is(MsFlags::MS_RDONLY))?;
        Ok(fs::metadata("/proc/class/net/lo")?.ino())
    })?
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Those of two namespaces of which the first was gone before the second was made.
    fn two<T: Send>(read: impl Fn() -> io::Result<T> + Sync) -> [T; 2] {
        let one = || {
            let namespace = create().unwrap();
            let read = || (read().unwrap(), read().unwrap());
            run_in(&namespace, read).unwrap().1
        };
        [one(), one()]
    }

    #[test]
    fn a_namespace_is_told_from_one_that_was_deleted_and_stays_the_same() {
        let [first, second] = two(NamespaceId::current);
        assert!(first.differs(&second), "{first:?} {second:?}");
        let namespace = create().unwrap();
        let here = || NamespaceId::current().unwrap();
        let (then, now) = (run_in(&namespace, here).unwrap(), run_in(&namespace, here).unwrap());
        assert!(!then.differs(&now));
        assert!(then.differs(&here()));
    }

    /// What a kernel before 5.14 is asked for.
    #[test]
    fn lo_tells_one_from_another_as_well() {
        let [first, second] = two(lo_node);
        assert_ne!(first, second);
        let namespace = create().unwrap();
        let node = || lo_node().unwrap();
        assert_eq!(run_in(&namespace, node).unwrap(), run_in(&namespace, node).unwrap());
        assert_eq!(node(), fs::metadata("/sys/class/net/lo").unwrap().ino());
    }

    #[test]
    fn what_is_not_known_of_both_is_no_difference() {
        let id = |cookie, lo| NamespaceId { device: 4, inode: 7, cookie, lo };
        assert!(!id(Some(1), None).differs(&id(None, Some(2))));
        assert!(!id(None, None).differs(&id(Some(1), Some(2))));
        assert!(id(Some(1), None).differs(&id(Some(2), None)));
        assert!(id(None, Some(1)).differs(&id(None, Some(2))));
        assert!(id(None, None).differs(&NamespaceId { inode: 8, ..id(None, None) }));
    }
}
