//! What can go wrong in the lab's network, and what to do about it.

use std::io;

use crate::names::HostName;

/// Why the lab, or a part of it, could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The kernel or the file system refused.
    #[error("the lab cannot {what}")]
    Io {
        /// What was attempted, as it goes on after "cannot".
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// rtnetlink refused.
    #[error("the lab cannot {what}")]
    Netlink {
        /// What was attempted, as it goes on after "cannot".
        what: String,
        /// The reason.
        source: rtnetlink::Error,
    },
    /// The caller is still in the machine's own network.
    #[error(
        "the lab would be built in this machine's own network; \
         it must call isolate() before it starts a thread"
    )]
    NotIsolated,
    /// Cables were plugged in, and no frame passes.
    #[error(
        "in the lab's network {interfaces} did not get ready to pass frames in time; is this machine \
         overloaded? try again"
    )]
    NotReady {
        /// The interfaces that are not, whether of a host or ports of the switch.
        interfaces: String,
    },
    /// An interface in no network is a dummy device, and there are none.
    #[error(
        "the lab cannot make {interface} of {host}: an interface in no network is a `dummy` device, which the \
         running kernel does not have (nor could it load the module); load it (modprobe dummy), put \
         {interface} into a network, or run the lab in its virtual machine (--in vm)"
    )]
    NoDummy {
        /// Whose it is.
        host: HostName,
        /// Its name.
        interface: String,
    },
    /// The topology cannot be built from namespaces.
    #[error("{0}")]
    Topology(String),
    /// A program that the lab needs is not installed.
    #[error(
        "the lab needs {program}, which is not installed (looked in {searched}); install the package {package} (Debian, Ubuntu: apt-get install {package})"
    )]
    Missing {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        searched: String,
        /// The package that has it, as Debian calls it.
        package: &'static str,
    },
    /// A program that the lab started failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// Which, with the host it ran for.
        program: String,
        /// Its exit status and last words.
        detail: String,
    },
    /// A template could not be rendered: a bug.
    #[error("template {0} cannot be rendered")]
    Template(&'static str, #[source] minijinja::Error),
}

impl LabError {
    /// For `map_err`: `io("open ...")`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`, from an errno.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |errno| Self::Io { what, source: errno.into() }
    }

    /// For `map_err`, from rtnetlink.
    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }
}
