//! The operator: who runs this controller, and the console that shows them progress and takes their word.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::SystemTime;

use tokio::time::Instant;

use crate::names::HostName;
use crate::protocol::Request;
use crate::state::{Operator, TransactionId};
use crate::visible::visible;

/// Who runs this process. The user's name comes from the environment (before sudo, if any): it is shown to
/// people and decides nothing. Other operators see it on their terminals, so it is made visible here.
pub fn here() -> Operator {
    let named = ["SUDO_USER", "LOGNAME", "USER"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = named.map_or_else(|| format!("uid {}", nix::unistd::getuid()), |named| name(&named));
    let host = nix::sys::utsname::uname()
        .map_or_else(|_| "?".to_owned(), |host| name(&host.nodename().to_string_lossy()));
    Operator { user, host, pid: std::process::id() }
}

/// A name as it is shown: at most 64 characters, which is more than any user or host has.
fn name(text: &str) -> String {
    visible(text).chars().take(64).collect()
}

/// A unique name for a transaction: 64 random bits, with which the operating system keys each hasher.
pub fn new_transaction() -> TransactionId {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    TransactionId::from_bits(hasher.finish())
}

/// Seconds since 1970; 0 with a clock before that.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// What awaited hosts are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Logging in and starting the agent.
    Connecting,
    /// Reading the host.
    Observing,
    /// Changing the host.
    Changing,
    /// Trying the network: ARP, requests.
    Verifying,
}

impl Activity {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Observe { .. } => Self::Observing,
            Request::Prepare(_)
            | Request::Resume { .. }
            | Request::Execute { .. }
            | Request::Vote { .. }
            | Request::Close { .. }
            | Request::Reboot => Self::Changing,
            Request::WhoHas { .. }
            | Request::FindHolders { .. }
            | Request::Examine { .. }
            | Request::WatchDrops { .. }
            | Request::Fetch { .. } => Self::Verifying,
        }
    }
}

/// Shows the operator progress, and takes what they say meanwhile.
pub trait OperatorConsole: Sync {
    /// These hosts have not answered yet. Called again whenever one answers; the last call has none.
    fn show_awaited(&self, activity: Activity, hosts: &BTreeSet<HostName>);

    /// A wait for something else than a host's answer: another controller, the operator's word, a drain. Called
    /// again whenever the text changes (a countdown changes each second); `None`: the wait is over.
    fn show_wait(&self, _what: Option<&str>) {}

    /// Shows a message at once and not only in the report.
    fn notify(&self, _text: &str) {}

    /// The hosts with an open journal now, and when each reverts by itself; empty at the end.
    fn set_open_hosts(&self, _hosts: &BTreeMap<HostName, Option<Instant>>) {}

    /// Whether the operator wants to stop: the running request ends, then every host rolls back.
    fn stop_requested(&self) -> bool {
        false
    }

    /// The operator's word on a transaction that waits for confirmation; `None`: none yet.
    fn answer(&self) -> Option<OperatorAnswer> {
        None
    }
}

/// The operator's word on a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorAnswer {
    /// Commit it.
    Yes,
    /// Abort it now.
    No,
}

/// A session without an operator.
pub(super) struct NoConsole;

impl OperatorConsole for NoConsole {
    fn show_awaited(&self, _: Activity, _: &BTreeSet<HostName>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_and_obeyed_by_no_terminal() {
        assert_eq!(name("alice"), "alice");
        let evil = "x\u{1b}]52;c;aGk=\u{7}\r\u{202e}";
        assert_eq!(name(evil), "x\\x1b]52;c;aGk=\\x07\\r\\u{202e}");
        assert_eq!(name(&"ü".repeat(100_000)), "ü".repeat(64));
    }
}
