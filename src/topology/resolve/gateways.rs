//! Gateways, in this order: those in the file, those that NAT needs, `defaults.gateway` for the rest.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Resolver;
use super::hosts::is_plugged;
use crate::finding::{Finding, Position};
use crate::names::{HostName, IfName};
use crate::topology::document::{Field, GatewayDoc, HostDoc};
use crate::topology::model::{Gateway, Host, Interface};
use crate::topology::node::At;
use crate::topology::suggest;

/// A next hop that the file names.
#[derive(Clone, Copy)]
pub(super) struct NextHopDoc<'a> {
    /// The key that names it: `gateway` or `via`.
    pub key: &'static str,
    /// The host whose next hop it is.
    pub of: &'a HostName,
    pub stated: &'a At<GatewayDoc>,
    /// The family of a route's destination; `None`: any.
    pub ipv4: Option<bool>,
    /// The interface that a route names.
    pub interface: Option<&'a IfName>,
}

impl NextHopDoc<'_> {
    fn at(&self) -> Position {
        self.stated.at
    }

    /// The host, or the interface that the route names, whose subnets must hold it.
    fn place(&self) -> String {
        let of = self.of;
        self.interface.map_or_else(|| of.to_string(), |dev| format!("{dev} on {of}"))
    }

    fn is_own(&self) -> Finding {
        let (message, cure) = match self.key {
            "via" => (
                format!("{} is the next hop of its own route", self.of),
                "name the next router, or remove the route",
            ),
            _ => (
                format!("{} is its own gateway", self.of),
                "name the next router, or remove `gateway`",
            ),
        };
        Finding::error(
            "own-gateway",
            self.at(),
            message,
            "the host would look for every address by ARP on its own network; of IPv6 the kernel refuses such a route",
            cure,
        )
    }
}

/// The gateways that the file sets for hosts.
pub(super) fn stated(resolver: &mut Resolver, hosts: &[HostDoc]) {
    for doc in hosts {
        let name = &doc.name.value;
        let stated = match &doc.gateway {
            Field::Missing => continue,
            Field::Invalid => &[][..],
            Field::Value(gateways) => gateways.value.as_slice(),
        };
        let mut clear = !stated.is_empty();
        for gateway in stated {
            let stated = gateway;
            let hop = NextHopDoc { key: "gateway", of: name, stated, ipv4: None, interface: None };
            match resolver.next_hop(hop) {
                Some(found) => {
                    for one in found {
                        resolver.add_stated_gateway(name, one);
                    }
                }
                None => clear = false,
            }
        }
        if !clear {
            resolver.unclear_gateways.insert(name.clone());
        }
    }
}

/// NAT real servers use the director as their gateway: only then does it rewrite their replies.
pub(super) fn derived(resolver: &mut Resolver, hosts: &[HostDoc]) {
    let mut found = Vec::new();
    let mut near: HashMap<(&HostName, &HostName), Vec<(IpAddr, &IfName)>> = HashMap::new();
    for service in &resolver.services {
        let Some(director) = resolver.hosts.get(&service.director) else { continue };
        for real in
            service.real_servers.iter().filter(|real| real.forward.needs_director_as_gateway())
        {
            if real.host == service.director {
                continue;
            }
            let Some(host) = resolver.hosts.get(&real.host) else { continue };
            let candidates = near
                .entry((&real.host, &service.director))
                .or_insert_with(|| candidates(host, director, None));
            let mut on_rips_side = candidates.iter().filter(|(address, dev)| {
                **dev == real.interface && address.is_ipv4() == real.rip.is_ipv4()
            });
            if let Some((address, dev)) = on_rips_side.next() {
                found.push((
                    real.host.clone(),
                    Gateway {
                        address: *address,
                        host: Some(director.name.clone()),
                        interface: (*dev).clone(),
                        derived: true,
                        at: host.at,
                    },
                ));
            }
        }
    }
    let without_gateway =
        hosts.iter().filter(|d| d.gateway == Field::Missing).map(|d| &d.name.value);
    let without_gateway: HashSet<&HostName> = without_gateway.collect();
    for (name, gateway) in found {
        if without_gateway.contains(&name) {
            resolver.add_gateway(&name, gateway);
        }
    }
}

/// `defaults.gateway`, for every host without a gateway that shares a subnet with it.
pub(super) fn default(resolver: &mut Resolver, stated: &Field<GatewayDoc>, hosts: &[HostDoc]) {
    let Field::Value(At { value, at }) = stated else { return };
    if let GatewayDoc::Host(name) = value
        && !resolver.hosts.contains_key(name)
    {
        return resolver.unknown_host(name, *at);
    }
    for doc in hosts.iter().filter(|d| d.gateway == Field::Missing) {
        let Some(host) = resolver.clear_host(&doc.name.value) else { continue };
        let found: Vec<(IpAddr, IfName)> = match value {
            GatewayDoc::Host(name) => {
                let gateway = resolver.clear_host(name).filter(|g| g.name != host.name);
                let candidates = gateway.map(|g| candidates(host, g, None)).unwrap_or_default();
                [true, false]
                    .into_iter()
                    .filter_map(|v4| {
                        let mut of_family = candidates.iter().filter(|(a, _)| a.is_ipv4() == v4);
                        let (address, dev) = of_family.next()?;
                        of_family.next().is_none().then(|| (*address, (*dev).clone()))
                    })
                    .collect()
            }
            GatewayDoc::Address(address) => on_link(host, *address).into_iter().collect(),
        };
        for (address, interface) in found {
            let gateway = Gateway {
                address,
                host: resolver.holder(address).map(|h| h.name.clone()),
                interface,
                derived: false,
                at: *at,
            };
            resolver.add_gateway(&doc.name.value, gateway);
        }
    }
}

/// The interface of `host` on a network where `address` is on-link; `None` for the host's own address.
fn on_link(host: &Host, address: IpAddr) -> Option<(IpAddr, IfName)> {
    if host.interface_with(address).is_some() {
        return None;
    }
    let (interface, _) = host.on_link(address)?;
    is_plugged(interface.name.as_str()).then(|| (address, interface.name.clone()))
}

/// The same by `stated`, if the file names the interface.
fn on_link_over(host: &Host, address: IpAddr, stated: Option<&IfName>) -> Option<(IpAddr, IfName)> {
    let Some(stated) = stated else { return on_link(host, address) };
    let mut there = plugged(host).filter(|(interface, _)| interface.name == *stated);
    there.any(|(_, net)| net.contains(&address)).then(|| (address, stated.clone()))
}

/// The addresses of `gateway` that are on-link for `host`, each with the interface of `host`: `only` that one,
/// if it is given.
fn candidates<'a>(
    host: &'a Host,
    gateway: &Host,
    only: Option<&IfName>,
) -> Vec<(IpAddr, &'a IfName)> {
    let mut found: Vec<(IpAddr, &IfName)> = Vec::new();
    let mut known = HashSet::new();
    let is_meant = |ours: &Interface| only.is_none_or(|only| *only == ours.name);
    for (ours, net) in plugged(host).filter(|(ours, _)| is_meant(ours)) {
        for (theirs, address) in plugged(gateway) {
            let address = address.addr();
            let near = ours.network == theirs.network && net.contains(&address);
            if near && known.insert(address) {
                found.push((address, &ours.name));
            }
        }
    }
    found
}

fn plugged(host: &Host) -> impl Iterator<Item = (&Interface, IpNet)> {
    let plugged = host.interfaces.values().filter(|i| i.network.is_some());
    plugged.flat_map(|i| i.addresses.iter().map(move |a| (i, *a)))
}

impl Resolver {
    /// Adds a gateway, unless the host has one for that family.
    fn add_gateway(&mut self, host: &HostName, gateway: Gateway) {
        if let Some(host) = self.hosts.get_mut(host)
            && host.gateway_for(gateway.address).is_none()
        {
            host.gateways.push(gateway);
            host.gateways.sort_by_key(|gateway| gateway.address);
        }
    }

    /// Adds a gateway from the file. A second one for the same family is an error.
    fn add_stated_gateway(&mut self, of: &HostName, gateway: Gateway) {
        let there = self.hosts.get(of).and_then(|host| host.gateway_for(gateway.address));
        if let Some(there) = there {
            let finding = Finding::error(
                "two-gateways",
                gateway.at,
                format!(
                    "{} and {} are both default gateways of {of}",
                    there.address, gateway.address
                ),
                "lvsprov sets one default route for IPv4 and one for IPv6",
                "name one for each family",
            );
            self.findings.push(finding);
            self.unclear_gateways.insert(of.clone());
            return;
        }
        self.add_gateway(of, gateway);
    }

    /// The host with `address` on a network.
    fn holder(&self, address: IpAddr) -> Option<&Host> {
        self.hosts.get(self.holders.get(&address)?)
    }

    pub(super) fn unknown_host(&mut self, name: &HostName, at: Position) {
        let known = self.hosts.keys().map(HostName::as_str);
        let mistakes = self.findings.len();
        self.findings.push(suggest::unknown_name("host", at, name.as_str(), mistakes, known));
    }

    /// The next hop, for each address family that the two hosts share.
    pub(super) fn next_hop(&mut self, hop: NextHopDoc<'_>) -> Option<Vec<Gateway>> {
        match &hop.stated.value {
            GatewayDoc::Host(name) if !self.hosts.contains_key(name) => {
                self.unknown_host(name, hop.at());
                None
            }
            GatewayDoc::Host(name) => self.next_hop_by_name(hop, name),
            GatewayDoc::Address(address) => {
                self.next_hop_by_address(hop, *address).map(|gateway| vec![gateway])
            }
        }
    }

    fn next_hop_by_name(&mut self, hop: NextHopDoc<'_>, name: &HostName) -> Option<Vec<Gateway>> {
        let of = hop.of;
        if of == name {
            self.findings.push(hop.is_own());
            return None;
        }
        let (host, gateway) = (self.clear_host(of)?, self.clear_host(name)?);
        let mut candidates = candidates(host, gateway, hop.interface);
        candidates.retain(|(address, _)| hop.ipv4.is_none_or(|v4| address.is_ipv4() == v4));
        let of_family = |v4: bool| candidates.iter().filter(move |(a, _)| a.is_ipv4() == v4);
        let ambiguous = [true, false].into_iter().find(|v4| of_family(*v4).count() > 1);
        if !candidates.is_empty() && ambiguous.is_none() {
            let one = |(address, dev): &(IpAddr, &IfName)| Gateway {
                address: *address,
                host: Some(name.clone()),
                interface: (*dev).clone(),
                derived: false,
                at: hop.at(),
            };
            return Some(candidates.iter().map(one).collect());
        }
        let finding = if candidates.is_empty() {
            let family = match hop.ipv4 {
                None => "",
                Some(true) => "IPv4 ",
                Some(false) => "IPv6 ",
            };
            let theirs = suggest::listed(plugged(gateway).map(|(_, a)| a));
            let theirs = if theirs.is_empty() { "none".to_owned() } else { theirs };
            let ours = suggest::listed(plugged(host).map(|(_, a)| a));
            Finding::error(
                "gateway-not-on-link",
                hop.at(),
                format!(
                    "{name} has no {family}address in a subnet of {} on a shared network",
                    hop.place()
                ),
                format!("a gateway must be on-link; {of} has {ours}, {name} has {theirs}"),
                format!(
                    "give both an address in one subnet of one network, or name another gateway for {of}"
                ),
            )
        } else {
            let all = of_family(ambiguous.unwrap_or(true));
            let all: Vec<IpAddr> = all.map(|(a, _)| *a).collect();
            Finding::error(
                "gateway-ambiguous",
                hop.at(),
                format!("{name} has several addresses next to {of}: {}", suggest::listed(&all)),
                "a route has one next hop",
                format!(
                    "name the address: `{}: {}`",
                    hop.key,
                    all.first().map_or(String::new(), IpAddr::to_string)
                ),
            )
        };
        self.findings.push(finding);
        None
    }

    fn next_hop_by_address(&mut self, hop: NextHopDoc<'_>, address: IpAddr) -> Option<Gateway> {
        let of = hop.of;
        let host = self.clear_host(of)?;
        if host.interface_with(address).is_some() {
            self.findings.push(hop.is_own());
            return None;
        }
        let found = on_link_over(host, address, hop.interface);
        let holder = self.holder(address);
        let Some((address, dev)) = found else {
            self.findings.push(Finding::error(
                "gateway-not-on-link",
                hop.at(),
                format!("{address} is in no subnet of {}", hop.place()),
                "the kernel refuses a gateway that is not on-link (ENETUNREACH)",
                format!("name an address in a subnet of {}", hop.place()),
            ));
            return None;
        };
        let wire = host.interfaces.get(&dev).and_then(|i| i.network.as_ref());
        let their_wire =
            holder.and_then(|h| h.interface_with(address)).and_then(|(i, _)| i.network.as_ref());
        if let (Some(holder), Some(theirs)) = (holder, their_wire)
            && Some(theirs) != wire
        {
            let message = format!(
                "{address} is {}'s address on network {theirs}, which {of} is not on",
                holder.name
            );
            let why = "no host on its own network answers ARP for it";
            let cure = "name a gateway on a shared network";
            self.findings.push(Finding::error("gateway-not-on-link", hop.at(), message, why, cure));
            return None;
        }
        let host = holder.map(|h| h.name.clone());
        Some(Gateway { address, host, interface: dev, derived: false, at: hop.at() })
    }
}
