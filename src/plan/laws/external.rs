//! A health checker beside lvsprov: whatever it does to the weights, no apply works against it.

use std::collections::BTreeSet;

use proptest::sample::{Index, select};

use super::*;
use crate::topology::{Topology, WeightSource};

/// What a health checker does to one real server, or beside them.
#[derive(Debug, Clone)]
enum CheckerAct {
    Weight(Index, u32),
    Remove(Index),
    Restore(Index),
    SorryServer(Index),
}

fn acts() -> impl Strategy<Value = Vec<CheckerAct>> {
    let act = prop_oneof![
        (any::<Index>(), select(vec![0u32, 0, 1, 7]))
            .prop_map(|(at, weight)| CheckerAct::Weight(at, weight)),
        any::<Index>().prop_map(CheckerAct::Remove),
        any::<Index>().prop_map(CheckerAct::Restore),
        any::<Index>().prop_map(CheckerAct::SorryServer),
    ];
    proptest::collection::vec(act, 0..6)
}

/// The places of all destinations of the director's services in `state`.
fn places(state: &HostState) -> Vec<DestinationId> {
    let of = |(key, service): (&ServiceKey, &VirtualService)| {
        let ids = service.destinations.keys();
        ids.map(|at| DestinationId { service: key.clone(), key: *at }).collect::<Vec<_>>()
    };
    state.services.iter().flat_map(of).collect()
}

fn check(seen: &mut Observation, made: &HostState, acts: &[CheckerAct]) {
    let all = places(made);
    if all.is_empty() {
        return;
    }
    for act in acts {
        let (CheckerAct::Weight(nth, _)
        | CheckerAct::Remove(nth)
        | CheckerAct::Restore(nth)
        | CheckerAct::SorryServer(nth)) = act;
        let DestinationId { service: key, key: at } = nth.get(&all);
        let Some(service) = seen.state.services.get_mut(key) else { continue };
        let first = made.services[key].destinations[at].clone();
        match act {
            CheckerAct::Weight(_, weight) => {
                if let Some(destination) = service.destinations.get_mut(at) {
                    destination.weight = *weight;
                }
            }
            CheckerAct::Remove(_) => drop(service.destinations.remove(at)),
            CheckerAct::Restore(_) => drop(service.destinations.insert(*at, first)),
            CheckerAct::SorryServer(_) => {
                let sorry = DestinationKey::new([10, 0, 0, 99].into(), at.0.port());
                if !key.is_ipv6() {
                    service.destinations.insert(sorry, first);
                }
            }
        }
    }
}

fn director(topology: &Topology) -> Desired {
    desired_for(topology, &topology.hosts[&"director".parse::<crate::names::HostName>().unwrap()])
}

fn weight(state: &HostState, id: &DestinationId) -> Option<u32> {
    Some(state.services.get(&id.service)?.destinations.get(&id.key)?.weight)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn law_no_apply_works_against_a_health_checker(
        cluster in cluster(),
        seen in seen_state(),
        first in acts(),
        second in acts(),
        weights in proptest::collection::vec(0u32..4, 1..4),
    ) {
        let mut file = cluster.topology;
        for service in &mut file.services {
            service.weights = WeightSource::External;
        }
        let found = sighting(seen, None);
        let mut now = applied(&director(&file), &found);
        let made = now.state.clone();
        let keys = director(&file).external;
        for key in &keys {
            // What is made anew has the file's weights.
            prop_assert_eq!(&made.services[key], &director(&file).state.services[key]);
        }

        // Whatever the checker does is no drift.
        check(&mut now, &made, &first);
        let again = goal(&director(&file), &now);
        prop_assert_eq!(changes(&now.state, &again), vec![]);

        // The file changes: weights, and a real server that leaves.
        let mut edited = file.clone();
        let mut left = BTreeSet::new();
        for service in &mut edited.services {
            for (server, weight) in service.real_servers.iter_mut().zip(&weights) {
                server.weight = *weight;
            }
            if service.real_servers.len() > 1 {
                let gone = service.real_servers.remove(0);
                let at = crate::desired::destination_key(service, &gone);
                left.insert(DestinationId { service: crate::desired::service_key(service), key: at });
            }
        }
        let desired = director(&edited);
        let after = applied(&desired, &now);
        for id in places(&made) {
            if left.contains(&id) {
                prop_assert_eq!(weight(&after.state, &id), None, "it left the file");
            } else if weight(&file_state(&file), &id).is_some_and(|weight| weight > 0)
                && weight(&now.state, &id).unwrap_or(0) == 0
            {
                prop_assert_eq!(weight(&after.state, &id), weight(&now.state, &id), "it is out");
            }
        }
        // Also where the apply was cut off anywhere.
        let edits = changes(&now.state, &goal(&desired, &now));
        for count in 0..=edits.len() {
            let state = simulate(&now.state, &edits[..count]).unwrap();
            for id in places(&state) {
                let (before, now) = (weight(&now.state, &id), weight(&state, &id));
                let is_known = weight(&made, &id).is_some_and(|made| made > 0);
                prop_assert!(!(is_known && before.unwrap_or(0) == 0 && now.unwrap_or(0) > 0), "{}", id.key);
            }
        }
        prop_assert_eq!(changes(&after.state, &goal(&desired, &after)), vec![]);
        prop_assert_eq!(&goal(&desired, &after).receipt_after, &after.receipt);

        // And after the checker's next acts, a wiped table, and in the end.
        let mut later = after.clone();
        check(&mut later, &after.state, &second);
        prop_assert_eq!(changes(&later.state, &goal(&desired, &later)), vec![]);
        let mut wiped = later.clone();
        wiped.state.services.clear();
        let made_again = applied(&desired, &wiped);
        for key in &keys {
            prop_assert_eq!(&made_again.state.services[key], &desired.state.services[key]);
        }
        for key in destroyed(&later).services.keys() {
            prop_assert!(found.state.services.contains_key(key) || !keys.contains(key), "{} is left", key);
        }
    }
}

fn file_state(file: &Topology) -> HostState {
    director(file).state
}
