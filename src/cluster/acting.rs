//! Through the stages: hosts of one stage act at once. Who acts is decided in [`turns`], what came of
//! it written down by [`recording`].

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::outcome::{ClusterReport, HostStatus, StepState};
use super::planning::{self, ClusterPlan, Direction, HostPlan, Prospect};
use super::recording;
use super::session::{NoAnswer, Session, unexpected};
use super::turns::{self, Turn};
use super::waiting::{self, Go};
use crate::plan::Stage;
use crate::plan::ownership::sysctls_to_read;
use crate::protocol::{Failure, Outcome, Receipt, Reply, Request, Sighting};
use crate::state::Item;
use crate::topology::{HostName, Topology};

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
    let receipts = receipts(seen);
    for stage in Stage::ALL {
        let due = turns::due(session.topology, plan, &receipts, stage, &mut report);
        let started = Instant::now();
        for go in waiting::goes(stage, plan) {
            waiting::until(session, started, &go).await;
            turn(session, plan, stage, &go, &due, &mut report, &mut last).await;
        }
        let going = report.hosts.iter().filter(|(_, host)| host.status == HostStatus::Pending);
        let going = going.map(|(name, _)| name.clone()).collect();
        for (name, failure) in waiting::after(session, plan, stage, &going, &mut report).await {
            if let Some(host) = report.hosts.get_mut(&name) {
                recording::refused(host, failure);
            }
        }
    }
    judge(session, plan, &last, direction, &mut report);
    report
}

/// A part of a stage, on all hosts whose turn it is.
async fn turn(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    stage: Stage,
    go: &Go,
    due: &BTreeMap<HostName, Turn>,
    report: &mut ClusterReport,
    last: &mut BTreeMap<HostName, Sighting>,
) {
    let mut requests = BTreeMap::new();
    let mut asked = BTreeMap::new();
    for (name, turn) in due {
        let is_failed = |host: &super::HostReport| host.status.is_failure();
        if report.hosts.get(name).is_some_and(is_failed) {
            continue;
        }
        let steps = go.steps(name, &turn.steps);
        if steps.is_empty() && !turn.steps.is_empty() {
            continue;
        }
        if let Some(Prospect::Plan(host_plan)) = plan.hosts.get(name) {
            asked.insert(name.clone(), steps.len());
            let turn = Turn { steps, is_last: turn.is_last };
            requests.insert(name.clone(), request(session, name, host_plan, turn));
        }
    }
    let mut answers = session.ask(requests).await;
    for (name, count) in asked {
        let Some(host) = report.hosts.get_mut(&name) else { continue };
        match outcome(answers.remove(&name)) {
            Ok(outcome) => {
                recording::answered_part(host, stage, count, &outcome);
                last.insert(name, outcome.after);
            }
            Err(no_answer) => recording::unanswered_part(host, stage, count, no_answer),
        }
    }
}

fn receipts(seen: &BTreeMap<HostName, Result<Sighting, Failure>>) -> BTreeMap<HostName, Receipt> {
    let with_receipt = seen.iter().filter_map(|(name, sighting)| {
        let receipt = sighting.as_ref().ok()?.receipt.clone()?;
        Some((name.clone(), receipt))
    });
    with_receipt.collect()
}

fn outcome(answer: Option<Result<Reply, NoAnswer>>) -> Result<Outcome, NoAnswer> {
    match answer {
        Some(Ok(Reply::Done(outcome))) => Ok(*outcome),
        Some(Ok(other)) => Err(NoAnswer::Lost(unexpected(&other))),
        Some(Err(no_answer)) => Err(no_answer),
        // It went away earlier, so it was not asked.
        None => Err(NoAnswer::Refused(Failure {
            message: "the connection to it is gone".to_owned(),
            causes: Vec::new(),
            cure: Some("run the same command again".to_owned()),
        })),
    }
}

fn request(session: &Session<'_>, name: &HostName, plan: &HostPlan, turn: Turn) -> Request {
    let Turn { steps, is_last } = turn;
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
            // Never seen: it had steps and no turn.
            host.status = HostStatus::Unverified;
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
        Direction::Apply { .. } | Direction::Adopt { .. } => {
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
                    let stages = crate::plan::stages::stage(host, steps);
                    HostPlan { stages, ..before.clone() }.reports(StepState::Planned)
                }
                Err(error) => return vec![error.to_string()],
            }
        }
    };
    steps.into_iter().map(|step| step.text).collect()
}
