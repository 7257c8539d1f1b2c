//! One run of a host: what the kernel holds is gone in the next one.

use serde::{Deserialize, Serialize};

/// One run of a host, or of the container or network namespace that is the host here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRun {
    /// Names the time since the kernel was started.
    pub boot: String,
    /// When the first process was started, in clock ticks since the kernel was: tells two runs of a
    /// container apart. `None` if it cannot be read.
    pub init: Option<u64>,
    /// The network namespace; one that was deleted and made again is as empty as after a restart. `None`
    /// if it cannot be read.
    pub namespace: Option<NamespaceId>,
}

impl HostRun {
    /// Whether this is surely another run than `other`: by what is known of both.
    pub fn differs(&self, other: &Self) -> bool {
        let init = self.init.zip(other.init).is_some_and(|(a, b)| a != b);
        self.namespace_differs(other) == Some(true) || init || self.boot != other.boot
    }

    /// Whether all that lvsprov set in `earlier` is gone by now. Modules live as long as the kernel, everything
    /// else as long as the network namespace: a first process that was started anew in the same namespace (the
    /// containers of one pod) loses nothing.
    pub fn lost_state_of(&self, earlier: &Self) -> bool {
        if self.boot != earlier.boot {
            return true;
        }
        self.namespace_differs(earlier).unwrap_or_else(|| self.differs(earlier))
    }

    /// `None`: it is not known of both.
    fn namespace_differs(&self, other: &Self) -> Option<bool> {
        let both = self.namespace.as_ref().zip(other.namespace.as_ref());
        both.map(|(a, b)| a.differs(b))
    }
}

/// Identifies a network namespace among all of one boot, deleted ones included. The inode alone does not: a
/// new namespace gets the number of a deleted one (`ida_alloc` takes the lowest free number).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceId {
    /// The file system of the inode.
    pub device: u64,
    /// Its number there: unique among the namespaces that exist (namespaces(7)).
    pub inode: u64,
    /// Its cookie (`SO_NETNS_COOKIE`); `None` before Linux 5.14.
    pub cookie: Option<u64>,
    /// The inode number of its `lo` in sysfs. Read only without a cookie; `None` where sysfs cannot be mounted.
    pub lo: Option<u64>,
}

impl NamespaceId {
    /// Whether it certainly is another namespace than `other`: only fields that both have are compared.
    pub fn differs(&self, other: &Self) -> bool {
        let differ = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a != b);
        (self.device, self.inode) != (other.device, other.inode)
            || differ(self.cookie, other.cookie)
            || differ(self.lo, other.lo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(boot: &str, init: Option<u64>, cookie: Option<u64>) -> HostRun {
        let id = |cookie| NamespaceId { device: 4, inode: 7, cookie: Some(cookie), lo: None };
        HostRun { boot: boot.to_owned(), init, namespace: cookie.map(id) }
    }

    #[test]
    fn state_is_lost_with_the_kernel_or_the_namespace_not_with_a_container() {
        let then = run("a", Some(1), Some(1));
        assert!(run("b", Some(1), Some(1)).lost_state_of(&then));
        assert!(run("a", Some(1), Some(2)).lost_state_of(&then));
        assert!(!run("a", Some(2), Some(1)).lost_state_of(&then), "the namespace is the same");
        assert!(run("a", Some(2), Some(1)).differs(&then), "but the container is another");
        // Where the namespace is not known, the first process decides.
        assert!(run("a", Some(2), None).lost_state_of(&run("a", Some(1), None)));
        assert!(run("a", Some(2), None).lost_state_of(&then));
        assert!(!run("a", None, None).lost_state_of(&then));
    }
}
