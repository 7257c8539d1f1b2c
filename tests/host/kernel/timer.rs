//! The revert timer, and who counts as being at work.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lvsprov::agent::process::boottime_ms;
use lvsprov::protocol::{Decision, Reply, Request, RevertAfter};
use lvsprov::state::{Address, Controller, Edit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::faults::timers;
use super::life::{files, refused};
use crate::support::agents::{
    Agent, agree, begin, changes, do_all, do_steps, go_on, id, paired_netns, photograph,
    revert_after, roll_back, settle, stop_timer, take_up, way_back,
};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, address_key, eventually, plain_address};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    cases![
        while_it_is_pending_nobody_begins_and_looking_says_when,
        what_is_agreed_is_never_undone,
        one_that_wakes_up_too_late_does_nothing,
        what_was_begun_to_be_undone_is_not_agreed_to_nor_gone_on_with,
        where_it_cannot_mark_that_it_is_undone_it_does_not_begin_with_a_part,
        a_timer_that_cannot_be_told_is_not_waited_for,
        a_holder_that_hangs_in_a_request_is_ended_when_its_time_is_over,
        who_has_the_lock_and_works_at_something_else_is_not_ended,
        what_other_topologies_have_damaged_does_not_stop_it,
        what_stands_in_the_way_is_told_and_tried_again,
        a_recycled_number_and_a_restarted_host_are_no_holder,
        after_a_restart_undoing_puts_back_the_receipt_alone,
        an_agent_that_hears_nothing_ends_and_the_next_takes_over,
        where_it_is_logged_in_from_is_told,
        of_many_who_begin_at_once_one_does,
        who_is_not_root_is_told,
        looking_while_somebody_acts_neither_waits_nor_fails
    ]
}

fn started(netns: &NetnsHost, build_ms: u32) -> Agent {
    let mut agent = Agent::start(netns);
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert = Some(revert_after(build_ms));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    agent.done(&do_all(1, changes()));
    agent
}

fn while_it_is_pending_nobody_begins_and_looking_says_when() {
    let netns = paired_netns();
    let agent = started(&netns, 600_000);
    agent.kill();
    let mut other = Agent::start(&netns);
    let seen = other.look();
    let left = seen.open_transaction.as_ref().unwrap().reverts_in_ms.unwrap();
    assert!(left <= speed::millis(600_000).into(), "{left}");
    let Reply::Busy(busy) = other.ask(&Request::Prepare(Box::new(begin(2, Vec::new(), &seen))))
    else {
        panic!("not busy")
    };
    assert!(busy.holder.is_none() && busy.reverts_in_ms.is_some());
    // It is no hindrance to undoing, and goes on while that is done.
    assert_eq!(other.ask(&take_up(1, false)), Reply::Prepared);
    assert_eq!(timers(&netns).len(), 1);
    let back = do_steps(1, way_back(&other.look()));
    other.done(&back);
    assert_eq!(other.ask(&settle(1, Decision::Abort)), Reply::Closed);
    eventually("the timer has ended", || timers(&netns).is_empty());
}

fn what_is_agreed_is_never_undone() {
    let netns = paired_netns();
    let mut agent = started(&netns, 600_000);
    let pid = timers(&netns)[0];
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own: {stat}");
    for fd in 0..3 {
        // It lets go of the agent's pipe as soon as it runs again.
        let path = format!("/proc/{pid}/fd/{fd}");
        eventually("no stream is the agent's", || {
            fs::read_link(&path).unwrap() == Path::new("/dev/null")
        });
    }
    let after = photograph(&netns);
    assert_eq!(agent.ask(&agree(1)), Reply::Voted);
    assert_eq!(timers(&netns), Vec::<u32>::new());
    assert_eq!(agent.look().open_transaction.unwrap().reverts_in_ms, None);
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
    assert_eq!(photograph(&netns), after);
}

/// Agreed to by another agent than the one whose child the timer is; and the time is over meanwhile.
fn one_that_wakes_up_too_late_does_nothing() {
    let netns = paired_netns();
    let agent = started(&netns, 4000);
    let timer = timers(&netns)[0];
    signal(timer, Signal::SIGSTOP);
    agent.kill();
    let mut other = Agent::start(&netns);
    assert_eq!(other.ask(&take_up(1, false)), Reply::Prepared);
    // Whatever becomes of the process, the mark on the disk counts.
    let open = netns.folder.path().join("t").join(id(1).as_str());
    fs::rename(open.join("prepared"), open.join("voted")).unwrap();
    let after = photograph(&netns);
    assert_eq!(other.look().open_transaction.unwrap().reverts_in_ms, None);
    let begun: Value =
        serde_json::from_slice(&fs::read(open.join("prepared.json")).unwrap()).unwrap();
    let due = begun["timer"]["build_at_ms"].as_u64().unwrap();
    eventually("its time is over", || boottime_ms() > due);
    signal(timer, Signal::SIGCONT);
    eventually("it has ended", || timers(&netns).is_empty());
    assert_eq!(photograph(&netns), after);
    assert!(other.look().open_transaction.unwrap().voted);
    assert_eq!(other.ask(&settle(1, Decision::Commit)), Reply::Closed);
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn what_was_begun_to_be_undone_is_not_agreed_to_nor_gone_on_with() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let mut agent = Agent::start(&netns);
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert =
        Some(RevertAfter { withdraw_ms: Some(speed::millis(3000)), ..revert_after(600_000) });
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    agent.done(&do_all(1, changes()));
    eventually("it has withdrawn", || {
        agent
            .look()
            .open_transaction
            .unwrap()
            .notes
            .iter()
            .any(|line| line.contains("withdrew by itself"))
    });
    // The address is withdrawn, and the route; the values come with the rest.
    assert!(!netns.ip("-4 -o address show").contains("10.9.9.9"));
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "1");
    for request in [agree(1), settle(1, Decision::Commit), do_all(1, changes()[3..].to_vec())] {
        let failure = refused(agent.ask(&request));
        assert!(failure.message.contains("was not confirmed in time"), "{failure}");
    }
    assert_eq!(agent.ask(&take_up(1, false)), Reply::Prepared);
    let back = do_steps(1, way_back(&agent.look()));
    agent.done(&back);
    assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
    assert_eq!(photograph(&netns), before);
    assert_eq!(timers(&netns), Vec::<u32>::new());
}

/// Without the mark a controller that comes in time could agree to what is half withdrawn.
fn where_it_cannot_mark_that_it_is_undone_it_does_not_begin_with_a_part() {
    let netns = paired_netns();
    let mut agent = Agent::start(&netns);
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert =
        Some(RevertAfter { withdraw_ms: Some(speed::millis(2000)), ..revert_after(600_000) });
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let timer = stop_timer(&netns, 1);
    agent.done(&do_all(1, changes()));
    let after = photograph(&netns);
    // A folder in the place of the mark stands in its way.
    let mark = netns.folder.path().join("t").join(id(1).as_str()).join("reverting");
    fs::create_dir_all(mark.join("x")).unwrap();
    go_on(timer);
    let mut told = Vec::new();
    eventually("it says what it does", || {
        told = agent.look().open_transaction.unwrap().notes;
        told.iter().any(|line| line.contains("later time") || line.contains("withdrew by itself"))
    });
    assert_eq!(photograph(&netns), after, "{told:?}");
    fs::remove_dir_all(&mark).unwrap();
    assert_eq!(agent.ask(&agree(1)), Reply::Voted);
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
}

/// What is noted of it does not name it any more: the child is ended all the same, not waited for.
fn a_timer_that_cannot_be_told_is_not_waited_for() {
    let netns = paired_netns();
    let mut agent = started(&netns, 600_000);
    let timer = timers(&netns)[0];
    let folder = netns.folder.path().join("t").join(id(1).as_str());
    edit(&folder.join("prepared.json"), |begun| begun["timer"]["process"]["start"] = 1.into());
    agent.send(&agree(1));
    // Were it waited for, it would go on until this is over.
    eventually("it was ended", || timers(&netns).is_empty());
    assert_eq!(agent.heard(), Some(Reply::Voted));
    assert!(!Path::new(&format!("/proc/{timer}")).exists(), "it was waited for");
    assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
}

/// It has the lock, and would have it for ever.
fn a_holder_that_hangs_in_a_request_is_ended_when_its_time_is_over() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let mut agent = Agent::faulty(&netns, "step 2 stop");
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert = Some(revert_after(2000));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let timer = stop_timer(&netns, 1);
    agent.send(&do_all(1, changes()));
    eventually("it has stopped", || is_stopped(agent.pid()));
    assert_ne!(photograph(&netns), before);
    go_on(timer);
    eventually("it is undone", || files(&netns).is_empty());
    assert_eq!(photograph(&netns), before);
    agent.ended();
    assert_eq!(Agent::start(&netns).look().reverted.map(|what| what.transaction), Some(id(1)));
}

/// One that is at work for another topology is waited for, and lives.
fn who_has_the_lock_and_works_at_something_else_is_not_ended() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let agent = started(&netns, 2000);
    agent.kill();
    let mut other = Agent::faulty(&netns, "prepared stop");
    let mut wish = begin(2, Vec::new(), &Agent::start(&netns).look());
    (wish.expected.receipt, wish.expected.open_transaction, wish.receipt_before) =
        (None, None, None);
    wish.journal.topology = "u".parse().unwrap();
    wish.journal.touched.clear();
    for receipt in [Some(&mut wish.receipt), wish.receipt_after.as_mut()].into_iter().flatten() {
        receipt.topology = "u".parse().unwrap();
        receipt.owned.clear();
    }
    let timer = stop_timer(&netns, 1);
    other.send(&Request::Prepare(Box::new(wish)));
    eventually("it has stopped", || is_stopped(other.pid()));
    go_on(timer);
    let mut looking = Agent::start(&netns);
    eventually("the timer waits no longer", || {
        let told = looking.look().open_transaction.unwrap().notes;
        told.iter().any(|line| line.contains("could not undo everything"))
    });
    assert!(is_stopped(other.pid()), "it was ended");
    signal(other.pid(), Signal::SIGCONT);
    assert_eq!(other.heard(), Some(Reply::Prepared));
    eventually("it is undone", || files(&netns).is_empty());
    assert_eq!(photograph(&netns), before);
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
}

/// Whoever plans must respect what they say; undoing what is ours needs nothing of it.
fn what_other_topologies_have_damaged_does_not_stop_it() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let agent = started(&netns, 3000);
    for (name, file) in [("u", "receipt.json"), ("v", "journal.json")] {
        let folder = netns.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(file), "{ half").unwrap();
    }
    agent.kill();
    eventually("it is undone", || files(&netns).is_empty());
    assert_eq!(photograph(&netns), before);
    let seen = Agent::start(&netns).look();
    let named: Vec<&str> =
        seen.unreadable.keys().map(lvsprov::names::TopologyName::as_str).collect();
    assert_eq!(named, ["u", "v"]);
}

/// A step that the kernel refuses keeps neither the others nor itself from being tried again.
fn what_stands_in_the_way_is_told_and_tried_again() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let agent = started(&netns, 4000);
    agent.kill();
    // The route is over an interface that is gone for a while; /proc/sys of it as well.
    let elsewhere = NetnsHost::new();
    netns.give("v0", &elsewhere);
    let mut other = Agent::start(&netns);
    eventually("it says what it could not do", || {
        other.look().open_transaction.is_none_or(|there| !there.notes.is_empty())
    });
    eventually("it is done at last", || files(&netns).is_empty());
    assert!(!netns.ip("-4 -o address show").contains("10.9.9.9"));
    for path in ["ip_forward", "conf/lo/arp_ignore"] {
        assert!(before.contains(&format!("{path}={}", netns.sysctl(path))), "{path}");
    }
}

fn a_recycled_number_and_a_restarted_host_are_no_holder() {
    for spoil in ["start", "boot"] {
        let netns = paired_netns();
        let mut agent = started(&netns, 600_000);
        let folder = netns.folder.path().join("t").join(id(1).as_str());
        let wrong = |process: &mut Value| {
            process[spoil] = if spoil == "start" { 1.into() } else { "another".into() };
        };
        edit(&folder.join("holder.json"), |holder| wrong(&mut holder["process"]));
        edit(&folder.join("prepared.json"), |begun| {
            wrong(&mut begun["timer"]["process"]);
            if spoil == "boot" {
                begun["boot"] = "another".into();
            }
        });
        let timer = timers(&netns)[0];
        let there = agent.look().open_transaction.unwrap();
        assert_eq!((&there.holder, there.reverts_in_ms), (&None, None), "{spoil}");
        assert_eq!(there.restarted, spoil == "boot");
        let mut other = Agent::start(&netns);
        let wish = begin(2, Vec::new(), &other.look());
        assert_eq!(other.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared, "{spoil}");
        signal(timer, Signal::SIGKILL);
    }
}

/// What one transaction did went with the restart; what the next had touched is only a part of it, and
/// does not come back alone: a VIP without its ARP settings.
fn after_a_restart_undoing_puts_back_the_receipt_alone() {
    for spoil in ["boot", "init"] {
        let netns = paired_netns();
        let mut agent = Agent::start(&netns);
        let mut wish = begin(1, changes(), &agent.look());
        wish.journal.hosts.pop_last();
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
        agent.done(&do_all(1, changes()));
        assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
        let (old, new) = (address_key("10.9.9.9/32@lo"), address_key("10.9.9.8/32@lo"));
        let exchange = vec![
            Edit::remove::<Address>(old, plain_address()),
            Edit::add::<Address>(new, plain_address()),
        ];
        let second = begin(2, exchange.clone(), &agent.look());
        assert_eq!(agent.ask(&Request::Prepare(Box::new(second))), Reply::Prepared);
        agent.done(&do_all(2, exchange));
        agent.kill();

        let folder = netns.folder.path().join("t").join(id(2).as_str());
        edit(&folder.join("prepared.json"), |begun| {
            let there = &mut begun[spoil];
            assert!(!there.is_null(), "{spoil} is not noted");
            *there = if spoil == "boot" { "another".into() } else { u64::MAX.into() };
        });
        netns.ip("address del 10.9.9.8/32 dev lo");
        for path in ["conf/lo/arp_ignore", "conf/lo/arp_announce"] {
            netns.set_sysctl(path, "0");
        }
        let restarted = photograph(&netns);
        let there = Agent::start(&netns).look();
        assert!(there.open_transaction.as_ref().unwrap().restarted, "{spoil}");
        assert_eq!(way_back(&there), [], "{spoil}");
        roll_back(&netns, 2);
        assert_eq!(photograph(&netns), restarted, "{spoil}");
        assert_eq!(Agent::start(&netns).look().receipt, wish.receipt_after, "{spoil}");
    }
}

fn edit(path: &Path, work: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    work(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn an_agent_that_hears_nothing_ends_and_the_next_takes_over() {
    let netns = paired_netns();
    let mut silent = Agent::start(&netns);
    let mut wish = begin(1, changes(), &silent.look());
    wish.idle_limit_s = speed::millis(1000).div_ceil(1000);
    assert_eq!(silent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let mut other = Agent::start(&netns);
    eventually("it has ended", || other.look().open_transaction.unwrap().holder.is_none());
    assert_eq!(silent.heard(), None);
    assert_eq!(other.ask(&take_up(1, false)), Reply::Prepared);
    assert_eq!(other.ask(&settle(1, Decision::Abort)), Reply::Closed);
}

fn where_it_is_logged_in_from_is_told() {
    let netns = paired_netns();
    let from = |connection: &str| {
        let environment = BTreeMap::from([("SSH_CONNECTION", PathBuf::from(connection))]);
        Agent::with(&netns, netns.folder.path(), &environment)
    };
    assert_eq!(from("").look().facts.controller, Controller::Unknown);
    let link_local = from("fe80::7%v0 50000 fe80::1%v0 22").look().facts.controller;
    assert_eq!(link_local, Controller::Address("fe80::7".parse().unwrap()));
    let mut agent = from("192.0.2.7 50000 192.0.2.1 22");
    let wish = begin(1, changes(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let mut other = Agent::start(&netns);
    let holder = other.look().open_transaction.unwrap().holder.unwrap();
    assert_eq!(holder.from, "192.0.2.7".parse().ok());
    drop(agent);
    roll_back(&netns, 1);
}

/// As many as there are processors begin at once, again and again: one does, the others hear of it.
fn of_many_who_begin_at_once_one_does() {
    let netns = paired_netns();
    for round in 0..10 {
        let mut agents: Vec<Agent> = (0..4).map(|_| Agent::start(&netns)).collect();
        let seen = agents[0].look();
        for (number, agent) in agents.iter_mut().enumerate() {
            let number = 100 * round + number as u64;
            agent.send(&Request::Prepare(Box::new(begin(number, changes(), &seen))));
        }
        let replies: Vec<Reply> = agents.iter_mut().map(|agent| agent.heard().unwrap()).collect();
        let begun: Vec<usize> =
            (0..4).filter(|number| replies[*number] == Reply::Prepared).collect();
        let [winner] = begun[..] else { panic!("{replies:?}") };
        for (number, reply) in replies.iter().enumerate().filter(|(number, _)| *number != winner) {
            let Reply::Busy(busy) = reply else { panic!("{number}: {reply:?}") };
            assert!(busy.transaction.is_none() || busy.holder.is_some(), "{busy:?}");
        }
        let transaction = 100 * round + winner as u64;
        assert_eq!(agents[winner].ask(&settle(transaction, Decision::Abort)), Reply::Closed);
    }
}

fn who_is_not_root_is_told() {
    let netns = paired_netns();
    let seen = Agent::start(&netns).look();
    let request = Request::Prepare(Box::new(begin(1, changes(), &seen)));
    let frame = lvsprov::transport::frame::encode(&request).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("request");
    fs::write(&path, frame).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["agent", "--state-dir", "/nowhere"])
        .stdin(fs::File::open(&path).unwrap())
        .uid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("changing a host needs root"), "{said}");
}

fn looking_while_somebody_acts_neither_waits_nor_fails() {
    let netns = paired_netns();
    let mut first = Agent::faulty(&netns, "step 2 stop");
    let wish = begin(1, changes(), &first.look());
    assert_eq!(first.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    first.send(&do_all(1, changes()));
    eventually("it has stopped", || is_stopped(first.pid()));
    let mut other = Agent::start(&netns);
    let seen = other.look();
    assert_eq!(seen.open_transaction.as_ref().unwrap().holder.as_ref().unwrap().pid, first.pid());
    let Reply::Busy(busy) = other.ask(&take_up(1, true)) else { panic!("not busy") };
    assert_eq!((busy.transaction, busy.holder.unwrap().pid), (None, first.pid()));
    assert_eq!(other.look().receipt, seen.receipt);
    signal(first.pid(), Signal::SIGCONT);
    let Some(Reply::Executed(outcome)) = first.heard() else { panic!("not done") };
    assert_eq!((outcome.done, outcome.failure), (changes().len(), None));
}
