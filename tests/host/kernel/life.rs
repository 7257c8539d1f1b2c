//! The whole life of a transaction, and who may work at it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use lvsprov::agent::Disk;
use lvsprov::agent::receipt as receipts;
use lvsprov::failure::Failure;
use lvsprov::protocol::{Decision, Reply, Request, RevertAfter};
use lvsprov::state::{Edit, Intent};

use crate::support::agents::{
    Agent, agree, begin, changes, do_all, do_steps, id, operator, paired_netns, photograph,
    roll_back, settle, take_up, topology, touched, way_back,
};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::NetnsHost;

pub fn cases() -> Vec<Case> {
    cases![
        from_begin_to_done,
        from_begin_to_undone,
        a_receipt_of_before_comes_back_and_one_host_needs_not_agree,
        a_host_that_has_moved_says_how_and_nothing_is_begun,
        whoever_comes_second_hears_who_is_at_work,
        one_that_hangs_is_taken_from_by_force_and_does_nothing_any_more,
        taking_over_keeps_what_was_before_the_first,
        agreement_is_taken_back_only_by_who_knows_of_it,
        a_step_that_could_not_be_undone_is_refused,
        what_does_not_fit_together_is_refused,
        another_topologys_unfinished_work_is_respected_where_it_meets_ours,
        an_agent_in_a_namespace_reboots_nothing
    ]
}

pub fn refused(reply: Reply) -> Failure {
    match reply {
        Reply::Refused(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The names of all that lies below the state folder, but for the lock, what a test put there, and the note
/// of what the timer undid last.
pub fn files(netns: &NetnsHost) -> Vec<String> {
    let Ok(entries) = fs::read_dir(netns.folder.path().join("t")) else { return Vec::new() };
    let mut all: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.retain(|name| name != "reverted.json");
    all.sort();
    all
}

fn from_begin_to_done() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let seen = agent.look();
    let wish = begin(1, changes(), &seen);
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
    let begun = agent.look();
    assert_eq!(touched(&begun), touched(&seen), "it was begun, and nothing else");
    assert_eq!(begun.receipt.as_ref(), Some(&wish.receipt));
    let there = begun.open_transaction.unwrap();
    assert_eq!(there.journal, wish.journal);
    assert_eq!((there.receipt_before, there.voted, there.restarted), (None, false, false));
    assert_eq!((there.reverts_in_ms, there.notes.len()), (None, 0));
    let holder = there.holder.unwrap();
    assert_eq!((holder.by, holder.pid, holder.idle_limit_s), (operator(), agent.pid(), 600));
    let journal = fs::metadata(netns.folder.path().join("t/journal.json")).unwrap();
    assert_eq!(journal.mode() & 0o7777, 0o600);
    let folder = netns.folder.path().join("t").join(id(1).as_str());
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);

    let outcome = agent.done(&do_all(1, changes()));
    assert_eq!(outcome.done, changes().len());
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "1");
    // Two hosts take part, so it is not settled before all have agreed.
    let early = refused(agent.ask(&settle(1, Decision::Commit)));
    assert!(
        early.message.contains(
            "has not voted to commit the transaction 0000000000000001, and 2 hosts take part"
        ),
        "{early}"
    );
    assert_eq!(agent.ask(&agree(1)), Reply::Voted);
    assert_eq!(agent.ask(&agree(1)), Reply::Voted);
    assert!(agent.look().open_transaction.unwrap().voted);
    let back = do_steps(1, way_back(&agent.look()));
    assert!(refused(agent.ask(&back)).message.contains("has voted to commit"));
    assert!(refused(agent.ask(&settle(1, Decision::Abort))).message.contains("was not undone"));
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
    let after = agent.look();
    assert_eq!((after.receipt, after.open_transaction), (wish.receipt_after, None));
    assert_eq!(files(&netns), ["receipt.json"]);
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "1");
    assert!(refused(agent.ask(&back)).message.contains("is not open on this host any more"));
}

fn from_begin_to_undone() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let mut agent = Agent::start(&netns);
    let wish = begin(1, changes(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let after = agent.done(&do_all(1, changes())).after;
    assert_ne!(photograph(&netns), before);
    agent.done(&do_steps(1, way_back(&after)));
    assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
    assert_eq!(photograph(&netns), before);
    let seen = agent.look();
    assert_eq!((seen.receipt, seen.open_transaction), (None, None));
    assert!(files(&netns).is_empty(), "something is left: {:?}", files(&netns));
}

fn a_receipt_of_before_comes_back_and_one_host_needs_not_agree() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let mut first = begin(1, changes()[..2].to_vec(), &agent.look());
    first.journal.hosts.pop_last();
    // Nothing is said of the end but what is said on the way: one file with two names.
    first.receipt_after = Some(first.receipt.clone());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(first.clone()))), Reply::Prepared);
    agent.done(&do_all(1, changes()[..2].to_vec()));
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
    assert_eq!(agent.look().receipt, first.receipt_after);

    let mut second = begin(2, changes()[2..].to_vec(), &agent.look());
    second.receipt_after = None;
    second.journal.intent = Intent::Destroy;
    assert_eq!(agent.ask(&Request::Prepare(Box::new(second))), Reply::Prepared);
    agent.done(&do_all(2, changes()[2..].to_vec()));
    drop(agent);
    roll_back(&netns, 2);
    let mut agent = Agent::start(&netns);
    assert_eq!(agent.look().receipt, first.receipt_after);
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "1");
    assert_eq!(netns.sysctl("conf/lo/arp_announce"), "0");

    let mut third = begin(3, changes()[2..].to_vec(), &agent.look());
    third.receipt_after = None;
    assert_eq!(agent.ask(&Request::Prepare(Box::new(third))), Reply::Prepared);
    assert_eq!(agent.ask(&agree(3)), Reply::Voted);
    assert_eq!(agent.ask(&settle(3, Decision::Commit)), Reply::Closed);
    assert_eq!(agent.look().receipt, None);
    assert!(files(&netns).is_empty(), "something is left: {:?}", files(&netns));
}

fn a_host_that_has_moved_says_how_and_nothing_is_begun() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let wish = begin(1, changes(), &agent.look());
    netns.set_sysctl("conf/lo/arp_ignore", "2");
    netns.ip("address add 10.9.9.9/32 dev lo");
    let Reply::Changed(differences) = agent.ask(&Request::Prepare(Box::new(wish.clone()))) else {
        panic!("not moved")
    };
    assert_eq!(
        differences,
        ["net.ipv4.conf.lo.arp_ignore: 0 -> 2", "address 10.9.9.9/32@lo: absent -> scope global",]
    );
    assert_eq!(agent.look().open_transaction, None);
    assert!(files(&netns).is_empty());
    netns.set_sysctl("conf/lo/arp_ignore", "0");
    netns.ip("address del 10.9.9.9/32 dev lo");
    receipts::write(&Disk::new(netns.folder.path()), &wish.receipt).unwrap();
    let Reply::Changed(differences) = agent.ask(&Request::Prepare(Box::new(wish))) else {
        panic!("not moved")
    };
    assert!(differences[0].contains("receipt"), "{differences:?}");
}

fn whoever_comes_second_hears_who_is_at_work() {
    let netns = paired_netns();
    let (mut first, mut second) = (Agent::start(&netns), Agent::start(&netns));
    let wish = begin(1, changes(), &first.look());
    let mut other = wish.clone();
    other.journal.transaction = id(2);
    assert_eq!(first.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    for request in [Request::Prepare(Box::new(other.clone())), take_up(1, false)] {
        let Reply::Busy(busy) = second.ask(&request) else { panic!("not busy") };
        assert_eq!((busy.topology, busy.transaction), (topology(), Some(id(1))));
        let holder = busy.holder.unwrap();
        assert_eq!((holder.by, holder.pid), (operator(), first.pid()));
    }
    let stranger = refused(second.ask(&do_all(1, changes())));
    assert!(stranger.message.contains("has neither prepared nor resumed"), "{stranger}");
    for request in [agree(1), settle(1, Decision::Commit), settle(1, Decision::Abort)] {
        refused(second.ask(&request));
    }
    assert_eq!(second.look().receipt, first.look().receipt);
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");

    // One that has ended is in nobody's way, but what it began is.
    first.kill();
    assert_eq!(second.look().open_transaction.unwrap().holder, None);
    let Reply::Changed(differences) = second.ask(&Request::Prepare(Box::new(other))) else {
        panic!("not moved")
    };
    assert_eq!(differences[0], format!("open transaction: none -> {}", id(1)));
    let knowing = begin(2, changes(), &second.look());
    assert_eq!(second.ask(&Request::Prepare(Box::new(knowing))), Reply::Prepared);
    assert_eq!(second.look().open_transaction.unwrap().journal.transaction, id(2));
    assert_eq!(files(&netns), [id(2).as_str(), "journal.json", "receipt.json"]);
}

fn one_that_hangs_is_taken_from_by_force_and_does_nothing_any_more() {
    let netns = paired_netns();
    let (mut first, mut second) = (Agent::start(&netns), Agent::start(&netns));
    let wish = begin(1, changes(), &first.look());
    assert_eq!(first.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    assert_eq!(second.ask(&take_up(1, true)), Reply::Prepared);
    for request in [do_all(1, changes()), agree(1), settle(1, Decision::Abort)] {
        let failure = refused(first.ask(&request));
        assert!(failure.message.contains("mallory@desk"), "{failure}");
    }
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
    assert_eq!(second.look().open_transaction.unwrap().holder.unwrap().pid, second.pid());
    assert_eq!(second.ask(&settle(1, Decision::Abort)), Reply::Closed);
}

/// What was begun is finished by a plan from where it was left, and undoing leads to before both.
fn taking_over_keeps_what_was_before_the_first() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let mut agent = Agent::start(&netns);
    let wish = begin(1, changes(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    agent.done(&do_all(1, changes()[..3].to_vec()));
    agent.kill();

    let mut agent = Agent::start(&netns);
    let wish = begin(2, changes()[3..].to_vec(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    agent.done(&do_all(2, changes()[3..].to_vec()));
    agent.kill();
    roll_back(&netns, 2);
    assert_eq!(photograph(&netns), before);
    assert!(files(&netns).is_empty(), "something is left: {:?}", files(&netns));
}

/// One host agreed, another could not be reached: the first is undone too.
fn agreement_is_taken_back_only_by_who_knows_of_it() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let mut agent = Agent::start(&netns);
    let wish = begin(1, changes(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    agent.done(&do_all(1, changes()));
    assert_eq!(agent.ask(&agree(1)), Reply::Voted);
    let back = do_steps(1, way_back(&agent.look()));
    refused(agent.ask(&back));
    assert_eq!(agent.ask(&take_up(1, false)), Reply::Prepared);
    agent.done(&back);
    assert!(!agent.look().open_transaction.unwrap().voted);
    assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
    assert_eq!(photograph(&netns), before);
}

fn a_step_that_could_not_be_undone_is_refused() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let mut wish = begin(1, changes()[..2].to_vec(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
    let failure = refused(agent.ask(&do_all(1, changes())));
    assert!(failure.message.contains("it could not be undone"), "{failure}");
    assert_eq!(netns.sysctl("ip_forward"), "0");
    assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
    wish.journal.touched.clear();
    let failure = refused(agent.ask(&Request::Prepare(Box::new(wish))));
    assert!(failure.message.contains("lacks the state before"), "{failure}");
}

fn what_does_not_fit_together_is_refused() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let good = begin(1, changes(), &agent.look());
    let mut check = |says: &str, spoil: &dyn Fn(&mut lvsprov::protocol::Prepare)| {
        let mut bad = good.clone();
        spoil(&mut bad);
        let failure = refused(agent.ask(&Request::Prepare(Box::new(bad))));
        assert!(failure.to_string().contains(says), "{says}: {failure}");
        assert!(files(&netns).is_empty(), "{says}");
    };
    check("format 9", &|bad| bad.journal.version = 9);
    check("the receipt of other", &|bad| bad.receipt.topology = "other".parse().unwrap());
    check("not the one on this host", &|bad| bad.receipt_before = Some(bad.receipt.clone()));
    check("silence", &|bad| bad.idle_limit_s = 0);
    check("to revert", &|bad| bad.revert = Some(RevertAfter { withdraw_ms: None, build_ms: 999 }));
    check("256 bytes", &|bad| bad.journal.by.user = "x".repeat(300));
    check("the plan lacks the state that it expects", &|bad| bad.expected.items.clear());
}

fn another_topologys_unfinished_work_is_respected_where_it_meets_ours() {
    let netns = paired_netns();
    let mut first = Agent::start(&netns);
    let wish = begin(1, changes()[..2].to_vec(), &first.look());
    assert_eq!(first.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let mut second = Agent::start(&netns);
    let other = |number: u64, changes: Vec<Edit>, agent: &mut Agent| {
        let mut seen = agent.look();
        (seen.receipt, seen.open_transaction) = (None, None);
        let mut wish = begin(number, changes, &seen);
        wish.journal.topology = "u".parse().unwrap();
        for receipt in [Some(&mut wish.receipt), wish.receipt_after.as_mut()].into_iter().flatten()
        {
            receipt.topology = "u".parse().unwrap();
        }
        Request::Prepare(Box::new(wish))
    };
    let meets = other(2, changes()[1..].to_vec(), &mut second);
    let Reply::Busy(busy) = second.ask(&meets) else { panic!("not busy") };
    assert_eq!((busy.topology, busy.transaction), (topology(), Some(id(1))));
    // Without any step: what is found as it is wanted is relied on all the same.
    let mut relies = other(2, Vec::new(), &mut second);
    let Request::Prepare(wish) = &mut relies else { unreachable!() };
    wish.receipt_after.as_mut().unwrap().owned.insert(changes()[1].item());
    let Reply::Busy(busy) = second.ask(&relies) else { panic!("not busy") };
    assert_eq!(busy.transaction, Some(id(1)));
    // Nobody works at it any more, and nothing undoes it: waiting would not help.
    first.kill();
    for request in [&meets, &relies] {
        let failure = refused(second.ask(request));
        assert!(failure.message.contains("the topology t has transaction"), "{failure}");
        assert!(failure.cure.unwrap().contains("`lvsprov rollback` with the file of t first"));
    }
    let beside = other(3, changes()[2..].to_vec(), &mut second);
    assert_eq!(second.ask(&beside), Reply::Prepared);
    let seen = Agent::start(&netns).look();
    let elsewhere = &seen.open_elsewhere[&"u".parse().unwrap()];
    assert_eq!((&elsewhere.transaction, &elsewhere.by), (&id(3), &operator()));
    assert_eq!(elsewhere.touched.len(), 3);
    assert_eq!(seen.open_transaction.unwrap().journal.transaction, id(1));
}

/// A reboot would be one of the machine below.
fn an_agent_in_a_namespace_reboots_nothing() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let failure = refused(agent.ask(&Request::Reboot));
    assert!(failure.message.starts_with("lvsprov does not reboot this host: "), "{failure}");
    let cure = failure.cure.unwrap();
    assert!(cure.contains("between `lvsprov maintain` and `lvsprov return`"), "{cure}");
    // It goes on.
    agent.look();
}
