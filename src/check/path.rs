//! The path of a packet from host to host, by the file's addresses, routes and gateways.
//!
//! A coarse walk over routes, for rules: the packet arrives, stops at a host, or leaves the hosts of the
//! file. It ignores ARP, rp_filter and IPVS.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Subject;
use crate::names::{HostName, NetworkName};
use crate::topology::{Gateway, Host, Interface, NextHop, Role, Service};

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
        self.walk_noting(from, to, |_| {})
    }

    /// The same, with the hosts on the way, `from` first.
    pub fn walk_passing(&self, from: &'a Host, to: IpAddr) -> (WalkEnd<'a>, Vec<&'a Host>) {
        let mut passed = Vec::new();
        let end = self.walk_noting(from, to, |host| passed.push(host));
        (end, passed)
    }

    fn walk_noting(
        &self,
        from: &'a Host,
        to: IpAddr,
        mut note: impl FnMut(&'a Host),
    ) -> WalkEnd<'a> {
        let mut passed = BTreeSet::from([&from.name]);
        let mut here = from;
        loop {
            note(here);
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
        let hop = here.next_hop_beside(self.on_link(here, to), to);
        if let Some(NextHop::OnLink(interface, _)) = hop {
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
        let Some(NextHop::Via(gateway)) = hop else { return Err(WalkEnd::NoGateway(here)) };
        gateway.host.as_ref().and_then(|name| self.host(name)).ok_or(WalkEnd::Unknown)
    }

    /// The next hops of packets from `host` to clients of the family of `address`: of its static routes to clients,
    /// and its default gateway, unless each client is behind a static route.
    pub fn hops_of_replies(&self, host: &'a Host, address: IpAddr) -> Vec<&'a Gateway> {
        let gateway = host.gateway_for(address);
        if host.routes.is_empty() {
            return gateway.into_iter().collect();
        }
        let key = (&host.name, address.is_ipv4());
        if let Some(known) = self.index.hops_of_replies.borrow().get(&key) {
            return known.clone();
        }
        let clients = self.index.clients.iter().filter(|client| !self.is_unclear(client));
        let addresses =
            clients.flat_map(|client| client.interfaces.values()).flat_map(|it| &it.addresses);
        let of_family = addresses.map(IpNet::addr).filter(|it| it.is_ipv4() == address.is_ipv4());
        let mut hops: Vec<&Gateway> = Vec::new();
        let mut some_by_gateway = false;
        for hop in of_family.map(|client| host.next_hop_beside(self.on_link(host, client), client))
        {
            match hop {
                Some(NextHop::Via(hop)) if Some(hop) != gateway => {
                    if !hops.contains(&hop) {
                        hops.push(hop);
                    }
                }
                _ => some_by_gateway = true,
            }
        }
        if some_by_gateway || hops.is_empty() {
            hops.extend(gateway);
        }
        self.index.hops_of_replies.borrow_mut().insert(key, hops.clone());
        hops
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

    /// Whether `here` is a router that shares a subnet with the director, by whichever interface of the director, and to
    /// which the file gives no route to the VIP: `desired` sets one then.
    pub fn takes_host_route(&self, here: &'a Host, service: &'a Service) -> bool {
        let Some(director) = self.host(&service.director) else { return false };
        let Some(vip) = service.vip_address() else { return false };
        let is_router = here.roles.contains(&Role::Router);
        if !is_router || here.route_for(vip).is_some() || here.name == director.name {
            return false;
        }
        let key = (&here.name, &director.name, vip.is_ipv4());
        *self.index.common.borrow_mut().entry(key).or_insert_with(|| {
            let theirs = |network| {
                let on = director.interfaces.values().filter(move |it| it.network == network);
                on.flat_map(|it| &it.addresses).filter(|net| net.addr().is_ipv4() == vip.is_ipv4())
            };
            here.interfaces.values().filter(|it| it.network.is_some()).any(|ours| {
                let mut near = theirs(ours.network.clone());
                near.any(|net| ours.addresses.iter().any(|own| own.contains(&net.addr())))
            })
        })
    }

    pub fn has(&self, host: &Host, address: IpAddr) -> bool {
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
    pub fn holder(&self, address: IpAddr) -> Option<(&'a Host, &'a NetworkName)> {
        if let Some(service) = self.index.vips.get(&address) {
            let host = self.host(&service.director)?;
            let vip = service.vip.as_ref()?;
            return Some((host, host.interfaces.get(&vip.interface)?.network.as_ref()?));
        }
        self.index.holder(address)
    }

    /// Routers forward, and directors of NAT and FULLNAT services.
    pub fn forwards(&self, host: &Host) -> bool {
        host.roles.contains(&Role::Router) || self.index.rewriting.contains(&host.name)
    }
}

/// The source address of packets from `host` to `to`.
pub(super) fn source(host: &Host, to: IpAddr) -> Option<IpAddr> {
    match host.next_hop(to)? {
        NextHop::OnLink(_, net) => Some(net.addr()),
        NextHop::Via(gateway) => {
            let own = host.interfaces.get(&gateway.interface)?.addresses.iter();
            own.filter(|net| net.contains(&gateway.address)).map(IpNet::addr).next()
        }
    }
}
