//! What only the hosts show, on hand-made hosts.

use super::*;
use crate::apply::tests::{all_bare, host};
use crate::desired;
use crate::failure::Failure;
use crate::state::routing::{PolicyRule, default_rules};
use crate::state::{Link, Routing};

const DR: &str = "version: 1
name: t
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}, gateway: router}
  router: {role: router, interfaces: {eth0: 192.0.2.1/24, eth1: 198.51.100.1/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}, gateway: router}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}, gateway: router}
services:
  - {vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1]}
";

/// Clients are in a network that the director is in by its VIP alone.
const NAT: &str = "version: 1
name: t
networks: {lan: [192.0.2.0/24, 198.51.100.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}
services:
  - {vip: 198.51.100.80/24, port: 80, forward: nat, real_servers: [web1]}
";

fn read(text: &str) -> Topology {
    let examined = crate::check::examine("t.yaml", text);
    examined.topology.unwrap_or_else(|| panic!("{:?}", examined.findings))
}

/// Bare hosts with the routes and rules that kernels have by themselves.
fn seen(topology: &Topology) -> Observations {
    let mut all = all_bare(topology);
    for observation in all.values_mut().flatten() {
        observation.facts.routing.rules = default_rules();
        let before = HostState::default();
        route_subnets(&before, &mut observation.state);
        for dev in ["eth0", "eth1"] {
            observation.state.links.insert(dev.parse().unwrap(), Link::Up);
        }
    }
    all
}

fn at<'o>(all: &'o mut Observations, name: &str) -> &'o mut crate::state::Observation {
    all.get_mut(&host(name)).unwrap().as_mut().unwrap()
}

/// The obstacles of each host of a plan from `seen`, and the cautions of the others.
fn judged(topology: &Topology, seen: &Observations) -> BTreeMap<String, Vec<String>> {
    let desired = desired::desired(topology);
    let direction = crate::apply::cluster_plan::Direction::Apply { now: 7 };
    let none = BTreeMap::new();
    let mut plan = crate::apply::cluster_plan::plan(topology, &desired, seen, &none, direction);
    plan.refuse_unanswered(topology, &desired, seen);
    let of = |result: &HostPlanResult| match result {
        HostPlanResult::Obstructed(obstacles) => {
            obstacles.iter().map(|it| it.message.clone()).collect()
        }
        HostPlanResult::Plan(plan) => plan.cautions.clone(),
        other => vec![format!("{other:?}")],
    };
    let all = plan.hosts.iter().map(|(name, result)| (name.to_string(), of(result)));
    all.filter(|(_, messages): &(String, Vec<String>)| !messages.is_empty()).collect()
}

#[test]
fn a_cluster_that_will_answer_is_not_refused() {
    for text in [DR, NAT] {
        let topology = read(text);
        assert_eq!(judged(&topology, &seen(&topology)), BTreeMap::new());
    }
}

#[test]
fn a_policy_rule_in_the_way_of_replies_is_an_obstacle_where_it_is_and_holds_up_the_others() {
    let topology = read(DR);
    let mut seen = seen(&topology);
    let rule = PolicyRule {
        from: Some("192.0.2.80/32".parse().unwrap()),
        table: None,
        ..PolicyRule::plain(100, false, 0)
    };
    at(&mut seen, "web1").facts.routing.rules.insert(1, rule.clone());
    let found = judged(&topology, &seen);
    let message = &found["web1"][0];
    let who = "after this plan client gets no answer from tcp 192.0.2.80:80 by web1: ";
    assert!(message.starts_with(who), "{message}");
    for other in ["lvs", "router"] {
        assert_eq!(found[other], ["nothing is changed here either"], "{found:?}");
    }
    // With a selector that is not known, nor is whether it applies.
    let unclear = PolicyRule { unclear: vec!["uidrange".to_owned()], ..rule };
    at(&mut seen, "web1").facts.routing.rules[1] = unclear;
    assert_eq!(judged(&topology, &seen), BTreeMap::new());
}

#[test]
fn a_cluster_that_was_not_seen_whole_is_not_judged() {
    let topology = read(DR);
    let mut seen = seen(&topology);
    at(&mut seen, "web1").facts.routing = Routing {
        rules: vec![PolicyRule { table: None, ..PolicyRule::plain(0, false, 0) }],
        routes: Vec::new(),
    };
    assert!(judged(&topology, &seen).contains_key("web1"));
    let failure = Failure { message: "gone".to_owned(), causes: Vec::new(), cure: None };
    seen.insert(host("router"), Err(failure));
    let found = judged(&topology, &seen);
    assert!(!found.contains_key("web1") && found.contains_key("router"), "{found:?}");
}

#[test]
fn a_firewall_that_drops_replies_of_nat_is_found_unless_they_are_tracked() {
    let topology = read(NAT);
    let mut seen = seen(&topology);
    let drop = |always| StatefulDrop { chain: "inet filter forward".to_owned(), always };
    at(&mut seen, "lvs").facts.stateful_drops = vec![drop(true)];
    let found = judged(&topology, &seen);
    let message = "the nftables chain inet filter forward drops packets that connection tracking calls invalid";
    assert_eq!(found["lvs"], [message]);
    at(&mut seen, "lvs").facts.stateful_drops = vec![drop(false)];
    let found = judged(&topology, &seen);
    assert!(found["lvs"][0].contains("under further conditions"), "{found:?}");
    at(&mut seen, "lvs").facts.stateful_drops = vec![drop(true)];
    at(&mut seen, "lvs").state.sysctls.insert(Sysctl::Vs(VsItem::Conntrack), "1".to_owned());
    assert_eq!(judged(&topology, &seen), BTreeMap::new());
    // DR never sees replies.
    let topology = read(DR);
    let mut seen = super::tests::seen(&topology);
    at(&mut seen, "lvs").facts.stateful_drops = vec![drop(true)];
    assert_eq!(judged(&topology, &seen), BTreeMap::new());
}
