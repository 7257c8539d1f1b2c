//! A disk that is full, read-only or not there, and a journal that cannot be read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use lvsprov::agent::journal;
use lvsprov::protocol::{Decision, Reply, Request};
use lvsprov::state::{JOURNAL_VERSION, Journal};
use proptest::prelude::*;

use super::keeping::with_file_system;
use super::life::refused;
use crate::support::agents::{
    Agent, agree, begin, changes, do_all, do_steps, id, look, paired_netns, photograph,
    revert_after, settle, take_up, topology, way_back,
};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually, run};

pub fn cases() -> Vec<Case> {
    cases![
        on_a_disk_that_fills_up_later_it_is_still_finished,
        on_a_disk_that_fills_up_later_it_is_still_undone_by_another,
        on_a_disk_that_fills_up_later_the_timer_still_undoes,
        on_a_full_disk_nothing_is_begun,
        on_a_disk_that_turns_read_only_it_is_undone_and_settled_once_it_can_be,
        a_state_folder_that_is_not_there_is_made,
        a_damaged_journal_is_named_with_the_way_out,
        what_of_it_is_missing_or_not_ours_is_told,
        no_bytes_make_a_journal_or_a_panic,
        a_byte_that_is_otherwise_does_not_panic
    ]
}

fn fill(path: &Path) {
    // It ends with an error, that is what it is for.
    let _ = fs::write(path.join("ballast"), vec![0; 4 << 20]);
    let _ = fs::write(path.join("crumb"), vec![0; 4 << 10]);
    let full = fs::write(path.join("straw"), vec![0; 4 << 10]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

fn agent(path: &Path) -> Agent {
    Agent::here(path, &BTreeMap::new())
}

fn on_a_disk_that_fills_up_later_it_is_still_finished() {
    let netns = paired_netns();
    with_file_system(&netns, "size=2m,mode=700", |path| {
        let mut agent = agent(path);
        let wish = begin(1, changes(), &agent.look());
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
        fill(path);
        agent.done(&do_all(1, changes()));
        assert_eq!(agent.ask(&agree(1)), Reply::Voted);
        assert_eq!(agent.ask(&settle(1, Decision::Commit)), Reply::Closed);
        assert_eq!(agent.look().receipt, wish.receipt_after);
    });
}

fn on_a_disk_that_fills_up_later_it_is_still_undone_by_another() {
    let netns = paired_netns();
    let before = photograph(&netns);
    with_file_system(&netns, "size=2m,mode=700", |path| {
        let mut first = agent(path);
        let wish = begin(1, changes(), &first.look());
        assert_eq!(first.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        fill(path);
        first.done(&do_all(1, changes()));
        first.kill();
        let mut second = agent(path);
        assert_eq!(second.ask(&take_up(1, false)), Reply::Prepared);
        let there = second.look();
        assert_eq!(
            there.open_transaction.as_ref().unwrap().holder.as_ref().unwrap().pid,
            second.pid()
        );
        second.done(&do_steps(1, way_back(&there)));
        assert_eq!(second.ask(&settle(1, Decision::Abort)), Reply::Closed);
        assert!(!path.join("t").exists());
    });
    assert_eq!(photograph(&netns), before);
}

fn on_a_disk_that_fills_up_later_the_timer_still_undoes() {
    let netns = paired_netns();
    let before = photograph(&netns);
    with_file_system(&netns, "size=2m,mode=700", |path| {
        let mut agent = agent(path);
        let mut wish = begin(1, changes(), &agent.look());
        wish.revert = Some(revert_after(3000));
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        fill(path);
        agent.done(&do_all(1, changes()));
        agent.kill();
        eventually("it is undone", || !path.join("t/journal.json").exists());
        // Which is told, in the room that was there.
        assert_eq!(self::agent(path).look().reverted.map(|what| what.transaction), Some(id(1)));
    });
    assert_eq!(photograph(&netns), before);
}

fn on_a_full_disk_nothing_is_begun() {
    let netns = paired_netns();
    let before = photograph(&netns);
    with_file_system(&netns, "size=2m,mode=700", |path| {
        let mut agent = agent(path);
        let wish = begin(1, changes(), &agent.look());
        fill(path);
        let mut small = 0;
        // With a little more room each time, until there is enough: it never stops half-way.
        while let Reply::Refused(failure) = agent.ask(&Request::Prepare(Box::new(wish.clone()))) {
            assert!(failure.to_string().contains("No space left"), "{failure}");
            assert!(failure.cure.unwrap().contains("make room"));
            assert!(!path.join("t").exists(), "something is left");
            small += 1;
            let ballast = fs::OpenOptions::new().write(true).open(path.join("ballast")).unwrap();
            ballast.set_len(ballast.metadata().unwrap().len() - (4 << 10)).unwrap();
        }
        assert!(small > 5, "{small}");
        assert_eq!(photograph(&netns), before);
        assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
    });
}

fn on_a_disk_that_turns_read_only_it_is_undone_and_settled_once_it_can_be() {
    let netns = paired_netns();
    let before = photograph(&netns);
    with_file_system(&netns, "mode=700", |path| {
        let remount = |how: &str| {
            run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(path));
        };
        remount("ro");
        let mut agent = agent(path);
        let wish = begin(1, changes(), &agent.look());
        let failure = refused(agent.ask(&Request::Prepare(Box::new(wish.clone()))));
        assert!(failure.to_string().contains("Read-only file system"), "{failure}");
        assert!(failure.cure.unwrap().contains("writable"));
        remount("rw");
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        agent.done(&do_all(1, changes()));
        remount("ro");
        let back = do_steps(1, way_back(&agent.look()));
        agent.done(&back);
        assert_eq!(photograph(&netns), before);
        for request in [agree(1), settle(1, Decision::Abort), take_up(1, false)] {
            let failure = refused(agent.ask(&request));
            assert!(failure.to_string().contains("Read-only file system"), "{failure}");
        }
        assert!(agent.look().open_transaction.is_some());
        remount("rw");
        assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
    });
}

fn a_state_folder_that_is_not_there_is_made() {
    let netns = paired_netns();
    with_file_system(&netns, "mode=755", |path| {
        let place = path.join("var/lib/lvsprov");
        let mut agent = agent(&place);
        let wish = begin(1, changes(), &agent.look());
        assert!(!path.join("var").exists(), "looking made something");
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        assert_eq!(agent.ask(&settle(1, Decision::Abort)), Reply::Closed);
        // And a folder that is removed in the midst is named.
        let wish = begin(2, changes(), &agent.look());
        assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
        fs::remove_dir_all(path.join("var")).unwrap();
        let failure = refused(agent.ask(&do_all(2, changes())));
        assert!(failure.message.contains("is not open on this host any more"), "{failure}");
        assert_eq!(netns.sysctl("ip_forward"), "0");
    });
}

fn begun(netns: &NetnsHost) -> Journal {
    let mut agent = Agent::start(netns);
    let wish = begin(1, changes(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
    agent.kill();
    wish.journal
}

fn a_damaged_journal_is_named_with_the_way_out() {
    let netns = paired_netns();
    let whole = serde_json::to_string(&begun(&netns)).unwrap();
    let folder = netns.folder.path().join("t");
    let path = folder.join("journal.json");
    let mut agent = Agent::start(&netns);
    let later = JOURNAL_VERSION + 1;
    let version = |number: u32| format!("\"version\":{number},");
    for (text, says) in [
        (whole[..whole.len() / 2].to_owned(), "is damaged"),
        (String::new(), "is damaged"),
        (
            whole.replace(&version(JOURNAL_VERSION), &format!("{}\"new\":1,", version(later))),
            &format!("later lvsprov: it has format {later}"),
        ),
        (whole.replace("\"topology\":\"t\"", "\"topology\":\"u\""), "of the topology u"),
        (whole.replace("\"since\"", "\"sins\""), "is damaged"),
        (whole.replace("0000000000000001", "../../../../etcx"), "is damaged"),
        (whole.replace("0000000000000001", "0000000000000002"), "is not whole"),
    ] {
        assert_ne!(text, whole);
        fs::write(&path, &text).unwrap();
        for request in [look(), take_up(1, true), Request::Prepare(Box::new(empty(&netns)))] {
            let failure = refused(agent.ask(&request));
            assert!(failure.message.contains(says), "{says}: {failure}");
            assert!(failure.cure.is_some());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "it was overwritten");
    }
    // What the cure says: with the journal away, the receipt goes on from here.
    fs::rename(&path, netns.folder.path().join("away.json")).unwrap();
    let seen = agent.look();
    assert!(seen.receipt.is_some() && seen.open_transaction.is_none());
    let wish = begin(3, changes(), &seen);
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    assert_eq!(agent.ask(&settle(3, Decision::Abort)), Reply::Closed);
    assert!(!folder.join(id(1).as_str()).exists(), "what is left of the old one goes");
}

fn empty(netns: &NetnsHost) -> lvsprov::protocol::Prepare {
    let other = NetnsHost::new();
    let mut seen = Agent::start(&other).look();
    seen.state = Agent::with(netns, other.folder.path(), &BTreeMap::new()).look().state;
    begin(5, changes(), &seen)
}

fn what_of_it_is_missing_or_not_ours_is_told() {
    for (file, says) in [("prepared.json", "is not whole"), ("prepared", "is not whole")] {
        let netns = paired_netns();
        begun(&netns);
        fs::remove_file(netns.folder.path().join("t").join(id(1).as_str()).join(file)).unwrap();
        let failure = refused(Agent::start(&netns).ask(&look()));
        assert!(failure.message.contains(says), "{file}: {failure}");
    }
    // What is only told to people may be missing.
    let netns = paired_netns();
    begun(&netns);
    let folder = netns.folder.path().join("t").join(id(1).as_str());
    for file in ["holder.json", "last_request", "notes.json"] {
        fs::write(folder.join(file), "{ half").unwrap();
    }
    let there = Agent::start(&netns).look().open_transaction.unwrap();
    assert_eq!((there.holder, there.notes), (None, Vec::<String>::new()));

    let path = netns.folder.path().join("t/journal.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let failure = refused(Agent::start(&netns).ask(&look()));
    assert!(failure.message.contains("can be written by others"), "{failure}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = netns.folder.path().join("elsewhere");
    for place in [path.as_path(), folder.as_path()] {
        fs::rename(place, &elsewhere).unwrap();
        symlink(&elsewhere, place).unwrap();
        let failure = refused(Agent::start(&netns).ask(&look()));
        assert!(failure.message.contains("is a symbolic link"), "{failure}");
        fs::remove_file(place).unwrap();
        fs::rename(&elsewhere, place).unwrap();
    }
}

proptest! {
    fn no_bytes_make_a_journal_or_a_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let parsed = journal::parse(Path::new("journal.json"), &topology(), &text);
        prop_assert!(parsed.is_err());
    }

    /// One byte that is otherwise: either it is noticed, or what is read is a journal of this topology.
    fn a_byte_that_is_otherwise_does_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let seen = lvsprov::state::Observation::default();
        let mut text = serde_json::to_vec(&begin(1, changes(), &seen).journal).unwrap();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(journal) = journal::parse(Path::new("journal.json"), &topology(), &text) {
            prop_assert_eq!(journal.topology, topology());
        }
    }
}
