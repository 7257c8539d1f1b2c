//! What lvsprov did not make, and what comes of it: pure planning on hosts made by hand.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::desired::Desired;
use crate::names::TopologyName;
use crate::plan::order::steps_between;
use crate::plan::{preflight, simulate};
use crate::state::{
    Address, AddressKey, Destination, DestinationKey, ForwardingMethod, Route, RouteKey, Scope,
};

const WEB: &str = "tcp 192.0.2.80:80";
const MAIL: &str = "tcp 192.0.2.80:25";

fn name() -> TopologyName {
    "t".parse().unwrap()
}

fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

fn item(text: &str) -> Item {
    Item::Service(key(text))
}

fn service(text: &str, scheduler: &str, real_servers: &[&str]) -> VirtualService {
    let mut service = VirtualService::plain(&key(text), scheduler);
    for at in real_servers {
        let destination = Destination::plain(ForwardingMethod::DirectRoute, 1);
        service.destinations.insert(DestinationKey(at.parse().unwrap()), destination);
    }
    service
}

fn address() -> Address {
    Address::plain(Scope::Global)
}

/// The file wants WEB and the VIP.
fn desired() -> Desired {
    let mut desired = Desired::default();
    desired.state.services.insert(key(WEB), service(WEB, "wlc", &["192.0.2.3:80", "192.0.2.4:80"]));
    desired.state.addresses.insert(vip(), address());
    desired
}

fn vip() -> AddressKey {
    "192.0.2.80/32@eth0".parse().unwrap()
}

fn seen(services: &[(&str, VirtualService)]) -> Observation {
    let services = services.iter().map(|(text, service)| (key(text), service.clone()));
    Observation {
        state: HostState { services: services.collect(), ..HostState::default() },
        ..Observation::default()
    }
}

fn same() -> VirtualService {
    service(WEB, "wlc", &["192.0.2.3:80", "192.0.2.4:80"])
}

fn goal(terms: AdoptPolicy, desired: &Desired, seen: &Observation) -> Goal {
    Goal::apply_on(terms, &name(), 7, desired, seen).unwrap()
}

const PLAIN: AdoptPolicy =
    AdoptPolicy { adopt: false, exclusive: false, transient: false, drift: None };
const ADOPT: AdoptPolicy =
    AdoptPolicy { adopt: true, exclusive: false, transient: false, drift: None };
const EXCLUSIVE: AdoptPolicy =
    AdoptPolicy { adopt: false, exclusive: true, transient: false, drift: None };

fn steps(goal: &Goal, seen: &Observation) -> Vec<String> {
    let reasons = crate::desired::Reasons::default();
    let steps = steps_between(&seen.state, &goal.wanted, &goal.owned, &reasons).unwrap();
    steps.into_all().iter().map(|step| step.edit.to_string()).collect()
}

/// The host after the goal was reached.
fn reached(goal: &Goal, seen: &Observation) -> Observation {
    let reasons = crate::desired::Reasons::default();
    let steps = steps_between(&seen.state, &goal.wanted, &goal.owned, &reasons).unwrap();
    let changes: Vec<_> = steps.into_all().into_iter().map(|step| step.edit).collect();
    Observation {
        state: simulate(&seen.state, &changes).unwrap(),
        receipt: goal.receipt_after.clone(),
        ..seen.clone()
    }
}

fn names(goal: &Goal, seen: &Observation) -> Vec<String> {
    list(goal, seen)
        .into_iter()
        .map(|foreign| format!("{} {}", foreign.kind, foreign.name))
        .collect()
}

#[test]
fn another_service_is_left_alone_and_shown() {
    let seen = seen(&[(MAIL, service(MAIL, "rr", &["192.0.2.9:25"]))]);
    let goal = goal(PLAIN, &desired(), &seen);
    assert_eq!(names(&goal, &seen), [format!("service {MAIL}")]);
    assert_eq!(list(&goal, &seen)[0].what, "rr, 1 real server");
    let after = reached(&goal, &seen);
    assert_eq!(after.state.services.get(&key(MAIL)), seen.state.services.get(&key(MAIL)));
    let back = Goal::destroy(&after).unwrap();
    assert_eq!(reached(&back, &after).state, seen.state);
}

#[test]
fn one_that_is_as_the_file_wants_it_is_used_and_outlives_destroy() {
    let seen = seen(&[(WEB, same())]);
    let goal = goal(PLAIN, &desired(), &seen);
    assert_eq!(steps(&goal, &seen), ["add address 192.0.2.80/32 to eth0 (scope global)"]);
    assert!(!goal.receipt_after.as_ref().unwrap().owned.contains(&item(WEB)));
    assert!(list(&goal, &seen)[0].what.ends_with("as the file wants it: used, and left as it is"));
    let after = reached(&goal, &seen);
    assert_eq!(reached(&Goal::destroy(&after).unwrap(), &after).state, seen.state);
    // Somebody changes it: it is not mended but stands in the way.
    let mut drifted = after.clone();
    drifted.state.services.insert(key(WEB), service(WEB, "rr", &["192.0.2.3:80"]));
    let again = super::Goal::apply(&name(), 8, &desired(), &drifted).unwrap();
    assert_eq!(again.contested.len(), 1);
}

#[test]
fn one_that_is_otherwise_stands_in_the_way_and_the_difference_is_said() {
    let seen = seen(&[(WEB, service(WEB, "rr", &["192.0.2.3:80", "192.0.2.5:80"]))]);
    let goal = goal(PLAIN, &desired(), &seen);
    let obstacles = preflight::obstacles(&desired(), &goal, &seen);
    assert_eq!(obstacles.len(), 1, "{obstacles:?}");
    assert_eq!(
        obstacles[0].message,
        "tcp 192.0.2.80:80 is in the IPVS table already, and not by lvsprov: it is rr, not wlc; \
         192.0.2.4:80 is missing; 192.0.2.5:80 is too many"
    );
    assert!(obstacles[0].cure.contains("--adopt"), "{obstacles:?}");
}

#[test]
fn adopted_it_becomes_what_the_file_says_and_goes_with_destroy() {
    for there in [same(), service(WEB, "rr", &["192.0.2.3:80"])] {
        let mut seen = seen(&[(WEB, there), (MAIL, service(MAIL, "rr", &[]))]);
        seen.state.addresses.insert(vip(), address());
        let goal = goal(ADOPT, &desired(), &seen);
        assert_eq!(preflight::obstacles(&desired(), &goal, &seen), []);
        assert_eq!(names(&goal, &seen), [format!("service {MAIL}")], "the file does not name it");
        let after = reached(&goal, &seen);
        assert_eq!(after.state.services.get(&key(WEB)), Some(&same()));
        // A second run has nothing to do, and a destroy removes it.
        let again = self::goal(ADOPT, &desired(), &after);
        assert_eq!((steps(&again, &after), again.receipt_after), (vec![], after.receipt.clone()));
        let gone = reached(&Goal::destroy(&after).unwrap(), &after);
        assert_eq!(gone.state.services.keys().collect::<Vec<_>>(), [&key(MAIL)]);
        assert!(gone.state.addresses.is_empty());
    }
}

#[test]
fn a_lost_receipt_is_made_good_by_adopt_only() {
    let mut lost = reached(&goal(PLAIN, &desired(), &seen(&[])), &seen(&[]));
    lost.receipt = None;
    let plain = goal(PLAIN, &desired(), &lost);
    assert_eq!(steps(&plain, &lost), Vec::<String>::new());
    let after = reached(&plain, &lost);
    assert_eq!(reached(&Goal::destroy(&after).unwrap(), &after).state, lost.state, "it stays");
    // Adopted at once, or after an apply that took nothing over.
    for seen in [lost, after] {
        let adopted = reached(&goal(ADOPT, &desired(), &seen), &seen);
        let gone = reached(&Goal::destroy(&adopted).unwrap(), &adopted);
        assert_eq!(gone.state, HostState::default());
    }
}

#[test]
fn adopt_does_not_forget_what_an_earlier_apply_replaced() {
    let route = |gateway: &str, protocol| Route {
        protocol,
        ..Route::via(gateway.parse().unwrap(), Some("eth0".parse().unwrap()))
    };
    let default: RouteKey = "default".parse().unwrap();
    let mut desired = Desired::default();
    desired.state.routes.insert(default.clone(), route("192.0.2.1", 4));
    // It led elsewhere before: destroy puts that back, adopted or not.
    let mut elsewhere = seen(&[]);
    elsewhere.state.routes.insert(default.clone(), route("192.0.2.9", 4));
    let after = reached(&goal(PLAIN, &desired, &elsewhere), &elsewhere);
    let adopted = reached(&goal(ADOPT, &desired, &after), &after);
    assert_eq!(reached(&Goal::destroy(&adopted).unwrap(), &adopted).state, elsewhere.state);
    // A route of DHCP's is not taken over, one such as lvsprov sets is.
    for (protocol, stays) in [(16, true), (4, false)] {
        let mut there = seen(&[]);
        there.state.routes.insert(default.clone(), route("192.0.2.1", protocol));
        let adopted = reached(&goal(ADOPT, &desired, &there), &there);
        let gone = reached(&Goal::destroy(&adopted).unwrap(), &adopted);
        assert_eq!(gone.state.routes.contains_key(&default), stays, "protocol {protocol}");
    }
}

#[test]
fn an_exclusive_table_has_no_place_for_others_and_destroy_puts_them_back() {
    let mail = service(MAIL, "rr", &["192.0.2.9:25"]);
    let seen = seen(&[(MAIL, mail.clone()), (WEB, service(WEB, "rr", &[]))]);
    let goal = goal(EXCLUSIVE, &desired(), &seen);
    assert_eq!(goal.displaced, [key(MAIL)].into());
    assert_eq!(names(&goal, &seen), Vec::<String>::new());
    let after = reached(&goal, &seen);
    assert_eq!(after.state.services, [(key(WEB), same())].into());
    assert!(!after.receipt.as_ref().unwrap().owned.contains(&item(MAIL)));
    let again = self::goal(EXCLUSIVE, &desired(), &after);
    assert_eq!(
        (steps(&again, &after), again.receipt_after.clone()),
        (vec![], after.receipt.clone())
    );
    // Somebody adds another one: that goes too, and comes back too.
    let mut more = after.clone();
    more.state.services.insert(key("udp 192.0.2.80:53"), service("udp 192.0.2.80:53", "rr", &[]));
    let after = reached(&self::goal(EXCLUSIVE, &desired(), &more), &more);
    assert_eq!(after.state.services.len(), 1);
    let back = reached(&Goal::destroy(&after).unwrap(), &after);
    let mut all = seen.state.services.clone();
    all.insert(key("udp 192.0.2.80:53"), service("udp 192.0.2.80:53", "rr", &[]));
    assert_eq!(back.state.services, all);
    // The file names it later: it is ours then, and goes back to what it was.
    let mut wider = desired();
    wider.state.services.insert(key(MAIL), service(MAIL, "wlc", &[]));
    let named = reached(&self::goal(EXCLUSIVE, &wider, &after), &after);
    assert_eq!(named.state.services.get(&key(MAIL)), Some(&service(MAIL, "wlc", &[])));
    assert_eq!(reached(&Goal::destroy(&named).unwrap(), &named).state.services, all);
}

#[test]
fn a_table_that_is_shared_again_gives_back_what_had_no_place() {
    let seen = seen(&[(MAIL, service(MAIL, "rr", &["192.0.2.9:25"]))]);
    let alone = reached(&goal(EXCLUSIVE, &desired(), &seen), &seen);
    let shared = goal(PLAIN, &desired(), &alone);
    let after = reached(&shared, &alone);
    assert_eq!(after.state.services.get(&key(MAIL)), seen.state.services.get(&key(MAIL)));
    assert!(after.receipt.as_ref().unwrap().found.services.is_empty());
    let again = goal(PLAIN, &desired(), &after);
    assert_eq!((steps(&again, &after), again.receipt_after), (vec![], after.receipt.clone()));
}

#[test]
fn what_another_topology_owns_is_neither_foreign_nor_displaced_but_in_the_way() {
    let mut seen = seen(&[(MAIL, service(MAIL, "rr", &[])), (WEB, same())]);
    let other: TopologyName = "other".parse().unwrap();
    let theirs = Receipt {
        version: crate::state::RECEIPT_VERSION,
        topology: other.clone(),
        since: 0,
        owned: [item(MAIL), item(WEB)].into(),
        found: HostState::default(),
        run: None,
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    };
    seen.others.insert(other, theirs);
    for terms in [PLAIN, ADOPT, EXCLUSIVE] {
        let goal = goal(terms, &desired(), &seen);
        assert_eq!((names(&goal, &seen), goal.displaced.len()), (vec![], 0));
        assert!(goal.contested.is_empty() && goal.left.is_empty());
        let mut obstacles = Vec::new();
        preflight::exclusive(&goal, &seen, &mut obstacles);
        assert_eq!(obstacles.len(), 1);
        let message = &obstacles[0].message;
        assert_eq!(message, &format!("the topology other has services on this host: {MAIL}"));
    }
}

#[test]
fn single_addresses_where_vips_are_put_and_others_tables_are_shown() {
    let mut seen = seen(&[]);
    for text in [
        "127.0.0.1/8@lo",
        "::1/128@lo",
        "192.0.2.90/32@lo",
        "192.0.2.91/32@tunl0",
        "192.0.2.2/24@eth0",
    ] {
        seen.state.addresses.insert(text.parse().unwrap(), address());
    }
    seen.facts.foreign_tables.insert("ip filter".to_owned());
    let goal = goal(PLAIN, &desired(), &seen);
    assert_eq!(
        names(&goal, &seen),
        ["address 192.0.2.90/32@lo", "address 192.0.2.91/32@tunl0", "table ip filter"]
    );
}
