//! An agent that is killed at every point of a transaction: looking then tells the truth, and undoing
//! gives back what was there; so does the revert timer, and it survives being killed itself.

use std::process::Command;

use lvsprov::agent::process::Process;
use lvsprov::protocol::{Decision, Reply, Request};

use super::life::files;
use crate::support::agents::{
    Agent, agree, begin, changes, do_all, go_on, id, paired_netns, photograph, revert_after,
    roll_back, set_fault, settle, stop_timer, take_up,
};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually};

pub fn cases() -> Vec<Case> {
    cases![
        killed_at_any_point_it_tells_the_truth_and_is_undone_or_finished,
        killed_while_it_is_settled_as_undone_it_is_settled_by_the_next,
        killed_in_a_taking_over_either_of_the_two_is_there,
        the_timer_undoes_by_itself_wherever_the_agent_was_killed,
        what_was_never_begun_leaves_no_timer,
        a_timer_that_is_killed_leaves_it_to_rollback
    ]
}

/// Everything that a controller asks until `ending`, up to where the agent ends. Whether it did.
fn go(agent: &mut Agent, wish: lvsprov::protocol::Prepare, agreed: bool, ending: Decision) -> bool {
    let mut requests = vec![Request::Prepare(Box::new(wish))];
    if ending == Decision::Commit {
        requests.push(do_all(1, changes()));
    }
    if agreed {
        requests.push(agree(1));
    }
    requests.push(settle(1, ending));
    requests.iter().any(|request| agent.try_ask(request).is_none())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Nothing,
    Unfinished,
    Agreed,
    Settled,
}

fn killed_at_any_point_it_tells_the_truth_and_is_undone_or_finished() {
    let steps = changes().len();
    let mut points = vec![
        ("prepare".to_owned(), Left::Nothing),
        ("journal".to_owned(), Left::Unfinished),
        ("prepared".to_owned(), Left::Unfinished),
    ];
    points.extend((0..=steps).map(|step| (format!("step {step}"), Left::Unfinished)));
    points.extend([
        ("vote".to_owned(), Left::Unfinished),
        ("voted".to_owned(), Left::Agreed),
        ("close".to_owned(), Left::Agreed),
        ("receipt".to_owned(), Left::Agreed),
        ("closed".to_owned(), Left::Settled),
    ]);
    let mut survived = 0;
    for (point, left) in points {
        let netns = paired_netns();
        let before = photograph(&netns);
        let mut agent = Agent::faulty(&netns, &format!("{point} kill"));
        let wish = begin(1, changes(), &agent.look());
        assert!(go(&mut agent, wish.clone(), true, Decision::Commit), "{point}: it was not killed");
        agent.ended();
        set_fault(&netns, "");

        let mut other = Agent::start(&netns);
        let seen = other.look();
        let unfinished = seen.open_transaction.as_deref();
        let done = changes().len();
        match left {
            Left::Nothing => {
                assert_eq!((unfinished, &seen.receipt), (None, &None), "{point}");
                assert_eq!(photograph(&netns), before, "{point}");
            }
            Left::Unfinished => {
                let unfinished = unfinished.unwrap_or_else(|| panic!("{point}: nothing is told"));
                assert_eq!(unfinished.journal, wish.journal, "{point}");
                assert!(!unfinished.voted && unfinished.holder.is_none(), "{point}");
                assert_eq!(unfinished.receipt_before, None, "{point}");
                if let Some(count) = point.strip_prefix("step ") {
                    let left = crate::support::agents::way_back(&seen).len();
                    // One change moves others along: those are put back too.
                    let count: usize = count.parse().unwrap();
                    assert!(count <= done && (left == 0) == (count == 0), "{point}: {left}");
                }
                roll_back(&netns, 1);
                assert_eq!(photograph(&netns), before, "{point}");
                assert_eq!(files(&netns), [""; 0], "{point}");
            }
            Left::Agreed => {
                assert!(unfinished.unwrap().voted, "{point}");
                assert_eq!(other.ask(&take_up(1, false)), Reply::Prepared, "{point}");
                if point != "voted" {
                    let late = super::life::refused(other.ask(&settle(1, Decision::Abort)));
                    assert!(late.message.contains("cannot be undone any more"), "{point}: {late}");
                }
                assert_eq!(other.ask(&settle(1, Decision::Commit)), Reply::Closed, "{point}");
                assert_eq!(other.look().receipt, wish.receipt_after, "{point}");
                assert_eq!(files(&netns), ["receipt.json"], "{point}");
            }
            Left::Settled => {
                assert_eq!((unfinished, &seen.receipt), (None, &wish.receipt_after), "{point}");
                assert_eq!(files(&netns), ["receipt.json"], "{point}");
            }
        }
        survived += 1;
    }
    assert_eq!(survived, 9 + steps);
}

/// With a receipt before: it is moved back, and there may be none of it in its old place then.
fn killed_while_it_is_settled_as_undone_it_is_settled_by_the_next() {
    for point in ["close", "receipt", "closed"] {
        let netns = paired_netns();
        let mut agent = Agent::start(&netns);
        let mut first = begin(9, changes()[..1].to_vec(), &agent.look());
        first.journal.hosts.pop_last();
        agent.ask(&Request::Prepare(Box::new(first.clone())));
        assert_eq!(agent.ask(&settle(9, Decision::Commit)), Reply::Closed);
        let before = photograph(&netns);

        let mut agent = Agent::faulty(&netns, &format!("{point} kill"));
        let wish = begin(1, changes(), &agent.look());
        assert!(go(&mut agent, wish, false, Decision::Abort), "{point}: it was not killed");
        agent.ended();
        set_fault(&netns, "");
        let mut other = Agent::start(&netns);
        let unfinished = other.look().open_transaction;
        assert_eq!(unfinished.is_some(), point != "closed", "{point}");
        if let Some(unfinished) = unfinished {
            assert_eq!(unfinished.receipt_before, first.receipt_after, "{point}");
            assert!(!unfinished.voted, "{point}");
            assert_eq!(other.ask(&take_up(1, false)), Reply::Prepared);
            let late = super::life::refused(other.ask(&settle(1, Decision::Commit)));
            assert!(late.message.contains("has begun to undo it"), "{point}: {late}");
            drop(other);
            roll_back(&netns, 1);
        }
        let seen = Agent::start(&netns).look();
        assert_eq!((seen.receipt, seen.open_transaction), (first.receipt_after, None), "{point}");
        assert_eq!(photograph(&netns), before, "{point}");
        assert_eq!(files(&netns), ["receipt.json"], "{point}");
    }
}

fn killed_in_a_taking_over_either_of_the_two_is_there() {
    for (point, which) in [("prepare", 1), ("journal", 2), ("prepared", 2)] {
        let netns = paired_netns();
        let before = photograph(&netns);
        let mut agent = Agent::start(&netns);
        let wish = begin(1, changes()[..2].to_vec(), &agent.look());
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        agent.done(&do_all(1, changes()[..2].to_vec()));
        agent.kill();
        let mut agent = Agent::faulty(&netns, &format!("{point} kill"));
        let wish = begin(2, changes()[2..].to_vec(), &agent.look());
        assert_eq!(agent.try_ask(&Request::Prepare(Box::new(wish))), None);
        agent.ended();
        set_fault(&netns, "");
        let unfinished = Agent::start(&netns).look().open_transaction.unwrap();
        assert_eq!(unfinished.journal.transaction, id(which), "{point}");
        roll_back(&netns, which);
        assert_eq!(photograph(&netns), before, "{point}");
        assert_eq!(files(&netns), [""; 0], "{point}");
    }
}

/// Nobody comes back: not for an agent that died, and not for one that died in the midst.
fn the_timer_undoes_by_itself_wherever_the_agent_was_killed() {
    for point in ["journal", "prepared", "step 0", "step 3", "vote"] {
        let netns = paired_netns();
        let before = photograph(&netns);
        let mut agent = Agent::faulty(&netns, &format!("{point} kill"));
        let mut wish = begin(1, changes(), &agent.look());
        wish.revert = Some(revert_after(4000));
        assert!(go(&mut agent, wish, true, Decision::Commit), "{point}: it was not killed");
        agent.ended();
        eventually("it is undone", || files(&netns).is_empty());
        assert_eq!(photograph(&netns), before, "{point}");
        assert_eq!(timers(&netns), Vec::<u32>::new(), "{point}");
        // Which is told until something else is begun.
        let mut agent = Agent::start(&netns);
        let seen = agent.look();
        assert_eq!(seen.reverted.as_ref().map(|what| &what.transaction), Some(&id(1)), "{point}");
        let again = begin(2, changes(), &seen);
        assert_eq!(agent.ask(&Request::Prepare(Box::new(again))), Reply::Prepared, "{point}");
        assert_eq!(agent.ask(&settle(2, Decision::Abort)), Reply::Closed, "{point}");
        assert_eq!(agent.look().reverted, None, "{point}");
    }
}

fn what_was_never_begun_leaves_no_timer() {
    let netns = paired_netns();
    // A folder in the place of the file stands in the way of writing the journal.
    let mut agent = Agent::start(&netns);
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert = Some(revert_after(600_000));
    std::fs::create_dir_all(netns.folder.path().join("t/.journal.json.new/x")).unwrap();
    let failure = super::life::refused(agent.ask(&Request::Prepare(Box::new(wish))));
    assert!(failure.message.contains("journal.json"), "{failure}");
    assert_eq!(timers(&netns), Vec::<u32>::new());
    assert_eq!(agent.look().open_transaction, None);
}

fn a_timer_that_is_killed_leaves_it_to_rollback() {
    for point in ["step 0", "step 2", "close", "receipt", "closed"] {
        let netns = paired_netns();
        let before = photograph(&netns);
        let mut agent = Agent::faulty(&netns, &format!("revert {point} kill"));
        let mut wish = begin(1, changes(), &agent.look());
        wish.revert = Some(revert_after(3000));
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        let timer = stop_timer(&netns, 1);
        agent.done(&do_all(1, changes()));
        assert_eq!(timers(&netns), [timer.as_raw().cast_unsigned()]);
        agent.kill();
        go_on(timer);
        eventually("the timer has ended", || timers(&netns).is_empty());
        if point == "closed" {
            assert_eq!(Agent::start(&netns).look().open_transaction, None);
        } else {
            let unfinished = Agent::start(&netns).look().open_transaction.unwrap();
            assert_eq!((unfinished.reverts_in_ms, unfinished.voted), (None, false), "{point}");
            roll_back(&netns, 1);
        }
        assert_eq!(photograph(&netns), before, "{point}");
        assert_eq!(files(&netns), [""; 0], "{point}");
        let told = Agent::start(&netns).look().reverted.is_some();
        assert_eq!(told, point == "closed", "{point}: who undid it?");
    }
}

/// The processes of this program that revert in this netns's folder and still run.
pub fn timers(netns: &NetnsHost) -> Vec<u32> {
    let folder = netns.folder.path().to_str().unwrap();
    let output = Command::new("ps").args(["-eo", "pid=,args="]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let ours = text.lines().filter(|line| line.contains("--revert") && line.contains(folder));
    let pids = ours.map(|line| line.split_whitespace().next().unwrap().parse().unwrap());
    pids.filter(|pid| Process::of(*pid).is_ok()).collect()
}
