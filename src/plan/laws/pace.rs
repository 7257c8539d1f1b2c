//! Draining and ramping change the way, and never where it leads.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::generate::{seen_state, wanted};
use super::{applied, destroyed, goal, sighting, without_modules};
use crate::desired::{Desired, Reasons};
use crate::plan::drain::{self, Arranged, BORROWED, PacingOptions};
use crate::plan::journal::touched_by;
use crate::plan::ownership::{Goal, with_modules_of};
use crate::plan::{order, simulate};
use crate::state::{
    Counters, DestinationKey, Edit, HostState, Intent, Item, Journal, Observation, OpenTransaction,
    Operator, ServiceKey, Stage, Step, TransactionId, VirtualService,
};
use crate::support::Cluster;
use crate::topology::{Forward, Pace, PaceOverride, Scheduler, Service};

/// What a file may say of the four services that the states have.
fn services() -> impl Strategy<Value = Vec<(ServiceKey, Service)>> {
    let keys = ["tcp 192.0.2.1:80", "udp 192.0.2.1:53", "fwmark4 8", "tcp [2001:db8::1]:0"];
    let plain = Cluster::of(&[(Forward::Dr, 80, vec![1])]).topology.services.remove(0);
    let one = (0..2u32, 0..2u32, select(vec![Scheduler::Wlc, Scheduler::Rr])).prop_map(
        move |(drain, ramp, scheduler)| {
            let pace = Pace { drain: drain * 30, ramp: ramp * 60 };
            Service { scheduler, pace, ..plain.clone() }
        },
    );
    proptest::collection::vec(one, keys.len()).prop_map(move |services| {
        keys.iter().map(|key| key.parse().unwrap()).zip(services).collect()
    })
}

fn overrides() -> impl Strategy<Value = PaceOverride> {
    let seconds = || proptest::option::weighted(0.2, select(vec![0, 5]));
    (seconds(), seconds()).prop_map(|(drain, ramp)| PaceOverride { drain, ramp })
}

/// Each destination has `n` connections.
fn counted(state: &HostState, n: u32) -> BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>> {
    let counters = Counters { active: n, ..Counters::default() };
    let of = |(key, service): (&ServiceKey, &crate::state::VirtualService)| {
        (key.clone(), service.destinations.keys().map(|at| (*at, counters)).collect())
    };
    state.services.iter().map(of).collect()
}

#[derive(Debug)]
struct Way {
    desired: Desired,
    seen: Observation,
    goal: Goal,
    plain: Vec<Edit>,
    arranged: Arranged,
    /// The steps with other numbers of connections, and with none.
    otherwise_counted: Vec<Vec<(Stage, Vec<Step>)>>,
}

impl Way {
    fn steps(&self) -> Vec<&Step> {
        self.arranged.stages.iter().flat_map(|(_, steps)| steps).collect()
    }

    fn changes(&self) -> Vec<Edit> {
        self.steps().into_iter().map(|step| step.edit.clone()).collect()
    }

    /// What lies on the disk while these steps are done.
    fn journal(&self) -> Journal {
        let touched = touched_by(self.steps(), &self.seen.state);
        let before = with_modules_of(self.steps(), &self.seen.state).unwrap();
        Journal {
            version: crate::state::RECEIPT_VERSION,
            topology: super::name(),
            transaction: TransactionId::from_bits(1),
            intent: Intent::Apply,
            by: Operator { user: "u".into(), host: "h".into(), pid: 1 },
            since: 0,
            hosts: ["director".parse().unwrap()].into(),
            stages: self.arranged.stages.clone(),
            before: before.restricted_to(&touched),
            touched,
        }
    }
}

/// From what `b` made of `a` to what `c` wants.
fn way() -> impl Strategy<Value = Way> {
    let hosts = (seen_state(), wanted(), wanted());
    (hosts, services(), overrides(), 0..2u32).prop_map(
        |((a, b, c), services, overrides, connections)| {
            let mut seen = applied(&b, &sighting(a, None));
            seen.counters = counted(&seen.state, connections);
            let mut goal = goal(&c, &seen);
            let none = Reasons::default();
            let steps =
                order::steps_between(&seen.state, &goal.wanted, &goal.owned, &none).unwrap();
            let plain = steps.clone().into_all().into_iter().map(|step| step.edit).collect();
            let turns = vec![(Stage::Withdraw, steps.withdraw), (Stage::Live, steps.build)];
            let services = services.iter().map(|(key, service)| (key.clone(), service)).collect();
            let options = PacingOptions { services, overrides, ..PacingOptions::default() };
            let arranged = drain::arrange(&options, &seen, turns.clone());
            let others = (0..3).map(|n| {
                let seen = Observation { counters: counted(&seen.state, n), ..seen.clone() };
                drain::arrange(&options, &seen, turns.clone()).stages
            });
            let otherwise_counted = others.collect();
            let steps = arranged.stages.iter().flat_map(|(_, steps)| steps);
            drain::borrow(&mut goal, steps.map(|step| &step.edit), &seen.state);
            Way { desired: c, seen, goal, plain, arranged, otherwise_counted }
        },
    )
}

fn differing(a: &HostState, b: &HostState) -> Vec<String> {
    let mut items = a.items();
    items.extend(b.items());
    let differs = |item: &Item| a.describe(item) != b.describe(item);
    let items = items.into_iter().filter(differs);
    items.map(|item| format!("{item}: {} -> {}", a.describe(&item), b.describe(&item))).collect()
}

/// Services that take new connections.
fn open(state: &HostState) -> Vec<&ServiceKey> {
    let takes = |service: &crate::state::VirtualService| {
        service.destinations.values().any(|destination| destination.weight > 0)
    };
    state.services.iter().filter(|(_, service)| takes(service)).map(|(key, _)| key).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_way_leads_where_it_led(way in way()) {
        let direct = simulate(&way.seen.state, &way.plain).unwrap();
        let slow = simulate(&way.seen.state, &way.changes()).unwrap();
        prop_assert_eq!(slow, direct);
        prop_assert!(way.arranged.stages.is_sorted_by_key(|(stage, _)| *stage));
        let raised: usize = way.arranged.pacing.raises.iter().map(|raise| raise.steps).sum();
        let ramp = way.arranged.stages.iter().find(|(stage, _)| *stage == Stage::Ramp);
        prop_assert_eq!(raised, ramp.map_or(0, |(_, steps)| steps.len()));
    }

    #[test]
    fn how_many_connections_there_are_changes_no_step(way in way()) {
        for stages in &way.otherwise_counted {
            prop_assert_eq!(stages, &way.arranged.stages);
        }
    }

    #[test]
    fn what_is_waited_for_has_weight_0_and_others_take_its_place(way in way()) {
        let drain = way.arranged.stages.iter().find(|(stage, _)| *stage == Stage::Drain);
        let changes: Vec<Edit> =
            drain.into_iter().flat_map(|(_, steps)| steps).map(|step| step.edit.clone()).collect();
        let drained = simulate(&way.seen.state, &changes).unwrap();
        for one in way.arranged.pacing.leaving.iter().filter(|one| one.seconds > 0) {
            prop_assert_eq!(drained.services[&one.service].destinations[&one.destination].weight, 0);
        }
        // What stays and was open stays open, unless the operator wants it otherwise.
        let asked = way.arranged.pacing.leaving.iter().any(|one| one.seconds == 5);
        let gone = |key: &ServiceKey| way.plain.iter().any(|change| change.removed::<VirtualService>().is_some_and(|(of, _)| of == key));
        for key in open(&way.seen.state).into_iter().filter(|key| !asked && !gone(key)) {
            prop_assert!(open(&drained).contains(&key), "{key} is shut");
        }
    }

    #[test]
    fn cut_off_anywhere_it_can_be_finished_and_undone(
        way in way(), cut in any::<prop::sample::Index>(),
    ) {
        let changes = way.changes();
        let halfway = simulate(&way.seen.state, &changes[..cut.index(changes.len() + 1)]).unwrap();
        let mut there = sighting(halfway.clone(), Some(way.goal.receipt.clone()));

        // Undone by the journal.
        let journal = way.journal();
        let unfinished = OpenTransaction {
            journal,
            receipt_before: way.seen.receipt.clone(),
            voted: false,
            holder: None,
            reverts_in_ms: None,
            restarted: false,
            notes: Vec::new(),
        };
        let undo = Goal::undo(&unfinished, &there);
        let back = simulate(&halfway, &super::changes(&halfway, &undo)).unwrap();
        prop_assert_eq!(differing(
            &without_modules(back, &way.seen.state),
            &without_modules(way.seen.state.clone(), &way.seen.state)
        ), Vec::<String>::new());

        // Finished by one more apply, nothing borrowed left behind.
        let direct = simulate(&way.seen.state, &way.plain).unwrap();
        there.counters = counted(&halfway, 0);
        let after = applied(&way.desired, &there);
        prop_assert_eq!(
            after.state.restricted_to(&way.goal.owned), direct.restricted_to(&way.goal.owned)
        );
        for key in BORROWED {
            prop_assert_eq!(after.state.sysctls.get(&key), direct.sysctls.get(&key), "{}", key);
        }
        // And a destroy takes back what was borrowed as well.
        let found = way.goal.receipt.found.clone();
        let back = destroyed(&there);
        for key in BORROWED {
            if let Some(value) = found.sysctls.get(&key) {
                prop_assert_eq!(back.sysctls.get(&key), Some(value));
            }
        }
    }
}
