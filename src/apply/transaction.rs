//! One change of all hosts: a two-phase commit. [`run`] goes through its phases in this order:
//!
//! 1. prepare ([`super::prepare`]): every host writes its journal;
//! 2. execute ([`super::execute`]): the stages, hosts of one stage at once; then the state of each host is verified;
//! 3. confirm ([`super::confirm`]): requests through the services; hosts that wait for confirmation are
//!    reached over new connections, or the operator is asked;
//! 4. vote and commit ([`super::commit`]), or abort: every host rolls back ([`super::rollback`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster_plan::{ClusterPlan, Direction, HostPlanResult};
use super::confirm::{self, Confirmation};
use super::outcome::{
    Action, ClusterReport, HostStatus, StepState, TransactionEnd, TransactionReport,
};
use super::prepare::{self, Participant};
use super::session::{Observations, Session};
use super::{drain, operator, stage_work, traffic};
use crate::names::HostName;
use crate::protocol::Busy;
use crate::state::{Observation, Operator, TransactionId};

/// How long hosts wait for the confirmation, unless the operator says.
pub const CONFIRM_WITHIN: Duration = Duration::from_mins(1);

/// How long they wait at most. With the longest drain, the longest ramp and [`prepare::BETWEEN_PARTS`] on top it
/// still fits into what a host accepts.
pub const CONFIRM_LONGEST: Duration = Duration::from_hours(19);

/// What happens when a step fails, a host is lost, or verification fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// Roll back every host.
    #[default]
    #[value(name = "undo")]
    Abort,
    /// Leave everything as it is, journals and timers included, for the operator to inspect.
    Keep,
}

/// When hosts undo an unconfirmed transaction by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfirmWithin {
    /// After this time, if the way back to the controller changes on any host, or may change where it is
    /// unknown; else never.
    WhereNeeded(Duration),
    /// After this time.
    Always(Duration),
    /// Never.
    Never,
}

/// Who decides that a transaction is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfirmBy {
    /// Verification.
    #[default]
    #[value(name = "auto")]
    Verification,
    /// The operator, after verification.
    #[value(name = "manual")]
    Operator,
}

/// What verification covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum VerifyBy {
    /// The state of each host.
    State,
    /// The state, ARP for the VIPs, and requests through every service.
    #[default]
    Traffic,
}

/// How a transaction is to go.
#[derive(Debug, Clone)]
pub struct TransactionPolicy {
    /// When something fails.
    pub on_error: OnError,
    /// When hosts undo it by themselves.
    pub within: ConfirmWithin,
    /// Who confirms.
    pub confirm: ConfirmBy,
    /// What verification covers; a destroy only verifies the state.
    pub verify: VerifyBy,
    /// Who runs it.
    pub by: Operator,
    /// Seconds since 1970; only shown to people.
    pub now: u64,
}

impl TransactionPolicy {
    /// Aborts on error; verification confirms; no revert timers.
    pub fn plain(by: Operator, now: u64) -> Self {
        Self {
            on_error: OnError::Abort,
            within: ConfirmWithin::Never,
            confirm: ConfirmBy::Verification,
            verify: VerifyBy::Traffic,
            by,
            now,
        }
    }

    /// How long the hosts wait for the confirmation; `None`: they have no revert timers.
    pub fn time_to_confirm(&self, plan: &ClusterPlan) -> Option<Duration> {
        let moves = |result: &HostPlanResult| matches!(result, HostPlanResult::Plan(plan) if plan.moves_way_back);
        match (self.within, self.confirm) {
            (ConfirmWithin::Never, _) => None,
            (ConfirmWithin::Always(time), _)
            | (ConfirmWithin::WhereNeeded(time), ConfirmBy::Operator) => Some(time),
            (ConfirmWithin::WhereNeeded(time), ConfirmBy::Verification) => {
                plan.hosts.values().any(moves).then_some(time)
            }
        }
    }
}

/// What a transaction came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOutcome {
    /// Host by host.
    pub report: ClusterReport,
    /// Set where no host changed and a new plan may succeed.
    pub retry: Option<RetryReason>,
}

/// Why a plan cannot be executed now. No host was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryReason {
    /// Another transaction holds a host.
    Busy {
        /// The host.
        host: HostName,
        /// The holder.
        busy: Box<Busy>,
    },
    /// A host changed after it was observed.
    Changed {
        /// The host.
        host: HostName,
        /// How it differs from what the plan was made from.
        differences: Vec<String>,
    },
}

/// Why a transaction cannot be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbortReason {
    /// The host that fails; `None`: the reason lies in no single host.
    pub host: Option<HostName>,
    /// In one line.
    pub why: String,
}

impl AbortReason {
    /// The operator wants to stop.
    pub(super) fn interrupted() -> Self {
        Self { host: None, why: "it was interrupted".to_owned() }
    }

    pub(super) fn on(host: &HostName, why: impl fmt::Display) -> Self {
        Self { host: Some(host.clone()), why: why.to_string() }
    }
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// A running transaction.
pub(super) struct ClusterTransaction<'c, 's> {
    pub session: &'c mut Session<'s>,
    pub plan: &'c ClusterPlan,
    /// What the plan was made from.
    pub observed: &'c Observations,
    pub direction: Direction,
    pub policy: &'c TransactionPolicy,
    pub id: TransactionId,
    pub participants: BTreeMap<HostName, Participant<'c>>,
    pub report: ClusterReport,
    /// Each host after its last stage.
    pub last: BTreeMap<HostName, Observation>,
    /// Hosts that are prepared, or may be.
    pub prepared: BTreeSet<HostName>,
    /// Hosts that were asked to execute steps.
    pub executed: BTreeSet<HostName>,
    /// Hosts that were asked to vote and have not refused: their timers may be disarmed.
    pub may_have_voted: BTreeSet<HostName>,
    /// How long the hosts wait for the confirmation.
    pub confirm_within: Option<Duration>,
    /// Before any host was asked to prepare: no revert timer started earlier.
    pub started: Instant,
}

/// [`run`] with [`TransactionPolicy::plain`].
pub async fn run_plain(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    direction: Direction,
) -> ClusterReport {
    let policy = TransactionPolicy::plain(operator::here(), operator::now());
    run(session, plan, observed, direction, &policy).await.report
}

/// Executes `plan` on every host, or on none.
pub async fn run(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    direction: Direction,
    policy: &TransactionPolicy,
) -> TransactionOutcome {
    let mut transaction = match ClusterTransaction::new(session, plan, observed, direction, policy)
    {
        Ok(transaction) => transaction,
        Err(report) => return TransactionOutcome { report: *report, retry: None },
    };
    if let Err((reason, retry)) = transaction.prepare().await {
        transaction.release(&reason).await;
        return transaction.outcome(retry);
    }
    let decision = async {
        transaction.execute().await?;
        let confirmation = match confirm::confirm(&mut transaction).await {
            // Another controller may have committed it at the last moment.
            Err(_) if confirm::is_committed_elsewhere(&mut transaction).await => {
                Confirmation::Elsewhere
            }
            other => other?,
        };
        if confirmation == Confirmation::Here {
            transaction.vote().await?;
        }
        Ok(confirmation)
    };
    match (decision.await, policy.on_error) {
        (Ok(Confirmation::Here), _) => transaction.commit().await,
        (Ok(Confirmation::Elsewhere), _) => transaction.end(TransactionEnd::Committed, None),
        (Err(reason), OnError::Abort) => transaction.abort(&reason).await,
        (Err(reason), OnError::Keep) => transaction.keep(&reason),
    }
    transaction.outcome(None)
}

impl<'c, 's> ClusterTransaction<'c, 's> {
    /// # Errors
    /// No host takes part: the report.
    fn new(
        session: &'c mut Session<'s>,
        plan: &'c ClusterPlan,
        observed: &'c Observations,
        direction: Direction,
        policy: &'c TransactionPolicy,
    ) -> Result<Self, Box<ClusterReport>> {
        let mut report = plan.report(session.topology);
        report.action = plan.action;
        // The boot unit alone is no step: preparing installs it.
        for host in report.hosts.values_mut().filter(|host| host.steps.is_empty()) {
            if host.status == HostStatus::Pending {
                host.status = HostStatus::Unchanged;
            }
        }
        let participants = prepare::participants(session.topology, plan, observed, &mut report);
        if participants.is_empty() {
            if plan.action == Action::Apply && !report.has_failures() {
                report.verifications =
                    traffic::not_sent(session.topology, confirm::NOTHING_CHANGED);
            }
            return Err(Box::new(report));
        }
        let id = operator::new_transaction();
        report.transaction =
            Some(TransactionReport { id: id.clone(), ended: TransactionEnd::Open, because: None });
        Ok(Self {
            session,
            plan,
            observed,
            direction,
            policy,
            id,
            participants,
            report,
            last: BTreeMap::new(),
            prepared: BTreeSet::new(),
            executed: BTreeSet::new(),
            may_have_voted: BTreeSet::new(),
            confirm_within: policy.time_to_confirm(plan),
            started: Instant::now(),
        })
    }
}

impl ClusterTransaction<'_, '_> {
    fn outcome(self, retry: Option<RetryReason>) -> TransactionOutcome {
        self.session.console().set_open_hosts(&BTreeMap::new());
        TransactionOutcome { report: self.report, retry }
    }

    /// How long the transaction waits for connections to end and for weights to rise, as planned.
    pub(super) fn planned_waits(&self) -> Duration {
        drain::longest(self.plan)
    }

    /// When the first host reverts by itself.
    pub fn reverts_at(&self) -> Option<Instant> {
        Some(self.started + self.confirm_within? + self.planned_waits())
    }

    /// Seconds until the first host reverts by itself.
    pub(super) fn reverts_in_s(&self) -> Option<u64> {
        Some(self.reverts_at()?.saturating_duration_since(Instant::now()).as_secs())
    }

    /// The transaction on every participant.
    pub(super) fn ids(&self) -> BTreeMap<HostName, TransactionId> {
        self.participants.keys().map(|name| (name.clone(), self.id.clone())).collect()
    }

    /// Leaves everything as it is now, journals and timers included.
    fn keep(&mut self, reason: &AbortReason) {
        self.give_up(reason);
        let left = self.reverts_in_s();
        for name in &self.prepared {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            let done = host.steps.iter().all(|step| step.state == StepState::Done);
            if host.status == HostStatus::Pending && done {
                host.status = HostStatus::Changed;
            }
            if let Some(left) = left.filter(|_| !self.may_have_voted.contains(name)) {
                host.notes.push(format!(
                    "this host undoes all of it by itself in about {left} s, unless `lvsprov confirm` keeps it"
                ));
            }
        }
        self.end(TransactionEnd::Open, Some(reason));
    }

    /// Marks what was planned and not executed as not attempted.
    pub(super) fn give_up(&mut self, reason: &AbortReason) {
        for name in self.participants.keys() {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            let planned = host.steps.iter().any(|step| step.state == StepState::Planned);
            if planned && !host.status.is_failure() {
                stage_work::not_attempted(host, reason.to_string());
            }
        }
    }

    pub(super) fn end(&mut self, ended: TransactionEnd, reason: Option<&AbortReason>) {
        if let Some(transaction) = &mut self.report.transaction {
            transaction.ended = ended;
            transaction.because = reason.map(ToString::to_string);
        }
    }
}
