//! From the observed hosts to the steps of each host, in stages. Pure.

use std::collections::BTreeMap;

use super::outcome::{Action, ClusterReport, Cost, HostReport, HostStatus, StepReport, StepState};
use super::rollback::fault;
use super::session::{HostAbsence, Observations};
use super::{health, stage_work};
use crate::desired::{Desired, Reasons};
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::{self, Arranged, Pacing};
use crate::plan::external::{self, ExternalDifference};
use crate::plan::ownership::Goal;
use crate::plan::preflight::{self, Obstacle};
use crate::plan::unmanaged::{self, AdoptPolicy, UnmanagedItem};
use crate::plan::{boot, drift, instances, link_managers, maintenance, other_topologies};
use crate::plan::{order, simulate, stages};
use crate::state::{Edit, Item, Module, Observation, Receipt, Stage, Step};
use crate::topology::{Host, Topology};

/// The steps of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// The state to reach, and the receipt to write.
    pub goal: Goal,
    /// Its steps, stage by stage.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// The waits between and within them.
    pub pacing: Pacing,
    /// What a person should know before: hosts it depends on that were not observed, for one.
    pub cautions: Vec<String>,
    /// Items that lvsprov does not own and leaves alone.
    pub foreign: Vec<UnmanagedItem>,
    /// Whether the way back to the controller changes, or may where it is unknown: then the change is
    /// confirmed, or the host reverts it.
    pub moves_way_back: bool,
    /// Whether preparing the transaction installs the boot unit.
    pub installs_unit: bool,
    /// Where a health checker has set other weights than the file's, and they stay.
    pub external: Vec<ExternalDifference>,
}

/// The steps of every host, or why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    /// Towards the file, or back to the state before the first apply.
    pub action: Action,
    /// By host name.
    pub hosts: BTreeMap<HostName, HostPlanResult>,
}

/// What planning a host came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPlanResult {
    /// Its steps; none where nothing differs.
    Plan(Box<HostPlan>),
    /// Obstacles prevent a change.
    Obstructed(Vec<Obstacle>),
    /// It could not be observed, or the planner failed.
    Failed(HostStatus, Failure),
    /// It takes no part.
    Absent(HostStatus),
}

/// The state to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the file says; `now` in seconds since 1970, for a new receipt.
    Apply {
        /// By the controller's clock.
        now: u64,
    },
    /// The same; items that the file names and lvsprov did not make become lvsprov's (`--adopt`).
    Adopt {
        /// As in `Apply`.
        now: u64,
    },
    /// What was found before the first apply.
    Destroy,
}

/// Plans for every host of `topology`.
pub fn plan(
    topology: &Topology,
    desired: &BTreeMap<HostName, Desired>,
    observed: &Observations,
    absent: &BTreeMap<HostName, HostAbsence>,
    direction: Direction,
) -> ClusterPlan {
    let action = match direction {
        Direction::Apply { .. } | Direction::Adopt { .. } => Action::Apply,
        Direction::Destroy => Action::Destroy,
    };
    let nothing = Desired::default();
    let disagreements = maintenance::disagreements(topology, &receipts(observed));
    let hosts = topology.hosts.values().map(|host| {
        let desired = desired.get(&host.name).unwrap_or(&nothing);
        let mut result = match (observed.get(&host.name), absent.get(&host.name)) {
            (Some(Ok(observation)), _) => {
                plan_host(topology, host, desired, observation, direction)
            }
            (Some(Err(failure)), None) => {
                HostPlanResult::Failed(HostStatus::Refused, failure.clone())
            }
            (Some(Err(failure)), Some(_)) | (None, Some(HostAbsence::Unreachable(failure))) => {
                HostPlanResult::Failed(HostStatus::Unreachable, failure.clone())
            }
            (None, Some(HostAbsence::LeftOut)) => HostPlanResult::Absent(HostStatus::LeftOut),
            (None, Some(HostAbsence::Unmanaged) | None) => {
                HostPlanResult::Absent(HostStatus::Unmanaged)
            }
        };
        if let HostPlanResult::Plan(plan) = &mut result {
            let cautions = stage_work::cautions(topology, &host.name, plan, action, absent);
            plan.cautions.extend(cautions);
            if direction != Direction::Destroy {
                let since = topology.maintenance.since(&host.name);
                plan.cautions.extend(since.map(|since| maintenance::caution(&host.name, since)));
                plan.cautions.extend(health::maintenance_cautions(topology, &host.name));
                let line = |it| health::line(topology, &host.name, it);
                plan.cautions.extend(plan.external.iter().map(line));
                plan.cautions.extend(disagreements.get(&host.name).into_iter().flatten().cloned());
            }
        }
        (host.name.clone(), result)
    });
    ClusterPlan { action, hosts: hosts.collect() }
}

/// The receipts of the hosts that were observed.
pub(super) fn receipts(observed: &Observations) -> BTreeMap<&HostName, &Receipt> {
    let mut all = BTreeMap::new();
    for (name, observation) in observed {
        let receipt = observation.as_ref().ok().and_then(|it| it.receipt.as_ref());
        all.extend(receipt.map(|receipt| (name, receipt)));
    }
    all
}

/// Plans for one host.
pub fn plan_host(
    topology: &Topology,
    host: &Host,
    desired: &Desired,
    observed: &Observation,
    direction: Direction,
) -> HostPlanResult {
    let (goal, obstacles) = match direction {
        Direction::Apply { now } | Direction::Adopt { now } => {
            let adopt = matches!(direction, Direction::Adopt { .. });
            let directs = topology.services.iter().any(|service| service.director == host.name);
            let policy = AdoptPolicy {
                adopt,
                exclusive: host.ipvs.exclusive && directs,
                transient: !topology.persist,
                drift: host.drift,
            };
            let goal = match Goal::apply_on(policy, &topology.name, now, desired, observed) {
                Ok(goal) => goal,
                Err(error) => return planner_fault(&error),
            };
            let mut obstacles = preflight::obstacles(desired, &goal, observed);
            if policy.exclusive {
                preflight::exclusive(&goal, observed, &mut obstacles);
            }
            (goal, obstacles)
        }
        Direction::Destroy => {
            // A transaction that was cut off before it wrote its receipt changed nothing, and its journal
            // still has to be closed.
            let without_receipt = || {
                let unfinished = observed.open_transaction.as_deref()?;
                Some(Goal { receipt_after: None, ..Goal::undo(unfinished, observed) })
            };
            let Some(goal) = Goal::destroy(observed).or_else(without_receipt) else {
                return HostPlanResult::Absent(HostStatus::Unchanged);
            };
            let mut obstacles = Vec::new();
            preflight::receipt(observed, &mut obstacles);
            (goal, obstacles)
        }
    };
    let mut goal = match observed.open_transaction.as_deref() {
        Some(unfinished) => goal.taking_over(unfinished, observed),
        None => goal,
    };
    if !obstacles.is_empty() {
        return HostPlanResult::Obstructed(obstacles);
    }
    let none = Reasons::default();
    let reasons = if direction == Direction::Destroy { &none } else { &desired.reasons };
    match order::steps_between(&observed.state, &goal.wanted, &goal.owned, reasons) {
        Ok(steps) => {
            let mut stages = stages::stage(host, steps);
            explain_displaced(&goal, &mut stages);
            if direction != Direction::Destroy {
                explain_given_back(desired, &goal, &mut stages);
            }
            let options = match direction {
                Direction::Apply { .. } | Direction::Adopt { .. } => {
                    drain::PacingOptions::of(topology, host)
                }
                Direction::Destroy => drain::PacingOptions::back(topology),
            };
            let Arranged { stages, pacing, mut notes } = drain::arrange(&options, observed, stages);
            let steps = stages.iter().flat_map(|(_, steps)| steps);
            drain::borrow(&mut goal, steps.map(|step| &step.edit), &observed.state);
            let foreign = match direction {
                Direction::Destroy => Vec::new(),
                Direction::Apply { .. } | Direction::Adopt { .. } => {
                    unmanaged::list(&goal, observed)
                }
            };
            let external = match direction {
                Direction::Destroy => Vec::new(),
                Direction::Apply { .. } | Direction::Adopt { .. } => {
                    notes.extend(external::cautions(desired, &goal, observed));
                    notes.extend(instances::cautions(desired, &goal, observed));
                    external::differences(desired, &goal, &observed.state)
                }
            };
            let plan = HostPlan {
                goal,
                stages,
                pacing,
                cautions: notes,
                foreign,
                moves_way_back: false,
                installs_unit: false,
                external,
            };
            check_steps(plan, observed)
        }
        Err(error) => planner_fault(&error),
    }
}

/// Gives the removal of a service that lvsprov did not make its reason.
fn explain_displaced(goal: &Goal, stages: &mut [(Stage, Vec<Step>)]) {
    for step in stages.iter_mut().flat_map(|(_, steps)| steps) {
        let Item::Service(key) = step.edit.item() else { continue };
        if goal.displaced.contains(&key) {
            "`ipvs: exclusive`: it is not in the file, and lvsprov did not make it; destroy puts it back"
                .clone_into(&mut step.why);
        }
    }
}

/// Gives a setting its reason that goes back to the value from before lvsprov because that serves.
fn explain_given_back(desired: &Desired, goal: &Goal, stages: &mut [(Stage, Vec<Step>)]) {
    let ours = goal.receipt_after.as_ref().map(|receipt| &receipt.owned);
    for step in stages.iter_mut().flat_map(|(_, steps)| steps) {
        let item = step.edit.item();
        let Item::Sysctl(key) = &item else { continue };
        if desired.accepted.contains_key(key) && !ours.is_some_and(|ours| ours.contains(&item)) {
            "the value from before lvsprov serves, and goes back".clone_into(&mut step.why);
        }
    }
}

/// Looks for obstacles and cautions in the steps themselves.
fn check_steps(mut plan: HostPlan, observed: &Observation) -> HostPlanResult {
    let changes: Vec<Edit> =
        plan.stages.iter().flat_map(|(_, steps)| steps).map(|step| step.edit.clone()).collect();
    let mut obstacles = Vec::new();
    other_topologies::shared(&changes, &plan.goal, observed, &mut obstacles);
    other_topologies::open_elsewhere(&changes, &plan.goal, observed, &mut obstacles);
    other_topologies::unreadable(&changes, &plan.goal, observed, &mut obstacles);
    if !obstacles.is_empty() {
        return HostPlanResult::Obstructed(obstacles);
    }
    plan.cautions.extend(other_topologies::cautions(&plan.goal, observed));
    plan.cautions.extend(drift::caution(&plan.goal, observed));
    plan.cautions.extend(boot::caution(&plan.goal, observed));
    plan.cautions.extend(link_managers::cautions(&plan.goal, observed));
    plan.installs_unit = boot::installs_unit(&plan.goal, observed);
    match simulate(&observed.state, &changes) {
        Ok(after) => {
            let caution = preflight::way_back(observed, &after);
            plan.moves_way_back = caution.is_some();
            plan.cautions.extend(caution);
            plan.cautions.extend(preflight::lost_lro(observed, &after));
        }
        Err(error) => return planner_fault(&error),
    }
    HostPlanResult::Plan(Box::new(plan))
}

fn planner_fault(error: &crate::plan::SimulateError) -> HostPlanResult {
    HostPlanResult::Failed(HostStatus::Failed, fault(error))
}

impl ClusterPlan {
    /// As a report before any step is executed.
    pub fn report(&self, topology: &Topology) -> ClusterReport {
        let hosts = self.hosts.iter().map(|(name, result)| (name.clone(), result.report()));
        let action = match self.action {
            Action::Apply => Action::Plan,
            Action::Destroy => Action::PlanDestroy,
            other => other,
        };
        ClusterReport {
            action,
            topology: topology.name.to_string(),
            hosts: hosts.collect(),
            transaction: None,
            open_transactions: Vec::new(),
            verifications: Vec::new(),
            fingerprint: None,
        }
    }
}

impl HostPlanResult {
    /// As a report before any step is executed.
    pub fn report(&self) -> HostReport {
        match self {
            Self::Plan(plan) => {
                let steps = plan.reports(StepState::Planned);
                let status = if steps.is_empty() && !plan.installs_unit {
                    HostStatus::Unchanged
                } else {
                    HostStatus::Pending
                };
                let foreign = plan.foreign.clone();
                HostReport { steps, notes: plan.notes(), foreign, ..HostReport::bare(status) }
            }
            Self::Obstructed(obstacles) => HostReport {
                obstacles: obstacles.clone(),
                ..HostReport::bare(HostStatus::Obstructed)
            },
            Self::Failed(status, failure) => HostReport::failed(status.clone(), failure.clone()),
            Self::Absent(status) => HostReport::bare(status.clone()),
        }
    }
}

impl HostPlan {
    /// Whether there is nothing to do, the receipt included.
    pub fn is_idle(&self, observed: Option<&crate::state::Receipt>) -> bool {
        self.stages.is_empty() && self.goal.receipt_after.as_ref() == observed
    }

    /// The edits of its steps, in their order.
    pub fn edits(&self) -> impl Iterator<Item = &Edit> {
        self.stages.iter().flat_map(|(_, steps)| steps).map(|step| &step.edit)
    }

    /// Its steps as reports.
    pub fn reports(&self, state: StepState) -> Vec<StepReport> {
        let steps = self.stages.iter().flat_map(|(stage, steps)| {
            steps.iter().map(|step| StepReport {
                stage: *stage,
                text: step.edit.to_string(),
                edit: step.edit.clone(),
                why: step.why.clone(),
                state,
                cost: Cost::of(&self.pacing, &step.edit),
            })
        });
        steps.collect()
    }

    /// Cautions, items that destroy leaves because they were there before, modules that destroy leaves.
    fn notes(&self) -> Vec<String> {
        let cautions = self.cautions.iter().cloned();
        cautions.chain(self.used_as_it_is()).chain(self.leftovers()).collect()
    }

    /// Items of the file that the host had before lvsprov, in the wanted state: after a receipt was lost the
    /// operator wants to know.
    fn used_as_it_is(&self) -> Option<String> {
        let Goal { wanted, receipt, receipt_after, left, .. } = &self.goal;
        receipt_after.as_ref()?;
        let stays = |item: &Item| {
            matches!(item, Item::Service(_) | Item::Address(_) | Item::Table(_) | Item::Tunnel(_))
                && unmanaged::is_same(item, &receipt.found, wanted)
        };
        let left = left.iter().cloned().map(Item::Service);
        let names: Vec<String> = left
            .chain(wanted.items().into_iter().filter(stays))
            .map(|item| item.to_string())
            .collect();
        if names.is_empty() {
            return None;
        }
        Some(format!(
            "here before lvsprov just as the file wants it, so destroy leaves it: {}; `apply --adopt` \
             makes it ours",
            names.join(", ")
        ))
    }

    fn leftovers(&self) -> Vec<String> {
        let stays = |module: &Module| {
            format!(
                "module {module} stays loaded: other programs may use it by now, and it does nothing \
                 by itself"
            )
        };
        let owned = self.goal.owned.iter();
        if self.goal.receipt_after.is_some() {
            return Vec::new();
        }
        owned
            .filter_map(|item| match item {
                Item::Module(module) if !self.goal.receipt.found.modules.contains(module) => {
                    Some(stays(module))
                }
                _ => None,
            })
            .collect()
    }
}
