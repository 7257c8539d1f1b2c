//! A transaction from its beginning to its end: every host writes down what will be done and what was
//! there; then through the stages, hosts of one stage at once; then all agree, and only then is it
//! settled. Where anything fails, all of it is undone.
//!
//! Who takes part and what is asked is decided in [`transaction`], who acts when in [`turns`], what came
//! of it is written down by [`recording`]. Undoing is in [`undoing`], and what comes between the last
//! stage and the agreement, where hosts wait to be confirmed, in [`confirming`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::asking::{self, Denied};
use super::outcome::{
    ClusterReport, Ended, HostStatus, StepState, TransactionReport, UndoEnd, Undoing,
};
use super::planning::{self, ClusterPlan, Direction, HostPlan, Prospect};
use super::session::{NoAnswer, Session, gone, unexpected};
use super::transaction::{self, Beginning, Conduct, Member, OnError, Seen, receipts};
use super::turns::{self, Turn};
use super::{confirming, operator, recording, undoing, waiting};
use crate::plan::Stage;
use crate::plan::journal::TransactionId;
use crate::protocol::{Begin, Busy, Ending, Failure, Outcome, Reply, Request, Sighting};
use crate::topology::{HostName, Topology};

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
    pub last: BTreeMap<HostName, Sighting>,
    /// Hosts that have begun, or may have.
    pub begun: BTreeSet<HostName>,
    /// Hosts that were asked to do something.
    pub worked: BTreeSet<HostName>,
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
                OnError::Keep => {
                    self.give_up(&trouble);
                    self.end(Ended::Unfinished, Some(&trouble));
                }
            },
        }
        None
    }

    /// How long the transaction waits for connections to end and for weights to rise, as planned.
    fn planned_waits(&self) -> Duration {
        waiting::longest(self.plan)
    }

    /// When the first host undoes it by itself.
    pub fn reverts_at(&self) -> Option<Instant> {
        Some(self.started + self.confirm? + self.planned_waits())
    }

    /// First on the first host by name: two controllers with the same file meet there. Then on all
    /// others at once.
    async fn begin(&mut self) -> Result<(), (Trouble, Option<Again>)> {
        let mut begins = self.begins().map_err(|trouble| (trouble, None))?;
        let gate = begins.pop_first();
        for part in [gate.into_iter().collect(), begins] {
            let part: BTreeMap<HostName, Begin> = part;
            let mut denied = None;
            for (name, answer) in asking::begin(self.session, part).await {
                match answer {
                    Ok(()) => drop(self.begun.insert(name)),
                    Err(why) => {
                        if matches!(why, Denied::Lost(_)) {
                            self.begun.insert(name.clone());
                        }
                        let first = self.denied(&name, why);
                        // Somebody else at work says more than what follows from it.
                        if denied
                            .as_ref()
                            .is_none_or(|(_, again): &(_, Option<Again>)| again.is_none())
                        {
                            denied = Some(first);
                        }
                    }
                }
            }
            self.tell_under_way();
            if let Some(denied) = denied {
                return Err(denied);
            }
        }
        Ok(())
    }

    fn begins(&mut self) -> Result<BTreeMap<HostName, Begin>, Trouble> {
        let hosts: BTreeSet<HostName> = self.members.keys().cloned().collect();
        let waits = self.planned_waits();
        let beginning = Beginning {
            topology: self.session.topology,
            id: &self.id,
            action: self.plan.action,
            conduct: self.conduct,
            hosts: &hosts,
            time: self.confirm.map(|time| time + waits),
            silence: waits,
        };
        let begin = |(name, member): (&HostName, &Member<'_>)| {
            let desired = self.session.desired.get(name);
            match transaction::begin(&beginning, name, *member, desired) {
                Ok(begin) => Ok((name.clone(), begin)),
                Err(error) => Err(Trouble { host: Some(name.clone()), why: error.to_string() }),
            }
        };
        self.members.iter().map(begin).collect()
    }

    /// Writes down that a host did not begin.
    fn denied(&mut self, name: &HostName, why: Denied) -> (Trouble, Option<Again>) {
        let again = match &why {
            Denied::Busy(busy) => Some(Again::Busy { host: name.clone(), busy: busy.clone() }),
            Denied::Moved(differences) => {
                Some(Again::Moved { host: name.clone(), differences: differences.clone() })
            }
            Denied::Refused(_) | Denied::Lost(_) => None,
        };
        let failure = why.into_failure();
        let trouble = Trouble { host: Some(name.clone()), why: failure.message.clone() };
        if let Some(host) = self.report.hosts.get_mut(name) {
            recording::refused(host, failure);
        }
        (trouble, again)
    }

    fn tell_under_way(&self) {
        let at = self.reverts_at();
        let hosts = self.begun.iter().map(|name| (name.clone(), at)).collect();
        self.session.watch().under_way(&hosts);
    }

    /// Not every host has begun, and nothing was done on any. Where something unfinished was taken over
    /// it stays so: to close it is to undo it, and that is not asked for.
    async fn let_go(&mut self, trouble: &Trouble) {
        self.give_up(trouble);
        let taken = |name: &HostName| {
            self.members.get(name).is_some_and(|member| member.seen.unfinished.is_some())
        };
        let ids: BTreeMap<HostName, TransactionId> = self
            .begun
            .iter()
            .filter(|name| !taken(name))
            .map(|name| (name.clone(), self.id.clone()))
            .collect();
        let kept: BTreeSet<HostName> =
            self.begun.iter().filter(|name| taken(name)).cloned().collect();
        let ends = undoing::undo(self.session, &self.undo_order(ids)).await;
        let mut left = !kept.is_empty();
        for (name, undoing) in ends {
            let Some(host) = self.report.hosts.get_mut(&name) else { continue };
            if let UndoEnd::Left { .. } = undoing.end {
                left = true;
                host.undoing = Some(undoing);
            }
        }
        // Whoever tries again must not meet itself.
        self.session.renew(&kept, false).await;
        self.end(if left { Ended::Unfinished } else { Ended::Undone }, Some(trouble));
    }

    fn undo_order(&self, ids: BTreeMap<HostName, TransactionId>) -> undoing::Order {
        let untouched = self.begun.difference(&self.worked).cloned().collect();
        let by = self.conduct.by.clone();
        undoing::Order { ids, by, is_ours: true, force: false, untouched }
    }

    /// Through the stages, and a look at what came of it.
    async fn work(&mut self) -> Option<Trouble> {
        let receipts = receipts(self.seen);
        let mut trouble = None;
        for stage in Stage::ALL {
            if self.session.watch().wants_to_stop() {
                return Some(interrupted());
            }
            let topology = self.session.topology;
            let due = turns::due(topology, self.plan, &receipts, stage, &mut self.report);
            let failed = self.stage(stage, &due).await;
            trouble = trouble.or(failed);
            if trouble.is_some() && self.conduct.on_error == OnError::Undo {
                return trouble;
            }
        }
        trouble.or_else(|| self.judge())
    }

    /// One stage, in as many parts as it has, and what is to be waited for behind it.
    async fn stage(&mut self, stage: Stage, due: &BTreeMap<HostName, Turn>) -> Option<Trouble> {
        let mut trouble = None;
        let started = Instant::now();
        for go in waiting::goes(stage, self.plan) {
            waiting::until(self.session, started, &go).await;
            if self.session.watch().wants_to_stop() {
                return Some(interrupted());
            }
            let mut requests = BTreeMap::new();
            let mut asked = BTreeMap::new();
            for (name, turn) in due {
                let Some(member) = self.members.get(name) else { continue };
                let failed = self.report.hosts.get(name).is_some_and(|h| h.status.is_failure());
                let steps = go.steps(name, &turn.steps);
                if !failed && !steps.is_empty() {
                    asked.insert(name.clone(), steps.len());
                    requests.insert(name.clone(), self.request(name, member.plan, steps));
                }
            }
            if requests.is_empty() {
                continue;
            }
            self.worked.extend(asked.keys().cloned());
            let answers = self.session.ask(requests).await;
            trouble = trouble.or(self.record(stage, &asked, answers));
            if trouble.is_some() && self.conduct.on_error == OnError::Undo {
                return trouble;
            }
        }
        // Not only those that had a turn: what is removed without being drained is counted too.
        let fails = |name: &HostName| {
            self.report.hosts.get(name).is_some_and(|host| host.status.is_failure())
        };
        let going: BTreeSet<HostName> =
            self.members.keys().filter(|name| !fails(name)).cloned().collect();
        let failures =
            waiting::after(self.session, self.plan, stage, &going, &mut self.report).await;
        for (name, failure) in failures {
            let why = failure.to_string();
            if let Some(host) = self.report.hosts.get_mut(&name) {
                recording::refused(host, failure);
            }
            trouble.get_or_insert(Trouble { host: Some(name), why });
        }
        trouble
    }

    fn request(&self, name: &HostName, plan: &HostPlan, steps: Vec<crate::plan::Step>) -> Request {
        Request::Do {
            topology: self.session.topology.name.clone(),
            transaction: self.id.clone(),
            steps,
            sysctls: transaction::sysctls(plan, self.session.desired.get(name)),
        }
    }

    /// What came of a stage; the first trouble by name, if there was any.
    fn record(
        &mut self,
        stage: Stage,
        asked: &BTreeMap<HostName, usize>,
        mut answers: BTreeMap<HostName, Result<Reply, NoAnswer>>,
    ) -> Option<Trouble> {
        let mut trouble = None;
        for (name, count) in asked {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            match outcome(answers.remove(name)) {
                Ok(outcome) => {
                    recording::answered_part(host, stage, *count, &outcome);
                    self.last.insert(name.clone(), outcome.after);
                }
                Err(no_answer) => recording::unanswered_part(host, stage, *count, no_answer),
            }
            if let Some(failure) = host.failure.as_ref().filter(|_| host.status.is_failure()) {
                let why = failure.to_string();
                trouble.get_or_insert(Trouble { host: Some(name.clone()), why });
            }
        }
        trouble
    }

    /// Plans once more from what was read last: nothing may be left to do.
    pub fn judge(&mut self) -> Option<Trouble> {
        let mut trouble = None;
        for (name, member) in &self.members {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            if !matches!(host.status, HostStatus::Pending | HostStatus::Changed) {
                continue;
            }
            let left = match (
                self.last.get(name),
                self.session.topology.hosts.get(name),
                self.session.desired.get(name),
            ) {
                (Some(sighting), Some(machine), Some(desired)) => remaining(
                    self.session.topology,
                    machine,
                    desired,
                    member.plan,
                    sighting,
                    self.direction,
                ),
                // Never seen: it had steps and no turn.
                _ => vec!["it was not looked at".to_owned()],
            };
            if left.is_empty() {
                host.status = HostStatus::Changed;
                continue;
            }
            let why = format!("not as wanted afterwards: {}", left.join("; "));
            trouble.get_or_insert(Trouble { host: Some(name.clone()), why });
            host.status = HostStatus::Unverified;
            host.failure = Some(Failure {
                message: "what was read afterwards is not what was wanted".to_owned(),
                causes: left,
                cure: Some(
                    "something else on this host sets these too (a network service, sysctl.d, another \
                     tool): find it, or run apply again"
                        .to_owned(),
                ),
            });
        }
        trouble
    }

    /// From here on no host undoes it by itself. One host alone has nobody to agree with.
    async fn agree(&mut self) -> Option<Trouble> {
        if self.members.len() == 1 && self.confirm.is_none() {
            return None;
        }
        let mut ids = self.ids();
        let mut failed = BTreeMap::new();
        // Once more for those that were lost: over a new connection it can be known.
        for _ in 0..2 {
            failed.clear();
            for (name, answer) in asking::agree(self.session, &ids).await {
                if let Err(no_answer) = answer {
                    failed.insert(name, no_answer.into_failure());
                }
            }
            ids.retain(|name, _| failed.contains_key(name));
            let lost = self.session.lost(&ids.keys().cloned().collect());
            if lost.is_empty() {
                break;
            }
            self.session.renew(&lost, false).await;
            ids.retain(|name, _| lost.contains(name));
            asking::take_up(self.session, &ids, &self.conduct.by, false).await;
        }
        let (name, failure) = failed.pop_first()?;
        let why = format!("it did not agree: {failure}");
        if let Some(host) = self.report.hosts.get_mut(&name) {
            recording::refused(host, failure);
        }
        Some(Trouble { host: Some(name), why })
    }

    fn ids(&self) -> BTreeMap<HostName, TransactionId> {
        self.members.keys().map(|name| (name.clone(), self.id.clone())).collect()
    }

    /// Everything is right, and all know: what is left is to close it.
    async fn settle(&mut self) {
        let mut ids = self.ids();
        let mut trouble = None;
        for last in [false, true] {
            let mut failed = BTreeMap::new();
            for (name, answer) in asking::settle(self.session, &ids, Ending::Done).await {
                if let Err(no_answer) = answer {
                    failed.insert(name, no_answer.into_failure());
                }
            }
            ids.retain(|name, _| failed.contains_key(name));
            if ids.is_empty() {
                break;
            }
            if !last {
                let names = ids.keys().cloned().collect();
                self.session.renew(&names, false).await;
                // Of one that was lost after it had settled nothing is left to be closed.
                let seen = self.session.look_at(&names, false).await;
                let closed = |name: &HostName| matches!(seen.get(name), Some(Ok(seen)) if seen.unfinished.is_none());
                ids.retain(|name, _| !closed(name));
                asking::take_up(self.session, &ids, &self.conduct.by, false).await;
                continue;
            }
            for (name, failure) in failed {
                trouble
                    .get_or_insert(Trouble { host: Some(name.clone()), why: failure.to_string() });
                let Some(host) = self.report.hosts.get_mut(&name) else { continue };
                host.status = HostStatus::Failed;
                host.failure = Some(Failure {
                    message: "it is as wanted, but its journal could not be closed".to_owned(),
                    causes: vec![failure.to_string()],
                    cure: Some("run the same command again: it closes it".to_owned()),
                });
            }
        }
        let ended = if trouble.is_none() { Ended::Done } else { Ended::Unfinished };
        self.end(ended, trouble.as_ref());
    }

    /// Back to what was there before, on every host that has begun.
    async fn undo(&mut self, trouble: &Trouble) {
        self.give_up(trouble);
        self.session.watch().tell(&format!("undoing all of it, because {trouble}"));
        let ids = self.begun.iter().map(|name| (name.clone(), self.id.clone())).collect();
        let order = self.undo_order(ids);
        let ends = undoing::undo(self.session, &order).await;
        let mut all = true;
        for (name, mut undoing) in ends {
            let reverts_at = self.reverts_at();
            let Some(host) = self.report.hosts.get_mut(&name) else { continue };
            if let UndoEnd::Left { reverts_in_s, .. } = &mut undoing.end {
                all = false;
                // Of a host that cannot be asked it is known when its timer was armed.
                let left = reverts_at.map(|at| at.saturating_duration_since(Instant::now()));
                *reverts_in_s = reverts_in_s.or_else(|| Some(left?.as_secs()));
            }
            recording::undone(host, undoing, &trouble.to_string());
        }
        self.end(if all { Ended::Undone } else { Ended::Unfinished }, Some(trouble));
    }

    /// What was not begun is not done any more.
    fn give_up(&mut self, trouble: &Trouble) {
        for name in self.members.keys() {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            let planned = host.steps.iter().any(|step| step.state == StepState::Planned);
            if planned && !host.status.is_failure() {
                recording::not_attempted(host, trouble.to_string());
            }
        }
    }

    fn end(&mut self, ended: Ended, trouble: Option<&Trouble>) {
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

fn outcome(answer: Option<Result<Reply, NoAnswer>>) -> Result<Outcome, NoAnswer> {
    match answer {
        Some(Ok(Reply::Done(outcome))) => Ok(*outcome),
        Some(Ok(other)) => Err(NoAnswer::Lost(unexpected(&other))),
        Some(Err(no_answer)) => Err(no_answer),
        // It went away earlier, so it was not asked.
        None => Err(NoAnswer::Refused(gone())),
    }
}

/// What is still to be done on a host that should be right, one line each.
pub(super) fn remaining(
    topology: &Topology,
    host: &crate::topology::Host,
    desired: &crate::desired::Desired,
    before: &HostPlan,
    sighting: &Sighting,
    direction: Direction,
) -> Vec<String> {
    let steps = match direction {
        Direction::Apply { .. } | Direction::Adopt { .. } => {
            // As it will be once it is settled: until then the receipt also names what was only touched.
            let settled = Sighting {
                receipt: before.goal.settled.clone(),
                unfinished: None,
                ..sighting.clone()
            };
            match planning::plan_host(topology, host, desired, &settled, direction) {
                Prospect::Plan(plan) => plan.reports(StepState::Planned),
                other => {
                    let report = other.report();
                    let mut left: Vec<String> =
                        report.obstacles.iter().map(ToString::to_string).collect();
                    left.extend(report.failure.iter().map(ToString::to_string));
                    return left;
                }
            }
        }
        // What the receipt said must be so.
        Direction::Destroy => {
            let goal = &before.goal;
            let again = crate::plan::steps_between(
                &sighting.state,
                &goal.wanted,
                &goal.owned,
                &crate::desired::Reasons::default(),
            );
            match again {
                Ok(steps) => {
                    let stages = crate::plan::stages::stage(host, steps);
                    HostPlan { stages, ..before.clone() }.reports(StepState::Planned)
                }
                Err(error) => return vec![error.to_string()],
            }
        }
    };
    steps.into_iter().map(|step| step.text).collect()
}

/// Whether undoing came to its end.
pub fn is_undone(undoing: &Undoing) -> bool {
    !matches!(undoing.end, UndoEnd::Left { .. })
}
