//! A person who waits beside a command: hears what is waited for, and may say something to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::HostName;
use crate::protocol::Request;

/// What hosts are busy with while they are awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Logging in and starting the agent.
    Connecting,
    /// Reading the host.
    Looking,
    /// Changing the host.
    Acting,
    /// Trying the network: ARP, requests.
    Trying,
}

impl Phase {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Observe { .. } => Self::Looking,
            Request::Prepare(_)
            | Request::Resume { .. }
            | Request::Execute { .. }
            | Request::Vote { .. }
            | Request::Close { .. } => Self::Acting,
            Request::WhoHas { .. } | Request::Fetch { .. } => Self::Trying,
        }
    }
}

/// Hears who is awaited, for a person who waits too.
pub trait Watch: Sync {
    /// These hosts have not answered yet; called again whenever one has, at last with none.
    fn awaited(&self, phase: Phase, hosts: &BTreeSet<HostName>);

    /// What is waited for now, that is no answer of a host: somebody else's work, the operator's word.
    /// Called again whenever that changes (a countdown does each second); `None`: no longer.
    fn pending(&self, _what: Option<&str>) {}

    /// Something that a person should know now and not only at the end. Said once.
    fn tell(&self, _text: &str) {}

    /// On which hosts a transaction is under way now, and until when each waits before it undoes it by
    /// itself; none at the end.
    fn under_way(&self, _hosts: &BTreeMap<HostName, Option<tokio::time::Instant>>) {}

    /// Whether the person wants it stopped: the request that is under way is finished, then everything
    /// is undone.
    fn wants_to_stop(&self) -> bool {
        false
    }

    /// What the person says to a transaction that waits to be confirmed; `None`: nothing yet.
    fn says(&self) -> Option<Word> {
        None
    }
}

/// The operator's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Keep it.
    Yes,
    /// Undo it now.
    No,
}

/// Nobody waits.
pub(super) struct Unwatched;

impl Watch for Unwatched {
    fn awaited(&self, _: Phase, _: &BTreeSet<HostName>) {}
}
