//! From the topology to what one host must look like, each setting with its reason.
//!
//! Everything here follows from the forwarding method and from where the host stands; nothing is
//! set that the method does not need. [`director`], [`real_server`] (with [`tunnels`] and [`tunnel_guard`]) and [`path`]
//! (gateways, static routes, routers and the client) each add their part; a host with several roles gets the sum;
//! [`source_validation`] then looks at the cluster as a whole. Each says where its settings differ from
//! the recipes in circulation, and why.

mod director;
mod path;
mod real_server;
mod requests;
mod source_validation;
#[cfg(test)]
mod tests;
mod tunnel_guard;
mod tunnels;

pub use director::{CheckAims, destination_key, service_key};
pub use requests::{
    ExpectedRequest, every_request, expected_requests, large_requests, requests_of_any_client,
    requests_through,
};

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{HostName, IfName, NetworkName};
use crate::state::{
    AcceptedValues, Address, AddressKey, ConfItem, DaemonConfiguration, DaemonInstance, DaemonRole,
    Destination, DestinationKey, GuePort, HostState, Item, Link, Maintenance, Module, PacketRule,
    Route, RouteKey, ServiceKey, SyncDaemon, Sysctl, TableName, Timeouts, TunnelDevice,
    VirtualService, VsItem,
};
use crate::topology::{Host, Role, Service, StaticRoute, Topology};
use crate::walk::World;

/// What one host must look like, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The settings.
    pub state: HostState,
    /// Settings of `state` of which other values serve too.
    pub accepted: BTreeMap<Sysctl, AcceptedValues>,
    /// Why each is there.
    pub reasons: Reasons,
    /// Interfaces and addresses that the file says the host has already.
    pub needs: BTreeMap<IfName, Vec<IpNet>>,
    /// On a director: its real servers in maintenance.
    pub maintenance: Maintenance,
    /// On a director: services whose weights a health checker sets.
    pub external: BTreeSet<ServiceKey>,
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

/// What each host must look like so that every service of `topology` works.
pub fn desired(topology: &Topology) -> BTreeMap<HostName, Desired> {
    let places = Places::of(topology);
    let hosts = topology.hosts.values();
    let mut all =
        hosts.map(|host| (host.name.clone(), by_method(topology, &places, host))).collect();
    source_validation::settle(topology, &mut all);
    all
}

/// The hosts as the file describes them, with what `apply` sets on them.
pub fn world(topology: &Topology) -> World {
    let states = desired(topology).into_iter().map(|(name, it)| (name, it.state));
    World::of_file(topology, &states.collect())
}

/// [`desired`] of one host.
pub fn desired_for(topology: &Topology, host: &Host) -> Desired {
    desired(topology).remove(&host.name).unwrap_or_default()
}

/// Where each host stands. Without it each host would look at every real server of every service.
struct Places<'a> {
    /// The services that a host directs or serves, in the topology's order.
    services: HashMap<&'a HostName, Vec<&'a Service>>,
    /// Hosts that are the next hop of a default or static route of another.
    gateways: HashSet<&'a HostName>,
    /// The static routes of each host that lead to a client.
    routes_to_clients: HashMap<&'a HostName, Vec<&'a StaticRoute>>,
    /// The IPv4 subnets that hosts have on each network, VIPs with a prefix length included.
    subnets: HashMap<&'a NetworkName, BTreeSet<IpNet>>,
    /// Whether a client of the file has an IPv4 address.
    has_client_of_v4: bool,
}

impl<'a> Places<'a> {
    fn of(topology: &'a Topology) -> Self {
        let mut services: HashMap<&HostName, Vec<&Service>> = HashMap::new();
        for service in &topology.services {
            let serving = service.real_servers.iter().map(|real_server| &real_server.host);
            let involved: BTreeSet<&HostName> = serving.chain([&service.director]).collect();
            for host in involved {
                services.entry(host).or_default().push(service);
            }
        }
        let gateways = topology.hosts.values().flat_map(|host| {
            host.gateways.iter().chain(host.routes.iter().map(|route| &route.via))
        });
        let gateways = gateways.filter_map(|it| it.host.as_ref()).collect();
        let with_routes = topology.hosts.values().filter(|host| !host.routes.is_empty());
        let routes_to_clients = with_routes.map(|host| (&host.name, to_clients(topology, host)));
        Self {
            services,
            gateways,
            routes_to_clients: routes_to_clients.collect(),
            subnets: subnets(topology),
            has_client_of_v4: has_client_of_v4(topology),
        }
    }

    fn routes_to_clients(
        &self,
        host: &HostName,
    ) -> impl Iterator<Item = &'a StaticRoute> + use<'a, '_> {
        self.routes_to_clients.get(host).into_iter().flatten().copied()
    }

    fn services_of(&self, host: &HostName) -> impl Iterator<Item = &'a Service> + use<'a, '_> {
        self.services.get(host).into_iter().flatten().copied()
    }
}

fn has_client_of_v4(topology: &Topology) -> bool {
    let interfaces = topology.with_role(Role::Client).flat_map(|client| client.interfaces.values());
    interfaces.flat_map(|it| &it.addresses).any(|net| net.addr().is_ipv4())
}

fn subnets(topology: &Topology) -> HashMap<&NetworkName, BTreeSet<IpNet>> {
    let mut all: HashMap<&NetworkName, BTreeSet<IpNet>> = HashMap::new();
    let interfaces = topology.hosts.values().flat_map(|host| host.interfaces.values());
    for interface in interfaces {
        if let Some(network) = &interface.network {
            let nets = interface.addresses.iter().filter(|net| net.addr().is_ipv4());
            all.entry(network).or_default().extend(nets.map(IpNet::trunc));
        }
    }
    for service in &topology.services {
        let director = topology.hosts.get(&service.director);
        let Some((vip, director)) = service.vip.as_ref().zip(director) else { continue };
        let dev = director.interfaces.get(&vip.interface);
        let net = IpNet::new(vip.address, vip.prefix_on_director()).ok();
        if let Some((network, net)) = dev.and_then(|dev| dev.network.as_ref()).zip(net)
            && net.addr().is_ipv4()
            && net.prefix_len() < net.max_prefix_len()
        {
            all.entry(network).or_default().insert(net.trunc());
        }
    }
    all
}

/// The static routes of `host` that lead to a client.
fn to_clients<'a>(topology: &Topology, host: &'a Host) -> Vec<&'a StaticRoute> {
    let leads_to_client = |route: &&StaticRoute| {
        let clients = topology.with_role(Role::Client);
        let mut devices = clients.flat_map(|client| client.interfaces.values());
        devices.any(|dev| dev.addresses.iter().any(|net| route.to.contains(&net.addr())))
    };
    host.routes.iter().filter(leads_to_client).collect()
}

/// What the forwarding methods and the place of `host` ask for.
fn by_method(topology: &Topology, places: &Places<'_>, host: &Host) -> Desired {
    let mut desired = Desired::default();
    for interface in host.interfaces.values() {
        desired.needs.insert(interface.name.clone(), interface.addresses.clone());
    }
    director::settle_host(host, &mut desired);
    for service in places.services_of(&host.name) {
        if service.director == host.name {
            director::settle(topology, host, service, &mut desired);
        }
        if service.real_servers.iter().any(|rs| rs.host == host.name) {
            real_server::settle(topology, places, host, service, &mut desired);
        }
    }
    director::settle_checks(topology, host, &mut desired);
    tunnel_guard::settle(topology, places, host, &mut desired);
    path::settle(topology, places, host, &mut desired);
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
        self.accepted.remove(&key);
        self.state.sysctls.insert(key.clone(), value.to_owned());
        self.because(Item::Sysctl(key), why);
    }

    /// A setting of which the values in `accepted` serve too, if it is wanted for no other reason that leaves no choice.
    fn sysctl_of(
        &mut self,
        key: Sysctl,
        value: &str,
        accepted: AcceptedValues,
        why: impl Into<String>,
    ) {
        let accepted = match self.accepted.remove(&key) {
            None if self.state.sysctls.contains_key(&key) => return,
            None => accepted,
            Some(earlier) => earlier.and(&accepted),
        };
        self.sysctl(key.clone(), value, why);
        self.accepted.insert(key, accepted);
    }

    /// Source validation on `dev` that is not strict.
    fn loose_source_validation(&mut self, dev: &IfName, why: impl Into<String>) {
        let key = Sysctl::dev(dev, ConfItem::RpFilter);
        self.sysctl_of(key, "2", AcceptedValues::NotStrict, why);
    }

    /// Packets that come in on `dev` with a source that is an address of the host itself.
    fn accept_local(&mut self, dev: &IfName, why: impl Into<String>) {
        self.sysctl(Sysctl::dev(dev, ConfItem::AcceptLocal), "1", why);
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

    /// A daemon with its configuration, which a module above this one writes.
    pub fn instance(&mut self, instance: DaemonInstance, text: &str, why: impl Into<String>) {
        self.state.instances.insert(instance.clone(), DaemonConfiguration::of(text));
        self.because(Item::Instance(instance), why);
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

/// Why a director takes replies of `real_server` that come in on `dev` with its own VIP as their source.
fn why_accept_local(vip: IpAddr, dev: &IfName, real_server: &HostName) -> String {
    format!(
        "replies of {real_server} with source {vip} come in on {dev} and pass through the director, which has {vip} itself: \
         without this it drops them; any host on {dev} can then use the director's addresses as a source"
    )
}

/// A VIP as a host address on `dev`, with a label that ifconfig shows. `None` where the name with
/// `:0` would be longer than IFNAMSIZ allows.
fn label(dev: &IfName) -> Option<String> {
    let label = format!("{dev}:0");
    (label.len() <= 15).then_some(label)
}
