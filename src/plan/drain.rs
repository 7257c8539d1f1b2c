//! Taking real servers out without cutting their connections: no new one is given to them (weight 0), those
//! that are there may come to their end, and only then they are removed.
//!
//! [`arrange`] turns the steps of a plan into that, and says in [`Pacing`] what is waited for; how new real
//! servers are taken in is in [`super::ramp`]. Who waits is [`crate::apply`]'s business.
//!
//! A connection that is there goes on at weight 0; once its destination is removed its packets are dropped,
//! without a word to either side, or it is reset where `expire_nodest_conn` is 1, which lvsprov sets
//! (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_in_hook`).
//!
//! Nothing is drained where that would do more harm than good:
//!
//! - a service that goes away as a whole, unless the operator asks for it in this run: draining would only
//!   refuse new clients for longer.
//! - where no real server would take the new connections meanwhile (all are exchanged), or where the
//!   scheduler goes on choosing one of weight 0 (`dh`: ip_vs_dh.c), unless the operator asks for it.
//!
//! `sh` and `mh` go on choosing one as well, unless their flag for falling back is set: it is, meanwhile.
//! Persistence keeps its clients at a real server of weight 0, unless `expire_quiescent_template` is 1: it
//! is, meanwhile.
//!
//! How many connections there are decides how long is waited, never what is done: else a plan that was
//! saved would be another one a second later.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use super::pacing::{CountedConnections, PacingOptions};
use super::{Goal, ramp, scheduler_swap};
use crate::state::{
    Counters, Destination, DestinationId, DestinationKey, Edit, HostState, Item, Observation,
    ServiceFlags, ServiceKey, Stage, Step, Sysctl, VirtualService, VsItem,
};

/// Persistence lets go of what has weight 0.
pub const EXPIRE_TEMPLATES: Sysctl = Sysctl::Vs(VsItem::ExpireQuiescentTemplate);

/// Settings that are changed for a while, and so must be read.
pub const BORROWED: [Sysctl; 3] =
    [EXPIRE_TEMPLATES, scheduler_swap::DROP_PACKET, scheduler_swap::AM_DROPRATE];

/// A real server that is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// From which service.
    pub service: ServiceKey,
    /// Which.
    pub destination: DestinationKey,
    /// For how long its connections may come to their end, in seconds; 0: it is removed at once.
    pub seconds: u32,
    /// Which connections count.
    pub counted: CountedConnections,
    /// How many there were when the host was looked at; `None`: not counted.
    pub connections: Option<u64>,
}

impl Leaving {
    /// Whether it is what `edit` removes.
    pub fn is_removed_by(&self, edit: &Edit) -> bool {
        let Some((DestinationId { service, key }, _)) = edit.removed::<Destination>() else {
            return false;
        };
        self.service == *service && self.destination == *key
    }

    /// How many connections it has by `counters`; `None`: not counted.
    pub fn count(
        &self,
        counters: &BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
    ) -> Option<u64> {
        let of_service = counters.get(&self.service)?;
        Some(of_service.get(&self.destination).map_or(0, |counters| self.counted.of(counters)))
    }
}

/// Some steps of the stage [`Stage::Ramp`], which are done at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// When, in milliseconds from the beginning of the stage.
    pub after_ms: u64,
    /// How many steps, from where the raise before has ended.
    pub steps: usize,
}

/// What is waited for on a host between its steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pacing {
    /// Every real server that is removed, drained or not.
    pub leaving: Vec<Leaving>,
    /// The steps of [`Stage::Ramp`], in their order.
    pub raises: Vec<Raise>,
}

impl Pacing {
    /// How long draining may take, in milliseconds.
    pub fn longest_drain_ms(&self) -> u64 {
        self.leaving.iter().map(|one| u64::from(one.seconds) * 1000).max().unwrap_or(0)
    }

    /// How long ramping takes, in milliseconds.
    pub fn longest_ramp_ms(&self) -> u64 {
        self.raises.iter().map(|raise| raise.after_ms).max().unwrap_or(0)
    }

    /// The real server that `edit` removes.
    pub fn leaving_by(&self, edit: &Edit) -> Option<&Leaving> {
        self.leaving.iter().find(|one| one.is_removed_by(edit))
    }
}

/// A plan that cuts as few connections as it can.
#[derive(Debug, Default)]
pub struct Arranged {
    /// The steps of each of the host's turns.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// What is waited for.
    pub pacing: Pacing,
    /// What a person should know: where nothing is waited for although the file says so, and why.
    pub notes: Vec<String>,
}

/// Rearranges the steps of a host so that real servers are drained before they are removed, and ramped
/// up after they were added. The state that the steps lead to stays the same, and none of those that
/// they were is left out.
pub fn arrange(
    options: &PacingOptions<'_>,
    seen: &Observation,
    stages: Vec<(Stage, Vec<Step>)>,
) -> Arranged {
    let mut arranged = Arranged { stages, ..Arranged::default() };
    let out = Out::of(&arranged.stages);
    if !out.removed.is_empty() {
        for (key, removed) in &out.removed {
            let Some(service) = seen.state.services.get(key) else { continue };
            let gone = out.services.contains(key);
            let seconds = seconds(options, key, service, removed, gone, &mut arranged.notes);
            let counted = options.counted(key, seen);
            for at in removed.keys() {
                let mut one = Leaving {
                    service: key.clone(),
                    destination: *at,
                    seconds,
                    counted,
                    connections: None,
                };
                one.connections = one.count(&seen.counters);
                arranged.pacing.leaving.push(one);
            }
        }
        drain(&mut arranged, &out, &seen.state);
        // The steps are the same, and there is no connection to wait for.
        for one in &mut arranged.pacing.leaving {
            let removed = out.removed.get(&one.service).and_then(|all| all.get(&one.destination));
            let quiet = removed.is_some_and(|destination| destination.weight == 0);
            if quiet && one.connections == Some(0) {
                one.seconds = 0;
            }
        }
    }
    ramp::ramp(options, &seen.state, &mut arranged);
    arranged.notes.extend(scheduler_swap::caution(&arranged.stages, &seen.state));
    arranged.stages.retain(|(_, steps)| !steps.is_empty());
    arranged.stages.sort_by_key(|(stage, _)| *stage);
    arranged
}

/// What the steps take out.
struct Out {
    removed: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Destination>>,
    services: BTreeSet<ServiceKey>,
}

impl Out {
    fn of(stages: &[(Stage, Vec<Step>)]) -> Self {
        let mut out = Self { removed: BTreeMap::new(), services: BTreeSet::new() };
        for step in stages.iter().flat_map(|(_, steps)| steps) {
            if let Some((id, destination)) = step.edit.removed::<Destination>() {
                let of_service = out.removed.entry(id.service.clone()).or_default();
                of_service.insert(id.key, destination.clone());
            }
            if let Some((key, _)) = step.edit.removed::<VirtualService>() {
                out.services.insert(key.clone());
            }
        }
        out
    }
}

/// How long the real servers that leave `service` are waited for.
fn seconds(
    options: &PacingOptions<'_>,
    key: &ServiceKey,
    service: &VirtualService,
    removed: &BTreeMap<DestinationKey, Destination>,
    gone: bool,
    notes: &mut Vec<String>,
) -> u32 {
    if let Some(seconds) = options.overrides.drain {
        return seconds;
    }
    let Some(file) = options.services.get(key).filter(|_| !gone) else { return 0 };
    let takes = |weight: u32| weight > 0;
    if file.pace.drain == 0 || !removed.values().any(|destination| takes(destination.weight)) {
        return file.pace.drain;
    }
    let mut others = service.destinations.iter().filter(|(at, _)| !removed.contains_key(*at));
    let why = if !others.any(|(_, destination)| takes(destination.weight)) {
        "no other real server could take new connections meanwhile, and all of them would be refused"
    } else if service.scheduler == "dh" {
        "the scheduler dh goes on choosing a real server of weight 0, and would refuse its clients"
    } else {
        return file.pace.drain;
    };
    notes.push(format!(
        "the real servers that leave {} are not drained: {why}; `--drain {}` does it all the same",
        file.display_name(),
        file.pace.drain
    ));
    0
}

/// Weight 0 before, and the removal expects it.
fn drain(arranged: &mut Arranged, out: &Out, seen: &HostState) {
    let Arranged { stages, pacing, .. } = arranged;
    let drained: BTreeMap<(&ServiceKey, DestinationKey), &Leaving> = pacing
        .leaving
        .iter()
        .filter(|one| one.seconds > 0)
        .map(|one| ((&one.service, one.destination), one))
        .collect();
    let is_drained = |edit: &Edit| {
        let (id, _) = edit.removed::<Destination>()?;
        drained.get(&(&id.service, id.key)).copied()
    };
    let mut steps = Vec::new();
    for step in stages.iter_mut().flat_map(|(_, steps)| steps) {
        let Some(one) = is_drained(&step.edit) else { continue };
        let Some(removal) = step.edit.of_mut::<Destination>() else { continue };
        let Some(destination) = removal.before.as_mut().filter(|now| now.weight > 0) else {
            continue;
        };
        let before = destination.clone();
        destination.weight = 0;
        let after = destination.clone();
        let change = Edit::change::<Destination>(removal.key.clone(), before, after);
        let why = format!(
            "it is removed ({}): it gets no new connections, and those that it has may end, for up to {} s",
            step.why, one.seconds
        );
        steps.push(Step { edit: change, why });
    }
    let services: BTreeSet<&ServiceKey> = drained.keys().map(|(service, _)| *service).collect();
    let (first, last) = meanwhile(&services, out, seen, stages);
    steps.splice(0..0, first);
    if steps.is_empty() {
        return;
    }
    let is_last = |step: &Step| is_drained(&step.edit).is_some();
    for (_, steps) in stages.iter_mut().rev() {
        if let Some(at) = steps.iter().rposition(is_last) {
            let behind = steps.split_off(at + 1);
            steps.extend(last.into_iter().chain(behind));
            break;
        }
    }
    stages.push((Stage::Drain, steps));
}

/// What is otherwise while real servers of `services` have weight 0, and how it is put back.
fn meanwhile(
    services: &BTreeSet<&ServiceKey>,
    out: &Out,
    seen: &HostState,
    stages: &mut [(Stage, Vec<Step>)],
) -> (Vec<Step>, Vec<Step>) {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let there = || services.iter().filter_map(|key| Some((*key, seen.services.get(*key)?)));
    if there().any(|(_, service)| service.flags.has(ServiceFlags::PERSISTENT)) {
        let (set, back) = let_go(seen, stages);
        first.extend(set);
        last.extend(back);
    }
    for (key, service) in there().filter(|(key, _)| !out.services.contains(*key)) {
        let hashes = matches!(service.scheduler.as_str(), "sh" | "mh");
        if !hashes || service.flags.has(ServiceFlags::SCHEDULER_1) {
            continue;
        }
        let before = service.settings();
        let flags = ServiceFlags::new(before.flags.bits() | ServiceFlags::SCHEDULER_1);
        let after = VirtualService { flags, ..before.clone() };
        let edit = |before: &VirtualService, after: &VirtualService| {
            Edit::change::<VirtualService>(key.clone(), before.clone(), after.clone())
        };
        let why = format!(
            "{} goes on choosing a real server of weight 0: without this flag its clients would be refused \
             until it is removed",
            service.scheduler
        );
        first.push(Step { edit: edit(&before, &after), why });
        let why = "put back: what was drained is removed".to_owned();
        last.push(Step { edit: edit(&after, &before), why });
    }
    (first, last)
}

/// Persistence lets go of what is drained: now if the plan wants that anyhow, else for a while.
fn let_go(seen: &HostState, stages: &mut [(Stage, Vec<Step>)]) -> (Option<Step>, Option<Step>) {
    if seen.sysctls.get(&EXPIRE_TEMPLATES).is_none_or(|value| value != "0") {
        return (None, None);
    }
    let expires =
        |(key, _, after): (&Sysctl, &String, &String)| *key == EXPIRE_TEMPLATES && after != "0";
    let wanted = |step: &Step| step.edit.changed::<Sysctl>().is_some_and(expires);
    for (_, steps) in stages {
        if let Some(at) = steps.iter().position(wanted) {
            return (Some(steps.remove(at)), None);
        }
    }
    let set = |before: &str, after: &str, why: &str| Step {
        edit: Edit::change::<Sysctl>(EXPIRE_TEMPLATES, before.to_owned(), after.to_owned()),
        why: why.to_owned(),
    };
    let why = "persistence would send clients that were there before to a real server of weight 0";
    let back = "put back: what was drained is removed";
    (Some(set("0", "1", why)), Some(set("1", "0", back)))
}

/// Settings that the steps only borrow (without owning them) are in the receipt until the commit: after a
/// run that was cut off they are put back like anything else of ours.
pub fn borrow<'a>(goal: &mut Goal, edits: impl IntoIterator<Item = &'a Edit>, seen: &HostState) {
    for edit in edits {
        let Some((key, ..)) = edit.changed::<Sysctl>() else { continue };
        let item = Item::Sysctl(key.clone());
        if goal.owned.contains(&item) || !BORROWED.contains(key) {
            continue;
        }
        if goal.receipt.owned.insert(item.clone()) {
            goal.receipt.found.copy_item(&item, seen);
        }
    }
}
