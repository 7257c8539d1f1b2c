//! A revert timer that cannot undo everything tries again, and is in nobody's way meanwhile.

use std::fs;

use lvsprov::protocol::{Reply, Request};

use super::faults::timers;
use super::life::files;
use crate::support::agents::{
    Agent, begin, changes, do_all, go_on, id, paired_netns, photograph, revert_after, roll_back,
    stop_timer,
};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::eventually;

pub fn cases() -> Vec<Case> {
    cases![
        it_tries_again_until_what_stands_in_the_way_is_gone,
        one_that_has_tried_and_failed_is_in_nobodys_way
    ]
}

/// Many more tries than there are pauses of different length; and whoever can do better may.
fn it_tries_again_until_what_stands_in_the_way_is_gone() {
    let netns = paired_netns();
    let before = photograph(&netns);
    let mut agent = Agent::faulty(&netns, "revert pause 5");
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert = Some(revert_after(1000));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    let timer = stop_timer(&netns, 1);
    agent.done(&do_all(1, changes()));
    agent.kill();
    // What it cannot read it cannot undo.
    let folder = netns.folder.path().join("t").join(id(1).as_str());
    let (begun, away) = (folder.join("prepared.json"), folder.join("away"));
    fs::rename(&begun, &away).unwrap();
    go_on(timer);
    let tries = || {
        let told = fs::read(folder.join("notes.json")).unwrap();
        // It may be read half written.
        let told: Vec<String> = serde_json::from_slice(&told).unwrap_or_default();
        let line = told.into_iter().find(|line| line.starts_with("could not undo everything"))?;
        line.split(' ').find_map(|word| word.parse::<u32>().ok())
    };
    eventually("it tries again", || tries().is_some_and(|tries| tries > 20));
    assert!(timers(&netns).len() == 1 && photograph(&netns) != before);
    fs::rename(&away, &begun).unwrap();
    eventually("it is undone", || files(&netns).is_empty());
    assert_eq!(photograph(&netns), before);
    eventually("it has ended", || timers(&netns).is_empty());
}

/// It goes on for ever, and must not keep the next `apply` from taking over all that time.
fn one_that_has_tried_and_failed_is_in_nobodys_way() {
    let netns = paired_netns();
    let mut agent = Agent::faulty(&netns, "revert pause 600000");
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert = Some(revert_after(1000));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    // A folder in the place of the last mark: all is undone, and cannot be closed.
    let mark = netns.folder.path().join("t").join(id(1).as_str()).join("aborting");
    fs::create_dir_all(mark.join("x")).unwrap();
    agent.kill();
    let timer = timers(&netns)[0];
    let mut other = Agent::start(&netns);
    eventually("it has tried", || !other.look().open_transaction.unwrap().notes.is_empty());
    assert_eq!(timers(&netns), [timer]);
    let seen = other.look();
    assert_eq!(seen.open_transaction.as_ref().unwrap().reverts_in_ms, None);
    let wish = begin(2, changes(), &seen);
    assert_eq!(other.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    eventually("it has ended", || timers(&netns).is_empty());
    drop(other);
    roll_back(&netns, 2);
}
