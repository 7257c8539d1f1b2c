//! Services: one entry of the file to as many services of IPVS as it stands for.

#![allow(
    clippy::option_option,
    reason = "outside: whether it is clear; inside: whether it is there"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::rips::ForAll;
use super::{Resolver, hosts};
use crate::finding::{Finding, Position};
use crate::names::{HostName, ServiceName};
use crate::state::{Protocol, Tunnel};
use crate::topology::document::{Defaults, Document, MaskDoc, RealServerDoc, Said, ServiceDoc};
use crate::topology::model::{
    Forward, Host, Mark, Pace, Persistence, RealServer, Role, Scheduler, Service, Vip,
};
use crate::topology::node::At;

pub(super) fn resolve(resolver: &mut Resolver, document: &Document) {
    let vips: BTreeSet<IpAddr> =
        document.services.iter().filter_map(|s| s.vip.value()).map(|v| v.value.0).collect();
    hosts::duplicate_addresses(resolver, &document.hosts, &vips);
    for doc in &document.services {
        let services = resolver.service(doc, document);
        resolver.services.extend(services.unwrap_or_default());
    }
    no_director(resolver, document);
    resolver.one_prefix_for_each_vip();
    resolver.names(document);
    resolver.services.sort_by(|a, b| {
        let key =
            |s: &Service| (s.vip_address(), s.protocol, s.port, s.mark.as_ref().map(|m| m.mark));
        (key(a), &a.name).cmp(&(key(b), &b.name))
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
    /// One entry of the file: as many services as it has ports, unless it has a mark.
    fn service(&mut self, doc: &ServiceDoc, document: &Document) -> Option<Vec<Service>> {
        let defaults = &document.defaults;
        let ports = self.ports(doc, defaults);
        let says_for_itself = |real: &RealServerDoc| real.forward != Said::Nothing;
        let forward = doc.forward.or(&defaults.forward);
        if *forward == Said::Nothing && !doc.real_servers.iter().all(says_for_itself) {
            let cure = "add `forward: nat`, `dr`, `tun` or `fullnat` here or under `defaults`";
            needed(self, forward, "forward", doc, cure);
        }
        let director = self.director(doc);
        let vip = self.vip(doc, director.as_ref());
        let ipv6 = doc.vip.value().map_or_else(
            || doc.ipv6.value().is_some_and(|said| said.value),
            |vip| vip.value.0.is_ipv6(),
        );
        let base = ForAll {
            ipv6,
            port: None,
            weight: value_or(&defaults.weight, 1),
            forward: forward.value().map(|forward| forward.value),
            tunnel: value_or(&doc.tunnel, Tunnel::Ipip),
        };
        let mark = self.mark(doc, defaults, ports.as_deref());
        let entries = match (&mark, &ports) {
            (Some(None), Some(ports)) if !ports.is_empty() => ports.clone(),
            _ => vec![0],
        };
        let clear_port = ports.is_some() || matches!(mark, Some(Some(_)));
        // All of them are looked at, also where the service itself is not clear.
        let mut of_port = Vec::new();
        for (turn, port) in entries.iter().enumerate() {
            let defaults = ForAll { port: clear_port.then_some(*port), ..base };
            let before = self.findings.len();
            let real_servers = doc.real_servers.iter();
            let found: Vec<_> = real_servers
                .filter_map(|real| self.real_server(real, director.as_ref(), &defaults))
                .collect();
            if turn > 0 {
                self.findings.truncate(before);
            }
            of_port.push((*port, found));
        }
        self.idle_tunnels(doc, defaults);
        let (vip, director, mark) = (vip?, director?, mark?);
        if !clear_port {
            return None;
        }
        let protocols = protocols(doc, defaults)?;
        let persistence = self.persistence(doc, ipv6)?;
        let make = |(port, mut real_servers): (u16, Vec<RealServer>)| {
            let protocol = *protocols.first()?;
            for real in &mut real_servers {
                if real.forward != Forward::Tun {
                    real.tunnel = Tunnel::Ipip;
                }
            }
            real_servers.sort_by(|a, b| (&a.host, a.port, a.rip).cmp(&(&b.host, b.port, b.rip)));
            let derived = Service::derived_name(protocol, vip.as_ref(), port, mark.as_ref());
            let name = match &doc.name {
                Said::This(name) if entries.len() > 1 => {
                    format!("{}-{port}", name.value).parse().ok()?
                }
                Said::This(name) => name.value.clone(),
                _ => derived.parse().ok()?,
            };
            Some(Service {
                name,
                vip: vip.clone(),
                ipv6,
                port,
                protocol,
                mark: mark.clone(),
                scheduler: value_or(doc.scheduler.or(&defaults.scheduler), Scheduler::Wlc)?,
                scheduler_flags: all_or_none(&doc.scheduler_flags)?,
                persistence,
                one_packet: value_or(&doc.one_packet, false)?,
                pace: Pace {
                    drain: value_or(&doc.drain, Pace::DRAIN)?,
                    ramp: value_or(&doc.ramp, 0)?,
                },
                director: director.clone(),
                real_servers,
                at: doc.at,
            })
        };
        of_port.into_iter().map(make).collect()
    }

    /// A tunnel where nothing is tunnelled: the kernel keeps it, and nothing comes of it.
    fn idle_tunnels(&mut self, doc: &ServiceDoc, defaults: &Defaults) {
        const WHY: &str =
            "only `forward: tun` wraps packets: the kernel accepts it elsewhere and ignores it";
        let all = doc.forward.or(&defaults.forward);
        let is_tun = |said: &Said<Forward>| match said {
            Said::This(forward) => forward.value == Forward::Tun,
            Said::Nothing | Said::Unclear => true,
        };
        for real in &doc.real_servers {
            if let (Said::This(tunnel), forward) = (&real.tunnel, real.forward.or(all))
                && !is_tun(forward)
            {
                let message =
                    format!("{} has a `tunnel`, and is not reached by one", real.host.value);
                let cure = "write `forward: tun` beside it, or remove `tunnel`";
                self.findings.push(Finding::error("tunnel-unused", tunnel.at, message, WHY, cure));
            }
        }
        if let Said::This(tunnel) = &doc.tunnel
            && !doc.real_servers.iter().any(|real| is_tun(real.forward.or(all)))
        {
            let message =
                "this service has a `tunnel`, and none of its real servers is reached by one";
            let cure = "write `forward: tun`, or remove `tunnel`";
            self.findings.push(Finding::error("tunnel-unused", tunnel.at, message, WHY, cure));
        }
    }

    /// The ports of an entry; a mark needs none. `None` where they are not clear.
    fn ports(&mut self, doc: &ServiceDoc, defaults: &Defaults) -> Option<Vec<u16>> {
        match &doc.ports {
            Said::Unclear => None,
            Said::This(ports) => Some(ports.value.iter().map(|port| port.value).collect()),
            Said::Nothing if doc.mark != Said::Nothing => Some(Vec::new()),
            Said::Nothing => {
                let cure = "add `port:` here or under `defaults`";
                needed(self, &defaults.port, "port", doc, cure).map(|port| vec![port])
            }
        }
    }

    /// The VIP with its place on the director; `None` where that is not clear, `Some(None)` where
    /// there is none.
    fn vip(&mut self, doc: &ServiceDoc, director: Option<&HostName>) -> Option<Option<Vip>> {
        if let (Said::Nothing, Some(at)) = (&doc.vip, doc.vip_interface.value().map(|i| i.at)) {
            self.without_vip(at, "vip_interface");
        }
        if let (Said::This(_), Some(at)) = (&doc.vip, doc.ipv6.value().map(|family| family.at)) {
            self.findings.push(Finding::error(
                "family-of-vip",
                at,
                "`family` is said beside a VIP",
                "the VIP says it already",
                "remove `family`",
            ));
        }
        match &doc.vip {
            Said::Unclear => None,
            Said::Nothing => Some(None),
            Said::This(At { value: (address, prefix), at }) => {
                let interface = self.vip_interface(doc, director?, *address)?;
                Some(Some(Vip { address: *address, prefix: *prefix, interface, at: *at }))
            }
        }
    }

    fn without_vip(&mut self, at: Position, key: &str) {
        self.findings.push(Finding::error(
            "without-vip",
            at,
            format!("`{key}` is said, but there is no `vip`"),
            "without a VIP lvsprov sets the IPVS service only, and others' rules mark its packets",
            format!("add `vip:`, or remove `{key}`"),
        ));
    }

    /// The firewall mark; `Some(None)` where the service has none.
    fn mark(
        &mut self,
        doc: &ServiceDoc,
        defaults: &Defaults,
        ports: Option<&[u16]>,
    ) -> Option<Option<Mark>> {
        let Some(At { value: mark, .. }) = (match &doc.mark {
            Said::Unclear => return None,
            said => said.value(),
        }) else {
            if let Some(at) = doc.marked_by_us.value().map(|by| by.at) {
                self.findings.push(Finding::error(
                    "mark-missing",
                    at,
                    "`marked_by` is said, but there is no `mark`",
                    "only a firewall-mark service has marked packets",
                    "add `mark: 1`, or remove `marked_by`",
                ));
            }
            if let Said::This(all) = &doc.protocols
                && all.value.len() > 1
            {
                self.findings.push(Finding::error(
                    "several-protocols",
                    all.at,
                    "only a firewall-mark service can have several protocols",
                    "a service of IPVS has one protocol, unless a mark names it",
                    "write one service for each, or add `mark:`",
                ));
                return None;
            }
            return Some(None);
        };
        let ours = match (&doc.marked_by_us, &doc.vip) {
            (Said::This(by), Said::Nothing) if by.value => {
                self.without_vip(by.at, "marked_by: lvsprov");
                return None;
            }
            (Said::This(by), _) => by.value,
            (Said::Unclear, _) => return None,
            (Said::Nothing, vip) => *vip != Said::Nothing,
        };
        Some(Some(Mark {
            mark: *mark,
            protocols: protocols(doc, defaults)?,
            ports: ports?.iter().copied().filter(|port| *port != 0).collect(),
            ours,
        }))
    }

    fn persistence(&mut self, doc: &ServiceDoc, ipv6: bool) -> Option<Option<Persistence>> {
        let said = match &doc.persistence {
            Said::Nothing => return Some(None),
            Said::Unclear => return None,
            Said::This(said) => &said.value,
        };
        let netmask = match (&said.mask, ipv6) {
            (None, false) => u32::MAX,
            (None, true) => 128,
            (Some(At { value: MaskDoc::Dotted(mask), .. }), false) => u32::from(*mask),
            (Some(At { value: MaskDoc::Length(length), .. }), true) => u32::from(*length),
            (Some(At { value: MaskDoc::Length(length), .. }), false) if *length <= 32 => {
                u32::MAX << (32 - u32::from(*length))
            }
            (Some(At { at, .. }), _) => {
                self.findings.push(Finding::error(
                    "mask-of-other-family",
                    *at,
                    "this mask is not of the VIP's family",
                    "IPv4 takes a mask such as 255.255.255.0 or a length up to 32, IPv6 a prefix length",
                    if ipv6 { "write `mask: 64`, say" } else { "write `mask: 255.255.255.0`, say" },
                ));
                return None;
            }
        };
        Some(Some(Persistence { timeout: said.timeout, netmask, engine: said.engine }))
    }

    /// A prefix that one service gives its VIP holds for every service of that VIP on that director.
    fn one_prefix_for_each_vip(&mut self) {
        let mut stated = BTreeMap::new();
        for service in &self.services {
            if let Some(vip) = &service.vip
                && let Some(prefix) = vip.prefix
            {
                stated.entry((vip.address, service.director.clone())).or_insert(prefix);
            }
        }
        for service in &mut self.services {
            let Some(vip) = service.vip.as_mut().filter(|vip| vip.prefix.is_none()) else {
                continue;
            };
            vip.prefix = stated.get(&(vip.address, service.director.clone())).copied();
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

/// The protocols of an entry: one, unless it has a mark. `None` where they are not clear.
fn protocols(doc: &ServiceDoc, defaults: &Defaults) -> Option<BTreeSet<Protocol>> {
    match &doc.protocols {
        Said::Unclear => None,
        Said::This(all) => Some(all.value.clone()),
        Said::Nothing => Some(BTreeSet::from([value_or(&defaults.protocol, Protocol::Tcp)?])),
    }
}

/// The set, or the empty one where nothing is said; `None` where it is not clear.
fn all_or_none<T: Clone>(said: &Said<BTreeSet<T>>) -> Option<BTreeSet<T>> {
    match said {
        Said::Unclear => None,
        Said::Nothing => Some(BTreeSet::new()),
        Said::This(all) => Some(all.value.clone()),
    }
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
