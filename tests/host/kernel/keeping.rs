//! The receipt and the lock.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use lvsprov::agent::Disk;
use lvsprov::agent::lock;
use lvsprov::agent::receipt as receipts;
use lvsprov::failure::Failure;
use lvsprov::protocol::{Prepare, Reply, Request};
use lvsprov::state::{Edit, Observation, Sysctl};

use crate::support::agents::{Agent, do_all};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, ask_here, begin, receipt, run};

pub fn cases() -> Vec<Case> {
    cases![
        a_failed_step_leaves_the_receipt_of_the_start,
        looking_makes_nothing,
        a_damaged_receipt_is_named_and_stops_everything,
        a_symbolic_link_in_the_place_is_refused,
        a_receipt_that_others_can_write_is_not_trusted,
        on_a_full_disk_nothing_is_touched,
        with_no_room_for_the_receipt_of_the_end_nothing_is_touched,
        on_a_read_only_file_system_nothing_is_touched,
        only_one_acts_at_a_time,
        a_receipt_of_another_topology_is_refused,
        what_another_topology_has_is_still_so_or_nothing_is_begun
    ]
}

fn step() -> Edit {
    let key = "net.ipv4.conf.lo.arp_ignore".parse().unwrap();
    Edit::change::<Sysctl>(key, "0".to_owned(), "1".to_owned())
}

fn bad_step() -> Edit {
    let key = "net.ipv4.conf.lo.arp_announce".parse().unwrap();
    Edit::change::<Sysctl>(key, "9".to_owned(), "1".to_owned())
}

fn refused(reply: Reply) -> Failure {
    match reply {
        Reply::Refused(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn look() -> Request {
    let topology = "t".parse().unwrap();
    Request::Observe { topology, sysctls: std::collections::BTreeSet::new(), counters: false }
}

/// What a plan of [`step`] asks for, made without looking.
fn begin_step() -> Prepare {
    let mut seen = Observation::default();
    let step = step();
    let (key, before, _) = step.changed::<Sysctl>().unwrap();
    seen.state.sysctls.insert(key.clone(), before.clone());
    begin(1, vec![step], &seen)
}

fn act() -> Request {
    Request::Prepare(Box::new(begin_step()))
}

fn a_failed_step_leaves_the_receipt_of_the_start() {
    let netns = NetnsHost::new();
    let mut agent = Agent::start(&netns);
    let wish = begin(1, vec![step(), bad_step()], &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish.clone()))), Reply::Prepared);
    let Reply::Executed(outcome) = agent.ask(&do_all(1, vec![step(), bad_step()])) else {
        panic!("not done")
    };
    assert_eq!(outcome.done, 1);
    assert!(outcome.failure.is_some());
    assert_eq!(outcome.after.receipt, Some(wish.receipt));
    assert!(outcome.after.open_transaction.is_some());
}

fn looking_makes_nothing() {
    let netns = NetnsHost::new();
    let place = netns.folder.path().join("deeper");
    let before = netns.ip("-d address show");
    let reply = netns.run(|| ask_here(&place, look()));
    assert!(matches!(reply, Reply::Observed(_)), "{reply:?}");
    assert!(!place.exists());
    assert_eq!(netns.ip("-d address show"), before);
}

fn a_damaged_receipt_is_named_and_stops_everything() {
    let netns = NetnsHost::new();
    let whole = serde_json::to_string(&receipt()).unwrap();
    let format = |number: u32| format!("\"version\":{number}");
    let later = receipt().version + 1;
    receipts::write(&Disk::new(netns.folder.path()), &receipt()).unwrap();
    let path = receipts::path(netns.folder.path(), &"t".parse().unwrap());
    for (text, says) in [
        (whole[..whole.len() / 2].to_owned(), "is damaged"),
        (String::new(), "is damaged"),
        ("\u{0}\u{1}not json".to_owned(), "is damaged"),
        (
            whole.replace(&format(later - 1), &format(later)),
            &format!("written by a later lvsprov: it has format {later}"),
        ),
        (whole.replace("\"topology\":\"t\"", "\"topology\":\"other\""), "other"),
        (whole.replace("\"since\":7", "\"since\":7,\"more\":1"), "is damaged"),
    ] {
        fs::write(&path, &text).unwrap();
        let failure = refused(netns.ask(look()));
        assert!(failure.message.contains(says), "{text}: {failure}");
        assert!(failure.message.contains(path.to_str().unwrap()), "{failure}");
        assert!(failure.cure.is_some());
        refused(netns.ask(act()));
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "it was overwritten");
        assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
    }
}

fn a_symbolic_link_in_the_place_is_refused() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("passwd");
    fs::write(&target, "precious").unwrap();
    let check = |netns: &NetnsHost, state_dir: &Path| {
        for request in [look(), act()] {
            let failure = refused(netns.run(|| ask_here(state_dir, request)));
            assert!(failure.message.contains("is a symbolic link"), "{failure}");
        }
        assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    };

    let netns = NetnsHost::new();
    fs::create_dir(netns.folder.path().join("t")).unwrap();
    symlink(&target, netns.folder.path().join("t/receipt.json")).unwrap();
    check(&netns, netns.folder.path());

    let netns = NetnsHost::new();
    symlink(elsewhere.path(), netns.folder.path().join("t")).unwrap();
    check(&netns, netns.folder.path());

    let netns = NetnsHost::new();
    let link = netns.folder.path().join("state");
    symlink(elsewhere.path(), &link).unwrap();
    check(&netns, &link);

    // A temporary file that was prepared is replaced, not followed.
    let netns = NetnsHost::new();
    fs::create_dir(netns.folder.path().join("t")).unwrap();
    symlink(&target, netns.folder.path().join("t/.receipt.json.new")).unwrap();
    receipts::write(&Disk::new(netns.folder.path()), &receipt()).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

fn a_receipt_that_others_can_write_is_not_trusted() {
    let netns = NetnsHost::new();
    receipts::write(&Disk::new(netns.folder.path()), &receipt()).unwrap();
    let folder = netns.folder.path().join("t");
    for (path, mode) in [(folder.join("receipt.json"), 0o666), (folder, 0o777)] {
        let was = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let failure = refused(netns.ask(look()));
        assert!(failure.message.contains("can be written by others"), "{failure}");
        fs::set_permissions(&path, was).unwrap();
    }
    assert_eq!(netns.look(&[]).receipt, Some(receipt()));
}

/// Runs `work` with a file system of its own over the netns's folder.
pub fn with_file_system<T: Send>(
    netns: &NetnsHost,
    options: &str,
    work: impl FnOnce(&Path) -> T + Send,
) -> T {
    netns.run(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        run(Command::new("mount").args(["--make-rprivate", "/"]));
        let path = netns.folder.path();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path));
        work(path)
    })
}

fn on_a_full_disk_nothing_is_touched() {
    let netns = NetnsHost::new();
    let failure = with_file_system(&netns, "size=64k,mode=700", |path| {
        let _ = fs::write(path.join("ballast"), vec![0; 1 << 20]);
        let reply = ask_here(path, act());
        assert!(!path.join("t").exists(), "a half receipt is left");
        refused(reply)
    });
    assert!(failure.to_string().contains("No space left"), "{failure}");
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
}

fn with_no_room_for_the_receipt_of_the_end_nothing_is_touched() {
    let netns = NetnsHost::new();
    let mut wish = begin_step();
    let large = wish.receipt_after.as_mut().unwrap();
    for number in 0..20_000_u32 {
        let service = format!("fwmark4 {}", number + 1).parse().unwrap();
        large.owned.insert(lvsprov::state::Item::Service(service));
    }
    with_file_system(&netns, "size=128k,mode=700", |path| {
        let failure = refused(ask_here(path, Request::Prepare(Box::new(wish))));
        assert!(failure.to_string().contains("No space left"), "{failure}");
        assert!(!path.join("t").exists(), "a half receipt is left");
    });
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
}

fn on_a_read_only_file_system_nothing_is_touched() {
    let netns = NetnsHost::new();
    let failure = with_file_system(&netns, "mode=700", |path| {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(path));
        refused(ask_here(path, act()))
    });
    assert!(failure.to_string().contains("Read-only file system"), "{failure}");
    assert!(failure.cure.unwrap().contains("writable"));
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
}

fn only_one_acts_at_a_time() {
    let netns = NetnsHost::new();
    let held = lock::take(&Disk::new(netns.folder.path())).unwrap();
    let Reply::Busy(busy) = netns.ask(act()) else { panic!("not busy") };
    assert_eq!((busy.topology.as_str(), busy.transaction, busy.holder), ("t", None, None));
    let who = format!("process {}, for ", std::process::id());
    let failure = lock::take(&Disk::new(netns.folder.path())).unwrap_err().to_failure();
    assert!(failure.message.contains(&who), "{failure}");
    assert!(failure.cure.unwrap().contains("plan again"));
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
    // Looking needs no lock.
    netns.look(&[]);
    drop(held);
    netns.do_all(vec![step()]);
}

fn a_receipt_of_another_topology_is_refused() {
    let netns = NetnsHost::new();
    let mut wish = begin_step();
    wish.receipt.topology = "other".parse().unwrap();
    let failure = refused(netns.ask(Request::Prepare(Box::new(wish))));
    assert!(failure.message.contains("the receipt of other"), "{failure}");
    assert_eq!(netns.sysctl("conf/lo/arp_ignore"), "0");
}

/// What another topology has decides what is left to it and what was found: a plan that saw it otherwise is
/// made anew.
fn what_another_topology_has_is_still_so_or_nothing_is_begun() {
    let netns = NetnsHost::new();
    let mut theirs = receipt();
    theirs.topology = "u".parse().unwrap();
    theirs.owned = [step().item()].into();
    let mut counted_on = begin_step();
    counted_on.expected.owners = [(theirs.topology.clone(), theirs.owned.clone())].into();
    let counted_on = Request::Prepare(Box::new(counted_on));
    let moved = |request| {
        let Reply::Changed(differences) = netns.ask(request) else { panic!("not moved") };
        assert_eq!(differences, ["what the topology u has in common with this one here"]);
    };
    moved(counted_on.clone());
    receipts::write(&Disk::new(netns.folder.path()), &theirs).unwrap();
    moved(act());
    assert_eq!(netns.ask(counted_on), Reply::Prepared);
}
