//! Real servers that are taken out and returned, on the director: the receipt keeps them out, whichever controller plans.

use proptest::sample::{select, subsequence};

use super::*;
use crate::plan::maintenance::of_receipts;
use crate::topology::{Persistence, Scheduler, Topology};

fn director(topology: &Topology) -> Desired {
    desired_for(topology, &topology.hosts[&"director".parse::<crate::names::HostName>().unwrap()])
}

/// A host as it is after each edit.
fn states(seen: &HostState, edits: &[Edit]) -> Vec<HostState> {
    (0..=edits.len()).map(|count| simulate(seen, &edits[..count]).unwrap()).collect()
}

/// Whether a client that a hash leads to a real server of weight 0 goes to another one.
fn falls_back(state: &HostState) -> bool {
    state.services.values().all(|service| {
        let hashes = matches!(service.scheduler.as_str(), "sh" | "mh");
        let is_out = service.destinations.values().any(|destination| destination.weight == 0);
        !hashes || !is_out || service.flags.has(ServiceFlags::SCHEDULER_1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn law_maintenance_lasts_until_the_return_and_the_return_restores_the_file(
        cluster in cluster(),
        scheduler in select(Scheduler::ALL),
        persistent in any::<bool>(),
        hosts in subsequence(vec!["rs1", "rs2", "rs3"], 1..=3),
        seen in seen_state(),
    ) {
        let mut file = cluster.topology;
        file.services[0].scheduler = scheduler;
        if persistent && file.services[0].mark.is_none() && !file.services[0].ipv6 {
            file.services[0].persistence =
                Some(Persistence { timeout: 60, netmask: u32::MAX, engine: None });
        }
        let out: Maintenance = hosts.iter().map(|host| (host.parse().unwrap(), 9)).collect();
        let out = out.among(&file.real_servers());
        let before = applied(&director(&file), &sighting(seen, None));

        let topology = file.in_maintenance(&out);
        let goal_out = goal(&director(&topology), &before);
        let edits = changes(&before.state, &goal_out);
        for state in states(&before.state, &edits) {
            prop_assert!(falls_back(&state), "{:#?}", edits);
        }
        let after = applied(&director(&topology), &before);
        let receipt = after.receipt.clone().unwrap();
        prop_assert_eq!(&receipt.maintenance, &out);
        // Cut off anywhere it has taken no host out.
        prop_assert!(goal_out.receipt.maintenance.is_empty());
        for service in &topology.services {
            let there = &after.state.services[&crate::desired::service_key(service)];
            for server in &service.real_servers {
                let at = crate::desired::destination_key(service, server);
                let weight = there.destinations.get(&at).map(|destination| destination.weight);
                if out.contains(&server.host) {
                    let gone = service.scheduler == Scheduler::Dh;
                    prop_assert_eq!(weight, if gone { None } else { Some(0) });
                } else {
                    prop_assert_eq!(weight, Some(server.weight));
                }
            }
        }

        // Another controller with the same file, and a change of it.
        let found = of_receipts([&receipt]);
        prop_assert_eq!(&found, &out);
        let again = director(&file.in_maintenance(&found));
        prop_assert_eq!(changes(&after.state, &goal(&again, &after)), vec![]);
        prop_assert_eq!(&goal(&again, &after).receipt_after, &after.receipt);
        let mut edited = file.clone();
        for server in &mut edited.services[0].real_servers {
            server.weight += 6;
        }
        let changed = applied(&director(&edited.in_maintenance(&found)), &after);
        prop_assert_eq!(&changed.receipt.as_ref().unwrap().maintenance, &out);

        // The return, from there too.
        for from in [&after, &changed] {
            let back = director(&file.in_maintenance(&Maintenance::default()));
            let goal = goal(&back, from);
            let edits = changes(&from.state, &goal);
            for state in states(&from.state, &edits) {
                prop_assert!(falls_back(&state), "{:#?}", edits);
            }
            prop_assert_eq!(&goal.receipt.maintenance, &out, "cut off anywhere it has returned no host");
            let returned = applied(&back, from);
            prop_assert_eq!(&returned.state.services, &before.state.services);
            prop_assert_eq!(&returned.state, &before.state);
            prop_assert!(returned.receipt.unwrap().maintenance.is_empty());
        }
    }
}
