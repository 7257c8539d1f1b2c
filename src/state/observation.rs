//! What an agent sees of its host: its state, what lvsprov keeps there, and what the kernel can do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::journal::{Intent, Journal, Operator, TransactionId};
use super::{DestinationKey, HostState, Module, Owned, Receipt, ServiceKey};
use crate::failure::Failure;
use crate::names::{IfName, TopologyName};

/// A transaction that is not settled, as it lies on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// What it was to do, and what was there before.
    pub journal: Journal,
    /// The receipt before it.
    pub receipt_before: Option<Receipt>,
    /// Whether all hosts are known to be right: then it is settled, not undone.
    pub agreed: bool,
    /// The connection that works at it, if that is alive.
    pub holder: Option<Holder>,
    /// The revert timer, if it is alive: milliseconds until the host undoes everything by itself.
    pub reverts_in_ms: Option<u64>,
    /// Whether the host was restarted since it began: what is not on its disk is gone, and undoing puts
    /// back nothing but the receipt.
    pub restarted: bool,
    /// What the revert timer did or could not do, for a person: from its start, so what may keep it from
    /// outliving the connection is told before it has anything to undo.
    #[serde(default)]
    pub told: Vec<String>,
}

/// A transaction that a host undid by itself, as nobody had confirmed it in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverted {
    /// Which.
    pub transaction: TransactionId,
    /// Which way it was to go.
    pub intent: Intent,
    /// Who began it, by the word of that controller.
    pub by: Operator,
    /// When it was undone, in seconds since 1970 by the host's clock.
    pub at: u64,
}

/// A connection that works at a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who, by the controller's word.
    pub by: Operator,
    /// From where it is logged in, where the host knows it (ssh).
    pub from: Option<IpAddr>,
    /// The agent's process id on the host.
    pub pid: u32,
    /// For how long it has worked at it, in seconds.
    pub for_s: u64,
    /// For how long it has heard nothing from its controller, in seconds.
    pub idle_s: u64,
    /// At how many seconds of silence it ends.
    pub idle_limit_s: u32,
}

/// What another topology has unfinished on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedElsewhere {
    /// Which.
    pub transaction: TransactionId,
    /// Who began it.
    pub by: Operator,
    /// When, in seconds since 1970 by that controller's clock.
    pub since: u64,
    /// What may still be put back there.
    pub touched: Owned,
}

/// What a host looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// What the host is.
    pub facts: HostFacts,
    /// Its state: all links, addresses, routes and services; the sysctls that were asked for or are
    /// in the receipt.
    pub state: HostState,
    /// What this topology owns here, if it was ever applied.
    pub receipt: Option<Receipt>,
    /// The receipts of other topologies here.
    pub others: BTreeMap<TopologyName, Receipt>,
    /// Other topologies whose receipt or journal cannot be read, and why: what they own here is not known.
    #[serde(default)]
    pub unreadable: BTreeMap<TopologyName, Failure>,
    /// What lies in the state folder, is no topology's, and is passed over: names and reasons.
    #[serde(default)]
    pub strays: Vec<String>,
    /// The transaction of this topology that is not settled here, if there is one.
    #[serde(default)]
    pub unfinished: Option<Box<Unfinished>>,
    /// What the host undid by itself, if nothing of this topology was begun here since.
    #[serde(default)]
    pub reverted: Option<Reverted>,
    /// What other topologies have not settled here.
    #[serde(default)]
    pub unfinished_elsewhere: BTreeMap<TopologyName, UnfinishedElsewhere>,
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
    /// From where this connection's controller reaches the host.
    pub controller: Controller,
}

/// From where a controller reaches a host, as far as the host knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// Over ssh from this address; a link-local one is without its zone.
    Address(IpAddr),
    /// From the same machine, by a pipe into a network namespace of its own: no route leads between them.
    Pipe,
    /// Not known: nobody passed on what sshd says, as where `sudo` was between.
    #[default]
    Unknown,
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
