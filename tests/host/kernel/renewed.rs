//! A network namespace that is deleted and made anew while a transaction is under way in it.

use lvsprov::protocol::{Decision, Reply, Request};
use lvsprov::state::{Address, Edit};

use crate::support::agents::{
    Agent, begin, changes, do_all, photograph, roll_back, settle, way_back,
};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NamedNamespace, NetnsHost, address_key, plain_address};

pub fn cases() -> Vec<Case> {
    cases![a_namespace_that_was_made_anew_is_as_after_a_restart]
}

/// Deleted and made anew with the same name, cable and address; the state folder of a namespace goes by its
/// name (src/transport/local.rs).
fn a_namespace_that_was_made_anew_is_as_after_a_restart() {
    let mut netns = NetnsHost::new();
    let named = NamedNamespace::add("anew");
    netns.enter(&named, "10.9.0.1/24");
    let mut agent = Agent::start(&netns);
    let mut wish = begin(1, changes(), &agent.look());
    wish.journal.hosts.pop_last();
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
    agent.done(&do_all(1, changes()));
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
    // Now takes the VIP away: undoing that alone would put it back without its ARP settings.
    let vip = Edit::remove::<Address>(address_key("10.9.9.9/32@lo"), plain_address());
    let second = begin(2, vec![vip.clone()], &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(second))), Reply::Prepared);
    agent.done(&do_all(2, vec![vip]));
    agent.kill();
    let there = Agent::start(&netns).look();
    assert!(!there.open_transaction.as_ref().unwrap().restarted);
    assert_eq!(way_back(&there).len(), 1, "the VIP");

    drop(named);
    netns.leave();
    let named = NamedNamespace::add("anew");
    netns.enter(&named, "10.9.0.1/24");
    let anew = photograph(&netns);
    let there = Agent::start(&netns).look();
    assert!(
        there.open_transaction.as_ref().unwrap().restarted,
        "it is not told from the one before"
    );
    assert_eq!(way_back(&there), []);
    roll_back(&netns, 2);
    assert_eq!(photograph(&netns), anew);
    assert!(!anew.contains("10.9.9.9") && anew.contains("conf/lo/arp_ignore=0"), "{anew}");
    assert_eq!(Agent::start(&netns).look().receipt, wish.receipt_after);
}
