//! What a controller and the agent on a host say to each other.
//!
//! Plain types; framing and transport are in [`crate::transport`]. The agent says a [`Hello`] first,
//! then answers each [`Request`] with one [`Reply`]. Looking is one request; changing a host is a
//! transaction of several, from [`Request::Begin`] or [`Request::TakeUp`] to [`Request::Settle`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::names::{IfName, TopologyName};
use crate::state::{
    Expected, Holder, Journal, Observation, Operator, Protocol, Receipt, Step, Sysctl,
    TransactionId,
};

/// Where an agent keeps receipts and journals unless it is started with another folder.
pub const STATE_DIR: &str = "/var/lib/lvsprov";

/// Counts up whenever a message changes its meaning. The agent is pushed by digest, so both sides
/// are the same build in practice; this is the safety net.
pub const VERSION: u32 = 3;

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
    Look {
        /// Whose receipt to read.
        topology: TopologyName,
        /// Which values under /proc/sys to read besides those in the receipt; one that does not
        /// exist is left out of the answer.
        sysctls: BTreeSet<Sysctl>,
        /// Also read the connection counters of IPVS.
        counters: bool,
    },
    /// Begin a transaction: see that nobody else is at work and that the host is still as the plan saw
    /// it, write the journal and the receipt, and arm the revert timer. Changes nothing else.
    Begin(Box<Begin>),
    /// Work at a transaction that another controller, or another connection, began: to undo it, to agree
    /// to it, or to settle it.
    TakeUp {
        /// Whose.
        topology: TopologyName,
        /// Which.
        transaction: TransactionId,
        /// Who does so.
        by: Operator,
        /// As in [`Begin`].
        idle_limit_s: u32,
        /// Do so even if the connection that worked at it last seems to be alive.
        force: bool,
    },
    /// Do `steps` in order, stop at the first that fails, look again. Only within a transaction that this
    /// connection has begun or taken up.
    Do {
        /// Whose.
        topology: TopologyName,
        /// Which transaction.
        transaction: TransactionId,
        /// What to do, in this order.
        steps: Vec<Step>,
        /// As in `Look`.
        sysctls: BTreeSet<Sysctl>,
    },
    /// All hosts are as wanted: disarm the timer, and never undo by yourself from here on.
    Agree {
        /// Whose.
        topology: TopologyName,
        /// Which transaction.
        transaction: TransactionId,
    },
    /// Close a transaction: bring the receipt to what `ending` says and remove the journal.
    Settle {
        /// Whose.
        topology: TopologyName,
        /// Which transaction.
        transaction: TransactionId,
        /// How it ended.
        ending: Ending,
    },
    /// Ask by ARP or neighbour discovery who has `target`, and name everybody who answers.
    WhoHas {
        /// Over which interface.
        dev: IfName,
        /// For which address.
        target: IpAddr,
        /// How long to listen, in milliseconds; 1-10000.
        wait_ms: u32,
    },
    /// Open connections (TCP) or send datagrams (UDP) from this host, one after the other.
    Fetch {
        /// Where to.
        target: SocketAddr,
        /// tcp or udp.
        protocol: Protocol,
        /// How many; 1-10000.
        count: u32,
        /// How long one may take, in milliseconds; 1-60000.
        timeout_ms: u32,
    },
}

/// What [`Request::Begin`] asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// What goes on the disk.
    pub journal: Journal,
    /// What the plan was made from; a host that differs answers [`Reply::Moved`].
    pub expected: Expected,
    /// The receipt that undoing puts back: the one on the host, or where an unfinished transaction is
    /// taken over, the one before that.
    pub receipt_before: Option<Receipt>,
    /// The receipt while the transaction is under way: all that may be changed is in it.
    pub receipt: Receipt,
    /// The receipt once it is settled; `None`: it goes away.
    pub settled: Option<Receipt>,
    /// When the host undoes everything by itself; `None`: never.
    pub revert: Option<RevertAfter>,
    /// How long this connection may say nothing before its agent takes the controller for lost and ends,
    /// in seconds; 1-86400. The journal stays.
    pub idle_limit_s: u32,
    /// As in `Look`.
    pub sysctls: BTreeSet<Sysctl>,
}

/// When a host undoes by itself what a transaction did, in milliseconds from when it is begun; 1000 to
/// 86,400,000. Both parts on a director, so that it withdraws before the other hosts change and goes
/// live again after them; on the others `build_ms` is for all steps.
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

/// How a transaction ends on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It was done: the receipt becomes the settled one.
    Done,
    /// It was undone: the receipt becomes the one before.
    Undone,
}

/// Why a host cannot be changed now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// Whose transaction.
    pub topology: TopologyName,
    /// Which; `None`: a request of it is being carried out this very moment.
    pub transaction: Option<TransactionId>,
    /// Who works at it, if the connection is alive.
    pub holder: Option<Holder>,
    /// Milliseconds until the host undoes it by itself, where it waits to be confirmed.
    pub reverts_in_ms: Option<u64>,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Look`.
    Seen(Box<Observation>),
    /// To `Do`.
    Done(Box<Outcome>),
    /// To `Begin` and `TakeUp`: it is this connection's to work at.
    Begun,
    /// To `Begin` and `TakeUp`: somebody else is at work. Nothing was changed.
    Busy(Box<Busy>),
    /// To `Begin`: the host is no longer as the plan saw it, by these differences. Nothing was changed.
    Moved(Vec<String>),
    /// To `Agree`.
    Agreed,
    /// To `Settle`.
    Settled,
    /// To `WhoHas`: each distinct hardware address that answered, in text (`aa:bb:cc:dd:ee:ff`).
    Answered(BTreeSet<String>),
    /// To `Fetch`.
    Fetched(Fetched),
    /// The request could not be carried out, and no step was done. The transaction may have come further
    /// on the disk: a journal that could not be flushed, or not be taken back, is there; an `Agree` or a
    /// `Settle` that failed behind its mark goes on from there when it is asked for again.
    Refused(Failure),
}

/// How acting went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How many steps were done, from the first.
    pub done: usize,
    /// Why the next one was not.
    pub failure: Option<Failure>,
    /// The host after it.
    pub after: Observation,
}

/// What came of `Fetch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// How many were answered, by the first line of the answer (the lab's responders say who they
    /// are); the empty text where a server said nothing.
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
    /// Nobody answers ARP for the next hop, or ICMP says that a host or network is not reached.
    pub const UNREACHABLE: &str = "host unreachable";
}
