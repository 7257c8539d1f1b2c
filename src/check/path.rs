//! The path of a packet from host to host, by the file's addresses and gateways.
//!
//! A coarse walk over routes, for rules: the packet arrives, stops at a host, or leaves the hosts of the
//! file. It ignores ARP, rp_filter and IPVS.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Subject;
use crate::names::{HostName, NetworkName};
use crate::topology::{Host, Interface, Role, Service};

/// The end of a walk.
#[derive(Clone, Copy)]
pub(super) enum WalkEnd<'a> {
    /// The packet reaches the host with the address.
    Arrives,
    /// The path leaves the hosts of the file: rules draw no conclusion.
    Unknown,
    /// This host has no route.
    NoGateway(&'a Host),
    /// This host is the gateway, but does not forward.
    NotForwarding(&'a Host),
    /// The gateways lead back to this host.
    GatewayLoop(&'a Host),
    /// This host sends ARP requests on a network where no host has the address.
    WrongWire(&'a Host, &'a Interface),
}

impl<'a> Subject<'a> {
    pub fn host(&self, name: &HostName) -> Option<&'a Host> {
        self.topology.hosts.get(name)
    }

    pub fn is_unclear(&self, host: &Host) -> bool {
        self.unclear.hosts.contains(&host.name)
    }

    pub fn has_unclear_gateway(&self, host: &Host) -> bool {
        self.unclear.gateways.contains(&host.name)
    }

    /// Walks from `from` to `to`.
    pub fn walk(&self, from: &'a Host, to: IpAddr) -> WalkEnd<'a> {
        let mut passed = BTreeSet::from([&from.name]);
        let mut here = from;
        loop {
            here = match self.next_hop(here, to) {
                Err(end) => return end,
                Ok(next) if self.has(next, to) => return WalkEnd::Arrives,
                Ok(next) if !passed.insert(&next.name) => return WalkEnd::GatewayLoop(next),
                Ok(next) if !self.forwards(next) && !self.is_unclear(next) => {
                    return WalkEnd::NotForwarding(next);
                }
                Ok(next) => next,
            };
        }
    }

    /// The next host, or the end of the walk here.
    fn next_hop(&self, here: &'a Host, to: IpAddr) -> Result<&'a Host, WalkEnd<'a>> {
        if self.has(here, to) {
            return Err(WalkEnd::Arrives);
        }
        if let Some((interface, _)) = self.on_link(here, to) {
            return match self.holder(to) {
                Some((holder, wire)) if Some(wire) == interface.network.as_ref() => Ok(holder),
                Some(_) => Err(WalkEnd::WrongWire(here, interface)),
                None => Err(WalkEnd::Arrives),
            };
        }
        if let Some(director) = self.host_route(here, to) {
            return Ok(director);
        }
        if self.is_unclear(here) || self.has_unclear_gateway(here) {
            return Err(WalkEnd::Unknown);
        }
        match here.gateway_for(to).map(|g| g.host.as_ref()) {
            None => Err(WalkEnd::NoGateway(here)),
            Some(None) => Err(WalkEnd::Unknown),
            Some(Some(name)) => self.host(name).ok_or(WalkEnd::Unknown),
        }
    }

    /// The interface on which `address` is on-link, with the host's own address there. On a director the
    /// prefix length of a VIP counts.
    pub fn on_link(&self, host: &'a Host, address: IpAddr) -> Option<(&'a Interface, IpNet)> {
        let own = host.on_link(address).filter(|(i, _)| i.network.is_some());
        let by_vip = self.index.by_vip(host, address);
        own.into_iter().chain(by_vip).max_by_key(|(_, net)| net.prefix_len())
    }

    /// The director, if lvsprov sets a host route to the VIP on this router.
    fn host_route(&self, here: &'a Host, to: IpAddr) -> Option<&'a Host> {
        let service = *self.index.vips.get(&to)?;
        let director = self.host(&service.director)?;
        let neighbour = self.takes_host_route(here, service);
        neighbour.then_some(director)
    }

    /// Whether `here` is a router that shares a subnet with the director on the VIP's network.
    pub fn takes_host_route(&self, here: &'a Host, service: &'a Service) -> bool {
        let Some(director) = self.host(&service.director) else { return false };
        let outside = service.vip.as_ref().and_then(|vip| director.interfaces.get(&vip.interface));
        let Some(interface) = outside.filter(|_| here.roles.contains(&Role::Router)) else {
            return false;
        };
        let key = (&here.name, &director.name, &interface.name);
        *self.index.common.borrow_mut().entry(key).or_insert_with(|| {
            here.interfaces.values().filter(|i| i.network == interface.network).any(|i| {
                i.addresses
                    .iter()
                    .any(|ours| interface.addresses.iter().any(|d| ours.contains(&d.addr())))
            })
        })
    }

    fn has(&self, host: &Host, address: IpAddr) -> bool {
        host.interface_with(address).is_some() || self.is_vip_of(host, address)
    }

    fn is_vip_of(&self, host: &Host, address: IpAddr) -> bool {
        self.index.directed.contains(&(address, &host.name))
    }

    /// Whether `host` has an address of the family of `address`; without one it cannot be a client.
    pub fn has_family(host: &Host, address: IpAddr) -> bool {
        let mut own = host.interfaces.values().flat_map(|i| &i.addresses);
        own.any(|net| net.addr().is_ipv4() == address.is_ipv4())
    }

    /// The host that answers ARP for `address`, and the network.
    fn holder(&self, address: IpAddr) -> Option<(&'a Host, &'a NetworkName)> {
        if let Some(service) = self.index.vips.get(&address) {
            let host = self.host(&service.director)?;
            let vip = service.vip.as_ref()?;
            return Some((host, host.interfaces.get(&vip.interface)?.network.as_ref()?));
        }
        self.index.holder(address)
    }

    /// Routers forward, and directors of NAT and FULLNAT services.
    fn forwards(&self, host: &Host) -> bool {
        host.roles.contains(&Role::Router) || self.index.rewriting.contains(&host.name)
    }
}

/// The source address of packets from `host` to `to`.
pub(super) fn source(host: &Host, to: IpAddr) -> Option<IpAddr> {
    if let Some((_, net)) = host.on_link(to) {
        return Some(net.addr());
    }
    let gateway = host.gateway_for(to)?;
    host.on_link(gateway.address).map(|(_, net)| net.addr())
}
