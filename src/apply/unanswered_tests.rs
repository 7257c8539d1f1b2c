//! What only the hosts show, on hand-made hosts.

use super::*;
use crate::apply::tests::{all_bare, host};
use crate::desired;
use crate::failure::Failure;
use crate::state::firewall::Firewall;
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

pub(in crate::apply) fn read(text: &str) -> Topology {
    let examined = crate::check::examine("t.yaml", text);
    examined.topology.unwrap_or_else(|| panic!("{:?}", examined.findings))
}

/// Bare hosts with the routes and rules that kernels have by themselves.
pub(in crate::apply) fn seen(topology: &Topology) -> Observations {
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

#[test]
fn an_interface_with_a_smaller_mtu_than_its_neighbours_is_a_caution_where_it_is() {
    let topology = read(DR);
    let mut seen = seen(&topology);
    at(&mut seen, "router").facts.mtus.insert("eth1".parse().unwrap(), 1400);
    let found = judged(&topology, &seen);
    // About replies the router sends ICMP messages, which reach the real server.
    let text = "uploads of client from tcp 192.0.2.80:80 by web1 hang after the first kilobytes: eth1 of router has an MTU of 1400, and packets of 1500 bytes are sent to it; ";
    assert!(found["router"][0].starts_with(text), "{found:?}");
    assert_eq!((found.len(), found["router"].len()), (1, 1), "nothing is refused: {found:?}");
}

/// Rules of another program: a chain at `hook` with this policy.
fn rules_at(hook: &str, drops: bool, rules: &serde_json::Value) -> std::sync::Arc<Firewall> {
    let base = serde_json::json!({"hook": hook, "priority": 0, "drops": drops});
    let chain = serde_json::json!({"name": hook, "base": base, "rules": rules});
    let table = serde_json::json!({"family": "inet", "name": "fw", "chains": [chain]});
    serde_json::from_value::<Firewall>(serde_json::json!({"tables": [table]})).unwrap().into()
}

#[test]
fn a_firewall_that_drops_a_service_is_an_obstacle_for_each_port_that_it_closes() {
    let text = DR.replace(
        "  - {vip",
        "  - {vip: 192.0.2.80, port: 443, forward: dr, real_servers: [web1]}\n  - {vip",
    );
    let topology = read(&text);
    let mut seen = seen(&topology);
    let ports = serde_json::json!({"source": false, "target": true, "ranges": [[443, 443]], "negated": false});
    let open = serde_json::json!([{"handle": 4, "ops": [{"ports": ports}, {"verdict": "accept"}]}]);
    at(&mut seen, "lvs").facts.firewall = rules_at("input", true, &open);
    let found = judged(&topology, &seen);
    assert_eq!(
        found["lvs"],
        [
            "after this plan client gets no answer from tcp 192.0.2.80:80 by web1: lvs drops tcp to 192.0.2.80 port 80 \
          from 198.51.100.9 at the hook input: the policy of the nftables chain inet fw input (connection tracking \
          calls it new)"
        ]
    );
    // What is not read is a caution, and hinders nothing.
    let unread =
        serde_json::json!([{"handle": 5, "ops": [{"unread": "limit"}, {"verdict": "accept"}]}]);
    at(&mut seen, "lvs").facts.firewall = rules_at("input", true, &unread);
    assert_eq!(
        judged(&topology, &seen)["lvs"],
        [
            "not known whether packets of the services pass lvs: the nftables chain inet fw input: the rule with handle 5 (limit)"
        ]
    );
}

#[test]
fn a_rule_that_the_walk_follows_is_not_judged_twice() {
    let topology = read(NAT);
    let mut seen = seen(&topology);
    let states = serde_json::json!({"bits": 1, "negated": false});
    let careful =
        serde_json::json!([{"handle": 4, "ops": [{"states": states}, {"verdict": "drop"}]}]);
    let drop = StatefulDrop { chain: "inet fw forward".to_owned(), always: true };
    at(&mut seen, "lvs").facts.stateful_drops = vec![drop];
    at(&mut seen, "lvs").facts.firewall = rules_at("forward", false, &careful);
    let found = judged(&topology, &seen);
    assert_eq!(found["lvs"].len(), 1, "{found:?}");
    assert!(
        found["lvs"][0]
            .contains("(connection tracking calls it invalid: net.ipv4.vs.conntrack is 0)"),
        "{found:?}"
    );
    let accepted = serde_json::json!({"ranges": [[80, 80]], "source": true, "target": false, "negated": false});
    let states = serde_json::json!({"bits": 1, "negated": false});
    let other = serde_json::json!([
        {"handle": 3, "ops": [{"ports": accepted}, {"verdict": "accept"}]},
        {"handle": 4, "ops": [{"states": states}, {"verdict": "drop"}]},
    ]);
    at(&mut seen, "lvs").facts.firewall = rules_at("forward", false, &other);
    assert_eq!(judged(&topology, &seen), BTreeMap::new(), "the rule before it lets replies pass");
}

#[test]
fn without_a_client_in_the_file_rules_are_judged_for_any() {
    let text = DR.replace(
        "  client: {role: client, interfaces: {eth0: 198.51.100.9/24}, gateway: router}\n",
        "",
    );
    let topology = read(&text);
    let mut seen = seen(&topology);
    assert_eq!(judged(&topology, &seen), BTreeMap::new());
    at(&mut seen, "web1").facts.firewall = rules_at("output", true, &serde_json::json!([]));
    let found = judged(&topology, &seen);
    assert_eq!(
        found["web1"],
        [
            "after this plan no client gets an answer from tcp 192.0.2.80:80 by web1: web1 drops tcp from 192.0.2.80 \
          port 80 to any client at the hook output: the policy of the nftables chain inet fw output (connection \
          tracking calls it established)"
        ]
    );
    // Only some clients: which, the file does not say.
    let load =
        serde_json::json!({"load": {"field": {"network": {"offset": 16, "length": 4}}, "to": 0}});
    let client = serde_json::json!({"compare": {"at": 0, "how": "equal", "with": "c6336409"}});
    let some = serde_json::json!([{"handle": 4, "ops": [load, client, {"verdict": "accept"}]}]);
    at(&mut seen, "web1").facts.firewall = rules_at("output", true, &some);
    let found = judged(&topology, &seen);
    assert_eq!((found.len(), found["web1"].len()), (1, 1), "{found:?}");
    assert!(
        found["web1"][0].starts_with("not known whether packets of the services pass web1: "),
        "{found:?}"
    );
}
