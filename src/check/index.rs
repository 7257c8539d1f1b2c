//! Lookups that the rules share, built once. A rule visits every real server of every service; a scan
//! over all services for each of them would take minutes on a large file.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{HostName, NetworkName};
use crate::topology::{Forward, Gateway, Host, Interface, Role, Service, Topology};

/// Lookups by address and by host.
#[derive(Default)]
pub(super) struct Index<'a> {
    /// The first service of each VIP, in topology order.
    pub vips: HashMap<IpAddr, &'a Service>,
    /// VIPs with their directors.
    pub directed: HashSet<(IpAddr, &'a HostName)>,
    /// The hosts with each address, sorted by name, each with its first interface that has it.
    pub holders: HashMap<IpAddr, Vec<(&'a Host, &'a Interface)>>,
    /// Hosts with the role client.
    pub clients: Vec<&'a Host>,
    /// Directors of services with `nat` or `fullnat`.
    pub rewriting: HashSet<&'a HostName>,
    /// Hosts that forward: routers, then these directors.
    pub forwarding: Vec<&'a Host>,
    /// Directors of at least one service.
    pub directors: BTreeSet<&'a HostName>,
    /// Real servers of at least one service.
    pub serving: HashSet<&'a HostName>,
    /// On-link subnets that a director gets from the prefix lengths of its VIPs.
    subnets: HashMap<&'a HostName, Subnets<'a>>,
    /// Cache: the next hops of packets from a host to IPv4 or IPv6 clients.
    pub hops_of_replies: RefCell<HashMap<(&'a HostName, bool), Vec<&'a Gateway>>>,
    /// What looking for missing routes has cost so far.
    pub spent_on_cures: Cell<usize>,
    /// Cache: whether a host shares a subnet of IPv4, or of IPv6, with a director.
    pub common: RefCell<HashMap<(&'a HostName, &'a HostName, bool), bool>>,
}

#[derive(Default)]
struct Subnets<'a> {
    lengths: BTreeSet<u8>,
    by_net: HashMap<IpNet, (&'a Interface, IpNet)>,
}

impl<'a> Index<'a> {
    pub fn new(topology: &'a Topology) -> Self {
        let clients = topology.with_role(Role::Client).collect();
        let mut index = Self { clients, ..Self::default() };
        for host in topology.hosts.values() {
            let mut own = HashSet::new();
            for interface in host.interfaces.values() {
                for net in interface.addresses.iter().filter(|net| own.insert(net.addr())) {
                    index.holders.entry(net.addr()).or_default().push((host, interface));
                }
            }
        }
        for service in &topology.services {
            index.directors.insert(&service.director);
            index.serving.extend(service.real_servers.iter().map(|real| &real.host));
            if service.uses(Forward::rewrites) {
                index.rewriting.insert(&service.director);
            }
            let Some(vip) = &service.vip else { continue };
            index.vips.entry(vip.address).or_insert(service);
            index.directed.insert((vip.address, &service.director));
            let director = topology.hosts.get(&service.director);
            let interface = director.and_then(|host| host.interfaces.get(&vip.interface));
            let net = vip.prefix.and_then(|prefix| IpNet::new(vip.address, prefix).ok());
            if let (Some(interface), Some(net)) = (interface, net)
                && net.prefix_len() < net.max_prefix_len()
            {
                let subnets = index.subnets.entry(&service.director).or_default();
                subnets.lengths.insert(net.prefix_len());
                subnets.by_net.insert(net.trunc(), (interface, net));
            }
        }
        let hosts = topology.hosts.values();
        let forwards = |host: &&Host| {
            host.roles.contains(&Role::Router) || index.rewriting.contains(&host.name)
        };
        index.forwarding = hosts.filter(forwards).collect();
        index.forwarding.sort_by_key(|host| !host.roles.contains(&Role::Router));
        index
    }

    /// The longest prefix with `address` that a VIP adds to `host`.
    pub fn by_vip(&self, host: &Host, address: IpAddr) -> Option<(&'a Interface, IpNet)> {
        let Subnets { lengths, by_net } = self.subnets.get(&host.name)?;
        lengths.iter().rev().find_map(|length| {
            let net = IpNet::new(address, *length).ok()?;
            by_net.get(&net.trunc()).copied()
        })
    }

    /// The host that answers ARP for `address`, and the network. Ignores VIPs.
    pub fn holder(&self, address: IpAddr) -> Option<(&'a Host, &'a NetworkName)> {
        let holders = self.holders.get(&address)?;
        holders.iter().find_map(|(host, interface)| Some((*host, interface.network.as_ref()?)))
    }
}
