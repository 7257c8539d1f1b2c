//! Steps applied in memory, as strictly as the kernel applies them: adding what is there, changing or
//! removing what is not there, or finding something else than `before` says are errors.
//!
//! What the kernel changes by itself along the way is simulated too: writing `ip_forward` moves other
//! values (net/ipv4/devinet.c, `inet_forward_change`), and loading `ipip` brings `tunl0`, down and
//! with the values of `conf.default`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::step::Change;
use crate::state::{
    ConfDev, ConfItem, HostState, Link, Module, ServiceKey, Sysctl, VirtualService,
};
use crate::topology::IfName;

/// Why a step cannot be done in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// It would be added but is there.
    #[error("{change}: it is there already")]
    Exists {
        /// The step.
        change: String,
    },
    /// It would be changed or removed but is not there.
    #[error("{change}: it is not there")]
    Absent {
        /// The step.
        change: String,
    },
    /// It is there, but not as the step says.
    #[error("{change}: what is there is not what the step expects")]
    Different {
        /// The step.
        change: String,
    },
    /// A service would be removed that still has destinations.
    #[error("{change}: it still has real servers")]
    Occupied {
        /// The step.
        change: String,
    },
}

/// The state after `changes`, one after the other, or the first that could not be done.
pub fn simulate<'a>(
    state: &HostState,
    changes: impl IntoIterator<Item = &'a Change>,
) -> Result<HostState, SimulateError> {
    let mut state = state.clone();
    for change in changes {
        apply(&mut state, change)?;
    }
    Ok(state)
}

/// Does one change.
pub fn apply(state: &mut HostState, change: &Change) -> Result<(), SimulateError> {
    let name = || change.to_string();
    match change {
        Change::LoadModule { module } => {
            if state.modules.insert(*module) && *module == Module::Ipip {
                tunnel_appears(state);
            }
            Ok(())
        }
        Change::SetSysctl { key, before, after } => {
            replace(&mut state.sysctls, key, before, after, name)?;
            if *key == Sysctl::IpForward && before != after {
                forwarding_follows(state, after);
            }
            Ok(())
        }
        Change::SetLink { dev, before, after } => {
            replace(&mut state.links, dev, before, after, name)
        }
        Change::AddAddress { key, address } => add(&mut state.addresses, key, address, name),
        Change::RemoveAddress { key, address } => remove(&mut state.addresses, key, address, name),
        Change::AddRoute { key, route } => add(&mut state.routes, key, route, name),
        Change::ReplaceRoute { key, before, after } => {
            replace(&mut state.routes, key, before, after, name)
        }
        Change::RemoveRoute { key, route } => remove(&mut state.routes, key, route, name),
        Change::AddService { key, service } => add(&mut state.services, key, service, name),
        Change::EditService { key, before, after } => {
            let service = present(&mut state.services, key, name)?;
            if !service.same_settings(before) {
                return Err(SimulateError::Different { change: name() });
            }
            let destinations = std::mem::take(&mut service.destinations);
            *service = VirtualService { destinations, ..after.clone() };
            Ok(())
        }
        Change::RemoveService { key, service } => {
            let present = present(&mut state.services, key, name)?;
            if !present.destinations.is_empty() {
                return Err(SimulateError::Occupied { change: name() });
            }
            remove(&mut state.services, key, service, name)
        }
        Change::AddDestination { service, key, destination } => {
            add(destinations(state, service, name)?, key, destination, name)
        }
        Change::EditDestination { service, key, before, after } => {
            replace(destinations(state, service, name)?, key, before, after, name)
        }
        Change::RemoveDestination { service, key, destination } => {
            remove(destinations(state, service, name)?, key, destination, name)
        }
    }
}

fn destinations<'a>(
    state: &'a mut HostState,
    service: &ServiceKey,
    name: impl Fn() -> String,
) -> Result<&'a mut BTreeMap<crate::state::DestinationKey, crate::state::Destination>, SimulateError>
{
    present(&mut state.services, service, name).map(|service| &mut service.destinations)
}

fn present<'a, K: Ord, V>(
    map: &'a mut BTreeMap<K, V>,
    key: &K,
    name: impl Fn() -> String,
) -> Result<&'a mut V, SimulateError> {
    map.get_mut(key).ok_or_else(|| SimulateError::Absent { change: name() })
}

fn add<K: Ord + Clone, V: Clone>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    value: &V,
    name: impl Fn() -> String,
) -> Result<(), SimulateError> {
    match map.entry(key.clone()) {
        Entry::Occupied(_) => Err(SimulateError::Exists { change: name() }),
        Entry::Vacant(place) => {
            place.insert(value.clone());
            Ok(())
        }
    }
}

fn replace<K: Ord, V: Clone + PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    before: &V,
    after: &V,
    name: impl Fn() -> String,
) -> Result<(), SimulateError> {
    let value = present(map, key, &name)?;
    if value != before {
        return Err(SimulateError::Different { change: name() });
    }
    *value = after.clone();
    Ok(())
}

fn remove<K: Ord, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    expected: &V,
    name: impl Fn() -> String,
) -> Result<(), SimulateError> {
    let value = present(map, key, &name)?;
    if value != expected {
        return Err(SimulateError::Different { change: name() });
    }
    map.remove(key);
    Ok(())
}

/// `inet_forward_change`: `accept_redirects` of `all` becomes the opposite, `forwarding` of `default`
/// and of every interface the same. `all.forwarding` is the same variable as `ip_forward`.
fn forwarding_follows(state: &mut HostState, forward: &str) {
    let redirects = if forward == "0" { "1" } else { "0" };
    for (key, value) in &mut state.sysctls {
        match key {
            Sysctl::Conf(_, ConfItem::Forwarding) => forward.clone_into(value),
            Sysctl::Conf(ConfDev::All, ConfItem::AcceptRedirects) => redirects.clone_into(value),
            Sysctl::IpForward | Sysctl::Conf(..) => {}
        }
    }
}

/// The module brings its wildcard device: down, with the values that a new interface starts with.
fn tunnel_appears(state: &mut HostState) {
    let Ok(dev) = "tunl0".parse::<IfName>() else { return };
    state.links.entry(dev.clone()).or_insert(Link::Down);
    let inherited: Vec<_> = state
        .sysctls
        .iter()
        .filter_map(|(key, value)| match key {
            Sysctl::Conf(ConfDev::Default, item) => Some((Sysctl::dev(&dev, *item), value.clone())),
            Sysctl::IpForward | Sysctl::Conf(..) => None,
        })
        .collect();
    for (key, value) in inherited {
        state.sysctls.entry(key).or_insert(value);
    }
}
