//! Whether a change is to be seen in a state: what tells how far a transaction came that was cut off.

use super::step::Change;
use crate::state::{HostState, Item, VirtualService};

impl Change {
    /// Names what is changed, finer than [`Change::item`]: a destination is a thing of its own here, as
    /// its service may be right while the destination is not.
    pub fn thing(&self) -> String {
        match self {
            Self::AddDestination { service, key, .. }
            | Self::EditDestination { service, key, .. }
            | Self::RemoveDestination { service, key, .. } => {
                format!("{} {key}", Item::Service(service.clone()))
            }
            _ => self.item().to_string(),
        }
    }

    /// Whether `state` is as this leaves it.
    pub fn is_done(&self, state: &HostState) -> bool {
        let there = |service| state.services.get(service);
        let same = |now: Option<&VirtualService>, wanted: &VirtualService| {
            now.is_some_and(|now| now.same_settings(wanted))
        };
        match self {
            Self::LoadModule { module } => state.modules.contains(module),
            Self::SetSysctl { key, after, .. } => state.sysctls.get(key) == Some(after),
            Self::SetLink { dev, after, .. } => state.links.get(dev) == Some(after),
            Self::AddAddress { key, address } => state.addresses.get(key) == Some(address),
            Self::RemoveAddress { key, .. } => !state.addresses.contains_key(key),
            Self::AddRoute { key, route } | Self::ReplaceRoute { key, after: route, .. } => {
                state.routes.get(key) == Some(route)
            }
            Self::RemoveRoute { key, .. } => !state.routes.contains_key(key),
            Self::AddService { key, service } | Self::EditService { key, after: service, .. } => {
                same(there(key), service)
            }
            Self::RemoveService { key, .. } => there(key).is_none(),
            Self::AddDestination { service, key, destination }
            | Self::EditDestination { service, key, after: destination, .. } => {
                there(service).and_then(|s| s.destinations.get(key)) == Some(destination)
            }
            Self::RemoveDestination { service, key, .. } => {
                there(service).is_none_or(|s| !s.destinations.contains_key(key))
            }
            Self::SetTimeouts { after, .. } => state.timeouts == Some(*after),
            Self::SetDaemon { role, after, .. } => state.daemons.get(role) == after.as_ref(),
            Self::SetTable { name, after, .. } => state.tables.get(name) == after.as_ref(),
            Self::AddTunnel { dev, device } => state.tunnels.get(dev) == Some(device),
            Self::RemoveTunnel { dev, .. } => !state.tunnels.contains_key(dev),
            Self::AddGuePort { port } => state.gue_ports.contains(port),
            Self::RemoveGuePort { port } => !state.gue_ports.contains(port),
        }
    }
}
