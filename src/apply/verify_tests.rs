//! The verdicts of `verify` on answers made by hand.

#![allow(clippy::unwrap_used)]

use super::super::tests::{Observations, all_bare, failure, host, mac};
use super::*;
use crate::support::Cluster;
use crate::topology::Forward;

fn dr() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 2])]).topology
}

fn arp(topology: &Topology, observed: &Observations, macs: &[&str]) -> (Verdict, String) {
    let macs = macs.iter().map(|mac| (*mac).to_owned()).collect();
    let claim = "only director answers".to_owned();
    let service = &topology.services[0];
    let verification = judge_arp(topology, claim, service, observed, &host("client"), &macs);
    (verification.verdict, verification.evidence)
}

#[test]
fn only_the_directors_own_answer_is_good() {
    let topology = dr();
    let observed = all_bare(&topology);
    let of = |name: &str| mac(&topology, &host(name));
    let (director, rs1) = (of("director"), of("rs1"));
    assert_eq!(arp(&topology, &observed, &[&director]).0, Verdict::Holds);
    assert_eq!(
        arp(&topology, &observed, &[]),
        (Verdict::Fails, "client asked, and no host answered".to_owned())
    );
    let both = arp(&topology, &observed, &[&director, &rs1]);
    assert_eq!(both.0, Verdict::Fails);
    assert!(
        both.1.contains(&format!("rs1 ({rs1})")),
        "the evidence must name the host: {}",
        both.1
    );
    assert_eq!(arp(&topology, &observed, &[&rs1]).0, Verdict::Fails);
    let stranger = arp(&topology, &observed, &["02:aa:aa:aa:aa:aa"]);
    assert_eq!(stranger.0, Verdict::Fails);
    assert!(stranger.1.contains("02:aa:aa:aa:aa:aa (unknown)"), "{}", stranger.1);
}

/// The hardware address of the director is unknown: one answer verifies nothing, two are one too many.
#[test]
fn without_a_look_at_the_director_one_unknown_answer_proves_nothing() {
    let topology = dr();
    let mut observed = all_bare(&topology);
    observed.insert(host("director"), Err(failure("no answer")));
    let stranger = "02:aa:aa:aa:aa:aa";
    let rs1 = mac(&topology, &host("rs1"));
    assert_eq!(arp(&topology, &observed, &[stranger]).0, Verdict::NotChecked);
    assert_eq!(arp(&topology, &observed, &[&rs1]).0, Verdict::Fails, "it is a real server");
    assert_eq!(arp(&topology, &observed, &[stranger, "02:bb:bb:bb:bb:bb"]).0, Verdict::Fails);
}

#[test]
fn who_asks_is_rather_no_real_server_and_never_the_director() {
    let topology = dr();
    let mut observed = all_bare(&topology);
    let service = &topology.services[0];
    let who = |observed: &Observations| {
        asker(&topology, service, observed).map(|(name, dev)| (name.to_string(), dev))
    };
    let eth0: IfName = "eth0".parse().unwrap();
    assert_eq!(who(&observed), Some(("client".to_owned(), eth0.clone())));
    observed.insert(host("client"), Err(failure("no answer")));
    assert_eq!(who(&observed), Some(("rs1".to_owned(), eth0)));
    observed.retain(|name, _| name.as_str() == "director");
    assert_eq!(who(&observed), None);
}
