//! Whose turn it is in a stage, and who must not take it because another host failed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::outcome::{Action, ClusterReport, HostStatus};
use super::planning::{ClusterPlan, HostPlan, Prospect};
use super::recording;
use super::session::Absent;
use crate::names::HostName;
use crate::state::silent::is_silent;
use crate::state::{Address, Edit, Link, Receipt, Route, Stage, Step};
use crate::topology::{Role, Topology};

/// What one host does in one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// In this order; none where only the receipt is brought up to date.
    pub steps: Vec<Step>,
    /// Whether the receipt is settled after it.
    pub is_last: bool,
}

/// Who acts in `stage`. A host that has to wait for one that failed is marked so in `report`.
pub fn due(
    topology: &Topology,
    plan: &ClusterPlan,
    receipts: &BTreeMap<HostName, Receipt>,
    stage: Stage,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, Turn> {
    let statuses: BTreeMap<HostName, HostStatus> =
        report.hosts.iter().map(|(name, host)| (name.clone(), host.status.clone())).collect();
    let mut turns = BTreeMap::new();
    for (name, prospect) in &plan.hosts {
        let Prospect::Plan(host_plan) = prospect else { continue };
        let Some(turn) = turn_of(topology, name, host_plan, receipts.get(name), stage) else {
            continue;
        };
        if statuses.get(name).is_some_and(HostStatus::is_failure) {
            continue;
        }
        let because = blocked(topology, name, stage, &turn.steps, plan.action, &statuses)
            .or_else(|| held_elsewhere(plan, name, &turn.steps, &statuses));
        if let Some(because) = because {
            if let Some(host) = report.hosts.get_mut(name) {
                recording::not_attempted(host, because);
            }
            continue;
        }
        turns.insert(name.clone(), turn);
    }
    turns
}

/// What `name` does in `stage`; `None` if it has no turn then. A host that only has its receipt to
/// bring up to date acts in its last stage.
fn turn_of(
    topology: &Topology,
    name: &HostName,
    plan: &HostPlan,
    receipt: Option<&Receipt>,
    stage: Stage,
) -> Option<Turn> {
    let last = plan.stages.last().map(|(stage, _)| *stage);
    if let Some((_, steps)) = plan.stages.iter().find(|(at, _)| *at == stage) {
        return Some(Turn { steps: steps.clone(), is_last: last == Some(stage) });
    }
    let directs = topology.hosts.get(name).is_some_and(|h| h.roles.contains(&Role::Director));
    let only_receipt = last.is_none() && !plan.is_idle(receipt);
    let own_stage = if directs { Stage::Live } else { Stage::Ground };
    (only_receipt && own_stage == stage).then(|| Turn { steps: Vec::new(), is_last: true })
}

/// Why a host must not act now: a director does not go live in front of hosts that are not ready, and
/// a host does not take away what a director may still send to.
fn blocked(
    topology: &Topology,
    name: &HostName,
    stage: Stage,
    steps: &[Step],
    action: Action,
    statuses: &BTreeMap<HostName, HostStatus>,
) -> Option<String> {
    let plight = |host: &HostName| statuses.get(host).and_then(plight);
    match stage {
        Stage::Ground => {
            let takes_away = steps.iter().any(|step| takes_away(&step.change));
            if !takes_away && action != Action::Destroy {
                return None;
            }
            let (director, plight) = other_directors(topology, name)
                .find_map(|director| plight(&director).map(|plight| (director, plight)))?;
            Some(format!(
                "{director} may still send requests here: {plight} (if {director} is gone for good, \
                 `--limit {name}` leaves it out)"
            ))
        }
        Stage::Live if action == Action::Apply => {
            let (unready, plight) = depends_on(topology, name)
                .into_iter()
                .find_map(|host| plight(&host).map(|plight| (host, plight)))?;
            Some(format!("{unready} is not ready: {plight}, and requests sent to it would be lost"))
        }
        Stage::Drain | Stage::Withdraw | Stage::Live | Stage::Ramp => None,
    }
}

/// Why an address must not be added: it moves here from a host that was to give it up and failed, so
/// that two machines would answer for it.
fn held_elsewhere(
    plan: &ClusterPlan,
    name: &HostName,
    steps: &[Step],
    statuses: &BTreeMap<HostName, HostStatus>,
) -> Option<String> {
    let added: BTreeSet<IpAddr> = steps
        .iter()
        .filter_map(|step| step.change.added::<Address>())
        .filter(|(key, _)| !is_silent(&key.dev))
        .map(|(key, _)| key.net.addr())
        .collect();
    plan.hosts.iter().find_map(|(other, prospect)| {
        let Prospect::Plan(theirs) = prospect else { return None };
        let plight = plight(statuses.get(other).filter(|_| other != name)?)?;
        let steps = theirs.stages.iter().flat_map(|(_, steps)| steps);
        let kept = steps
            .filter_map(|step| step.change.removed::<Address>())
            .filter(|(key, _)| !is_silent(&key.dev))
            .map(|(key, _)| key.net.addr())
            .find(|address| added.contains(address))?;
        Some(format!("{other} may still have {kept}: {plight}, and two hosts would answer for it"))
    })
}

/// What is wrong with a host that failed, as a sentence after its name.
fn plight(status: &HostStatus) -> Option<&'static str> {
    match status {
        HostStatus::Failed => Some("it failed"),
        HostStatus::Unverified => Some("it is not as wanted afterwards"),
        HostStatus::Unreachable => Some("it could not be reached"),
        HostStatus::Refused => Some("it refused"),
        HostStatus::Obstructed => Some("something stands in its way"),
        HostStatus::NotAttempted { .. } => Some("it was not attempted"),
        HostStatus::Undone { .. } => Some("it was undone"),
        HostStatus::Unchanged
        | HostStatus::Pending
        | HostStatus::Changed
        | HostStatus::Unmanaged
        | HostStatus::LeftOut => None,
    }
}

/// Whether a host without it no longer takes requests, or no longer answers them.
fn takes_away(edit: &Edit) -> bool {
    edit.removed::<Address>().is_some()
        || edit.removed::<Route>().is_some()
        || edit.changed::<Link>().is_some_and(|(_, _, after)| *after == Link::Down)
}

/// Every director but `host`. Not only those whose services name it: a real server that was taken out
/// of the file is in none any more, and is still sent requests until its director has withdrawn it.
fn other_directors(topology: &Topology, host: &HostName) -> impl Iterator<Item = HostName> {
    topology.with_role(Role::Director).map(|d| d.name.clone()).filter(move |d| d != host)
}

/// Words about hosts that nobody looked at, for one that acts nevertheless: `--limit` is the
/// operator's word, and a host that the file does not say how to reach is in other hands.
pub fn cautions(
    topology: &Topology,
    name: &HostName,
    plan: &HostPlan,
    action: Action,
    absent: &BTreeMap<HostName, Absent>,
) -> Vec<String> {
    let because = |reason: &Absent| match reason {
        Absent::LeftOut => Some("left out by --limit"),
        Absent::Unmanaged => Some("not managed by this file"),
        Absent::Unreachable(_) => None,
    };
    let unseen = |hosts: BTreeSet<HostName>| {
        let unseen: Vec<String> = hosts
            .into_iter()
            .filter_map(|host| {
                let because = because(absent.get(&host)?)?;
                Some(format!("{host} ({because})"))
            })
            .collect();
        (!unseen.is_empty()).then(|| unseen.join(", "))
    };
    let has = |stage| plan.stages.iter().any(|(at, _)| *at == stage);
    let steps = plan.stages.iter().flat_map(|(_, steps)| steps);
    let takes_away = steps.into_iter().any(|step| takes_away(&step.change));
    let mut cautions = Vec::new();
    if has(Stage::Live) && matches!(action, Action::Apply | Action::Plan) {
        cautions.extend(unseen(depends_on(topology, name)).map(|hosts| {
            format!("not looked at: {hosts}; requests sent there are lost unless they are ready")
        }));
    }
    if has(Stage::Ground) && takes_away {
        cautions.extend(unseen(other_directors(topology, name).collect()).map(|hosts| {
            format!("not looked at: {hosts}; requests that it still sends here will be lost")
        }));
    }
    cautions
}

/// Whom a director relies on: its real servers, and the routers. Nobody, if it directs nothing.
fn depends_on(topology: &Topology, director: &HostName) -> BTreeSet<HostName> {
    let mine: Vec<_> =
        topology.services.iter().filter(|service| service.director == *director).collect();
    if mine.is_empty() {
        return BTreeSet::new();
    }
    let real_servers =
        mine.into_iter().flat_map(|service| &service.real_servers).map(|rs| rs.host.clone());
    let routers = topology.with_role(Role::Router).map(|host| host.name.clone());
    real_servers.chain(routers).filter(|host| host != director).collect()
}
