//! What stands in the way of a change of what is in maintenance: another transaction, or a host that is not as the file says.
//!
//! What the change itself must not do (the last real server of a service, say) is in [`crate::plan::maintenance`].

use std::collections::BTreeSet;

use super::change::{MaintenanceChange, MaintenanceRun};
use crate::apply::cluster_plan::{ClusterPlan, Direction, HostPlanResult};
use crate::apply::health;
use crate::apply::operator::now;
use crate::apply::outcome::HostStatus;
use crate::apply::requests::describe_busy;
use crate::apply::session::Observations;
use crate::names::HostName;
use crate::plan::maintenance::{self, Withdrawal};
use crate::plan::preflight::Obstacle;
use crate::protocol::Busy;
use crate::state::Maintenance;

/// Obstacles, each with the host of the command that it is about.
pub(super) type HostObstacles = Vec<(HostName, Obstacle)>;

impl MaintenanceRun<'_, '_> {
    /// The transaction that holds a director now.
    pub fn held_by_another(
        &self,
        change: MaintenanceChange<'_>,
        observed: &Observations,
    ) -> Option<String> {
        self.directors_of(change.hosts()).into_iter().find_map(|director| {
            let open = observed.get(&director)?.as_ref().ok()?.open_transaction.as_deref()?;
            (open.holder.is_some() || open.reverts_in_ms.is_some()).then(|| {
                let busy = Busy {
                    topology: open.journal.topology.clone(),
                    transaction: Some(open.journal.transaction.clone()),
                    holder: open.holder.clone(),
                    reverts_in_ms: open.reverts_in_ms,
                };
                format!("{director}: {}", describe_busy(&busy))
            })
        })
    }

    pub fn obstacles(
        &self,
        change: MaintenanceChange<'_>,
        before: &Maintenance,
        observed: &Observations,
    ) -> HostObstacles {
        let mut all = match change {
            MaintenanceChange::Out(hosts) => {
                let how = (Withdrawal::Maintain, self.options.allow_outage);
                // Another real server that a health checker has out takes no requests.
                let file = health::present_weights(self.versions.file(), observed);
                maintenance::obstacles(&file, before, hosts, how)
            }
            MaintenanceChange::Back(_) => Vec::new(),
        };
        let plan = self.plan(observed, Direction::Apply { now: now() });
        for host in change.hosts() {
            for director in self.versions.file().directors_of(host) {
                let obstacle = self.obstacle_on(&director, &plan, observed);
                all.extend(obstacle.map(|obstacle| (host.clone(), obstacle)));
            }
        }
        all
    }

    /// Why `name`, which takes part, cannot: it is not as the file says, or not reached.
    pub fn obstacle_on(
        &self,
        name: &HostName,
        plan: &ClusterPlan,
        observed: &Observations,
    ) -> Option<Obstacle> {
        let why = "maintenance changes weights alone, and each host must be as the file says before and after".to_owned();
        let open = observed.get(name).and_then(|it| it.as_ref().ok()?.open_transaction.as_deref());
        if let Some(open) = open {
            return Some(Obstacle {
                message: format!("transaction {} is open on {name}", open.journal.transaction),
                why: "what it began is neither kept nor undone".to_owned(),
                cure: "`lvsprov status FILE` shows it; `lvsprov apply FILE` or `lvsprov rollback FILE` ends it".to_owned(),
            });
        }
        match plan.hosts.get(name) {
            Some(HostPlanResult::Plan(plan)) => {
                let first = plan.edits().next()?;
                let count = plan.edits().count();
                let steps = if count == 1 { "step" } else { "steps" };
                Some(Obstacle {
                    message: format!(
                        "{name} is not as the file says: {count} {steps}, the first is: {first}"
                    ),
                    why,
                    cure: "`lvsprov plan FILE` shows the steps, `lvsprov apply FILE` does them"
                        .to_owned(),
                })
            }
            Some(HostPlanResult::Obstructed(obstacles)) => obstacles.first().map(|obstacle| {
                Obstacle { message: format!("{name}: {}", obstacle.message), ..obstacle.clone() }
            }),
            Some(HostPlanResult::Failed(_, failure)) => Some(Obstacle {
                message: format!("{name} cannot be looked at: {failure}"),
                why,
                cure: failure
                    .cure
                    .clone()
                    .unwrap_or_else(|| "make it reachable, then again".to_owned()),
            }),
            Some(HostPlanResult::Absent(_)) | None => Some(Obstacle {
                message: format!("{name} cannot be changed: {}", self.session.why_absent(name)),
                why: "the weights of its real servers would stay as they are".to_owned(),
                cure: format!(
                    "let the file say how {name} is reached, and leave it out of no `--limit`"
                ),
            }),
        }
    }

    /// The directors of the command's hosts that were not observed: what their receipts have is not known.
    pub fn directors_not_observed(&self, observed: &Observations) -> Option<HostObstacles> {
        let plan = self.plan(observed, Direction::Apply { now: now() });
        let mut all = Vec::new();
        for host in self.hosts() {
            for director in self.versions.file().directors_of(&host) {
                if observed.get(&director).is_none_or(Result::is_err) {
                    let obstacle = self.obstacle_on(&director, &plan, observed);
                    all.extend(obstacle.map(|obstacle| (host.clone(), obstacle)));
                }
            }
        }
        (!all.is_empty()).then_some(all)
    }

    /// What stands in the way of returning `hosts` beside their directors: they are not as the file says. A host that the file
    /// does not say how to reach is the operator's.
    pub fn obstacles_of_return(
        &mut self,
        hosts: &BTreeSet<HostName>,
        observed: &Observations,
    ) -> Option<HostObstacles> {
        let plan = self.plan(observed, Direction::Apply { now: now() });
        let mut all = Vec::new();
        for host in hosts {
            if let Some(HostPlanResult::Absent(HostStatus::Unmanaged)) = plan.hosts.get(host) {
                let note = "not looked at: the file does not say how it is reached".to_owned();
                if let Some(entry) = self.report.host_mut(host) {
                    entry.notes.push(note);
                }
                continue;
            }
            let obstacle = self.obstacle_on(host, &plan, observed);
            all.extend(obstacle.map(|obstacle| (host.clone(), obstacle)));
        }
        (!all.is_empty()).then_some(all)
    }
}
