//! What a controller and the agent on a host say to each other.
//!
//! Plain types; framing and transport are in [`crate::transport`]. The agent says a [`Hello`] first,
//! then answers each [`Request`] with one [`Reply`]. Looking is one request, acting is one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::plan::Step;
use crate::state::{DestinationKey, HostState, Module, Owned, ServiceKey, Sysctl};
use crate::topology::{IfName, Protocol, TopologyName};

/// Counts up whenever a message changes its meaning. The agent is pushed by digest, so both sides
/// are the same build in practice; this is the safety net.
pub const VERSION: u32 = 1;

/// The first message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// Effective user id: 0 or nothing works.
    pub uid: u32,
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
    /// Change the host: write `receipt` (if any), do `steps` in order and stop at the first that
    /// fails, then write `settled` or (if it is `None`) remove the receipt, then look again.
    Act {
        /// Whose receipt it is.
        topology: TopologyName,
        /// What to do, in this order.
        steps: Vec<Step>,
        /// What the receipt must say before the first step.
        receipt: Option<Receipt>,
        /// What the receipt must say after the last one.
        settled: Option<Receipt>,
        /// As in `Look`.
        sysctls: BTreeSet<Sysctl>,
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

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Look`.
    Seen(Box<Sighting>),
    /// To `Act`.
    Done(Box<Outcome>),
    /// To `WhoHas`: each distinct hardware address that answered, in text (`aa:bb:cc:dd:ee:ff`).
    Answered(BTreeSet<String>),
    /// To `Fetch`.
    Fetched(Fetched),
    /// The request could not be carried out; nothing was changed.
    Refused(Failure),
}

/// What a host looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// What the host is.
    pub facts: HostFacts,
    /// Its state: all links, addresses, routes and services; the sysctls that were asked for or are
    /// in the receipt.
    pub state: HostState,
    /// What this topology owns here, if it was ever applied.
    pub receipt: Option<Receipt>,
    /// What other topologies own here, by their receipts.
    pub others: BTreeMap<TopologyName, Owned>,
    /// Connection counters, if asked for.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// What a host is, beyond what can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// Hardware address of each interface that has one.
    pub hardware: BTreeMap<IfName, String>,
    /// Whether the kernel has, or could load, each module.
    pub modules: BTreeMap<Module, Capability>,
    /// Schedulers (`rr`) and persistence engines (`pe_sip`) that the kernel has or could load; `None`
    /// where its modules are not listed.
    #[serde(default)]
    pub parts: Option<BTreeSet<String>>,
    /// nftables tables that are not ours, by family and name: `ip filter`.
    pub foreign_tables: BTreeSet<String>,
    /// From where the controller is logged in, where the host knows it (ssh).
    pub controller: Option<IpAddr>,
}

impl HostFacts {
    /// Whether the kernel has, or could load, `module`.
    pub fn capability(&self, module: Module) -> &Capability {
        self.modules.get(&module).unwrap_or(&Capability::Unknown)
    }
}

/// Whether a kernel can do something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// It is loaded or built in.
    Present,
    /// The module lies on disk and can be loaded.
    Loadable,
    /// It is not there; the text says where it was looked for.
    Missing(String),
    /// Not looked at.
    #[default]
    Unknown,
}

/// Connections of a destination as IPVS counts them now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Established.
    pub active: u32,
    /// In another state.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// All since the counters were zeroed.
    pub total: u64,
}

/// What this topology owns on a host, and what was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format of this file: 1.
    pub version: u32,
    /// The topology's name.
    pub topology: TopologyName,
    /// When it was first applied, in seconds since 1970 by the controller's clock.
    pub since: u64,
    /// What is ours.
    pub owned: Owned,
    /// How that was before; what is owned and not in here was absent.
    pub found: HostState,
}

/// How acting went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How many steps were done, from the first.
    pub done: usize,
    /// Why the next one was not.
    pub failure: Option<Failure>,
    /// The host after it.
    pub after: Sighting,
}

/// An error with what caused it, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// What caused it, one level a line.
    pub causes: Vec<String>,
    /// What to do about it, where that is known.
    pub cure: Option<String>,
}

/// What came of `Fetch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// How many were answered, by the first line of the answer (the lab's responders say who they
    /// are); the empty text where a server said nothing.
    pub answers: BTreeMap<String, u32>,
    /// How many were not answered, by the reason.
    pub failures: BTreeMap<String, u32>,
}

impl Failure {
    /// From an error and its sources.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self { message: error.to_string(), causes, cure: None }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}
