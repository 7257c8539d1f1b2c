//! The verdicts of `verify` on answers made by hand.

#![allow(clippy::unwrap_used)]

use super::super::tests::{Seen, all_bare, failure, host, mac};
use super::*;
use crate::support::Cluster;
use crate::topology::Forward;

fn dr() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 2])]).topology
}

fn arp(topology: &Topology, seen: &Seen, macs: &[&str]) -> (Verdict, String) {
    let macs = macs.iter().map(|mac| (*mac).to_owned()).collect();
    let claim = "only director answers".to_owned();
    let service = &topology.services[0];
    let proof = judge_arp(topology, claim, service, seen, &host("client"), &macs);
    (proof.verdict, proof.evidence)
}

#[test]
fn only_the_directors_own_answer_is_good() {
    let topology = dr();
    let seen = all_bare(&topology);
    let of = |name: &str| mac(&topology, &host(name));
    let (director, rs1) = (of("director"), of("rs1"));
    assert_eq!(arp(&topology, &seen, &[&director]).0, Verdict::Holds);
    assert_eq!(
        arp(&topology, &seen, &[]),
        (Verdict::Fails, "client asked and nobody answered".to_owned())
    );
    let both = arp(&topology, &seen, &[&director, &rs1]);
    assert_eq!(both.0, Verdict::Fails);
    assert!(both.1.contains(&format!("rs1 ({rs1})")), "who it is must be said: {}", both.1);
    assert_eq!(arp(&topology, &seen, &[&rs1]).0, Verdict::Fails);
    let stranger = arp(&topology, &seen, &["02:aa:aa:aa:aa:aa"]);
    assert_eq!(stranger.0, Verdict::Fails);
    assert!(stranger.1.contains("02:aa:aa:aa:aa:aa (unknown)"), "{}", stranger.1);
}

/// Nobody knows the director's hardware address: one answer proves nothing, two are one too many.
#[test]
fn without_a_look_at_the_director_one_unknown_answer_proves_nothing() {
    let topology = dr();
    let mut seen = all_bare(&topology);
    seen.insert(host("director"), Err(failure("no answer")));
    let stranger = "02:aa:aa:aa:aa:aa";
    let rs1 = mac(&topology, &host("rs1"));
    assert_eq!(arp(&topology, &seen, &[stranger]).0, Verdict::NotChecked);
    assert_eq!(arp(&topology, &seen, &[&rs1]).0, Verdict::Fails, "it is a real server");
    assert_eq!(arp(&topology, &seen, &[stranger, "02:bb:bb:bb:bb:bb"]).0, Verdict::Fails);
}

#[test]
fn who_asks_is_rather_no_real_server_and_never_the_director() {
    let topology = dr();
    let mut seen = all_bare(&topology);
    let service = &topology.services[0];
    let who =
        |seen: &Seen| asker(&topology, service, seen).map(|(name, dev)| (name.to_string(), dev));
    let eth0: IfName = "eth0".parse().unwrap();
    assert_eq!(who(&seen), Some(("client".to_owned(), eth0.clone())));
    seen.insert(host("client"), Err(failure("no answer")));
    assert_eq!(who(&seen), Some(("rs1".to_owned(), eth0)));
    seen.retain(|name, _| name.as_str() == "director");
    assert_eq!(who(&seen), None);
}
