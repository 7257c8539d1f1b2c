//! What came of a command, host by host: plain data for the reports. The JSON form is stable:
//! members are only ever added.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::views::Proof;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::Foreign;
use crate::plan::drain::Pacing;
use crate::plan::preflight::Obstacle;
use crate::state::{Edit, Holder, Intent, Reverted, Stage, TransactionId};

/// What a command did or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing is changed; the steps are what `apply` would do.
    Plan,
    /// The steps were done.
    Apply,
    /// The steps were done, backwards.
    Destroy,
    /// Nothing is changed; the steps are what `destroy` would do.
    PlanDestroy,
    /// What an unfinished transaction did was undone.
    Rollback,
    /// Nothing is changed; what `rollback` would do.
    PlanRollback,
    /// A transaction that waited for the operator was confirmed.
    Confirm,
}

/// All hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Which command.
    pub action: Action,
    /// The topology's name.
    pub topology: String,
    /// By name of the host.
    pub hosts: BTreeMap<HostName, HostReport>,
    /// The transaction that this command began, or closed; `None` where none was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionReport>,
    /// Transactions that were found unfinished, and what can be done with each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<Found>,
    /// What the network itself said after an apply, and what of it was not asked; empty where it did not
    /// come to that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
    /// What a plan was made from, in 64 hexadecimal digits; only in a plan towards the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// A transaction of this command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionReport {
    /// Its name.
    pub id: TransactionId,
    /// How it ended.
    pub ended: Ended,
    /// Why it did not end well: the host and what happened there.
    pub because: Option<String>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Everything was done, on every host that took part.
    Done,
    /// Every host that took part is as it was before.
    Undone,
    /// At least one host still has its journal.
    Unfinished,
}

/// A transaction that was found unfinished, over all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its name.
    pub id: TransactionId,
    /// Which way it was to go.
    pub intent: Intent,
    /// Who began it, by the word of that controller.
    pub by: String,
    /// When, in seconds since 1970 by that controller's clock.
    pub since: u64,
    /// Where it is unfinished.
    pub hosts: BTreeSet<HostName>,
    /// Hosts that take part in it and no longer, or not yet, know of it.
    pub elsewhere: BTreeSet<HostName>,
    /// Hosts that take part in it and could not be asked.
    pub unknown: BTreeSet<HostName>,
    /// What `apply` would do with it.
    pub apply: String,
    /// What `rollback` would do with it.
    pub rollback: String,
    /// What `confirm` would do with it.
    pub confirm: String,
}

/// What one host has of an unfinished transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedView {
    /// Its name.
    pub id: TransactionId,
    /// How many steps it has here.
    pub steps: usize,
    /// How many of them are as they were wanted, now.
    pub as_wanted: usize,
    /// How many things differ now from how they were before it.
    pub differs: usize,
    /// Whether all hosts were found right: it is only to be settled.
    pub agreed: bool,
    /// Who works at it now.
    pub holder: Option<Holder>,
    /// Seconds until the host undoes it by itself.
    pub reverts_in_s: Option<u64>,
    /// Whether the host was restarted since.
    pub restarted: bool,
    /// What the revert timer did or could not do.
    pub told: Vec<String>,
}

/// What undoing did on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undoing {
    /// Its steps, in their order.
    pub steps: Vec<StepReport>,
    /// What came of it.
    pub end: UndoEnd,
}

/// What came of undoing on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndoEnd {
    /// The host is as it was before.
    Undone,
    /// It was right already, and was only closed.
    Settled,
    /// It would be undone (`--dry-run`).
    Planned,
    /// It is not, or nobody knows; its journal is still there.
    Left {
        /// Why.
        failure: Failure,
        /// Seconds until it undoes everything by itself, where its timer was armed.
        reverts_in_s: Option<u64>,
    },
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// In one word.
    pub status: HostStatus,
    /// In their order.
    pub steps: Vec<StepReport>,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// What else a person should know: modules that stay, for one.
    pub notes: Vec<String>,
    /// What somebody else made on it; left alone.
    #[serde(default)]
    pub foreign: Vec<Foreign>,
    /// What was found there of a transaction that is not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<UnfinishedView>,
    /// What it undid by itself, if nothing was begun there since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// What undoing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoing: Option<Undoing>,
}

impl HostReport {
    /// A host of which there is only a status to tell.
    pub fn bare(status: HostStatus) -> Self {
        Self {
            status,
            steps: Vec::new(),
            obstacles: Vec::new(),
            failure: None,
            notes: Vec::new(),
            foreign: Vec::new(),
            unfinished: None,
            reverted: None,
            undoing: None,
        }
    }

    /// A host that failed.
    pub fn failed(status: HostStatus, failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::bare(status) }
    }
}

/// How a host fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// It is as it should be.
    Unchanged,
    /// There are steps to do.
    Pending,
    /// All steps were done and what was read afterwards is right.
    Changed,
    /// All steps were done, but what was read afterwards is not what was wanted.
    Unverified,
    /// A step failed.
    Failed,
    /// It could not be reached or did not answer.
    Unreachable,
    /// It answered, and refused or failed to say how it stands; nothing was touched.
    Refused,
    /// Something stands in the way; nothing was touched.
    Obstructed,
    /// Another host had to go first and failed.
    NotAttempted {
        /// Which, and why it matters.
        because: String,
    },
    /// Its steps were done, and undone again: it is as it was before.
    Undone {
        /// Which host failed, and why.
        because: String,
    },
    /// The file does not say how it is reached: it is not ours to touch.
    Unmanaged,
    /// It was left out by `--limit`.
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
    /// Its turn across hosts.
    pub stage: Stage,
    /// In one line, with before and after.
    pub text: String,
    /// The same for a program.
    pub change: Edit,
    /// Why.
    pub why: String,
    /// Whether it was done.
    pub state: StepState,
    /// What it costs in live connections.
    #[serde(flatten)]
    pub cost: Cost,
}

/// What a step costs in live connections: those that are established (TCP, SCTP), or all that IPVS
/// remembers (UDP). Nothing where the step cuts none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// How many there were when the host was looked at; absent where they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// For how many seconds they may come to their end before; absent: they are cut at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u32>,
    /// How many were left when it was done, and so were cut; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_cut: Option<u64>,
}

impl Cost {
    /// What `change` costs as far as `pacing` knows.
    pub fn of(pacing: &Pacing, change: &Edit) -> Self {
        let Some(leaving) = pacing.leaving_by(change) else { return Self::default() };
        Self {
            connections: leaving.connections,
            drain_seconds: (leaving.seconds > 0).then_some(leaving.seconds),
            connections_cut: None,
        }
    }
}

/// Whether a step was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It would be.
    Planned,
    /// It was.
    Done,
    /// It was, and was undone again.
    Undone,
    /// It failed, and changed nothing.
    Failed,
    /// It was not reached.
    NotDone,
    /// The connection broke while the host was at it: some of these may have been done.
    Unknown,
}

impl ClusterReport {
    /// How many steps are in `state`.
    pub fn count(&self, state: StepState) -> usize {
        self.hosts.values().flat_map(|host| &host.steps).filter(|step| step.state == state).count()
    }

    /// Whether any host failed.
    pub fn has_failures(&self) -> bool {
        let is_done = |of: &TransactionReport| of.ended == Ended::Done;
        self.hosts.values().any(|host| host.status.is_failure())
            || !self.transaction.as_ref().is_none_or(is_done)
    }

    /// Whether any step is still to be done.
    pub fn has_pending(&self) -> bool {
        self.count(StepState::Planned) > 0
    }
}
