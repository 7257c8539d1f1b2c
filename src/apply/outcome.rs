//! What a command came to, host by host: plain data for the reports. The JSON form is stable: members are
//! only ever added, so members keep their names where a Rust name changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::verify::Verification;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::UnmanagedItem;
use crate::plan::drain::Pacing;
use crate::plan::preflight::Obstacle;
use crate::state::{Edit, Holder, Intent, Reverted, Stage, TransactionId};

/// What a command did or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Changes nothing; the steps are what `apply` would execute.
    Plan,
    /// Executed the steps.
    Apply,
    /// Executed the steps, backwards.
    Destroy,
    /// Changes nothing; the steps are what `destroy` would execute.
    PlanDestroy,
    /// Rolled open transactions back.
    Rollback,
    /// Changes nothing; what `rollback` would do.
    PlanRollback,
    /// Committed a transaction that waited for the operator.
    Confirm,
}

/// All hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Which command.
    pub action: Action,
    /// The topology's name.
    pub topology: String,
    /// By host name.
    pub hosts: BTreeMap<HostName, HostReport>,
    /// The transaction of this command; `None`: it needed none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionReport>,
    /// The open transactions that were found, and what each command would do with them.
    #[serde(default, rename = "unfinished", skip_serializing_if = "Vec::is_empty")]
    pub open_transactions: Vec<OpenTransactionReport>,
    /// ARP and requests after an apply, and what of it was not tried; empty where the apply failed before.
    #[serde(default, rename = "proofs", skip_serializing_if = "Vec::is_empty")]
    pub verifications: Vec<Verification>,
    /// SHA-256 of what a plan was made from, in 64 hexadecimal digits; only in a plan towards the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// The transaction of this command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionReport {
    /// Its name.
    pub id: TransactionId,
    /// How it ended.
    pub ended: TransactionEnd,
    /// Why it was not committed: the host and what happened there.
    pub because: Option<String>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransactionEnd {
    /// Every participant has closed it as done.
    #[serde(rename = "done")]
    Committed,
    /// Every participant is as it was before.
    #[serde(rename = "undone")]
    Aborted,
    /// At least one host still has its journal.
    #[serde(rename = "unfinished")]
    Open,
}

/// An open transaction over all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransactionReport {
    /// Its name.
    pub id: TransactionId,
    /// Apply or destroy.
    pub intent: Intent,
    /// The operator who started it, as that controller names them.
    pub by: String,
    /// When it was prepared, in seconds since 1970 by that controller's clock.
    pub since: u64,
    /// Hosts with its journal.
    pub hosts: BTreeSet<HostName>,
    /// Participants without its journal.
    pub elsewhere: BTreeSet<HostName>,
    /// Participants that could not be observed.
    pub unknown: BTreeSet<HostName>,
    /// What `apply` would do with it.
    pub apply: String,
    /// What `rollback` would do with it.
    pub rollback: String,
    /// What `confirm` would do with it.
    pub confirm: String,
}

/// An open transaction on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTransactionReport {
    /// Its name.
    pub id: TransactionId,
    /// How many steps it has here.
    pub steps: usize,
    /// How many of its steps match the host now.
    pub as_wanted: usize,
    /// How many items differ from before the transaction.
    pub differs: usize,
    /// Whether this host has voted: its part is verified, and it waits for the decision.
    #[serde(rename = "agreed")]
    pub voted: bool,
    /// The controller that works at it now.
    pub holder: Option<Holder>,
    /// Seconds until the host reverts it.
    pub reverts_in_s: Option<u64>,
    /// Whether the host restarted since.
    pub restarted: bool,
    /// What the revert timer did or could not do, a line each.
    #[serde(rename = "told")]
    pub timer_log: Vec<String>,
}

/// A rollback on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRollback {
    /// Its steps, in their order.
    pub steps: Vec<StepReport>,
    /// What it came to.
    pub end: RollbackEnd,
}

impl HostRollback {
    /// Without steps.
    pub fn without_steps(end: RollbackEnd) -> Self {
        Self { steps: Vec::new(), end }
    }
}

/// What a rollback came to on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollbackEnd {
    /// The host is as it was before.
    #[serde(rename = "undone")]
    RolledBack,
    /// All hosts had voted, so the journal was closed as done.
    #[serde(rename = "settled")]
    Committed,
    /// It would be rolled back (`--dry-run`).
    #[serde(rename = "planned")]
    Planned,
    /// The journal is still there: the host is not rolled back, or in an unknown state.
    #[serde(rename = "left")]
    Open {
        /// Why.
        failure: Failure,
        /// Seconds until the host reverts by itself, where its timer is armed.
        reverts_in_s: Option<u64>,
    },
}

impl RollbackEnd {
    /// The journal stays; the revert timer is not known.
    pub fn open(failure: Failure) -> Self {
        Self::Open { failure, reverts_in_s: None }
    }
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// In one word.
    pub status: HostStatus,
    /// In their order.
    pub steps: Vec<StepReport>,
    /// What prevents a change.
    pub obstacles: Vec<Obstacle>,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// What else a person should know: modules that stay, for one.
    pub notes: Vec<String>,
    /// Items that lvsprov did not make and leaves alone.
    #[serde(default)]
    pub foreign: Vec<UnmanagedItem>,
    /// The open transaction that was found there.
    #[serde(default, rename = "unfinished", skip_serializing_if = "Option::is_none")]
    pub open_transaction: Option<HostTransactionReport>,
    /// The transaction that the host reverted by itself, if none was prepared there since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// What a rollback did.
    #[serde(default, rename = "undoing", skip_serializing_if = "Option::is_none")]
    pub rollback: Option<HostRollback>,
}

impl HostReport {
    /// A host with a status alone.
    pub fn bare(status: HostStatus) -> Self {
        Self {
            status,
            steps: Vec::new(),
            obstacles: Vec::new(),
            failure: None,
            notes: Vec::new(),
            foreign: Vec::new(),
            open_transaction: None,
            reverted: None,
            rollback: None,
        }
    }

    /// A host that failed.
    pub fn failed(status: HostStatus, failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::bare(status) }
    }

    /// Its obstacles and its failure, a line each.
    pub fn problems(&self) -> Vec<String> {
        let obstacles = self.obstacles.iter().map(ToString::to_string);
        obstacles.chain(self.failure.iter().map(ToString::to_string)).collect()
    }
}

/// What a command came to on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// It is as the file wants it.
    Unchanged,
    /// It has steps to execute.
    Pending,
    /// All steps are done, and the state read afterwards matches.
    Changed,
    /// All steps are done, and the state read afterwards does not match.
    Unverified,
    /// A step failed.
    Failed,
    /// It could not be reached or did not answer.
    Unreachable,
    /// It answered, and refused or could not be observed; nothing was changed.
    Refused,
    /// An obstacle prevents the change; nothing was changed.
    Obstructed,
    /// Another host had to go first and failed.
    NotAttempted {
        /// Which, and why it matters.
        because: String,
    },
    /// Its steps were done and rolled back: it is as it was before.
    Undone {
        /// Which host failed, and why.
        because: String,
    },
    /// The file does not say how to reach it.
    Unmanaged,
    /// `--limit` leaves it out.
    LeftOut,
}

impl HostStatus {
    /// Whether the command failed on this host.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Unverified
            | Self::Failed
            | Self::Unreachable
            | Self::Refused
            | Self::Obstructed
            | Self::Undone { .. }
            | Self::NotAttempted { .. } => true,
            Self::Unchanged | Self::Pending | Self::Changed | Self::Unmanaged | Self::LeftOut => {
                false
            }
        }
    }
}

/// One step of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// When it is executed, across hosts.
    pub stage: Stage,
    /// In one line, with before and after.
    pub text: String,
    /// The same for a program.
    #[serde(rename = "change")]
    pub edit: Edit,
    /// Why.
    pub why: String,
    /// Whether it was executed.
    pub state: StepState,
    /// What it costs in live connections.
    #[serde(flatten)]
    pub cost: Cost,
}

/// What a step costs in live connections: established ones (TCP, SCTP), or all that IPVS remembers (UDP).
/// All members are absent where the step cuts none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Connections when the host was observed; absent where they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Seconds that they have to end before the step; absent: the step cuts them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u32>,
    /// Connections that the step cut; absent where that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_cut: Option<u64>,
}

impl Cost {
    /// What `change` costs as far as `pacing` says.
    pub fn of(pacing: &Pacing, change: &Edit) -> Self {
        let Some(leaving) = pacing.leaving_by(change) else { return Self::default() };
        Self {
            connections: leaving.connections,
            drain_seconds: (leaving.seconds > 0).then_some(leaving.seconds),
            connections_cut: None,
        }
    }
}

/// Whether a step was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It would be.
    Planned,
    /// It was.
    Done,
    /// It was, and was rolled back.
    Undone,
    /// It failed, and changed nothing.
    Failed,
    /// The transaction ended before it.
    NotDone,
    /// The connection broke during the steps: it may have been executed.
    Unknown,
}

impl ClusterReport {
    /// How many steps are in `state`.
    pub fn count(&self, state: StepState) -> usize {
        self.hosts.values().flat_map(|host| &host.steps).filter(|step| step.state == state).count()
    }

    /// Whether any host failed.
    pub fn has_failures(&self) -> bool {
        let is_done = |of: &TransactionReport| of.ended == TransactionEnd::Committed;
        self.hosts.values().any(|host| host.status.is_failure())
            || !self.transaction.as_ref().is_none_or(is_done)
    }

    /// Whether any step is planned.
    pub fn has_pending(&self) -> bool {
        let pending = |host: &HostReport| host.status == HostStatus::Pending;
        self.count(StepState::Planned) > 0 || self.hosts.values().any(pending)
    }
}
