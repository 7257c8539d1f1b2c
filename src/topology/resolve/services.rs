//! Services: director, VIP interface, and the address of each real server as the director sends to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use super::{Resolver, hosts};
use crate::check::Finding;
use crate::topology::document::{Document, Said, ServiceDoc};
use crate::topology::model::{Host, Interface, Position, Protocol, Role, Scheduler, Service};
use crate::topology::names::{HostName, IfName, ServiceName};
use crate::topology::node::At;
use crate::topology::suggest;

pub(super) fn resolve(resolver: &mut Resolver, document: &Document) {
    let vips: BTreeSet<Ipv4Addr> =
        document.services.iter().filter_map(|s| s.vip.value()).map(|v| v.value.0).collect();
    hosts::duplicate_addresses(resolver, &document.hosts, &vips);
    for doc in &document.services {
        if let Some(service) = resolver.service(doc, document) {
            resolver.services.push(service);
        }
    }
    no_director(resolver, document);
    resolver.one_prefix_for_each_vip();
    resolver.names(document);
    resolver.services.sort_by(|a, b| {
        (a.vip, a.protocol, a.port, &a.name).cmp(&(b.vip, b.protocol, b.port, &b.name))
    });
}

/// Services that name no director, and nobody who could be meant.
fn no_director(resolver: &mut Resolver, document: &Document) {
    let could_be = |h: &Host| h.roles.is_empty() || h.roles.contains(&Role::Director);
    let first = document.services.iter().find(|s| s.director == Said::Nothing);
    let Some(first) = first.filter(|_| !resolver.hosts.is_empty()) else { return };
    if !resolver.hosts.values().any(could_be) {
        resolver.findings.push(Finding::error(
            "no-director",
            first.at,
            "no host has the role director",
            "a service needs a host that runs IPVS for it",
            "give one host `role: director`",
        ));
    }
}

/// The value, or what is missing; `None` where it is not clear.
fn needed<T: Clone>(
    resolver: &mut Resolver,
    said: &Said<T>,
    key: &str,
    doc: &ServiceDoc,
    cure: &str,
) -> Option<T> {
    if let Said::Nothing = said {
        resolver.findings.push(Finding::error(
            "missing-key",
            doc.at,
            format!("this service has no `{key}`"),
            "neither the service nor `defaults` says it, and nothing else in the file does",
            cure,
        ));
    }
    said.value().map(|v| v.value.clone())
}

/// The value or what holds where nothing is said; `None` where it is not clear.
fn value_or<T: Copy>(said: &Said<T>, otherwise: T) -> Option<T> {
    match said {
        Said::This(value) => Some(value.value),
        Said::Nothing => Some(otherwise),
        Said::Unclear => None,
    }
}

impl Resolver {
    fn service(&mut self, doc: &ServiceDoc, document: &Document) -> Option<Service> {
        let defaults = &document.defaults;
        let cure = "add `port:` here or under `defaults`";
        let port = needed(self, doc.port.or(&defaults.port), "port", doc, cure);
        let cure = "add `forward: nat`, `dr` or `tun` here or under `defaults`";
        let forward = needed(self, doc.forward.or(&defaults.forward), "forward", doc, cure);
        let director = self.director(doc);
        let vip = doc.vip.value();
        let interface = match (&director, vip) {
            (Some(director), Some(vip)) => {
                self.vip_interface(doc, director, IpAddr::V4(vip.value.0))
            }
            _ => None,
        };
        let weight = doc_weight(&defaults.weight);
        // All of them are looked at, also where the service itself is not clear.
        let real_servers = doc.real_servers.iter();
        let real_servers: Vec<_> = real_servers
            .filter_map(|real| self.real_server(real, director.as_ref(), port, weight))
            .collect();
        let At { value: (address, vip_prefix), at: vip_at } = vip?.clone();
        let (port, protocol) =
            (port?, value_or(doc.protocol.or(&defaults.protocol), Protocol::Tcp)?);
        let name = match &doc.name {
            Said::This(name) => name.value.clone(),
            _ => Service::derived_name(protocol, IpAddr::V4(address), port).parse().ok()?,
        };
        let mut service = Service {
            name,
            vip: IpAddr::V4(address),
            vip_prefix,
            port,
            protocol,
            scheduler: value_or(doc.scheduler.or(&defaults.scheduler), Scheduler::Wlc)?,
            forward: forward?,
            director: director?,
            vip_interface: interface?,
            real_servers,
            at: doc.at,
            vip_at,
        };
        service
            .real_servers
            .sort_by(|a, b| (&a.host, a.port, a.rip).cmp(&(&b.host, b.port, b.rip)));
        Some(service)
    }

    fn director(&mut self, doc: &ServiceDoc) -> Option<HostName> {
        match &doc.director {
            Said::Unclear => None,
            Said::This(name) => {
                let Some(host) = self.hosts.get(&name.value) else {
                    self.unknown_host(&name.value, name.at);
                    return None;
                };
                if !host.roles.contains(&Role::Director) {
                    let finding = lacks_role(host, "director", name.at);
                    self.findings.extend((!self.unclear.contains(&name.value)).then_some(finding));
                    return None;
                }
                Some(name.value.clone())
            }
            Said::Nothing => self.only_director(doc),
        }
    }

    fn only_director(&mut self, doc: &ServiceDoc) -> Option<HostName> {
        let directors: Vec<&HostName> = self
            .hosts
            .values()
            .filter(|h| h.roles.contains(&Role::Director))
            .map(|h| &h.name)
            .collect();
        let finding = match directors.as_slice() {
            [only] => return Some((*only).clone()),
            // Has a finding of its own, once for all services.
            [] => return None,
            several => {
                let names: Vec<&str> = several.iter().map(|n| n.as_str()).collect();
                Finding::error(
                    "several-directors",
                    doc.at,
                    format!(
                        "several hosts are directors ({}), and the service names none",
                        names.join(", ")
                    ),
                    "a VIP can be on one machine only",
                    "add `director: NAME` to the service",
                )
            }
        };
        self.findings.push(finding);
        None
    }

    /// Where the VIP goes on the director: see [`derive_vip_interface`] for the order.
    fn vip_interface(
        &mut self,
        doc: &ServiceDoc,
        director: &HostName,
        vip: IpAddr,
    ) -> Option<IfName> {
        let host = self.hosts.get(director)?;
        let plugged: Vec<&Interface> =
            host.interfaces.values().filter(|i| i.network.is_some()).collect();
        match &doc.vip_interface {
            Said::Unclear => return None,
            Said::This(stated) => {
                if let Some(found) = plugged.iter().find(|i| i.name == stated.value) {
                    return Some(found.name.clone());
                }
                let known: Vec<&str> = plugged.iter().map(|i| i.name.as_str()).collect();
                let what = format!("interface on a network of {director} named");
                let finding =
                    suggest::unknown_name(&what, stated.at, stated.value.as_str(), &known);
                self.findings.extend((!self.unclear.contains(director)).then_some(finding));
                return None;
            }
            Said::Nothing => {}
        }
        let found = self.derive_vip_interface(host, &plugged, vip);
        let clear = !self.unclear.contains(director) && !self.unclear_gateways.contains(director);
        if found.is_none() && clear {
            let at = doc.vip.value().map_or(doc.at, |v| v.at);
            let names: Vec<&str> = plugged.iter().map(|i| i.name.as_str()).collect();
            self.findings.push(Finding::error(
                "vip-interface-unclear",
                at,
                format!("it is not clear on which interface of {director} {vip} belongs"),
                "the VIP is in no subnet of the director's networks, and several interfaces could lead to clients",
                format!("add `vip_interface:` to the service, one of: {}", names.join(", ")),
            ));
        }
        found
    }

    /// In this order: the interface that has the VIP already; whose subnet holds it; whose
    /// network has a subnet that holds it; the only one; the one to the gateway; the only one on
    /// a network with clients or routers.
    fn derive_vip_interface(
        &self,
        host: &Host,
        plugged: &[&Interface],
        vip: IpAddr,
    ) -> Option<IfName> {
        let named = |i: &Interface| Some(i.name.clone());
        if let Some((own, _)) = host.interface_with(vip).filter(|(i, _)| i.network.is_some()) {
            return named(own);
        }
        if let Some((near, _)) = host.on_link(vip).filter(|(i, _)| i.network.is_some()) {
            return named(near);
        }
        let holds = |i: &&&Interface| {
            let network = i.network.as_ref().and_then(|n| self.networks.get(n));
            network.is_some_and(|n| n.subnets.iter().any(|s| s.contains(&vip)))
        };
        let on_segment: Vec<_> = plugged.iter().filter(holds).collect();
        if let [one] = on_segment.as_slice() {
            return named(one);
        }
        if let [only] = plugged {
            return named(only);
        }
        if let Some(gateway) = &host.gateway {
            return Some(gateway.interface.clone());
        }
        let from_outside = |i: &&&Interface| {
            self.hosts.values().any(|h| {
                let outside = h.roles.contains(&Role::Client) || h.roles.contains(&Role::Router);
                h.name != host.name
                    && outside
                    && h.interfaces.values().any(|o| o.network == i.network)
            })
        };
        let outside: Vec<_> = plugged.iter().filter(from_outside).collect();
        if let [one] = outside.as_slice() { named(one) } else { None }
    }

    /// A prefix that one service gives its VIP holds for every service of that VIP on that director.
    fn one_prefix_for_each_vip(&mut self) {
        let mut stated = BTreeMap::new();
        for service in &self.services {
            if let Some(prefix) = service.vip_prefix {
                stated.entry((service.vip, service.director.clone())).or_insert(prefix);
            }
        }
        for service in self.services.iter_mut().filter(|s| s.vip_prefix.is_none()) {
            service.vip_prefix = stated.get(&(service.vip, service.director.clone())).copied();
        }
    }

    /// Names are unique. Two services with the same key have a finding of their own.
    fn names(&mut self, document: &Document) {
        let mut seen: HashMap<&ServiceName, Position> = HashMap::new();
        for name in document.services.iter().filter_map(|s| s.name.value()) {
            let Some(first) = seen.get(&name.value) else {
                seen.insert(&name.value, name.at);
                continue;
            };
            self.findings.push(Finding::error(
                "duplicate-name",
                name.at,
                format!(
                    "two services are named {} (the first at {}:{})",
                    name.value, first.line, first.column
                ),
                "commands and reports name services",
                "rename one of them, or leave `name` away: it is then derived",
            ));
        }
    }
}

fn doc_weight(default: &Said<u32>) -> Option<u32> {
    value_or(default, 1)
}

pub(super) fn lacks_role(host: &Host, role: &str, at: Position) -> Finding {
    Finding::error(
        "role-missing",
        at,
        format!("{} does not have the role {role}", host.name),
        "what a host gets follows from its roles; this may also be the wrong host",
        format!("add {role} to the roles of {}, or name another host", host.name),
    )
}
