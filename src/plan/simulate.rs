//! Steps applied in memory, as strictly as the kernel applies them: adding what is there, changing or
//! removing what is not there, or finding something else than `before` says are errors.
//!
//! What the kernel changes by itself along the way is simulated too: writing `ip_forward` moves other
//! values (net/ipv4/devinet.c, `inet_forward_change`), loading `ipip` brings `tunl0`, down and with
//! the values of `conf.default`, and loading `ip_vs` brings `net.ipv4.vs`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::names::IfName;
use crate::state::{
    Change, Conf6Item, ConfDev, ConfItem, HostState, Link, Module, ServiceKey, Sysctl, Timeouts,
    VirtualService, VsItem,
};

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
            if state.modules.insert(*module) {
                comes_with(state, *module);
            }
            Ok(())
        }
        Change::SetSysctl { key, before, after } => {
            replace(&mut state.sysctls, key, before, after, name)?;
            if before != after {
                match key {
                    Sysctl::IpForward => forwarding_follows(state, after),
                    Sysctl::Ip6Forward => forwarding6_follows(state, after),
                    Sysctl::Conf(..) | Sysctl::Conf6(..) | Sysctl::Vs(_) => {}
                }
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
        Change::SetTimeouts { before, after } => match state.timeouts {
            None => Err(SimulateError::Absent { change: name() }),
            Some(there) if there != *before => Err(SimulateError::Different { change: name() }),
            Some(_) => {
                state.timeouts = Some(*after);
                Ok(())
            }
        },
        Change::SetDaemon { role, before, after } => {
            set(&mut state.daemons, role, before.as_ref(), after.as_ref(), name)
        }
        Change::SetTable { name: table, before, after } => {
            set(&mut state.tables, table, before.as_ref(), after.as_ref(), name)
        }
        Change::AddTunnel { dev, device } => {
            add(&mut state.tunnels, dev, device, name)?;
            device_appears(state, dev);
            Ok(())
        }
        Change::RemoveTunnel { dev, device } => {
            remove(&mut state.tunnels, dev, device, name)?;
            device_goes(state, dev);
            Ok(())
        }
        Change::AddGuePort { port } => {
            if state.gue_ports.insert(*port) {
                return Ok(());
            }
            Err(SimulateError::Exists { change: name() })
        }
        Change::RemoveGuePort { port } => {
            if state.gue_ports.remove(port) {
                return Ok(());
            }
            Err(SimulateError::Absent { change: name() })
        }
    }
}

/// Adds, replaces or removes, as `before` and `after` say.
fn set<K: Ord + Clone, V: Clone + PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    before: Option<&V>,
    after: Option<&V>,
    name: impl Fn() -> String,
) -> Result<(), SimulateError> {
    match (before, after) {
        (None, None) => Ok(()),
        (None, Some(after)) => add(map, key, after, name),
        (Some(before), Some(after)) => replace(map, key, before, after, name),
        (Some(before), None) => remove(map, key, before, name),
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
            Sysctl::IpForward
            | Sysctl::Conf(..)
            | Sysctl::Conf6(..)
            | Sysctl::Ip6Forward
            | Sysctl::Vs(_) => {}
        }
    }
}

/// `addrconf_fixup_forwarding`: `forwarding` of `default` and of every interface follow `all`.
fn forwarding6_follows(state: &mut HostState, forward: &str) {
    for (key, value) in &mut state.sysctls {
        if let Sysctl::Conf6(_, Conf6Item::Forwarding) = key {
            forward.clone_into(value);
        }
    }
}

/// A module brings its wildcard device, and IPVS its settings and timeouts.
fn comes_with(state: &mut HostState, module: Module) {
    if let Some(dev) = module.device().and_then(|dev| dev.parse::<IfName>().ok()) {
        device_appears(state, &dev);
    }
    if module == Module::IpVs {
        state.timeouts.get_or_insert_with(Timeouts::default);
        for item in VsItem::ALL {
            if let Some(value) = item.default_value() {
                state.sysctls.entry(Sysctl::Vs(*item)).or_insert_with(|| value.to_owned());
            }
        }
    }
}

fn device_goes(state: &mut HostState, dev: &IfName) {
    state.links.remove(dev);
    state.addresses.retain(|key, _| key.dev != *dev);
    state.routes.retain(|_, route| route.dev.as_ref() != Some(dev));
    state.sysctls.retain(|key, _| match key {
        Sysctl::Conf(ConfDev::Dev(of), _) | Sysctl::Conf6(ConfDev::Dev(of), _) => of != dev,
        Sysctl::Conf(..)
        | Sysctl::Conf6(..)
        | Sysctl::IpForward
        | Sysctl::Ip6Forward
        | Sysctl::Vs(_) => true,
    });
}

/// A new device: down, with the values that a new interface starts with.
fn device_appears(state: &mut HostState, dev: &IfName) {
    state.links.entry(dev.clone()).or_insert(Link::Down);
    let inherited: Vec<_> = state
        .sysctls
        .iter()
        .filter_map(|(key, value)| match key {
            Sysctl::Conf(ConfDev::Default, item) => Some((Sysctl::dev(dev, *item), value.clone())),
            Sysctl::Conf6(ConfDev::Default, item) => {
                Some((Sysctl::Conf6(ConfDev::Dev(dev.clone()), *item), value.clone()))
            }
            Sysctl::Conf(..)
            | Sysctl::Conf6(..)
            | Sysctl::IpForward
            | Sysctl::Ip6Forward
            | Sysctl::Vs(_) => None,
        })
        .collect();
    for (key, value) in inherited {
        state.sysctls.entry(key).or_insert(value);
    }
}
