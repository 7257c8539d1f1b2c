//! Whether hosts are as they should be, judged from what was read of them last: planned once more,
//! nothing may be left to do.

use super::acting::{Course, Trouble};
use super::outcome::{HostStatus, StepState};
use super::planning::{self, Direction, HostPlan, Prospect};
use crate::failure::Failure;
use crate::state::Observation;
use crate::topology::Topology;

impl Course<'_, '_> {
    /// Plans once more from what was read last: nothing may be left to do.
    pub(super) fn judge(&mut self) -> Option<Trouble> {
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
}

/// What is still to be done on a host that should be right, one line each.
pub(super) fn remaining(
    topology: &Topology,
    host: &crate::topology::Host,
    desired: &crate::desired::Desired,
    before: &HostPlan,
    sighting: &Observation,
    direction: Direction,
) -> Vec<String> {
    let steps = match direction {
        Direction::Apply { .. } | Direction::Adopt { .. } => {
            // As it will be once it is settled: until then the receipt also names what was only touched.
            let settled = Observation {
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
