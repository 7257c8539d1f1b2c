//! The [`Document`] to the [`Topology`]: names looked up, defaults filled in, the rest derived.
//!
//! A host of which something could not be understood stays in the result and is named as unclear:
//! rules conclude nothing from what it lacks, so that one mistake is one finding and not ten. A
//! service whose key is not known is left out. Whether what results would work is the business of
//! [`crate::check`].

mod director;
mod gateways;
mod hosts;
mod ipvs;
mod limits;
mod rips;
mod services;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::Unclear;
use super::document::{Document, NetworkDoc};
use super::model::{Host, Network, PaceOverride, Service, Topology};
use crate::finding::Finding;
use crate::names::{HostName, NetworkName};

/// What is known so far.
pub(super) struct Resolver {
    networks: BTreeMap<NetworkName, Network>,
    /// Networks whose subnets are not all known: what follows from them is not clear either.
    unclear_networks: BTreeSet<NetworkName>,
    hosts: BTreeMap<HostName, Host>,
    /// Hosts whose roles or interfaces are not wholly known.
    unclear: BTreeSet<HostName>,
    /// Hosts whose gateway is not known.
    unclear_gateways: BTreeSet<HostName>,
    /// The first host that has an address on a wire.
    holders: HashMap<IpAddr, HostName>,
    /// Hosts with the role director.
    directors: Vec<HostName>,
    /// Hosts that come from outside, clients and routers, on each network; two are enough to know.
    outside: HashMap<NetworkName, Vec<HostName>>,
    services: Vec<Service>,
    findings: Vec<Finding>,
}

/// What came of it.
pub(super) struct Resolved {
    pub topology: Option<Topology>,
    pub unclear: Unclear,
    pub findings: Vec<Finding>,
}

/// Resolves what can be resolved.
pub(super) fn resolve(document: &Document) -> Resolved {
    if let Some(finding) = limits::broken(document) {
        let (topology, unclear) = (None, Unclear::default());
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

    /// Subnets are nested or apart, so in the order of their starts only the last one still open
    /// can hold the next.
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
                        "{net} of network {} and {outer} of network {} overlap (the other stands at {}:{})",
                        network.name.value, other.name.value, first.line, first.column
                    ),
                    "a host would look for one network's addresses on the other's wire",
                    "give each network subnets of its own, or put both onto one network",
                ));
            }
            open.push((net, at, network));
        }
    }

    /// A host whose interfaces are known wholly.
    fn clear_host(&self, name: &HostName) -> Option<&Host> {
        if self.unclear.contains(name) { None } else { self.hosts.get(name) }
    }

    fn finish(self, document: &Document) -> Resolved {
        // Where the name is not clear there is an error, and nobody will act on this one.
        let name = document.name.value().map(|n| n.value.clone());
        let name = name.or_else(|| "unnamed".parse().ok());
        let anything = !self.hosts.is_empty();
        let Resolver { networks, hosts, services, findings, unclear, unclear_gateways, .. } = self;
        let unclear = Unclear { hosts: unclear, gateways: unclear_gateways };
        let pace = PaceOverride::default();
        let topology = name.filter(|_| anything).map(|name| Topology {
            name,
            networks,
            hosts,
            services,
            pace,
        });
        Resolved { topology, unclear, findings }
    }
}
