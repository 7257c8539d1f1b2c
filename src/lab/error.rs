//! Errors of the lab.

use std::io;

use crate::names::HostName;

/// Why the lab, or a part of it, cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The kernel or the file system refused.
    #[error("the lab cannot {what}")]
    Io {
        /// The attempted operation, as a phrase after "cannot".
        what: String,
        /// The error.
        source: io::Error,
    },
    /// rtnetlink refused.
    #[error("the lab cannot {what}")]
    Netlink {
        /// The attempted operation, as a phrase after "cannot".
        what: String,
        /// The error.
        source: rtnetlink::Error,
    },
    /// The caller is in the machine's own network namespace.
    #[error(
        "the process is in this machine's own network namespace; \
         it must call isolate() before it starts a thread"
    )]
    NotIsolated,
    /// Interfaces did not become operational in time.
    #[error(
        "these interfaces of the lab did not become operational in time: {interfaces}; this machine may be \
         overloaded: try again"
    )]
    NotReady {
        /// The interfaces, of hosts or of the switch.
        interfaces: String,
    },
    /// An interface without a network needs a dummy device, which the kernel lacks.
    #[error(
        "the lab cannot create {interface} of {host}: an interface without a network needs a `dummy` device, \
         which the running kernel lacks and cannot load; load it (modprobe dummy), connect {interface} to \
         a network, or run the lab in its virtual machine (--in vm)"
    )]
    NoDummy {
        /// Its host.
        host: HostName,
        /// Its name.
        interface: String,
    },
    /// The topology cannot be built from namespaces.
    #[error("{0}")]
    Topology(String),
    /// A program that the lab needs is not installed.
    #[error(
        "the lab needs {program}, which is not installed (searched in {searched}); install the package {package} (Debian, Ubuntu: apt-get install {package})"
    )]
    Missing {
        /// Its name.
        program: &'static str,
        /// The searched folders.
        searched: String,
        /// Debian's package.
        package: &'static str,
    },
    /// A program that the lab started failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// The program, with its host.
        program: String,
        /// Its exit status and last output.
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
