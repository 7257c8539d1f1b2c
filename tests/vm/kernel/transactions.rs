//! A transaction over IPVS steps that is cut off after each of them.

use lvsprov::agent::process::Process;
use lvsprov::protocol::{Decision, Reply, Request};
use lvsprov::state::{Edit, Module, Present};

use super::services::{add, add_rs, dr, plain, saved, service_key, web};
use crate::support::agents::{
    Agent, begin, do_all, go_on, revert_after, roll_back, set_fault, settle, stop_timer,
};
use crate::support::netns_host::{NetnsHost, eventually};

fn wanted() -> Vec<Edit> {
    let mark = service_key("fwmark4 7");
    let mut changes = plain("wrr");
    changes.extend((10..15).map(|last| add_rs(&web(), &format!("192.0.2.{last}:80"), dr(last))));
    changes.push(add(&mark, "wrr"));
    changes.push(add_rs(&mark, "192.0.2.20:0", dr(3)));
    changes
}

/// What goes to the kernel in one message is cut too: exactly so many were done.
pub fn killed_after_each_step_of_a_run() {
    for count in 0..=wanted().len() {
        let netns = NetnsHost::with_lo();
        netns.do_all(vec![Edit::add::<Module>(Module::IpVs, Present)]);
        let mut agent = Agent::faulty(&netns, &format!("step {count} kill"));
        let wish = begin(1, wanted(), &agent.look());
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        assert_eq!(agent.try_ask(&do_all(1, wanted())), None, "step {count}");
        agent.ended();
        set_fault(&netns, "");
        assert_eq!(saved(&netns).len(), count, "{:?}", saved(&netns));
        roll_back(&netns, 1);
        assert_eq!(saved(&netns), [""; 0], "step {count}");
    }
}

/// A table that was changed meanwhile is put back by the timer, which is itself cut off after each step.
pub fn the_timer_is_killed_after_each_step() {
    let removed = |changes: Vec<Edit>| -> Vec<Edit> {
        changes.iter().rev().map(|change| change.inverse().unwrap()).collect()
    };
    for count in 0..=wanted().len() {
        let netns = NetnsHost::with_lo();
        netns.do_all(vec![Edit::add::<Module>(Module::IpVs, Present)]);
        netns.do_all(wanted());
        let before = saved(&netns);
        let mut agent = Agent::faulty(&netns, &format!("revert step {count} kill"));
        let mut wish = begin(1, removed(wanted()), &agent.look());
        wish.revert = Some(revert_after(3000));
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        let timer = stop_timer(&netns, 1);
        agent.done(&do_all(1, removed(wanted())));
        assert_eq!(saved(&netns), [""; 0]);
        agent.kill();
        go_on(timer);
        let timer = u32::try_from(timer.as_raw()).unwrap();
        eventually("the timer has ended", || Process::of(timer).is_err());
        assert_eq!(saved(&netns).len(), count, "{:?}", saved(&netns));
        roll_back(&netns, 1);
        assert_eq!(saved(&netns), before, "step {count}");
    }
}

/// Nobody comes back, and nobody is killed: the table is as it was, and settled.
pub fn the_timer_puts_a_table_back() {
    let netns = NetnsHost::with_lo();
    netns.do_all(vec![Edit::add::<Module>(Module::IpVs, Present)]);
    netns.do_all(plain("rr"));
    let before = saved(&netns);
    let mut agent = Agent::start(&netns);
    let changes: Vec<Edit> = wanted()[1..].to_vec();
    let mut wish = begin(1, changes.clone(), &agent.look());
    wish.revert = Some(revert_after(3000));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let timer = stop_timer(&netns, 1);
    agent.done(&do_all(1, changes));
    go_on(timer);
    // It is still connected; that keeps nothing from being undone.
    eventually("it is undone", || agent.look().open_transaction.is_none());
    assert_eq!(saved(&netns), before);
    assert!(matches!(agent.ask(&settle(1, Decision::Commit)), Reply::Refused(_)));
}
