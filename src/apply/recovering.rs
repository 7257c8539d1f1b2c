//! What somebody else left unfinished: undone (`rollback`), or kept and closed (`confirm`), from any
//! machine.

use std::collections::{BTreeMap, BTreeSet};

use super::asking;
use super::outcome::{Action, ClusterReport, HostReport, HostStatus, UndoEnd, Undoing};
use super::planning::{ClusterPlan, Prospect};
use super::session::{NoAnswer, Session};
use super::transaction::{Recovery, Seen, Standing, standings};
use super::undoing::{self, Order};
use super::unfinished;
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::Decision;
use crate::state::{Operator, TransactionId};

/// How a rollback is to go.
#[derive(Debug, Clone)]
pub struct Rollback {
    /// Who does it.
    pub by: Operator,
    /// Also what somebody is at work at, and what some host may have kept.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Undoes every unfinished transaction of the topology; one that all have agreed to is closed instead.
/// `plan`: towards the file.
pub async fn rollback(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    seen: &Seen,
    how: &Rollback,
) -> ClusterReport {
    let mut report = bare(session, plan, seen);
    report.action = if how.dry_run { Action::PlanRollback } else { Action::Rollback };
    report.unfinished = unfinished::found(plan, seen);
    let (mut back, mut close) = (BTreeMap::new(), BTreeMap::new());
    for (id, standing) in standings(seen) {
        let ids = standing.there.keys().map(|name| (name.clone(), id.clone()));
        match decide(plan, seen, &standing, how) {
            Ok(Recovery::Settle) => close.extend(ids),
            Ok(_) => back.extend(ids),
            Err(failure) => {
                for name in standing.there.keys() {
                    fail(&mut report, name, failure.clone());
                }
            }
        }
    }
    if how.dry_run {
        for (name, undoing) in undoing::rehearse(session, &back, seen) {
            write(&mut report, &name, undoing);
        }
        for name in close.keys() {
            write(&mut report, name, Undoing { steps: Vec::new(), end: UndoEnd::Planned });
        }
        return report;
    }
    under_way(session, back.keys().chain(close.keys()).cloned());
    if !back.is_empty() {
        let order = Order {
            ids: back,
            by: how.by.clone(),
            is_ours: false,
            force: how.force,
            untouched: BTreeSet::new(),
        };
        for (name, undoing) in undoing::undo(session, &order).await {
            write(&mut report, &name, undoing);
        }
    }
    settle(session, &close, &how.by, how.force, &mut report).await;
    under_way(session, std::iter::empty());
    report
}

/// Closes every transaction that all hosts have agreed to and that nobody works at: it is done, and must
/// not be undone together with what comes next. Whether anything is closed now that was not.
pub async fn close_agreed(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    seen: &Seen,
    by: &Operator,
) -> bool {
    let mut report = bare(session, plan, seen);
    let mut any = false;
    for (id, standing) in standings(seen) {
        let held = standing.there.values().any(|there| there.holder.is_some());
        if !held && unfinished::recovery(plan, seen, &standing) == Recovery::Settle {
            let ids = standing.there.keys().map(|name| (name.clone(), id.clone())).collect();
            let settled = settle(session, &ids, by, false, &mut report).await;
            any |= settled == Settled::Closed;
        }
    }
    any
}

/// While something is closed or undone, whoever ends this is told what is left.
fn under_way(session: &Session<'_>, hosts: impl Iterator<Item = HostName>) {
    session.watch().under_way(&hosts.map(|name| (name, None)).collect());
}

fn decide(
    plan: &ClusterPlan,
    seen: &Seen,
    standing: &Standing<'_>,
    how: &Rollback,
) -> Result<Recovery, Failure> {
    if !how.force
        && let Some((name, holder)) =
            standing.there.iter().find_map(|(name, there)| Some((name, there.holder.as_ref()?)))
    {
        return Err(Failure {
            message: format!("{} is at work on {name}", asking::describe_holder(holder)),
            causes: Vec::new(),
            cure: Some("wait for it, or take it over with `lvsprov rollback --force`".to_owned()),
        });
    }
    match unfinished::recovery(plan, seen, standing) {
        Recovery::Neither(why) if !how.force => Err(Failure {
            message: format!("whether it is done or undone cannot be known: {why}"),
            causes: Vec::new(),
            cure: Some(
                "`lvsprov apply` brings all hosts to what the file says, whichever it is; `lvsprov \
                 rollback --force` undoes what is left of it"
                    .to_owned(),
            ),
        }),
        other => Ok(other),
    }
}

/// Keeps every unfinished transaction as it is, if all of its hosts have done all of it, and closes it.
pub async fn confirm(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    seen: &Seen,
    by: &Operator,
) -> ClusterReport {
    let mut report = bare(session, plan, seen);
    report.action = Action::Confirm;
    report.unfinished = unfinished::found(plan, seen);
    for (id, standing) in standings(seen) {
        let ids: BTreeMap<HostName, TransactionId> =
            standing.there.keys().map(|name| (name.clone(), id.clone())).collect();
        if let Some(why) = unfinished::not_to_confirm(seen, &standing) {
            let failure = Failure {
                message: format!("transaction {id} is not confirmed: {why}"),
                causes: Vec::new(),
                cure: Some(
                    "wait until all is done, or `lvsprov apply` to finish it, `lvsprov rollback` to \
                     undo it"
                        .to_owned(),
                ),
            };
            for name in ids.keys() {
                fail(&mut report, name, failure.clone());
            }
            continue;
        }
        under_way(session, ids.keys().cloned());
        if let Settled::NotAgreed = settle(session, &ids, by, true, &mut report).await {
            // Some have begun to undo it by themselves, so all do.
            let order = Order {
                ids,
                by: by.clone(),
                is_ours: true,
                force: true,
                untouched: BTreeSet::new(),
            };
            for (name, undoing) in undoing::undo(session, &order).await {
                if let Some(host) = report.hosts.get_mut(&name) {
                    host.undoing = Some(undoing);
                }
            }
        }
    }
    under_way(session, std::iter::empty());
    report
}

/// What came of having all agree, and close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// It is closed everywhere.
    Closed,
    /// Somewhere it is not.
    Left,
    /// Nor will it be: one has refused to agree.
    NotAgreed,
}

/// Takes up, has all agree, and closes as done. Nothing is closed before all have agreed.
async fn settle(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    by: &Operator,
    force: bool,
    report: &mut ClusterReport,
) -> Settled {
    let mut all = true;
    let mut settled = Settled::Left;
    for (name, answer) in asking::take_up(session, ids, by, force).await {
        if let Err(denied) = answer {
            all = false;
            fail(report, &name, denied.into_failure());
        }
    }
    if all {
        for (name, answer) in asking::agree(session, ids).await {
            if let Err(no_answer) = answer {
                all = false;
                if let NoAnswer::Refused(_) = &no_answer {
                    settled = Settled::NotAgreed;
                }
                fail(report, &name, no_answer.into_failure());
            }
        }
    }
    if !all {
        let failure = Failure {
            message: "not closed, because not all hosts have agreed".to_owned(),
            causes: Vec::new(),
            cure: Some("see `lvsprov plan`, and run the same command again".to_owned()),
        };
        for name in ids.keys() {
            let failed = report.hosts.get(name).is_some_and(|host| host.status.is_failure());
            if !failed {
                fail(report, name, failure.clone());
            }
        }
        return settled;
    }
    settled = Settled::Closed;
    for (name, answer) in asking::settle(session, ids, Decision::Commit).await {
        match answer {
            Ok(()) => {
                write(report, &name, Undoing { steps: Vec::new(), end: UndoEnd::Settled });
            }
            Err(no_answer) => {
                settled = Settled::Left;
                fail(report, &name, no_answer.into_failure());
            }
        }
    }
    settled
}

/// Every host with what was found there, and nothing to do.
fn bare(session: &Session<'_>, plan: &ClusterPlan, seen: &Seen) -> ClusterReport {
    let mut report = plan.report(session.topology);
    for (name, host) in &mut report.hosts {
        let status = match plan.hosts.get(name) {
            Some(Prospect::Failed(
                status @ (HostStatus::Unreachable | HostStatus::Refused),
                failure,
            )) => {
                *host = HostReport::failed(status.clone(), failure.clone());
                continue;
            }
            Some(Prospect::Absent(status)) => status.clone(),
            _ => HostStatus::Unchanged,
        };
        *host = HostReport::bare(status);
        let sighting = seen.get(name).and_then(|seen| seen.as_ref().ok());
        unfinished::tell_host(host, sighting);
    }
    report
}

fn fail(report: &mut ClusterReport, name: &HostName, failure: Failure) {
    if let Some(host) = report.hosts.get_mut(name) {
        host.status = HostStatus::Failed;
        host.failure = Some(failure);
    }
}

fn write(report: &mut ClusterReport, name: &HostName, undoing: Undoing) {
    let Some(host) = report.hosts.get_mut(name) else { return };
    match &undoing.end {
        UndoEnd::Undone | UndoEnd::Settled => host.status = HostStatus::Changed,
        UndoEnd::Planned => host.status = HostStatus::Pending,
        UndoEnd::Left { failure, .. } => {
            host.status = HostStatus::Failed;
            host.failure = Some(failure.clone());
        }
    }
    host.undoing = Some(undoing);
}
