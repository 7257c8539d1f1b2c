//! Hosts: roles, connection, and the network of each interface.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Resolver;
use crate::finding::{Finding, Position};
use crate::names::NetworkName;
use crate::state::Module;
use crate::topology::document::{Document, Field, HostDoc, InterfaceDoc, ReachDoc};
use crate::topology::model::{Host, Interface, Reach, Role};
use crate::topology::node::At;
use crate::topology::suggest;

/// Whether the device belongs to a network: false for lo and the kernel's tunnel devices.
pub(super) fn is_plugged(name: &str) -> bool {
    name != "lo" && Module::ALL.iter().all(|module| module.device() != Some(name))
}

pub(super) fn resolve(resolver: &mut Resolver, document: &Document) {
    let hosts = &document.hosts;
    resolver.findings.extend(super::drift::without_persist(document));
    for doc in hosts {
        let mut unclear = doc.unclear;
        let mut interfaces = BTreeMap::new();
        for interface in &doc.interfaces {
            match resolver.interface(interface) {
                Some(found) => {
                    interfaces.insert(interface.name.value.clone(), found);
                }
                None => unclear = true,
            }
        }
        let name = doc.name.value.clone();
        resolver.findings.extend(super::ipvs::without_director(doc));
        if unclear {
            resolver.unclear.insert(name.clone());
        }
        let roles = doc.roles.iter().map(|r| r.value).collect();
        let (reach, at) = (reach(&doc.reach), doc.name.at);
        let ipvs = super::ipvs::settings(&document.ipvs, &doc.ipvs);
        let drift = super::drift::policy(&document.drift, &doc.drift);
        resolver.findings.extend(super::drift::on_unmanaged(doc));
        let (gateways, routes) = (Vec::new(), Vec::new());
        let host = Host {
            name: name.clone(),
            roles,
            interfaces,
            gateways,
            routes,
            ipvs,
            drift,
            reach,
            at,
        };
        resolver.hosts.insert(name, host);
    }
    resolver.index();
    same_machine(resolver, hosts);
}

fn reach(doc: &Field<ReachDoc>) -> Option<Reach> {
    Some(match &doc.value()?.value {
        ReachDoc::Ssh(target) => Reach::Ssh(target.clone()),
        ReachDoc::Local => Reach::Local,
        ReachDoc::Netns(path) => Reach::Netns(path.clone()),
    })
}

/// Two hosts with one connection are one machine: they would undo each other's settings.
fn same_machine(resolver: &mut Resolver, hosts: &[HostDoc]) {
    let mut seen: HashMap<String, &HostDoc> = HashMap::new();
    for doc in hosts {
        let Some(At { value, at }) = doc.reach.value() else { continue };
        if let Some(first) = seen.get(&format!("{value:?}")) {
            resolver.findings.push(Finding::error(
                "same-machine",
                *at,
                format!(
                    "hosts {} and {} have the same connection",
                    first.name.value, doc.name.value
                ),
                "they are one machine, which would get two sets of settings",
                "correct one of them, or merge them into one host with several roles",
            ));
            continue;
        }
        seen.insert(format!("{value:?}"), doc);
    }
}

/// One address on two interfaces. VIPs have their own rules in [`crate::check`].
pub(super) fn duplicate_addresses(
    resolver: &mut Resolver,
    hosts: &[HostDoc],
    vips: &BTreeSet<IpAddr>,
) {
    let mut seen: HashMap<IpAddr, (&HostDoc, &InterfaceDoc, Position)> = HashMap::new();
    for doc in hosts {
        for interface in &doc.interfaces {
            for At { value, at } in &interface.addresses {
                if vips.contains(&value.addr()) || value.addr().is_loopback() {
                    continue;
                }
                let Some((first, device, first_at)) = seen.get(&value.addr()) else {
                    seen.insert(value.addr(), (doc, interface, *at));
                    continue;
                };
                resolver.findings.push(Finding::error(
                    "duplicate-address",
                    *at,
                    format!(
                        "{} is already the address of {} on {} (at {}:{})",
                        value.addr(),
                        device.name.value,
                        first.name.value,
                        first_at.line,
                        first_at.column
                    ),
                    "two hosts that answer ARP for one address take each other's packets",
                    "give one of them another address",
                ));
            }
        }
    }
}

impl Resolver {
    /// Fills the lookups that every service and host uses.
    fn index(&mut self) {
        for host in self.hosts.values() {
            let name = &host.name;
            let mut own = BTreeSet::new();
            for interface in host.interfaces.values() {
                for net in interface.addresses.iter().filter(|net| own.insert(net.addr())) {
                    if interface.network.is_some() {
                        self.holders.entry(net.addr()).or_insert_with(|| name.clone());
                    }
                }
            }
            if host.roles.contains(&Role::Director) {
                self.directors.push(name.clone());
            }
            if host.roles.contains(&Role::Client) || host.roles.contains(&Role::Router) {
                for network in host.interfaces.values().filter_map(|i| i.network.as_ref()) {
                    let there = self.outside.entry(network.clone()).or_default();
                    if there.len() < 2 && !there.contains(name) {
                        there.push(name.clone());
                    }
                }
            }
        }
    }

    fn interface(&mut self, doc: &InterfaceDoc) -> Option<Interface> {
        let name = doc.name.value.clone();
        let network = if is_plugged(name.as_str()) {
            Some(self.network_of(doc)?)
        } else {
            self.unplugged(doc)?;
            None
        };
        let addresses: Vec<IpNet> = doc.addresses.iter().map(|a| a.value).collect();
        let mtu = doc.mtu.value().map(|mtu| mtu.value);
        Some(Interface { name, addresses, network, mtu, at: doc.at })
    }

    fn unplugged(&mut self, doc: &InterfaceDoc) -> Option<()> {
        if let Some(network) = doc.network.value() {
            self.findings.push(Finding::error(
                "network-on-lo",
                network.at,
                format!("{} cannot be on a network", doc.name.value),
                "it is a virtual device of the host: no neighbour can reach it",
                "remove `network:` here",
            ));
        }
        let wide = |a: &&At<IpNet>| {
            a.value.prefix_len() < a.value.max_prefix_len() && !a.value.addr().is_loopback()
        };
        for address in doc.addresses.iter().filter(wide) {
            self.findings.push(Finding::error(
                "mask-on-lo",
                address.at,
                format!("{} on {} makes a whole subnet local", address.value, doc.name.value),
                format!(
                    "the host would treat every address of {} as its own and lose its LAN",
                    address.value.trunc()
                ),
                format!("write {}", IpNet::from(address.value.addr())),
            ));
        }
        let sound = doc.network == Field::Missing && !doc.addresses.iter().any(|a| wide(&a));
        sound.then_some(())
    }

    fn network_of(&mut self, doc: &InterfaceDoc) -> Option<NetworkName> {
        match &doc.network {
            Field::Value(stated) => self.stated_network(doc, stated),
            Field::Invalid => None,
            Field::Missing => self.derived_network(doc),
        }
    }

    fn stated_network(
        &mut self,
        doc: &InterfaceDoc,
        stated: &At<NetworkName>,
    ) -> Option<NetworkName> {
        let Some(network) = self.networks.get(&stated.value) else {
            let (mistakes, name) = (self.findings.len(), stated.value.as_str());
            let known = self.networks.keys().map(NetworkName::as_str);
            let finding = suggest::unknown_name("network", stated.at, name, mistakes, known);
            self.findings.push(finding);
            return None;
        };
        let clear = !self.unclear_networks.contains(&stated.value);
        let outside = |a: &&At<IpNet>| !network.subnets.iter().any(|s| s.contains(&a.value.addr()));
        let outside: Vec<_> = doc.addresses.iter().filter(outside).filter(|_| clear).collect();
        for address in &outside {
            self.findings.push(Finding::error(
                "address-outside-network",
                address.at,
                format!("{} is in no subnet of network {}", address.value, stated.value),
                "other hosts on that network would not reach it",
                format!("add its subnet to network {}, or correct the address", stated.value),
            ));
        }
        outside.is_empty().then(|| stated.value.clone())
    }

    fn derived_network(&mut self, doc: &InterfaceDoc) -> Option<NetworkName> {
        if doc.addresses.is_empty() && doc.unclear {
            return None;
        }
        if doc.addresses.is_empty() {
            let what = format!("interface {}", doc.name.value);
            self.findings.push(Finding::error(
                "no-network",
                doc.at,
                format!("{what} has neither an address nor a network"),
                "the rules need to know which interfaces share a network",
                "give it an address, or write {network: NAME}",
            ));
            return None;
        }
        let mut found: Option<NetworkName> = None;
        for address in &doc.addresses {
            let network = self.network_with(address)?;
            match &found {
                Some(first) if *first != network => {
                    self.findings.push(Finding::error(
                        "two-networks",
                        address.at,
                        format!(
                            "{} is on one network, but its addresses are in subnets of {first} and {network}",
                            doc.name.value
                        ),
                        "one L2 segment is one network, with any number of subnets",
                        format!("put both subnets under one network, or move {} to another interface", address.value),
                    ));
                    return None;
                }
                _ => found = Some(network),
            }
        }
        found
    }

    fn network_with(&mut self, address: &At<IpNet>) -> Option<NetworkName> {
        let inside = |s: &IpNet| s.contains(&address.value.addr());
        let mut holding = self.networks.values().filter(|n| n.subnets.iter().any(inside));
        match (holding.next(), holding.next()) {
            (Some(network), None) => Some(network.name.clone()),
            // The rule `subnets-overlap` reports it.
            (Some(_), Some(_)) => None,
            (None, _) => {
                // An invalid subnet may be the one.
                if self.unclear_networks.is_empty() {
                    self.findings.push(Finding::error(
                        "no-network",
                        address.at,
                        format!("{} is in no subnet of any network", address.value),
                        "the rules need to know which interfaces share a network",
                        format!(
                            "add {} to its network, or correct the address",
                            address.value.trunc()
                        ),
                    ));
                }
                None
            }
        }
    }
}
