//! One table: what the health checker did, what the file says, and what becomes of it (docs/health-checks.md).

#![allow(clippy::unwrap_used)]

use super::*;
use crate::desired::Reasons;
use crate::plan::AdoptPolicy;
use crate::plan::order::steps_between;
use crate::state::ForwardingMethod;

const FIRST: u8 = 7;
const SECOND: u8 = 8;

fn key() -> ServiceKey {
    "tcp 192.0.2.80:80".parse().unwrap()
}

fn rip(number: u8) -> DestinationKey {
    DestinationKey::new([192, 0, 2, number].into(), 80)
}

/// The file, with real servers by their numbers, each with its weight.
fn file(weights: &[(u8, u32)]) -> Desired {
    let mut desired = Desired::default();
    let mut service = VirtualService::plain(&key(), "wrr");
    for (number, weight) in weights {
        let destination = Destination::plain(ForwardingMethod::DirectRoute, *weight);
        service.destinations.insert(rip(*number), destination);
    }
    desired.state.services.insert(key(), service);
    desired.external.insert(key());
    desired
}

fn goal(desired: &Desired, seen: &Observation) -> Goal {
    goal_on(AdoptPolicy::default(), desired, seen)
}

fn goal_on(policy: AdoptPolicy, desired: &Desired, seen: &Observation) -> Goal {
    Goal::apply_on(policy, &"t".parse().unwrap(), 7, desired, seen).unwrap()
}

/// The host after an apply, and its steps.
fn apply(desired: &Desired, seen: &mut Observation) -> Vec<String> {
    let goal = goal(desired, seen);
    let steps = steps_between(&seen.state, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
    seen.state.services.clone_from(&goal.wanted.services);
    seen.receipt = goal.receipt_after;
    steps.into_all().into_iter().map(|step| step.edit.to_string()).collect()
}

fn applied(weights: &[(u8, u32)]) -> Observation {
    let mut seen = Observation::default();
    apply(&file(weights), &mut seen);
    seen
}

/// The health checker gives a real server a weight, or removes it.
fn check(seen: &mut Observation, number: u8, weight: Option<u32>) {
    let service = seen.state.services.get_mut(&key()).unwrap();
    let plain = |weight| Destination::plain(ForwardingMethod::DirectRoute, weight);
    match weight {
        Some(weight) => drop(service.destinations.insert(rip(number), plain(weight))),
        None => drop(service.destinations.remove(&rip(number))),
    }
}

fn weight(seen: &Observation, number: u8) -> Option<u32> {
    Some(seen.state.services[&key()].destinations.get(&rip(number))?.weight)
}

#[test]
fn what_the_checker_made_stays_and_a_changed_file_counts_only_in_service() {
    // The weight in the file before, what the checker made of it, the weight in the file now, and what comes of it.
    for (before, checked, now, after) in [
        (1, Some(1), 1, Some(1)),
        (1, Some(0), 1, Some(0)),
        (1, None, 1, None),
        (1, Some(5), 1, Some(5)),
        (1, Some(1), 4, Some(4)),
        (1, Some(5), 4, Some(4)),
        (1, Some(0), 4, Some(0)),
        (1, None, 4, None),
        // The operator drains by the file, and ends it.
        (1, Some(1), 0, Some(0)),
        (0, Some(0), 1, Some(1)),
        (0, None, 1, None),
        (0, Some(3), 0, Some(3)),
    ] {
        let mut seen = applied(&[(FIRST, before), (SECOND, 1)]);
        check(&mut seen, FIRST, checked);
        let desired = file(&[(FIRST, now), (SECOND, 1)]);
        apply(&desired, &mut seen);
        assert_eq!(weight(&seen, FIRST), after, "{before} {checked:?} {now}");
        assert_eq!(apply(&desired, &mut seen), Vec::<String>::new());
    }
}

#[test]
fn who_was_out_before_a_drain_by_the_file_is_out_behind_it() {
    let mut seen = applied(&[(FIRST, 1), (SECOND, 1)]);
    check(&mut seen, FIRST, Some(0));
    apply(&file(&[(FIRST, 0), (SECOND, 1)]), &mut seen);
    apply(&file(&[(FIRST, 1), (SECOND, 1)]), &mut seen);
    assert_eq!(weight(&seen, FIRST), Some(0), "it is still dead");
    // Seen in service meanwhile, then out: that is the checker's.
    let mut seen = applied(&[(FIRST, 0), (SECOND, 1)]);
    check(&mut seen, FIRST, Some(1));
    apply(&file(&[(FIRST, 0), (SECOND, 1)]), &mut seen);
    check(&mut seen, FIRST, Some(0));
    apply(&file(&[(FIRST, 1), (SECOND, 1)]), &mut seen);
    assert_eq!(weight(&seen, FIRST), Some(0));
}

#[test]
fn the_rest_of_a_destination_and_of_the_service_is_the_files() {
    let mut seen = applied(&[(FIRST, 1), (SECOND, 1)]);
    check(&mut seen, FIRST, Some(0));
    let service = seen.state.services.get_mut(&key()).unwrap();
    service.scheduler = "rr".to_owned();
    service.destinations.get_mut(&rip(FIRST)).unwrap().upper_threshold = 9;
    assert_eq!(apply(&file(&[(FIRST, 1), (SECOND, 1)]), &mut seen).len(), 2);
    let service = &seen.state.services[&key()];
    assert_eq!(service.scheduler, "wrr");
    let expected = Destination::plain(ForwardingMethod::DirectRoute, 0);
    assert_eq!(service.destinations[&rip(FIRST)], expected);
}

#[test]
fn real_servers_come_and_go_with_the_file_and_a_sorry_server_is_the_checkers() {
    let mut seen = applied(&[(FIRST, 1)]);
    check(&mut seen, 99, Some(1));
    check(&mut seen, FIRST, None);
    assert_eq!(apply(&file(&[(FIRST, 1), (SECOND, 2)]), &mut seen).len(), 1);
    assert_eq!(weight(&seen, SECOND), Some(2), "it is new");
    assert_eq!((weight(&seen, FIRST), weight(&seen, 99)), (None, Some(1)));
    check(&mut seen, FIRST, Some(1));
    apply(&file(&[(SECOND, 2)]), &mut seen);
    assert_eq!((weight(&seen, FIRST), weight(&seen, 99)), (None, Some(1)));
    // Named again it is new again.
    apply(&file(&[(FIRST, 1), (SECOND, 2)]), &mut seen);
    assert_eq!(weight(&seen, FIRST), Some(1));
}

#[test]
fn the_first_apply_with_the_key_leaves_weights_and_says_what_it_adds() {
    let plain = Desired { external: BTreeSet::new(), ..file(&[(FIRST, 1), (SECOND, 1)]) };
    let mut seen = Observation::default();
    apply(&plain, &mut seen);
    check(&mut seen, FIRST, Some(0));
    check(&mut seen, SECOND, None);
    let desired = file(&[(FIRST, 1), (SECOND, 1)]);
    let said = cautions(&desired, &goal(&desired, &seen), &seen);
    assert!(said[0].contains("192.0.2.8:80") && said.len() == 1, "{said:?}");
    apply(&desired, &mut seen);
    assert_eq!((weight(&seen, FIRST), weight(&seen, SECOND)), (Some(0), Some(1)));
    assert_eq!(cautions(&desired, &goal(&desired, &seen), &seen), Vec::<String>::new());
    // Without the key the file's weights count again.
    apply(&plain, &mut seen);
    assert_eq!(weight(&seen, FIRST), Some(1));
    assert!(seen.receipt.unwrap().external.is_empty());
}

/// keepalived makes its services itself.
#[test]
fn a_service_that_the_checker_made_is_used_with_its_weights() {
    let desired = file(&[(FIRST, 1), (SECOND, 1)]);
    let mut seen = Observation::default();
    seen.state.services.insert(key(), VirtualService::plain(&key(), "wrr"));
    check(&mut seen, FIRST, Some(0));
    let found = goal(&desired, &seen);
    assert!(found.contested.is_empty() && found.left.contains(&key()), "{:?}", found.contested);
    assert_eq!(differences(&desired, &found, &seen.state).len(), 2);
    // Another scheduler is no health.
    seen.state.services.get_mut(&key()).unwrap().scheduler = "rr".to_owned();
    assert!(goal(&desired, &seen).contested.contains_key(&key()));
    // Taken over, what is missing is added once.
    let adopted = goal_on(AdoptPolicy { adopt: true, ..AdoptPolicy::default() }, &desired, &seen);
    seen.state.services.clone_from(&adopted.wanted.services);
    seen.receipt = adopted.receipt_after;
    assert_eq!((weight(&seen, FIRST), weight(&seen, SECOND)), (Some(0), Some(1)));
    check(&mut seen, SECOND, None);
    assert_eq!(apply(&desired, &mut seen), Vec::<String>::new());
}

#[test]
fn what_is_out_is_named_and_a_weight_of_0_in_the_file_is_not() {
    let mut seen = applied(&[(FIRST, 1), (SECOND, 0), (9, 1), (10, 1)]);
    check(&mut seen, FIRST, Some(0));
    check(&mut seen, SECOND, None);
    check(&mut seen, 9, None);
    check(&mut seen, 10, Some(3));
    let desired = file(&[(FIRST, 1), (SECOND, 0), (9, 1), (10, 1)]);
    let all = differences(&desired, &goal(&desired, &seen), &seen.state);
    let found: Vec<_> = all.iter().map(|it| (it.destination, it.weight, it.is_out())).collect();
    assert_eq!(
        found,
        [(rip(FIRST), Some(0), true), (rip(9), None, true), (rip(10), Some(3), false)]
    );
}

#[test]
fn a_boot_makes_all_of_it_and_a_replay_beside_a_checker_leaves_it() {
    let desired = file(&[(FIRST, 1), (SECOND, 2)]);
    let mut seen = Observation::default();
    let first = goal(&desired, &seen);
    seen.state = first.wanted.clone();
    seen.receipt.clone_from(&first.receipt_after);
    let settled = first.settled.unwrap();
    check(&mut seen, FIRST, None);
    check(&mut seen, SECOND, Some(0));
    let steps = |seen: &Observation| {
        let goal = Goal::replay(&settled, seen).unwrap().unwrap();
        (goal.replay_steps(&seen.state).unwrap().len(), goal)
    };
    assert_eq!(steps(&seen).0, 0);
    seen.state.services.clear();
    let (count, goal) = steps(&seen);
    assert_eq!(count, 3, "the service and two real servers");
    assert_eq!(goal.wanted.services, desired.state.services);
    assert_eq!(goal.receipt_after.unwrap().external, first.receipt_after.unwrap().external);
}

/// A transaction changed one real server, the checker another one meanwhile; then it is undone.
#[test]
fn undoing_spares_what_the_checker_did_meanwhile() {
    let mut seen = applied(&[(FIRST, 1), (SECOND, 1)]);
    let before = seen.clone();
    let changed = goal(&file(&[(FIRST, 1), (SECOND, 5)]), &seen);
    let steps =
        steps_between(&seen.state, &changed.wanted, &changed.owned, &Reasons::default()).unwrap();
    let touched = [Item::Service(key())].into();
    let mut open = crate::support::unfinished(&["lvs"], before.state.restricted_to(&touched));
    open.journal.touched = touched;
    open.journal.stages = vec![(crate::state::Stage::Live, steps.into_all())];
    open.receipt_before.clone_from(&before.receipt);
    seen.state.services.clone_from(&changed.wanted.services);
    check(&mut seen, FIRST, Some(0));
    let undo = Goal::undo(&open, &seen);
    let service = &undo.wanted.services[&key()];
    assert_eq!(service.destinations[&rip(FIRST)].weight, 0, "the checker's");
    assert_eq!(service.destinations[&rip(SECOND)].weight, 1, "the transaction's");
}
