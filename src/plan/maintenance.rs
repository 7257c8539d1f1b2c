//! Taking hosts out of service for a while: what stands in the way, and what a person should know. Pure.
//!
//! What a topology is meanwhile is in [`Topology::in_maintenance`]; which hosts are out, the receipts of the directors say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;

use super::preflight::Obstacle;
use crate::names::HostName;
use crate::state::{Maintenance, Receipt};
use crate::topology::{Reach, Role, Scheduler, Service, Topology};

/// What is done with hosts that are taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// They stay out until the operator returns them.
    Maintain,
    /// They are rebooted, one after the other.
    Reboot,
}

/// The hosts in maintenance by the receipts of all directors: one director is enough.
pub fn of_receipts<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> Maintenance {
    let all = receipts.into_iter();
    all.fold(Maintenance::default(), |all, receipt| all.union(&receipt.maintenance))
}

/// What a person should know of `host`, which is in maintenance.
pub fn caution(host: &HostName, since: u64) -> String {
    format!(
        "{host} is in maintenance since {}: it gets no new connections (`lvsprov return FILE {host}` ends it)",
        time(since)
    )
}

/// Where the receipts of two directors disagree, a line for the one that lacks a host of `topology.maintenance`.
pub fn disagreements(
    topology: &Topology,
    receipts: &BTreeMap<&HostName, &Receipt>,
) -> BTreeMap<HostName, Vec<String>> {
    let mut all: BTreeMap<HostName, Vec<String>> = BTreeMap::new();
    for (host, _) in topology.maintenance.iter() {
        let has = |receipt: &Receipt| receipt.maintenance.contains(host);
        let Some((by, _)) = receipts.iter().find(|(_, receipt)| has(receipt)) else { continue };
        for director in topology.directors_of(host) {
            if receipts.get(&director).is_some_and(|receipt| !has(receipt)) {
                all.entry(director.clone()).or_default().push(format!(
                    "the receipt of {by} has {host} in maintenance, that of {director} has not: it counts as in maintenance, \
                     and `lvsprov apply FILE` or `lvsprov return FILE {host}` makes both agree"
                ));
            }
        }
    }
    all
}

/// A time in seconds since 1970 as a person reads it, to the minute, in UTC.
fn time(since: u64) -> String {
    let at = i64::try_from(since).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    at.map_or_else(
        || format!("{since} s after 1970"),
        |at| at.format("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

/// What stands in the way of taking `hosts` out, each with the host that it is about. `file`: as the file has the weights;
/// `current`: the hosts that are in maintenance already; `allow_outage`: the operator accepts that requests fail.
pub fn obstacles(
    file: &Topology,
    current: &Maintenance,
    hosts: &BTreeSet<HostName>,
    (withdrawal, allow_outage): (Withdrawal, bool),
) -> Vec<(HostName, Obstacle)> {
    let mut all = Vec::new();
    for host in hosts {
        // Those that are rebooted are out one at a time.
        let out = match withdrawal {
            Withdrawal::Maintain => current.clone().with(hosts, 0),
            Withdrawal::Reboot => current.clone().with(&BTreeSet::from([host.clone()]), 0),
        };
        let of_host = of_host(file, host, current, &out, (withdrawal, allow_outage));
        all.extend(of_host.into_iter().map(|obstacle| (host.clone(), obstacle)));
    }
    all
}

fn of_host(
    file: &Topology,
    name: &HostName,
    current: &Maintenance,
    out: &Maintenance,
    (withdrawal, allow_outage): (Withdrawal, bool),
) -> Vec<Obstacle> {
    let mut all = Vec::new();
    let serves = file.real_servers().contains(name);
    match withdrawal {
        Withdrawal::Reboot => all.extend(unreachable_by_reboot(file, name)),
        Withdrawal::Maintain if !serves => return vec![no_real_server(file, name)],
        Withdrawal::Maintain => {}
    }
    if allow_outage {
        return all;
    }
    if withdrawal == Withdrawal::Reboot {
        all.extend(single_point(file, name));
    }
    if current.contains(name) {
        return all;
    }
    for service in &file.services {
        if !service.real_servers.iter().any(|server| server.host == *name && server.weight > 0) {
            continue;
        }
        let takes = |out: &Maintenance| {
            service.real_servers.iter().any(|it| it.weight > 0 && !out.contains(&it.host))
        };
        if takes(current) && !takes(out) {
            all.push(last_of(service, name));
        } else if service.scheduler == Scheduler::Dh {
            all.push(hashes_by_destination(service, name));
        }
    }
    all
}

fn last_of(service: &Service, host: &HostName) -> Obstacle {
    Obstacle {
        message: format!("{host} is the last real server of {} that takes requests", service.display_name()),
        why: "without it every new client would be refused".to_owned(),
        cure: "return another real server first, or one host at a time; `--allow-outage` takes it out all the same"
            .to_owned(),
    }
}

fn hashes_by_destination(service: &Service, host: &HostName) -> Obstacle {
    Obstacle {
        message: format!("{} uses the scheduler dh, which cannot drain {host}", service.display_name()),
        why: "dh goes on choosing a real server of weight 0 and refuses its clients, so it is taken out of the service \
              at once, and its connections are cut"
            .to_owned(),
        cure: "`scheduler: mh` in the file drains; `--allow-outage` cuts the connections".to_owned(),
    }
}

/// A host without a weight to take away.
fn no_real_server(file: &Topology, name: &HostName) -> Obstacle {
    let has = |role| file.hosts.get(name).is_some_and(|host| host.roles.contains(&role));
    if has(Role::Director) || has(Role::Router) {
        let why = single_point(file, name).map_or_else(
            || "it directs no service, so nothing is to be taken out".to_owned(),
            |obstacle| format!("{}: {}", obstacle.message, obstacle.why),
        );
        return Obstacle {
            message: format!(
                "{name} is no real server, and lvsprov hands its part to no other host"
            ),
            why,
            cure: format!("`lvsprov reboot FILE {name} --allow-outage` reboots it, with an outage"),
        };
    }
    Obstacle {
        message: format!("{name} is no real server: no request is sent to it"),
        why: "maintenance means that no new request comes, and there is none".to_owned(),
        cure: format!(
            "work on it as it is; `lvsprov reboot FILE {name}` reboots it and verifies the cluster"
        ),
    }
}

/// A host without which no request is answered, and what its reboot costs.
fn single_point(file: &Topology, name: &HostName) -> Option<Obstacle> {
    let host = file.hosts.get(name)?;
    let services: Vec<String> =
        file.services.iter().filter(|it| it.director == *name).map(Service::display_name).collect();
    let cure = |first: &str| format!("{first}; `--allow-outage` reboots it all the same");
    if !services.is_empty() {
        let partner = if host.ipvs.daemons.is_empty() {
            String::new()
        } else {
            "; its sync daemon hands its connections on to the other director, but lvsprov moves no VIP".to_owned()
        };
        return Some(Obstacle {
            message: format!("{name} is the only director of {}", services.join(", ")),
            why: format!(
                "an outage: from its shutdown until its boot has made the VIP again no request is answered, and TCP \
                 connections wait or break{partner}"
            ),
            cure: cure(
                "choose a quiet hour; where another program (keepalived) moves the VIPs to a standby, let it do so first",
            ),
        });
    }
    let is_gateway = file.hosts.values().any(|other| {
        let mut hops = other.gateways.iter().chain(other.routes.iter().map(|route| &route.via));
        hops.any(|hop| hop.host.as_ref() == Some(name))
    });
    (host.roles.contains(&Role::Router) && is_gateway).then(|| Obstacle {
        message: format!("{name} is a router on the way of requests and replies"),
        why: "an outage: while it reboots no packet passes it, and lvsprov moves no route"
            .to_owned(),
        cure: cure("lead the routes around it first, or choose a quiet hour"),
    })
}

/// Why lvsprov cannot reboot a host, by the file alone.
fn unreachable_by_reboot(file: &Topology, name: &HostName) -> Option<Obstacle> {
    let (message, why, cure) = match file.hosts.get(name)?.reach {
        // Of a namespace only a lab serves a reboot; the agent of a real machine refuses.
        Some(Reach::Ssh(_) | Reach::Netns(_)) => return None,
        Some(Reach::Local) => (
            format!("{name} is the machine that lvsprov runs on (`local: true`)"),
            "its reboot would end lvsprov, which is to verify the host and to return it afterwards",
            "run `lvsprov reboot` on another machine that reaches it by ssh",
        ),
        None => (
            format!("the file does not say how {name} is reached"),
            "lvsprov cannot reboot it, nor see that it came back",
            "write `ssh: USER@HOST` in the file, or reboot it by hand between `maintain` and `return`",
        ),
    };
    Some(Obstacle { message, why: why.to_owned(), cure: cure.to_owned() })
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
