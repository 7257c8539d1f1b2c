//! Law 9: after a restart at any moment a host comes to its settled state, or to nothing of ours; never to a part.
//!
//! The power fails at every write of a transaction, with each choice of the writes that were not synced; the host comes
//! up with other values than before, and makes its settled state again. The power may fail at each write of that too.

use super::super::super::boot::{BootEnd, BootReport, boot as make_again};
use super::super::super::settled;
use super::super::store::MemoryStore;
use super::*;
use crate::plan::boot::ReplayScope;
use crate::plan::ownership::Goal;

/// How the kernel comes up after the restart: an operator has changed a file below /etc/sysctl.d meanwhile.
fn another_boot() -> KernelState {
    let mut state = boot();
    state.state.sysctls.insert(sysctl(ConfItem::ArpAnnounce), "1".to_owned());
    state
}

/// The host makes its settled state again; `None`: it crashed.
fn come_up(host: &MemoryHost) -> Option<Vec<BootReport>> {
    let process = host.start();
    let store = MemoryStore::new(&process);
    let reports = make_again(&store, &process, ReplayScope::All).now_or_never().unwrap();
    let reports = (!process.is_dead()).then(|| reports.unwrap());
    process.end();
    reports
}

/// What a promise allows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum AllowedEnd {
    /// The settled state of this digest; `None`: nothing is ours.
    Settled(Option<SettledDigest>),
    /// Nothing is made again, as this host cannot know.
    InDoubt,
}

fn allowed(ends: &Ends, promises: &(Promise, Promise)) -> Vec<AllowedEnd> {
    let digest = |receipt: &Option<Receipt>| receipt.as_ref().and_then(|r| r.settled.clone());
    let of = |promise: &Promise| match promise {
        // What was open at the start was not voted for either.
        Promise::Untouched | Promise::Open | Promise::Closed(Decision::Abort) => {
            AllowedEnd::Settled(digest(&ends.before))
        }
        Promise::Voted => AllowedEnd::InDoubt,
        Promise::Closed(Decision::Commit) => AllowedEnd::Settled(digest(&ends.committed)),
    };
    vec![of(&promises.0), of(&promises.1)]
}

fn is_settled_or_bare(host: &MemoryHost, allowed: &[AllowedEnd], what: &str) {
    let reports = come_up(host).unwrap_or_else(|| panic!("{what}: it crashed"));
    let bare = another_boot().state;
    let HostView { observation, open } = host.view(&topology());
    if let Some(open) = open {
        assert!(open.voted && allowed.contains(&AllowedEnd::InDoubt), "{what}: {open:#?}");
        assert_eq!(observation.state, bare, "{what}: in doubt");
        let id = open.journal.transaction;
        assert_eq!(reports[0].end, BootEnd::InDoubt(id), "{what}");
        return;
    }
    let digest = observation.receipt.as_ref().and_then(|receipt| receipt.settled.clone());
    assert!(allowed.contains(&AllowedEnd::Settled(digest)), "{what}: {:#?}", observation.receipt);
    let Some(receipt) = observation.receipt.clone() else {
        assert_eq!(observation.state, bare, "{what}: nothing is ours");
        assert!(!host.has_boot_unit(), "{what}: the unit is left");
        return;
    };
    assert!(host.has_boot_unit(), "{what}: no unit started this");
    let process = host.start();
    let settled = settled::read(&MemoryStore::new(&process), &receipt).unwrap().unwrap();
    let mut expected = bare.clone();
    for item in &receipt.owned {
        expected.copy_item(item, &settled.state);
    }
    assert_eq!(observation.state, expected, "{what}");
    assert_eq!(receipt.run, Some(process.run().unwrap()), "{what}");
    process.end();
    // Destroy puts back what the host came up with.
    let seen = Observation { run: receipt.run.clone(), ..observation };
    let goal = Goal::destroy(&seen).unwrap();
    assert_eq!(
        goal.wanted.restricted_to(&receipt.owned),
        bare.restricted_to(&receipt.owned),
        "{what}"
    );
    // Once more, as when the network is restarted: nothing to do, nothing is written.
    let files = host.files();
    let again = come_up(host).unwrap();
    assert_eq!(again[0].end, BootEnd::Settled { steps: 0 }, "{what}");
    assert_eq!(host.files(), files, "{what}");
}

/// The power fails at each write of coming up.
fn and_crashes_while_it_comes_up(host: &MemoryHost, allowed: &[AllowedEnd], what: &str) -> usize {
    for at in 0.. {
        for kept in [Kept::Nothing, Kept::All] {
            let crash =
                CrashPoint { at: Some((at, Crash::Power(kept.clone()))), ..CrashPoint::default() };
            let host = host.copy(Arc::new(Mutex::new(crash)));
            if come_up(&host).is_some() {
                return at;
            }
            *host.crash_point().lock().unwrap() = CrashPoint::default();
            is_settled_or_bare(&host, allowed, &format!("{what}, then write {at}, {kept:?}"));
        }
    }
    unreachable!()
}

#[test]
fn law_9_after_a_power_cut_at_any_write_the_host_is_settled_or_bare() {
    let (mut tried, mut again) = (0, 0);
    for script in scripts() {
        let (clean, _) = run(&script, None);
        // Choices that leave the same files are one.
        let mut seen = BTreeSet::new();
        for at in 0..=clean.writes {
            for crash in [Crash::Process, Crash::HalfWay] {
                let what = format!("{}, write {at}, {crash:?}", script.name);
                let (run, ends) = run(&script, Some((at, crash.clone())));
                let last = script.acts.iter().fold(Promise::Untouched, |p, act| promised(&p, act));
                let promises = run.promises.clone().unwrap_or((last.clone(), last));
                let allowed = allowed(&ends, &promises);
                let host = run.bench.host.copy(Arc::default());
                host.set_boot(another_boot());
                for kept in choices(host.unsynced()) {
                    let host = host.copy(Arc::default());
                    host.lose_power(&kept);
                    if !seen.insert((format!("{promises:?}"), host.files())) {
                        continue;
                    }
                    let what = format!("{what}, {kept:?}");
                    if kept == Kept::Nothing && crash == Crash::Process {
                        again += and_crashes_while_it_comes_up(&host, &allowed, &what);
                    }
                    is_settled_or_bare(&host, &allowed, &what);
                    tried += 1;
                }
            }
        }
    }
    println!("{tried} power cuts were tried, and {again} while the host came up");
    assert!(tried > 1000 && again > 500, "only {tried} and {again} were tried");
}

/// A host with a committed transaction, restarted.
fn restarted() -> MemoryHost {
    let script = &scripts()[0];
    let (run, _) = run(script, None);
    run.bench.host.set_boot(another_boot());
    run.bench.host.lose_power(&Kept::All);
    run.bench.host
}

#[test]
fn a_step_that_fails_leaves_nothing_and_the_next_attempt_makes_all() {
    let host = restarted();
    host.set_step_fault(Some(StepFault::Refused(0)));
    let process = host.start();
    let store = MemoryStore::new(&process);
    let failed = make_again(&store, &process, ReplayScope::All).now_or_never().unwrap();
    let BootEnd::Failed(failure) = &failed.unwrap()[0].end else { panic!("it did not fail") };
    assert!(failure.to_string().contains("step 1 of 1, "), "{failure}");
    assert_eq!(host.kernel().state, another_boot().state);
    host.set_step_fault(None);
    assert_eq!(come_up(&host).unwrap()[0].end, BootEnd::Settled { steps: 1 });
}

#[test]
fn a_settled_state_that_is_lost_is_named_and_the_next_transaction_writes_it() {
    let host = restarted();
    let process = host.start();
    let store = MemoryStore::new(&process);
    super::super::super::store::Store::remove(&store, Path::new("/state/t/settled.json")).unwrap();
    let failed = make_again(&store, &process, ReplayScope::All).now_or_never().unwrap();
    let BootEnd::Failed(failure) = &failed.unwrap()[0].end else { panic!("it did not fail") };
    assert!(failure.to_string().contains("settled.json is missing"), "{failure}");
    assert!(failure.cure.as_ref().unwrap().contains("lvsprov apply"));
    assert_eq!(host.kernel().state, another_boot().state);
    // A plan sees a receipt that names none.
    assert_eq!(host.view(&topology()).observation.receipt.unwrap().settled, None);
}
