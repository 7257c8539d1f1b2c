//! What goes into each host's journal, and when a host reverts by itself.

#![allow(clippy::unwrap_used)]

use super::super::tests::host;
use super::super::transaction::{CONFIRM_LONGEST, CONFIRM_WITHIN, ConfirmWithin};
use super::*;
use crate::state::{HostState, OpenTransaction, Operator};
use crate::topology::Pace;

#[test]
fn a_director_withdraws_before_the_others_give_back_and_goes_live_after_them() {
    let time = Duration::from_mins(1);
    let director = revert_after(time, true);
    let other = revert_after(time, false);
    let withdraw = director.withdraw_ms.unwrap();
    assert_eq!(withdraw, 60_000);
    assert_eq!(other.withdraw_ms, None);
    assert!(withdraw + 2000 <= other.build_ms && other.build_ms + 2000 <= director.build_ms);
    // Within the protocol's limits, whatever is asked for.
    assert_eq!(revert_after(Duration::ZERO, true).withdraw_ms, Some(1000));
    let never = revert_after(Duration::MAX, true);
    assert_eq!(never, RevertAfter { withdraw_ms: Some(86_396_000), build_ms: 86_400_000 });
    assert_eq!(revert_after(Duration::MAX, false).build_ms, 86_398_000);
}

/// No timer goes off before the countdown is over, and no agent gives up before its timer.
#[test]
fn the_longest_time_to_confirm_is_ordered_whole_with_the_longest_waits() {
    // What `super::super::drain::longest` comes to at most.
    let waits = Duration::from_secs(u64::from(Pace::LONGEST)) * 2;
    let time = CONFIRM_LONGEST + waits;
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap();
    let RevertAfter { withdraw_ms, build_ms } = revert_after(time, true);
    assert_eq!((withdraw_ms, build_ms), (Some(ms(time)), ms(time + BETWEEN_PARTS * 2)));
    assert_eq!(revert_after(time, false).build_ms, ms(time + BETWEEN_PARTS));
    let patience = IDLE + waits + time;
    assert_eq!(u64::from(seconds(patience)), patience.as_secs());
}

/// As under sudo: the host does not know from where it is reached.
#[test]
fn where_the_way_back_is_not_known_the_hosts_wait_to_be_confirmed() {
    use super::super::cluster_plan::Direction;
    use super::super::tests::{bare, plan};
    use crate::state::Controller;
    use crate::support::Cluster;
    use crate::topology::Forward;

    let topology = Cluster::of(&[(Forward::Dr, 80, vec![1])]).topology;
    let by = Operator { user: "u".to_owned(), host: "h".to_owned(), pid: 1 };
    let policy = TransactionPolicy {
        within: ConfirmWithin::WhereNeeded(CONFIRM_WITHIN),
        ..TransactionPolicy::plain(by, 7)
    };
    for (controller, expected) in
        [(Controller::Unknown, Some(CONFIRM_WITHIN)), (Controller::Pipe, None)]
    {
        let hosts = topology.hosts.keys().map(|name| {
            let mut observation = bare(&topology, name);
            if *name == host("rs1") {
                observation.facts.controller = controller;
            }
            (name.clone(), Ok(observation))
        });
        let observed = hosts.collect();
        let plan = plan(&topology, &observed, &BTreeMap::new(), Direction::Apply { now: 7 });
        assert_eq!(policy.time_to_confirm(&plan), expected, "{controller:?}");
    }
}

/// What the one before had touched is gone with the restart; its receipt is on the disk.
#[test]
fn what_is_taken_over_after_a_restart_is_as_it_is_now() {
    use super::super::cluster_plan::{Direction, plan_host};
    use super::super::tests::bare;
    use crate::state::{Address, AddressKey, Owned, RECEIPT_VERSION, Scope};
    use crate::support::Cluster;
    use crate::topology::Forward;

    let topology = Cluster::of(&[(Forward::Dr, 80, vec![1])]).topology;
    let rs1 = host("rs1");
    let vip: AddressKey = "10.9.9.9/32@lo".parse().unwrap();
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        topology: topology.name.clone(),
        since: 3,
        owned: Owned::new(),
        found: crate::state::HostState::default(),
        run: None,
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    };
    let by = Operator { user: "u".to_owned(), host: "h".to_owned(), pid: 1 };
    let (id, policy, hosts) =
        (TransactionId::from_bits(2), TransactionPolicy::plain(by, 7), [rs1.clone()].into());
    let header = TransactionHeader {
        topology: &topology,
        id: &id,
        action: Action::Apply,
        policy: &policy,
        hosts: &hosts,
        time: None,
        silence: Duration::ZERO,
    };
    let begun = |restarted: bool| {
        let mut old = OpenTransaction {
            restarted,
            receipt_before: Some(receipt.clone()),
            ..crate::support::unfinished(&["rs1"], HostState::default())
        };
        old.journal.touched.insert(Item::Address(vip.clone()));
        old.journal.before.addresses.insert(vip.clone(), Address::plain(Scope::Global));
        let observed =
            Observation { open_transaction: Some(Box::new(old)), ..bare(&topology, &rs1) };
        let desired = crate::desired::desired_for(&topology, &topology.hosts[&rs1]);
        let direction = Direction::Apply { now: 7 };
        let HostPlanResult::Plan(plan) =
            plan_host(&topology, &topology.hosts[&rs1], &desired, &observed, direction)
        else {
            unreachable!("nothing is in the way")
        };
        let member = Participant { plan: &plan, observed: &observed };
        begin(&header, &rs1, member, Some(&desired)).unwrap()
    };
    let (before, after) = (begun(false), begun(true));
    assert_eq!(before.journal.before.addresses.len(), 1);
    assert!(before.journal.touched.contains(&Item::Address(vip.clone())));
    assert_eq!(after.journal.before.addresses.len(), 0);
    assert!(!after.journal.touched.contains(&Item::Address(vip.clone())));
    assert!(!after.journal.touched.is_empty(), "what is done now is undone as ever");
    assert_eq!(
        (&before.receipt_before, &after.receipt_before),
        (&Some(receipt.clone()), &Some(receipt))
    );
}
