//! What an agent reads of its host: its state, lvsprov's files, and what the kernel can do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::firewall::{self, Firewall};
use super::journal::{Intent, Journal, Operator, TransactionId};
use super::{
    DaemonProgram, DestinationKey, DriftRecord, HostRun, HostState, LinkManager, Module, Owned,
    Receipt, Routing, ServiceKey,
};
use crate::failure::Failure;
use crate::names::{IfName, TopologyName};

/// A transaction of this topology that is not closed, as its journal on the host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// What it was to do, and how the host was before.
    pub journal: Journal,
    /// The receipt before it.
    pub receipt_before: Option<Receipt>,
    /// Whether this host has voted to commit (or is committing): then it never undoes it by itself.
    pub voted: bool,
    /// The connection that holds it, if that is alive.
    pub holder: Option<Holder>,
    /// The revert timer, if it is alive: milliseconds until the host undoes everything by itself.
    pub reverts_in_ms: Option<u64>,
    /// Whether the host was restarted since it was prepared: what is not on its disk is gone, and an abort
    /// puts back nothing but the receipt.
    pub restarted: bool,
    /// What the revert timer did or could not do, for the operator. It is written from the timer's start
    /// on: a reason why the timer may not outlive the connection is known before it has anything to undo.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A transaction that a host undid by itself, as it was not confirmed in time or before a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverted {
    /// The transaction.
    pub transaction: TransactionId,
    /// What it was to do.
    pub intent: Intent,
    /// The operator who prepared it, as that controller reported.
    pub by: Operator,
    /// When it was undone, in seconds since 1970 by the host's clock.
    pub at: u64,
    /// Whether the host was restarted before it was confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarted: bool,
}

/// A connection that holds a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The operator, as the controller reported.
    pub by: Operator,
    /// The address that the operator is logged in from, where the host knows it (ssh).
    pub from: Option<IpAddr>,
    /// The agent's process id on the host.
    pub pid: u32,
    /// For how long it holds the transaction, in seconds.
    pub for_s: u64,
    /// Seconds since the last message of its controller.
    pub idle_s: u64,
    /// After so many seconds without a message it ends.
    pub idle_limit_s: u32,
}

/// An open transaction of another topology on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherTransaction {
    /// The transaction.
    pub transaction: TransactionId,
    /// The operator who prepared it.
    pub by: Operator,
    /// When, in seconds since 1970 by that controller's clock.
    pub since: u64,
    /// What an abort of it may still put back.
    pub touched: Owned,
}

/// The unit that makes the settled state again as the host boots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootUnit {
    /// It is installed, of this version.
    Installed,
    /// It is not, or is of another version.
    Missing,
    /// It is, and these files of lvsprov that belong to it are not there, or are changed.
    Incomplete(Vec<String>),
    /// It cannot be on this host; why.
    Impossible(String),
    /// Not examined.
    #[default]
    Unknown,
}

impl BootUnit {
    /// Whether an apply has something to install.
    pub fn is_lacking(&self) -> bool {
        matches!(self, Self::Missing | Self::Incomplete(_))
    }

    /// Whether the host starts it at boot.
    pub fn is_enabled(&self) -> bool {
        matches!(self, Self::Installed | Self::Incomplete(_))
    }

    /// Whether this host may have one.
    pub fn is_possible(&self) -> bool {
        !matches!(self, Self::Impossible(_) | Self::Unknown)
    }
}

/// One reading of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The host's kernel and hardware.
    pub facts: HostFacts,
    /// Its state: all links, addresses, routes and services; the sysctls that were asked for or are
    /// in the receipt.
    pub state: HostState,
    /// What this topology owns here, if it was ever applied.
    pub receipt: Option<Receipt>,
    /// The present run of the host; `None` if it cannot be read.
    #[serde(default)]
    pub run: Option<HostRun>,
    /// The unit that makes the settled state again.
    #[serde(default)]
    pub boot_unit: BootUnit,
    /// The programs that manage its interfaces; read only where it may have a boot unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub managers: BTreeMap<IfName, LinkManager>,
    /// The receipts of other topologies here.
    pub others: BTreeMap<TopologyName, Receipt>,
    /// Other topologies whose receipt or journal cannot be read, and why: what they own here is unknown.
    #[serde(default)]
    pub unreadable: BTreeMap<TopologyName, Failure>,
    /// Entries of the state folder that belong to no topology and are skipped: names and reasons.
    #[serde(default)]
    pub strays: Vec<String>,
    /// The open transaction of this topology, if there is one.
    #[serde(default)]
    pub open_transaction: Option<Box<OpenTransaction>>,
    /// The transaction that the host undid by itself, if none of this topology was prepared here since.
    #[serde(default)]
    pub reverted: Option<Reverted>,
    /// What the host's own looks for drift found, where it looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftRecord>,
    /// Open transactions of other topologies.
    #[serde(default)]
    pub open_elsewhere: BTreeMap<TopologyName, OtherTransaction>,
    /// Connection counters, if asked for.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// The host's kernel and hardware: facts that no step changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// Hardware address of each interface that has one.
    pub hardware: BTreeMap<IfName, String>,
    /// MTU of each interface, in bytes.
    #[serde(default)]
    pub mtus: BTreeMap<IfName, u32>,
    /// Interfaces that merge segments as they receive them (LRO); read only while a kind of forwarding is off.
    #[serde(default)]
    pub lro: BTreeSet<IfName>,
    /// Whether the kernel has, or could load, each module.
    pub modules: BTreeMap<Module, Capability>,
    /// Schedulers (`rr`) and persistence engines (`pe_sip`) that the kernel has or could load; `None`
    /// where its modules are not listed.
    #[serde(default)]
    pub parts: Option<BTreeSet<String>>,
    /// nftables tables that are not ours, by family and name: `ip filter`.
    pub foreign_tables: BTreeSet<String>,
    /// Rules of theirs that drop packets which pass through and belong to no known connection.
    #[serde(default)]
    pub stateful_drops: Vec<StatefulDrop>,
    /// Those of them that routed packets pass.
    #[serde(
        default,
        with = "firewall::shared",
        skip_serializing_if = "firewall::shared::is_empty"
    )]
    pub firewall: Arc<Firewall>,
    /// Policy rules, and routes beside the plain ones of the main table.
    #[serde(default)]
    pub routing: Routing,
    /// Programs that lvsprov could start and that are not installed, each with the command that installs packages there;
    /// `None`: not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lacking: BTreeMap<DaemonProgram, Option<String>>,
    /// Health checkers that the operator runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_checkers: Vec<HealthChecker>,
    /// The way that this connection's controller reaches the host.
    pub controller: Controller,
}

/// A health checker that the operator runs on a host, beside any that lvsprov started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthChecker {
    /// The program.
    pub program: DaemonProgram,
    /// Its configuration: an absolute path.
    pub file: String,
    /// The addresses of its virtual servers.
    pub addresses: BTreeSet<IpAddr>,
}

/// A rule of another program that drops packets which pass through and which connection tracking calls invalid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatefulDrop {
    /// Family, table and chain, fit for a terminal: `inet filter forward`.
    pub chain: String,
    /// Whether it drops all of them: neither the rule nor the way to its chain asks for anything else.
    pub always: bool,
}

/// The way that a controller reaches a host, as far as the host knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// Over ssh from this address; a link-local one is without its zone.
    Address(IpAddr),
    /// From the same machine, by a pipe into a network namespace of its own: no route leads between them.
    Pipe,
    /// Unknown: the environment lacks SSH_CONNECTION, as where `sudo` removed it.
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
    /// The kernel lacks it; the text says where it was looked for.
    Missing(String),
    /// Not examined.
    #[default]
    Unknown,
}

/// Connections and traffic of a destination as IPVS counts them. Those of the past begin when it was added or its counters
/// were zeroed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Established.
    pub active: u32,
    /// In another state.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// All connections of the past and now.
    pub total: u64,
    /// Packets from clients.
    #[serde(default)]
    pub packets_in: u64,
    /// Packets to clients: only those that pass the director, so none under direct routing and tunnels.
    #[serde(default)]
    pub packets_out: u64,
    /// Bytes from clients, IP headers included.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes to clients, as `packets_out`.
    #[serde(default)]
    pub bytes_out: u64,
}
