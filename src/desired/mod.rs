//! From the topology to what one host must look like, each setting with its reason.
//!
//! Everything here follows from the forwarding method and from where the host stands; nothing is
//! set that the method does not need. [`director`], [`real_server`] and [`path`] (gateways, routers
//! and the client) each add their part; a host with several roles gets the sum. How the settings
//! come about, and where they differ from the recipes that people copy, is told where each is made.

mod director;
mod path;
mod real_server;

pub use director::service_key;

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::state::{
    Address, AddressKey, Destination, DestinationKey, HostState, Item, Link, Module, Route,
    RouteKey, ServiceKey, Sysctl, VirtualService,
};
use crate::topology::{Host, IfName, Topology};

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
