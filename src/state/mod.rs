//! The one canonical description of a host: what is wanted and what is seen are both a [`HostState`].
//!
//! Canonical means that equal settings are equal values: the edge that reads a host strips what the
//! kernel adds (IPVS's HASHED flag, a label that only repeats the interface's name), sorts what it
//! dumps in hash order, and keeps of several routes to one destination the one that is used.
//! Every key has a text form, so that a state can be a JSON object.

pub mod control;
mod done;
pub mod expected;
pub mod ipvs;
pub mod journal;
pub mod net;
pub mod observation;
pub mod packets;
pub mod protocol;
pub mod receipt;
pub mod stage;
pub mod step;
pub mod sysctl;
pub mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use control::{DaemonRole, SyncDaemon, Timeouts};
pub use expected::Expected;
pub use ipvs::{
    Destination, DestinationKey, ForwardingMethod, ServiceFlags, ServiceKey, Tunnel, VirtualService,
};
pub use journal::{BadTransactionId, Intent, JOURNAL_VERSION, Journal, Operator, TransactionId};
pub use net::{Address, AddressKey, Link, Route, RouteKey, Scope};
pub use observation::{
    Capability, Controller, Counters, Holder, HostFacts, Observation, Reverted, Unfinished,
    UnfinishedElsewhere,
};
pub use packets::{PacketRule, PacketRules, TableName};
pub use protocol::Protocol;
pub use receipt::{RECEIPT_VERSION, Receipt};
pub use stage::Stage;
pub use step::{Change, Step};
pub use sysctl::{Conf6Item, ConfDev, ConfItem, Sysctl, VsItem};
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
}

macro_rules! modules {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// A kernel module that something in a topology needs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Module {
            $(#[doc = $doc] $variant),+
        }

        impl Module {
            /// Every one.
            pub const ALL: &[Module] = &[$(Self::$variant),+];

            /// The name for modprobe.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

modules! {
    IpVs "ip_vs" "IPVS itself; its schedulers are loaded by the kernel as services ask for them.",
    IpVsFtp "ip_vs_ftp" "Lets active and passive FTP through NAT.",
    Ipip "ipip" "IPv4 in IPv4: brings `tunl0`.",
    Ip6Tnl "ip6_tunnel" "Anything in IPv6: brings `ip6tnl0`.",
    Sit "sit" "IPv6 in IPv4: brings `sit0`.",
    IpGre "ip_gre" "GRE over IPv4: brings `gre0`, `gretap0` and `erspan0`.",
    Ip6Gre "ip6_gre" "GRE over IPv6: brings `ip6gre0`.",
    Fou "fou" "UDP encapsulation over IPv4.",
    Fou6 "fou6" "UDP encapsulation over IPv6.",
    NfTables "nf_tables" "Packet rules.",
}

impl Module {
    /// The wildcard device that comes with it, down, and takes wrapped packets once it is up.
    pub fn device(self) -> Option<&'static str> {
        match self {
            Self::Ipip => Some("tunl0"),
            Self::Ip6Tnl => Some("ip6tnl0"),
            Self::Sit => Some("sit0"),
            Self::IpGre => Some("gre0"),
            Self::Ip6Gre => Some("ip6gre0"),
            Self::IpVs | Self::IpVsFtp | Self::Fou | Self::Fou6 | Self::NfTables => None,
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Names one thing of a [`HostState`]. A service stands for all its destinations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A module.
    Module(Module),
    /// A value under /proc/sys.
    Sysctl(Sysctl),
    /// An interface, up or down.
    Link(IfName),
    /// An address on an interface.
    Address(AddressKey),
    /// A route of the main table.
    Route(RouteKey),
    /// An IPVS service with its destinations.
    Service(ServiceKey),
    /// The timeouts of IPVS.
    Timeouts,
    /// A sync daemon.
    Daemon(DaemonRole),
    /// An nftables table.
    Table(TableName),
    /// A tunnel device of lvsprov's own making.
    Tunnel(IfName),
    /// A port where GUE packets are unwrapped.
    GuePort(GuePort),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(module) => write!(f, "module {module}"),
            Self::Sysctl(key) => write!(f, "{key}"),
            Self::Link(dev) => write!(f, "link {dev}"),
            Self::Address(key) => write!(f, "address {key}"),
            Self::Route(key) => write!(f, "route {key}"),
            Self::Service(key) => write!(f, "service {key}"),
            Self::Timeouts => f.write_str("timeouts of IPVS"),
            Self::Daemon(role) => write!(f, "sync daemon {role}"),
            Self::Table(name) => write!(f, "nftables table {name}"),
            Self::Tunnel(dev) => write!(f, "tunnel {dev}"),
            Self::GuePort(port) => write!(f, "GUE port {port}"),
        }
    }
}

/// What is ours to change: nothing outside it is touched.
pub type Owned = BTreeSet<Item>;

impl HostState {
    /// Every thing that this state speaks of.
    pub fn items(&self) -> Owned {
        let Self {
            modules,
            sysctls,
            links,
            addresses,
            routes,
            services,
            timeouts,
            daemons,
            tables,
            tunnels,
            gue_ports,
        } = self;
        let mut all = Owned::new();
        all.extend(modules.iter().map(|m| Item::Module(*m)));
        all.extend(sysctls.keys().cloned().map(Item::Sysctl));
        all.extend(links.keys().cloned().map(Item::Link));
        all.extend(addresses.keys().cloned().map(Item::Address));
        all.extend(routes.keys().cloned().map(Item::Route));
        all.extend(services.keys().cloned().map(Item::Service));
        all.extend(timeouts.map(|_| Item::Timeouts));
        all.extend(daemons.keys().copied().map(Item::Daemon));
        all.extend(tables.keys().cloned().map(Item::Table));
        all.extend(tunnels.keys().cloned().map(Item::Tunnel));
        all.extend(gue_ports.iter().copied().map(Item::GuePort));
        all
    }

    /// The part of this state that `owned` names.
    #[must_use]
    pub fn restricted_to(&self, owned: &Owned) -> Self {
        let mut part = Self::default();
        for item in owned {
            part.copy_item(item, self);
        }
        part
    }

    /// Whether `item` is otherwise in `other`: another value, or only in one of them.
    pub fn differs(&self, other: &Self, item: &Item) -> bool {
        let (mut here, mut there) = (Self::default(), Self::default());
        here.copy_item(item, self);
        there.copy_item(item, other);
        here != there
    }

    /// What `item` is here, in one line for a person; `absent` where it is not.
    pub fn told(&self, item: &Item) -> String {
        fn text<T: fmt::Display>(value: Option<T>) -> String {
            value.map_or_else(|| "absent".to_owned(), |value| value.to_string())
        }
        let here = |there: bool| if there { "there" } else { "absent" }.to_owned();
        match item {
            Item::Module(module) => here(self.modules.contains(module)),
            Item::Sysctl(key) => text(self.sysctls.get(key)),
            Item::Link(dev) => text(self.links.get(dev)),
            Item::Address(key) => text(self.addresses.get(key)),
            Item::Route(key) => text(self.routes.get(key)),
            Item::Service(key) => self.services.get(key).map_or_else(
                || "absent".to_owned(),
                |service| {
                    let all = service.destinations.iter();
                    let all: Vec<String> = all.map(|(key, how)| format!("{key} ({how})")).collect();
                    format!("{service}: {}", all.join(", "))
                },
            ),
            Item::Timeouts => text(self.timeouts),
            Item::Daemon(role) => text(self.daemons.get(role)),
            Item::Table(name) => text(self.tables.get(name)),
            Item::Tunnel(dev) => text(self.tunnels.get(dev)),
            Item::GuePort(port) => here(self.gue_ports.contains(port)),
        }
    }

    /// Makes `item` here what it is in `other`: the same value, or absent.
    pub fn copy_item(&mut self, item: &Item, other: &Self) {
        match item {
            Item::Module(module) => copy_member(&mut self.modules, module, &other.modules),
            Item::Sysctl(key) => copy_entry(&mut self.sysctls, key, &other.sysctls),
            Item::Link(key) => copy_entry(&mut self.links, key, &other.links),
            Item::Address(key) => copy_entry(&mut self.addresses, key, &other.addresses),
            Item::Route(key) => copy_entry(&mut self.routes, key, &other.routes),
            Item::Service(key) => copy_entry(&mut self.services, key, &other.services),
            Item::Timeouts => self.timeouts = other.timeouts,
            Item::Daemon(role) => copy_entry(&mut self.daemons, role, &other.daemons),
            Item::Table(name) => copy_entry(&mut self.tables, name, &other.tables),
            Item::Tunnel(dev) => copy_entry(&mut self.tunnels, dev, &other.tunnels),
            Item::GuePort(port) => copy_member(&mut self.gue_ports, port, &other.gue_ports),
        }
    }
}

fn copy_entry<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, key: &K, from: &BTreeMap<K, V>) {
    match from.get(key) {
        Some(value) => into.insert(key.clone(), value.clone()),
        None => into.remove(key),
    };
}

fn copy_member<K: Ord + Clone>(into: &mut BTreeSet<K>, key: &K, from: &BTreeSet<K>) {
    if from.contains(key) {
        into.insert(key.clone());
    } else {
        into.remove(key);
    }
}
