//! Plans from one file to another, on hosts that have what the first one wants.

use super::*;
use crate::apply::cluster_plan::{self, Direction};
use crate::apply::unanswered::tests::{read, seen};
use crate::desired;

/// `FORWARD`, `GATEWAY` and `DIRECTOR` differ.
const FILE: &str = "version: 1
name: t
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}, gateway: 198.51.100.1}
  router: {role: router, interfaces: {eth0: 192.0.2.1/24, eth1: 198.51.100.1/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}, gateway: router}
  lvs2: {role: director, interfaces: {eth0: 192.0.2.4/24}, gateway: router}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}, gateway: GATEWAY}
  web2: {role: real_server, interfaces: {eth0: 192.0.2.5/24}, gateway: router}
services:
  - {vip: 192.0.2.80, port: 80, director: DIRECTOR, forward: FORWARD, real_servers: SERVERS}
";

fn file(director: &str, forward: &str, gateway: &str, servers: &str) -> Topology {
    let text = FILE.replace("DIRECTOR", director).replace("FORWARD", forward);
    read(&text.replace("GATEWAY", gateway).replace("SERVERS", servers))
}

/// What a plan from `first` to `second` says on any host.
fn cautions(first: &Topology, second: &Topology) -> Vec<String> {
    let mut observed = seen(first);
    let direction = Direction::Apply { now: 7 };
    let planned = |topology: &Topology, observed: &Observations| {
        let desired = desired::desired(topology);
        let none = BTreeMap::new();
        let mut plan = cluster_plan::plan(topology, &desired, observed, &none, direction);
        plan.refuse_unanswered(topology, &desired, observed);
        plan
    };
    let plan = planned(first, &observed);
    let said = |plan: &ClusterPlan| -> Vec<String> {
        plan.hosts
            .values()
            .flat_map(|result| match result {
                HostPlanResult::Plan(plan) => plan.cautions.clone(),
                other => panic!("{other:?}"),
            })
            .filter(|text| text.contains("moment"))
            .collect()
    };
    assert_eq!(
        said(&plan),
        Vec::<String>::new(),
        "bare hosts serve nothing that a plan could take away"
    );
    for (name, host) in plans(&plan) {
        let observation = observed.get_mut(name).unwrap().as_mut().unwrap();
        let before = observation.state.clone();
        observation.state = state_after(&before, host.edits()).unwrap();
        observation.receipt = host.goal.receipt_after.clone();
    }
    said(&planned(second, &observed))
}

/// No host has the VIP yet: what becomes of a request is not known, and is no service.
#[test]
fn the_first_apply_takes_no_service_away_from_a_client_beside_the_director() {
    let text = "version: 1
name: t
networks: {lan: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 192.0.2.9/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}
services:
  - {vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1]}
";
    let topology = read(text);
    assert_eq!(cautions(&topology, &topology), Vec::<String>::new());
}

#[test]
fn a_second_apply_and_a_new_real_server_take_no_service_away() {
    let one = file("lvs", "dr", "router", "[web1]");
    let two = file("lvs", "dr", "router", "[web1, web2]");
    for (first, second) in [(&one, &one), (&one, &two), (&two, &one)] {
        assert_eq!(cautions(first, second), Vec::<String>::new());
    }
}

/// IPVS gets the destination anew, with another method.
#[test]
fn another_method_takes_the_only_real_server_away_for_a_moment() {
    let dr = file("lvs", "dr", "router", "[web1]");
    let tun = file("lvs", "tun", "router", "[web1]");
    for (first, second) in [(&dr, &tun), (&tun, &dr)] {
        let all = cautions(first, second);
        assert_eq!(all.len(), 1, "{all:#?}");
        let who = "client gets no answer from tcp 192.0.2.80:80 by web1: lvs has no IPVS service for 192.0.2.80";
        assert!(all[0].contains(who), "{all:#?}");
    }
}

#[test]
fn a_vip_that_moves_to_another_director_is_missing_for_a_moment() {
    let one = file("lvs", "dr", "router", "[web1]");
    let two = file("lvs2", "dr", "router", "[web1]");
    let all = cautions(&one, &two);
    assert_eq!(all.len(), 1, "{all:#?}");
    let begins = "a moment without service: once the director stops taking what is to go, client gets no answer from tcp 192.0.2.80:80 by web1: ";
    assert!(all[0].starts_with(begins), "{all:#?}");
}

#[test]
fn many_services_are_one_caution() {
    let service = |n| {
        format!(
            "  - {{vip: 192.0.2.{n}, port: 80, director: lvs, forward: FORWARD, real_servers: [web1]}}\n"
        )
    };
    let services: String = (80..100).map(service).collect();
    let head = FILE.split_once("services:").unwrap().0.replace("GATEWAY", "router");
    let of = |forward| read(&format!("{head}services:\n{}", services.replace("FORWARD", forward)));
    let all = cautions(&of("dr"), &of("tun"));
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].contains("(and 19 more pairs of client and real server)"), "{all:#?}");
}
