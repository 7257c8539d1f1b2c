//! The messages between a controller and the agent on a host.
//!
//! Plain types; framing and transport are in [`crate::transport`]. The agent sends a [`Hello`] first,
//! then answers each [`Request`] with one [`Reply`]. Observing is one request. Changing a host takes a
//! transaction of several: it is prepared ([`Request::Prepare`]), its steps are executed stage by stage
//! ([`Request::Execute`]), the host votes ([`Request::Vote`]), and one decision for all hosts closes it
//! ([`Request::Close`]). [`Request::Resume`] continues one that another connection prepared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::names::{IfName, TopologyName};
use crate::state::examination::{Examination, ObservedDrop, RouteQuestion};
use crate::state::{
    AddressKey, Expected, Holder, Journal, Observation, Operator, Protocol, Receipt, Settled, Step,
    Sysctl, TransactionId,
};

/// Where an agent keeps receipts and journals unless it is started with another folder.
pub const STATE_DIR: &str = "/var/lib/lvsprov";

/// Counts up whenever a message changes its meaning. The agent is pushed by digest, so both sides
/// are the same build in practice; this is the safety net.
pub const VERSION: u32 = 6;

/// The first message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// Effective user id: 0 or nothing works.
    pub uid: u32,
    /// `uname -m`; empty where the host does not know.
    #[serde(default)]
    pub machine: String,
}

/// What a controller asks.
#[allow(clippy::large_enum_variant, reason = "one is alive at a time, and it goes over a pipe")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Read the host. Changes nothing, loads no module.
    Observe {
        /// The topology whose receipt and transaction are read.
        topology: TopologyName,
        /// Values under /proc/sys to read besides those in the receipt. One that does not exist is left
        /// out of the answer.
        sysctls: BTreeSet<Sysctl>,
        /// Also read the connection counters of IPVS.
        counters: bool,
    },
    /// Prepare a transaction: check that no other transaction is in the way and that the host is still as
    /// the plan expects it, write the journal and the receipt, and arm the revert timer. Changes nothing
    /// else.
    Prepare(Box<Prepare>),
    /// Continue a transaction that another connection prepared: to roll it back, to vote, or to close it.
    Resume {
        /// The topology of the transaction.
        topology: TopologyName,
        /// The transaction.
        transaction: TransactionId,
        /// The operator who resumes it.
        by: Operator,
        /// As in [`Prepare`].
        idle_limit_s: u32,
        /// Resume it even if the connection that holds it seems to be alive.
        force: bool,
    },
    /// Execute `steps` in order, stop at the first that fails, observe the host again. Only within a
    /// transaction that this connection prepared or resumed.
    Execute {
        /// The topology of the transaction.
        topology: TopologyName,
        /// The transaction.
        transaction: TransactionId,
        /// The steps, in their order.
        steps: Vec<Step>,
        /// As in `Observe`.
        sysctls: BTreeSet<Sysctl>,
    },
    /// Vote to commit: the host is as wanted. Ends the revert timer; from here on the host never undoes
    /// the transaction by itself.
    Vote {
        /// The topology of the transaction.
        topology: TopologyName,
        /// The transaction.
        transaction: TransactionId,
    },
    /// Close a transaction: bring the receipt to what `decision` says and remove the journal.
    Close {
        /// The topology of the transaction.
        topology: TopologyName,
        /// The transaction.
        transaction: TransactionId,
        /// The decision, the same on all hosts.
        decision: Decision,
    },
    /// Ask by ARP or neighbour discovery who has `target`, and name every host that answers.
    WhoHas {
        /// Over which interface.
        dev: IfName,
        /// For which address.
        target: IpAddr,
        /// How long to listen, in milliseconds; 1-10000.
        wait_ms: u32,
    },
    /// Ask on the interface of each address, by ARP probe or neighbour solicitation, who has it. For addresses that
    /// this host does not have.
    FindHolders {
        /// Addresses, each with its interface.
        addresses: BTreeSet<AddressKey>,
        /// How long to listen, in milliseconds; 1-10000.
        wait_ms: u32,
    },
    /// Ask the kernel what it would do with packets, and read its counters of drops. Sends nothing.
    Examine {
        /// The packets; at most 10000.
        routes: Vec<RouteQuestion>,
    },
    /// Watch for packets between any two of `addresses` that this host's kernel drops. Loads the module of the drop monitor.
    WatchDrops {
        /// Addresses of IP.
        addresses: BTreeSet<IpAddr>,
        /// How long, in milliseconds; 1-60000.
        wait_ms: u32,
    },
    /// Open connections (TCP) or send datagrams (UDP) from this host, one after the other.
    Fetch {
        /// The server's address and port.
        target: SocketAddr,
        /// tcp or udp.
        protocol: Protocol,
        /// How many; 1-10000.
        count: u32,
        /// How long one may take, in milliseconds; 1-60000.
        timeout_ms: u32,
    },
    /// Reboot this host, by its own service manager. The answer may be lost with the connection: a host that came back has
    /// another [`crate::state::HostRun`].
    Reboot,
}

/// What [`Request::Prepare`] asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The journal that is written.
    pub journal: Journal,
    /// What the plan was made from. A host that differs answers [`Reply::Changed`].
    pub expected: Expected,
    /// The receipt that an abort puts back: the one on the host, or, where an open transaction is taken
    /// over, the one before that.
    pub receipt_before: Option<Receipt>,
    /// The receipt while the transaction is open: it names all that may be changed.
    pub receipt: Receipt,
    /// The receipt after the commit; `None`: it is removed.
    pub receipt_after: Option<Receipt>,
    /// The state that the host makes again after a restart, from the commit on; `None`: that of now stays, if
    /// `receipt_after` names one.
    pub settled: Option<Settled>,
    /// When the host undoes the transaction by itself; `None`: never.
    pub revert: Option<RevertAfter>,
    /// Seconds without a message after which the agent takes the controller for lost and ends; 1-86400.
    /// The journal stays.
    pub idle_limit_s: u32,
    /// As in `Observe`.
    pub sysctls: BTreeSet<Sysctl>,
}

/// When a host undoes a transaction by itself, in milliseconds after it is prepared; 1000 to 86,400,000.
/// A director has both parts, so that it withdraws before the other hosts change and goes live again
/// after them; on the other hosts `build_ms` is for all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevertAfter {
    /// Steps that withdraw; `None`: together with the others.
    pub withdraw_ms: Option<u32>,
    /// All others.
    pub build_ms: u32,
}

impl RevertAfter {
    /// The same moments for a host that is asked so much later.
    pub fn sooner_by(&mut self, time: std::time::Duration) {
        let Self { withdraw_ms, build_ms } = self;
        let gone = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        for ms in withdraw_ms.iter_mut().chain([build_ms]) {
            *ms = ms.saturating_sub(gone).max(1000);
        }
    }
}

/// How a transaction ends, on all its hosts alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Its changes stay: the receipt becomes the one after the commit.
    Commit,
    /// Its changes were undone: the receipt becomes the one before.
    Abort,
}

/// Why a host cannot be changed now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// The topology whose transaction is in the way.
    pub topology: TopologyName,
    /// That transaction; `None`: another process executes a request of it at this moment.
    pub transaction: Option<TransactionId>,
    /// The connection that holds it, if that is alive.
    pub holder: Option<Holder>,
    /// Milliseconds until the host undoes it by itself, where it waits to be confirmed.
    pub reverts_in_ms: Option<u64>,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Observe`.
    Observed(Box<Observation>),
    /// To `Execute`.
    Executed(Box<Execution>),
    /// To `Prepare` and `Resume`: this connection holds the transaction.
    Prepared,
    /// To `Prepare` and `Resume`: another transaction or connection is in the way. Nothing was changed.
    Busy(Box<Busy>),
    /// To `Prepare`: the host is no longer as the plan expects it, by these differences. Nothing was
    /// changed.
    Changed(Vec<String>),
    /// To `Vote`.
    Voted,
    /// To `Close`.
    Closed,
    /// To `WhoHas`: each distinct hardware address that answered, in text (`aa:bb:cc:dd:ee:ff`).
    Answered(BTreeSet<String>),
    /// To `FindHolders`.
    Holders(SegmentAnswers),
    /// To `Examine`.
    Examined(Examination),
    /// To `WatchDrops`.
    Dropped(Vec<ObservedDrop>),
    /// To `Fetch`.
    Fetched(Fetched),
    /// To `Reboot`: the service manager has begun.
    Rebooting,
    /// The request failed, and no step was executed. The transaction may have come further on the disk: a
    /// journal that could not be flushed, or not be removed again, stays; a `Vote` or a `Close` that failed
    /// after its phase was written goes on from there when it is sent again.
    Refused(Failure),
}

/// How the steps of one request went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// How many steps were executed, from the first.
    pub done: usize,
    /// Why the next one failed.
    pub failure: Option<Failure>,
    /// The host afterwards.
    pub after: Observation,
    /// What else failed, while all steps before `failure` were executed: an announcement, for one.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The results of `FindHolders`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentAnswers {
    /// The hardware addresses that answered for each address, in text; none for one that no host answers for.
    pub answers: BTreeMap<AddressKey, BTreeSet<String>>,
    /// Interfaces on which the host could not ask, and why.
    pub failures: BTreeMap<IfName, Failure>,
}

/// The results of `Fetch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// How many were answered, by the first line of the answer (the lab's responders name themselves);
    /// the empty text where a server sent nothing.
    pub answers: BTreeMap<String, u32>,
    /// How many were not answered, by the reason: one of the constants below, or what the system says.
    pub failures: BTreeMap<String, u32>,
}

impl Fetched {
    /// No packet came back in time.
    pub const TIMED_OUT: &str = "timed out";
    /// The connection was made, and no word of an answer came in time.
    pub const SILENT: &str = "connected, then timed out";
    /// TCP: a reset in answer to the first packet. UDP: ICMP says that the port is closed.
    pub const REFUSED: &str = "refused";
    /// TCP: refused by ICMP, with the address that it came from behind it.
    pub const REJECTED_BY: &str = "rejected by";
    /// The connection was made, and reset.
    pub const RESET: &str = "reset";
    /// The sender has no route to the address.
    pub const NO_ROUTE: &str = "no route";
    /// No host answers ARP for the next hop, or ICMP says that a host or network is not reached.
    pub const UNREACHABLE: &str = "host unreachable";
}
