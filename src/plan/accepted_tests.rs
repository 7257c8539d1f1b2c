//! Values that a host has already and that serve, on hosts made by hand.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::desired::Desired;
use crate::failure::Failure;
use crate::names::TopologyName;
use crate::plan::Goal;
use crate::plan::order::steps_between;
use crate::plan::{other_topologies, simulate};
use crate::state::{
    AcceptedValues, Conf6Item, ConfDev, Edit, HostRun, Module, Owned, RECEIPT_VERSION, Receipt,
    RouteKey, Step,
};

fn topology() -> TopologyName {
    "t".parse().unwrap()
}

fn arp_ignore() -> Sysctl {
    Sysctl::all(ConfItem::ArpIgnore)
}

fn rp_filter(dev: &str) -> Sysctl {
    Sysctl::dev(&dev.parse().unwrap(), ConfItem::RpFilter)
}

fn accept_ra() -> Sysctl {
    Sysctl::Conf6(ConfDev::Dev("eth0".parse().unwrap()), Conf6Item::AcceptRa)
}

fn wanting(all: &[(Sysctl, &str, AcceptedValues)]) -> Desired {
    let mut desired = Desired::default();
    for (key, value, accepted) in all {
        desired.state.sysctls.insert(key.clone(), (*value).to_owned());
        desired.accepted.insert(key.clone(), accepted.clone());
    }
    desired
}

fn wanting_arp() -> Desired {
    wanting(&[(arp_ignore(), "1", AcceptedValues::of([1, 2]))])
}

fn host(all: &[(Sysctl, &str)]) -> Observation {
    let sysctls = all.iter().map(|(key, value)| (key.clone(), (*value).to_owned()));
    let state = HostState { sysctls: sysctls.collect(), ..HostState::default() };
    Observation { state, ..Observation::default() }
}

/// The steps to `goal`, as a person reads them; and the host after them.
fn go(seen: &Observation, goal: &Goal) -> (Vec<String>, Observation) {
    let none = crate::desired::Reasons::default();
    let steps = steps_between(&seen.state, &goal.wanted, &goal.owned, &none).unwrap().into_all();
    let edits: Vec<Edit> = steps.into_iter().map(|Step { edit, .. }| edit).collect();
    let state = simulate(&seen.state, &edits).unwrap();
    let after = Observation { state, receipt: goal.receipt_after.clone(), ..seen.clone() };
    (edits.iter().map(ToString::to_string).collect(), after)
}

fn apply(desired: &Desired, seen: &Observation) -> (Vec<String>, Observation) {
    go(seen, &Goal::apply(&topology(), 7, desired, seen).unwrap())
}

fn destroy(seen: &Observation) -> (Vec<String>, Observation) {
    Goal::destroy(seen).map_or_else(|| (Vec::new(), seen.clone()), |goal| go(seen, &goal))
}

const NONE: [&str; 0] = [];

#[test]
fn a_stricter_arp_ignore_stays_and_is_not_ours() {
    for value in ["1", "2"] {
        let seen = host(&[(arp_ignore(), value)]);
        let (steps, after) = apply(&wanting_arp(), &seen);
        assert_eq!(steps, NONE, "{value}");
        assert_eq!(after, seen, "{value}");
    }
    for value in ["0", "3", "8"] {
        let seen = host(&[(arp_ignore(), value)]);
        let (steps, after) = apply(&wanting_arp(), &seen);
        assert_eq!(steps, [format!("set net.ipv4.conf.all.arp_ignore: {value} -> 1")]);
        assert_eq!(destroy(&after).1.state, seen.state, "{value}");
    }
}

#[test]
fn source_validation_that_is_off_is_not_switched_on() {
    let wanted = wanting(&[(rp_filter("eth0"), "2", AcceptedValues::NotStrict)]);
    let all = || Sysctl::all(ConfItem::RpFilter);
    for (of_all, own, written) in [
        ("0", "0", false),
        ("2", "1", false),
        ("1", "0", true),
        ("0", "1", true),
        ("1", "2", false),
    ] {
        let seen = host(&[(all(), of_all), (rp_filter("eth0"), own)]);
        let (steps, after) = apply(&wanted, &seen);
        assert_eq!(!steps.is_empty(), written, "{of_all} {own}: {steps:?}");
        assert_eq!(after.receipt.is_some(), written, "{of_all} {own}");
        assert_eq!(destroy(&after).1.state, seen.state, "{of_all} {own}");
    }
    // Another program switches strict on for all: that is drift, and what was found then is given back.
    let (_, mut after) = apply(&wanted, &host(&[(all(), "0"), (rp_filter("eth0"), "0")]));
    after.state.sysctls.insert(all(), "1".to_owned());
    let (steps, after) = apply(&wanted, &after);
    assert_eq!(steps, ["set net.ipv4.conf.eth0.rp_filter: 0 -> 2"]);
    // And off again: it stays as it is, until destroy.
    let off = {
        let mut off = after.clone();
        off.state.sysctls.insert(all(), "0".to_owned());
        off
    };
    assert_eq!(apply(&wanted, &off).0, NONE);
    assert_eq!(destroy(&after).0, ["set net.ipv4.conf.eth0.rp_filter: 2 -> 0"]);
}

/// It comes with its module, and has what `default` has.
#[test]
fn a_tunnel_device_that_comes_without_source_validation_stays_without() {
    let mut wanted = wanting(&[(rp_filter("tunl0"), "2", AcceptedValues::NotStrict)]);
    wanted.state.modules.insert(Module::Ipip);
    let default = Sysctl::Conf(ConfDev::Default, ConfItem::RpFilter);
    for (of_default, written) in [("0", false), ("1", true)] {
        let seen = host(&[(Sysctl::all(ConfItem::RpFilter), "0"), (default.clone(), of_default)]);
        let (steps, after) = apply(&wanted, &seen);
        let set = steps.iter().any(|step| step.contains("tunl0.rp_filter"));
        assert_eq!(set, written, "{of_default}: {steps:?}");
        assert_eq!(apply(&wanted, &after).0, NONE, "{of_default}");
    }
}

#[test]
fn accept_ra_is_raised_only_where_the_default_route_came_by_it() {
    let wanted = wanting(&[(accept_ra(), "2", AcceptedValues::KeepsAdvertisedRoute)]);
    let with = |value: &str, protocol: Option<u8>| {
        let mut seen = host(&[(accept_ra(), value)]);
        if let Some(protocol) = protocol {
            let dev = Some("eth0".parse().unwrap());
            let route = Route { protocol, ..Route::via("fe80::1".parse().unwrap(), dev) };
            let key: RouteKey = "default6".parse().unwrap();
            seen.state.routes.insert(key, route);
        }
        seen
    };
    for (value, protocol) in
        [("0", Some(9)), ("0", None), ("1", None), ("1", Some(4)), ("2", Some(9))]
    {
        assert_eq!(apply(&wanted, &with(value, protocol)).0, NONE, "{value} {protocol:?}");
    }
    let seen = with("1", Some(9));
    let (steps, mut after) = apply(&wanted, &seen);
    assert_eq!(steps, ["set net.ipv6.conf.eth0.accept_ra: 1 -> 2"]);
    // The router is silent for a while, and its route expires: it comes back only while this is 2.
    after.state.routes.clear();
    assert_eq!(apply(&wanted, &after).0, NONE);
    assert_eq!(destroy(&after).0, ["set net.ipv6.conf.eth0.accept_ra: 2 -> 1"]);
}

#[test]
fn what_an_earlier_lvsprov_lowered_goes_back() {
    let mut seen = host(&[(arp_ignore(), "1")]);
    let found = host(&[(arp_ignore(), "2")]).state;
    let owned: Owned = found.items();
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        topology: topology(),
        since: 0,
        owned,
        found,
        run: None,
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    };
    seen.receipt = Some(receipt);
    let (steps, after) = apply(&wanting_arp(), &seen);
    assert_eq!(steps, ["set net.ipv4.conf.all.arp_ignore: 1 -> 2"]);
    assert_eq!(after.receipt, None);
    assert_eq!(apply(&wanting_arp(), &after), (Vec::new(), after));
}

#[test]
fn an_operator_may_change_it_in_between() {
    let change = |seen: &Observation, value: &str| {
        let mut changed = seen.clone();
        changed.state.sysctls.insert(arp_ignore(), value.to_owned());
        changed
    };
    let (_, ours) = apply(&wanting_arp(), &host(&[(arp_ignore(), "0")]));
    // What serves is no drift; destroy gives back what was found.
    assert_eq!(apply(&wanting_arp(), &change(&ours, "2")).0, NONE);
    assert_eq!(destroy(&change(&ours, "2")).0, ["set net.ipv4.conf.all.arp_ignore: 2 -> 0"]);
    assert_eq!(
        apply(&wanting_arp(), &change(&ours, "8")).0,
        ["set net.ipv4.conf.all.arp_ignore: 8 -> 1"]
    );
    // What was kept and is lowered then becomes ours, and goes back to what it was lowered to.
    let (_, kept) = apply(&wanting_arp(), &host(&[(arp_ignore(), "2")]));
    let (steps, after) = apply(&wanting_arp(), &change(&kept, "0"));
    assert_eq!(steps, ["set net.ipv4.conf.all.arp_ignore: 0 -> 1"]);
    assert_eq!(destroy(&after).0, ["set net.ipv4.conf.all.arp_ignore: 1 -> 0"]);
}

/// What another topology set serves, and goes when that one goes.
#[test]
fn a_value_of_another_topology_is_shared_and_not_kept() {
    let (_, theirs) = apply(&wanting_arp(), &host(&[(arp_ignore(), "0")]));
    let other: TopologyName = "other".parse().unwrap();
    let receipt = Receipt { topology: other.clone(), ..theirs.receipt.unwrap() };
    let others = BTreeMap::from([(other, receipt)]);
    let seen = Observation { receipt: None, others, ..theirs };
    let goal = Goal::apply(&topology(), 7, &wanting_arp(), &seen).unwrap();
    assert!(goal.kept_settings.is_empty());
    let (steps, after) = go(&seen, &goal);
    assert_eq!(steps, NONE);
    let receipt = after.receipt.clone().unwrap();
    assert_eq!(receipt.found.sysctls[&arp_ignore()], "0");
    // The other goes first.
    let alone = Observation { others: BTreeMap::new(), ..after };
    assert_eq!(destroy(&alone).0, ["set net.ipv4.conf.all.arp_ignore: 1 -> 0"]);
}

/// It may be that topology's, and go with it.
#[test]
fn what_an_unreadable_topology_may_have_set_is_not_relied_on() {
    let mut seen = host(&[(arp_ignore(), "2")]);
    let failure = Failure { message: "no JSON".to_owned(), causes: Vec::new(), cure: None };
    seen.unreadable.insert("damaged".parse().unwrap(), failure);
    let goal = Goal::apply(&topology(), 7, &wanting_arp(), &seen).unwrap();
    let mut obstacles = Vec::new();
    other_topologies::unreadable(&[], &goal, &seen, &mut obstacles);
    assert_eq!(obstacles.len(), 1, "{obstacles:?}");
    assert!(obstacles[0].message.contains("arp_ignore"), "{obstacles:?}");
}

#[test]
fn after_a_restart_the_value_that_the_host_comes_up_with_counts() {
    let run = |boot: &str| Some(HostRun { boot: boot.to_owned(), init: None, namespace: None });
    // Something is ours beside it, or there is no receipt and nothing to make again.
    let mut wanted = wanting_arp();
    wanted.state.sysctls.insert(Sysctl::IpForward, "1".to_owned());
    for before in ["0", "2"] {
        for value in ["0", "2"] {
            let mut first = host(&[(arp_ignore(), before), (Sysctl::IpForward, "0")]);
            first.run = run("first");
            let goal = Goal::apply(&topology(), 7, &wanted, &first).unwrap();
            let settled = goal.settled.unwrap();
            let mut up = host(&[(arp_ignore(), value), (Sysctl::IpForward, "0")]);
            up.run = run("second");
            up.receipt = goal.receipt_after;
            let goal = Goal::replay(&settled, &up).unwrap().unwrap();
            let (steps, after) = go(&up, &goal);
            let set = format!("set net.ipv4.conf.all.arp_ignore: {value} -> 1");
            assert_eq!(steps.contains(&set), value == "0", "{before}, {value}: {steps:?}");
            assert_eq!(apply(&wanted, &after).0, NONE, "{before}, {value}");
            assert_eq!(destroy(&after).1.state, up.state, "{before}, {value}");
        }
    }
}
