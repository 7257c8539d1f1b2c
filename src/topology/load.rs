//! The tree to the [`Document`]: which keys there are, and which kind of value each takes.
//!
//! Never stops at the first finding: what cannot be understood becomes [`Said::Unclear`], and
//! whatever depends on it is left alone later instead of being reported a second time.

mod ipvs;
mod services;

use super::document::{Defaults, Document, HostDoc, InterfaceDoc, IpvsDoc, NetworkDoc, Said};
use super::node::{At, Content, Entry, Node};
use super::{reach, scalar, suggest};
use crate::finding::{Finding, Position};

const TOP: &[&str] = &["version", "name", "networks", "defaults", "ipvs", "hosts", "services"];
const NETWORK: &[&str] = &["subnets"];
const DEFAULTS: &[&str] = &["scheduler", "forward", "protocol", "port", "weight", "gateway"];
const HOST: &[&str] = &["role", "interfaces", "gateway", "ipvs", "ssh", "local", "netns"];
const INTERFACE: &[&str] = &["addresses", "network"];
/// Reads the tree. `None` where it is no mapping at all.
pub fn load(root: &Node) -> (Option<Document>, Vec<Finding>) {
    let mut loader = Loader { findings: Vec::new() };
    let document = loader.document(root);
    (document, loader.findings)
}

pub(super) struct Loader {
    pub findings: Vec<Finding>,
}

/// A mapping whose keys are known to be fine.
pub(super) struct Table<'a> {
    entries: &'a [Entry],
    /// Keys that were meant by keys that are not known: not missing, but not understood either.
    mistyped: Vec<&'static str>,
    /// Where to point when a key is missing.
    pub at: Position,
}

impl<'a> Table<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|e| e.key.value == key).map(|e| &e.value)
    }

    pub fn key(&self, key: &str) -> Option<&'a At<String>> {
        self.entries.iter().find(|e| e.key.value == key).map(|e| &e.key)
    }
}

impl Loader {
    /// The value, or nothing and a finding.
    pub fn keep<T>(&mut self, read: Result<T, Box<Finding>>) -> Option<T> {
        read.map_err(|finding| self.findings.push(*finding)).ok()
    }

    pub fn said<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        read: impl Fn(&Node) -> Result<At<T>, Box<Finding>>,
    ) -> Said<T> {
        match table.get(key).map(|node| self.keep(read(node))) {
            None if table.mistyped.contains(&key) => Said::Unclear,
            None => Said::Nothing,
            Some(None) => Said::Unclear,
            Some(Some(value)) => Said::This(value),
        }
    }

    /// A key that must be there. Says nothing where it is there but mistyped.
    pub fn missing(&mut self, table: &Table<'_>, at: Position, key: &str, of: &str, cure: &str) {
        if table.mistyped.contains(&key) {
            return;
        }
        let message = format!("{of} has no `{key}`");
        let why = "it cannot be derived from anything else in the file";
        self.findings.push(Finding::error("missing-key", at, message, why, cure));
    }

    fn map<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a [Entry]> {
        match &node.content {
            Content::Map(entries) => Some(entries),
            _ => self.keep(scalar::wrong_kind(node, what, "a mapping (`key: value`)")),
        }
    }

    pub fn table<'a>(
        &mut self,
        node: &'a Node,
        what: &str,
        at: Position,
        known: &[&'static str],
    ) -> Option<Table<'a>> {
        let entries = self.map(node, what)?;
        let mut mistyped = Vec::new();
        for Entry { key, .. } in entries.iter().filter(|e| !known.contains(&e.key.value.as_str())) {
            let near = suggest::is_worth_it(self.findings.len(), known.len())
                .then(|| suggest::nearest(&key.value, known))
                .flatten();
            mistyped.extend(near);
            self.findings.push(Finding::error(
                "unknown-key",
                key.at,
                format!("{what} has no key {:?}", key.value),
                "a mistyped key would silently leave a setting at its default",
                near.map_or_else(
                    || format!("one of: {}", suggest::listed(known)),
                    |near| format!("did you mean `{near}`?"),
                ),
            ));
        }
        Some(Table { entries, mistyped, at })
    }

    /// A list, or one value that stands for a list of one.
    fn list<'a>(&mut self, node: &'a Node, what: &str, single: bool) -> Option<&'a [Node]> {
        match &node.content {
            Content::List(items) => Some(items),
            Content::Scalar { .. } if single => Some(std::slice::from_ref(node)),
            _ => self.keep(scalar::wrong_kind(node, what, "a list")),
        }
    }

    fn document(&mut self, root: &Node) -> Option<Document> {
        let start = Position { line: 1, column: 1, length: 0 };
        let table = self.table(root, "the file", start, TOP)?;
        self.version(&table);
        let name = self.said(&table, "name", scalar::topology_name);
        if name == Said::Nothing {
            let cure = "add `name: my-cluster`: it names this cluster on every host";
            self.missing(&table, start, "name", "the file", cure);
        }
        Some(Document {
            name,
            networks: self.networks(&table),
            defaults: self.defaults(&table),
            ipvs: self.ipvs(&table),
            hosts: self.hosts(&table),
            services: self.services(&table),
        })
    }

    fn version(&mut self, table: &Table<'_>) {
        let Some(node) = table.get("version") else {
            return self.missing(
                table,
                table.at,
                "version",
                "the file",
                "add `version: 1` at the top",
            );
        };
        let Some(text) = self.keep(scalar::text(node, "the version")) else { return };
        if text != "1" {
            self.findings.push(Finding::error(
                "unknown-version",
                node.at,
                format!("version {text:?} of the format is not known"),
                "this lvsprov reads version 1, and would misread another",
                "write `version: 1`, or use a newer lvsprov",
            ));
        }
    }

    fn networks(&mut self, table: &Table<'_>) -> Vec<NetworkDoc> {
        let cure = "add `networks:` with the L2 segments and the subnets on each";
        let Some(entries) = self.section(table, "networks", cure) else { return Vec::new() };
        entries.iter().filter_map(|entry| self.network(entry)).collect()
    }

    /// One of the file's great mappings, which must be there.
    fn section<'a>(&mut self, table: &Table<'a>, key: &str, cure: &str) -> Option<&'a [Entry]> {
        if let Some(node) = table.get(key) {
            return self.map(node, &format!("`{key}`"));
        }
        self.missing(table, table.at, key, "the file", cure);
        None
    }

    fn network(&mut self, Entry { key, value }: &Entry) -> Option<NetworkDoc> {
        let name = self.keep(scalar::name_at(&key.value, key.at))?;
        let what = format!("network {}", key.value);
        let before = self.findings.len();
        let node = if matches!(value.content, Content::Map(_)) {
            let table = self.table(value, &what, key.at, NETWORK)?;
            let found = table.get("subnets");
            if found.is_none() {
                self.missing(&table, key.at, "subnets", &what, "write `subnets: [192.0.2.0/24]`");
            }
            found
        } else {
            Some(value)
        };
        let items = node.and_then(|n| self.list(n, "the subnets of a network", true));
        let subnets = items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| self.keep(scalar::subnet(item)))
            .collect();
        Some(NetworkDoc { name, subnets, unclear: self.findings.len() > before })
    }

    fn defaults(&mut self, top: &Table<'_>) -> Defaults {
        let nothing = Table { entries: &[], mistyped: Vec::new(), at: top.at };
        let table = match (top.get("defaults"), top.key("defaults")) {
            (Some(node), Some(key)) => self.table(node, "`defaults`", key.at, DEFAULTS),
            _ => None,
        }
        .unwrap_or(nothing);
        Defaults {
            scheduler: self.said(&table, "scheduler", scalar::scheduler),
            forward: self.said(&table, "forward", scalar::forward),
            protocol: self.said(&table, "protocol", scalar::protocol),
            port: self.said(&table, "port", scalar::service_port),
            weight: self.said(&table, "weight", scalar::weight),
            gateway: self.said(&table, "gateway", scalar::gateway),
        }
    }

    fn hosts(&mut self, table: &Table<'_>) -> Vec<HostDoc> {
        let cure = "add `hosts:` with the machines, their roles and interfaces";
        let Some(entries) = self.section(table, "hosts", cure) else { return Vec::new() };
        entries.iter().filter_map(|entry| self.host(entry)).collect()
    }

    fn host(&mut self, Entry { key, value }: &Entry) -> Option<HostDoc> {
        let name = self.keep(scalar::name_at(&key.value, key.at))?;
        let what = format!("host {}", key.value);
        let before = self.findings.len();
        let Some(table) = self.table(value, &what, key.at, HOST) else {
            let (roles, interfaces) = (Vec::new(), Vec::new());
            let (gateway, reach) = (Said::Unclear, Said::Unclear);
            let ipvs = IpvsDoc::default();
            return Some(HostDoc { name, roles, interfaces, gateway, ipvs, reach, unclear: true });
        };
        let roles = self.roles(&table, &what);
        let interfaces = self.interfaces(&table, &what);
        let unclear = self.findings.len() > before;
        let gateway = self.several(&table, "gateway", "`gateway`", scalar::gateway);
        let ipvs = self.ipvs(&table);
        let reach = reach::reach(self, &table);
        Some(HostDoc { name, roles, interfaces, gateway, ipvs, reach, unclear })
    }

    fn roles(&mut self, table: &Table<'_>, what: &str) -> Vec<At<super::Role>> {
        const CURE: &str =
            "add `role:` with client, router, director or real_server, or a list of them";
        let Some(node) = table.get("role") else {
            self.missing(table, table.at, "role", what, CURE);
            return Vec::new();
        };
        let items = self.list(node, "`role`", true).unwrap_or_default();
        if matches!(&node.content, Content::List(items) if items.is_empty()) {
            self.missing(table, node.at, "role", what, CURE);
        }
        items.iter().filter_map(|item| self.keep(scalar::role(item))).collect()
    }

    fn interfaces(&mut self, table: &Table<'_>, what: &str) -> Vec<InterfaceDoc> {
        let Some(node) = table.get("interfaces") else {
            let cure = "add `interfaces: {eth0: 192.0.2.1/24}`";
            self.missing(table, table.at, "interfaces", what, cure);
            return Vec::new();
        };
        let entries = self.map(node, "`interfaces`").unwrap_or_default();
        entries.iter().filter_map(|entry| self.interface(entry)).collect()
    }

    fn interface(&mut self, Entry { key, value }: &Entry) -> Option<InterfaceDoc> {
        let name = self.keep(scalar::name_at(&key.value, key.at))?;
        let before = self.findings.len();
        let (node, network, at) = match &value.content {
            Content::Map(_) => {
                let what = format!("interface {}", key.value);
                let table = self.table(value, &what, key.at, INTERFACE)?;
                let network = self.said(&table, "network", |n| scalar::name(n, "a network's name"));
                (table.get("addresses"), network, key.at)
            }
            Content::Scalar { .. } => (Some(value), Said::Nothing, value.at),
            _ => (Some(value), Said::Nothing, key.at),
        };
        let items = node.and_then(|n| self.list(n, "an interface's addresses", true));
        let loopback = key.value == "lo";
        let addresses = items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| {
                let net = self.keep(scalar::interface_address(item))?;
                self.keep(scalar::usable_on(&net, loopback))?;
                Some(net)
            })
            .collect();
        let unclear = self.findings.len() > before;
        Some(InterfaceDoc { name, at, addresses, network, unclear })
    }

    /// What `read` makes of the value, which may have findings of its own anywhere in it.
    fn nested<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Said<T> {
        let Some(node) = table.get(key) else {
            return if table.mistyped.contains(&key) { Said::Unclear } else { Said::Nothing };
        };
        let before = self.findings.len();
        match read(self, node) {
            Some(value) if self.findings.len() == before => Said::This(At { value, at: node.at }),
            _ => Said::Unclear,
        }
    }

    /// A list of values, or one value that stands for a list of one.
    fn several<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        what: &str,
        read: impl Fn(&Node) -> Result<At<T>, Box<Finding>>,
    ) -> Said<Vec<At<T>>> {
        self.nested(table, key, |loader, node| {
            let items = loader.list(node, what, true)?;
            if items.is_empty() {
                loader.findings.push(Finding::error(
                    "empty-list",
                    node.at,
                    format!("{what} is empty"),
                    "an empty list could mean none or all",
                    "write what is meant, or leave the key out",
                ));
            }
            Some(items.iter().filter_map(|item| loader.keep(read(item))).collect())
        })
    }
}
