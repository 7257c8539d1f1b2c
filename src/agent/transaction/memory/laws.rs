//! One host that crashes at every write of a transaction, in every way: killed before or in the middle of
//! the write, or without power, with each choice of the writes that were not synced.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};

mod boot;
mod daemon;

use super::disk::Kept;
use super::*;
use crate::plan::other_topologies;
use crate::protocol::{Decision, Prepare, Reply, Request, RevertAfter};
use crate::state::{
    ConfDev, ConfItem, Edit, Expected, HostState, Intent, Item, JOURNAL_VERSION, Journal, Operator,
    Owned, RECEIPT_VERSION, Receipt, Settled, SettledDigest, Stage, Sysctl, TransactionId,
};

fn topology() -> TopologyName {
    "t".parse().unwrap()
}

fn operator() -> Operator {
    Operator { user: "ann".to_owned(), host: "desk".to_owned(), pid: 7 }
}

fn sysctl(item: ConfItem) -> Sysctl {
    Sysctl::Conf(ConfDev::All, item)
}

fn set(item: ConfItem, before: &str, after: &str) -> Step {
    let (before, after) = (before.to_owned(), after.to_owned());
    Step { edit: Edit::change::<Sysctl>(sysctl(item), before, after), why: String::new() }
}

fn boot() -> KernelState {
    let values =
        [ConfItem::ArpIgnore, ConfItem::ArpAnnounce].map(|item| (sysctl(item), "0".into()));
    KernelState {
        state: HostState { sysctls: values.into(), ..HostState::default() },
        ..KernelState::default()
    }
}

/// What is done on the host, one after the other.
#[derive(Debug, Clone)]
enum Act {
    /// A transaction over two hosts; `keeps`: it has a receipt after the commit.
    Prepare {
        number: u64,
        steps: Vec<Step>,
        keeps: bool,
    },
    Execute {
        number: u64,
        steps: Vec<Step>,
    },
    Vote(u64),
    Close(u64, Decision),
    /// The connection ends, and another resumes the transaction.
    Resume(u64),
    /// The connection ends.
    HangUp,
    /// The time of the revert timer is over.
    TimeIsOver,
}

/// Where a transaction is, as far as a reply promised it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Promise {
    Untouched,
    Open,
    Voted,
    Closed(Decision),
}

struct Script {
    name: &'static str,
    setup: Vec<Act>,
    acts: Vec<Act>,
    /// The transaction of `acts`.
    number: u64,
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn scripts() -> Vec<Script> {
    use Decision::{Abort, Commit};
    let there = vec![set(ConfItem::ArpIgnore, "0", "1")];
    let back = vec![set(ConfItem::ArpIgnore, "1", "0")];
    let more = vec![set(ConfItem::ArpAnnounce, "0", "2")];
    let prepare =
        |number, steps: &Vec<Step>, keeps| Act::Prepare { number, steps: steps.clone(), keeps };
    let execute = |number, steps: &Vec<Step>| Act::Execute { number, steps: steps.clone() };
    let first = vec![
        prepare(1, &there, true),
        execute(1, &there),
        Act::Vote(1),
        Act::Close(1, Commit),
        Act::HangUp,
    ];
    let open = vec![prepare(1, &there, true), execute(1, &there), Act::HangUp];
    let script = |name, setup: &[Act], number, acts: &[Act]| Script {
        name,
        setup: setup.to_vec(),
        acts: acts.to_vec(),
        number,
    };
    vec![
        script("a first apply", &[], 1, &first),
        script(
            "an abort",
            &[],
            1,
            &[
                prepare(1, &there, true),
                execute(1, &there),
                execute(1, &back),
                Act::Close(1, Abort),
            ],
        ),
        script(
            "a second apply",
            &first,
            2,
            &[prepare(2, &more, true), execute(2, &more), Act::Vote(2), Act::Close(2, Commit)],
        ),
        script(
            "an abort of a second apply",
            &first,
            2,
            &[prepare(2, &more, true), Act::Close(2, Abort)],
        ),
        script(
            "a destroy",
            &first,
            2,
            &[prepare(2, &back, false), execute(2, &back), Act::Vote(2), Act::Close(2, Commit)],
        ),
        script(
            "a daemon that starts",
            &first,
            2,
            &[
                prepare(2, &daemon::starts(), true),
                execute(2, &daemon::starts()),
                Act::Vote(2),
                Act::Close(2, Commit),
            ],
        ),
        script(
            "a transaction that takes over",
            &open,
            2,
            &[prepare(2, &more, true), execute(2, &more), Act::Vote(2), Act::Close(2, Commit)],
        ),
        script(
            "an abort of one that took over",
            &open,
            2,
            &[prepare(2, &more, true), Act::Close(2, Abort)],
        ),
        script(
            "an abort after the vote",
            &[],
            1,
            &[
                prepare(1, &there, true),
                execute(1, &there),
                Act::Vote(1),
                Act::Resume(1),
                execute(1, &back),
                Act::Close(1, Abort),
            ],
        ),
        script(
            "a commit by another connection",
            &[],
            1,
            &[
                prepare(1, &there, true),
                execute(1, &there),
                Act::Vote(1),
                Act::Resume(1),
                Act::Close(1, Commit),
            ],
        ),
        script(
            "a time that is over",
            &[],
            1,
            &[prepare(1, &there, true), execute(1, &there), Act::TimeIsOver],
        ),
        script(
            "a time that is over after an apply",
            &first,
            2,
            &[prepare(2, &more, true), execute(2, &more), Act::TimeIsOver],
        ),
    ]
}

/// The host, and the connection to it.
struct Bench {
    host: MemoryHost,
    crash: Arc<Mutex<CrashPoint>>,
    connection: Option<(MemoryProcess, Agent)>,
}

impl Bench {
    fn new() -> Self {
        Self::on(MemoryHost::new(boot(), Arc::default()))
    }

    fn on(host: MemoryHost) -> Self {
        let crash = host.crash_point();
        Self { host, crash, connection: None }
    }

    fn ask(&mut self, request: Request) -> Option<Reply> {
        let (process, agent) = self.connection.get_or_insert_with(|| {
            let process = self.host.start();
            let agent = process.agent();
            (process, agent)
        });
        let reply = agent.answer(request).now_or_never().unwrap();
        (!process.is_dead()).then_some(reply)
    }

    fn hang_up(&mut self) {
        if let Some((process, _)) = self.connection.take() {
            process.end();
        }
    }

    fn observe(&mut self) -> Option<Observation> {
        let sysctls = boot().state.sysctls.into_keys().collect();
        match self.ask(Request::Observe { topology: topology(), sysctls, counters: false })? {
            Reply::Observed(observation) => Some(*observation),
            other => panic!("{other:?}"),
        }
    }

    /// `None`: the host crashed.
    fn act(&mut self, act: &Act) -> Option<Reply> {
        let topology = topology();
        let sysctls = BTreeSet::new();
        let request = match act {
            Act::Prepare { number, steps, keeps } => {
                let observation = self.observe()?;
                Request::Prepare(Box::new(request(*number, steps, *keeps, &observation)))
            }
            Act::Execute { number, steps } => {
                let (transaction, steps) = (TransactionId::from_bits(*number), steps.clone());
                Request::Execute { topology, transaction, steps, sysctls }
            }
            Act::Vote(number) => {
                Request::Vote { topology, transaction: TransactionId::from_bits(*number) }
            }
            Act::Close(number, decision) => {
                let transaction = TransactionId::from_bits(*number);
                Request::Close { topology, transaction, decision: *decision }
            }
            Act::Resume(number) => {
                self.hang_up();
                let transaction = TransactionId::from_bits(*number);
                let by = operator();
                Request::Resume { topology, transaction, by, idle_limit_s: 60, force: false }
            }
            Act::HangUp => {
                self.hang_up();
                return Some(Reply::Closed);
            }
            Act::TimeIsOver => {
                self.hang_up();
                for (at, part, pid) in self.host.due() {
                    let _ = self.host.revert(at, part, pid);
                }
                let happened = self.crash.lock().unwrap().happened;
                return (!happened).then_some(Reply::Closed);
            }
        };
        self.ask(request)
    }

    /// What must succeed.
    fn must(&mut self, act: &Act, what: &str) {
        let reply = self.act(act);
        let fine = match &reply {
            Some(Reply::Executed(execution)) => execution.failure.is_none(),
            Some(Reply::Prepared | Reply::Voted | Reply::Closed) => true,
            _ => false,
        };
        assert!(fine, "{what}: {act:?}: {reply:?}");
    }

    fn view(&self) -> HostView {
        self.host.view(&topology())
    }
}

/// What a plan of `steps` asks for.
fn request(number: u64, steps: &[Step], keeps: bool, observation: &Observation) -> Prepare {
    let items: Owned = steps.iter().map(|step| step.edit.item()).collect();
    let open = observation.open_transaction.as_deref();
    let mut touched = items.clone();
    let mut before = observation.state.restricted_to(&items);
    let old = open.filter(|open| !open.restarted).map(|open| &open.journal);
    for item in old.into_iter().flat_map(|old| &old.touched) {
        touched.insert(item.clone());
        before.copy_item(item, &old.unwrap().before);
    }
    let receipt = observation.receipt.clone().unwrap_or_else(|| Receipt {
        version: RECEIPT_VERSION,
        topology: topology(),
        since: number,
        owned: Owned::new(),
        found: HostState::default(),
        run: observation.run.clone(),
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    });
    let receipt = Receipt {
        owned: receipt.owned.union(&items).cloned().collect(),
        found: [ConfItem::ArpIgnore, ConfItem::ArpAnnounce].into_iter().fold(
            receipt.found,
            |mut found, item| {
                found.copy_item(&Item::Sysctl(sysctl(item)), &boot().state);
                found
            },
        ),
        ..receipt
    };
    let settled = keeps.then(|| settled(&receipt.owned, steps, observation));
    let digest = settled.as_ref().map(|settled| SettledDigest::of(&settled.text().unwrap()));
    let here = observation.receipt.as_ref().and_then(|receipt| receipt.settled.clone());
    let settled = settled.filter(|_| digest != here);
    let receipt_after =
        keeps.then(|| Receipt { since: 100 + number, settled: digest, ..receipt.clone() });
    let before_it = open.map_or(observation.receipt.clone(), |open| open.receipt_before.clone());
    Prepare {
        expected: Expected {
            receipt: observation.receipt.clone(),
            open_transaction: open.map(|open| open.journal.transaction.clone()),
            state: observation.state.restricted_to(&items),
            owners: other_topologies::owners(&receipt, receipt_after.as_ref(), observation),
            items,
        },
        journal: Journal {
            version: JOURNAL_VERSION,
            topology: topology(),
            transaction: TransactionId::from_bits(number),
            intent: if keeps { Intent::Apply } else { Intent::Destroy },
            by: operator(),
            since: 0,
            hosts: ["a", "b"].map(|name| name.parse().unwrap()).into(),
            stages: vec![(Stage::Ready, steps.to_vec())],
            touched,
            before,
        },
        receipt_before: before_it,
        receipt,
        receipt_after,
        settled,
        revert: Some(RevertAfter { withdraw_ms: None, build_ms: 60_000 }),
        idle_limit_s: 600,
        sysctls: BTreeSet::new(),
    }
}

/// What the host makes again after the commit: all that the receipt owns, as the steps leave it.
fn settled(owned: &Owned, steps: &[Step], observation: &Observation) -> Settled {
    let after = simulate(&observation.state, steps.iter().map(|step| &step.edit)).unwrap();
    Settled {
        version: RECEIPT_VERSION,
        topology: topology(),
        state: after.restricted_to(owned),
        accepted: BTreeMap::new(),
        exclusive: false,
        external: BTreeSet::new(),
        needs: BTreeMap::new(),
    }
}

/// What holds after each act of a script.
fn promised(before: &Promise, act: &Act) -> Promise {
    match act {
        Act::Prepare { .. } | Act::Execute { .. } => Promise::Open,
        Act::Vote(_) => Promise::Voted,
        Act::Close(_, decision) => Promise::Closed(*decision),
        Act::TimeIsOver => Promise::Closed(Decision::Abort),
        Act::Resume(_) | Act::HangUp => before.clone(),
    }
}

/// The receipts between which a transaction leads.
struct Ends {
    start: HostView,
    before: Option<Receipt>,
    committed: Option<Receipt>,
}

impl Ends {
    fn holds(&self, view: &HostView, promise: &Promise, id: &TransactionId) -> bool {
        let HostView { observation, open } = view;
        let open_as = |voted| {
            open.as_ref().is_some_and(|open| {
                open.journal.transaction == *id
                    && open.voted == voted
                    && open.receipt_before == self.before
            })
        };
        match promise {
            Promise::Untouched => {
                let id = |open: &Option<OpenTransaction>| {
                    open.as_ref().map(|open| open.journal.transaction.clone())
                };
                id(open) == id(&self.start.open)
                    && observation.receipt == self.start.observation.receipt
            }
            Promise::Open => open_as(false),
            Promise::Voted => open_as(true),
            Promise::Closed(Decision::Commit) => {
                open.is_none() && observation.receipt == self.committed
            }
            Promise::Closed(Decision::Abort) => {
                open.is_none() && observation.receipt == self.before
            }
        }
    }
}

/// A host on which `script` starts, and the receipts at its ends.
fn start(script: &Script) -> (Bench, Ends) {
    let fresh = || {
        let mut bench = Bench::new();
        for act in &script.setup {
            bench.must(act, script.name);
        }
        // A timer of the setup ended long ago.
        for (_, _, pid) in bench.host.due() {
            bench.host.lock().alive.remove(&pid);
        }
        bench.host.lock().timers.clear();
        bench
    };
    let mut clean = fresh();
    let start = clean.view();
    let mut wish = clean.observe().unwrap();
    wish.reverted = None;
    let Act::Prepare { number, steps, keeps } = &script.acts[0] else { panic!("no preparation") };
    let Prepare { receipt_before, receipt_after, .. } = request(*number, steps, *keeps, &wish);
    (fresh(), Ends { start, before: receipt_before, committed: receipt_after })
}

/// How a run went: how many writes it has; what was promised before and by the act that was cut off.
struct Run {
    bench: Bench,
    writes: usize,
    promises: Option<(Promise, Promise)>,
}

fn run(script: &Script, at: Option<(usize, Crash)>) -> (Run, Ends) {
    let (mut bench, ends) = start(script);
    *bench.crash.lock().unwrap() = CrashPoint { at, ..CrashPoint::default() };
    let mut promise = Promise::Untouched;
    for act in &script.acts {
        let next = promised(&promise, act);
        let done = bench.act(act).is_some();
        let CrashPoint { writes, happened, .. } = bench.crash.lock().unwrap().clone();
        if happened {
            return (Run { bench, writes, promises: Some((promise, next)) }, ends);
        }
        assert!(done, "{}: {act:?}", script.name);
        promise = next;
    }
    let writes = bench.crash.lock().unwrap().writes;
    (Run { bench, writes, promises: None }, ends)
}

/// Every choice of so many writes that were not synced, where they are few; else the likely ones.
fn choices(unsynced: usize) -> Vec<Kept> {
    let mut all = vec![Kept::Nothing, Kept::All];
    if unsynced <= 7 {
        all.extend((0..1 << unsynced).map(Kept::Names));
    } else {
        let whole = u64::MAX;
        let each = (0..unsynced.min(63)).flat_map(|n| [1 << n, whole ^ (1 << n), (1 << n) - 1]);
        all.extend(each.map(Kept::Names));
    }
    all
}

/// Nothing is lost that a reply promised, nothing is half, and the same way on as ever leads out of it.
fn holds(script: &Script, run: Run, ends: &Ends, what: &str) {
    let Run { mut bench, promises, .. } = run;
    let (before, next) = promises.unwrap();
    let id = TransactionId::from_bits(script.number);
    bench.hang_up();
    *bench.crash.lock().unwrap() = CrashPoint::default();
    let view = bench.view();
    assert!(
        ends.holds(&view, &before, &id) || ends.holds(&view, &next, &id),
        "{what}: neither {before:?} nor {next:?}: {view:#?}"
    );
    // Without a journal nothing may be changed.
    let state = &view.observation.state;
    if view.open.is_none() && before == Promise::Untouched {
        let start = &ends.start.observation.state;
        assert!(state == start || *state == boot().state, "{what}: {state:?}");
    }
    if let Some(open) = &view.open {
        let number = u64::from_str_radix(open.journal.transaction.as_str(), 16).unwrap();
        bench.must(&Act::Resume(number), what);
        if open.voted {
            bench.must(&Act::Close(number, Decision::Commit), what);
            assert_eq!(bench.view().observation.receipt, ends.committed, "{what}");
        } else {
            bench.must(&Act::Close(number, Decision::Abort), what);
            assert_eq!(bench.view().observation.receipt, open.receipt_before, "{what}");
        }
        bench.hang_up();
    }
    // The next transaction finds its way, and sweeps what was left.
    let receipt = bench.view().observation.receipt;
    bench.must(&Act::Prepare { number: 9, steps: Vec::new(), keeps: true }, what);
    bench.must(&Act::Close(9, Decision::Abort), what);
    let view = bench.view();
    assert!(view.open.is_none() && view.observation.receipt == receipt, "{what}: {view:#?}");
    let process = bench.host.start();
    let store = MemoryStore::new(&process);
    let left = super::super::store::Store::entries(&store, Path::new("/state/t"));
    let names: Vec<_> = left.unwrap_or_default();
    let settles = receipt.as_ref().is_some_and(|receipt| receipt.settled.is_some());
    let is_kept = |name: &OsString| *name == "receipt.json" || *name == "settled.json" && settles;
    let rest: Vec<_> = names.iter().filter(|name| !is_kept(name)).collect();
    assert!(rest.iter().all(|name| **name == "reverted.json"), "{what}: {rest:?} is left");
}

#[test]
fn a_crash_at_any_write_loses_no_promise_and_leaves_nothing_half() {
    let mut tried = 0;
    for script in scripts() {
        let (clean, _) = run(&script, None);
        assert!(clean.writes > 20, "{}: {} writes", script.name, clean.writes);
        for at in 0..clean.writes {
            // Choices that leave the same files are one.
            let mut seen = BTreeSet::new();
            for crash in [Crash::Process, Crash::HalfWay] {
                let what = format!("{}, write {at}, {crash:?}", script.name);
                let (run, ends) = run(&script, Some((at, crash)));
                let host = run.bench.host.copy(Arc::default());
                let promises = run.promises.clone().unwrap();
                if !seen.insert((false, host.files())) {
                    continue;
                }
                holds(&script, run, &ends, &what);
                tried += 1;
                for kept in choices(host.unsynced()) {
                    let host = host.copy(Arc::default());
                    host.lose_power(&kept);
                    if seen.insert((true, host.files())) {
                        let bench = Bench::on(host);
                        let run = Run { bench, writes: 0, promises: Some(promises.clone()) };
                        holds(&script, run, &ends, &format!("{what}, then {kept:?}"));
                        tried += 1;
                    }
                }
            }
        }
    }
    println!("{tried} crashes were tried");
    assert!(tried > 2000, "only {tried} crashes were tried");
}

/// Power that fails long after the last write: no later write has flushed it.
#[test]
fn a_closed_transaction_stays_closed_when_the_power_fails_later() {
    for script in scripts() {
        for kept in [Kept::Nothing, Kept::All] {
            let (Run { bench, .. }, ends) = run(&script, None);
            bench.host.lose_power(&kept);
            let last = script.acts.iter().fold(Promise::Untouched, |p, act| promised(&p, act));
            let id = TransactionId::from_bits(script.number);
            let view = bench.view();
            assert!(ends.holds(&view, &last, &id), "{}, {kept:?}: {view:#?}", script.name);
        }
    }
}
