//! The stages of a transaction, one after the other, hosts of one stage at once.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::acting::{Course, Trouble, interrupted};
use super::planning::HostPlan;
use super::session::NoAnswer;
use super::transaction::{self, OnError, receipts};
use super::turns::{self, Turn};
use super::{asking, recording, waiting};
use crate::names::HostName;
use crate::protocol::{Reply, Request};
use crate::state::Stage;

impl Course<'_, '_> {
    /// Through the stages, and a look at what came of it.
    pub(super) async fn work(&mut self) -> Option<Trouble> {
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

    fn request(&self, name: &HostName, plan: &HostPlan, steps: Vec<crate::state::Step>) -> Request {
        Request::Execute {
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
            match asking::outcome(answers.remove(name)) {
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
}
