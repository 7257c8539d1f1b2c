//! Rules about single services: keys, ports, weights, schedulers, hosts.

use std::collections::{BTreeSet, HashMap};

use super::Subject;
use crate::desired::service_key;
use crate::finding::Finding;
use crate::topology::{Role, Scheduler, Service};

/// Two services with the same IPVS key.
pub(super) fn duplicate_service(subject: &Subject<'_>) -> Vec<Finding> {
    let mut seen: HashMap<_, &Service> = HashMap::new();
    let mut findings = Vec::new();
    let mut services: Vec<&Service> = subject.topology.services.iter().collect();
    services.sort_by_key(|s| s.at);
    for service in services {
        let key = service_key(service);
        let Some(first) = seen.get(&(&service.director, key.clone())) else {
            seen.insert((&service.director, key), service);
            continue;
        };
        findings.push(Finding::error(
            "duplicate-service",
            service.vip.as_ref().map_or(service.at, |vip| vip.at),
            format!("{key} is a duplicate of the service at {}:{}", first.at.line, first.at.column),
            "IPVS has one service for each protocol, VIP and port, or firewall mark (EEXIST)",
            "put all real servers into one service, or correct the port or the mark",
        ));
    }
    findings
}

/// Two real servers of one service with the same address and port.
pub(super) fn duplicate_real_server(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let mut seen = HashMap::new();
        let mut reals: Vec<_> = service.serving().collect();
        reals.sort_by_key(|r| r.at);
        for real in reals {
            if seen.insert((real.rip, real.port), real).is_some() {
                findings.push(Finding::error(
                    "duplicate-real-server",
                    real.at,
                    format!(
                        "{} (port {}) is already a real server of {}",
                        real.host,
                        real.port,
                        service.display_name()
                    ),
                    "IPVS has one destination for each address and port (EEXIST)",
                    "remove one of them; for a larger share raise its weight",
                ));
            }
        }
    }
    findings
}

/// Trap 6: DR and TUN never rewrite the port. Nor does NAT with a persistence template for every port
/// (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_sched_persist`).
pub(super) fn port_mapping(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let every = service.port == 0;
        let from = if every { "every port".to_owned() } else { format!("port {}", service.port) };
        for real in service.real_servers.iter().filter(|real| real.port != service.port) {
            let message = format!("{from} is mapped to {} under {}", real.port, real.forward);
            let (why, cure) = if !real.forward.rewrites() {
                let arrives = if every { "that port".into() } else { from.clone() };
                (
                    format!(
                        "{} keeps the destination port: packets arrive at {arrives}, and the kernel silently ignores the real server's port",
                        real.forward
                    ),
                    if every {
                        "remove `port:` from the real server, or use `forward: nat`".to_owned()
                    } else {
                        format!("let {} listen on {from}, or use `forward: nat`", real.host)
                    },
                )
            } else if every && service.persistence.is_some() {
                (
                    "a persistent service for every port keeps the client's destination port, and the kernel silently ignores the real server's port".to_owned(),
                    "remove `port:` from the real server, or write one service for each port".to_owned(),
                )
            } else {
                continue;
            };
            findings.push(Finding::error("port-mapping", real.at, message, why, cure));
        }
    }
    findings
}

/// A client that is also a real server with the VIP.
pub(super) fn client_is_real_server(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        for real in service.real_servers.iter().filter(|r| !r.forward.rewrites()) {
            let host = subject.host(&real.host);
            let both = [Role::Client, Role::RealServer];
            if host.is_some_and(|h| both.iter().all(|role| h.roles.contains(role))) {
                findings.push(Finding::warning(
                    "client-is-real-server",
                    real.at,
                    format!("{} is both a client and a real server of {}", real.host, service.display_name()),
                    format!("under {} it has the VIP: its own requests stay on the host and are not balanced", real.forward),
                    "use another host as client",
                ));
            }
        }
    }
    findings
}

/// Weights that the scheduler ignores (net/netfilter/ipvs/ip_vs_rr.c, _lc.c, _dh.c).
pub(super) fn weights_ignored(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let better = match service.scheduler {
            Scheduler::Rr => "wrr",
            Scheduler::Lc => "wlc",
            Scheduler::Dh => "sh",
            _ => continue,
        };
        let weights: BTreeSet<u32> =
            service.real_servers.iter().map(|r| r.weight).filter(|w| *w != 0).collect();
        if weights.len() > 1 {
            findings.push(Finding::warning(
                "weights-ignored",
                service.at,
                format!("the weights differ, but the scheduler {} ignores them", service.scheduler),
                "every real server with a weight above 0 gets the same share",
                format!("use `scheduler: {better}`, or remove the weights"),
            ));
        }
    }
    findings
}

/// Weight 0 on every real server: no new connections.
pub(super) fn all_weights_zero(subject: &Subject<'_>) -> Vec<Finding> {
    let drained =
        |s: &&Service| !s.real_servers.is_empty() && s.real_servers.iter().all(|r| r.weight == 0);
    let services = subject.topology.services.iter().filter(drained);
    services
        .map(|service| {
            Finding::warning(
                "all-weights-zero",
                service.at,
                format!("every real server of {} has weight 0", service.display_name()),
                "with weight 0 a real server gets no new connections: IPVS refuses clients",
                "give at least one real server a weight above 0, unless the service is being drained",
            )
        })
        .collect()
}

/// A director or real server that no service uses.
pub(super) fn unused_host(subject: &Subject<'_>) -> Vec<Finding> {
    let services = &subject.topology.services;
    // After an error a service may be missing, so an unused host proves nothing.
    if services.is_empty() || !subject.whole {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for host in subject.topology.hosts.values() {
        let idle = match () {
            () if host.roles.contains(&Role::RealServer)
                && !subject.index.serving.contains(&host.name) =>
            {
                "real server"
            }
            // A director with a sync daemon stands by for another one.
            () if host.roles.contains(&Role::Director)
                && host.ipvs.daemons.is_empty()
                && !subject.index.directors.contains(&host.name) =>
            {
                "director"
            }
            () => continue,
        };
        findings.push(Finding::warning(
            "unused-host",
            host.at,
            format!("{} is a {idle}, and no service uses it", host.name),
            if idle == "director" && !host.ipvs.settings.is_empty() {
                "it gets the settings of its `ipvs:`, and no traffic"
            } else {
                "it gets no settings of a service, and no traffic"
            },
            "name it in a service, or remove its role",
        ));
    }
    findings
}
