//! Through the stages: hosts of one stage act at once, and who depends on a host that failed is not
//! attempted.

use std::collections::{BTreeMap, BTreeSet};

use super::outcome::{Action, ClusterReport, HostReport, HostStatus, StepState};
use super::planning::{self, ClusterPlan, Direction, HostPlan, Prospect};
use super::session::{Session, unexpected};
use crate::plan::ownership::sysctls_to_read;
use crate::plan::{Change, Stage, Step};
use crate::protocol::{Failure, Outcome, Receipt, Reply, Request, Sighting};
use crate::state::Item;
use crate::topology::{HostName, Role, Topology};

/// Does what `plan` says, stage by stage, and checks on every host what came of it.
pub async fn act(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    seen: &BTreeMap<HostName, Result<Sighting, Failure>>,
    direction: Direction,
) -> ClusterReport {
    let mut report = plan.report(session.topology);
    report.action = plan.action;
    let mut last: BTreeMap<HostName, Sighting> = BTreeMap::new();
    for stage in Stage::ALL {
        let turns = turns(session, plan, seen, stage, &mut report);
        for (name, answer) in session.ask(turns).await {
            let Some(host) = report.hosts.get_mut(&name) else { continue };
            let outcome = answer.and_then(|reply| match reply {
                Reply::Done(outcome) => Ok(*outcome),
                other => Err(unexpected(&other)),
            });
            match outcome {
                Ok(outcome) => {
                    record(host, stage, &outcome);
                    last.insert(name, outcome.after);
                }
                Err(failure) => fail(host, stage, failure),
            }
        }
    }
    judge(session, plan, &last, direction, &mut report);
    report
}

/// Who acts in `stage`. A host that only has its receipt to bring up to date acts in its last stage.
fn turns(
    session: &Session<'_>,
    plan: &ClusterPlan,
    seen: &BTreeMap<HostName, Result<Sighting, Failure>>,
    stage: Stage,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, Request> {
    let failed: BTreeMap<HostName, bool> =
        report.hosts.iter().map(|(name, host)| (name.clone(), host.status.is_failure())).collect();
    let mut turns = BTreeMap::new();
    for (name, prospect) in &plan.hosts {
        let Prospect::Plan(host_plan) = prospect else { continue };
        let receipt = seen.get(name).and_then(|s| s.as_ref().ok()).and_then(|s| s.receipt.as_ref());
        let Some((steps, is_last)) = turn_of(session.topology, name, host_plan, receipt, stage)
        else {
            continue;
        };
        if failed.get(name) == Some(&true) {
            continue;
        }
        if let Some(because) = blocked(session.topology, name, stage, &steps, plan.action, &failed)
        {
            if let Some(host) = report.hosts.get_mut(name) {
                host.status = HostStatus::NotAttempted { because };
                mark(host, stage, 0, StepState::NotDone);
            }
            continue;
        }
        turns.insert(name.clone(), request(session, name, host_plan, steps, is_last));
    }
    turns
}

/// The steps of `name` in `stage`, and whether it is its last turn; `None` if it has no turn then.
fn turn_of(
    topology: &Topology,
    name: &HostName,
    plan: &HostPlan,
    receipt: Option<&Receipt>,
    stage: Stage,
) -> Option<(Vec<Step>, bool)> {
    let last = plan.stages.last().map(|(stage, _)| *stage);
    if let Some((_, steps)) = plan.stages.iter().find(|(at, _)| *at == stage) {
        return Some((steps.clone(), last == Some(stage)));
    }
    let directs = topology.hosts.get(name).is_some_and(|h| h.roles.contains(&Role::Director));
    let only_receipt = last.is_none() && !plan.is_idle(receipt);
    let own_stage = if directs { Stage::Live } else { Stage::Ground };
    (only_receipt && own_stage == stage).then(|| (Vec::new(), true))
}

fn request(
    session: &Session<'_>,
    name: &HostName,
    plan: &HostPlan,
    steps: Vec<Step>,
    is_last: bool,
) -> Request {
    let mut sysctls =
        session.desired.get(name).map(|d| sysctls_to_read(&d.state)).unwrap_or_default();
    // The receipt may be gone when the host is looked at again: ask for what was ours by name.
    sysctls.extend(plan.goal.owned.iter().filter_map(|item| match item {
        Item::Sysctl(key) => Some(key.clone()),
        _ => None,
    }));
    let receipt = plan.goal.receipt.clone();
    let settled = if is_last { plan.goal.settled.clone() } else { Some(receipt.clone()) };
    Request::Act {
        topology: session.topology.name.clone(),
        steps,
        receipt: Some(receipt),
        settled,
        sysctls,
    }
}

/// Why a host must not act now: a director does not go live in front of hosts that are not ready, and
/// a host does not take away what a director may still send to.
fn blocked(
    topology: &Topology,
    name: &HostName,
    stage: Stage,
    steps: &[Step],
    action: Action,
    failed: &BTreeMap<HostName, bool>,
) -> Option<String> {
    let is_failed = |host: &HostName| failed.get(host) == Some(&true);
    match stage {
        Stage::Withdraw => None,
        Stage::Ground => {
            let takes_away = steps.iter().any(|step| takes_away(&step.change));
            let director = directors_of(topology, name).into_iter().find(|d| is_failed(d))?;
            (takes_away || action == Action::Destroy)
                .then(|| format!("{director} may still send requests here: it failed"))
        }
        Stage::Live => {
            let unready = depends_on(topology, name).into_iter().find(|host| is_failed(host))?;
            (action == Action::Apply).then(|| {
                format!("{unready} is not ready: it failed, and requests sent to it would be lost")
            })
        }
    }
}

fn takes_away(change: &Change) -> bool {
    matches!(
        change,
        Change::RemoveAddress { .. } | Change::RemoveRoute { .. } | Change::SetLink { .. }
    )
}

/// The directors that send to `host`.
fn directors_of(topology: &Topology, host: &HostName) -> BTreeSet<HostName> {
    let serves = topology
        .services
        .iter()
        .filter(|service| service.real_servers.iter().any(|rs| rs.host == *host));
    serves.map(|service| service.director.clone()).filter(|director| director != host).collect()
}

/// Whom a director relies on: its real servers, and the routers.
fn depends_on(topology: &Topology, director: &HostName) -> BTreeSet<HostName> {
    let mine = topology.services.iter().filter(|service| service.director == *director);
    let real_servers = mine.flat_map(|service| &service.real_servers).map(|rs| rs.host.clone());
    let routers = topology.with_role(Role::Router).map(|host| host.name.clone());
    real_servers.chain(routers).filter(|host| host != director).collect()
}

fn record(host: &mut HostReport, stage: Stage, outcome: &Outcome) {
    mark(host, stage, outcome.done, StepState::NotDone);
    if let Some(failure) = &outcome.failure {
        host.status = HostStatus::Failed;
        host.failure = Some(failure.clone());
        let mut open = host.steps.iter_mut().filter(|step| step.state != StepState::Done);
        if let Some(step) = open.next() {
            step.state = StepState::Failed;
        }
        open.for_each(|step| step.state = StepState::NotDone);
    }
}

fn fail(host: &mut HostReport, stage: Stage, failure: Failure) {
    mark(host, stage, 0, StepState::NotDone);
    for step in host.steps.iter_mut().filter(|step| step.state == StepState::Planned) {
        step.state = StepState::NotDone;
    }
    host.status = HostStatus::Failed;
    host.failure = Some(failure);
}

/// The first `done` steps of `stage` were done, the rest of it is `rest`.
fn mark(host: &mut HostReport, stage: Stage, done: usize, rest: StepState) {
    let of_stage = host.steps.iter_mut().filter(|step| step.stage == stage);
    for (at, step) in of_stage.enumerate() {
        step.state = if at < done { StepState::Done } else { rest };
    }
}

/// Plans once more from what was read last: nothing may be left to do.
fn judge(
    session: &Session<'_>,
    plan: &ClusterPlan,
    last: &BTreeMap<HostName, Sighting>,
    direction: Direction,
    report: &mut ClusterReport,
) {
    for (name, prospect) in &plan.hosts {
        let (Prospect::Plan(before), Some(host)) = (prospect, report.hosts.get_mut(name)) else {
            continue;
        };
        if host.status != HostStatus::Pending {
            continue;
        }
        let (Some(sighting), Some(machine), Some(desired)) =
            (last.get(name), session.topology.hosts.get(name), session.desired.get(name))
        else {
            continue;
        };
        let left = remaining(session.topology, machine, desired, before, sighting, direction);
        host.status = if left.is_empty() { HostStatus::Changed } else { HostStatus::Unverified };
        if !left.is_empty() {
            host.failure = Some(Failure {
                message: "what was read afterwards is not what was wanted".to_owned(),
                causes: left,
                cure: Some(
                    "something else on this host sets these too (a network service, sysctl.d, another \
                     tool): find it, or run apply again"
                        .to_owned(),
                ),
            });
        }
    }
}

fn remaining(
    topology: &Topology,
    host: &crate::topology::Host,
    desired: &crate::desired::Desired,
    before: &HostPlan,
    sighting: &Sighting,
    direction: Direction,
) -> Vec<String> {
    let steps = match direction {
        Direction::Apply { .. } => {
            match planning::plan_host(topology, host, desired, sighting, direction) {
                Prospect::Plan(plan) => plan.reports(StepState::Planned),
                other => {
                    let report = other.report();
                    let mut left: Vec<String> =
                        report.obstacles.iter().map(ToString::to_string).collect();
                    left.extend(report.failure.iter().map(ToString::to_string));
                    return left;
                }
            }
        }
        // The receipt is gone by now: what it said must be so.
        Direction::Destroy => {
            let goal = &before.goal;
            let again = crate::plan::steps_between(
                &sighting.state,
                &goal.wanted,
                &goal.owned,
                &crate::desired::Reasons::default(),
            );
            match again {
                Ok(steps) => {
                    HostPlan { goal: goal.clone(), stages: crate::plan::stages::stage(host, steps) }
                        .reports(StepState::Planned)
                }
                Err(error) => return vec![error.to_string()],
            }
        }
    };
    steps.into_iter().map(|step| step.text).collect()
}
