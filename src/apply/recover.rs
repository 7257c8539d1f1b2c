//! Decides open transactions of earlier runs, from any machine: `rollback` aborts them, `confirm` commits
//! them.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::open_transactions::{
    self, Recovery, TransactionView, open_transactions, why_unconfirmable,
};
use super::outcome::{
    Action, ClusterReport, HostReport, HostRollback, HostStatus, RollbackEnd, TransactionEnd,
};
use super::requests::{self, describe_holder};
use super::rollback::{self, RollbackRequest};
use super::session::{Observations, Session};
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::Decision;
use crate::state::{Operator, TransactionId};

/// How a rollback is to go.
#[derive(Debug, Clone)]
pub struct RollbackOptions {
    /// Who rolls back.
    pub by: Operator,
    /// Also transactions at which a controller works, and transactions in doubt.
    pub force: bool,
    /// Only report what would be done.
    pub dry_run: bool,
}

/// Aborts every open transaction of the topology; one that all hosts have voted for is committed instead.
/// `plan`: towards the file.
pub async fn rollback(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    options: &RollbackOptions,
) -> ClusterReport {
    let RollbackOptions { by, force, dry_run } = options;
    let mut report = bare_report(session, plan, observed);
    report.action = if *dry_run { Action::PlanRollback } else { Action::Rollback };
    report.open_transactions = open_transactions::reports(plan, observed);
    let (mut to_abort, mut to_commit) = (BTreeMap::new(), BTreeMap::new());
    for (id, view) in open_transactions(observed) {
        match decide(plan, observed, &view, *force) {
            Ok(Recovery::Commit) => to_commit.extend(view.ids(&id)),
            Ok(_) => to_abort.extend(view.ids(&id)),
            Err(failure) => {
                for name in view.open.keys() {
                    fail(&mut report, name, failure.clone());
                }
            }
        }
    }
    if *dry_run {
        for (name, rollback) in rollback::rehearse(session, &to_abort, observed) {
            record(&mut report, &name, rollback);
        }
        for name in to_commit.keys() {
            record(&mut report, name, HostRollback::without_steps(RollbackEnd::Planned));
        }
        return report;
    }
    show_open_hosts(session, to_abort.keys().chain(to_commit.keys()).cloned());
    if !to_abort.is_empty() {
        let request = RollbackRequest {
            ids: to_abort,
            by: by.clone(),
            is_ours: false,
            force: *force,
            unchanged: BTreeSet::new(),
        };
        for (name, rollback) in rollback::roll_back(session, &request).await {
            record(&mut report, &name, rollback);
        }
    }
    commit(session, &to_commit, by, *force, &mut report).await;
    show_open_hosts(session, std::iter::empty());
    report
}

/// Commits every transaction that all hosts have voted for and at which no controller works: it is done, and
/// the next transaction must not roll it back with its own steps. Returns whether it closed any.
pub async fn commit_voted(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    by: &Operator,
) -> bool {
    let mut report = bare_report(session, plan, observed);
    let mut any = false;
    for (id, view) in open_transactions(observed) {
        let held = view.open.values().any(|open| open.holder.is_some());
        if !held && open_transactions::recovery(plan, observed, &view) == Recovery::Commit {
            let end = commit(session, &view.ids(&id), by, false, &mut report).await;
            any |= end == TransactionEnd::Committed;
        }
    }
    any
}

/// An operator who ends the program during the decision must know which hosts are open.
fn show_open_hosts(session: &Session<'_>, hosts: impl Iterator<Item = HostName>) {
    session.console().set_open_hosts(&hosts.map(|name| (name, None)).collect());
}

fn decide(
    plan: &ClusterPlan,
    observed: &Observations,
    view: &TransactionView<'_>,
    force: bool,
) -> Result<Recovery, Failure> {
    if !force
        && let Some((name, holder)) =
            view.open.iter().find_map(|(name, open)| Some((name, open.holder.as_ref()?)))
    {
        return Err(Failure {
            message: format!("{} is at work on {name}", describe_holder(holder)),
            causes: Vec::new(),
            cure: Some("wait for it, or take it over with `lvsprov rollback --force`".to_owned()),
        });
    }
    match open_transactions::recovery(plan, observed, view) {
        Recovery::InDoubt(why) if !force => Err(Failure {
            message: format!("whether it is done or undone cannot be known: {why}"),
            causes: Vec::new(),
            cure: Some(
                "`lvsprov apply` brings all hosts to what the file says, whichever it is; `lvsprov \
                 rollback --force` undoes what is left of it"
                    .to_owned(),
            ),
        }),
        decision => Ok(decision),
    }
}

/// Commits every open transaction that all of its hosts have executed as a whole.
pub async fn confirm(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    by: &Operator,
) -> ClusterReport {
    let mut report = bare_report(session, plan, observed);
    report.action = Action::Confirm;
    report.open_transactions = open_transactions::reports(plan, observed);
    for (id, view) in open_transactions(observed) {
        let ids = view.ids(&id);
        if let Some(why) = why_unconfirmable(observed, &view) {
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
        show_open_hosts(session, ids.keys().cloned());
        if commit(session, &ids, by, true, &mut report).await == TransactionEnd::Aborted {
            // A host has begun to revert by itself, so all hosts roll back.
            let request = RollbackRequest {
                ids,
                by: by.clone(),
                is_ours: true,
                force: true,
                unchanged: BTreeSet::new(),
            };
            for (name, rollback) in rollback::roll_back(session, &request).await {
                if let Some(host) = report.hosts.get_mut(&name) {
                    host.rollback = Some(rollback);
                }
            }
        }
    }
    show_open_hosts(session, std::iter::empty());
    report
}

/// Resumes, asks for all votes, and commits. Closes no journal before all hosts have voted.
/// [`TransactionEnd::Aborted`]: a host refused its vote, so the decision must be abort; no host is rolled
/// back yet.
async fn commit(
    session: &mut Session<'_>,
    ids: &BTreeMap<HostName, TransactionId>,
    by: &Operator,
    force: bool,
    report: &mut ClusterReport,
) -> TransactionEnd {
    let mut all = true;
    let mut end = TransactionEnd::Open;
    for (name, answer) in requests::resume(session, ids, by, force).await {
        if let Err(error) = answer {
            all = false;
            fail(report, &name, error.into_failure());
        }
    }
    if all {
        for (name, answer) in requests::vote(session, ids).await {
            if let Err(error) = answer {
                all = false;
                if !error.is_lost() {
                    end = TransactionEnd::Aborted;
                }
                fail(report, &name, error.into_failure());
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
        return end;
    }
    end = TransactionEnd::Committed;
    for (name, answer) in requests::close(session, ids, Decision::Commit).await {
        match answer {
            Ok(()) => record(report, &name, HostRollback::without_steps(RollbackEnd::Committed)),
            Err(error) => {
                end = TransactionEnd::Open;
                fail(report, &name, error.into_failure());
            }
        }
    }
    end
}

/// Every host with its open transaction and without steps.
fn bare_report(
    session: &Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
) -> ClusterReport {
    let mut report = plan.report(session.topology);
    for (name, host) in &mut report.hosts {
        let status = match plan.hosts.get(name) {
            Some(HostPlanResult::Failed(
                status @ (HostStatus::Unreachable | HostStatus::Refused),
                failure,
            )) => {
                *host = HostReport::failed(status.clone(), failure.clone());
                continue;
            }
            Some(HostPlanResult::Absent(status)) => status.clone(),
            _ => HostStatus::Unchanged,
        };
        *host = HostReport::bare(status);
        let observation = observed.get(name).and_then(|host| host.as_ref().ok());
        open_transactions::add_to_host(host, observation);
    }
    report
}

fn fail(report: &mut ClusterReport, name: &HostName, failure: Failure) {
    if let Some(host) = report.hosts.get_mut(name) {
        host.status = HostStatus::Failed;
        host.failure = Some(failure);
    }
}

fn record(report: &mut ClusterReport, name: &HostName, rollback: HostRollback) {
    let Some(host) = report.hosts.get_mut(name) else { return };
    match &rollback.end {
        RollbackEnd::RolledBack | RollbackEnd::Committed => host.status = HostStatus::Changed,
        RollbackEnd::Planned => host.status = HostStatus::Pending,
        RollbackEnd::Open { failure, .. } => {
            host.status = HostStatus::Failed;
            host.failure = Some(failure.clone());
        }
    }
    host.rollback = Some(rollback);
}
