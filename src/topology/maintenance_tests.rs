#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::support::{Cluster, cluster};
use crate::topology::{Forward, Persistence};

fn out(hosts: &[&str], since: u64) -> Maintenance {
    hosts.iter().map(|host| (host.parse().unwrap(), since)).collect()
}

fn small(scheduler: Scheduler) -> Topology {
    let mut topology =
        Cluster::of(&[(Forward::Dr, 80, vec![1, 2]), (Forward::Dr, 81, vec![2])]).topology;
    topology.services[0].scheduler = scheduler;
    topology
}

/// Of each service the weight of each real server.
fn weights(topology: &Topology) -> Vec<Vec<(String, u32)>> {
    let of = |server: &crate::topology::RealServer| (server.host.to_string(), server.weight);
    topology.services.iter().map(|it| it.real_servers.iter().map(of).collect()).collect()
}

#[test]
fn a_real_server_in_maintenance_has_the_weight_0_in_each_service() {
    let topology = small(Scheduler::Rr).in_maintenance(&out(&["rs2", "client", "elsewhere"], 7));
    let expected =
        [vec![("rs1".to_owned(), 1), ("rs2".to_owned(), 0)], vec![("rs2".to_owned(), 0)]];
    assert_eq!(weights(&topology), expected);
    assert_eq!(topology.maintenance, out(&["rs2"], 7), "only real servers can be in maintenance");
    assert!(topology.services.iter().all(|service| service.scheduler_flags.is_empty()));
}

#[test]
fn a_scheduler_that_goes_by_a_hash_falls_back_meanwhile() {
    for (scheduler, flag) in [
        (Scheduler::Sh, Some(SchedulerFlag::ShFallback)),
        (Scheduler::Mh, Some(SchedulerFlag::MhFallback)),
        (Scheduler::Dh, None),
        (Scheduler::Wlc, None),
    ] {
        let file = small(scheduler);
        let flags = |topology: &Topology| topology.services[0].scheduler_flags.clone();
        assert_eq!(
            flags(&file.in_maintenance(&out(&["rs1"], 7))),
            flag.into_iter().collect(),
            "{scheduler}"
        );
        assert_eq!(flags(&file.in_maintenance(&out(&[], 7))), BTreeSet::new());
    }
    // By its number it is set already.
    let mut file = small(Scheduler::Sh);
    file.services[0].scheduler_flags.insert(SchedulerFlag::Flag1);
    let flags = file.in_maintenance(&out(&["rs1"], 7)).services[0].scheduler_flags.clone();
    assert_eq!(flags, BTreeSet::from([SchedulerFlag::Flag1]));
}

#[test]
fn what_the_file_says_of_persistent_clients_is_put_aside_where_they_would_come_back() {
    let mut file = small(Scheduler::Rr);
    let director = file.services[0].director.clone();
    let settings = &mut file.hosts.get_mut(&director).unwrap().ipvs.settings;
    settings.insert(VsItem::ExpireQuiescentTemplate, "0".to_owned());
    let kept = |topology: &Topology| {
        topology.hosts[&director].ipvs.settings.contains_key(&VsItem::ExpireQuiescentTemplate)
    };
    assert!(kept(&file.in_maintenance(&out(&["rs1"], 7))), "no service is persistent");
    file.services[1].persistence =
        Some(Persistence { timeout: 60, netmask: u32::MAX, engine: None });
    assert!(kept(&file.in_maintenance(&out(&["rs1"], 7))), "it is no real server of that service");
    assert!(!kept(&file.in_maintenance(&out(&["rs2"], 7))));
}

proptest! {
    #[test]
    fn law_maintenance_is_idempotent_and_ends_with_the_weights_of_the_file(
        cluster in cluster(),
        scheduler in select(Scheduler::ALL),
        names in subsequence(vec!["rs1", "rs2", "rs3", "director", "client"], 0..=5),
        more in subsequence(vec!["rs1", "rs2", "rs3"], 0..=3),
    ) {
        let mut file = cluster.topology;
        file.services[0].scheduler = scheduler;
        let (one, other) = (out(&names, 7), out(&more, 9));
        let topology = file.in_maintenance(&one);
        prop_assert_eq!(&topology.in_maintenance(&one), &topology);
        // Hosts that go out one after the other come to the same as all at once.
        let both = one.clone().union(&other);
        prop_assert_eq!(topology.in_maintenance(&both), file.in_maintenance(&both));
        prop_assert_eq!(&file.in_maintenance(&Maintenance::default()), &file);
        // Hosts and networks stay but for one setting, and no other weight moves.
        for (was, is) in file.services.iter().zip(&topology.services) {
            for (was, is) in was.real_servers.iter().zip(&is.real_servers) {
                let weight = if topology.maintenance.contains(&was.host) { 0 } else { was.weight };
                prop_assert_eq!(is.weight, weight);
            }
        }
    }
}
