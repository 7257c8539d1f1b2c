//! The YAML tree to the [`Document`]: the known keys, and the kind of value that each takes.
//!
//! Never stops at the first finding. A value that is not valid becomes [`Field::Invalid`]; later rules
//! skip every value that depends on it, so one mistake gives one finding.

mod check;
mod drift;
mod ipvs;
mod promise;
mod routes;
mod services;

use super::document::{
    Defaults, Document, Field, HostDoc, InterfaceDoc, IpvsDoc, NetworkDoc, RoutesDoc,
};
use super::node::{At, KeyValue, YamlNode, YamlValue};
use super::{reach, scalar, suggest};
use crate::finding::{Finding, Position};

const TOP: &[&str] = &[
    "version", "name", "networks", "defaults", "ipvs", "hosts", "services", "persist", "drift",
    "promise",
];
const NETWORK: &[&str] = &["subnets"];
const DEFAULTS: &[&str] =
    &["scheduler", "forward", "protocol", "port", "weight", "weights", "check", "gateway"];
const HOST: &[&str] =
    &["role", "interfaces", "gateway", "routes", "ipvs", "drift", "ssh", "local", "netns"];
const INTERFACE: &[&str] = &["addresses", "network", "mtu"];

/// Reads the tree. `None` if the root is not a mapping.
pub fn load(root: &YamlNode) -> (Option<Document>, Vec<Finding>) {
    let mut loader = Loader { findings: Vec::new() };
    let document = loader.document(root);
    (document, loader.findings)
}

pub(super) struct Loader {
    pub findings: Vec<Finding>,
}

/// A mapping whose unknown keys have been reported.
pub(super) struct Mapping<'a> {
    entries: &'a [KeyValue],
    /// Known keys that an unknown key resembles: they count as invalid, not as missing.
    mistyped: Vec<&'static str>,
    /// Position for findings about missing keys.
    pub at: Position,
}

impl<'a> Mapping<'a> {
    pub fn get(&self, key: &str) -> Option<&'a YamlNode> {
        self.entries.iter().find(|e| e.key.value == key).map(|e| &e.value)
    }

    pub fn key(&self, key: &str) -> Option<&'a At<String>> {
        self.entries.iter().find(|e| e.key.value == key).map(|e| &e.key)
    }
}

impl Loader {
    /// The value; on an error the finding is recorded.
    pub fn accept<T>(&mut self, read: Result<T, Box<Finding>>) -> Option<T> {
        read.map_err(|finding| self.findings.push(*finding)).ok()
    }

    pub fn field<T>(
        &mut self,
        mapping: &Mapping<'_>,
        key: &str,
        read: impl Fn(&YamlNode) -> Result<At<T>, Box<Finding>>,
    ) -> Field<T> {
        match mapping.get(key).map(|node| self.accept(read(node))) {
            None if mapping.mistyped.contains(&key) => Field::Invalid,
            None => Field::Missing,
            Some(None) => Field::Invalid,
            Some(Some(value)) => Field::Value(value),
        }
    }

    /// Reports that a required key is missing, unless an unknown key resembles it.
    pub fn missing(
        &mut self,
        mapping: &Mapping<'_>,
        at: Position,
        key: &str,
        of: &str,
        cure: &str,
    ) {
        if mapping.mistyped.contains(&key) {
            return;
        }
        let message = format!("{of} has no `{key}`");
        let why = "lvsprov cannot derive it from other keys";
        self.findings.push(Finding::error("missing-key", at, message, why, cure));
    }

    fn map<'a>(&mut self, node: &'a YamlNode, what: &str) -> Option<&'a [KeyValue]> {
        match &node.content {
            YamlValue::Map(entries) => Some(entries),
            _ => self.accept(scalar::wrong_kind(node, what, "a mapping (`key: value`)")),
        }
    }

    pub fn mapping<'a>(
        &mut self,
        node: &'a YamlNode,
        what: &str,
        at: Position,
        known: &[&'static str],
    ) -> Option<Mapping<'a>> {
        let entries = self.map(node, what)?;
        let mut mistyped = Vec::new();
        for KeyValue { key, .. } in
            entries.iter().filter(|e| !known.contains(&e.key.value.as_str()))
        {
            let near = suggest::is_worth_searching(self.findings.len(), known.len())
                .then(|| suggest::nearest(&key.value, known))
                .flatten();
            mistyped.extend(near);
            self.findings.push(Finding::error(
                "unknown-key",
                key.at,
                format!("{what} has no key {:?}", key.value),
                "lvsprov would ignore the key, and the setting would keep its default",
                near.map_or_else(
                    || format!("one of: {}", suggest::listed(known)),
                    |near| format!("did you mean `{near}`?"),
                ),
            ));
        }
        Some(Mapping { entries, mistyped, at })
    }

    /// A list; with `single` also one value, as a list of one.
    fn list<'a>(&mut self, node: &'a YamlNode, what: &str, single: bool) -> Option<&'a [YamlNode]> {
        match &node.content {
            YamlValue::List(items) => Some(items),
            YamlValue::Scalar { .. } if single => Some(std::slice::from_ref(node)),
            _ => self.accept(scalar::wrong_kind(node, what, "a list")),
        }
    }

    fn document(&mut self, root: &YamlNode) -> Option<Document> {
        let start = Position { line: 1, column: 1, length: 0 };
        let mapping = self.mapping(root, "the file", start, TOP)?;
        self.version(&mapping);
        let name = self.field(&mapping, "name", scalar::topology_name);
        if name == Field::Missing {
            let cure = "add `name: my-cluster`: it names this cluster on every host";
            self.missing(&mapping, start, "name", "the file", cure);
        }
        Some(Document {
            name,
            networks: self.networks(&mapping),
            defaults: self.defaults(&mapping),
            ipvs: self.ipvs(&mapping),
            persist: self.field(&mapping, "persist", |node| scalar::boolean_at(node, "persist")),
            drift: self.drift(&mapping),
            promise: self.promise(&mapping),
            hosts: self.hosts(&mapping),
            services: self.services(&mapping),
        })
    }

    fn version(&mut self, mapping: &Mapping<'_>) {
        let Some(node) = mapping.get("version") else {
            return self.missing(
                mapping,
                mapping.at,
                "version",
                "the file",
                "add `version: 1` at the top",
            );
        };
        let Some(text) = self.accept(scalar::text(node, "the version")) else { return };
        if text != "1" {
            self.findings.push(Finding::error(
                "unknown-version",
                node.at,
                format!("version {text:?} of the format is not known"),
                "this lvsprov reads version 1 only",
                "write `version: 1`, or use a newer lvsprov",
            ));
        }
    }

    fn networks(&mut self, mapping: &Mapping<'_>) -> Vec<NetworkDoc> {
        let cure = "add `networks:` with the L2 segments and the subnets on each";
        let Some(entries) = self.section(mapping, "networks", cure) else { return Vec::new() };
        entries.iter().filter_map(|entry| self.network(entry)).collect()
    }

    /// A required mapping at the top level.
    fn section<'a>(
        &mut self,
        mapping: &Mapping<'a>,
        key: &str,
        cure: &str,
    ) -> Option<&'a [KeyValue]> {
        if let Some(node) = mapping.get(key) {
            return self.map(node, &format!("`{key}`"));
        }
        self.missing(mapping, mapping.at, key, "the file", cure);
        None
    }

    fn network(&mut self, KeyValue { key, value }: &KeyValue) -> Option<NetworkDoc> {
        let name = self.accept(scalar::name_at(&key.value, key.at))?;
        let what = format!("network {}", key.value);
        let before = self.findings.len();
        let node = if matches!(value.content, YamlValue::Map(_)) {
            let mapping = self.mapping(value, &what, key.at, NETWORK)?;
            let found = mapping.get("subnets");
            if found.is_none() {
                self.missing(&mapping, key.at, "subnets", &what, "write `subnets: [192.0.2.0/24]`");
            }
            found
        } else {
            Some(value)
        };
        let items = node.and_then(|n| self.list(n, "the subnets of a network", true));
        let subnets = items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| self.accept(scalar::subnet(item)))
            .collect();
        Some(NetworkDoc { name, subnets, unclear: self.findings.len() > before })
    }

    fn defaults(&mut self, top: &Mapping<'_>) -> Defaults {
        let nothing = Mapping { entries: &[], mistyped: Vec::new(), at: top.at };
        let mapping = match (top.get("defaults"), top.key("defaults")) {
            (Some(node), Some(key)) => self.mapping(node, "`defaults`", key.at, DEFAULTS),
            _ => None,
        }
        .unwrap_or(nothing);
        Defaults {
            scheduler: self.field(&mapping, "scheduler", scalar::scheduler),
            forward: self.field(&mapping, "forward", scalar::forward),
            protocol: self.field(&mapping, "protocol", scalar::protocol),
            port: self.field(&mapping, "port", scalar::service_port),
            weight: self.field(&mapping, "weight", scalar::weight),
            weights: self.field(&mapping, "weights", scalar::weights),
            check: self.check(&mapping),
            gateway: self.field(&mapping, "gateway", scalar::gateway),
        }
    }

    fn hosts(&mut self, mapping: &Mapping<'_>) -> Vec<HostDoc> {
        let cure = "add `hosts:` with the machines, their roles and interfaces";
        let Some(entries) = self.section(mapping, "hosts", cure) else { return Vec::new() };
        entries.iter().filter_map(|entry| self.host(entry)).collect()
    }

    fn host(&mut self, KeyValue { key, value }: &KeyValue) -> Option<HostDoc> {
        let name = self.accept(scalar::name_at(&key.value, key.at))?;
        let what = format!("host {}", key.value);
        let before = self.findings.len();
        let Some(mapping) = self.mapping(value, &what, key.at, HOST) else {
            let (roles, interfaces) = (Vec::new(), Vec::new());
            let (gateway, reach) = (Field::Invalid, Field::Invalid);
            let (routes, ipvs, drift) = (RoutesDoc::default(), IpvsDoc::default(), Field::Invalid);
            let unclear = true;
            return Some(HostDoc {
                name,
                roles,
                interfaces,
                gateway,
                routes,
                ipvs,
                drift,
                reach,
                unclear,
            });
        };
        let roles = self.roles(&mapping, &what);
        let interfaces = self.interfaces(&mapping, &what);
        let unclear = self.findings.len() > before;
        let gateway = self.several(&mapping, "gateway", "`gateway`", scalar::gateway);
        let routes = self.routes(&mapping);
        let ipvs = self.ipvs(&mapping);
        let drift = self.drift(&mapping);
        let reach = reach::reach(self, &mapping);
        Some(HostDoc { name, roles, interfaces, gateway, routes, ipvs, drift, reach, unclear })
    }

    fn roles(&mut self, mapping: &Mapping<'_>, what: &str) -> Vec<At<super::Role>> {
        const CURE: &str =
            "add `role:` with client, router, director or real_server, or a list of them";
        let Some(node) = mapping.get("role") else {
            self.missing(mapping, mapping.at, "role", what, CURE);
            return Vec::new();
        };
        let items = self.list(node, "`role`", true).unwrap_or_default();
        if matches!(&node.content, YamlValue::List(items) if items.is_empty()) {
            self.missing(mapping, node.at, "role", what, CURE);
        }
        items.iter().filter_map(|item| self.accept(scalar::role(item))).collect()
    }

    fn interfaces(&mut self, mapping: &Mapping<'_>, what: &str) -> Vec<InterfaceDoc> {
        let Some(node) = mapping.get("interfaces") else {
            let cure = "add `interfaces: {eth0: 192.0.2.1/24}`";
            self.missing(mapping, mapping.at, "interfaces", what, cure);
            return Vec::new();
        };
        let entries = self.map(node, "`interfaces`").unwrap_or_default();
        entries.iter().filter_map(|entry| self.interface(entry)).collect()
    }

    fn interface(&mut self, KeyValue { key, value }: &KeyValue) -> Option<InterfaceDoc> {
        let name = self.accept(scalar::name_at(&key.value, key.at))?;
        let before = self.findings.len();
        let (node, network, mtu, at) = match &value.content {
            YamlValue::Map(_) => {
                let what = format!("interface {}", key.value);
                let mapping = self.mapping(value, &what, key.at, INTERFACE)?;
                let network =
                    self.field(&mapping, "network", |n| scalar::name(n, "a network's name"));
                let mtu = self.field(&mapping, "mtu", scalar::mtu);
                (mapping.get("addresses"), network, mtu, key.at)
            }
            YamlValue::Scalar { .. } => (Some(value), Field::Missing, Field::Missing, value.at),
            _ => (Some(value), Field::Missing, Field::Missing, key.at),
        };
        let items = node.and_then(|n| self.list(n, "an interface's addresses", true));
        let loopback = key.value == "lo";
        let addresses = items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| {
                let net = self.accept(scalar::interface_address(item))?;
                self.accept(scalar::usable_on(&net, loopback))?;
                Some(net)
            })
            .collect();
        let unclear = self.findings.len() > before;
        Some(InterfaceDoc { name, at, addresses, network, mtu, unclear })
    }

    /// The result of `read`, which may record findings about any part of the value.
    fn nested<T>(
        &mut self,
        mapping: &Mapping<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &YamlNode) -> Option<T>,
    ) -> Field<T> {
        let Some(node) = mapping.get(key) else {
            return if mapping.mistyped.contains(&key) { Field::Invalid } else { Field::Missing };
        };
        let before = self.findings.len();
        match read(self, node) {
            Some(value) if self.findings.len() == before => Field::Value(At { value, at: node.at }),
            _ => Field::Invalid,
        }
    }

    /// A list of values, or one value as a list of one.
    fn several<T>(
        &mut self,
        mapping: &Mapping<'_>,
        key: &str,
        what: &str,
        read: impl Fn(&YamlNode) -> Result<At<T>, Box<Finding>>,
    ) -> Field<Vec<At<T>>> {
        self.nested(mapping, key, |loader, node| {
            let items = loader.list(node, what, true)?;
            if items.is_empty() {
                loader.findings.push(Finding::error(
                    "empty-list",
                    node.at,
                    format!("{what} is empty"),
                    "an empty list could mean none or all",
                    "list the values, or remove the key",
                ));
            }
            Some(items.iter().filter_map(|item| loader.accept(read(item))).collect())
        })
    }
}
