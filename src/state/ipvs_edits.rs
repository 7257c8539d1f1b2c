//! Edits of the IPVS table: of a service's settings, and of each of its destinations.

use std::fmt;

use super::edit::{EditVerb, JsonNames, KeyedEdit, Misfit, SettingKind};
use super::{Destination, DestinationId, HostState, Item, ServiceKey, VirtualService};

/// An edit of a service has no destinations in `before` and `after`.
impl SettingKind for VirtualService {
    type Key = ServiceKey;
    type Value = Self;
    const JSON: JsonNames = JsonNames {
        tags: ["add_service", "edit_service", "remove_service"],
        key: "key",
        value: "service",
    };

    fn get(state: &HostState, key: &ServiceKey) -> Option<Self> {
        state.services.get(key).map(Self::settings)
    }

    fn put(state: &mut HostState, key: &ServiceKey, value: Option<Self>) {
        let present = state.services.remove(key);
        if let Some(value) = value {
            let destinations = present.map(|present| present.destinations).unwrap_or_default();
            state.services.insert(key.clone(), Self { destinations, ..value });
        }
    }

    fn keys(state: &HostState) -> Vec<ServiceKey> {
        state.services.keys().cloned().collect()
    }

    fn item(key: &ServiceKey) -> Item {
        Item::Service(key.clone())
    }

    fn copy(into: &mut HostState, key: &ServiceKey, from: &HostState) {
        match from.services.get(key) {
            Some(service) => drop(into.services.insert(key.clone(), service.clone())),
            None => drop(into.services.remove(key)),
        }
    }

    fn describe(state: &HostState, key: &ServiceKey) -> Option<String> {
        let service = state.services.get(key)?;
        let all = service.destinations.iter();
        let all: Vec<String> = all.map(|(key, how)| format!("{key} ({how})")).collect();
        Some(format!("{service}: {}", all.join(", ")))
    }

    /// The kernel would remove its destinations too, with their connections.
    fn misfit(state: &HostState, edit: &KeyedEdit<Self>) -> Option<Misfit> {
        let occupied = || state.services.get(&edit.key).is_some_and(|s| !s.destinations.is_empty());
        (edit.verb() == EditVerb::Remove && occupied()).then_some(Misfit::Occupied)
    }
}

impl SettingKind for Destination {
    type Key = DestinationId;
    type Value = Self;
    const JSON: JsonNames = JsonNames {
        tags: ["add_destination", "edit_destination", "remove_destination"],
        key: "",
        value: "destination",
    };

    fn get(state: &HostState, id: &DestinationId) -> Option<Self> {
        state.services.get(&id.service)?.destinations.get(&id.key).cloned()
    }

    fn put(state: &mut HostState, id: &DestinationId, value: Option<Self>) {
        let Some(service) = state.services.get_mut(&id.service) else { return };
        match value {
            Some(value) => drop(service.destinations.insert(id.key, value)),
            None => drop(service.destinations.remove(&id.key)),
        }
    }

    fn keys(state: &HostState) -> Vec<DestinationId> {
        let of = |(service, of): (&ServiceKey, &VirtualService)| {
            let service = service.clone();
            let keys: Vec<_> = of.destinations.keys().copied().collect();
            keys.into_iter().map(move |key| DestinationId { service: service.clone(), key })
        };
        state.services.iter().flat_map(of).collect()
    }

    fn item(id: &DestinationId) -> Item {
        Item::Service(id.service.clone())
    }

    fn precise_name(id: &DestinationId) -> String {
        format!("{} {}", Self::item(id), id.key)
    }

    fn misfit(state: &HostState, edit: &KeyedEdit<Self>) -> Option<Misfit> {
        (!state.services.contains_key(&edit.key.service)).then_some(Misfit::Absent)
    }

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, DestinationId { service, key }) = (edit.verb_text(), &edit.key);
        match (&edit.before, &edit.after) {
            (Some(before), Some(after)) => {
                write!(f, "{verb} real server {key} of {service}: {before} -> {after}")
            }
            (Some(value), None) => write!(f, "{verb} real server {key} from {service} ({value})"),
            (None, Some(value)) => write!(f, "{verb} real server {key} to {service} ({value})"),
            (None, None) => write!(f, "{verb} real server {key} of {service}"),
        }
    }
}
