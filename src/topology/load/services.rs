//! The key `services`.

use std::collections::BTreeSet;

use super::super::document::{Field, PersistenceDoc, RealServerDoc, ServiceDoc, TunnelDoc};
use super::super::node::{At, YamlNode, YamlValue};
use super::super::scalar;
use super::{Loader, Mapping};
use crate::finding::{Finding, Position};
use crate::state::{Protocol, Tunnel};
use crate::topology::model::{SchedulerFlag, TunnelSources};

const SERVICE: &[&str] = &[
    "name",
    "vip",
    "port",
    "ports",
    "protocol",
    "mark",
    "marked_by",
    "family",
    "scheduler",
    "scheduler_flags",
    "persistence",
    "one_packet",
    "drain",
    "ramp",
    "weights",
    "check",
    "quorum",
    "sorry_server",
    "forward",
    "tunnel",
    "director",
    "vip_interface",
    "real_servers",
];
const REAL_SERVER: &[&str] = &[
    "host",
    "weight",
    "port",
    "address",
    "upper_threshold",
    "lower_threshold",
    "forward",
    "tunnel",
    "check",
];
const SORRY_SERVER: &[&str] = &["host", "port", "address", "forward", "tunnel"];
const PERSISTENCE: &[&str] = &["timeout", "mask", "engine"];
const TUNNEL: &[&str] = &["type", "port", "checksum", "sources"];

/// Longest timeout in seconds: the kernel counts jiffies in 31 bits, at up to 1000 Hz.
const LONGEST: u64 = 2_147_483;

impl Loader {
    pub(super) fn services(&mut self, mapping: &Mapping<'_>) -> Vec<ServiceDoc> {
        let Some(node) = mapping.get("services") else {
            let cure = "add `services:`, a list with the VIP, port and real servers of each";
            self.missing(mapping, mapping.at, "services", "the file", cure);
            return Vec::new();
        };
        let items = self.list(node, "`services`", false).unwrap_or_default();
        items.iter().filter_map(|item| self.service(item)).collect()
    }

    fn service(&mut self, node: &YamlNode) -> Option<ServiceDoc> {
        let mapping = self.mapping(node, "a service", node.at, SERVICE)?;
        let name = self.field(&mapping, "name", |n| scalar::name(n, "a service's name"));
        let vip = self.field(&mapping, "vip", scalar::vip);
        let mark = self.field(&mapping, "mark", scalar::mark);
        let at = name.value().map(|n| n.at).or(vip.value().map(|v| v.at)).unwrap_or(node.at);
        if vip == Field::Missing && mark == Field::Missing {
            let cure = "add `vip:` with the address that clients use";
            self.missing(&mapping, at, "vip", "this service", cure);
        }
        let real_servers = self.real_servers(&mapping, at);
        Some(ServiceDoc {
            at,
            name,
            vip,
            ports: self.ports(&mapping),
            protocols: self.protocols(&mapping),
            mark,
            marked_by_us: self.field(&mapping, "marked_by", scalar::marked_by),
            ipv6: self.field(&mapping, "family", scalar::is_ipv6),
            scheduler: self.field(&mapping, "scheduler", scalar::scheduler),
            scheduler_flags: self.scheduler_flags(&mapping),
            persistence: self.nested(&mapping, "persistence", Self::persistence),
            one_packet: self
                .field(&mapping, "one_packet", |n| scalar::boolean_at(n, "`one_packet`")),
            drain: self.field(&mapping, "drain", scalar::wait_seconds),
            ramp: self.field(&mapping, "ramp", scalar::wait_seconds),
            weights: self.field(&mapping, "weights", scalar::weights),
            check: self.check(&mapping),
            quorum: self.field(&mapping, "quorum", scalar::checks::quorum),
            sorry_server: self.nested(&mapping, "sorry_server", |loader, node| {
                loader.real_server_of(node, "a sorry server", SORRY_SERVER)
            }),
            forward: self.field(&mapping, "forward", scalar::forward),
            tunnel: self.nested(&mapping, "tunnel", Self::tunnel),
            director: self.field(&mapping, "director", |n| scalar::name(n, "a host's name")),
            vip_interface: self
                .field(&mapping, "vip_interface", |n| scalar::name(n, "an interface")),
            real_servers,
        })
    }

    /// `port` or `ports`, not both.
    fn ports(&mut self, mapping: &Mapping<'_>) -> Field<Vec<At<u16>>> {
        let one = self.field(mapping, "port", scalar::service_port);
        let several = self.several(mapping, "ports", "`ports`", scalar::port);
        if let (Some(key), Some(_)) = (mapping.key("ports"), mapping.key("port")) {
            self.findings.push(Finding::error(
                "port-and-ports",
                key.at,
                "this service has both `port` and `ports`",
                "lvsprov cannot tell whether `port` is one more port",
                "list all ports under `ports`",
            ));
            return Field::Invalid;
        }
        if let Field::Value(all) = &several {
            let mut seen = BTreeSet::new();
            for port in &all.value {
                if !seen.insert(port.value) {
                    self.findings.push(Finding::error(
                        "duplicate-port",
                        port.at,
                        format!("port {} is listed twice", port.value),
                        "IPVS has one service for each port",
                        "remove it, or correct the number",
                    ));
                }
            }
            if seen.len() < all.value.len() {
                return Field::Invalid;
            }
        }
        match one {
            Field::Missing => several,
            Field::Invalid => Field::Invalid,
            Field::Value(port) => Field::Value(At { at: port.at, value: vec![port] }),
        }
    }

    fn protocols(&mut self, mapping: &Mapping<'_>) -> Field<BTreeSet<Protocol>> {
        match self.several(mapping, "protocol", "`protocol`", scalar::protocol) {
            Field::Missing => Field::Missing,
            Field::Invalid => Field::Invalid,
            Field::Value(At { value, at }) => {
                Field::Value(At { value: value.into_iter().map(|p| p.value).collect(), at })
            }
        }
    }

    fn scheduler_flags(&mut self, mapping: &Mapping<'_>) -> Field<BTreeSet<SchedulerFlag>> {
        let read = scalar::scheduler_flag;
        match self.several(mapping, "scheduler_flags", "`scheduler_flags`", read) {
            Field::Missing => Field::Missing,
            Field::Invalid => Field::Invalid,
            Field::Value(At { value, at }) => {
                Field::Value(At { value: value.into_iter().map(|f| f.value).collect(), at })
            }
        }
    }

    fn persistence(&mut self, node: &YamlNode) -> Option<PersistenceDoc> {
        let seconds =
            |n: &YamlNode| scalar::number_of(n, "number of seconds", "1 to 2147483", (1, LONGEST));
        if matches!(node.content, YamlValue::Scalar { .. }) {
            let timeout = self.accept(seconds(node))?.value;
            return Some(PersistenceDoc { timeout, mask: None, engine: None });
        }
        let mapping = self.mapping(node, "`persistence`", node.at, PERSISTENCE)?;
        let timeout = self.field(&mapping, "timeout", seconds);
        if timeout == Field::Missing {
            let cure = "add `timeout: 360` (seconds), ipvsadm's default";
            self.missing(&mapping, node.at, "timeout", "`persistence`", cure);
        }
        let mask = self.field(&mapping, "mask", scalar::mask).value().cloned();
        let engine = self.field(&mapping, "engine", scalar::engine).value().map(|e| e.value);
        Some(PersistenceDoc { timeout: timeout.value()?.value, mask, engine })
    }

    fn tunnel(&mut self, node: &YamlNode) -> Option<TunnelDoc> {
        if matches!(node.content, YamlValue::Scalar { .. }) {
            return match self.accept(scalar::text(node, "`tunnel`"))? {
                "ipip" => Some(Tunnel::Ipip.into()),
                "gre" => Some(Tunnel::Gre { flags: 0 }.into()),
                "gue" => {
                    self.gue_without_port(node.at);
                    None
                }
                other => {
                    self.unknown_tunnel(node.at, other);
                    None
                }
            };
        }
        let mapping = self.mapping(node, "`tunnel`", node.at, TUNNEL)?;
        let sources = self.tunnel_sources(&mapping);
        let tunnel = self.tunnel_of(node, &mapping)?;
        Some(TunnelDoc { tunnel, sources: sources? })
    }

    /// `any`, or further sources beside the directors.
    fn tunnel_sources(&mut self, mapping: &Mapping<'_>) -> Option<TunnelSources> {
        let is_any = |node: &YamlNode| scalar::text(node, "`sources`").is_ok_and(|it| it == "any");
        if mapping.get("sources").is_some_and(is_any) {
            return Some(TunnelSources::Any);
        }
        match self.several(mapping, "sources", "`sources`", scalar::tunnel_source) {
            Field::Missing => Some(TunnelSources::default()),
            Field::Invalid => None,
            Field::Value(all) => {
                let further = all.value.into_iter().map(|source| source.value).collect();
                Some(TunnelSources::Directors { further })
            }
        }
    }

    fn tunnel_of(&mut self, node: &YamlNode, mapping: &Mapping<'_>) -> Option<Tunnel> {
        let Some(kind) = mapping.get("type") else {
            let cure = "add `type: gue`, `gre` or `ipip`";
            self.missing(mapping, node.at, "type", "`tunnel`", cure);
            return None;
        };
        let port = self.field(mapping, "port", scalar::port).value().map(|port| port.value);
        let checksum = self.field(mapping, "checksum", scalar::checksum).value().map(|c| c.value);
        match self.accept(scalar::text(kind, "the tunnel's type"))? {
            "ipip" => {
                self.reject_keys(mapping, &["port", "checksum"], "ipip");
                Some(Tunnel::Ipip)
            }
            "gre" => {
                self.reject_keys(mapping, &["port"], "gre");
                if checksum == Some(2) {
                    let at = mapping.get("checksum").map_or(node.at, |n| n.at);
                    self.bad_tunnel_option(at, "gre has no remote checksum", "write true or false");
                }
                Some(Tunnel::Gre { flags: checksum.unwrap_or(0).min(1) })
            }
            "gue" => {
                if mapping.get("port").is_none() {
                    self.gue_without_port(node.at);
                }
                Some(Tunnel::Gue { port: port?, flags: checksum.unwrap_or(0) })
            }
            other => {
                self.unknown_tunnel(kind.at, other);
                None
            }
        }
    }

    fn gue_without_port(&mut self, at: Position) {
        self.findings.push(Finding::error(
            "gue-port",
            at,
            "a GUE tunnel needs a port",
            "the real servers unwrap GUE packets on a UDP port; the kernel refuses port 0 (EINVAL)",
            "write `tunnel: {type: gue, port: 6080}`",
        ));
    }

    fn unknown_tunnel(&mut self, at: Position, text: &str) {
        self.findings.push(Finding::error(
            "unknown-tunnel",
            at,
            format!("{text:?} is not a tunnel type"),
            "IPVS has three tunnel types",
            "one of: ipip, gue, gre",
        ));
    }

    fn reject_keys(&mut self, mapping: &Mapping<'_>, keys: &[&str], kind: &str) {
        for key in keys {
            if let Some(key) = mapping.key(key) {
                let message = format!("{kind} has no {}", key.value);
                self.bad_tunnel_option(key.at, &message, "remove it, or choose another type");
            }
        }
    }

    fn bad_tunnel_option(&mut self, at: Position, message: &str, cure: &str) {
        let why = "the kernel would ignore or refuse it";
        self.findings.push(Finding::error("tunnel-option", at, message, why, cure));
    }

    fn real_servers(&mut self, mapping: &Mapping<'_>, at: Position) -> Vec<RealServerDoc> {
        const CURE: &str = "add `real_servers: [NAME, NAME]`";
        let Some(node) = mapping.get("real_servers") else {
            self.missing(mapping, at, "real_servers", "this service", CURE);
            return Vec::new();
        };
        let items = self.list(node, "`real_servers`", false).unwrap_or_default();
        if matches!(&node.content, YamlValue::List(items) if items.is_empty()) {
            self.missing(mapping, node.at, "real_servers", "this service", CURE);
        }
        items.iter().filter_map(|item| self.real_server(item)).collect()
    }

    fn real_server(&mut self, node: &YamlNode) -> Option<RealServerDoc> {
        self.real_server_of(node, "a real server", REAL_SERVER)
    }

    fn real_server_of(
        &mut self,
        node: &YamlNode,
        what: &str,
        keys: &[&'static str],
    ) -> Option<RealServerDoc> {
        if !matches!(node.content, YamlValue::Map(_)) {
            let host = self.accept(scalar::name(node, what))?;
            return Some(RealServerDoc {
                at: node.at,
                host,
                weight: Field::Missing,
                port: Field::Missing,
                address: Field::Missing,
                upper_threshold: Field::Missing,
                lower_threshold: Field::Missing,
                forward: Field::Missing,
                tunnel: Field::Missing,
                check: Field::Missing,
            });
        }
        let mapping = self.mapping(node, what, node.at, keys)?;
        let host = self.field(&mapping, "host", |n| scalar::name(n, what));
        if host == Field::Missing {
            let cure = "add `host:` with a host's name";
            self.missing(&mapping, node.at, "host", &what.replacen("a ", "this ", 1), cure);
        }
        let weight = self.field(&mapping, "weight", scalar::weight);
        let port = self.field(&mapping, "port", scalar::port);
        let address =
            self.field(&mapping, "address", |n| scalar::address(n, "a real server's address"));
        let upper_threshold = self.field(&mapping, "upper_threshold", scalar::threshold);
        let lower_threshold = self.field(&mapping, "lower_threshold", scalar::threshold);
        let forward = self.field(&mapping, "forward", scalar::forward);
        let tunnel = self.nested(&mapping, "tunnel", Self::tunnel);
        let check = self.check(&mapping);
        Some(RealServerDoc {
            at: node.at,
            host: host.value()?.clone(),
            weight,
            port,
            address,
            upper_threshold,
            lower_threshold,
            forward,
            tunnel,
            check,
        })
    }
}
