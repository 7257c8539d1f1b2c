//! Values that lvsprov leaves as they are on a host: the packet walk says of each that requests are answered as with the
//! value that lvsprov would set, in the playbooks and in random clusters.

use std::collections::BTreeMap;

use lvsprov::desired::{Desired, desired, expected_requests};
use lvsprov::names::HostName;
use lvsprov::state::accepted::Surroundings;
use lvsprov::state::{ConfItem, Sysctl};
use lvsprov::topology::Topology;
use lvsprov::walk::{HostStates, WalkVerdict, World};

use crate::support::cases::{Case, cases};
use crate::support::playbooks::{load, playbooks};
use crate::support::random_clusters::random_cluster;
use crate::support::random_verdict::examine;

pub fn cases() -> Vec<Case> {
    cases![with_every_accepted_value_requests_are_answered]
}

/// What else may be found than the value that lvsprov would set.
const FOUND: [&str; 6] = ["0", "1", "2", "3", "4", "8"];

fn topologies() -> impl Iterator<Item = Topology> {
    let random = (1..=400).filter_map(|seed| {
        let (topology, errors) = examine(&random_cluster(seed).text).ok()?;
        errors.is_empty().then_some(topology)
    });
    playbooks().into_iter().map(|path| load(&path)).chain(random)
}

fn verdicts(topology: &Topology, states: &HostStates) -> Vec<WalkVerdict> {
    let world = World::of_file(topology, states);
    expected_requests(topology).map(|it| world.walk(&it.request).end).collect()
}

/// The hosts as the file wants them; `net.ipv4.conf.all.rp_filter` is `of_all`.
fn as_wanted(all: &BTreeMap<HostName, Desired>, of_all: &str) -> HostStates {
    let state = |desired: &Desired| {
        let mut state = desired.state.clone();
        state.sysctls.insert(Sysctl::all(ConfItem::RpFilter), of_all.to_owned());
        state
    };
    all.iter().map(|(name, desired)| (name.clone(), state(desired))).collect()
}

/// The same hosts with `value` in the place of each setting of that kind for which it serves, or for which it does not;
/// `None`: there is none.
fn with(
    all: &BTreeMap<HostName, Desired>,
    (item, of_all): (ConfItem, &str),
    value: &str,
    serving: bool,
) -> Option<HostStates> {
    let around = Surroundings { rp_filter_of_all: Some(of_all), default6: None };
    let mut states = as_wanted(all, of_all);
    let mut changed = false;
    for (name, state) in &mut states {
        for (key, accepted) in &all[name].accepted {
            let is_kind = matches!(key, Sysctl::Conf(_, its) if *its == item);
            if is_kind && accepted.serves(key, value, around) == serving {
                changed = true;
                state.sysctls.insert(key.clone(), value.to_owned());
            }
        }
    }
    changed.then_some(states)
}

fn with_every_accepted_value_requests_are_answered() {
    let kinds = [
        ("1", ConfItem::ArpIgnore),
        ("0", ConfItem::RpFilter),
        ("1", ConfItem::RpFilter),
        ("2", ConfItem::RpFilter),
    ];
    let (mut tried, mut refused, mut dead) = (0, 0, 0);
    for topology in topologies() {
        let all = desired(&topology);
        for (of_all, item) in kinds {
            let expected = verdicts(&topology, &as_wanted(&all, of_all));
            for value in FOUND {
                if let Some(states) = with(&all, (item, of_all), value, true) {
                    tried += 1;
                    let found = verdicts(&topology, &states);
                    assert_eq!(found, expected, "{}: {} {value}", topology.name, item.as_str());
                }
                if let Some(states) = with(&all, (item, of_all), value, false) {
                    refused += 1;
                    dead += usize::from(verdicts(&topology, &states) != expected);
                }
            }
        }
    }
    println!("{tried} accepted, {refused} not accepted, of which {dead} lose requests");
    assert!(tried > 200 && dead > 200, "{tried} accepted, {dead} of {refused} dead");
}
