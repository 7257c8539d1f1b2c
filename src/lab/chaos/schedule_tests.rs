#![allow(clippy::unwrap_used)]
//! The order of faults, the worst pairs, and the words that choose.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::fault::{Fault, FaultFilter, FaultKind, PairChoice, schedule};
use super::pairs;
use crate::topology::{Topology, read};

const HOSTS: &str = "
version: 1
name: chaos
networks: {lan: [192.0.2.0/24]}
defaults: {forward: dr, scheduler: wrr}
hosts:
  client: {role: client, interfaces: {eth0: 192.0.2.9/24}}
  gw1: {role: router, interfaces: {eth0: 192.0.2.7/24}}
  gw2: {role: router, interfaces: {eth0: 192.0.2.8/24}}
  lvs: {role: [director, real_server], interfaces: {eth0: 192.0.2.1/24}, ipvs: {sync: {master: {interface: eth0}}}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.11/24}}
  web2: {role: real_server, interfaces: {eth0: 192.0.2.12/24}}
  web3: {role: real_server, interfaces: {eth0: 192.0.2.13/24}}
services:
";

fn topology(rest: &str) -> Topology {
    read("chaos", &(HOSTS.to_owned() + rest)).topology.unwrap()
}

fn three() -> Topology {
    topology(
        "  - {name: web, vip: 192.0.2.80, port: 80, real_servers: [web1, {host: web2, weight: 5}, {host: web3, weight: 2}]}\n",
    )
}

fn names(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn filters(words: &[&str], topology: &Topology) -> Vec<FaultFilter> {
    words.iter().map(|word| FaultFilter::read(word, topology).unwrap()).collect()
}

#[test]
fn a_health_checker_dies_where_the_file_has_checks() {
    let rest =
        "  - {name: web, vip: 192.0.2.80, port: 80, check: tcp, real_servers: [web1, web2]}\n";
    let topology = topology(rest);
    let only = filters(&["daemon"], &topology);
    assert_eq!(
        names(&schedule(&topology, &only, PairChoice::None)),
        ["sync daemon master of lvs", "health checker of lvs"]
    );
    assert_eq!(names(&schedule(&three(), &only, PairChoice::None)), ["sync daemon master of lvs"]);
}

#[test]
fn everything_dies_once_in_a_fixed_order() {
    let topology = three();
    assert_eq!(
        names(&schedule(&topology, &[], PairChoice::Worst)),
        [
            "host client",
            "host gw1",
            "host gw2",
            "host lvs",
            "host web1",
            "host web2",
            "host web3",
            "process at tcp port 80 of web1",
            "process at tcp port 80 of web2",
            "process at tcp port 80 of web3",
            "sync daemon master of lvs",
            "link eth0 of client",
            "link eth0 of gw1",
            "link eth0 of gw2",
            "link eth0 of lvs",
            "link eth0 of web1",
            "link eth0 of web2",
            "link eth0 of web3",
            "hosts gw1 and gw2",
            "hosts lvs and web2",
            "hosts web2 and web3",
        ]
    );
}

#[test]
fn a_director_that_is_a_real_server_is_no_pair_with_itself_and_weight_0_has_no_share() {
    let topology = topology(
        "  - {vip: 192.0.2.80, port: 80, real_servers: [lvs, {host: web1, weight: 0}, {host: web3, weight: 0}]}\n",
    );
    let worst = pairs::worst(&topology);
    let worst: Vec<(&str, &str)> = worst.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(worst, [("gw1", "gw2")]);
    // Six hosts are no clients.
    assert_eq!(pairs::all(&topology).len(), 15);
}

#[test]
fn words_choose_kinds_hosts_and_both() {
    let topology = three();
    let chosen =
        |words: &[&str], pairs| names(&schedule(&topology, &filters(words, &topology), pairs));
    assert_eq!(
        chosen(&["web2"], PairChoice::Worst),
        [
            "host web2",
            "process at tcp port 80 of web2",
            "link eth0 of web2",
            "hosts lvs and web2",
            "hosts web2 and web3"
        ]
    );
    assert_eq!(chosen(&["daemon"], PairChoice::All), ["sync daemon master of lvs"]);
    assert_eq!(
        chosen(&["link:web1", "host:lvs"], PairChoice::None),
        ["host lvs", "link eth0 of web1"]
    );
    assert_eq!(chosen(&["pair"], PairChoice::None), Vec::<String>::new());
    for wrong in ["web9", "links", "link:web9", "web1:link", "web1:web2", ":web1", "link:", ""] {
        let error = FaultFilter::read(wrong, &topology).unwrap_err().to_string();
        assert!(error.contains("kinds: host, process, daemon, link, pair"), "{error}");
        assert!(error.contains("web3"), "{error}");
    }
}

#[test]
fn a_host_keeps_the_promises_of_all_its_roles_and_a_client_none() {
    let mut topology = three();
    let text = "promise: {director: 3s, real_server: 6, link: 2s, pair: 9s}";
    let promised = read("promise", &(HOSTS.replace("services:", &format!("{text}\nservices:"))));
    topology.promise = promised.topology.unwrap().promise;
    let of = |name: &str| -> Vec<String> {
        let faults = schedule(&topology, &[], PairChoice::Worst);
        let fault = faults.into_iter().find(|fault| fault.to_string() == name).unwrap();
        let all = fault.promised(&topology, &topology.promise);
        all.iter().map(|(part, within)| format!("{} {within}", part.as_str())).collect()
    };
    assert_eq!(of("host lvs"), ["director 3", "real_server 6"]);
    assert_eq!(of("host web1"), ["real_server 6"]);
    assert_eq!(of("host client"), Vec::<String>::new());
    assert_eq!(of("link eth0 of client"), Vec::<String>::new());
    assert_eq!(of("link eth0 of web1"), ["link 2"]);
    assert_eq!(of("process at tcp port 80 of web1"), Vec::<String>::new());
    assert_eq!(of("hosts web2 and web3"), ["pair 9"]);
}

#[test]
fn a_connection_ends_with_its_client_its_real_server_and_its_process() {
    let topology = three();
    let service = &topology.services[0];
    let client = "client".parse().unwrap();
    let ends = |name: &str, server: &str| {
        let faults = schedule(&topology, &[], PairChoice::Worst);
        let fault = faults.into_iter().find(|fault| fault.to_string() == name).unwrap();
        fault.ends_connection(&client, service, server)
    };
    assert!(ends("host web2", "web2") && !ends("host web2", "web1"));
    assert!(ends("host client", "web1"));
    assert!(ends("process at tcp port 80 of web1", "web1"));
    assert!(!ends("process at tcp port 80 of web1", "web2"));
    // They pass through these and end in none of them.
    assert!(!ends("host lvs", "web1") && !ends("link eth0 of web1", "web1"));
    assert!(ends("hosts web2 and web3", "web3"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The worst pairs are two different hosts of the file, in order, and among all pairs.
    #[test]
    fn worst_pairs_are_pairs(weights in proptest::collection::vec(0_u32..4, 1..4), other in any::<bool>()) {
        let servers: Vec<String> = weights
            .iter()
            .enumerate()
            .map(|(n, weight)| format!("{{host: web{}, weight: {weight}}}", n + 1))
            .collect();
        let mut rest = format!("  - {{vip: 192.0.2.80, port: 80, real_servers: [{}]}}\n", servers.join(", "));
        if other {
            rest += "  - {vip: 192.0.2.80, port: 81, real_servers: [web3, lvs]}\n";
        }
        let topology = topology(&rest);
        let (worst, all) = (pairs::worst(&topology), pairs::all(&topology));
        prop_assert!(worst.is_subset(&all));
        prop_assert!(worst.iter().all(|(one, two)| one < two));
        let heavy = weights.iter().filter(|weight| **weight > 0).count();
        let of_web = |name: &str| name.starts_with("web");
        let both = worst.iter().any(|(one, two)| of_web(one.as_str()) && of_web(two.as_str()));
        prop_assert_eq!(both, heavy >= 2, "{:?}", worst);
        // No fault twice.
        let faults = schedule(&topology, &[], PairChoice::All);
        let different: BTreeSet<String> = names(&faults).into_iter().collect();
        prop_assert_eq!(different.len(), faults.len());
        prop_assert!(faults.iter().all(|fault| FaultKind::ALL.contains(&fault.kind())));
    }
}
