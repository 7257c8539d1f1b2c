//! A transaction from its beginning to its end: every host writes down what will be done and what was
//! there; then through the stages, hosts of one stage at once; then all agree, and only then is it
//! settled. Where anything fails, all of it is undone.
//!
//! Its parts, in their order: [`beginning`](super::beginning), [`working`](super::working) through the
//! stages, [`judging`](super::judging) what came of it, [`confirming`], where hosts wait to be confirmed,
//! and [`closing`](super::closing). Who takes part and what is asked is decided in [`transaction`], what
//! came of it is written down by [`recording`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::outcome::{Action, ClusterReport, Ended, HostStatus, StepState, TransactionReport};
use super::planning::{ClusterPlan, Direction};
use super::session::Session;
use super::transaction::{self, Conduct, Member, OnError, Seen};
use super::{confirming, operator, recording, requests, waiting};
use crate::names::HostName;
use crate::protocol::Busy;
use crate::state::{Observation, TransactionId};

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// Host by host.
    pub report: ClusterReport,
    /// Why nothing was done, where looking and planning once more may help.
    pub again: Option<Again>,
}

/// Why a plan came too late, or too early. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// Somebody else is at work.
    Busy {
        /// On which host.
        host: HostName,
        /// Who.
        busy: Box<Busy>,
    },
    /// Somebody else was at work since the hosts were looked at.
    Moved {
        /// On which host.
        host: HostName,
        /// What differs from what the plan was made from.
        differences: Vec<String>,
    },
}

/// What keeps a transaction from its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// On which host; `None`: on none in particular.
    pub host: Option<HostName>,
    /// What, in one line.
    pub why: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// Does what `plan` says, as one: with the defaults, and nobody asked.
pub async fn act(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    seen: &Seen,
    direction: Direction,
) -> ClusterReport {
    let conduct = Conduct::plain(operator::here(), operator::now());
    transact(session, plan, seen, direction, &conduct).await.report
}

/// Does what `plan` says, as one: all of it on every host, or nothing.
pub async fn transact(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    seen: &Seen,
    direction: Direction,
    conduct: &Conduct,
) -> Came {
    let mut report = plan.report(session.topology);
    report.action = plan.action;
    let members = transaction::members(session.topology, plan, seen, &mut report);
    if members.is_empty() {
        if plan.action == Action::Apply && !report.has_failures() {
            report.proofs = requests::none(session.topology, confirming::NOTHING_CHANGED);
        }
        return Came { report, again: None };
    }
    let id = operator::new_transaction();
    report.transaction =
        Some(TransactionReport { id: id.clone(), ended: Ended::Unfinished, because: None });
    let confirm = conduct.time_to_confirm(plan);
    let mut course = Course {
        session,
        plan,
        seen,
        direction,
        conduct,
        id,
        members,
        report,
        last: BTreeMap::new(),
        begun: BTreeSet::new(),
        worked: BTreeSet::new(),
        may_have_agreed: BTreeSet::new(),
        confirm,
        started: Instant::now(),
    };
    let again = course.run().await;
    course.session.watch().under_way(&BTreeMap::new());
    Came { report: course.report, again }
}

/// A transaction under way.
pub(super) struct Course<'c, 's> {
    pub session: &'c mut Session<'s>,
    pub plan: &'c ClusterPlan,
    pub seen: &'c Seen,
    pub direction: Direction,
    pub conduct: &'c Conduct,
    pub id: TransactionId,
    pub members: BTreeMap<HostName, Member<'c>>,
    pub report: ClusterReport,
    /// How each host was after its last turn.
    pub last: BTreeMap<HostName, Observation>,
    /// Hosts that have begun, or may have.
    pub begun: BTreeSet<HostName>,
    /// Hosts that were asked to do something.
    pub worked: BTreeSet<HostName>,
    /// Hosts that were asked to agree, and have not refused: their timers may be disarmed.
    pub may_have_agreed: BTreeSet<HostName>,
    /// How long the hosts wait to be confirmed.
    pub confirm: Option<Duration>,
    /// Before any host was asked to begin: no timer started earlier.
    pub started: Instant,
}

impl Course<'_, '_> {
    async fn run(&mut self) -> Option<Again> {
        if let Err((trouble, again)) = self.begin().await {
            self.let_go(&trouble).await;
            return again;
        }
        let trouble = match self.work().await {
            Some(trouble) => Some(trouble),
            None => match confirming::confirm(self).await {
                // At the last moment somebody else may have kept it.
                Err(_) if confirming::is_closed_elsewhere(self).await => {
                    self.end(Ended::Done, None);
                    return None;
                }
                Err(trouble) => Some(trouble),
                Ok(confirming::Confirmed::ByUs) => self.agree().await,
                // Somebody else has closed it everywhere.
                Ok(confirming::Confirmed::Elsewhere) => {
                    self.end(Ended::Done, None);
                    return None;
                }
            },
        };
        match trouble {
            None => self.settle().await,
            Some(trouble) => match self.conduct.on_error {
                OnError::Undo => self.undo(&trouble).await,
                OnError::Keep => self.keep(&trouble),
            },
        }
        None
    }

    /// How long the transaction waits for connections to end and for weights to rise, as planned.
    pub(super) fn planned_waits(&self) -> Duration {
        waiting::longest(self.plan)
    }

    /// When the first host undoes it by itself.
    pub fn reverts_at(&self) -> Option<Instant> {
        Some(self.started + self.confirm? + self.planned_waits())
    }

    /// In how many seconds.
    pub(super) fn reverts_in_s(&self) -> Option<u64> {
        Some(self.reverts_at()?.saturating_duration_since(Instant::now()).as_secs())
    }

    /// The transaction on every host that takes part.
    pub(super) fn ids(&self) -> BTreeMap<HostName, TransactionId> {
        self.members.keys().map(|name| (name.clone(), self.id.clone())).collect()
    }

    /// Everything stays as it is now, journals and timers included.
    fn keep(&mut self, trouble: &Trouble) {
        self.give_up(trouble);
        let left = self.reverts_in_s();
        for name in &self.begun {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            let done = host.steps.iter().all(|step| step.state == StepState::Done);
            if host.status == HostStatus::Pending && done {
                host.status = HostStatus::Changed;
            }
            if let Some(left) = left.filter(|_| !self.may_have_agreed.contains(name)) {
                host.notes.push(format!(
                    "this host undoes all of it by itself in about {left} s, unless `lvsprov confirm` keeps it"
                ));
            }
        }
        self.end(Ended::Unfinished, Some(trouble));
    }

    /// What was not begun is not done any more.
    pub(super) fn give_up(&mut self, trouble: &Trouble) {
        for name in self.members.keys() {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            let planned = host.steps.iter().any(|step| step.state == StepState::Planned);
            if planned && !host.status.is_failure() {
                recording::not_attempted(host, trouble.to_string());
            }
        }
    }

    pub(super) fn end(&mut self, ended: Ended, trouble: Option<&Trouble>) {
        if let Some(transaction) = &mut self.report.transaction {
            transaction.ended = ended;
            transaction.because = trouble.map(ToString::to_string);
        }
    }
}

/// The operator wants it stopped.
pub(super) fn interrupted() -> Trouble {
    Trouble { host: None, why: "it was interrupted".to_owned() }
}
