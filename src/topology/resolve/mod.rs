//! The [`Document`] to the [`Topology`]: looks up names, fills in defaults, derives the rest.
//!
//! A host with an invalid value stays in the result and is listed as unclear: rules draw no conclusion
//! from what it lacks, so one mistake gives one finding. A service without a valid key is left out.
//! [`crate::check`] tells whether the cluster would work.

mod director;
mod drift;
mod gateways;
mod health;
mod hosts;
mod ipvs;
mod limits;
mod rips;
mod routes;
mod services;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::UnclearHosts;
use super::document::{Document, NetworkDoc};
use super::model::{Host, Network, PaceOverride, Service, Topology};
use crate::finding::Finding;
use crate::names::{HostName, NetworkName};
use crate::state::Maintenance;

/// The topology while it is resolved.
pub(super) struct Resolver {
    networks: BTreeMap<NetworkName, Network>,
    /// Networks whose subnets are not all valid: values derived from them are unclear too.
    unclear_networks: BTreeSet<NetworkName>,
    hosts: BTreeMap<HostName, Host>,
    /// Hosts whose roles or interfaces are not all valid.
    unclear: BTreeSet<HostName>,
    /// Hosts whose gateway or routes are not all valid.
    unclear_gateways: BTreeSet<HostName>,
    /// The first host with each address on a network.
    holders: HashMap<IpAddr, HostName>,
    /// Hosts with the role director.
    directors: Vec<HostName>,
    /// Clients and routers on each network; at most two are kept.
    outside: HashMap<NetworkName, Vec<HostName>>,
    services: Vec<Service>,
    findings: Vec<Finding>,
}

/// The result of [`resolve`].
pub(super) struct Resolved {
    pub topology: Option<Topology>,
    pub unclear: UnclearHosts,
    pub findings: Vec<Finding>,
}

/// Resolves the valid part of `document`.
pub(super) fn resolve(document: &Document) -> Resolved {
    if let Some(finding) = limits::exceeded(document) {
        let (topology, unclear) = (None, UnclearHosts::default());
        return Resolved { topology, unclear, findings: vec![finding] };
    }
    let mut resolver = Resolver {
        networks: BTreeMap::new(),
        unclear_networks: BTreeSet::new(),
        hosts: BTreeMap::new(),
        unclear: BTreeSet::new(),
        unclear_gateways: BTreeSet::new(),
        holders: HashMap::new(),
        directors: Vec::new(),
        outside: HashMap::new(),
        services: Vec::new(),
        findings: Vec::new(),
    };
    resolver.networks(&document.networks);
    hosts::resolve(&mut resolver, document);
    gateways::stated(&mut resolver, &document.hosts);
    routes::resolve(&mut resolver, &document.hosts);
    services::resolve(&mut resolver, document);
    gateways::derived(&mut resolver, &document.hosts);
    gateways::default(&mut resolver, &document.defaults.gateway, &document.hosts);
    resolver.finish(document)
}

impl Resolver {
    fn networks(&mut self, networks: &[NetworkDoc]) {
        for NetworkDoc { name, subnets, unclear } in networks {
            let mut subnets: Vec<_> = subnets.iter().map(|s| s.value).collect();
            subnets.sort();
            subnets.dedup();
            let network = Network { name: name.value.clone(), subnets, at: name.at };
            self.networks.insert(name.value.clone(), network);
            if *unclear {
                self.unclear_networks.insert(name.value.clone());
            }
        }
        self.overlaps(networks);
    }

    /// Two subnets are nested or disjoint. Sorted by start, only the last one that is still open can
    /// contain the next.
    fn overlaps(&mut self, networks: &[NetworkDoc]) {
        let mut all: Vec<_> = networks
            .iter()
            .flat_map(|n| n.subnets.iter().map(move |s| (s.value, s.at, n)))
            .collect();
        all.sort_by_key(|(net, at, _)| (net.network(), net.prefix_len(), *at));
        let mut open: Vec<(ipnet::IpNet, super::Position, &NetworkDoc)> = Vec::new();
        for (net, at, network) in all {
            while open.last().is_some_and(|(outer, ..)| !outer.contains(&net)) {
                open.pop();
            }
            if let Some((outer, outer_at, other)) = open.last()
                && other.name.value != network.name.value
            {
                let (at, first) = if at > *outer_at { (at, outer_at) } else { (*outer_at, &at) };
                self.findings.push(Finding::error(
                    "subnets-overlap",
                    at,
                    format!(
                        "{net} of network {} and {outer} of network {} overlap (the other is at {}:{})",
                        network.name.value, other.name.value, first.line, first.column
                    ),
                    "a host would look for addresses of one network on the other",
                    "give each network its own subnets, or merge the networks",
                ));
            }
            open.push((net, at, network));
        }
    }

    /// The host, if its roles and interfaces are all valid.
    fn clear_host(&self, name: &HostName) -> Option<&Host> {
        if self.unclear.contains(name) { None } else { self.hosts.get(name) }
    }

    fn finish(self, document: &Document) -> Resolved {
        // Without a valid name there is an error, which blocks every command that uses the name.
        let name = document.name.value().map(|n| n.value.clone());
        let name = name.or_else(|| "unnamed".parse().ok());
        let anything = !self.hosts.is_empty();
        let Resolver { networks, hosts, services, findings, unclear, unclear_gateways, .. } = self;
        let unclear = UnclearHosts { hosts: unclear, gateways: unclear_gateways };
        let pace = PaceOverride::default();
        let persist = document.persist.value().is_none_or(|persist| persist.value);
        let promise = document.promise.value().map(|it| it.value.clone()).unwrap_or_default();
        let topology = name.filter(|_| anything).map(|name| Topology {
            name,
            networks,
            hosts,
            services,
            persist,
            promise,
            pace,
            maintenance: Maintenance::default(),
        });
        Resolved { topology, unclear, findings }
    }
}
