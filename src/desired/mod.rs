//! From the topology to what one host must look like, each setting with its reason.
//!
//! Everything here follows from the forwarding method and from where the host stands; nothing is
//! set that the method does not need. [`director`], [`real_server`] (with [`tunnels`]) and [`path`]
//! (gateways, routers and the client) each add their part; a host with several roles gets the sum. Each
//! says where its settings differ from the recipes in circulation, and why.

mod director;
mod path;
mod real_server;
#[cfg(test)]
mod tests;
mod tunnels;

pub use director::service_key;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::IfName;
use crate::state::{
    Address, AddressKey, DaemonRole, Destination, DestinationKey, GuePort, HostState, Item, Link,
    Module, PacketRule, Route, RouteKey, ServiceKey, SyncDaemon, Sysctl, TableName, Timeouts,
    TunnelDevice, VirtualService, VsItem,
};
use crate::topology::{Host, Topology};

/// What one host must look like, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The settings.
    pub state: HostState,
    /// Why each is there.
    pub reasons: Reasons,
    /// Interfaces and addresses that the file says the host has already.
    pub needs: BTreeMap<IfName, Vec<IpNet>>,
}

/// Why a setting is there; one sentence each, for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons {
    items: BTreeMap<Item, String>,
    destinations: BTreeMap<(ServiceKey, DestinationKey), String>,
}

impl Reasons {
    /// Why `item` is wanted, if it is.
    pub fn of(&self, item: &Item) -> Option<&str> {
        self.items.get(item).map(String::as_str)
    }

    /// Why a destination is wanted, if it is.
    pub fn of_destination(&self, service: &ServiceKey, key: DestinationKey) -> Option<&str> {
        self.destinations.get(&(service.clone(), key)).map(String::as_str)
    }
}

/// What `host` must look like so that every service of `topology` works.
pub fn desired_for(topology: &Topology, host: &Host) -> Desired {
    let mut desired = Desired::default();
    for interface in host.interfaces.values() {
        desired.needs.insert(interface.name.clone(), interface.addresses.clone());
    }
    director::settle_host(host, &mut desired);
    for service in &topology.services {
        if service.director == host.name {
            director::settle(topology, host, service, &mut desired);
        }
        if service.real_servers.iter().any(|rs| rs.host == host.name) {
            real_server::settle(topology, host, service, &mut desired);
        }
    }
    path::settle(topology, host, &mut desired);
    desired
}

/// Adding to what is wanted. The first reason for a setting stays: services come in a fixed order.
impl Desired {
    fn because(&mut self, item: Item, why: impl Into<String>) {
        self.reasons.items.entry(item).or_insert_with(|| why.into());
    }

    fn module(&mut self, module: Module, why: impl Into<String>) {
        self.state.modules.insert(module);
        self.because(Item::Module(module), why);
    }

    fn sysctl(&mut self, key: Sysctl, value: &str, why: impl Into<String>) {
        self.state.sysctls.insert(key.clone(), value.to_owned());
        self.because(Item::Sysctl(key), why);
    }

    fn link_up(&mut self, dev: IfName, why: impl Into<String>) {
        self.state.links.insert(dev.clone(), Link::Up);
        self.because(Item::Link(dev), why);
    }

    fn address(&mut self, key: AddressKey, address: Address, why: impl Into<String>) {
        self.state.addresses.insert(key.clone(), address);
        self.because(Item::Address(key), why);
    }

    fn route(&mut self, key: RouteKey, route: Route, why: impl Into<String>) {
        self.state.routes.insert(key.clone(), route);
        self.because(Item::Route(key), why);
    }

    fn service(&mut self, key: ServiceKey, service: VirtualService, why: impl Into<String>) {
        self.state.services.insert(key.clone(), service);
        self.because(Item::Service(key), why);
    }

    /// A setting of IPVS that a service wants, unless the file says it itself.
    fn ipvs_setting_unless_said(&mut self, item: VsItem, value: &str, why: impl Into<String>) {
        let key = Sysctl::Vs(item);
        if !self.state.sysctls.contains_key(&key) {
            self.sysctl(key, value, why);
        }
    }

    fn timeouts(&mut self, timeouts: Timeouts, why: impl Into<String>) {
        self.state.timeouts = Some(timeouts);
        self.because(Item::Timeouts, why);
    }

    fn daemon(&mut self, role: DaemonRole, daemon: SyncDaemon, why: impl Into<String>) {
        self.state.daemons.insert(role, daemon);
        self.because(Item::Daemon(role), why);
    }

    fn tunnel(&mut self, dev: IfName, device: TunnelDevice, why: impl Into<String>) {
        self.state.tunnels.insert(dev.clone(), device);
        self.because(Item::Tunnel(dev), why);
    }

    fn gue_port(&mut self, port: GuePort, why: impl Into<String>) {
        self.state.gue_ports.insert(port);
        self.because(Item::GuePort(port), why);
    }

    /// A rule in the topology's own table. The table is changed as a whole, so every rule's reason
    /// is one for the table.
    fn packet_rule(&mut self, topology: &Topology, rule: PacketRule, why: &str) {
        let name = TableName::of(&topology.name);
        self.state.tables.entry(name.clone()).or_default().rules.insert(rule);
        match self.reasons.items.entry(Item::Table(name)) {
            Entry::Vacant(place) => {
                place.insert(why.to_owned());
            }
            Entry::Occupied(mut place) => {
                let all = place.get_mut();
                if !all.contains(why) {
                    *all = format!("{all}; {why}");
                }
            }
        }
    }

    /// Clamps what leaves with `source`; of several values the smallest fits every one's wrapping.
    fn clamp_mss(&mut self, topology: &Topology, source: IpAddr, mss: u16, why: &str) {
        let rules = &mut self.state.tables.entry(TableName::of(&topology.name)).or_default().rules;
        let clamps = |rule: &PacketRule| match rule {
            PacketRule::ClampMss { source: of, mss } if *of == source => Some(*mss),
            _ => None,
        };
        let least = rules.iter().filter_map(clamps).fold(mss, u16::min);
        if least < mss {
            return;
        }
        rules.retain(|rule| clamps(rule).is_none());
        self.packet_rule(topology, PacketRule::ClampMss { source, mss }, why);
    }

    fn destination(
        &mut self,
        service: &ServiceKey,
        key: DestinationKey,
        destination: Destination,
        why: impl Into<String>,
    ) {
        if let Some(wanted) = self.state.services.get_mut(service) {
            wanted.destinations.insert(key, destination);
            self.reasons.destinations.insert((service.clone(), key), why.into());
        }
    }
}

/// A VIP as a host address on `dev`, with a label that ifconfig shows. `None` where the name with
/// `:0` would be longer than IFNAMSIZ allows.
fn label(dev: &IfName) -> Option<String> {
    let label = format!("{dev}:0");
    (label.len() <= 15).then_some(label)
}
