//! The one canonical description of a host: what is wanted and what is seen are both a [`HostState`].
//!
//! Canonical means that equal settings are equal values: the edge that reads a host strips what the
//! kernel adds (IPVS's HASHED flag, a label that only repeats the interface's name), sorts what it
//! dumps in hash order, and keeps of several routes to one destination the one that is used.
//! Every key has a text form, so that a state can be a JSON object.

pub mod ipvs;
pub mod net;
pub mod sysctl;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use ipvs::{
    Destination, DestinationKey, ForwardingMethod, ServiceFlags, ServiceKey, Tunnel, VirtualService,
};
pub use net::{Address, AddressKey, Link, Route, RouteKey, Scope};
pub use sysctl::{ConfDev, ConfItem, Sysctl};

use crate::topology::IfName;

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
}

/// A kernel module that a forwarding method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// IPVS itself; its schedulers are loaded by the kernel as services ask for them.
    IpVs,
    /// The IPIP tunnel: brings `tunl0`.
    Ipip,
}

impl Module {
    /// The name for modprobe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IpVs => "ip_vs",
            Self::Ipip => "ipip",
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
        }
    }
}

/// What is ours to change: nothing outside it is touched.
pub type Owned = BTreeSet<Item>;

impl HostState {
    /// Every thing that this state speaks of.
    pub fn items(&self) -> Owned {
        let Self { modules, sysctls, links, addresses, routes, services } = self;
        let mut all = Owned::new();
        all.extend(modules.iter().map(|m| Item::Module(*m)));
        all.extend(sysctls.keys().cloned().map(Item::Sysctl));
        all.extend(links.keys().cloned().map(Item::Link));
        all.extend(addresses.keys().cloned().map(Item::Address));
        all.extend(routes.keys().cloned().map(Item::Route));
        all.extend(services.keys().cloned().map(Item::Service));
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

    /// Makes `item` here what it is in `other`: the same value, or absent.
    pub fn copy_item(&mut self, item: &Item, other: &Self) {
        match item {
            Item::Module(module) => {
                if other.modules.contains(module) {
                    self.modules.insert(*module);
                } else {
                    self.modules.remove(module);
                }
            }
            Item::Sysctl(key) => copy_entry(&mut self.sysctls, key, &other.sysctls),
            Item::Link(key) => copy_entry(&mut self.links, key, &other.links),
            Item::Address(key) => copy_entry(&mut self.addresses, key, &other.addresses),
            Item::Route(key) => copy_entry(&mut self.routes, key, &other.routes),
            Item::Service(key) => copy_entry(&mut self.services, key, &other.services),
        }
    }
}

fn copy_entry<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, key: &K, from: &BTreeMap<K, V>) {
    match from.get(key) {
        Some(value) => into.insert(key.clone(), value.clone()),
        None => into.remove(key),
    };
}
