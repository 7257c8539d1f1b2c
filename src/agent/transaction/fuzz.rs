//! What an agent reads from its disk, damaged: `fuzz_journal`, `fuzz_receipt`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::{journal, receipt};
use crate::desired::desired_for;
use crate::names::TopologyName;
use crate::state::{HostState, Owned, RECEIPT_VERSION, Receipt};
use crate::support::{Cluster, fuzz, unfinished};
use crate::topology::Forward;

/// What hosts of a cluster are to have: every kind of item.
fn states() -> Vec<HostState> {
    let methods = [
        (Forward::Dr, 80, vec![1, 2]),
        (Forward::Tun, 81, vec![1]),
        (Forward::Fullnat, 82, vec![2]),
    ];
    let topology = Cluster::of(&methods).topology;
    topology.hosts.values().map(|host| desired_for(&topology, host).state).collect()
}

fn empty(topology: TopologyName) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        topology,
        since: 7,
        owned: Owned::new(),
        found: HostState::default(),
        run: None,
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    }
}

#[test]
fn fuzz_journal() {
    let name: TopologyName = "t".parse().unwrap();
    let all = states().into_iter().map(|state| unfinished(&["director", "rs1"], state).journal);
    let seeds: Vec<Vec<u8>> = all.map(|journal| serde_json::to_vec(&journal).unwrap()).collect();
    assert!(journal::parse(Path::new("j"), &name, &seeds[0]).is_ok());
    fuzz::target!("fuzz_journal", 1000, seeds, |bytes| {
        if let Ok(journal) = journal::parse(Path::new("j"), &name, bytes) {
            let again = serde_json::to_vec(&journal).unwrap();
            assert_eq!(journal::parse(Path::new("j"), &name, &again).unwrap(), journal);
        }
    });
}

#[test]
fn fuzz_receipt() {
    let name: TopologyName = "t1".parse().unwrap();
    let seeds = states().into_iter().map(|found| {
        let (topology, owned) = (name.clone(), Owned::default());
        receipt::text(&Receipt { owned, found, ..empty(topology) }).unwrap()
    });
    let seeds: Vec<Vec<u8>> = seeds.collect();
    assert!(receipt::parse(Path::new("r"), &name, &seeds[0]).is_ok());
    fuzz::target!("fuzz_receipt", 3000, seeds, |bytes| {
        if let Ok(kept) = receipt::parse(Path::new("r"), &name, bytes) {
            let again = receipt::text(&kept).unwrap();
            assert_eq!(receipt::parse(Path::new("r"), &name, &again).unwrap(), kept);
        }
    });
}

#[test]
fn a_receipt_of_another_topology_is_named_as_it_is_written() {
    let (ours, theirs): (TopologyName, TopologyName) =
        ("t1".parse().unwrap(), "t2".parse().unwrap());
    let (owned, found) = (Owned::default(), HostState::default());
    let kept = Receipt { owned, found, ..empty(theirs) };
    let error = receipt::parse(Path::new("r"), &ours, &receipt::text(&kept).unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is that of the topology t2:"), "{text}");
}
