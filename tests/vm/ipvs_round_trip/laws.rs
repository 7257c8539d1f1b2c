//! From any table to any other, through the production path: a plan, and the host that obeys it.

use std::collections::BTreeMap;

use lvsprov::desired::Reasons;
use lvsprov::kernel::ipvs::Table;
use lvsprov::plan::steps_between;
use lvsprov::state::{DestinationId, Edit, HostState, KeyedEdit, Observation};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::any_tables;
use crate::support::ipvsadm::{expected, shown};
use crate::support::netns_host::NetnsHost;

const CASES: u32 = 64;

/// Looks, plans, acts, and gives back the steps and what was seen before and behind them.
pub fn change(netns: &NetnsHost, wanted: &Table) -> (Observation, Vec<Edit>, Observation) {
    let seen = netns.look(&[]);
    let wanted = HostState { services: wanted.clone(), ..seen.state.clone() };
    let mut owned =
        HostState { services: seen.state.services.clone(), ..HostState::default() }.items();
    owned.extend(HostState { services: wanted.services.clone(), ..HostState::default() }.items());
    let steps = steps_between(&seen.state, &wanted, &owned, &Reasons::default()).unwrap();
    let changes: Vec<_> = steps.into_all().into_iter().map(|step| step.edit).collect();
    let outcome = netns.act(changes.clone());
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.done, changes.len());
    (seen, changes, outcome.after)
}

/// The steps name nothing that is the same before and behind them.
pub fn only_what_differs(changes: &[Edit], from: &Table, to: &Table) {
    for change in changes {
        let same = match change {
            Edit::Service(KeyedEdit { key, .. }) => match (from.get(key), to.get(key)) {
                (Some(from), Some(to)) => from.same_settings(to),
                _ => false,
            },
            Edit::Destination(KeyedEdit { key: DestinationId { service, key }, .. }) => {
                let of = |table: &Table| table.get(service)?.destinations.get(key).cloned();
                of(from) == of(to)
            }
            _ => true,
        };
        assert!(!same, "{change}: nothing of this differs");
    }
}

fn check(
    run: impl FnOnce(&mut proptest::test_runner::TestRunner) -> Result<(), String>,
    cases: u32,
) {
    let (mut runner, seed) = any_tables::runner(cases);
    if let Err(why) = run(&mut runner) {
        panic!("{seed}: {why}");
    }
}

/// Applied, read back, equal; and ipvsadm shows it.
pub fn any_table_arrives() {
    let arrives = |table: Table| {
        let netns = NetnsHost::with_lo();
        let (_, _, after) = change(&netns, &table);
        prop_assert_eq!(&after.state.services, &table);
        prop_assert_eq!(shown(&netns), expected(&table));
        let (_, steps, _) = change(&netns, &table);
        prop_assert_eq!(steps, Vec::new(), "a second time there is nothing to do");
        Ok::<(), TestCaseError>(())
    };
    check(
        |runner| runner.run(&any_tables::tables(), arrives).map_err(|error| error.to_string()),
        CASES,
    );
}

/// Changed into any other one.
pub fn any_table_becomes_any_other() {
    let becomes = |(from, to): (Table, Table)| {
        let netns = NetnsHost::with_lo();
        change(&netns, &from);
        let (before, changes, after) = change(&netns, &to);
        prop_assert_eq!(&before.state.services, &from);
        prop_assert_eq!(&after.state.services, &to);
        prop_assert_eq!(shown(&netns), expected(&to));
        only_what_differs(&changes, &from, &to);
        Ok::<(), TestCaseError>(())
    };
    check(
        |runner| runner.run(&any_tables::pairs(), becomes).map_err(|error| error.to_string()),
        CASES,
    );
}

/// The tables that are tried have everything in them: a strategy that makes dull ones proves little.
pub fn the_tables_are_not_dull() {
    let (mut runner, seed) = any_tables::runner(1);
    let mut words = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        for line in expected(&any_tables::one(&mut runner, &any_tables::tables())) {
            for option in line {
                let option = match option.split_once(' ') {
                    Some((name @ ("-s" | "--tun-type" | "--pe"), value)) => {
                        format!("{name} {value}")
                    }
                    Some((name, _)) => name.to_owned(),
                    None => option,
                };
                *words.entry(option).or_default() += 1;
            }
        }
    }
    let needed = "-A -a -t -u --sctp-service -f -6 -p -M -o -b -r -m -i -g -w --tun-type gue \
        --tun-type gre --tun-port --tun-nocsum --tun-csum --tun-remcsum --pe sip -s rr -s wrr -s lc \
        -s wlc -s lblc -s lblcr -s dh -s sh -s mh -s sed -s nq -s fo -s ovf";
    for option in crate::support::ipvsadm::options(needed) {
        assert!(words.get(&option).is_some_and(|count| *count > 3), "{seed}: {option}: {words:?}");
    }
}
