//! The IPVS table in memory, as strict as the plan is: what is not as a change expects it is an error
//! before anything is sent. The kernel itself would overwrite or delete it without a word.

use std::collections::BTreeMap;

use super::codec::Request;
use crate::kernel::error::{Error, Result};
use crate::state::{
    Change, Destination, DestinationKey, ForwardingMethod, ServiceKey, VirtualService,
};

/// Services with their destinations.
pub type Table = BTreeMap<ServiceKey, VirtualService>;

/// What to ask the kernel for `change`; `None` if it is not one of IPVS's.
pub fn request(change: &Change) -> Option<Request> {
    Some(match change {
        Change::AddService { key, service } => {
            Request::NewService(key.clone(), without_destinations(service))
        }
        Change::EditService { key, before: _, after } => {
            Request::SetService(key.clone(), without_destinations(after))
        }
        Change::RemoveService { key, service: _ } => Request::DeleteService(key.clone()),
        Change::AddDestination { service, key, destination } => {
            Request::NewDestination(service.clone(), *key, destination.clone())
        }
        Change::EditDestination { service, key, before: _, after } => {
            Request::SetDestination(service.clone(), *key, after.clone())
        }
        Change::RemoveDestination { service, key, destination: _ } => {
            Request::DeleteDestination(service.clone(), *key)
        }
        Change::LoadModule { .. }
        | Change::SetSysctl { .. }
        | Change::SetLink { .. }
        | Change::AddAddress { .. }
        | Change::RemoveAddress { .. }
        | Change::AddRoute { .. }
        | Change::ReplaceRoute { .. }
        | Change::RemoveRoute { .. }
        | Change::SetTimeouts { .. }
        | Change::SetDaemon { .. }
        | Change::SetTable { .. }
        | Change::AddTunnel { .. }
        | Change::RemoveTunnel { .. }
        | Change::AddGuePort { .. }
        | Change::RemoveGuePort { .. } => return None,
    })
}

/// Checks `change` against `table` and carries it out there. On an error the table is as before.
/// What is not a change of IPVS is none of the table's business: that is fine, and does nothing.
pub fn apply(table: &mut Table, change: &Change) -> Result<()> {
    match change {
        Change::AddService { key, service } => {
            if let Some(there) = table.get(key) {
                return Err(changed(key, "nothing", &there.to_string()));
            }
            table.insert(key.clone(), without_destinations(service));
        }
        Change::EditService { key, before, after } => {
            let there = service_like(table, key, before)?;
            let destinations = std::mem::take(&mut there.destinations);
            *there = VirtualService { destinations, ..after.clone() };
        }
        Change::RemoveService { key, service } => {
            let there = service_like(table, key, service)?;
            if !there.destinations.is_empty() {
                let found = format!("{} of them", there.destinations.len());
                return Err(changed(key, "no real servers any more", &found));
            }
            table.remove(key);
        }
        Change::AddDestination { service, key, destination } => {
            let there = service_there(table, service)?;
            if let Some(old) = there.destinations.get(key) {
                return Err(changed_destination(service, *key, "nothing", &old.to_string()));
            }
            there.destinations.insert(*key, destination.clone());
        }
        Change::EditDestination { service, key, before, after } => {
            *destination_like(table, service, *key, before)? = after.clone();
        }
        Change::RemoveDestination { service, key, destination } => {
            destination_like(table, service, *key, destination)?;
            service_there(table, service)?.destinations.remove(key);
        }
        Change::LoadModule { .. }
        | Change::SetSysctl { .. }
        | Change::SetLink { .. }
        | Change::AddAddress { .. }
        | Change::RemoveAddress { .. }
        | Change::AddRoute { .. }
        | Change::ReplaceRoute { .. }
        | Change::RemoveRoute { .. }
        | Change::SetTimeouts { .. }
        | Change::SetDaemon { .. }
        | Change::SetTable { .. }
        | Change::AddTunnel { .. }
        | Change::RemoveTunnel { .. }
        | Change::AddGuePort { .. }
        | Change::RemoveGuePort { .. } => {}
    }
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

fn without_destinations(service: &VirtualService) -> VirtualService {
    VirtualService { destinations: BTreeMap::new(), ..service.clone() }
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

fn destination_like<'a>(
    table: &'a mut Table,
    service: &ServiceKey,
    key: DestinationKey,
    expected: &Destination,
) -> Result<&'a mut Destination> {
    let there = service_there(table, service)?.destinations.get_mut(&key);
    match there {
        None => Err(changed_destination(service, key, &expected.to_string(), "nothing")),
        Some(there) if same_destination(there, expected) => Ok(there),
        Some(there) => {
            Err(changed_destination(service, key, &expected.to_string(), &there.to_string()))
        }
    }
}
