//! Undoing what a transaction did, on every host at once: each is looked at, the way back to what it was
//! before is planned from there, and goes through the stages like any change, so that nothing is sent to
//! a host that no longer takes it.

use std::collections::{BTreeMap, BTreeSet};

use super::asking;
use super::outcome::{Action, ClusterReport, HostReport, HostStatus, StepState, UndoEnd, Undoing};
use super::planning::{ClusterPlan, HostPlan, Prospect};
use super::recording;
use super::session::Session;
use super::transaction::{Seen, receipts};
use super::turns;
use crate::desired::Reasons;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::Pacing;
use crate::plan::{Goal, stages, steps_between};
use crate::protocol::{Decision, Request};
use crate::state::{Observation, OpenTransaction, Operator, Stage, TransactionId};

/// What is to be undone, and by whom.
#[derive(Debug, Clone)]
pub struct Order {
    /// Which transaction on which host.
    pub ids: BTreeMap<HostName, TransactionId>,
    /// Who does it.
    pub by: Operator,
    /// Whether this session works at them already; else they are taken up.
    pub is_ours: bool,
    /// Take them up even from somebody who is at work.
    pub force: bool,
    /// Hosts on which no step was asked for: nothing hangs on them where they cannot be reached.
    pub untouched: BTreeSet<HostName>,
}

/// A host and its way back.
struct Return {
    unfinished: OpenTransaction,
    plan: HostPlan,
}

/// Undoes as much as can be undone. Every host of `order` is in the answer. What did not succeed is
/// tried once more from what is there then: the host's own timer may have been at it too.
pub async fn undo(session: &mut Session<'_>, order: &Order) -> BTreeMap<HostName, Undoing> {
    let (mut ends, unreachable) = try_once(session, order).await;
    let left: BTreeSet<HostName> = ends
        .iter()
        .filter(|(_, undoing)| matches!(undoing.end, UndoEnd::Left { .. }))
        .map(|(name, _)| name.clone())
        .collect();
    if left.is_subset(&unreachable) {
        return ends;
    }
    // To be taken up anew: what a host's own timer has begun to undo is nobody's who does not know.
    let mut again = Order { is_ours: false, ..order.clone() };
    again.ids.retain(|name, _| left.contains(name));
    for (name, undoing) in try_once(session, &again).await.0 {
        let Some(first) = ends.get_mut(&name) else { continue };
        first.steps.retain(|step| step.state == StepState::Done);
        first.steps.extend(undoing.steps);
        first.end = undoing.end;
    }
    ends
}

/// How each host ended, and which of them could not be reached at all.
async fn try_once(
    session: &mut Session<'_>,
    order: &Order,
) -> (BTreeMap<HostName, Undoing>, BTreeSet<HostName>) {
    let mut ends: BTreeMap<HostName, Undoing> = BTreeMap::new();
    let hosts: BTreeSet<HostName> = order.ids.keys().cloned().collect();
    let lost = session.lost(&hosts);
    session.renew(&lost, true).await;
    let unreachable = session.lost(&hosts);
    // What another connection was still doing there is done once this is answered: only then it is looked
    // at. Where nothing is to be taken up the look says why.
    let mut denied = take_up(session, order, &lost).await;
    let seen = session.look_at(&hosts, false).await;
    let mut returns = BTreeMap::new();
    for (name, id) in &order.ids {
        let end = match way_back(session, name, id, seen.get(name)) {
            Ok(Some(way)) => {
                let Some(failure) = denied.remove(name) else {
                    returns.insert(name.clone(), way);
                    continue;
                };
                left(failure, Some(&way.plan))
            }
            Ok(None) => undone(),
            Err(failure) => left(failure, None),
        };
        ends.insert(name.clone(), end);
    }
    if !order.force {
        leave_what_is_being_kept(&mut returns, &mut ends);
    }
    walk(session, order, &seen, &mut returns, &mut ends).await;
    let agreed = |name: &&HostName| {
        let unfinished = seen.get(*name).and_then(|seen| seen.as_ref().ok()?.unfinished.as_deref());
        unfinished.is_some_and(|unfinished| unfinished.voted)
    };
    let agreed = order.ids.keys().filter(agreed).cloned().collect();
    close(session, &agreed, returns, &mut ends).await;
    for (name, undoing) in &mut ends {
        let timer = seen.get(name).and_then(|seen| seen.as_ref().ok()?.unfinished.as_deref());
        if let UndoEnd::Left { reverts_in_s, .. } = &mut undoing.end {
            *reverts_in_s = timer.and_then(|timer| timer.reverts_in_ms).map(|ms| ms / 1000);
        }
    }
    (ends, unreachable)
}

/// What undoing would do, for `--dry-run`.
pub fn rehearse(
    session: &Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    seen: &Seen,
) -> BTreeMap<HostName, Undoing> {
    let rehearsed = ids.iter().map(|(name, id)| {
        let undoing = match way_back(session, name, id, seen.get(name)) {
            Ok(Some(way)) => {
                Undoing { steps: way.plan.reports(StepState::Planned), end: UndoEnd::Planned }
            }
            Ok(None) => undone(),
            Err(failure) => left(failure, None),
        };
        (name.clone(), undoing)
    });
    rehearsed.collect()
}

fn undone() -> Undoing {
    Undoing { steps: Vec::new(), end: UndoEnd::Undone }
}

fn left(failure: Failure, plan: Option<&HostPlan>) -> Undoing {
    let steps = plan.map(|plan| plan.reports(StepState::NotDone)).unwrap_or_default();
    Undoing { steps, end: UndoEnd::Left { failure, reverts_in_s: None } }
}

/// The way back of one host; `None` if it is there already, closed by somebody.
fn way_back(
    session: &Session<'_>,
    name: &HostName,
    id: &TransactionId,
    seen: Option<&Result<Observation, Failure>>,
) -> Result<Option<Return>, Failure> {
    let sighting = match seen {
        Some(Ok(sighting)) => sighting,
        Some(Err(failure)) => return Err(failure.clone()),
        None => return Err(session.why_absent(name)),
    };
    let Some(unfinished) = sighting.unfinished.as_deref() else { return Ok(None) };
    if unfinished.journal.transaction != *id {
        return Err(Failure {
            message: format!(
                "transaction {} of {} has taken over what was done here",
                unfinished.journal.transaction, unfinished.journal.by
            ),
            causes: Vec::new(),
            cure: Some("see `lvsprov plan`".to_owned()),
        });
    }
    let Some(host) = session.topology.hosts.get(name) else { return Ok(None) };
    let goal = Goal::undo(unfinished, sighting);
    let steps = steps_between(&sighting.state, &goal.wanted, &goal.owned, &Reasons::default());
    let stages = stages::stage(host, steps.map_err(|error| fault(&error))?);
    let plan = HostPlan {
        goal,
        stages,
        pacing: Pacing::default(),
        cautions: Vec::new(),
        foreign: Vec::new(),
        moves_way_back: false,
    };
    Ok(Some(Return { unfinished: unfinished.clone(), plan }))
}

fn fault(error: &crate::plan::SimulateError) -> Failure {
    let mut failure = Failure::from_error(error);
    failure.cure = Some("this is a fault of lvsprov: please report it".to_owned());
    failure
}

/// Takes up what this session does not work at. Who did not let it, and why.
async fn take_up(
    session: &mut Session<'_>,
    order: &Order,
    lost: &BTreeSet<HostName>,
) -> BTreeMap<HostName, Failure> {
    let mut ids = order.ids.clone();
    ids.retain(|name, _| !order.is_ours || lost.contains(name));
    let answers = asking::take_up(session, &ids, &order.by, order.force).await;
    let denied = answers.into_iter().filter_map(|(name, answer)| Some((name, answer.err()?)));
    denied.map(|(name, denied)| (name, denied.into_failure())).collect()
}

/// Where one host has closed it and all others have agreed, somebody else may just be closing it as done:
/// that is not known, so nothing is undone.
fn leave_what_is_being_kept(
    returns: &mut BTreeMap<HostName, Return>,
    ends: &mut BTreeMap<HostName, Undoing>,
) {
    let closed = ends.iter().find(|(_, undoing)| undoing.end == UndoEnd::Undone);
    let Some(closed) = closed.map(|(name, _)| name.clone()) else { return };
    if returns.values().any(|way| !way.unfinished.voted) {
        return;
    }
    for (name, way) in std::mem::take(returns) {
        let failure = Failure {
            message: format!("somebody else has closed it on {closed}: it may be done"),
            causes: Vec::new(),
            cure: Some(
                "`lvsprov plan` says how it stands; `lvsprov rollback --force` undoes what is left of it"
                    .to_owned(),
            ),
        };
        ends.insert(name, left(failure, Some(&way.plan)));
    }
}

/// Through the stages. A host that does not come to the end leaves `returns` for `ends`.
async fn walk(
    session: &mut Session<'_>,
    order: &Order,
    seen: &Seen,
    returns: &mut BTreeMap<HostName, Return>,
    ends: &mut BTreeMap<HostName, Undoing>,
) {
    let (plan, mut report) = as_plan(session, order, returns, ends);
    let receipts = receipts(seen);
    let mut last: BTreeMap<HostName, Observation> = BTreeMap::new();
    for stage in Stage::ALL {
        let due = turns::due(session.topology, &plan, &receipts, stage, &mut report);
        let mut requests = BTreeMap::new();
        for (name, turn) in due {
            let (Some(way), false) = (returns.get(&name), turn.steps.is_empty()) else { continue };
            let request = Request::Execute {
                topology: session.topology.name.clone(),
                transaction: way.unfinished.journal.transaction.clone(),
                steps: turn.steps,
                sysctls: super::transaction::sysctls(&way.plan, session.desired.get(&name)),
            };
            requests.insert(name, request);
        }
        let asked: Vec<HostName> = requests.keys().cloned().collect();
        let mut answers = session.ask(requests).await;
        for name in asked {
            let Some(host) = report.hosts.get_mut(&name) else { continue };
            match asking::outcome(answers.remove(&name)) {
                Ok(outcome) => {
                    recording::answered(host, stage, &outcome);
                    last.insert(name, outcome.after);
                }
                Err(no_answer) => recording::unanswered(host, stage, no_answer),
            }
        }
    }
    for (name, host) in report.hosts {
        let Some(way) = returns.get(&name) else { continue };
        let HostReport { status, steps, failure, .. } = host;
        let failure = match status {
            // One that has nothing to take back waits for nobody.
            HostStatus::NotAttempted { because } if !way.plan.stages.is_empty() => Some(Failure {
                message: format!("not undone, because {because}"),
                causes: Vec::new(),
                cure: None,
            }),
            _ => failure.or_else(|| last.get(&name).and_then(|after| differs(way, after))),
        };
        let end = match failure {
            Some(failure) => {
                returns.remove(&name);
                UndoEnd::Left { failure, reverts_in_s: None }
            }
            None => UndoEnd::Undone,
        };
        ends.insert(name, Undoing { steps, end });
    }
}

/// The returns as a plan across hosts, with those that could not be reached as hosts that failed.
fn as_plan(
    session: &Session<'_>,
    order: &Order,
    returns: &BTreeMap<HostName, Return>,
    ends: &BTreeMap<HostName, Undoing>,
) -> (ClusterPlan, ClusterReport) {
    let mut hosts: BTreeMap<HostName, Prospect> = returns
        .iter()
        .map(|(name, way)| (name.clone(), Prospect::Plan(Box::new(way.plan.clone()))))
        .collect();
    for (name, undoing) in ends {
        let UndoEnd::Left { failure, .. } = &undoing.end else { continue };
        let prospect = if order.untouched.contains(name) {
            Prospect::Absent(HostStatus::Unchanged)
        } else {
            Prospect::Failed(HostStatus::Unreachable, failure.clone())
        };
        hosts.insert(name.clone(), prospect);
    }
    // Nobody waits for a host that cannot be reached to take back what was done: what was there before is
    // better than what is there now. But what a director may still send to is not taken away.
    let plan = ClusterPlan { action: Action::Rollback, hosts };
    let report = plan.report(session.topology);
    (plan, report)
}

/// What is not as it was before, after all steps back were done.
fn differs(way: &Return, after: &Observation) -> Option<Failure> {
    let Goal { wanted, owned, .. } = &way.plan.goal;
    let left = match steps_between(&after.state, wanted, owned, &Reasons::default()) {
        Ok(steps) => steps.into_all().iter().map(|step| step.change.to_string()).collect(),
        Err(error) => vec![error.to_string()],
    };
    (!left.is_empty()).then(|| Failure {
        message: "what was read afterwards is not what was there before".to_owned(),
        causes: left,
        cure: Some(
            "something else on this host sets these too: find it, then `lvsprov rollback`"
                .to_owned(),
        ),
    })
}

/// Closes what is undone. Those that had agreed first, and the others only when that is done: as long
/// as one that had not agreed is left, it is clear to everybody that this is being undone
/// ([`super::transaction::Standing::recovery`]).
async fn close(
    session: &mut Session<'_>,
    agreed: &BTreeSet<HostName>,
    returns: BTreeMap<HostName, Return>,
    ends: &mut BTreeMap<HostName, Undoing>,
) {
    let is_undone = |ends: &BTreeMap<HostName, Undoing>, name: &HostName| {
        ends.get(name).is_some_and(|undoing| undoing.end == UndoEnd::Undone)
    };
    for of_agreed in [true, false] {
        let ids: BTreeMap<HostName, TransactionId> = returns
            .iter()
            .filter(|(name, _)| agreed.contains(*name) == of_agreed)
            .map(|(name, way)| (name.clone(), way.unfinished.journal.transaction.clone()))
            .collect();
        let waits_for = agreed.iter().find(|name| !of_agreed && !is_undone(ends, name));
        if let Some(other) = waits_for.cloned() {
            for name in ids.into_keys() {
                let failure = Failure {
                    message: format!(
                        "it is as it was before; its journal stays open until {other} is undone too"
                    ),
                    causes: Vec::new(),
                    cure: Some("`lvsprov rollback` closes it then".to_owned()),
                };
                leave_open(ends, &name, failure);
            }
            return;
        }
        for (name, answer) in asking::settle(session, &ids, Decision::Abort).await {
            let Err(no_answer) = answer else { continue };
            let failure = Failure {
                message: "it is as it was before, but its journal could not be closed".to_owned(),
                causes: vec![no_answer.into_failure().to_string()],
                cure: Some("`lvsprov rollback` closes it".to_owned()),
            };
            leave_open(ends, &name, failure);
        }
    }
}

fn leave_open(ends: &mut BTreeMap<HostName, Undoing>, name: &HostName, failure: Failure) {
    if let Some(undoing) = ends.get_mut(name) {
        undoing.end = UndoEnd::Left { failure, reverts_in_s: None };
    }
}
