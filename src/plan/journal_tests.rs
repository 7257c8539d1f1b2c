//! What a journal covers, and what undoing it leads back to.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::desired::Reasons;
use crate::plan::order::steps_between;
use crate::state::{Address, AddressKey, ConfItem, Link, Scope, Sysctl, TransactionId};
use crate::support::unfinished;

fn address(text: &str) -> AddressKey {
    text.parse().unwrap()
}

fn with_addresses(all: &[&str]) -> HostState {
    let global = || Address::plain(Scope::Global);
    let addresses = all.iter().map(|text| (address(text), global())).collect();
    HostState { addresses, ..HostState::default() }
}

/// Cut off in the midst of exchanging one VIP of a real server for another.
fn exchanging(restarted: bool) -> OpenTransaction {
    let vips = ["192.0.2.80/32@lo", "192.0.2.81/32@lo"];
    let mut unfinished = unfinished(&["rs1"], with_addresses(&vips[..1]));
    unfinished.journal.touched = vips.map(|vip| Item::Address(address(vip))).into();
    OpenTransaction { restarted, ..unfinished }
}

fn way(goal: &Goal, seen: &Observation) -> Vec<String> {
    let steps = steps_between(&seen.state, &goal.wanted, &goal.owned, &Reasons::default());
    steps.unwrap().into_all().iter().map(|step| step.edit.to_string()).collect()
}

/// The ARP settings went with the restart and are not in this journal: a VIP alone would be answered
/// for here, in front of the director.
#[test]
fn after_a_restart_no_part_of_what_was_there_comes_back() {
    for (there, left) in [(&[][..], 1), (&["192.0.2.81/32@lo"][..], 2)] {
        let mut state = with_addresses(there);
        state.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), "0".to_owned());
        let seen = Observation { state, ..Observation::default() };
        let before = Goal::undo(&exchanging(false), &seen);
        assert_eq!(way(&before, &seen).len(), left, "{there:?}");
        let after = Goal::undo(&exchanging(true), &seen);
        assert_eq!(way(&after, &seen), [""; 0], "{there:?}");
        assert_eq!((after.receipt_after, after.owned), (before.receipt_after, before.owned));

        let nothing = Goal {
            wanted: HostState::default(),
            owned: Owned::new(),
            ..Goal::undo(&exchanging(false), &seen)
        };
        let taken = |restarted| nothing.clone().taking_over(&exchanging(restarted), &seen);
        assert_eq!(way(&taken(false), &seen).len(), left, "{there:?}");
        assert_eq!(taken(true), nothing, "{there:?}");
    }
}

fn lost(change: Edit, seen: &HostState) -> Vec<String> {
    let step = Step { edit: change, why: String::new() };
    touched_by([&step], seen).iter().map(ToString::to_string).collect()
}

#[test]
fn what_the_kernel_takes_along_with_an_address_is_put_back() {
    let subnet = ["192.0.2.2/24@eth0", "192.0.2.80/24@eth0"];
    let seen = with_addresses(&[
        subnet[0],
        subnet[1],
        "192.0.2.81/32@eth0",
        "192.0.2.82/24@eth1",
        "198.51.100.1/24@eth0",
        "2001:db8::1/64@eth0",
        "2001:db8::2/64@eth0",
    ]);
    let remove = |text: &str| Edit::remove::<Address>(address(text), Address::plain(Scope::Global));
    for one in subnet {
        assert_eq!(lost(remove(one), &seen), subnet.map(|net| format!("address {net}")));
    }
    for alone in ["192.0.2.81/32@eth0", "2001:db8::1/64@eth0"] {
        assert_eq!(lost(remove(alone), &seen), [format!("address {alone}")]);
    }
}

#[test]
fn what_an_interface_loses_as_it_goes_down_is_put_back() {
    let mut seen = with_addresses(&[
        "192.0.2.80/32@sit0",
        "2001:db8::80/128@sit0",
        "::192.0.2.80/96@sit0",
        "2001:db8::81/128@sit1",
    ]);
    seen.addresses.insert(address("fe80::1/64@sit0"), Address::plain(Scope::Link));
    let set = |before, after| Edit::change::<Link>("sit0".parse().unwrap(), before, after);
    let down = lost(set(Link::Up, Link::Down), &seen);
    assert_eq!(down, ["link sit0", "address 2001:db8::80/128@sit0"]);
    assert_eq!(lost(set(Link::Down, Link::Up), &seen), ["link sit0"]);
}

#[test]
fn a_transaction_is_named_by_16_digits() {
    let id = TransactionId::from_bits(0xbeef);
    assert_eq!(id.as_str(), "000000000000beef");
    assert_eq!(id.as_str().parse(), Ok(id));
    for bad in ["", "beef", "000000000000BEEF", "../../../../etcx", "000000000000beefe"] {
        assert!(bad.parse::<TransactionId>().is_err(), "{bad}");
    }
}
