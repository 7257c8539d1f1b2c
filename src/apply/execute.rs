//! The second phase: the stages of a transaction, hosts of one stage at once; then the state of each host
//! is verified by planning once more: no step may be left.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::cluster_plan::{self, Direction, HostPlan, HostPlanResult};
use super::outcome::{HostStatus, StepState};
use super::requests::{self, RequestError};
use super::stage_work::{self, StageWork};
use super::transaction::{AbortReason, ClusterTransaction, OnError};
use super::{drain, prepare};
use crate::desired::{Desired, Reasons};
use crate::failure::Failure;
use crate::names::HostName;
use crate::protocol::{Reply, Request};
use crate::state::{Observation, Stage, Step};
use crate::topology::{Host, Topology};

impl ClusterTransaction<'_, '_> {
    /// Executes all stages and verifies the state of each host.
    pub(super) async fn execute(&mut self) -> Result<(), AbortReason> {
        let receipts = prepare::receipts(self.observed);
        let mut first = None;
        for stage in Stage::ALL {
            if self.session.console().stop_requested() {
                return Err(AbortReason::interrupted());
            }
            let topology = self.session.topology;
            let due = stage_work::due(topology, self.plan, &receipts, stage, &mut self.report);
            first = first.or(self.execute_stage(stage, &due).await);
            if self.policy.on_error == OnError::Abort
                && let Some(reason) = first
            {
                return Err(reason);
            }
        }
        match first {
            Some(reason) => Err(reason),
            None => self.verify_state(),
        }
    }

    /// Executes one stage in as many parts as it has, and waits for its connections to drain. Returns the
    /// first failure.
    async fn execute_stage(
        &mut self,
        stage: Stage,
        due: &BTreeMap<HostName, StageWork>,
    ) -> Option<AbortReason> {
        let mut first = None;
        let started = Instant::now();
        for part in drain::parts(stage, self.plan) {
            drain::wait_for_part(self.session, started, &part).await;
            if self.session.console().stop_requested() {
                return Some(AbortReason::interrupted());
            }
            let mut requests = BTreeMap::new();
            let mut asked = BTreeMap::new();
            for (name, work) in due {
                let Some(participant) = self.participants.get(name) else { continue };
                let steps = part.steps(name, &work.steps);
                if !self.has_failed(name) && !steps.is_empty() {
                    asked.insert(name.clone(), steps.len());
                    let request = Request::Execute {
                        topology: self.session.topology.name.clone(),
                        transaction: self.id.clone(),
                        steps,
                        sysctls: prepare::sysctls(participant.plan, self.session.desired.get(name)),
                    };
                    requests.insert(name.clone(), request);
                }
            }
            if requests.is_empty() {
                continue;
            }
            self.executed.extend(asked.keys().cloned());
            let answers = self.session.ask(requests).await;
            first = first.or(self.record(stage, &asked, answers));
            if first.is_some() && self.policy.on_error == OnError::Abort {
                return first;
            }
        }
        // Directors without steps in this stage too: connections to a real server that is removed without
        // a drain are counted as well.
        let going: BTreeSet<HostName> =
            self.participants.keys().filter(|name| !self.has_failed(name)).cloned().collect();
        let failures = drain::after(self.session, self.plan, stage, &going, &mut self.report).await;
        for (name, failure) in failures {
            first.get_or_insert(AbortReason::on(&name, &failure));
            if let Some(host) = self.report.hosts.get_mut(&name) {
                stage_work::fail(host, failure);
            }
        }
        first
    }

    fn has_failed(&self, name: &HostName) -> bool {
        self.report.hosts.get(name).is_some_and(|host| host.status.is_failure())
    }

    /// Records the answers of a stage. Returns the first failure by host name.
    fn record(
        &mut self,
        stage: Stage,
        asked: &BTreeMap<HostName, usize>,
        mut answers: BTreeMap<HostName, Result<Reply, RequestError>>,
    ) -> Option<AbortReason> {
        let mut first = None;
        for (name, count) in asked {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            match requests::executed(answers.remove(name)) {
                Ok(outcome) => {
                    stage_work::record(host, stage, *count, &outcome);
                    self.last.insert(name.clone(), outcome.after);
                }
                Err(error) => stage_work::record_error(host, stage, *count, error),
            }
            if let Some(failure) = host.failure.as_ref().filter(|_| host.status.is_failure()) {
                first.get_or_insert(AbortReason::on(name, failure));
            }
        }
        first
    }

    /// Plans once more from what was read last: no step may be left.
    pub(super) fn verify_state(&mut self) -> Result<(), AbortReason> {
        let mut first = None;
        for (name, participant) in &self.participants {
            let Some(host) = self.report.hosts.get_mut(name) else { continue };
            let acted = matches!(host.status, HostStatus::Pending | HostStatus::Changed);
            if !acted || host.steps.is_empty() {
                continue;
            }
            let topology = self.session.topology;
            let left = match (
                self.last.get(name),
                topology.hosts.get(name),
                self.session.desired.get(name),
            ) {
                (Some(after), Some(machine), Some(desired)) => {
                    let plan = participant.plan;
                    remaining(topology, machine, desired, plan, after, self.direction)
                }
                // It had steps, and no stage executed them.
                _ => vec!["it was not observed".to_owned()],
            };
            if left.is_empty() {
                host.status = HostStatus::Changed;
                continue;
            }
            let why = format!("not as wanted afterwards: {}", left.join("; "));
            first.get_or_insert(AbortReason::on(name, why));
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
        first.map_or(Ok(()), Err)
    }
}

/// The steps that are left on a host after its plan was executed, a line each.
pub(super) fn remaining(
    topology: &Topology,
    host: &Host,
    desired: &Desired,
    before: &HostPlan,
    after: &Observation,
    direction: Direction,
) -> Vec<String> {
    let steps = match direction {
        Direction::Apply { .. } | Direction::Adopt { .. } => {
            // As after the commit: until then the receipt also names what was only touched.
            let committed = Observation {
                receipt: before.goal.receipt_after.clone(),
                open_transaction: None,
                ..after.clone()
            };
            match cluster_plan::plan_host(topology, host, desired, &committed, direction) {
                HostPlanResult::Plan(plan) => plan.reports(StepState::Planned),
                other => return other.report().problems(),
            }
        }
        // The host must be as the receipt says.
        Direction::Destroy => {
            let goal = &before.goal;
            let none = Reasons::default();
            let again = crate::plan::steps_between(&after.state, &goal.wanted, &goal.owned, &none);
            match again {
                Ok(steps) => {
                    let stages: Vec<(Stage, Vec<Step>)> = crate::plan::stages::stage(host, steps);
                    HostPlan { stages, ..before.clone() }.reports(StepState::Planned)
                }
                Err(error) => return vec![error.to_string()],
            }
        }
    };
    steps.into_iter().map(|step| step.text).collect()
}
