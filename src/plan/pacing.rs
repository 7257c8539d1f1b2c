//! How fast real servers are taken out and in, and which of their connections count as live. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::drain::Leaving;
use crate::desired::{destination_key, service_key};
use crate::names::HostName;
use crate::state::{Counters, HostState, Observation, PacketRule, Protocol, ServiceKey};
use crate::topology::{Host, PaceOverride, Service, Topology};

/// How fast a director's real servers are taken out and in.
#[derive(Debug, Default)]
pub struct PacingOptions<'a> {
    pub(super) services: BTreeMap<ServiceKey, &'a Service>,
    /// What the operator asks for in this run.
    pub(super) overrides: PaceOverride,
    /// What the file says of a firewall mark: packets of which protocols have it.
    pub(super) marked: BTreeMap<ServiceKey, BTreeSet<Protocol>>,
}

impl<'a> PacingOptions<'a> {
    /// Towards the file: what it says of each service that `host` directs.
    pub fn of(topology: &'a Topology, host: &Host) -> Self {
        let own = || topology.services.iter().filter(|service| service.director == host.name);
        let services = own().map(|service| (service_key(service), service)).collect();
        Self { services, overrides: topology.pace, marked: marked(own()) }
    }

    /// Away from it: only what the operator says for this run, and what marks mean by the file.
    pub fn back(topology: &'a Topology) -> Self {
        let marked = marked(topology.services.iter());
        Self { services: BTreeMap::new(), overrides: topology.pace, marked }
    }

    /// The destinations of `hosts` in the table of the director, whose connections may come to their end at weight 0, for as
    /// long as the service's `drain` or the operator says.
    pub fn draining(&self, hosts: &BTreeSet<HostName>, seen: &Observation) -> Vec<Leaving> {
        let mut all = Vec::new();
        for (key, service) in &self.services {
            let Some(there) = seen.state.services.get(key) else { continue };
            for server in service.real_servers.iter().filter(|it| hosts.contains(&it.host)) {
                let destination = destination_key(service, server);
                if there.destinations.contains_key(&destination) {
                    let seconds = self.overrides.drain.unwrap_or(service.pace.drain);
                    let counted = self.counted(key, seen);
                    let service = key.clone();
                    let mut one =
                        Leaving { service, destination, seconds, counted, connections: None };
                    one.connections = one.count(&seen.counters);
                    all.push(one);
                }
            }
        }
        all
    }

    /// Which connections of `key` are live ones.
    ///
    /// What a mark stands for follows from the present rules, which made the present connections; then from
    /// those that an unfinished transaction found; then from the file. Where none names it, every connection
    /// counts: better waited for too long than cut unseen.
    pub(super) fn counted(&self, key: &ServiceKey, seen: &Observation) -> CountedConnections {
        let protocols = match key {
            ServiceKey::Address(protocol, _) => BTreeSet::from([*protocol]),
            ServiceKey::Fwmark { v6, mark } => {
                let before = seen.open_transaction.as_deref().map(|there| &there.journal.before);
                let states = [Some(&seen.state), before].into_iter().flatten();
                states
                    .map(|state| marked_by(state, *v6, *mark))
                    .find(|protocols| !protocols.is_empty())
                    .or_else(|| self.marked.get(key).cloned())
                    .unwrap_or_default()
            }
        };
        if protocols.iter().all(|protocol| *protocol == Protocol::Udp) {
            CountedConnections::All
        } else {
            CountedConnections::Active
        }
    }
}

/// The protocols of each firewall mark of `services`; two directors may use the same one.
fn marked<'s>(
    services: impl Iterator<Item = &'s Service>,
) -> BTreeMap<ServiceKey, BTreeSet<Protocol>> {
    let mut all: BTreeMap<ServiceKey, BTreeSet<Protocol>> = BTreeMap::new();
    for service in services {
        if let Some(mark) = &service.mark {
            all.entry(service_key(service)).or_default().extend(&mark.protocols);
        }
    }
    all
}

/// The protocols whose packets the tables of `state` give this mark.
fn marked_by(state: &HostState, v6: bool, number: u32) -> BTreeSet<Protocol> {
    let rules = state.tables.values().flat_map(|table| &table.rules);
    rules
        .filter_map(|rule| match rule {
            PacketRule::Mark { vip, protocol, mark, ports: _ }
                if *mark == number && vip.is_ipv6() == v6 =>
            {
                Some(*protocol)
            }
            _ => None,
        })
        .collect()
}

/// Which connections of a real server are cut when it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedConnections {
    /// Established ones: TCP and SCTP. The others are being made (a second later they are active), or
    /// over.
    Active,
    /// Every one: to IPVS none of UDP is ever active (ip_vs_proto_udp.c). It remembers a client for
    /// 300 s after its last datagram.
    All,
}

impl CountedConnections {
    /// How many of them `counters` has.
    pub fn of(self, counters: &Counters) -> u64 {
        let Counters { active, inactive, .. } = counters;
        match self {
            Self::Active => u64::from(*active),
            Self::All => u64::from(*active) + u64::from(*inactive),
        }
    }
}
