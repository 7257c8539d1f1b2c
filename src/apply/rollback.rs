//! Rolls a transaction back on every host at once: observes each host, plans the way back to its state
//! before, and executes it in stages like any change, so that no director sends to a host that no longer
//! takes requests.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster_plan::{ClusterPlan, HostPlan, HostPlanResult};
use super::outcome::{
    Action, ClusterReport, HostReport, HostRollback, HostStatus, RollbackEnd, StepState,
};
use super::session::{Observations, Session};
use super::{prepare, requests, stage_work};
use crate::desired::Reasons;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::Pacing;
use crate::plan::{Goal, SimulateError, stages, steps_between};
use crate::protocol::{Decision, Request};
use crate::state::{Observation, OpenTransaction, Operator, Stage, TransactionId};

/// What to roll back.
#[derive(Debug, Clone)]
pub struct RollbackRequest {
    /// The transaction of each host.
    pub ids: BTreeMap<HostName, TransactionId>,
    /// Who rolls back.
    pub by: Operator,
    /// Whether this session's connections hold the transactions; else they are resumed first.
    pub is_ours: bool,
    /// Resumes transactions even while another controller works at them.
    pub force: bool,
    /// Hosts that were sent no steps: they block no other host when unreachable.
    pub unchanged: BTreeSet<HostName>,
}

/// A host with an open transaction, and its way back.
struct WayBack {
    open: OpenTransaction,
    plan: HostPlan,
}

/// Rolls back every host of `request` that allows it; all of them are in the answer. Tries a host that failed
/// once more from its state then, because its own revert timer may have acted at the same time.
pub async fn roll_back(
    session: &mut Session<'_>,
    request: &RollbackRequest,
) -> BTreeMap<HostName, HostRollback> {
    let (mut ends, unreachable) = try_once(session, request).await;
    let open: BTreeSet<HostName> = ends
        .iter()
        .filter(|(_, rollback)| matches!(rollback.end, RollbackEnd::Open { .. }))
        .map(|(name, _)| name.clone())
        .collect();
    if open.is_subset(&unreachable) {
        return ends;
    }
    // Resumed anew: a transaction that a revert timer has begun to revert is held by no connection.
    let mut again = RollbackRequest { is_ours: false, ..request.clone() };
    again.ids.retain(|name, _| open.contains(name));
    for (name, rollback) in try_once(session, &again).await.0 {
        let Some(first) = ends.get_mut(&name) else { continue };
        first.steps.retain(|step| step.state == StepState::Done);
        first.steps.extend(rollback.steps);
        first.end = rollback.end;
    }
    ends
}

/// The end of each host, and the hosts that are unreachable.
async fn try_once(
    session: &mut Session<'_>,
    request: &RollbackRequest,
) -> (BTreeMap<HostName, HostRollback>, BTreeSet<HostName>) {
    let mut ends: BTreeMap<HostName, HostRollback> = BTreeMap::new();
    let hosts: BTreeSet<HostName> = request.ids.keys().cloned().collect();
    let lost = session.lost(&hosts);
    session.reconnect(&lost, true).await;
    let unreachable = session.lost(&hosts);
    // Observed only after the resume, which waits until the request of any other connection has ended.
    let mut refused = resume(session, request, &lost).await;
    let observed = session.observe_hosts(&hosts, false).await;
    let mut ways = BTreeMap::new();
    for (name, id) in &request.ids {
        let end = match way_back(session, name, id, observed.get(name)) {
            Ok(Some(way)) => {
                let Some(failure) = refused.remove(name) else {
                    ways.insert(name.clone(), way);
                    continue;
                };
                left_open(failure, Some(&way.plan))
            }
            Ok(None) => HostRollback::without_steps(RollbackEnd::RolledBack),
            Err(failure) => left_open(failure, None),
        };
        ends.insert(name.clone(), end);
    }
    if !request.force {
        keep_if_in_doubt(&mut ways, &mut ends);
    }
    execute(session, request, &observed, &mut ways, &mut ends).await;
    let open = |name: &HostName| observed.get(name)?.as_ref().ok()?.open_transaction.as_deref();
    let voted = request.ids.keys().filter(|name| open(name).is_some_and(|open| open.voted));
    close(session, &voted.cloned().collect(), ways, &mut ends).await;
    for (name, rollback) in &mut ends {
        if let RollbackEnd::Open { reverts_in_s, .. } = &mut rollback.end {
            *reverts_in_s = open(name).and_then(|open| open.reverts_in_ms).map(|ms| ms / 1000);
        }
    }
    (ends, unreachable)
}

/// What a rollback would do, for `--dry-run`.
pub fn rehearse(
    session: &Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    observed: &Observations,
) -> BTreeMap<HostName, HostRollback> {
    let rehearsed = ids.iter().map(|(name, id)| {
        let rollback = match way_back(session, name, id, observed.get(name)) {
            Ok(Some(way)) => HostRollback {
                steps: way.plan.reports(StepState::Planned),
                end: RollbackEnd::Planned,
            },
            Ok(None) => HostRollback::without_steps(RollbackEnd::RolledBack),
            Err(failure) => left_open(failure, None),
        };
        (name.clone(), rollback)
    });
    rehearsed.collect()
}

fn left_open(failure: Failure, plan: Option<&HostPlan>) -> HostRollback {
    let steps = plan.map(|plan| plan.reports(StepState::NotDone)).unwrap_or_default();
    HostRollback { steps, end: RollbackEnd::open(failure) }
}

/// The way back of one host; `None`: it is closed already.
fn way_back(
    session: &Session<'_>,
    name: &HostName,
    id: &TransactionId,
    observed: Option<&Result<Observation, Failure>>,
) -> Result<Option<WayBack>, Failure> {
    let observation = match observed {
        Some(Ok(observation)) => observation,
        Some(Err(failure)) => return Err(failure.clone()),
        None => return Err(session.why_absent(name)),
    };
    let Some(open) = observation.open_transaction.as_deref() else { return Ok(None) };
    if open.journal.transaction != *id {
        return Err(Failure {
            message: format!(
                "transaction {} of {} has taken over what was done here",
                open.journal.transaction, open.journal.by
            ),
            causes: Vec::new(),
            cure: Some("see `lvsprov plan`".to_owned()),
        });
    }
    let Some(host) = session.topology.hosts.get(name) else { return Ok(None) };
    let goal = Goal::undo(open, observation);
    let steps = steps_between(&observation.state, &goal.wanted, &goal.owned, &Reasons::default());
    let stages = stages::stage(host, steps.map_err(|error| fault(&error))?);
    let plan = HostPlan {
        goal,
        stages,
        pacing: Pacing::default(),
        cautions: Vec::new(),
        foreign: Vec::new(),
        moves_way_back: false,
        installs_unit: false,
        external: Vec::new(),
    };
    Ok(Some(WayBack { open: open.clone(), plan }))
}

/// The planner contradicts itself.
pub(super) fn fault(error: &SimulateError) -> Failure {
    let mut failure = Failure::from_error(error);
    failure.cure = Some("this is a fault of lvsprov: please report it".to_owned());
    failure
}

/// Resumes the transactions that this session's connections do not hold. Returns the hosts that refuse.
async fn resume(
    session: &mut Session<'_>,
    request: &RollbackRequest,
    lost: &BTreeSet<HostName>,
) -> BTreeMap<HostName, Failure> {
    let mut ids = request.ids.clone();
    ids.retain(|name, _| !request.is_ours || lost.contains(name));
    let answers = requests::resume(session, &ids, &request.by, request.force).await;
    let refused = answers.into_iter().filter_map(|(name, answer)| Some((name, answer.err()?)));
    refused.map(|(name, error)| (name, error.into_failure())).collect()
}

/// Where one host has closed the transaction and all others have voted, another controller may be
/// committing it: in doubt, so no host is rolled back.
fn keep_if_in_doubt(
    ways: &mut BTreeMap<HostName, WayBack>,
    ends: &mut BTreeMap<HostName, HostRollback>,
) {
    let closed = ends.iter().find(|(_, rollback)| rollback.end == RollbackEnd::RolledBack);
    let Some(closed) = closed.map(|(name, _)| name.clone()) else { return };
    if ways.values().any(|way| !way.open.voted) {
        return;
    }
    for (name, way) in std::mem::take(ways) {
        let failure = Failure {
            message: format!("another controller has closed it on {closed}: it may be done"),
            causes: Vec::new(),
            cure: Some(
                "`lvsprov plan` says how it stands; `lvsprov rollback --force` undoes what is left of it"
                    .to_owned(),
            ),
        };
        ends.insert(name, left_open(failure, Some(&way.plan)));
    }
}

/// Executes the ways back, stage by stage. A host that fails moves from `ways` to `ends`.
async fn execute(
    session: &mut Session<'_>,
    request: &RollbackRequest,
    observed: &Observations,
    ways: &mut BTreeMap<HostName, WayBack>,
    ends: &mut BTreeMap<HostName, HostRollback>,
) {
    let (plan, mut report) = as_plan(session, request, ways, ends);
    let receipts = prepare::receipts(observed);
    let mut last: BTreeMap<HostName, Observation> = BTreeMap::new();
    for stage in Stage::ALL {
        let due = stage_work::due(session.topology, &plan, &receipts, stage, &mut report);
        let mut requests = BTreeMap::new();
        for (name, work) in due {
            let (Some(way), false) = (ways.get(&name), work.steps.is_empty()) else { continue };
            let request = Request::Execute {
                topology: session.topology.name.clone(),
                transaction: way.open.journal.transaction.clone(),
                steps: work.steps,
                sysctls: prepare::sysctls(&way.plan, session.desired.get(&name)),
            };
            requests.insert(name, request);
        }
        let asked: Vec<HostName> = requests.keys().cloned().collect();
        let mut answers = session.ask(requests).await;
        for name in asked {
            let Some(host) = report.hosts.get_mut(&name) else { continue };
            match requests::executed(answers.remove(&name)) {
                Ok(outcome) => {
                    stage_work::record(host, stage, usize::MAX, &outcome);
                    for warning in &outcome.warnings {
                        session.console().notify(&format!("{name}: {warning}"));
                    }
                    last.insert(name, outcome.after);
                }
                Err(error) => stage_work::record_error(host, stage, usize::MAX, error),
            }
        }
    }
    for (name, host) in report.hosts {
        let Some(way) = ways.get(&name) else { continue };
        let HostReport { status, steps, failure, .. } = host;
        let failure = match status {
            // A host without steps back waits for no other host.
            HostStatus::NotAttempted { because } if !way.plan.stages.is_empty() => Some(Failure {
                message: format!("not undone, because {because}"),
                causes: Vec::new(),
                cure: None,
            }),
            _ => failure.or_else(|| last.get(&name).and_then(|after| differs(way, after))),
        };
        let end = match failure {
            Some(failure) => {
                ways.remove(&name);
                RollbackEnd::open(failure)
            }
            None => RollbackEnd::RolledBack,
        };
        ends.insert(name, HostRollback { steps, end });
    }
}

/// The ways back as a plan over all hosts; unreachable hosts count as failed.
///
/// As [`Action::Rollback`] no director waits for an unreachable host to give back what it took: the state
/// before is better than the present one. But a host takes nothing away that a director may still send to.
fn as_plan(
    session: &Session<'_>,
    request: &RollbackRequest,
    ways: &BTreeMap<HostName, WayBack>,
    ends: &BTreeMap<HostName, HostRollback>,
) -> (ClusterPlan, ClusterReport) {
    let mut hosts: BTreeMap<HostName, HostPlanResult> = ways
        .iter()
        .map(|(name, way)| (name.clone(), HostPlanResult::Plan(Box::new(way.plan.clone()))))
        .collect();
    for (name, rollback) in ends {
        let RollbackEnd::Open { failure, .. } = &rollback.end else { continue };
        let result = if request.unchanged.contains(name) {
            HostPlanResult::Absent(HostStatus::Unchanged)
        } else {
            HostPlanResult::Failed(HostStatus::Unreachable, failure.clone())
        };
        hosts.insert(name.clone(), result);
    }
    let plan = ClusterPlan { action: Action::Rollback, hosts };
    let report = plan.report(session.topology);
    (plan, report)
}

/// What differs from the state before, after all steps back were executed.
fn differs(way: &WayBack, after: &Observation) -> Option<Failure> {
    let Goal { wanted, owned, .. } = &way.plan.goal;
    let left = match steps_between(&after.state, wanted, owned, &Reasons::default()) {
        Ok(steps) => steps.into_all().iter().map(|step| step.edit.to_string()).collect(),
        Err(error) => vec![error.to_string()],
    };
    (!left.is_empty()).then(|| Failure {
        message: "what was read afterwards is not the state before".to_owned(),
        causes: left,
        cure: Some(
            "something else on this host sets these too: find it, then `lvsprov rollback`"
                .to_owned(),
        ),
    })
}

/// Closes the journals of hosts that are rolled back: first of those that have voted, then of the others. As
/// long as a journal without a vote is left, every controller knows that the decision is abort
/// ([`super::open_transactions::TransactionView::recovery`]).
async fn close(
    session: &mut Session<'_>,
    voted: &BTreeSet<HostName>,
    ways: BTreeMap<HostName, WayBack>,
    ends: &mut BTreeMap<HostName, HostRollback>,
) {
    let is_rolled_back = |ends: &BTreeMap<HostName, HostRollback>, name: &HostName| {
        ends.get(name).is_some_and(|rollback| rollback.end == RollbackEnd::RolledBack)
    };
    for of_voted in [true, false] {
        let ids: BTreeMap<HostName, TransactionId> = ways
            .iter()
            .filter(|(name, _)| voted.contains(*name) == of_voted)
            .map(|(name, way)| (name.clone(), way.open.journal.transaction.clone()))
            .collect();
        let waits_for = voted.iter().find(|name| !of_voted && !is_rolled_back(ends, name));
        if let Some(other) = waits_for.cloned() {
            for name in ids.into_keys() {
                let failure = Failure {
                    message: format!(
                        "it is as it was before; its journal stays open until {other} is undone too"
                    ),
                    causes: Vec::new(),
                    cure: Some("`lvsprov rollback` closes it then".to_owned()),
                };
                set_open(ends, &name, failure);
            }
            return;
        }
        for (name, answer) in requests::close(session, &ids, Decision::Abort).await {
            let Err(error) = answer else { continue };
            let failure = Failure {
                message: "it is as it was before, but its journal could not be closed".to_owned(),
                causes: vec![error.into_failure().to_string()],
                cure: Some("`lvsprov rollback` closes it".to_owned()),
            };
            set_open(ends, &name, failure);
        }
    }
}

fn set_open(ends: &mut BTreeMap<HostName, HostRollback>, name: &HostName, failure: Failure) {
    if let Some(rollback) = ends.get_mut(name) {
        rollback.end = RollbackEnd::open(failure);
    }
}
