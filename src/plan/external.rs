//! Services whose weights a health checker on the director sets (`weights: external`). Pure.
//!
//! Whether one of their real servers takes requests is health, and no drift: keepalived, ldirectord or a script gives it the
//! weight 0 or removes it while it is dead, and putting it back would send clients to a dead server. So a real server that
//! lvsprov has made keeps the weight that it has, or stays away. All else stays the file's.
//!
//! The table does not tell a real server that was removed from one that was never added: the receipt remembers those that
//! lvsprov has made ([`ExternalWeights`]). Where the whole service is missing it is made with the file's weights, and the
//! health checker takes out what is dead.

use std::collections::{BTreeMap, BTreeSet};

use super::ownership::Goal;
use crate::desired::Desired;
use crate::state::{
    Destination, DestinationId, DestinationKey, ExternalWeight, ExternalWeights, HostState, Item,
    Observation, OpenTransaction, Receipt, ServiceKey, VirtualService,
};

/// Which services of the file have external weights, and how far an apply may go with those that lvsprov did not make.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExternalServices<'a> {
    pub keys: &'a BTreeSet<ServiceKey>,
    /// Whether services that exist and belong to no topology become lvsprov's (`--adopt`, `ipvs: exclusive`).
    pub takes_over: bool,
}

/// Gives the real servers of external services in `wanted` what a health checker may have made of them, and returns what the
/// receipt must remember of them after the commit.
pub(super) fn yield_to_checker(
    external: ExternalServices<'_>,
    wanted: &mut HostState,
    seen: &HostState,
    receipt: Option<&Receipt>,
) -> ExternalWeights {
    let mut all = ExternalWeights::new();
    for key in external.keys {
        let Some(service) = wanted.services.get_mut(key) else { continue };
        let Some(there) = seen.services.get(key) else {
            all.insert(key.clone(), made(&service.destinations));
            continue;
        };
        let is_ours =
            receipt.is_some_and(|receipt| receipt.owned.contains(&Item::Service(key.clone())));
        let known = receipt.filter(|_| is_ours).and_then(|receipt| receipt.external.get(key));
        let leaves_all = !is_ours && !external.takes_over;
        all.insert(key.clone(), yield_service(service, there, known, leaves_all));
    }
    all
}

/// What is remembered of destinations that are made with the file's weights.
fn made(
    destinations: &BTreeMap<DestinationKey, Destination>,
) -> BTreeMap<DestinationKey, ExternalWeight> {
    let remember = |(at, wanted): (&DestinationKey, &Destination)| (*at, new(wanted.weight));
    destinations.iter().map(remember).collect()
}

fn new(file: u32) -> ExternalWeight {
    ExternalWeight { file, drained: file == 0 }
}

/// `known`: what the receipt remembers; `None` where the service had no external weights before, or is not lvsprov's.
/// `leaves_all`: another program made the service, and its real servers are that program's.
fn yield_service(
    service: &mut VirtualService,
    there: &VirtualService,
    known: Option<&BTreeMap<DestinationKey, ExternalWeight>>,
    leaves_all: bool,
) -> BTreeMap<DestinationKey, ExternalWeight> {
    let mut remembered = BTreeMap::new();
    let wanted = std::mem::take(&mut service.destinations);
    for (at, mut destination) in wanted {
        let file = destination.weight;
        let before = known.and_then(|known| known.get(&at)).copied();
        let present = there.destinations.get(&at).map(|present| present.weight);
        let (weight, after) = match (before, present) {
            (None, None) if leaves_all => (None, new(file)),
            (None, None) => (Some(file), new(file)),
            (Some(before), None) => (None, ExternalWeight { file, ..before }),
            (None, Some(present)) => {
                (Some(present), ExternalWeight { file, drained: file == 0 && present == 0 })
            }
            (Some(before), Some(present)) => present_weight(file, before, present),
        };
        if let Some(weight) = weight {
            destination.weight = weight;
            service.destinations.insert(at, destination);
        }
        remembered.insert(at, after);
    }
    // A sorry server, say: lvsprov has not made it. Before the first apply with the key nothing tells it from what has
    // left the file.
    let is_checkers = |at: &DestinationKey| match known {
        Some(known) => !known.contains_key(at),
        None => leaves_all,
    };
    for (at, extra) in &there.destinations {
        if !remembered.contains_key(at) && is_checkers(at) {
            service.destinations.insert(*at, extra.clone());
        }
    }
    remembered
}

/// The weight of a real server that the receipt knows and the table has, and what is remembered of it. Only a change of the
/// file gives it another weight, and not while the health checker has it out.
fn present_weight(
    file: u32,
    before: ExternalWeight,
    present: u32,
) -> (Option<u32>, ExternalWeight) {
    let drained = before.drained && present == 0;
    let is_out = present == 0 && !drained;
    if file == before.file || is_out {
        return (Some(present), ExternalWeight { file, drained });
    }
    (Some(file), new(file))
}

/// A real server of an external service that is not as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalDifference {
    /// The service.
    pub service: ServiceKey,
    /// The real server.
    pub destination: DestinationKey,
    /// Its weight; `None`: it is not in the table.
    pub weight: Option<u32>,
    /// Its weight in the file, 0 in maintenance.
    pub file: u32,
}

impl ExternalDifference {
    /// Whether it gets no new connections, against the file.
    pub fn is_out(&self) -> bool {
        self.weight.unwrap_or(0) == 0 && self.file > 0
    }

    /// Service and destination.
    pub fn id(&self) -> DestinationId {
        DestinationId { service: self.service.clone(), key: self.destination }
    }
}

/// Where the weights of external services stay other than the file's in the table of `goal`.
pub fn differences(desired: &Desired, goal: &Goal, seen: &HostState) -> Vec<ExternalDifference> {
    let mut all = Vec::new();
    for key in &desired.external {
        let Some(file) = desired.state.services.get(key) else { continue };
        let state = if goal.left.contains(key) { seen } else { &goal.wanted };
        let Some(service) = state.services.get(key) else { continue };
        for (at, destination) in &file.destinations {
            let weight = service.destinations.get(at).map(|present| present.weight);
            if weight != Some(destination.weight) && (weight, destination.weight) != (None, 0) {
                all.push(ExternalDifference {
                    service: key.clone(),
                    destination: *at,
                    weight,
                    file: destination.weight,
                });
            }
        }
    }
    all
}

/// What a person should know of real servers that the first apply with `weights: external` adds to a service that exists:
/// nothing tells whether the health checker had removed them.
pub fn cautions(desired: &Desired, goal: &Goal, seen: &Observation) -> Vec<String> {
    let known = seen.receipt.as_ref().map(|receipt| &receipt.external);
    let is_new = |key: &&ServiceKey| known.is_none_or(|known| !known.contains_key(*key));
    let mut all = Vec::new();
    for key in desired.external.iter().filter(is_new) {
        let (Some(there), Some(wanted)) =
            (seen.state.services.get(key), goal.wanted.services.get(key))
        else {
            continue;
        };
        let lacks = wanted.destinations.keys().filter(|at| !there.destinations.contains_key(at));
        let lacks: Vec<String> = lacks.map(ToString::to_string).collect();
        if !lacks.is_empty() {
            all.push(format!(
                "`weights: external` is new for {key}, which lacks {}: this adds it, and if the health checker had removed \
                 it, clients are sent to a dead server; then wait until it is back, and apply again",
                lacks.join(", ")
            ));
        }
    }
    all
}

/// Keeps what a health checker has made of external services since `unfinished` began: undoing it puts back only the
/// destinations that its own steps changed.
pub(super) fn spare_in_undo(
    unfinished: &OpenTransaction,
    wanted: &mut HostState,
    seen: &HostState,
) {
    let Some(receipt) = &unfinished.receipt_before else { return };
    let steps = unfinished.journal.stages.iter().flat_map(|(_, steps)| steps);
    let ours: BTreeSet<&DestinationId> =
        steps.filter_map(|step| Some(&step.edit.of::<Destination>()?.key)).collect();
    for key in receipt.external.keys() {
        let (Some(service), Some(there)) = (wanted.services.get_mut(key), seen.services.get(key))
        else {
            continue;
        };
        let is_ours =
            |at: &DestinationKey| ours.contains(&DestinationId { service: key.clone(), key: *at });
        service.destinations.retain(|at, _| is_ours(at));
        let others = there.destinations.iter().filter(|(at, _)| !is_ours(at));
        service.destinations.extend(others.map(|(at, present)| (*at, present.clone())));
    }
}

#[cfg(test)]
#[path = "external_tests.rs"]
mod tests;
