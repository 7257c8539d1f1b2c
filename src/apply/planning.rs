//! From what was seen on every host to what each must do, and when. Pure.

use std::collections::BTreeMap;

use super::outcome::{Action, ClusterReport, Cost, HostReport, HostStatus, StepReport, StepState};
use super::session::Absent;
use super::turns;
use crate::desired::{Desired, Reasons};
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::{self, Arranged, Pacing};
use crate::plan::foreign::{self, Foreign, Terms};
use crate::plan::neighbours;
use crate::plan::ownership::Goal;
use crate::plan::preflight::{self, Obstacle};
use crate::plan::{order, simulate, stages};
use crate::state::{Edit, Item, Module, Observation, Stage, Step};
use crate::topology::{Host, Topology};

/// What one host must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// What to reach, and what the receipt must say.
    pub goal: Goal,
    /// The steps of each of its turns.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// What is waited for between and within them.
    pub pacing: Pacing,
    /// What a person should know before it is done: hosts that nobody looked at.
    pub cautions: Vec<String>,
    /// What is not ours there and stays as it is.
    pub foreign: Vec<Foreign>,
    /// Whether the way back to the controller changes, or may, where that is not known: then it is
    /// confirmed, or undone by the host.
    pub moves_way_back: bool,
}

/// What every host must do, or why it cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    /// Towards the file, or back.
    pub action: Action,
    /// By name of the host.
    pub hosts: BTreeMap<HostName, Prospect>,
}

/// What lies before a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prospect {
    /// Steps; none, if all is well.
    Plan(Box<HostPlan>),
    /// Something stands in the way.
    Obstructed(Vec<Obstacle>),
    /// It did not answer, or gave an answer that cannot be planned with.
    Failed(HostStatus, Failure),
    /// It is not asked.
    Absent(HostStatus),
}

/// Which way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To what the file says; `now` in seconds since 1970, for a new receipt.
    Apply {
        /// The controller's clock.
        now: u64,
    },
    /// The same, and what others made and the file names becomes ours (`--adopt`).
    Adopt {
        /// As in `Apply`.
        now: u64,
    },
    /// Back to what was found.
    Destroy,
}

/// Plans for every host of `topology`.
pub fn plan(
    topology: &Topology,
    desired: &BTreeMap<HostName, Desired>,
    seen: &BTreeMap<HostName, Result<Observation, Failure>>,
    absent: &BTreeMap<HostName, Absent>,
    direction: Direction,
) -> ClusterPlan {
    let action = match direction {
        Direction::Apply { .. } | Direction::Adopt { .. } => Action::Apply,
        Direction::Destroy => Action::Destroy,
    };
    let nothing = Desired::default();
    let hosts = topology.hosts.values().map(|host| {
        let desired = desired.get(&host.name).unwrap_or(&nothing);
        let mut prospect = match (seen.get(&host.name), absent.get(&host.name)) {
            (Some(Ok(sighting)), _) => plan_host(topology, host, desired, sighting, direction),
            (Some(Err(failure)), None) => Prospect::Failed(HostStatus::Refused, failure.clone()),
            (Some(Err(failure)), Some(_)) | (None, Some(Absent::Unreachable(failure))) => {
                Prospect::Failed(HostStatus::Unreachable, failure.clone())
            }
            (None, Some(Absent::LeftOut)) => Prospect::Absent(HostStatus::LeftOut),
            (None, Some(Absent::Unmanaged) | None) => Prospect::Absent(HostStatus::Unmanaged),
        };
        if let Prospect::Plan(plan) = &mut prospect {
            let unseen = turns::cautions(topology, &host.name, plan, action, absent);
            plan.cautions.extend(unseen);
        }
        (host.name.clone(), prospect)
    });
    ClusterPlan { action, hosts: hosts.collect() }
}

/// Plans for one host.
pub fn plan_host(
    topology: &Topology,
    host: &Host,
    desired: &Desired,
    seen: &Observation,
    direction: Direction,
) -> Prospect {
    let (goal, obstacles) = match direction {
        Direction::Apply { now } | Direction::Adopt { now } => {
            let adopt = matches!(direction, Direction::Adopt { .. });
            let directs = topology.services.iter().any(|service| service.director == host.name);
            let terms = Terms { adopt, exclusive: host.ipvs.exclusive && directs };
            let goal = match Goal::apply_on(terms, &topology.name, now, desired, seen) {
                Ok(goal) => goal,
                Err(error) => return impossible(&error),
            };
            let mut obstacles = preflight::obstacles(desired, &goal, seen);
            if terms.exclusive {
                preflight::exclusive(&goal, seen, &mut obstacles);
            }
            (goal, obstacles)
        }
        Direction::Destroy => {
            // One that was cut off before it wrote its receipt has done nothing, and is still to be
            // closed.
            let without_receipt = || {
                let unfinished = seen.unfinished.as_deref()?;
                Some(Goal { settled: None, ..Goal::undo(unfinished, seen) })
            };
            let Some(goal) = Goal::destroy(seen).or_else(without_receipt) else {
                return Prospect::Absent(HostStatus::Unchanged);
            };
            let mut obstacles = Vec::new();
            preflight::receipt(seen, &mut obstacles);
            (goal, obstacles)
        }
    };
    let mut goal = match seen.unfinished.as_deref() {
        Some(unfinished) => goal.taking_over(unfinished, seen),
        None => goal,
    };
    if !obstacles.is_empty() {
        return Prospect::Obstructed(obstacles);
    }
    let none = Reasons::default();
    let reasons = if direction == Direction::Destroy { &none } else { &desired.reasons };
    match order::steps_between(&seen.state, &goal.wanted, &goal.owned, reasons) {
        Ok(steps) => {
            let mut stages = stages::stage(host, steps);
            explain_displaced(&goal, &mut stages);
            let terms = match direction {
                Direction::Apply { .. } | Direction::Adopt { .. } => {
                    drain::Terms::of(topology, host)
                }
                Direction::Destroy => drain::Terms::back(topology),
            };
            let Arranged { stages, pacing, notes } = drain::arrange(&terms, seen, stages);
            let steps = stages.iter().flat_map(|(_, steps)| steps);
            drain::borrow(&mut goal, steps.map(|step| &step.change), &seen.state);
            let foreign = match direction {
                Direction::Destroy => Vec::new(),
                Direction::Apply { .. } | Direction::Adopt { .. } => foreign::list(&goal, seen),
            };
            let plan =
                HostPlan { goal, stages, pacing, cautions: notes, foreign, moves_way_back: false };
            settle(plan, seen)
        }
        Err(error) => impossible(&error),
    }
}

/// Why a service goes that nobody asked lvsprov to make.
fn explain_displaced(goal: &Goal, stages: &mut [(Stage, Vec<Step>)]) {
    for step in stages.iter_mut().flat_map(|(_, steps)| steps) {
        let Item::Service(key) = step.change.item() else { continue };
        if goal.displaced.contains(&key) {
            "`ipvs: exclusive`: it is not in the file, and somebody else made it; destroy puts it back"
                .clone_into(&mut step.why);
        }
    }
}

/// What the steps themselves say against them, or about them.
fn settle(mut plan: HostPlan, seen: &Observation) -> Prospect {
    let changes: Vec<Edit> =
        plan.stages.iter().flat_map(|(_, steps)| steps).map(|step| step.change.clone()).collect();
    let mut obstacles = Vec::new();
    neighbours::shared(&changes, &plan.goal, seen, &mut obstacles);
    neighbours::unfinished_elsewhere(&changes, &plan.goal, seen, &mut obstacles);
    neighbours::unreadable(&changes, &plan.goal, seen, &mut obstacles);
    if !obstacles.is_empty() {
        return Prospect::Obstructed(obstacles);
    }
    plan.cautions.extend(neighbours::cautions(&plan.goal, seen));
    match simulate(&seen.state, &changes) {
        Ok(after) => {
            let caution = preflight::way_back(seen, &after);
            plan.moves_way_back = caution.is_some();
            plan.cautions.extend(caution);
        }
        Err(error) => return impossible(&error),
    }
    Prospect::Plan(Box::new(plan))
}

fn impossible(error: &crate::plan::SimulateError) -> Prospect {
    let mut failure = Failure::from_error(error);
    failure.cure = Some("this is a fault of lvsprov: please report it".to_owned());
    Prospect::Failed(HostStatus::Failed, failure)
}

impl ClusterPlan {
    /// As a report in which nothing has been done yet.
    pub fn report(&self, topology: &Topology) -> ClusterReport {
        let hosts = self.hosts.iter().map(|(name, prospect)| (name.clone(), prospect.report()));
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
            unfinished: Vec::new(),
            proofs: Vec::new(),
            fingerprint: None,
        }
    }
}

impl Prospect {
    /// As a report in which nothing has been done yet.
    pub fn report(&self) -> HostReport {
        match self {
            Self::Plan(plan) => {
                let steps = plan.reports(StepState::Planned);
                let status =
                    if steps.is_empty() { HostStatus::Unchanged } else { HostStatus::Pending };
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
    /// Whether there is anything to do, the receipt included.
    pub fn is_idle(&self, seen: Option<&crate::state::Receipt>) -> bool {
        self.stages.is_empty() && self.goal.settled.as_ref() == seen
    }

    /// Its steps as reports.
    pub fn reports(&self, state: StepState) -> Vec<StepReport> {
        let steps = self.stages.iter().flat_map(|(stage, steps)| {
            steps.iter().map(|step| StepReport {
                stage: *stage,
                text: step.change.to_string(),
                change: step.change.clone(),
                why: step.why.clone(),
                state,
                cost: Cost::of(&self.pacing, &step.change),
            })
        });
        steps.collect()
    }

    /// What is not looked at; what is here already; what a destroy leaves, and why.
    fn notes(&self) -> Vec<String> {
        let cautions = self.cautions.iter().cloned();
        cautions.chain(self.used_as_it_is()).chain(self.leftovers()).collect()
    }

    /// Things of the file that were here before lvsprov, just so: whoever lost a receipt wants to know.
    fn used_as_it_is(&self) -> Option<String> {
        let Goal { wanted, receipt, settled, left, .. } = &self.goal;
        settled.as_ref()?;
        let stays = |item: &Item| {
            matches!(item, Item::Service(_) | Item::Address(_) | Item::Table(_) | Item::Tunnel(_))
                && foreign::is_same(item, &receipt.found, wanted)
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
                "module {module} stays loaded: others may have come to use it, and it does nothing \
                 by itself"
            )
        };
        let owned = self.goal.owned.iter();
        if self.goal.settled.is_some() {
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
