//! What the file promises about the death of a part of the cluster. `lvsprov lab chaos` proves or refutes it; nothing on
//! a host follows from it.

use std::collections::BTreeMap;

/// A kind of part that a promise is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PromisedPart {
    /// A host with the role director.
    Director,
    /// A host with the role real server.
    RealServer,
    /// A host with the role router.
    Router,
    /// An application on a real server.
    Process,
    /// A daemon that takes part in forwarding, such as a sync daemon.
    Daemon,
    /// The link of an interface of any host but a client.
    Link,
    /// Two parts at once.
    Pair,
}

impl PromisedPart {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Director,
        Self::RealServer,
        Self::Router,
        Self::Process,
        Self::Daemon,
        Self::Link,
        Self::Pair,
    ];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Director => "director",
            Self::RealServer => "real_server",
            Self::Router => "router",
            Self::Process => "process",
            Self::Daemon => "daemon",
            Self::Link => "link",
            Self::Pair => "pair",
        }
    }
}

/// The key `promise`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promise {
    /// Seconds after the death of such a part from which on every request is answered; 1 to [`Promise::LONGEST`].
    pub answered_within_s: BTreeMap<PromisedPart, u32>,
    /// Whether open connections survive, except those that end in the dead part.
    pub keeps_connections: bool,
}

impl Promise {
    /// The longest promise, in seconds.
    pub const LONGEST: u32 = 3600;
}
