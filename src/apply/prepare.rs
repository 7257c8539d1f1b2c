//! The first phase: which hosts take part, what goes into each journal, and when a host reverts by itself.
//! Every host is prepared before any host executes a step.
//!
//! The phases and what each leaves on a host's disk are in [`crate::plan::journal`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cluster_plan::{ClusterPlan, HostPlan, HostPlanResult};
use super::outcome::{Action, ClusterReport, HostStatus, RollbackEnd, TransactionEnd};
use super::requests::{self, RequestError};
use super::rollback::{self, RollbackRequest};
use super::session::Observations;
use super::stage_work;
use super::transaction::{AbortReason, ClusterTransaction, RetryReason, TransactionPolicy};
use crate::desired::Desired;
use crate::names::HostName;
use crate::plan::SimulateError;
use crate::plan::journal::touched_by;
use crate::plan::other_topologies;
use crate::plan::ownership::{sysctls_to_read, with_modules_of};
use crate::protocol::{Prepare, RevertAfter};
use crate::state::{
    Expected, Intent, Item, JOURNAL_VERSION, Journal, Observation, Receipt, Settled, Stage, Sysctl,
    TransactionId,
};
use crate::topology::{Role, Topology};

/// Between the parts of a revert by timers: directors withdraw, then the other hosts give back what they
/// took, then directors go live with what they had before.
pub const BETWEEN_PARTS: Duration = Duration::from_secs(2);

/// Added to the time for which a transaction plans to send a host nothing: after both the agent takes its
/// controller for lost.
const IDLE: Duration = Duration::from_mins(2);

/// The longest time that a host accepts, for its revert timer and for its idle limit.
const LONGEST: Duration = Duration::from_hours(24);

/// A host that takes part, with what its plan was made from.
#[derive(Debug, Clone, Copy)]
pub struct Participant<'a> {
    /// What it executes.
    pub plan: &'a HostPlan,
    /// The host before the change.
    pub observed: &'a Observation,
}

/// The hosts that take part: those with steps, with a receipt to update, or with an open transaction. A host
/// that could not finish, because a host it depends on cannot be changed, takes no part; `report` says so.
pub fn participants<'a>(
    topology: &Topology,
    plan: &'a ClusterPlan,
    observed: &'a Observations,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, Participant<'a>> {
    let receipts = receipts(observed);
    loop {
        // All stages as if every step succeeded: a host that is blocked even then stays blocked.
        let mut rehearsal = report.clone();
        for stage in Stage::ALL {
            stage_work::due(topology, plan, &receipts, stage, &mut rehearsal);
        }
        let mut stopped = false;
        for (name, host) in rehearsal.hosts {
            let Some(real) = report.hosts.get_mut(&name) else { continue };
            if let HostStatus::NotAttempted { because } = host.status
                && !real.status.is_failure()
            {
                stage_work::not_attempted(real, because);
                stopped = true;
            }
        }
        if !stopped {
            break;
        }
    }
    let willing = |name: &HostName| report.hosts.get(name).is_some_and(|h| !h.status.is_failure());
    let hosts = plan.hosts.iter().filter(|(name, _)| willing(name));
    let participants = hosts.filter_map(|(name, result)| {
        let HostPlanResult::Plan(plan) = result else { return None };
        let observed = observed.get(name)?.as_ref().ok()?;
        let idle = plan.is_idle(observed.receipt.as_ref()) && observed.open_transaction.is_none();
        (!idle).then_some((name.clone(), Participant { plan, observed }))
    });
    participants.collect()
}

/// The receipts on all hosts.
pub fn receipts(observed: &Observations) -> BTreeMap<HostName, Receipt> {
    let with_receipt = observed.iter().filter_map(|(name, observation)| {
        let receipt = observation.as_ref().ok()?.receipt.clone()?;
        Some((name.clone(), receipt))
    });
    with_receipt.collect()
}

/// What all hosts of one transaction have in common.
#[derive(Debug)]
pub struct TransactionHeader<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// The transaction.
    pub id: &'a TransactionId,
    /// Apply or destroy.
    pub action: Action,
    /// How it is to go.
    pub policy: &'a TransactionPolicy,
    /// Every participant.
    pub hosts: &'a BTreeSet<HostName>,
    /// From prepare until hosts revert by themselves; see [`revert_after`].
    pub time: Option<Duration>,
    /// The longest time for which the controller plans to send a host nothing.
    pub silence: Duration,
}

/// The request that prepares `name`.
///
/// # Errors
/// The steps contradict each other: a fault of the planner.
pub fn begin(
    header: &TransactionHeader<'_>,
    name: &HostName,
    participant: Participant<'_>,
    desired: Option<&Desired>,
) -> Result<Prepare, SimulateError> {
    let TransactionHeader { topology, id, action, policy, hosts, time, silence } = header;
    let Participant { plan, observed } = participant;
    let steps = || plan.stages.iter().flat_map(|(_, steps)| steps);
    let expected = expected_of(plan, observed);
    let mut touched = expected.items.clone();
    // Another topology must not give these up at the same time: each would leave them to the other.
    touched.extend(other_topologies::left(
        &plan.goal.receipt,
        plan.goal.receipt_after.as_ref(),
        observed,
    ));
    let mut before = with_modules_of(steps(), &observed.state)?.restricted_to(&touched);
    // Items that a module creates are recorded as they start. The module itself was absent: rolling back
    // loads none.
    before.modules.retain(|module| observed.state.modules.contains(module));
    let mut receipt_before = observed.receipt.clone();
    if let Some(taken) = observed.open_transaction.as_deref() {
        // A rollback always leads to the last committed state; after a restart of the host, to what the
        // restart left, with the receipt of that state.
        if let Some((first, was)) = taken.to_put_back() {
            for item in first {
                before.copy_item(item, was);
            }
            touched.extend(first.iter().cloned());
        }
        receipt_before.clone_from(&taken.receipt_before);
    }
    let directs = topology.hosts.get(name).is_some_and(|h| h.roles.contains(&Role::Director));
    let journal = Journal {
        version: JOURNAL_VERSION,
        topology: topology.name.clone(),
        transaction: (*id).clone(),
        intent: if *action == Action::Destroy { Intent::Destroy } else { Intent::Apply },
        by: policy.by.clone(),
        since: policy.now,
        hosts: (*hosts).clone(),
        stages: plan.stages.clone(),
        touched,
        before,
    };
    Ok(Prepare {
        journal,
        expected,
        receipt_before,
        receipt: plan.goal.receipt.clone(),
        receipt_after: plan.goal.receipt_after.clone(),
        settled: settled_to_send(plan, observed),
        revert: time.map(|time| revert_after(time, directs)),
        idle_limit_s: seconds(IDLE + *silence + time.unwrap_or_default()),
        sysctls: sysctls(plan, desired),
    })
}

/// The settled state, where the host does not have it already.
fn settled_to_send(plan: &HostPlan, observed: &Observation) -> Option<Settled> {
    let digest = |receipt: Option<&Receipt>| receipt.and_then(|receipt| receipt.settled.clone());
    let (here, after) =
        (digest(observed.receipt.as_ref()), digest(plan.goal.receipt_after.as_ref()));
    plan.goal.settled.clone().filter(|_| after.is_some() && after != here)
}

/// What a host's steps were made from.
pub fn expected_of(plan: &HostPlan, observed: &Observation) -> Expected {
    let items = touched_by(plan.stages.iter().flat_map(|(_, steps)| steps), &observed.state);
    Expected {
        receipt: observed.receipt.clone(),
        open_transaction: observed
            .open_transaction
            .as_ref()
            .map(|open| open.journal.transaction.clone()),
        state: observed.state.restricted_to(&items),
        items,
        owners: other_topologies::owners(
            &plan.goal.receipt,
            plan.goal.receipt_after.as_ref(),
            observed,
        ),
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.min(LONGEST).as_secs()).unwrap_or(u32::MAX).max(1)
}

/// After how many seconds without a request an agent that resumed a transaction takes its controller for
/// lost.
pub fn idle_limit_s() -> u32 {
    seconds(IDLE)
}

/// When a host reverts what was not confirmed within `time` from prepare. The parts always lie
/// [`BETWEEN_PARTS`] apart. A `time` outside 1 s to 24 h, all parts included, becomes the nearest;
/// [`super::transaction::CONFIRM_LONGEST`] keeps it inside.
pub fn revert_after(time: Duration, directs: bool) -> RevertAfter {
    let time = time.clamp(Duration::from_secs(1), LONGEST.saturating_sub(BETWEEN_PARTS * 2));
    let ms = |parts: u32| {
        let after = time.saturating_add(BETWEEN_PARTS * parts).as_millis();
        u32::try_from(after).unwrap_or(u32::MAX)
    };
    if directs {
        RevertAfter { withdraw_ms: Some(ms(0)), build_ms: ms(2) }
    } else {
        RevertAfter { withdraw_ms: None, build_ms: ms(1) }
    }
}

/// The sysctls to read when a host is observed during its transaction.
pub fn sysctls(plan: &HostPlan, desired: Option<&Desired>) -> BTreeSet<Sysctl> {
    let mut sysctls = desired.map(|d| sysctls_to_read(&d.state)).unwrap_or_default();
    // The receipt may be removed by then, so owned sysctls are asked for by name.
    sysctls.extend(plan.goal.owned.iter().filter_map(|item| match item {
        Item::Sysctl(key) => Some(key.clone()),
        _ => None,
    }));
    sysctls
}

impl ClusterTransaction<'_, '_> {
    /// Prepares the first host by name alone, where two controllers with the same file meet; then all other
    /// hosts at once.
    pub(super) async fn prepare(&mut self) -> Result<(), (AbortReason, Option<RetryReason>)> {
        let mut begins = self.begins().map_err(|reason| (reason, None))?;
        let gate = begins.pop_first();
        for part in [gate.into_iter().collect(), begins] {
            let mut part: BTreeMap<HostName, Prepare> = part;
            self.show_open_hosts_with(part.keys());
            // All revert timers end at the same time, however late a host is prepared.
            for revert in part.values_mut().filter_map(|begin| begin.revert.as_mut()) {
                revert.sooner_by(self.started.elapsed());
            }
            let mut failed: Option<(AbortReason, Option<RetryReason>)> = None;
            for (name, answer) in requests::prepare(self.session, part).await {
                let Err(error) = answer else {
                    self.prepared.insert(name);
                    continue;
                };
                if error.is_lost() {
                    self.prepared.insert(name.clone());
                }
                let first = self.not_prepared(&name, error);
                // A busy or changed host is the cause of other failures rather than their result.
                if failed.as_ref().is_none_or(|(_, retry)| retry.is_none()) {
                    failed = Some(first);
                }
            }
            self.show_open_hosts();
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
        Ok(())
    }

    fn begins(&self) -> Result<BTreeMap<HostName, Prepare>, AbortReason> {
        let hosts: BTreeSet<HostName> = self.participants.keys().cloned().collect();
        let waits = self.planned_waits();
        let header = TransactionHeader {
            topology: self.session.topology,
            id: &self.id,
            action: self.plan.action,
            policy: self.policy,
            hosts: &hosts,
            time: self.confirm_within.map(|time| time + waits),
            silence: waits,
        };
        let begins = self.participants.iter().map(|(name, participant)| {
            let desired = self.session.desired.get(name);
            begin(&header, name, *participant, desired)
                .map(|begin| (name.clone(), begin))
                .map_err(|error| AbortReason::on(name, error))
        });
        begins.collect()
    }

    fn not_prepared(
        &mut self,
        name: &HostName,
        error: RequestError,
    ) -> (AbortReason, Option<RetryReason>) {
        let host = name.clone();
        let retry = match &error {
            RequestError::Busy(busy) => Some(RetryReason::Busy { host, busy: busy.clone() }),
            RequestError::Changed(differences) => {
                Some(RetryReason::Changed { host, differences: differences.clone() })
            }
            RequestError::Refused(_) | RequestError::Lost(_) => None,
        };
        let failure = error.into_failure();
        let reason = AbortReason::on(name, &failure.message);
        if let Some(host) = self.report.hosts.get_mut(name) {
            stage_work::fail(host, failure);
        }
        (reason, retry)
    }

    /// Shows the operator which hosts have an open journal now, and when each reverts by itself.
    pub(super) fn show_open_hosts(&self) {
        self.show_open_hosts_with(std::iter::empty());
    }

    /// With hosts that are about to be prepared: an operator who ends the program now must know of them.
    fn show_open_hosts_with<'n>(&'n self, more: impl Iterator<Item = &'n HostName>) {
        let at =
            |name: &HostName| self.reverts_at().filter(|_| !self.may_have_voted.contains(name));
        let hosts = self.prepared.iter().chain(more).map(|name| (name.clone(), at(name))).collect();
        self.session.console().set_open_hosts(&hosts);
    }

    /// Some host is not prepared, and no host has executed a step: closes the new journals. An open
    /// transaction that this one took over stays open, because closing it would roll it back, which the
    /// operator did not ask for.
    pub(super) async fn release(&mut self, reason: &AbortReason) {
        self.give_up(reason);
        let taken_over = |name: &HostName| {
            self.participants.get(name).is_some_and(|host| host.observed.open_transaction.is_some())
        };
        let (kept, released): (BTreeSet<HostName>, BTreeSet<HostName>) =
            self.prepared.iter().cloned().partition(taken_over);
        let ids = released.into_iter().map(|name| (name, self.id.clone())).collect();
        let ends = rollback::roll_back(self.session, &self.rollback_request(ids)).await;
        let mut open = !kept.is_empty();
        let in_s = self.reverts_in_s();
        for name in &kept {
            let (Some(host), Some(in_s)) = (self.report.hosts.get_mut(name), in_s) else {
                continue;
            };
            host.notes.push(format!(
                "what was unfinished here was taken over before another host was busy: this host undoes it by \
                 itself in about {in_s} s"
            ));
        }
        for (name, rollback) in ends {
            let Some(host) = self.report.hosts.get_mut(&name) else { continue };
            if let RollbackEnd::Open { .. } = rollback.end {
                open = true;
                host.rollback = Some(rollback);
            }
        }
        // A retry must not meet this run's own connections.
        self.session.reconnect(&kept, false).await;
        self.end(if open { TransactionEnd::Open } else { TransactionEnd::Aborted }, Some(reason));
    }

    pub(super) fn rollback_request(
        &self,
        ids: BTreeMap<HostName, TransactionId>,
    ) -> RollbackRequest {
        let unchanged = self.prepared.difference(&self.executed).cloned().collect();
        let by = self.policy.by.clone();
        RollbackRequest { ids, by, is_ours: true, force: false, unchanged }
    }
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
