//! The one canonical description of a host: what is wanted and what is seen are both a [`HostState`].
//!
//! Canonical means that equal settings are equal values: the edge that reads a host strips what the
//! kernel adds (IPVS's HASHED flag, a label that only repeats the interface's name), sorts what it
//! dumps in hash order, and keeps of several routes to one destination the one that is used.
//! Every key has a text form, so that a state can be a JSON object.

pub mod accepted;
pub mod announcement;
pub mod control;
pub mod drift;
pub mod edit;
mod edit_json;
#[cfg(test)]
mod edit_tests;
pub mod effects;
pub mod examination;
pub mod expected;
mod external;
pub mod firewall;
mod instance;
pub mod ipvs;
mod ipvs_edits;
pub mod journal;
mod link_manager;
mod maintenance;
mod module;
pub mod net;
pub mod observation;
pub mod packets;
pub mod protocol;
pub mod receipt;
pub mod routing;
mod run;
mod settings;
pub mod settled;
pub mod silent;
pub mod stage;
pub mod step;
pub mod sysctl;
mod tunnel_guard;
pub mod tunnels;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use accepted::AcceptedValues;
pub use control::{DaemonRole, SyncDaemon, Timeouts};
pub use drift::{DriftAction, DriftPolicy, DriftRecord, FoundDrift, UnitChange};
pub use edit::{EditVerb, KeyedEdit, Misfit, Present, SettingKind};
pub use expected::Expected;
pub use external::{ExternalWeight, ExternalWeights};
pub use instance::{DaemonConfiguration, DaemonInstance, DaemonProgram, ProgramVersion};
pub use ipvs::{
    Destination, DestinationId, DestinationKey, ForwardingMethod, ServiceFlags, ServiceKey, Tunnel,
    VirtualService,
};
pub use journal::{BadTransactionId, Intent, JOURNAL_VERSION, Journal, Operator, TransactionId};
pub use link_manager::{KeepConfiguration, LinkManager};
pub use maintenance::Maintenance;
pub use module::Module;
pub use net::{Address, AddressKey, Link, Route, RouteKey, Scope};
pub use observation::{
    BootUnit, Capability, Controller, Counters, HealthChecker, Holder, HostFacts, Observation,
    OpenTransaction, OtherTransaction, Reverted, StatefulDrop,
};
pub use packets::{PacketRule, PacketRules, TableName};
pub use protocol::Protocol;
pub use receipt::{RECEIPT_VERSION, Receipt};
pub use routing::Routing;
pub use run::{HostRun, NamespaceId};
pub use settings::{Edit, Item, Owned};
pub use settled::{Settled, SettledDigest};
pub use stage::Stage;
pub use step::Step;
pub use sysctl::{Conf6Item, ConfDev, ConfItem, Sysctl, VsItem};
pub use tunnel_guard::{FragmentGuard, TunnelGuard, TunnelHeader};
pub use tunnels::{GuePort, TunnelDevice, TunnelKind};

use crate::names::IfName;

/// What lvsprov can set on a host, as far as it is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostState {
    /// Kernel modules that are there, loaded or built in. Never unloaded.
    pub modules: BTreeSet<Module>,
    /// Values under /proc/sys, without the line feed.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Interfaces.
    pub links: BTreeMap<IfName, Link>,
    /// Addresses on interfaces.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// The routes of the main table that are used: of several to one destination, the one with the
    /// lowest metric.
    pub routes: BTreeMap<RouteKey, Route>,
    /// The IPVS table.
    pub services: BTreeMap<ServiceKey, VirtualService>,
    /// The timeouts of IPVS; `None`: IPVS is not there, or nothing is wanted of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// The sync daemons that run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// nftables tables of lvsprov's own making.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<TableName, PacketRules>,
    /// Tunnel devices of lvsprov's own making.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tunnels: BTreeMap<IfName, TunnelDevice>,
    /// Ports where GUE packets are unwrapped.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gue_ports: BTreeSet<GuePort>,
    /// Daemons that lvsprov started, each with its configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<DaemonInstance, DaemonConfiguration>,
}
