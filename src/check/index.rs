//! What the rules look up again and again, gathered once: a rule asks for every real server of every
//! service, and a scan over all services inside that would never end on a large file.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{HostName, IfName, NetworkName};
use crate::topology::{Host, Interface, Role, Service, Topology};

/// Lookups by address and by host.
#[derive(Default)]
pub(super) struct Index<'a> {
    /// The first service of each VIP, in the order of the topology.
    pub vips: HashMap<IpAddr, &'a Service>,
    /// VIPs with their directors.
    pub directed: HashSet<(IpAddr, &'a HostName)>,
    /// Hosts with an address, and the first interface that has it there, in the order of their names.
    pub having: HashMap<IpAddr, Vec<(&'a Host, &'a Interface)>>,
    /// Hosts with the role client.
    pub clients: Vec<&'a Host>,
    /// Directors of a service that rewrites addresses.
    pub rewriting: HashSet<&'a HostName>,
    /// Hosts that direct a service.
    pub directors: BTreeSet<&'a HostName>,
    /// Hosts that are a real server of one.
    pub serving: HashSet<&'a HostName>,
    /// Subnets that VIPs bring to their director.
    subnets: HashMap<&'a HostName, Subnets<'a>>,
    /// Whether a host has a subnet in common with an interface of a director.
    pub common: RefCell<HashMap<(&'a HostName, &'a HostName, &'a IfName), bool>>,
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
                    index.having.entry(net.addr()).or_default().push((host, interface));
                }
            }
        }
        for service in &topology.services {
            index.directors.insert(&service.director);
            index.serving.extend(service.real_servers.iter().map(|real| &real.host));
            if service.real_servers.iter().any(|real| real.forward.rewrites()) {
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
        index
    }

    /// The narrowest subnet with `address` that a VIP brings to `host`.
    pub fn by_vip(&self, host: &Host, address: IpAddr) -> Option<(&'a Interface, IpNet)> {
        let Subnets { lengths, by_net } = self.subnets.get(&host.name)?;
        lengths.iter().rev().find_map(|length| {
            let net = IpNet::new(address, *length).ok()?;
            by_net.get(&net.trunc()).copied()
        })
    }

    /// Who answers ARP for `address`, and on which wire; VIPs are not looked at.
    pub fn holder(&self, address: IpAddr) -> Option<(&'a Host, &'a NetworkName)> {
        let having = self.having.get(&address)?;
        having.iter().find_map(|(host, interface)| Some((*host, interface.network.as_ref()?)))
    }
}
