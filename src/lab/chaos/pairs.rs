//! Which two hosts do the most harm when they die at once. Pure.

use std::collections::BTreeSet;

use crate::names::HostName;
use crate::topology::{RealServer, Role, Service, Topology};

/// Two hosts, the first before the second.
pub type HostPair = (HostName, HostName);

/// The worst pairs. Two hosts that stand in for each other take a service away when both die; a director and a real server
/// have to be found dead by different means. So for each service:
///
/// 1. the two real servers with the largest weights: of two servers, all;
/// 2. its director and the real server with the largest weight;
///
/// and in the whole cluster every two directors, and every two routers. Of equal weights the first by name counts. A host
/// with weight 0 has no share to lose, and is in no pair.
pub fn worst(topology: &Topology) -> BTreeSet<HostPair> {
    let mut all = BTreeSet::new();
    for service in &topology.services {
        let servers = by_weight(service);
        if let [first, second, ..] = servers.as_slice() {
            all.extend(pair(first, second));
        }
        if let Some(first) = servers.first() {
            all.extend(pair(&service.director, first));
        }
    }
    for role in [Role::Director, Role::Router] {
        let hosts: Vec<&HostName> = topology.with_role(role).map(|host| &host.name).collect();
        all.extend(every_two(&hosts));
    }
    all
}

/// Every two hosts that are no clients.
pub fn all(topology: &Topology) -> BTreeSet<HostPair> {
    let hosts = topology.hosts.values();
    let serving = hosts.filter(|host| host.roles.iter().any(|role| *role != Role::Client));
    let names: Vec<&HostName> = serving.map(|host| &host.name).collect();
    every_two(&names)
}

fn every_two(hosts: &[&HostName]) -> BTreeSet<HostPair> {
    let with_later = |(at, one): (usize, &&HostName)| {
        let later = hosts.iter().skip(at + 1);
        later.filter_map(|other| pair(one, other)).collect::<Vec<_>>()
    };
    hosts.iter().enumerate().flat_map(with_later).collect()
}

/// `None` for one host with itself: a director that is a real server.
fn pair(one: &HostName, other: &HostName) -> Option<HostPair> {
    match one.cmp(other) {
        std::cmp::Ordering::Less => Some((one.clone(), other.clone())),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some((other.clone(), one.clone())),
    }
}

/// The hosts of a service's real servers, each once, the largest weight first.
fn by_weight(service: &Service) -> Vec<HostName> {
    let mut servers: Vec<&RealServer> =
        service.real_servers.iter().filter(|server| server.weight > 0).collect();
    servers.sort_by(|a, b| b.weight.cmp(&a.weight).then_with(|| a.host.cmp(&b.host)));
    let mut names: Vec<HostName> = Vec::new();
    for server in servers {
        if !names.contains(&server.host) {
            names.push(server.host.clone());
        }
    }
    names
}
