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

/// What a person should know of `host` in maintenance where a health checker sets its weights, a line for each service.
pub(super) fn maintenance_cautions(topology: &Topology, host: &HostName) -> Vec<String> {
    if !topology.maintenance.contains(host) {
        return Vec::new();
    }
    let has = |service: &&Service| {
        let mut servers = service.real_servers.iter();
        service.weights == WeightSource::External && servers.any(|it| it.host == *host)
    };
    let line = |service: &Service| {
        format!(
            "the health checker of {} sets the weights of {}, and may give {host} one before `lvsprov return`, once its \
             checks pass again: have it keep {host} out too",
            service.director,
            service.display_name()
        )
    };
    topology.services.iter().filter(has).map(line).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::apply::cluster_plan::{self, ClusterPlan, Direction};
    use crate::apply::status;
    use crate::desired::desired;
    use crate::state::{Address, AddressKey, Link, Maintenance, Observation, Scope};
    use crate::support::Cluster;
    use crate::topology::Forward;

    fn plan(topology: &Topology, observed: &Observations) -> ClusterPlan {
        let direction = Direction::Apply { now: 7 };
        cluster_plan::plan(topology, &desired(topology), observed, &BTreeMap::new(), direction)
    }

    /// The director after an apply, with rs1 at weight 0 and rs2 removed.
    fn checked(topology: &Topology) -> (HostName, Observations) {
        let director: HostName = "director".parse().unwrap();
        let want = &desired(topology)[&director];
        let mut seen = Observation::default();
        let own = AddressKey { dev: "eth0".parse().unwrap(), net: "10.0.0.8/24".parse().unwrap() };
        seen.state.links.insert(own.dev.clone(), Link::Up);
        seen.state.addresses.insert(own, Address::plain(Scope::Global));
        let goal = crate::plan::Goal::apply(&topology.name, 7, want, &seen).unwrap();
        let found = std::mem::replace(&mut seen.state, goal.wanted);
        seen.state.links.extend(found.links);
        seen.state.addresses.extend(found.addresses);
        seen.receipt = goal.receipt_after;
        let service = seen.state.services.values_mut().next().unwrap();
        let keys: Vec<DestinationKey> = service.destinations.keys().copied().collect();
        service.destinations.get_mut(&keys[0]).unwrap().weight = 0;
        service.destinations.remove(&keys[1]);
        (director.clone(), [(director, Ok(seen))].into())
    }

    fn external() -> Topology {
        let mut topology = Cluster::of(&[(Forward::Dr, 80, vec![1, 2, 3])]).topology;
        topology.services[0].weights = WeightSource::External;
        topology
    }

    #[test]
    fn requests_are_expected_by_the_weights_of_the_table() {
        let topology = external();
        let (_, observed) = checked(&topology);
        let weights = |topology: &Topology| -> Vec<u32> {
            topology.services[0].real_servers.iter().map(|server| server.weight).collect()
        };
        assert_eq!(weights(&present_weights(&topology, &observed)), [0, 0, 1]);
        assert_eq!(weights(&present_weights(&topology, &Observations::new())), [1, 1, 1]);
        let mut own = topology.clone();
        own.services[0].weights = WeightSource::File;
        assert_eq!(weights(&present_weights(&own, &observed)), [1, 1, 1]);
    }

    #[test]
    fn status_names_what_is_out_and_counts_no_difference() {
        let topology = external();
        let (director, observed) = checked(&topology);
        let plan = plan(&topology, &observed);
        let report = status::status(&topology, &plan, &observed);
        let view = &report.hosts[&director];
        assert_eq!(view.drift, Vec::<String>::new());
        let json = serde_json::to_value(&view.external_weights).unwrap();
        let expected = serde_json::json!([
            {"host": "rs1", "service": "tcp 10.0.0.100:80", "destination": "10.0.0.1:80", "weight": 0,
             "file_weight": 1, "out_of_service": true},
            {"host": "rs2", "service": "tcp 10.0.0.100:80", "destination": "10.0.0.2:80", "weight": null,
             "file_weight": 1, "out_of_service": true},
        ]);
        assert_eq!(json, expected);
        let service = topology.services[0].display_name();
        assert_eq!(
            view.notes,
            [
                format!(
                    "rs1: out of service in {service} by the health checker of director: weight 0, the file has 1"
                ),
                format!(
                    "rs2: out of service in {service} by the health checker of director: removed, the file has weight 1"
                ),
            ]
        );
    }

    #[test]
    fn a_host_in_maintenance_may_get_a_weight_again() {
        let file = external();
        let (director, mut observed) = checked(&file);
        let out: Maintenance = [("rs3".parse().unwrap(), 9)].into_iter().collect();
        let topology = file.in_maintenance(&out);
        assert_eq!(maintenance_cautions(&topology, &"rs3".parse().unwrap()).len(), 1);
        assert_eq!(maintenance_cautions(&topology, &"rs1".parse().unwrap()).len(), 0);
        let seen = observed.get_mut(&director).unwrap().as_mut().unwrap();
        // As `maintain` leaves it, but for the weight.
        let want = &desired(&topology)[&director];
        let goal = crate::plan::Goal::apply(&topology.name, 7, want, seen).unwrap();
        seen.receipt = goal.receipt_after;
        let report = status::status(&topology, &plan(&topology, &observed), &observed);
        let notes = &report.hosts[&director].notes;
        assert!(notes.iter().any(|it| it.contains("rs3: in maintenance, but")), "{notes:?}");
    }
}
