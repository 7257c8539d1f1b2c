//! What a health checker on a director has made of services with `weights: external`: in words, and as what requests may
//! expect. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::session::Observations;
use crate::desired::{destination_key, service_key};
use crate::names::HostName;
use crate::plan::external::ExternalDifference;
use crate::state::{DestinationKey, ServiceKey};
use crate::topology::{RealServer, Service, Topology, WeightSource};

/// A real server whose weight is not the file's, as a health checker sets it. The JSON form is stable: members are only ever
/// added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalWeightView {
    /// The host's name.
    pub host: Option<HostName>,
    /// The service's key in the IPVS table.
    pub service: ServiceKey,
    /// Address and port.
    pub destination: DestinationKey,
    /// Its present weight; `None`: it was removed from the table.
    pub weight: Option<u32>,
    /// Its weight in the file, 0 in maintenance.
    pub file_weight: u32,
    /// Whether it gets no new connections, although the file gives it some.
    pub out_of_service: bool,
}

impl ExternalWeightView {
    /// `difference` on the director of `topology` that has it.
    pub(super) fn of(
        topology: &Topology,
        director: &HostName,
        difference: &ExternalDifference,
    ) -> Self {
        let found = find(topology, director, difference);
        Self {
            host: found.map(|(_, server)| server.host.clone()),
            service: difference.service.clone(),
            destination: difference.destination,
            weight: difference.weight,
            file_weight: difference.file,
            out_of_service: difference.is_out(),
        }
    }
}

fn find<'t>(
    topology: &'t Topology,
    director: &HostName,
    difference: &ExternalDifference,
) -> Option<(&'t Service, &'t RealServer)> {
    let is_it = |it: &&Service| it.director == *director && service_key(it) == difference.service;
    let service = topology.services.iter().find(is_it)?;
    let mut servers = service.real_servers.iter();
    let server = servers.find(|it| destination_key(service, it) == difference.destination)?;
    Some((service, server))
}

/// `difference` in one line.
pub(super) fn line(
    topology: &Topology,
    director: &HostName,
    difference: &ExternalDifference,
) -> String {
    let (name, service, maintained) = match find(topology, director, difference) {
        Some((service, server)) => (
            server.host.to_string(),
            service.display_name(),
            topology.maintenance.contains(&server.host),
        ),
        None => (difference.destination.to_string(), difference.service.to_string(), false),
    };
    let ExternalDifference { weight, file, .. } = difference;
    let checker = format!("the health checker of {director}");
    match weight {
        None => format!(
            "{name}: out of service in {service} by {checker}: removed, the file has weight {file}"
        ),
        Some(0) => {
            format!(
                "{name}: out of service in {service} by {checker}: weight 0, the file has {file}"
            )
        }
        Some(weight) if maintained => format!(
            "{name}: in maintenance, but {checker} gave it the weight {weight} in {service}: have the health checker \
             keep it out, or stop what it checks"
        ),
        Some(weight) => {
            format!("{name}: weight {weight} in {service} by {checker}, the file has {file}")
        }
    }
}

/// The topology with the weights that real servers of external services have now; those that were removed have 0. A
/// director that was not observed has the file's.
pub(super) fn present_weights<'t>(
    topology: &'t Topology,
    observed: &Observations,
) -> Cow<'t, Topology> {
    let is_external = |service: &Service| service.weights == WeightSource::External;
    if !topology.services.iter().any(is_external) {
        return Cow::Borrowed(topology);
    }
    let mut present = topology.clone();
    for service in present.services.iter_mut().filter(|service| is_external(service)) {
        let Some(Ok(seen)) = observed.get(&service.director) else { continue };
        let Some(there) = seen.state.services.get(&service_key(service)) else { continue };
        let keys: Vec<DestinationKey> =
            service.real_servers.iter().map(|server| destination_key(service, server)).collect();
        for (server, key) in service.real_servers.iter_mut().zip(keys) {
            server.weight = there.destinations.get(&key).map_or(0, |it| it.weight);
        }
    }
    Cow::Owned(present)
}

/// What a person should know of hosts that are in maintenance and in an external service of `director`.
pub(super) fn maintenance_cautions(topology: &Topology, director: &HostName) -> Vec<String> {
    let services = topology
        .services
        .iter()
        .filter(|it| it.director == *director && it.weights == WeightSource::External);
    let mut all = Vec::new();
    for service in services {
        let mut servers = service.real_servers.iter();
        if let Some(server) = servers.find(|it| topology.maintenance.contains(&it.host)) {
            all.push(format!(
                "the health checker of {director} sets the weights of {}, and may give {} one before `lvsprov return`, \
                 once its checks pass again: have the health checker keep it out too",
                service.display_name(),
                server.host
            ));
        }
    }
    all
}
