//! The laws of design, by property test on the simulator: whatever the two states, a plan leads from
//! one to the other, touches nothing else, survives being cut off anywhere, and can be undone.
//!
//! [`generate`] makes the states, [`world`] walks whole clusters, [`pace`] takes real servers out and in
//! slowly, [`maintenance`] takes them out for a while, [`external`] has a health checker beside lvsprov, [`sharing`] has several topologies on one host, [`reboot`] restarts it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod external;
mod generate;
mod maintenance;
mod pace;
mod reboot;
mod sharing;
mod world;

use proptest::prelude::*;

use self::generate::{TABLES, dev, follows, is_source_nat, seen_state, wanted};
use self::world::{World, vips_on};
use super::ownership::Goal;
use super::{order, simulate};
use crate::desired::{Desired, Reasons, desired_for};
use crate::names::{IfName, TopologyName};
use crate::state::accepted::Surroundings;
use crate::state::*;
use crate::state::{Edit, KeyedEdit, Observation, Receipt, TunnelDevice};
use crate::support::{Cluster, cluster};
use crate::topology::Forward;

fn sighting(state: HostState, receipt: Option<Receipt>) -> Observation {
    Observation { state, receipt, ..Observation::default() }
}

/// Modules stay with what they brought, and what forwarding moves along is not ours. What stands on a
/// tunnel device goes with it, which is another way to drift.
#[allow(clippy::match_same_arms, reason = "for different reasons")]
fn can_drift(item: &Item) -> bool {
    let eth = |dev: &IfName| dev.as_str().starts_with("eth") || dev.as_str() == "lo";
    match item {
        // Settings and timeouts of IPVS are there as long as it is.
        Item::Module(_)
        | Item::Sysctl(Sysctl::IpForward | Sysctl::Ip6Forward | Sysctl::Vs(_))
        | Item::Timeouts
        | Item::Tunnel(_) => false,
        Item::Link(dev)
        | Item::Sysctl(Sysctl::Conf(ConfDev::Dev(dev), _) | Sysctl::Conf6(ConfDev::Dev(dev), _)) => {
            eth(dev)
        }
        Item::Address(key) => eth(&key.dev),
        _ => true,
    }
}

fn name() -> TopologyName {
    "t".parse().unwrap()
}

fn goal(desired: &Desired, seen: &Observation) -> Goal {
    Goal::apply(&name(), 7, desired, seen).unwrap()
}

fn changes(seen: &HostState, goal: &Goal) -> Vec<Edit> {
    let steps = order::steps_between(seen, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
    steps.into_all().into_iter().map(|step| step.edit).collect()
}

/// Applies `desired` to `seen` and returns the host afterwards, receipt included.
fn applied(desired: &Desired, seen: &Observation) -> Observation {
    let goal = goal(desired, seen);
    let after = simulate(&seen.state, &changes(&seen.state, &goal)).unwrap();
    sighting(after, goal.receipt_after)
}

fn destroyed(seen: &Observation) -> HostState {
    let Some(goal) = Goal::destroy(seen) else { return seen.state.clone() };
    simulate(&seen.state, &changes(&seen.state, &goal)).unwrap()
}

/// Modules stay, and with them what they brought: devices, down and with the values they started with,
/// and all of IPVS.
fn without_modules(mut state: HostState, was: &HostState) -> HostState {
    state.modules.clone_from(&was.modules);
    let brought = Module::ALL.iter().filter_map(|module| module.device()).map(dev);
    for dev in brought.filter(|dev| !was.links.contains_key(dev)) {
        assert_ne!(state.links.remove(&dev), Some(Link::Up), "{dev} was left up");
        state.sysctls.retain(|key, _| match key {
            Sysctl::Conf(ConfDev::Dev(of), _) | Sysctl::Conf6(ConfDev::Dev(of), _) => *of != dev,
            _ => true,
        });
    }
    if !was.modules.contains(&Module::IpVs) {
        state.sysctls.retain(|key, _| !matches!(key, Sysctl::Vs(_)));
        state.timeouts = None;
    }
    state
}

/// The part without an owner, which nothing moves.
fn outside(state: &HostState, owned: &Owned) -> HostState {
    let mut state = state.clone();
    for item in owned {
        state.copy_item(item, &HostState::default());
        if let Item::Tunnel(dev) = item {
            let of = |key: &Sysctl| match key {
                Sysctl::Conf(ConfDev::Dev(of), _) | Sysctl::Conf6(ConfDev::Dev(of), _) => of == dev,
                _ => false,
            };
            state.sysctls.retain(|key, _| !of(key));
        }
    }
    state.sysctls.retain(|key, _| !follows(key));
    without_modules(state, &HostState::default())
}

/// Whether no source is rewritten by our table that is not tracked.
fn tracks_what_it_rewrites(state: &HostState) -> bool {
    let table = state.tables.get(&TABLES[0].parse::<TableName>().unwrap());
    let rewrites = table.is_some_and(|table| table.rules.iter().any(is_source_nat));
    let conntrack = state.sysctls.get(&Sysctl::Vs(VsItem::Conntrack));
    !rewrites || conntrack.is_some_and(|value| value == "1")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn law_1_a_plan_reaches_its_goal_and_moves_nothing_else(a in seen_state(), b in wanted()) {
        let seen = sighting(a.clone(), None);
        let goal = goal(&b, &seen);
        let after = simulate(&a, &changes(&a, &goal)).unwrap();
        prop_assert_eq!(after.restricted_to(&goal.owned), goal.wanted.restricted_to(&goal.owned));
        let mut owned = goal.owned.clone();
        owned.extend(b.state.modules.iter().map(|m| Item::Module(*m)));
        prop_assert_eq!(outside(&after, &owned), outside(&a, &owned));
    }

    /// A value that serves is neither owned, written nor given back. One that does not serve afterwards is none.
    #[test]
    fn law_1_a_value_that_serves_is_kept(a in seen_state(), b in wanted()) {
        let seen = sighting(a.clone(), None);
        let goal = goal(&b, &seen);
        let once = applied(&b, &seen);
        let back = destroyed(&once);
        let all = Sysctl::all(ConfItem::RpFilter);
        let mut around = Surroundings::of(&a);
        around.rp_filter_of_all = once.state.sysctls.get(&all).map(String::as_str);
        for (key, accepted) in &b.accepted {
            let after = &once.state.sysctls[key];
            prop_assert!(accepted.serves(key, after, around), "{} = {}", key, after);
            let Some(before) = a.sysctls.get(key) else { continue };
            let serves = accepted.serves(key, before, around);
            prop_assert_eq!(serves, goal.kept_settings.contains(key), "{} = {}", key, before);
            prop_assert_eq!(serves, !goal.owned.contains(&Item::Sysctl(key.clone())), "{}", key);
            if serves {
                prop_assert_eq!((after, &back.sysctls[key]), (before, before), "{}", key);
            }
        }
    }

    /// An operator sets another value that serves: no step, no other receipt, and destroy goes back to what was found.
    #[test]
    fn law_2_another_value_that_serves_is_no_drift(a in seen_state(), b in wanted(), value in 0..4u8) {
        let mut once = applied(&b, &sighting(a.clone(), None));
        let value = value.to_string();
        let (mut changed, owned) = (Vec::new(), once.receipt.as_ref().map(|it| it.owned.clone()));
        for (key, accepted) in &b.accepted {
            let item = Item::Sysctl(key.clone());
            // A device that lvsprov made has the file's value.
            let is_ours = a.sysctls.contains_key(key)
                && owned.as_ref().is_some_and(|owned| owned.contains(&item));
            if is_ours && accepted.serves_anywhere(&value) {
                once.state.sysctls.insert(key.clone(), value.clone());
                changed.push(key);
            }
        }
        let again = goal(&b, &once);
        let steps = changes(&once.state, &again);
        prop_assert_eq!(&steps, &Vec::<Edit>::new());
        prop_assert_eq!(&again.receipt_after, &once.receipt);
        let back = destroyed(&once);
        for key in changed.into_iter().filter(|key| a.sysctls.contains_key(*key)) {
            prop_assert_eq!(&back.sysctls[key], &a.sysctls[key], "{}", key);
        }
    }

    #[test]
    fn law_2_a_second_apply_does_nothing(a in seen_state(), b in wanted()) {
        let after = applied(&b, &sighting(a, None));
        let again = goal(&b, &after);
        prop_assert_eq!(changes(&after.state, &again), vec![]);
        prop_assert_eq!(again.receipt_after, after.receipt);
    }

    #[test]
    fn law_3_cut_off_anywhere_one_more_apply_reaches_the_goal(
        a in seen_state(), b in wanted(), cut in any::<prop::sample::Index>(),
    ) {
        let seen = sighting(a.clone(), None);
        let mut first = goal(&b, &seen);
        let steps = changes(&a, &first);
        super::drain::borrow(&mut first, &steps, &a);
        let cut = cut.index(steps.len() + 1);
        let halfway = simulate(&a, &steps[..cut]).unwrap();
        let after = applied(&b, &sighting(halfway.clone(), Some(first.receipt.clone())));
        prop_assert_eq!(
            after.state.restricted_to(&first.owned),
            first.wanted.restricted_to(&first.owned)
        );
        // And destroy from half-way restores what was there.
        let back = destroyed(&sighting(halfway, Some(first.receipt)));
        prop_assert_eq!(without_modules(back, &a), without_modules(a.clone(), &a));
    }

    #[test]
    fn law_7_destroy_restores_what_was_found(a in seen_state(), b in wanted(), c in wanted()) {
        let once = applied(&b, &sighting(a.clone(), None));
        let back = destroyed(&once);
        prop_assert_eq!(without_modules(back, &a), without_modules(a.clone(), &a));
        // Also when the file changed in between.
        let twice = applied(&c, &once);
        let back = destroyed(&twice);
        prop_assert_eq!(without_modules(back, &a), without_modules(a.clone(), &a));
    }

    /// Another program changed what is ours, in any way, between two runs.
    #[test]
    fn law_7_drift_is_mended_and_destroy_restores_what_was_found_at_first(
        a in seen_state(), b in wanted(), other in seen_state(), unplugged in any::<bool>(),
    ) {
        let mut drifted = applied(&b, &sighting(a.clone(), None));
        let first = drifted.receipt.clone().map(|receipt| receipt.owned).unwrap_or_default();
        for item in first.iter().filter(|item| can_drift(item)) {
            drifted.state.copy_item(item, &other);
        }
        for (dev, device) in drifted.state.tunnels.clone().into_iter().filter(|_| unplugged) {
            let gone = Edit::remove::<TunnelDevice>(dev, device);
            drifted.state = simulate(&drifted.state, [&gone]).unwrap();
        }
        let goal = goal(&b, &drifted);
        let mended = applied(&b, &drifted);
        prop_assert_eq!(
            mended.state.restricted_to(&goal.owned), goal.wanted.restricted_to(&goal.owned)
        );
        prop_assert_eq!(&mended.receipt, &drifted.receipt);
        let back = destroyed(&mended);
        prop_assert_eq!(without_modules(back, &a), without_modules(a.clone(), &a));
        // Nor does it need the mending.
        let back = destroyed(&drifted);
        prop_assert_eq!(without_modules(back, &a), without_modules(a.clone(), &a));
    }

    /// The director takes requests only when all else on it is as it must be.
    #[test]
    fn law_4_the_vip_is_the_last_to_come_and_the_first_to_go(a in seen_state(), b in wanted()) {
        let kind = |edit: &Edit| match edit {
            Edit::Address(KeyedEdit { after: None, .. }) => 0,
            Edit::Address(KeyedEdit { before: None, .. }) => 2,
            // A health checker asks by the VIP.
            Edit::Instance(KeyedEdit { after: Some(_), .. }) => 3,
            _ => 1,
        };
        let after = applied(&b, &sighting(a.clone(), None));
        let there = changes(&a, &goal(&b, &sighting(a.clone(), None)));
        let back = Goal::destroy(&after).map(|goal| changes(&after.state, &goal)).unwrap_or_default();
        for steps in [there, back] {
            prop_assert!(steps.iter().map(kind).is_sorted(), "{steps:?}");
        }
    }

    /// FULLNAT: never a rule that rewrites sources of what is not tracked, nor on the way back.
    #[test]
    fn law_4_no_source_is_rewritten_untracked(a in seen_state(), b in wanted(), c in wanted()) {
        let once = applied(&b, &sighting(a.clone(), None));
        let twice = applied(&c, &once);
        let back = Goal::destroy(&twice).map(|goal| (twice.state.clone(), changes(&twice.state, &goal)));
        let there = (a.clone(), changes(&a, &goal(&b, &sighting(a.clone(), None))));
        let over = (once.state.clone(), changes(&once.state, &goal(&c, &once)));
        for (mut state, steps) in [Some(there), Some(over), back].into_iter().flatten() {
            let after = simulate(&state, &steps).unwrap();
            if !tracks_what_it_rewrites(&state) || !tracks_what_it_rewrites(&after) {
                continue;
            }
            for step in steps {
                state = simulate(&state, [&step]).unwrap();
                prop_assert!(tracks_what_it_rewrites(&state), "{step}");
            }
        }
    }

    #[test]
    fn law_7_every_step_has_an_inverse(a in seen_state(), b in wanted()) {
        let mut state = a.clone();
        for change in changes(&a, &goal(&b, &sighting(a.clone(), None))) {
            let before = state.clone();
            state = simulate(&state, [&change]).unwrap();
            let Some(inverse) = change.inverse() else { continue };
            let mut back = simulate(&state, [&inverse]).unwrap();
            let moves = |key: &Sysctl| matches!(key, Sysctl::IpForward | Sysctl::Ip6Forward);
            if change.changed::<Sysctl>().is_some_and(|(key, ..)| moves(key)) {
                // What moves along is put back by a destroy, from the receipt.
                back.sysctls.clone_from(&before.sysctls);
            }
            prop_assert_eq!(back, before);
        }
    }

    #[test]
    fn law_4_on_the_way_nothing_is_exposed(
        from in cluster(), to in cluster(), order in any::<prop::sample::Index>(),
        (arp_ignore, rp_filter) in (0..4u8, 0..3u8),
    ) {
        let mut world = World::bare(&to, arp_ignore, rp_filter);
        let found = world.hosts.clone();
        world.walk(&from, Some(&order), "bare to first");
        world.walk(&to, Some(&order), "first to second");
        world.walk_back(&to, "second to bare");
        for (host, state) in &world.hosts {
            prop_assert!(state.services.is_empty() && vips_on(state).is_empty(), "{host} keeps something");
            for item in [ConfItem::ArpIgnore, ConfItem::RpFilter].map(Sysctl::all) {
                prop_assert_eq!(&state.sysctls[&item], &found[host].sysctls[&item], "{}", host);
            }
        }
    }
}

#[test]
fn settings_differ_by_method() {
    let of = |forward| {
        let cluster = Cluster::of(&[(forward, 80, vec![1, 2])]);
        let host = &cluster.topology.hosts[&"rs1".parse().unwrap()];
        desired_for(&cluster.topology, host).state
    };
    assert!(of(Forward::Nat).addresses.is_empty());
    assert!(of(Forward::Nat).sysctls.is_empty());
    assert_eq!(of(Forward::Dr).addresses.keys().next().unwrap().dev, dev("lo"));
    assert_eq!(of(Forward::Tun).links, [(dev("tunl0"), Link::Up)].into());
    assert_eq!(
        of(Forward::Fullnat),
        HostState { routes: of(Forward::Dr).routes, ..HostState::default() }
    );
}
