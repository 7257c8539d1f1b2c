//! Services: one entry of the file becomes one IPVS service for each port.

#![allow(
    clippy::option_option,
    reason = "outer: whether it is valid; inner: whether the file has it"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::rips::ServiceDefaults;
use super::{Resolver, hosts};
use crate::finding::{Finding, Position};
use crate::names::{HostName, ServiceName};
use crate::state::{Protocol, Tunnel};
use crate::topology::document::{Defaults, Document, Field, MaskDoc, RealServerDoc, ServiceDoc};
use crate::topology::model::{
    FirewallMark, Forward, Host, Pace, Persistence, Quorum, RealServer, Role, Scheduler, Service,
    TunnelSources, Vip,
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

/// A service without `director:` in a file without a director.
fn no_director(resolver: &mut Resolver, document: &Document) {
    let could_be = |h: &Host| h.roles.is_empty() || h.roles.contains(&Role::Director);
    let first = document.services.iter().find(|s| s.director == Field::Missing);
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

/// The value of a required key; reports a missing one. `None` if missing or not valid.
fn needed<T: Clone>(
    resolver: &mut Resolver,
    field: &Field<T>,
    key: &str,
    doc: &ServiceDoc,
    cure: &str,
) -> Option<T> {
    if let Field::Missing = field {
        resolver.findings.push(Finding::error(
            "missing-key",
            doc.at,
            format!("this service has no `{key}`"),
            "neither the service nor `defaults` sets it, and lvsprov cannot derive it",
            cure,
        ));
    }
    field.value().map(|v| v.value.clone())
}

/// The value, or `otherwise` if missing; `None` if not valid.
fn value_or<T: Clone>(field: &Field<T>, otherwise: T) -> Option<T> {
    match field {
        Field::Value(value) => Some(value.value.clone()),
        Field::Missing => Some(otherwise),
        Field::Invalid => None,
    }
}

impl Resolver {
    /// One entry of the file: one service for each port, or one for its mark.
    fn service(&mut self, doc: &ServiceDoc, document: &Document) -> Option<Vec<Service>> {
        let defaults = &document.defaults;
        let ports = self.ports(doc, defaults);
        let says_for_itself = |real: &RealServerDoc| real.forward != Field::Missing;
        let forward = doc.forward.or(&defaults.forward);
        if *forward == Field::Missing && !doc.real_servers.iter().all(says_for_itself) {
            let cure = "add `forward: nat`, `dr`, `tun` or `fullnat` here or under `defaults`";
            needed(self, forward, "forward", doc, cure);
        }
        let director = self.director(doc);
        let vip = self.vip(doc, director.as_ref());
        let ipv6 = doc.vip.value().map_or_else(
            || doc.ipv6.value().is_some_and(|field| field.value),
            |vip| vip.value.0.is_ipv6(),
        );
        let base = ServiceDefaults {
            ipv6,
            port: None,
            weight: value_or(&defaults.weight, 1),
            forward: forward.value().map(|forward| forward.value),
            tunnel: value_or(&doc.tunnel, Tunnel::Ipip.into()),
            check: value_or(doc.check.or(&defaults.check), None),
        };
        let mark = self.mark(doc, defaults, ports.as_deref());
        let entries = match (&mark, &ports) {
            (Some(None), Some(ports)) if !ports.is_empty() => ports.clone(),
            _ => vec![0],
        };
        let clear_port = ports.is_some() || matches!(mark, Some(Some(_)));
        // Real servers are resolved even if the service is not valid, for their findings.
        let mut of_port = Vec::new();
        for (turn, port) in entries.iter().enumerate() {
            let defaults = ServiceDefaults { port: clear_port.then_some(*port), ..base.clone() };
            let before = self.findings.len();
            let real_servers = doc.real_servers.iter();
            let mut found: Vec<_> = real_servers
                .filter_map(|real| self.real_server(real, director.as_ref(), &defaults))
                .collect();
            found.extend(self.sorry_server(doc, director.as_ref(), &defaults));
            if turn > 0 {
                self.findings.truncate(before);
            }
            of_port.push((*port, found));
        }
        self.idle_tunnels(doc, defaults);
        self.idle_quorum(doc, defaults);
        let (vip, director, mark) = (vip?, director?, mark?);
        if !clear_port {
            return None;
        }
        let protocols = protocols(doc, defaults)?;
        let persistence = self.persistence(doc, ipv6)?;
        let weights = self.weights(doc, defaults)?;
        let make = |(port, mut real_servers): (u16, Vec<RealServer>)| {
            let protocol = *protocols.first()?;
            for real in &mut real_servers {
                if !real.forward.encapsulates() {
                    real.tunnel = Tunnel::Ipip;
                    real.tunnel_sources = TunnelSources::default();
                }
            }
            real_servers.sort_by(|a, b| (&a.host, a.port, a.rip).cmp(&(&b.host, b.port, b.rip)));
            let derived = Service::derived_name(protocol, vip.as_ref(), port, mark.as_ref());
            let name = match &doc.name {
                Field::Value(name) if entries.len() > 1 => {
                    format!("{}-{port}", name.value).parse().ok()?
                }
                Field::Value(name) => name.value.clone(),
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
                weights,
                quorum: doc.quorum.value().map(|it| Quorum { weight: it.value, at: it.at }),
                director: director.clone(),
                real_servers,
                at: doc.at,
            })
        };
        of_port.into_iter().map(make).collect()
    }

    /// `tunnel` without `forward: tun` has no effect.
    fn idle_tunnels(&mut self, doc: &ServiceDoc, defaults: &Defaults) {
        const WHY: &str = "only `forward: tun` encapsulates packets: with other methods the kernel ignores the tunnel";
        let all = doc.forward.or(&defaults.forward);
        let is_tun = |field: &Field<Forward>| match field {
            Field::Value(forward) => forward.value.encapsulates(),
            Field::Missing | Field::Invalid => true,
        };
        for real in &doc.real_servers {
            if let (Field::Value(tunnel), forward) = (&real.tunnel, real.forward.or(all))
                && !is_tun(forward)
            {
                let message = format!("{} has `tunnel`, but not `forward: tun`", real.host.value);
                let cure = "add `forward: tun`, or remove `tunnel`";
                self.findings.push(Finding::error("tunnel-unused", tunnel.at, message, WHY, cure));
            }
        }
        if let Field::Value(tunnel) = &doc.tunnel
            && !doc.real_servers.iter().any(|real| is_tun(real.forward.or(all)))
        {
            let message = "this service has `tunnel`, but no real server has `forward: tun`";
            let cure = "add `forward: tun`, or remove `tunnel`";
            self.findings.push(Finding::error("tunnel-unused", tunnel.at, message, WHY, cure));
        }
    }

    /// The ports of an entry; a mark needs none. `None` if not valid.
    fn ports(&mut self, doc: &ServiceDoc, defaults: &Defaults) -> Option<Vec<u16>> {
        match &doc.ports {
            Field::Invalid => None,
            Field::Value(ports) => Some(ports.value.iter().map(|port| port.value).collect()),
            Field::Missing if doc.mark != Field::Missing => Some(Vec::new()),
            Field::Missing => {
                let cure = "add `port:` here or under `defaults`";
                needed(self, &defaults.port, "port", doc, cure).map(|port| vec![port])
            }
        }
    }

    /// The VIP with its interface on the director. `None` if not valid, `Some(None)` if the entry has no VIP.
    fn vip(&mut self, doc: &ServiceDoc, director: Option<&HostName>) -> Option<Option<Vip>> {
        if let (Field::Missing, Some(at)) = (&doc.vip, doc.vip_interface.value().map(|i| i.at)) {
            self.without_vip(at, "vip_interface");
        }
        if let (Field::Value(_), Some(at)) = (&doc.vip, doc.ipv6.value().map(|family| family.at)) {
            self.findings.push(Finding::error(
                "family-of-vip",
                at,
                "this service has both `family` and `vip`",
                "the VIP determines the address family",
                "remove `family`",
            ));
        }
        match &doc.vip {
            Field::Invalid => None,
            Field::Missing => Some(None),
            Field::Value(At { value: (address, prefix), at }) => {
                let interface = self.vip_interface(doc, director?, *address)?;
                Some(Some(Vip { address: *address, prefix: *prefix, interface, at: *at }))
            }
        }
    }

    fn without_vip(&mut self, at: Position, key: &str) {
        self.findings.push(Finding::error(
            "without-vip",
            at,
            format!("this service has `{key}`, but no `vip`"),
            "without a VIP lvsprov sets only the IPVS service, and the operator's own rules mark its packets",
            format!("add `vip:`, or remove `{key}`"),
        ));
    }

    /// The firewall mark. `None` if not valid, `Some(None)` if the entry has none.
    fn mark(
        &mut self,
        doc: &ServiceDoc,
        defaults: &Defaults,
        ports: Option<&[u16]>,
    ) -> Option<Option<FirewallMark>> {
        let Some(At { value: mark, .. }) = (match &doc.mark {
            Field::Invalid => return None,
            field => field.value(),
        }) else {
            if let Some(at) = doc.marked_by_us.value().map(|by| by.at) {
                self.findings.push(Finding::error(
                    "mark-missing",
                    at,
                    "this service has `marked_by`, but no `mark`",
                    "only a firewall-mark service has marked packets",
                    "add `mark: 1`, or remove `marked_by`",
                ));
            }
            if let Field::Value(all) = &doc.protocols
                && all.value.len() > 1
            {
                self.findings.push(Finding::error(
                    "several-protocols",
                    all.at,
                    "only a firewall-mark service can have several protocols",
                    "an IPVS service has one protocol, unless a firewall mark selects its packets",
                    "write one service for each protocol, or add `mark:`",
                ));
                return None;
            }
            return Some(None);
        };
        let ours = match (&doc.marked_by_us, &doc.vip) {
            (Field::Value(by), Field::Missing) if by.value => {
                self.without_vip(by.at, "marked_by: lvsprov");
                return None;
            }
            (Field::Value(by), _) => by.value,
            (Field::Invalid, _) => return None,
            (Field::Missing, vip) => *vip != Field::Missing,
        };
        Some(Some(FirewallMark {
            mark: *mark,
            protocols: protocols(doc, defaults)?,
            ports: ports?.iter().copied().filter(|port| *port != 0).collect(),
            ours,
        }))
    }

    fn persistence(&mut self, doc: &ServiceDoc, ipv6: bool) -> Option<Option<Persistence>> {
        let field = match &doc.persistence {
            Field::Missing => return Some(None),
            Field::Invalid => return None,
            Field::Value(field) => &field.value,
        };
        let netmask = match (&field.mask, ipv6) {
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
                    "this mask is not of the VIP's address family",
                    "an IPv4 mask is 255.255.255.0 or a length up to 32, an IPv6 mask is a prefix length up to 128",
                    if ipv6 { "write a prefix length, such as `mask: 64`" } else { "write a mask, such as `mask: 255.255.255.0`" },
                ));
                return None;
            }
        };
        Some(Some(Persistence { timeout: field.timeout, netmask, engine: field.engine }))
    }

    /// A VIP's prefix length in one service applies to every service of that VIP on that director.
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

    /// Names are unique. The rule `duplicate-service` reports equal keys.
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
                "commands and reports refer to services by name",
                "rename one of them, or remove `name`: lvsprov derives one",
            ));
        }
    }
}

/// The protocols of an entry; several only with a mark. `None` if not valid.
fn protocols(doc: &ServiceDoc, defaults: &Defaults) -> Option<BTreeSet<Protocol>> {
    match &doc.protocols {
        Field::Invalid => None,
        Field::Value(all) => Some(all.value.clone()),
        Field::Missing => Some(BTreeSet::from([value_or(&defaults.protocol, Protocol::Tcp)?])),
    }
}

/// The set, empty if missing; `None` if not valid.
fn all_or_none<T: Clone>(field: &Field<BTreeSet<T>>) -> Option<BTreeSet<T>> {
    match field {
        Field::Invalid => None,
        Field::Missing => Some(BTreeSet::new()),
        Field::Value(all) => Some(all.value.clone()),
    }
}

pub(super) fn lacks_role(host: &Host, role: &str, at: Position) -> Finding {
    Finding::error(
        "role-missing",
        at,
        format!("{} does not have the role {role}", host.name),
        "a host's settings follow from its roles; this may also be the wrong host",
        format!("add {role} to the roles of {}, or name another host", host.name),
    )
}
