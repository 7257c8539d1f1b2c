//! The IPVS table in memory, as strict as the plan is: what is not as a change expects it is an error
//! before anything is sent. The kernel itself would overwrite or delete it without a word.

use std::collections::BTreeMap;

use super::codec::IpvsRequest as Request;
use crate::kernel::error::{Error, Result};
use crate::state::{
    Destination, DestinationId, DestinationKey, Edit, ForwardingMethod, KeyedEdit, ServiceKey,
    VirtualService,
};

/// Services with their destinations.
pub type Table = BTreeMap<ServiceKey, VirtualService>;

/// What to ask the kernel for `edit`; `None` if it is not one of IPVS's.
pub fn request(edit: &Edit) -> Option<Request> {
    match edit {
        Edit::Service(KeyedEdit { key, before, after }) => match (before, after) {
            (None, Some(service)) => Some(Request::NewService(key.clone(), service.settings())),
            (Some(_), Some(after)) => Some(Request::SetService(key.clone(), after.settings())),
            (Some(_), None) => Some(Request::DeleteService(key.clone())),
            (None, None) => None,
        },
        Edit::Destination(KeyedEdit { key: DestinationId { service, key }, before, after }) => {
            let service = service.clone();
            match (before, after) {
                (None, Some(new)) => Some(Request::NewDestination(service, *key, new.clone())),
                (Some(_), Some(new)) => Some(Request::SetDestination(service, *key, new.clone())),
                (Some(_), None) => Some(Request::DeleteDestination(service, *key)),
                (None, None) => None,
            }
        }
        _ => None,
    }
}

/// The service that `edit` names; `None` if it is not one of IPVS's.
pub fn service(edit: &Edit) -> Option<&ServiceKey> {
    match edit {
        Edit::Service(KeyedEdit { key, .. }) => Some(key),
        Edit::Destination(KeyedEdit { key, .. }) => Some(&key.service),
        _ => None,
    }
}

/// Checks `edit` against `table` and carries it out there. On an error the table is as before.
/// An edit of another kind does nothing here.
pub fn apply(table: &mut Table, edit: &Edit) -> Result<()> {
    match edit {
        Edit::Service(edit) => apply_to_service(table, edit),
        Edit::Destination(edit) => apply_to_destination(table, edit),
        _ => Ok(()),
    }
}

fn apply_to_service(table: &mut Table, edit: &KeyedEdit<VirtualService>) -> Result<()> {
    let KeyedEdit { key, before, after } = edit;
    match (before, after) {
        (None, after) => {
            if let Some(present) = table.get(key) {
                return Err(changed(key, "nothing", &present.to_string()));
            }
            table.extend(after.iter().map(|service| (key.clone(), service.settings())));
        }
        (Some(before), Some(after)) => {
            let present = service_like(table, key, before)?;
            let destinations = std::mem::take(&mut present.destinations);
            *present = VirtualService { destinations, ..after.settings() };
        }
        (Some(before), None) => {
            let present = service_like(table, key, before)?;
            if !present.destinations.is_empty() {
                let found = format!("{} of them", present.destinations.len());
                return Err(changed(key, "no real servers any more", &found));
            }
            table.remove(key);
        }
    }
    Ok(())
}

fn apply_to_destination(table: &mut Table, edit: &KeyedEdit<Destination>) -> Result<()> {
    let KeyedEdit { key: DestinationId { service, key }, before, after } = edit;
    let destinations = &mut service_there(table, service)?.destinations;
    let wrong = |expected: &str, found: &str| changed_destination(service, *key, expected, found);
    match (before, destinations.get(key)) {
        (None, Some(present)) => return Err(wrong("nothing", &present.to_string())),
        (Some(before), None) => return Err(wrong(&before.to_string(), "nothing")),
        (Some(before), Some(present)) if !same_destination(present, before) => {
            return Err(wrong(&before.to_string(), &present.to_string()));
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    match after {
        Some(after) => destinations.insert(*key, after.clone()),
        None => destinations.remove(key),
    };
    Ok(())
}

/// Equal, where the kernel's own choice "local" stands for whatever was asked for.
fn same_destination(a: &Destination, b: &Destination) -> bool {
    let Destination { method, weight, upper_threshold, lower_threshold, tunnel } = a;
    let local = ForwardingMethod::Local;
    (*method == b.method || *method == local || b.method == local)
        && *weight == b.weight
        && *upper_threshold == b.upper_threshold
        && *lower_threshold == b.lower_threshold
        && *tunnel == b.tunnel
}

fn changed(key: &ServiceKey, expected: &str, found: &str) -> Error {
    Error::changed_since(&format!("service {key}"), expected, found)
}

fn changed_destination(
    service: &ServiceKey,
    key: DestinationKey,
    expected: &str,
    found: &str,
) -> Error {
    Error::changed_since(&format!("real server {key} of {service}"), expected, found)
}

fn service_there<'a>(table: &'a mut Table, key: &ServiceKey) -> Result<&'a mut VirtualService> {
    table.get_mut(key).ok_or_else(|| changed(key, "the service", "nothing"))
}

fn service_like<'a>(
    table: &'a mut Table,
    key: &ServiceKey,
    expected: &VirtualService,
) -> Result<&'a mut VirtualService> {
    let there = service_there(table, key)?;
    if there.same_settings(expected) {
        Ok(there)
    } else {
        Err(changed(key, &expected.to_string(), &there.to_string()))
    }
}
