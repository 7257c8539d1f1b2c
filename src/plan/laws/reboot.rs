//! A host is restarted, and comes up with other values than it had before the first apply.

use super::*;
use crate::state::{HostRun, Settled};

fn in_run(number: u8, state: HostState, receipt: Option<Receipt>) -> Observation {
    let boot = format!("run {number}");
    let run = Some(HostRun { boot, init: None, namespace: None });
    Observation { run, ..sighting(state, receipt) }
}

fn replay(settled: &Settled, seen: &Observation) -> Goal {
    Goal::replay(settled, seen).unwrap().unwrap()
}

/// The edits of a replay.
fn replayed(seen: &HostState, goal: &Goal) -> Vec<Edit> {
    goal.replay_steps(seen).unwrap().into_iter().map(|step| step.edit).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn law_9_a_restarted_host_comes_to_its_settled_state_and_destroy_to_what_it_came_up_with(
        a in seen_state(), b in wanted(), up in seen_state(), cut in any::<prop::sample::Index>(),
    ) {
        let first = goal(&b, &in_run(1, a, None));
        let Some(settled) = first.settled else { return Ok(()) };
        let restarted = in_run(2, up.clone(), first.receipt_after);
        let goal = replay(&settled, &restarted);
        let steps = replayed(&up, &goal);
        // It is cut off anywhere, and begins again.
        let cut = cut.index(steps.len() + 1);
        let halfway = in_run(2, simulate(&up, &steps[..cut]).unwrap(), Some(goal.receipt.clone()));
        let again = replay(&settled, &halfway);
        prop_assert_eq!(&again.receipt, &goal.receipt);
        let after = simulate(&halfway.state, &replayed(&halfway.state, &again)).unwrap();
        prop_assert_eq!(after.restricted_to(&again.owned), again.wanted.restricted_to(&again.owned));
        let mut owned = again.owned.clone();
        owned.extend(b.state.modules.iter().map(|module| Item::Module(*module)));
        prop_assert_eq!(outside(&after, &owned), outside(&up, &owned));
        let done = in_run(2, after, Some(again.receipt.clone()));
        prop_assert_eq!(replayed(&done.state, &replay(&settled, &done)), vec![]);
        // Nothing of the first run is put back, from the settled state or from half-way.
        let bare = without_modules(up.clone(), &up);
        prop_assert_eq!(without_modules(destroyed(&done), &up), bare.clone());
        let taken_back =
            simulate(&halfway.state, &replayed(&halfway.state, &again.withdrawn(&halfway.state))).unwrap();
        prop_assert_eq!(without_modules(taken_back, &up), bare);
    }

    /// A host that makes nothing again by itself.
    #[test]
    fn law_9_after_a_restart_destroy_touches_nothing_and_an_apply_finds_anew(
        a in seen_state(), b in wanted(), up in seen_state(),
    ) {
        let first = goal(&b, &in_run(1, a, None));
        let restarted = in_run(2, up.clone(), first.receipt_after);
        if let Some(goal) = Goal::destroy(&restarted) {
            prop_assert_eq!(changes(&up, &goal), vec![]);
        }
        let second = goal(&b, &restarted);
        let after = simulate(&up, &changes(&up, &second)).unwrap();
        let done = in_run(2, after, second.receipt_after);
        let again = goal(&b, &done);
        prop_assert_eq!(changes(&done.state, &again), vec![]);
        prop_assert_eq!(&again.receipt_after, &done.receipt);
        prop_assert_eq!(without_modules(destroyed(&done), &up), without_modules(up.clone(), &up));
    }

    /// ARP settings before a VIP, the VIP of a director last: as in an apply.
    #[test]
    fn law_9_a_restarted_host_takes_its_addresses_last(
        a in seen_state(), b in wanted(), up in seen_state(),
    ) {
        let first = goal(&b, &in_run(1, a, None));
        let Some(settled) = first.settled else { return Ok(()) };
        let restarted = in_run(2, up.clone(), first.receipt_after);
        let kind = |edit: &Edit| match edit {
            Edit::Address(KeyedEdit { after: None, .. }) => 0,
            Edit::Address(KeyedEdit { before: None, .. }) => 2,
            Edit::Instance(KeyedEdit { after: Some(_), .. }) => 3,
            _ => 1,
        };
        let steps = replayed(&up, &replay(&settled, &restarted));
        prop_assert!(steps.iter().map(kind).is_sorted(), "{steps:?}");
    }
}
