//! What stands under `services`.

use std::collections::BTreeSet;

use super::super::document::{PersistenceDoc, RealServerDoc, Said, ServiceDoc};
use super::super::node::{At, Content, Node};
use super::super::scalar;
use super::{Loader, Table};
use crate::finding::{Finding, Position};
use crate::state::{Protocol, Tunnel};
use crate::topology::model::SchedulerFlag;

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
];
const PERSISTENCE: &[&str] = &["timeout", "mask", "engine"];
const TUNNEL: &[&str] = &["type", "port", "checksum"];

/// The kernel counts in jiffies: what is longer would not fit at 1000 Hz.
const LONGEST: u64 = 2_147_483;

impl Loader {
    pub(super) fn services(&mut self, table: &Table<'_>) -> Vec<ServiceDoc> {
        let Some(node) = table.get("services") else {
            let cure = "add `services:`, a list with the VIP, port and real servers of each";
            self.missing(table, table.at, "services", "the file", cure);
            return Vec::new();
        };
        let items = self.list(node, "`services`", false).unwrap_or_default();
        items.iter().filter_map(|item| self.service(item)).collect()
    }

    fn service(&mut self, node: &Node) -> Option<ServiceDoc> {
        let table = self.table(node, "a service", node.at, SERVICE)?;
        let name = self.said(&table, "name", |n| scalar::name(n, "a service's name"));
        let vip = self.said(&table, "vip", scalar::vip);
        let mark = self.said(&table, "mark", scalar::mark);
        let at = name.value().map(|n| n.at).or(vip.value().map(|v| v.at)).unwrap_or(node.at);
        if vip == Said::Nothing && mark == Said::Nothing {
            let cure = "add `vip:` with the address that clients use";
            self.missing(&table, at, "vip", "this service", cure);
        }
        let real_servers = self.real_servers(&table, at);
        Some(ServiceDoc {
            at,
            name,
            vip,
            ports: self.ports(&table),
            protocols: self.protocols(&table),
            mark,
            marked_by_us: self.said(&table, "marked_by", scalar::marked_by),
            ipv6: self.said(&table, "family", scalar::is_ipv6),
            scheduler: self.said(&table, "scheduler", scalar::scheduler),
            scheduler_flags: self.scheduler_flags(&table),
            persistence: self.nested(&table, "persistence", Self::persistence),
            one_packet: self.said(&table, "one_packet", |n| scalar::truth(n, "`one_packet`")),
            drain: self.said(&table, "drain", scalar::patience),
            ramp: self.said(&table, "ramp", scalar::patience),
            forward: self.said(&table, "forward", scalar::forward),
            tunnel: self.nested(&table, "tunnel", Self::tunnel),
            director: self.said(&table, "director", |n| scalar::name(n, "a host's name")),
            vip_interface: self.said(&table, "vip_interface", |n| scalar::name(n, "an interface")),
            real_servers,
        })
    }

    /// `port` or `ports`, not both.
    fn ports(&mut self, table: &Table<'_>) -> Said<Vec<At<u16>>> {
        let one = self.said(table, "port", scalar::service_port);
        let several = self.several(table, "ports", "`ports`", scalar::port);
        if let (Some(key), Some(_)) = (table.key("ports"), table.key("port")) {
            self.findings.push(Finding::error(
                "port-and-ports",
                key.at,
                "this service has both `port` and `ports`",
                "it is not clear whether the one belongs to the others",
                "write all of them into `ports`",
            ));
            return Said::Unclear;
        }
        if let Said::This(all) = &several {
            let mut seen = BTreeSet::new();
            for port in &all.value {
                if !seen.insert(port.value) {
                    self.findings.push(Finding::error(
                        "duplicate-port",
                        port.at,
                        format!("port {} is there already", port.value),
                        "a service has a port once",
                        "remove it, or write the one that was meant",
                    ));
                }
            }
            if seen.len() < all.value.len() {
                return Said::Unclear;
            }
        }
        match one {
            Said::Nothing => several,
            Said::Unclear => Said::Unclear,
            Said::This(port) => Said::This(At { at: port.at, value: vec![port] }),
        }
    }

    fn protocols(&mut self, table: &Table<'_>) -> Said<BTreeSet<Protocol>> {
        match self.several(table, "protocol", "`protocol`", scalar::protocol) {
            Said::Nothing => Said::Nothing,
            Said::Unclear => Said::Unclear,
            Said::This(At { value, at }) => {
                Said::This(At { value: value.into_iter().map(|p| p.value).collect(), at })
            }
        }
    }

    fn scheduler_flags(&mut self, table: &Table<'_>) -> Said<BTreeSet<SchedulerFlag>> {
        let read = scalar::scheduler_flag;
        match self.several(table, "scheduler_flags", "`scheduler_flags`", read) {
            Said::Nothing => Said::Nothing,
            Said::Unclear => Said::Unclear,
            Said::This(At { value, at }) => {
                Said::This(At { value: value.into_iter().map(|f| f.value).collect(), at })
            }
        }
    }

    fn persistence(&mut self, node: &Node) -> Option<PersistenceDoc> {
        let seconds =
            |n: &Node| scalar::number_of(n, "number of seconds", "1 to 2147483", (1, LONGEST));
        if matches!(node.content, Content::Scalar { .. }) {
            let timeout = self.keep(seconds(node))?.value;
            return Some(PersistenceDoc { timeout, mask: None, engine: None });
        }
        let table = self.table(node, "`persistence`", node.at, PERSISTENCE)?;
        let timeout = self.said(&table, "timeout", seconds);
        if timeout == Said::Nothing {
            let cure = "add `timeout: 360`, in seconds: it is what ipvsadm takes by default";
            self.missing(&table, node.at, "timeout", "`persistence`", cure);
        }
        let mask = self.said(&table, "mask", scalar::mask).value().cloned();
        let engine = self.said(&table, "engine", scalar::engine).value().map(|e| e.value);
        Some(PersistenceDoc { timeout: timeout.value()?.value, mask, engine })
    }

    fn tunnel(&mut self, node: &Node) -> Option<Tunnel> {
        if matches!(node.content, Content::Scalar { .. }) {
            return match self.keep(scalar::text(node, "`tunnel`"))? {
                "ipip" => Some(Tunnel::Ipip),
                "gre" => Some(Tunnel::Gre { flags: 0 }),
                "gue" => {
                    self.gue_without_port(node.at);
                    None
                }
                other => self.unknown_tunnel(node.at, other),
            };
        }
        let table = self.table(node, "`tunnel`", node.at, TUNNEL)?;
        let Some(kind) = table.get("type") else {
            let cure = "add `type: gue`, `gre` or `ipip`";
            self.missing(&table, node.at, "type", "`tunnel`", cure);
            return None;
        };
        let port = self.said(&table, "port", scalar::port).value().map(|port| port.value);
        let checksum = self.said(&table, "checksum", scalar::checksum).value().map(|c| c.value);
        match self.keep(scalar::text(kind, "the tunnel's type"))? {
            "ipip" => {
                self.not_for(&table, &["port", "checksum"], "ipip");
                Some(Tunnel::Ipip)
            }
            "gre" => {
                self.not_for(&table, &["port"], "gre");
                if checksum == Some(2) {
                    let at = table.get("checksum").map_or(node.at, |n| n.at);
                    self.not_understood(at, "gre knows no remote checksum", "write true or false");
                }
                Some(Tunnel::Gre { flags: checksum.unwrap_or(0).min(1) })
            }
            "gue" => {
                if table.get("port").is_none() {
                    self.gue_without_port(node.at);
                }
                Some(Tunnel::Gue { port: port?, flags: checksum.unwrap_or(0) })
            }
            other => self.unknown_tunnel(kind.at, other),
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

    fn unknown_tunnel(&mut self, at: Position, text: &str) -> Option<Tunnel> {
        self.findings.push(Finding::error(
            "unknown-tunnel",
            at,
            format!("{text:?} is no type of tunnel"),
            "IPVS knows three",
            "one of: ipip, gue, gre",
        ));
        None
    }

    fn not_for(&mut self, table: &Table<'_>, keys: &[&str], kind: &str) {
        for key in keys {
            if let Some(key) = table.key(key) {
                let message = format!("{kind} has no {}", key.value);
                self.not_understood(key.at, &message, "remove it, or choose another type");
            }
        }
    }

    fn not_understood(&mut self, at: Position, message: &str, cure: &str) {
        let why = "the kernel would ignore or refuse it";
        self.findings.push(Finding::error("tunnel-option", at, message, why, cure));
    }

    fn real_servers(&mut self, table: &Table<'_>, at: Position) -> Vec<RealServerDoc> {
        const CURE: &str = "add `real_servers: [NAME, NAME]`";
        let Some(node) = table.get("real_servers") else {
            self.missing(table, at, "real_servers", "this service", CURE);
            return Vec::new();
        };
        let items = self.list(node, "`real_servers`", false).unwrap_or_default();
        if matches!(&node.content, Content::List(items) if items.is_empty()) {
            self.missing(table, node.at, "real_servers", "this service", CURE);
        }
        items.iter().filter_map(|item| self.real_server(item)).collect()
    }

    fn real_server(&mut self, node: &Node) -> Option<RealServerDoc> {
        if !matches!(node.content, Content::Map(_)) {
            let host = self.keep(scalar::name(node, "a real server"))?;
            return Some(RealServerDoc {
                at: node.at,
                host,
                weight: Said::Nothing,
                port: Said::Nothing,
                address: Said::Nothing,
                upper_threshold: Said::Nothing,
                lower_threshold: Said::Nothing,
                forward: Said::Nothing,
                tunnel: Said::Nothing,
            });
        }
        let table = self.table(node, "a real server", node.at, REAL_SERVER)?;
        let host = self.said(&table, "host", |n| scalar::name(n, "a real server"));
        if host == Said::Nothing {
            let cure = "add `host:` with a host's name";
            self.missing(&table, node.at, "host", "this real server", cure);
        }
        let weight = self.said(&table, "weight", scalar::weight);
        let port = self.said(&table, "port", scalar::port);
        let address =
            self.said(&table, "address", |n| scalar::address(n, "a real server's address"));
        let upper_threshold = self.said(&table, "upper_threshold", scalar::threshold);
        let lower_threshold = self.said(&table, "lower_threshold", scalar::threshold);
        let forward = self.said(&table, "forward", scalar::forward);
        let tunnel = self.nested(&table, "tunnel", Self::tunnel);
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
        })
    }
}
