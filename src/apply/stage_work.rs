//! Which host executes which steps in a stage, which must not because another host failed, and what the
//! answers of a stage mean for the report. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::cluster_plan::{ClusterPlan, HostPlan, HostPlanResult};
use super::outcome::{
    Action, ClusterReport, HostReport, HostRollback, HostStatus, RollbackEnd, StepReport, StepState,
};
use super::requests::RequestError;
use super::session::HostAbsence;
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::Execution;
use crate::state::silent::is_silent;
use crate::state::{Address, Edit, Link, Receipt, Route, Stage, Step};
use crate::topology::{Role, Topology};

/// What one host executes in one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageWork {
    /// In this order; empty where only the receipt is updated.
    pub steps: Vec<Step>,
    /// Whether this is the host's last stage.
    pub is_last: bool,
}

/// The hosts with work in `stage`. A host that depends on one that failed is marked as not attempted in `report`.
pub fn due(
    topology: &Topology,
    plan: &ClusterPlan,
    receipts: &BTreeMap<HostName, Receipt>,
    stage: Stage,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, StageWork> {
    let statuses: BTreeMap<HostName, HostStatus> =
        report.hosts.iter().map(|(name, host)| (name.clone(), host.status.clone())).collect();
    let mut all = BTreeMap::new();
    for (name, result) in &plan.hosts {
        let HostPlanResult::Plan(host_plan) = result else { continue };
        let Some(work) = work_of(topology, name, host_plan, receipts.get(name), stage) else {
            continue;
        };
        if statuses.get(name).is_some_and(HostStatus::is_failure) {
            continue;
        }
        let because = blocked(topology, name, stage, &work.steps, plan.action, &statuses)
            .or_else(|| held_elsewhere(plan, name, &work.steps, &statuses));
        if let Some(because) = because {
            if let Some(host) = report.hosts.get_mut(name) {
                not_attempted(host, because);
            }
            continue;
        }
        all.insert(name.clone(), work);
    }
    all
}

/// What `name` executes in `stage`; `None`: nothing. A host with only a receipt to update does so in the
/// stage of its role.
fn work_of(
    topology: &Topology,
    name: &HostName,
    plan: &HostPlan,
    receipt: Option<&Receipt>,
    stage: Stage,
) -> Option<StageWork> {
    let last = plan.stages.last().map(|(stage, _)| *stage);
    if let Some((_, steps)) = plan.stages.iter().find(|(at, _)| *at == stage) {
        return Some(StageWork { steps: steps.clone(), is_last: last == Some(stage) });
    }
    let directs = topology.hosts.get(name).is_some_and(|h| h.roles.contains(&Role::Director));
    let only_receipt = last.is_none() && !plan.is_idle(receipt);
    let own_stage = if directs { Stage::Live } else { Stage::Ready };
    (only_receipt && own_stage == stage).then(|| StageWork { steps: Vec::new(), is_last: true })
}

/// Why a host must not act now. A director does not go live in front of hosts that are not ready; a host
/// takes nothing away that a director may still send to.
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
        Stage::Ready => {
            let takes_away = steps.iter().any(|step| takes_away(&step.edit));
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

/// Why an address must not be added: another host was to give it up and failed, so two hosts would answer
/// for it.
fn held_elsewhere(
    plan: &ClusterPlan,
    name: &HostName,
    steps: &[Step],
    statuses: &BTreeMap<HostName, HostStatus>,
) -> Option<String> {
    let added: BTreeSet<IpAddr> = steps
        .iter()
        .filter_map(|step| step.edit.added::<Address>())
        .filter(|(key, _)| !is_silent(&key.dev))
        .map(|(key, _)| key.net.addr())
        .collect();
    plan.hosts.iter().find_map(|(other, result)| {
        let HostPlanResult::Plan(theirs) = result else { return None };
        let plight = plight(statuses.get(other).filter(|_| other != name)?)?;
        let steps = theirs.stages.iter().flat_map(|(_, steps)| steps);
        let kept = steps
            .filter_map(|step| step.edit.removed::<Address>())
            .filter(|(key, _)| !is_silent(&key.dev))
            .map(|(key, _)| key.net.addr())
            .find(|address| added.contains(address))?;
        Some(format!("{other} may still have {kept}: {plight}, and two hosts would answer for it"))
    })
}

/// How a host failed, to be read after its name; `None`: it did not.
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

/// Whether the host no longer takes or answers requests after the change.
fn takes_away(edit: &Edit) -> bool {
    edit.removed::<Address>().is_some()
        || edit.removed::<Route>().is_some()
        || edit.changed::<Link>().is_some_and(|(_, _, after)| *after == Link::Down)
}

/// Every director but `host`, whether its services name `host` or not: a director still sends requests to a
/// real server that was taken out of the file until it has withdrawn it.
fn other_directors(topology: &Topology, host: &HostName) -> impl Iterator<Item = HostName> {
    topology.with_role(Role::Director).map(|d| d.name.clone()).filter(move |d| d != host)
}

/// Cautions for a host that acts although a host it depends on was not observed: `--limit` is the operator's
/// decision, and an unmanaged host is run by other means.
pub fn cautions(
    topology: &Topology,
    name: &HostName,
    plan: &HostPlan,
    action: Action,
    absent: &BTreeMap<HostName, HostAbsence>,
) -> Vec<String> {
    let because = |reason: &HostAbsence| match reason {
        HostAbsence::LeftOut => Some("left out by --limit"),
        HostAbsence::Unmanaged => Some("not managed by this file"),
        HostAbsence::Unreachable(_) => None,
    };
    let not_observed = |hosts: BTreeSet<HostName>| {
        let not_observed: Vec<String> = hosts
            .into_iter()
            .filter_map(|host| {
                let because = because(absent.get(&host)?)?;
                Some(format!("{host} ({because})"))
            })
            .collect();
        (!not_observed.is_empty()).then(|| not_observed.join(", "))
    };
    let has = |stage| plan.stages.iter().any(|(at, _)| *at == stage);
    let steps = plan.stages.iter().flat_map(|(_, steps)| steps);
    let takes_away = steps.into_iter().any(|step| takes_away(&step.edit));
    let mut cautions = Vec::new();
    if has(Stage::Live) && matches!(action, Action::Apply | Action::Plan) {
        cautions.extend(not_observed(depends_on(topology, name)).map(|hosts| {
            format!("not looked at: {hosts}; requests sent there are lost unless they are ready")
        }));
    }
    if has(Stage::Ready) && takes_away {
        cautions.extend(not_observed(other_directors(topology, name).collect()).map(|hosts| {
            format!("not looked at: {hosts}; requests that it still sends here will be lost")
        }));
    }
    cautions
}

/// The real servers and routers that a director depends on; empty for a host that directs no service.
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

/// Records the answer to the next `asked` steps of a stage.
pub fn record(host: &mut HostReport, stage: Stage, asked: usize, outcome: &Execution) {
    let Execution { done, failure, after: _, warnings } = outcome;
    host.notes.extend(warnings.iter().cloned());
    let planned = |step: &&mut StepReport| step.stage == stage && step.state == StepState::Planned;
    for (at, step) in host.steps.iter_mut().filter(planned).take(asked).enumerate() {
        step.state = match (at.cmp(done), failure) {
            (Ordering::Less, _) => StepState::Done,
            (Ordering::Equal, Some(_)) => StepState::Failed,
            _ => StepState::NotDone,
        };
    }
    if let Some(failure) = failure {
        fail(host, failure.clone());
    }
}

/// Records that the next `asked` steps of a stage got no answer.
pub fn record_error(host: &mut HostReport, stage: Stage, asked: usize, error: RequestError) {
    let end = if error.is_lost() { StepState::Unknown } else { StepState::NotDone };
    let planned = |step: &&mut StepReport| step.stage == stage && step.state == StepState::Planned;
    for step in host.steps.iter_mut().filter(planned).take(asked) {
        step.state = end;
    }
    fail(host, error.into_failure());
}

/// The host failed: its planned steps are not executed.
pub fn fail(host: &mut HostReport, failure: Failure) {
    host.status = HostStatus::Failed;
    host.failure = Some(failure);
    give_up(host);
}

/// The host had to wait for another, which failed.
pub fn not_attempted(host: &mut HostReport, because: String) {
    host.status = HostStatus::NotAttempted { because };
    give_up(host);
}

fn give_up(host: &mut HostReport) {
    for step in host.steps.iter_mut().filter(|step| step.state == StepState::Planned) {
        step.state = StepState::NotDone;
    }
}

/// Records the rollback of a host.
pub fn record_rollback(host: &mut HostReport, rollback: HostRollback, because: &str) {
    match &rollback.end {
        RollbackEnd::RolledBack | RollbackEnd::Committed | RollbackEnd::Planned => {
            let mut any = false;
            for step in &mut host.steps {
                if matches!(step.state, StepState::Done | StepState::Unknown) {
                    step.state = StepState::Undone;
                    any = true;
                }
            }
            let failed_itself = host.failure.is_some();
            if any && !failed_itself {
                host.status = HostStatus::Undone { because: because.to_owned() };
            }
        }
        RollbackEnd::Open { failure, .. } => {
            if !host.status.is_failure() {
                host.status = HostStatus::Failed;
            }
            if host.failure.is_none() {
                host.failure = Some(failure.clone());
            }
        }
    }
    host.rollback = Some(rollback);
}
