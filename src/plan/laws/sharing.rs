//! Several topologies on one host, which want some of the same: in whichever order they come and go, what
//! was found first is there again when the last is gone, and none loses what it has meanwhile.

use std::collections::BTreeMap;

use super::*;
use crate::plan::other_topologies;
use crate::state::OtherTransaction;

/// A host with its receipts.
#[derive(Debug, Clone)]
struct Shared {
    state: HostState,
    receipts: BTreeMap<TopologyName, Receipt>,
}

fn named(name: &str) -> TopologyName {
    name.parse().unwrap()
}

impl Shared {
    fn of(state: HostState) -> Self {
        Self { state, receipts: BTreeMap::new() }
    }

    fn seen(&self, name: &TopologyName) -> Observation {
        let mut others = self.receipts.clone();
        let receipt = others.remove(name);
        Observation { others, ..sighting(self.state.clone(), receipt) }
    }

    /// Goes to `goal`; whether nothing was in the way.
    fn reach(&mut self, name: &TopologyName, goal: Goal) -> bool {
        let seen = self.seen(name);
        let steps = changes(&self.state, &goal);
        let mut obstacles = Vec::new();
        other_topologies::shared(&steps, &goal, &seen, &mut obstacles);
        if !obstacles.is_empty() {
            return false;
        }
        self.state = simulate(&self.state, &steps).unwrap();
        match goal.receipt_after {
            Some(receipt) => drop(self.receipts.insert(name.clone(), receipt)),
            None => drop(self.receipts.remove(name)),
        }
        true
    }

    fn apply(&mut self, name: &TopologyName, desired: &Desired) -> bool {
        let goal = Goal::apply(name, 7, desired, &self.seen(name)).unwrap();
        self.reach(name, goal)
    }

    fn destroy(&mut self, name: &TopologyName) -> bool {
        Goal::destroy(&self.seen(name)).is_none_or(|goal| self.reach(name, goal))
    }

    /// What `name` has is as `desired` has it.
    fn is_right(&self, name: &TopologyName, desired: &Desired) -> bool {
        changes(&self.state, &goal_of(name, desired, self)).is_empty()
    }
}

fn goal_of(name: &TopologyName, desired: &Desired, on: &Shared) -> Goal {
    Goal::apply(name, 7, desired, &on.seen(name)).unwrap()
}

/// `second`, wanting what `first` wants too just as that does.
fn agreeing(first: &Desired, second: &Desired) -> Desired {
    let mut second = second.clone();
    for item in &second.state.items() & &first.state.items() {
        second.state.copy_item(&item, &first.state);
        if let Item::Sysctl(key) = item {
            match first.accepted.get(&key) {
                Some(accepted) => drop(second.accepted.insert(key, accepted.clone())),
                None => drop(second.accepted.remove(&key)),
            }
        }
    }
    second
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn in_either_order_of_destroying_what_was_found_first_comes_back(
        a in seen_state(), b in wanted(), c in wanted(), d in wanted(), older_goes_first in any::<bool>(),
        changed in any::<bool>(),
    ) {
        let (older, younger) = (named("older"), named("younger"));
        let c = agreeing(&b, &c);
        let mut host = Shared::of(a.clone());
        prop_assert!(host.apply(&older, &b));
        prop_assume!(host.apply(&younger, &c));
        let mut wants = [(older, b), (younger, c)];
        if changed {
            // The older's file is another now: it drops some of what they share.
            let d = agreeing(&wants[1].1, &d);
            prop_assume!(host.apply(&wants[0].0, &d));
            wants[0].1 = d;
        }
        if !older_goes_first {
            wants.reverse();
        }
        let right = host.is_right(&wants[1].0, &wants[1].1);
        prop_assert!(host.destroy(&wants[0].0), "it is in the other's way");
        prop_assert!(!right || host.is_right(&wants[1].0, &wants[1].1), "the other lost something");
        prop_assert!(host.destroy(&wants[1].0));
        prop_assert!(host.receipts.is_empty());
        prop_assert_eq!(without_modules(host.state, &a), without_modules(a.clone(), &a));
    }

    /// Three that want all the same come and go, any of them again and again.
    #[test]
    fn the_last_of_several_gives_back(
        a in seen_state(), b in wanted(), comings in proptest::collection::vec((0..3usize, any::<bool>()), 1..12),
    ) {
        let names = ["one", "two", "three"].map(named);
        let mut host = Shared::of(a.clone());
        for (which, comes) in comings {
            let went = if comes { host.apply(&names[which], &b) } else { host.destroy(&names[which]) };
            prop_assert!(went);
            if !host.receipts.is_empty() {
                prop_assert!(host.is_right(&names[which], &b) || !comes);
            }
        }
        for name in &names {
            prop_assert!(host.destroy(name));
        }
        prop_assert_eq!(without_modules(host.state, &a), without_modules(a.clone(), &a));
    }
}

fn arp() -> Sysctl {
    Sysctl::all(ConfItem::ArpIgnore)
}

fn wants_arp() -> Desired {
    let mut desired = Desired::default();
    desired.state.sysctls.insert(arp(), "1".to_owned());
    desired
}

fn with_arp(value: &str) -> Shared {
    let sysctls = [(arp(), value.to_owned())].into();
    Shared::of(HostState { sysctls, ..HostState::default() })
}

/// Each would leave it to the other, and no receipt would have the value before.
#[test]
fn two_do_not_give_it_up_at_once() {
    let (older, younger) = (named("older"), named("younger"));
    let mut host = with_arp("0");
    assert!(host.apply(&older, &wants_arp()) && host.apply(&younger, &wants_arp()));
    let mut seen = host.seen(&younger);
    let goal = Goal::destroy(&seen).unwrap();
    assert_eq!(changes(&seen.state, &goal), []);
    let theirs = OtherTransaction {
        transaction: "0123456789abcdef".parse().unwrap(),
        by: crate::state::Operator { user: "ann".into(), host: "desk".into(), pid: 7 },
        since: 0,
        touched: Owned::new(),
    };
    // Whatever the other does: undone, it may no longer have it.
    seen.open_elsewhere.insert(older.clone(), theirs);
    let mut obstacles = Vec::new();
    other_topologies::open_elsewhere(&[], &goal, &seen, &mut obstacles);
    assert_eq!(obstacles.len(), 1, "{obstacles:?}");
    // The other has gone since it was looked at.
    let receipt_after = goal.receipt_after.as_ref();
    let then = other_topologies::owners(&goal.receipt, receipt_after, &seen);
    assert_eq!(then, [(older.clone(), [Item::Sysctl(arp())].into())].into());
    seen.others.clear();
    assert_ne!(then, other_topologies::owners(&goal.receipt, receipt_after, &seen));
}

/// After a restart everything is as the host comes up. What stays another's is not put back at all.
#[test]
fn a_restart_does_not_mix_up_what_was_found() {
    let (older, younger) = (named("older"), named("younger"));
    let mut host = with_arp("0");
    assert!(host.apply(&older, &wants_arp()) && host.apply(&younger, &wants_arp()));
    host.state.sysctls.insert(arp(), "0".to_owned());
    assert!(host.destroy(&younger));
    assert_eq!(host.state.sysctls[&arp()], "0");
    assert!(host.apply(&older, &wants_arp()) && host.destroy(&older));
    assert_eq!(host.state.sysctls[&arp()], "0");
}

/// What moves along with ip_forward is given back with it, by the last.
#[test]
fn what_moves_along_stays_with_what_moves_it() {
    let (older, younger) = (named("older"), named("younger"));
    let along = Sysctl::dev(&dev("eth0"), ConfItem::Forwarding);
    let mut wants = Desired::default();
    wants.state.sysctls.insert(Sysctl::IpForward, "1".to_owned());
    let mut bare = HostState::default();
    bare.links.insert(dev("eth0"), Link::Up);
    bare.sysctls = [(Sysctl::IpForward, "0".to_owned()), (along, "0".to_owned())].into();
    for younger_first in [true, false] {
        let mut host = Shared::of(bare.clone());
        assert!(host.apply(&older, &wants) && host.apply(&younger, &wants));
        let set = host.state.clone();
        assert_ne!(set, bare);
        let leaving = if younger_first { [&younger, &older] } else { [&older, &younger] };
        assert!(host.destroy(leaving[0]));
        assert_eq!(host.state, set);
        assert!(host.destroy(leaving[1]));
        assert_eq!(host.state, bare);
    }
}
