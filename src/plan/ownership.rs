//! What is ours on a host, what was there before, and so what an apply or a destroy must reach.
//!
//! The receipt on the host remembers, for every thing that the topology owns, what was found when it
//! was first taken. So removing something from the file gives it back, and destroy gives all back.
//! Writing `ip_forward`, or IPv6's `forwarding`, moves other values; those are remembered beside it (in
//! `found`, not in `owned`) and put back when it is given back.

use super::simulate::{self, SimulateError};
use super::step::Change;
use crate::desired::Desired;
use crate::protocol::{Receipt, Sighting};
use crate::state::{
    Conf6Item, ConfDev, ConfItem, Destination, ForwardingMethod, HostState, Item, Owned, Route,
    Sysctl, Timeouts,
};
use crate::topology::TopologyName;

/// The receipt's format.
pub const RECEIPT_VERSION: u32 = 1;

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
    pub settled: Option<Receipt>,
}

impl Goal {
    /// The goal of `apply`: what the file wants, and what it no longer wants as it was found.
    pub fn apply(
        topology: &TopologyName,
        now: u64,
        desired: &Desired,
        seen: &Sighting,
    ) -> Result<Self, SimulateError> {
        let settled_state = inherit(&desired.state, &seen.state);
        let ours = settled_state.items();
        let receipt = taking(topology, now, &ours, seen)?;

        let dropped: Owned = receipt.owned.difference(&ours).cloned().collect();
        let mut owned: Owned = receipt.owned.clone();
        let mut wanted = settled_state;
        for item in &dropped {
            wanted.copy_item(item, &receipt.found);
        }
        for forward in FORWARDING {
            if !ours.contains(&Item::Sysctl(forward.clone())) {
                let shadows = shadows(&forward, &receipt.found);
                wanted.sysctls.extend(shadows.clone());
                owned.extend(shadows.into_keys().map(Item::Sysctl));
            }
        }
        let settled = (!ours.is_empty()).then(|| keeping(&receipt, &ours));
        Ok(Self { wanted, owned, receipt, settled })
    }

    /// The goal of `destroy`: all as it was found. `None` where nothing is ours.
    pub fn destroy(seen: &Sighting) -> Option<Self> {
        let receipt = seen.receipt.clone()?;
        let mut owned = receipt.owned.clone();
        owned.extend(receipt.found.items());
        let wanted = receipt.found.clone();
        Some(Self { wanted, owned, receipt, settled: None })
    }
}

/// The receipt with what is newly taken added, as it is now.
fn taking(
    topology: &TopologyName,
    now: u64,
    ours: &Owned,
    seen: &Sighting,
) -> Result<Receipt, SimulateError> {
    let mut receipt = seen.receipt.clone().unwrap_or_else(|| Receipt {
        version: RECEIPT_VERSION,
        topology: topology.clone(),
        since: now,
        owned: Owned::new(),
        found: HostState::default(),
    });
    let before = with_modules(&seen.state, ours)?;
    for item in ours.difference(&receipt.owned.clone()) {
        receipt.found.copy_item(item, &before);
        if let Item::Sysctl(key) = item {
            receipt.found.sysctls.extend(shadows(key, &before));
        }
        receipt.owned.insert(item.clone());
    }
    Ok(receipt)
}

/// The receipt with only `ours` left in it.
fn keeping(receipt: &Receipt, ours: &Owned) -> Receipt {
    let mut found = receipt.found.restricted_to(ours);
    for forward in FORWARDING {
        if ours.contains(&Item::Sysctl(forward.clone())) {
            found.sysctls.extend(shadows(&forward, &receipt.found));
        }
    }
    Receipt { owned: ours.clone(), found, ..receipt.clone() }
}

/// What moves other values when it is written.
const FORWARDING: [Sysctl; 2] = [Sysctl::IpForward, Sysctl::Ip6Forward];

/// The values that move when `forward` is written (see [`FORWARDING`]); none for any other.
fn shadows(forward: &Sysctl, state: &HostState) -> std::collections::BTreeMap<Sysctl, String> {
    let moves = |key: &Sysctl| match (forward, key) {
        (Sysctl::IpForward, Sysctl::Conf(dev, item)) => match item {
            // `all.forwarding` is `ip_forward` itself.
            ConfItem::Forwarding => *dev != ConfDev::All,
            ConfItem::AcceptRedirects => *dev == ConfDev::All,
            _ => false,
        },
        (Sysctl::Ip6Forward, Sysctl::Conf6(dev, item)) => {
            *item == Conf6Item::Forwarding && *dev != ConfDev::All
        }
        _ => false,
    };
    let moving = state.sysctls.iter().filter(|(key, _)| moves(key));
    moving.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The state once the modules that are wanted are there: `tunl0` comes with one of them, and how it
/// starts is what it must go back to, because modules stay.
fn with_modules(seen: &HostState, ours: &Owned) -> Result<HostState, SimulateError> {
    let mut state = seen.clone();
    for item in ours {
        if let Item::Module(module) = item {
            simulate::apply(&mut state, &Change::LoadModule { module: *module })?;
        }
    }
    Ok(state)
}

/// What the file leaves open is taken over from what is there: the metric of a default route that is
/// replaced, all of a route that already leads where it should, the label of an address that exists,
/// and IPVS's own word for a real server that is the director itself.
fn inherit(desired: &HostState, seen: &HostState) -> HostState {
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
    if leads_there && there.unheld.iter().all(for_all) {
        return there.clone();
    }
    Route { metric: there.metric, ..wanted.clone() }
}

/// Values under /proc/sys that must be read to plan for `desired`: its own, what a new tunnel
/// inherits. (What moves with `ip_forward` the agent adds itself.)
pub fn sysctls_to_read(desired: &HostState) -> std::collections::BTreeSet<Sysctl> {
    let mut keys: std::collections::BTreeSet<Sysctl> = desired.sysctls.keys().cloned().collect();
    let devices = desired.modules.iter().any(|module| module.device().is_some());
    if devices || !desired.tunnels.is_empty() {
        let inherited = keys.iter().filter_map(|key| match key {
            Sysctl::Conf(ConfDev::Dev(_), item) => Some(Sysctl::Conf(ConfDev::Default, *item)),
            Sysctl::Conf6(ConfDev::Dev(_), item) => Some(Sysctl::Conf6(ConfDev::Default, *item)),
            Sysctl::IpForward
            | Sysctl::Conf(..)
            | Sysctl::Conf6(..)
            | Sysctl::Ip6Forward
            | Sysctl::Vs(_) => None,
        });
        let inherited: Vec<_> = inherited.collect();
        keys.extend(inherited);
    }
    keys
}
