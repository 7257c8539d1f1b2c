//! What is ours on a host, its values before, and so what an apply or a destroy must reach.
//!
//! The receipt on the host remembers, for every thing that the topology owns, what was found when it
//! was first taken. So removing something from the file gives it back, and destroy gives all back.
//! Writing `ip_forward`, or IPv6's `forwarding`, moves other values; those are remembered beside it (in
//! `found`, not in `owned`) and put back when it is given back. So are services that `ipvs: exclusive`
//! had no place for.

use std::collections::{BTreeMap, BTreeSet};

use super::external::{self, ExternalServices};
use super::simulate::{self, SimulateError};
use super::unmanaged::{self, AdoptPolicy, ExistingService};
use super::{accepted, boot, other_topologies};
use crate::desired::Desired;
use crate::names::TopologyName;
use crate::state::accepted::counts_together;
use crate::state::effects::{self, LEADERS, led_by};
use crate::state::{
    Destination, Edit, ExternalWeights, ForwardingMethod, HostState, Item, Maintenance, Module,
    Observation, Owned, Present, RECEIPT_VERSION, Receipt, Route, ServiceKey, Settled, Step,
    Sysctl, Timeouts,
};

/// What to reach on a host, and what its receipt must say on the way and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The state to reach, as far as `owned` goes.
    pub wanted: HostState,
    /// What may be changed.
    pub owned: Owned,
    /// What the receipt must say before the first step.
    pub receipt: Receipt,
    /// What it must say after the last; `None`: nothing is ours any more.
    pub receipt_after: Option<Receipt>,
    /// What the host makes again after a restart, from then on. `receipt_after` names its digest.
    pub settled: Option<Settled>,
    /// Services of the file that exist, are not ours, and match: they are used and left as they are.
    pub left: BTreeSet<ServiceKey>,
    /// Services of the file that exist, are not ours, and differ, with the difference: they stand in the way.
    pub contested: BTreeMap<ServiceKey, String>,
    /// Services that are removed because the table is ours as a whole.
    pub displaced: BTreeSet<ServiceKey>,
    /// Settings of the file with a value that serves, and that lvsprov did not write: they are left as they are.
    pub kept_settings: BTreeSet<Sysctl>,
}

impl Goal {
    /// The goal of `apply`: what the file wants, and what it no longer wants as it was found.
    pub fn apply(
        topology: &TopologyName,
        now: u64,
        desired: &Desired,
        seen: &Observation,
    ) -> Result<Self, SimulateError> {
        Self::apply_on(AdoptPolicy::default(), topology, now, desired, seen)
    }

    /// The same with another policy towards what lvsprov did not make.
    pub fn apply_on(
        policy: AdoptPolicy,
        topology: &TopologyName,
        now: u64,
        desired: &Desired,
        seen: &Observation,
    ) -> Result<Self, SimulateError> {
        let mut settled_state = inherit(&desired.state, &seen.state);
        let present = boot::present_receipt(seen);
        let takes_over = policy.adopt || policy.exclusive;
        let external = external::yield_to_checker(
            ExternalServices { keys: &desired.external, takes_over },
            &mut settled_state,
            &seen.state,
            present.as_ref(),
        );
        let (mut left, mut contested) = (BTreeSet::new(), BTreeMap::new());
        if !policy.adopt && !policy.exclusive {
            for (key, meeting) in unmanaged::met(&settled_state, seen) {
                match meeting {
                    ExistingService::Same => drop(left.insert(key.clone())),
                    ExistingService::Otherwise(how) => drop(contested.insert(key.clone(), how)),
                }
            }
        }
        settled_state.services.retain(|key, _| !left.contains(key));
        let settled = boot::settled(topology, desired, &left, policy);
        let before = with_modules(&seen.state, &settled_state.items())?;
        let kept_settings = accepted::keep(
            &desired.accepted,
            &mut settled_state,
            &before,
            (seen, present.as_ref()),
        );
        let ours = settled_state.items();
        let mut receipt = taking(topology, now, &ours, &before, (seen, present));
        if policy.adopt {
            adopt(&mut receipt, &settled_state, seen);
        }
        let displaced = if policy.exclusive {
            unmanaged::displaced(&settled_state, seen)
        } else {
            BTreeSet::new()
        };
        for key in &displaced {
            // What was here first is what it goes back to.
            if !receipt.found.services.contains_key(key) {
                receipt.found.copy_item(&Item::Service(key.clone()), &seen.state);
            }
        }

        let dropped: Owned = receipt.owned.difference(&ours).cloned().collect();
        let mut owned: Owned = receipt.owned.clone();
        let mut wanted = settled_state;
        for item in &dropped {
            wanted.copy_item(item, &receipt.found);
        }
        owned.extend(displaced.iter().cloned().map(Item::Service));
        if !policy.exclusive {
            // The table is no longer ours as a whole: what had no place comes back.
            for key in returning(&receipt) {
                let item = Item::Service(key);
                wanted.copy_item(&item, &receipt.found);
                owned.insert(item);
            }
        }
        for forward in LEADERS {
            if !ours.contains(&Item::Sysctl(forward.clone())) {
                let led = led_by(&forward, &receipt.found);
                wanted.sysctls.extend(led.clone());
                owned.extend(led.into_keys().map(Item::Sysctl));
            }
        }
        let mut kept = keeping(&receipt, &ours, policy.exclusive);
        let settled = (!policy.transient).then_some(settled);
        kept.settled = settled.as_ref().and_then(boot::digest);
        // Not in `receipt`: what is not committed has taken no host out, and returned none.
        kept.maintenance = desired.maintenance.clone();
        kept.drift = policy.drift.filter(|_| kept.settled.is_some());
        kept.external = external;
        kept.external.retain(|key, _| !left.contains(key));
        let receipt_after = (!ours.is_empty() || !kept.found.services.is_empty()).then_some(kept);
        let settled = settled.filter(|_| receipt_after.is_some());
        let goal = Self {
            wanted,
            owned,
            receipt,
            receipt_after,
            settled,
            left,
            contested,
            displaced,
            kept_settings,
        };
        Ok(goal.leaving(seen))
    }

    /// The goal of `destroy`: all as it was found. `None` where nothing is ours.
    pub fn destroy(seen: &Observation) -> Option<Self> {
        let receipt = boot::present_receipt(seen)?;
        let mut owned = receipt.owned.clone();
        owned.extend(receipt.found.items());
        let wanted = boot::without_loading(&receipt.found, &seen.state);
        let goal = Self {
            wanted,
            owned,
            receipt,
            receipt_after: None,
            settled: None,
            left: BTreeSet::new(),
            contested: BTreeMap::new(),
            displaced: BTreeSet::new(),
            kept_settings: BTreeSet::new(),
        };
        Some(goal.leaving(seen))
    }

    /// What is given up and another topology has too stays as it is now, with what moves along with it.
    fn leaving(mut self, seen: &Observation) -> Self {
        for item in other_topologies::left(&self.receipt, self.receipt_after.as_ref(), seen) {
            self.wanted.copy_item(&item, &seen.state);
            if let Item::Sysctl(key) = &item {
                let ours = self.receipt_after.as_ref().map(|receipt_after| &receipt_after.owned);
                let along = led_by(key, &self.receipt.found).into_keys().map(Item::Sysctl);
                for item in along.filter(|item| !ours.is_some_and(|ours| ours.contains(item))) {
                    self.wanted.copy_item(&item, &seen.state);
                }
            }
            self.owned.insert(item);
        }
        self
    }
}

/// The receipt with what is newly taken of `ours` added, as it is now; `before`: with the modules that are wanted.
fn taking(
    topology: &TopologyName,
    now: u64,
    ours: &Owned,
    before: &HostState,
    (seen, present): (&Observation, Option<Receipt>),
) -> Receipt {
    let mut receipt = present.unwrap_or_else(|| Receipt {
        version: RECEIPT_VERSION,
        topology: topology.clone(),
        since: now,
        owned: Owned::new(),
        found: HostState::default(),
        run: seen.run.clone(),
        settled: None,
        maintenance: Maintenance::default(),
        drift: None,
        external: ExternalWeights::new(),
    });
    take(&mut receipt, ours, before, seen);
    receipt
}

/// Adds those of `items` that `receipt` does not own, as they are in `before`.
pub(super) fn take(receipt: &mut Receipt, items: &Owned, before: &HostState, seen: &Observation) {
    for item in items.difference(&receipt.owned.clone()) {
        // A service that had no place in the table before the file named it was found earlier.
        let displaced =
            matches!(item, Item::Service(key) if receipt.found.services.contains_key(key));
        if !displaced {
            receipt.found.copy_item(item, found_before(item, before, seen));
        }
        if let Item::Sysctl(key) = item {
            take_along(receipt, key, before, seen);
        }
        receipt.owned.insert(item.clone());
    }
}

/// Remembers what moves when `key` is written, unless that is remembered already.
fn take_along(receipt: &mut Receipt, key: &Sysctl, before: &HostState, seen: &Observation) {
    for along in led_by(key, before).into_keys() {
        if !receipt.found.sysctls.contains_key(&along) {
            let item = Item::Sysctl(along);
            receipt.found.copy_item(&item, found_before(&item, before, seen));
        }
    }
}

/// Where it says how `item` was before any topology took it: in the receipt of another that has it, else in
/// what is here now. A receipt from before a restart says nothing of the present values.
pub(super) fn found_before<'a>(
    item: &Item,
    here: &'a HostState,
    seen: &'a Observation,
) -> &'a HostState {
    let current = |theirs: &&Receipt| !theirs.is_stale(seen.run.as_ref());
    let having = || seen.others.values().filter(current).filter(|theirs| speaks_of(theirs, item));
    let first = having().find(|theirs| theirs.found.differs(here, item));
    first.or_else(|| having().next()).map_or(here, |theirs| &theirs.found)
}

/// Whether a receipt says how `item` was.
fn speaks_of(receipt: &Receipt, item: &Item) -> bool {
    let Receipt { owned, found, .. } = receipt;
    owned.contains(item)
        || match item {
            Item::Sysctl(key) => found.sysctls.contains_key(key),
            Item::Service(key) => found.services.contains_key(key),
            _ => false,
        }
}

/// What the file names and lvsprov did not make counts as made by us from now on: nothing was found. What was
/// here otherwise and is ours since an earlier apply still goes back to what it was.
fn adopt(receipt: &mut Receipt, wanted: &HostState, seen: &Observation) {
    let nothing = HostState::default();
    let newly = |item: &Item| !seen.receipt.as_ref().is_some_and(|r| r.owned.contains(item));
    for item in wanted.items() {
        let takes = newly(&item) || unmanaged::is_same(&item, &receipt.found, &seen.state);
        if takes
            && unmanaged::can_be_adopted(&item, &seen.state)
            && !unmanaged::is_others(&item, seen)
        {
            receipt.found.copy_item(&item, &nothing);
        }
    }
}

/// Services in `found` that were never ours: they had no place in the table.
fn returning(receipt: &Receipt) -> Vec<ServiceKey> {
    let keys = receipt.found.services.keys();
    keys.filter(|key| !receipt.owned.contains(&Item::Service((*key).clone()))).cloned().collect()
}

/// The receipt with only `ours` left in it, and what had no place if the table stays ours.
fn keeping(receipt: &Receipt, ours: &Owned, exclusive: bool) -> Receipt {
    let mut found = receipt.found.restricted_to(ours);
    if exclusive {
        for key in returning(receipt) {
            found.copy_item(&Item::Service(key), &receipt.found);
        }
    }
    for forward in LEADERS {
        if ours.contains(&Item::Sysctl(forward.clone())) {
            found.sysctls.extend(led_by(&forward, &receipt.found));
        }
    }
    Receipt { owned: ours.clone(), found, ..receipt.clone() }
}

/// `seen` once the modules that `steps` load are there: what they bring starts as this says, and stays.
pub fn with_modules_of<'a>(
    steps: impl IntoIterator<Item = &'a Step>,
    seen: &HostState,
) -> Result<HostState, SimulateError> {
    with_modules(seen, &steps.into_iter().map(|step| step.edit.item()).collect())
}

/// The state once the modules that are wanted are there: `tunl0` comes with one of them, and how it
/// starts is what it must go back to, because modules stay.
pub(super) fn with_modules(seen: &HostState, ours: &Owned) -> Result<HostState, SimulateError> {
    let mut state = seen.clone();
    for item in ours {
        let Item::Module(module) = item else { continue };
        if !state.modules.contains(module) {
            simulate::apply(&mut state, &Edit::add::<Module>(*module, Present))?;
        }
    }
    Ok(state)
}

/// What the file leaves open is taken from the present value: the metric of a default route that is
/// replaced, all of a route that already leads where it should, the label of an address that exists,
/// and IPVS's own word for a real server that is the director itself.
pub(super) fn inherit(desired: &HostState, seen: &HostState) -> HostState {
    let mut state = desired.clone();
    for (key, route) in &mut state.routes {
        if let Some(there) = seen.routes.get(key) {
            *route = inherit_route(route, there);
        }
    }
    for (key, address) in &mut state.addresses {
        if let Some(there) = seen.addresses.get(key) {
            *address = there.clone();
        }
    }
    if let Some(wanted) = &mut state.timeouts {
        *wanted = inherit_timeouts(*wanted, seen.timeouts.unwrap_or_default());
    }
    for (role, daemon) in &mut state.daemons {
        let there = seen.daemons.get(role).filter(|there| there.interface == daemon.interface);
        if let Some(there) = there.filter(|_| daemon.max_length == 0) {
            daemon.max_length = there.max_length;
        }
    }
    for (key, service) in &mut state.services {
        let Some(there) = seen.services.get(key) else { continue };
        for (at, destination) in &mut service.destinations {
            if there.destinations.get(at).is_some_and(is_local) {
                destination.method = ForwardingMethod::Local;
            }
        }
    }
    state
}

/// 0 leaves a timeout as it is.
fn inherit_timeouts(wanted: Timeouts, there: Timeouts) -> Timeouts {
    let or = |wanted: u32, there: u32| if wanted == 0 { there } else { wanted };
    let Timeouts { tcp, tcp_fin, udp } = wanted;
    Timeouts {
        tcp: or(tcp, there.tcp),
        tcp_fin: or(tcp_fin, there.tcp_fin),
        udp: or(udp, there.udp),
    }
}

fn is_local(destination: &Destination) -> bool {
    destination.method == ForwardingMethod::Local
}

fn inherit_route(wanted: &Route, there: &Route) -> Route {
    // An MTU or a window is as welcome as a metric. What is for some packets only is not enough.
    let for_all = |text: &String| !text.starts_with("tos ") && !text.starts_with("type ");
    let leads_there = wanted.gateway == there.gateway && wanted.dev == there.dev;
    if leads_there && there.unsupported.iter().all(for_all) {
        return there.clone();
    }
    Route { metric: there.metric, ..wanted.clone() }
}

/// Values under /proc/sys that must be read to plan for `desired`: its own, whether IPv6 is off where it wants an
/// address, what a new tunnel inherits, what counts together with a device's own value. (What moves with `ip_forward` the agent adds itself.)
pub fn sysctls_to_read(desired: &HostState) -> BTreeSet<Sysctl> {
    let mut keys: BTreeSet<Sysctl> = desired.sysctls.keys().cloned().collect();
    keys.extend(desired.sysctls.keys().filter_map(counts_together));
    if desired.modules.contains(&Module::IpVs) {
        keys.extend(super::drain::BORROWED);
    }
    keys.extend(desired.addresses.keys().filter_map(super::preflight::disable_ipv6));
    let devices = desired.modules.iter().any(|module| module.device().is_some());
    if devices || !desired.tunnels.is_empty() {
        let inherited: Vec<_> = keys.iter().filter_map(effects::inherited_from).collect();
        keys.extend(inherited);
    }
    keys
}
