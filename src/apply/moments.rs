//! Moments without service: a request that is answered before a plan and after it, and not between two of its stages, by the
//! packet walk. Pure.
//!
//! Hosts act stage by stage ([`Stage`]), so between two stages every host is where its own steps have brought it. What
//! happens within a stage is not walked: there hosts act at once.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster_plan::{ClusterPlan, HostPlan, HostPlanResult};
use super::session::Observations;
use super::unanswered::{more_pairs, state_after, world_of};
use crate::desired::{ExpectedRequest, expected_requests};
use crate::names::HostName;
use crate::state::{ServiceKey, Stage};
use crate::topology::Topology;
use crate::walk::{Cause, Death, HostStates, WalkRequest, WalkVerdict, World};

/// A request that is not answered for a moment.
#[derive(Debug)]
pub(super) struct Moment<'a> {
    /// After it, until a later one.
    pub stage: Stage,
    /// The request.
    pub expected: ExpectedRequest<'a>,
    /// Where and why it is lost.
    pub death: Death,
}

/// The requests of `topology` that are answered before `plan` and after it, and not after one of its stages.
/// `as_file`: hosts that were not observed.
pub(super) fn without_service<'a>(
    topology: &'a Topology,
    plan: &ClusterPlan,
    observed: &Observations,
    as_file: &HostStates,
) -> Vec<Moment<'a>> {
    let stages = stages_with_steps(plan);
    // The last one leads to the end, which `refuse_unanswered` judges.
    let Some((_, between)) = stages.split_last().filter(|(_, between)| !between.is_empty()) else {
        return Vec::new();
    };
    let snapshot = |upto: Option<Stage>| Midway::after(topology, plan, observed, as_file, upto);
    let Some(before) = snapshot(None) else { return Vec::new() };
    let answered: Vec<ExpectedRequest<'_>> =
        expected_requests(topology).filter(|it| before.asked(it) == Asked::Answers).collect();
    if answered.is_empty() {
        return Vec::new();
    }
    let Some(end) = snapshot(stages.last().copied()) else { return Vec::new() };
    let mut found: BTreeMap<usize, Moment<'_>> = BTreeMap::new();
    for stage in between {
        let Some(now) = snapshot(Some(*stage)) else { return Vec::new() };
        let came: Vec<Asked> = answered.iter().map(|it| now.asked(it)).collect();
        let serve: BTreeSet<_> = answered
            .iter()
            .zip(&came)
            .filter(|(_, came)| **came == Asked::Answers)
            .map(|(it, _)| service_of(it))
            .collect();
        for (nth, (expected, came)) in answered.iter().zip(came).enumerate() {
            let (death, is_chosen) = match came {
                Asked::Lost(death) => (death, true),
                Asked::NotChosen(death) => (death, false),
                Asked::Answers | Asked::Unknown => continue,
            };
            // Where the director gives this real server nothing, the others serve.
            let is_spared = !is_chosen && serve.contains(&service_of(expected));
            if !is_spared && end.asked(expected) == Asked::Answers {
                let moment = Moment { stage: *stage, expected: *expected, death };
                found.entry(nth).or_insert(moment);
            }
        }
    }
    found.into_values().collect()
}

/// What becomes of a request at a moment.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// It is answered.
    Answers,
    /// Too little is known, or it is chance.
    Unknown,
    /// It is lost here.
    Lost(Death),
    /// It would be lost here, and no director gives this real server new connections.
    NotChosen(Death),
}

/// Client, VIP and port.
fn service_of<'a>(expected: &ExpectedRequest<'a>) -> (&'a HostName, std::net::IpAddr, u16) {
    let WalkRequest { client, vip, port, .. } = expected.request;
    (client, vip, port)
}

fn plans(plan: &ClusterPlan) -> impl Iterator<Item = (&HostName, &HostPlan)> {
    plan.hosts.iter().filter_map(|(name, result)| match result {
        HostPlanResult::Plan(plan) => Some((name, &**plan)),
        _ => None,
    })
}

/// The stages in which a host has something to do, in their order.
fn stages_with_steps(plan: &ClusterPlan) -> Vec<Stage> {
    let all: BTreeSet<Stage> = plans(plan)
        .flat_map(|(_, plan)| plan.stages.iter().filter(|(_, steps)| !steps.is_empty()))
        .map(|(stage, _)| *stage)
        .collect();
    all.into_iter().collect()
}

/// The cluster at a moment.
struct Midway(World);

impl Midway {
    /// After the steps of all stages up to `upto`; `None`: before the first. No snapshot where a host could not be
    /// observed.
    fn after(
        topology: &Topology,
        plan: &ClusterPlan,
        observed: &Observations,
        as_file: &HostStates,
        upto: Option<Stage>,
    ) -> Option<Self> {
        let mut states = HostStates::new();
        for (name, plan) in plans(plan) {
            let before = &observed.get(name)?.as_ref().ok()?.state;
            let done =
                plan.stages.iter().filter(|(stage, _)| upto.is_some_and(|upto| *stage <= upto));
            let edits = done.flat_map(|(_, steps)| steps).map(|step| &step.edit);
            states.insert(name.clone(), state_after(before, edits)?);
        }
        Some(Self(world_of(topology, as_file, observed, &states)))
    }

    fn asked(&self, expected: &ExpectedRequest<'_>) -> Asked {
        let mut request = expected.request;
        let mut walk = self.0.walk(&request);
        // Before and while a VIP moves, another director may serve it.
        if let WalkVerdict::Dead { death, .. } = &walk.end
            && matches!(death.cause, Cause::WrongHost { target } if target == request.vip)
            && let Some(other) = self.0.machine(&death.host)
        {
            request = WalkRequest { director: &other.name, ..request };
            walk = self.0.walk(&request);
        }
        match walk.end {
            WalkVerdict::Answered => Asked::Answers,
            WalkVerdict::Dead { death, .. } if !walk.by_chance => {
                if self.takes_new(&request) {
                    Asked::Lost(death)
                } else {
                    Asked::NotChosen(death)
                }
            }
            // No host has the VIP, for one.
            WalkVerdict::Dead { .. } | WalkVerdict::Unknown(_) => Asked::Unknown,
        }
    }

    /// Whether the director gives new connections to this real server.
    fn takes_new(&self, request: &WalkRequest<'_>) -> bool {
        let Some(director) = self.0.machine(request.director) else { return false };
        let is_of = |key: &ServiceKey| match key {
            ServiceKey::Address(_, at) => at.ip() == request.vip,
            ServiceKey::Fwmark { .. } => true,
        };
        let mut services = director.services.iter().filter(|(key, _)| is_of(key));
        services.any(|(_, service)| {
            service.destinations.get(&request.destination).is_some_and(|it| it.weight > 0)
        })
    }
}

impl ClusterPlan {
    /// Says on the director at which moments of the plan a request is not answered that is answered before and after.
    pub(super) fn add_moments_without_service(
        &mut self,
        topology: &Topology,
        observed: &Observations,
        as_file: &HostStates,
    ) {
        if self.hosts.values().any(|it| matches!(it, HostPlanResult::Obstructed(_))) {
            return;
        }
        let moments = without_service(topology, self, observed, as_file);
        // What is lost at one place in one stage is one caution.
        let mut by_place: BTreeMap<(HostName, Stage, HostName), Vec<Moment<'_>>> = BTreeMap::new();
        for moment in moments {
            let director = moment.expected.service.director.clone();
            let place = (director, moment.stage, moment.death.host.clone());
            by_place.entry(place).or_default().push(moment);
        }
        for ((director, stage, _), moments) in by_place {
            let Some(HostPlanResult::Plan(plan)) = self.hosts.get_mut(&director) else { continue };
            let Some(Moment { expected, death, .. }) = moments.first() else { continue };
            plan.cautions.push(format!(
                "a moment without service: once {}, {} gets no answer from {} by {}: {death}{}; later steps of this \
                 plan end it",
                stage.describe(),
                expected.client.name,
                expected.service.display_name(),
                expected.real_server.host,
                more_pairs(moments.len() - 1)
            ));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
#[path = "moments_tests.rs"]
mod tests;
