//! The way of a packet from host to host, as the file's addresses and gateways lead it.
//!
//! A coarse walk over routes, for rules: does it arrive, does it get stuck and where, or does it
//! leave what the file knows. ARP, rp_filter and IPVS are not looked at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Subject;
use crate::names::{HostName, NetworkName};
use crate::topology::{Host, Interface, Role, Service};

/// Where a way ends.
#[derive(Clone, Copy)]
pub(super) enum End<'a> {
    /// At whoever has the address.
    Arrives,
    /// Outside of what the file says: nothing may be concluded.
    Unknown,
    /// At a host that has no route for it.
    NoGateway(&'a Host),
    /// At a host that is a gateway and forwards nothing.
    NotForwarding(&'a Host),
    /// Gateways that lead back to this host.
    Circle(&'a Host),
    /// At a host that asks for the address on a wire where nobody has it.
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
    pub fn walk(&self, from: &'a Host, to: IpAddr) -> End<'a> {
        let mut passed = BTreeSet::from([&from.name]);
        let mut here = from;
        loop {
            here = match self.next_hop(here, to) {
                Err(end) => return end,
                Ok(next) if self.has(next, to) => return End::Arrives,
                Ok(next) if !passed.insert(&next.name) => return End::Circle(next),
                Ok(next) if !self.forwards(next) && !self.is_unclear(next) => {
                    return End::NotForwarding(next);
                }
                Ok(next) => next,
            };
        }
    }

    /// The next host on the way, or how the way ends here.
    fn next_hop(&self, here: &'a Host, to: IpAddr) -> Result<&'a Host, End<'a>> {
        if self.has(here, to) {
            return Err(End::Arrives);
        }
        if let Some((interface, _)) = self.on_link(here, to) {
            return match self.holder(to) {
                Some((holder, wire)) if Some(wire) == interface.network.as_ref() => Ok(holder),
                Some(_) => Err(End::WrongWire(here, interface)),
                None => Err(End::Arrives),
            };
        }
        if let Some(director) = self.host_route(here, to) {
            return Ok(director);
        }
        if self.is_unclear(here) || self.has_unclear_gateway(here) {
            return Err(End::Unknown);
        }
        match here.gateway_for(to).map(|g| g.host.as_ref()) {
            None => Err(End::NoGateway(here)),
            Some(None) => Err(End::Unknown),
            Some(Some(name)) => self.host(name).ok_or(End::Unknown),
        }
    }

    /// Over which wire `address` is a neighbour, and the host's own address there. The prefix of a
    /// VIP counts on its director.
    pub fn on_link(&self, host: &'a Host, address: IpAddr) -> Option<(&'a Interface, IpNet)> {
        let own = host.on_link(address).filter(|(i, _)| i.network.is_some());
        let by_vip = self.index.by_vip(host, address);
        own.into_iter().chain(by_vip).max_by_key(|(_, net)| net.prefix_len())
    }

    /// A router next to the director gets a host route to a VIP that is in none of its subnets.
    fn host_route(&self, here: &'a Host, to: IpAddr) -> Option<&'a Host> {
        let service = *self.index.vips.get(&to)?;
        let director = self.host(&service.director)?;
        let neighbour = self.takes_host_route(here, service);
        neighbour.then_some(director)
    }

    /// Whether `here` is a router with a subnet in common with the director on the VIP's wire.
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

    /// Whether `host` has any address of the family of `address`: without, it is no client of it.
    pub fn speaks(host: &Host, address: IpAddr) -> bool {
        let mut own = host.interfaces.values().flat_map(|i| &i.addresses);
        own.any(|net| net.addr().is_ipv4() == address.is_ipv4())
    }

    /// Who answers ARP for `address`, and on which wire.
    fn holder(&self, address: IpAddr) -> Option<(&'a Host, &'a NetworkName)> {
        if let Some(service) = self.index.vips.get(&address) {
            let host = self.host(&service.director)?;
            let vip = service.vip.as_ref()?;
            return Some((host, host.interfaces.get(&vip.interface)?.network.as_ref()?));
        }
        self.index.holder(address)
    }

    /// Routers do, and directors of a NAT service.
    fn forwards(&self, host: &Host) -> bool {
        host.roles.contains(&Role::Router) || self.index.rewriting.contains(&host.name)
    }
}

/// The address that `host` puts into packets to `to` as their source.
pub(super) fn source(host: &Host, to: IpAddr) -> Option<IpAddr> {
    if let Some((_, net)) = host.on_link(to) {
        return Some(net.addr());
    }
    let gateway = host.gateway_for(to)?;
    host.on_link(gateway.address).map(|(_, net)| net.addr())
}
