//! Working at a transaction: begin it or take it up, do steps, agree, settle.
//!
//! Each request is carried out under the lock, and reads from the disk what it relies on: between two of
//! them another connection may have taken the transaction up, or the revert timer undone it. What this
//! process remembers ([`Held`]) only says which transaction is its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::error::{Error, Result};
use super::journal::{self, HolderRecord, Open, Phase, Timer};
use super::lock::{self, HeldBy, Lock};
use super::net::Net;
use super::opening::{self, Opening};
use super::process::{self, Process};
use super::{Host, act, fault, observe, revert};
use crate::plan::Step;
use crate::plan::journal::{JOURNAL_VERSION, Operator, TransactionId};
use crate::protocol::{Begin, Busy, Ending, Receipt, Reply, RevertAfter, Sighting};
use crate::state::{Item, Owned, Sysctl};
use crate::topology::TopologyName;

/// How long a request waits for one of somebody else that is carried out just now: of another topology,
/// which is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where nothing was begun yet, and the answer is that somebody is busy.
const BEGIN_PATIENCE: Duration = Duration::from_secs(2);

/// The transaction that this connection works at.
#[derive(Debug)]
pub(super) struct Held {
    topology: TopologyName,
    transaction: TransactionId,
    /// As in [`HolderRecord`].
    connection: String,
    idle_limit_s: u32,
    /// In which phase it was begun or taken up.
    taken_in: Phase,
    /// How it was settled by this connection.
    settled: Option<Ending>,
    /// The timer, if this process has started it.
    timer: Option<std::process::Child>,
}

impl Held {
    /// How long the connection may say nothing; `None`: for ever, it holds nothing any more.
    pub fn idle_limit(&self) -> Option<Duration> {
        let limit = Duration::from_secs(self.idle_limit_s.into());
        self.settled.is_none().then_some(limit)
    }
}

/// See [`crate::protocol::Request::Begin`].
pub(super) async fn begin(host: &mut Host, begin: &Begin) -> Result<Reply> {
    root()?;
    check(begin)?;
    let (state_dir, topology) = (host.state_dir.clone(), &begin.journal.topology);
    let _lock = match lock::wait(&state_dir, topology, BEGIN_PATIENCE).await? {
        Ok(lock) => lock,
        Err(held) => return Ok(busy_now(&state_dir, topology, held)),
    };
    let old = journal::read(&state_dir, topology)?;
    if let Some(busy) = old.as_ref().and_then(|old| busy(old, host.held.as_ref(), false)) {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let seen = observe::look(&state_dir, topology, &to_read(begin), false).await?;
    let differences = begin.expected.differences(&seen);
    if !differences.is_empty() {
        return Ok(Reply::Moved(differences));
    }
    if let Some(busy) = overlap(&state_dir, &begin.journal.touched, &seen)? {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    check_before(begin, old.as_ref(), seen.receipt.as_ref())?;
    fault::at("begin");

    let order = begin.revert.map(|after| due(begin, after));
    let armed =
        order.as_ref().map(|order| revert::arm(&host.program, &state_dir, order)).transpose()?;
    let timer = match (order, &armed) {
        (Some(revert::Order { withdraw_at_ms, build_at_ms, .. }), Some(armed)) => {
            Some(Timer { process: armed.process()?, withdraw_at_ms, build_at_ms })
        }
        _ => None,
    };
    let holder = holder(&begin.journal.by, begin.idle_limit_s)?;
    let receipt = seen.receipt.as_ref();
    let opening = Opening { begin, receipt, old: old.as_ref(), timer, holder: &holder };
    opening::prepare(&state_dir, &opening)?.commit()?;
    host.held = Some(Held {
        topology: topology.clone(),
        transaction: begin.journal.transaction.clone(),
        connection: holder.connection,
        idle_limit_s: begin.idle_limit_s,
        taken_in: Phase::Begun,
        settled: None,
        timer: armed.and_then(revert::Armed::release),
    });
    fault::at("begun");
    Ok(Reply::Begun)
}

/// See [`crate::protocol::Request::TakeUp`].
pub(super) async fn take_up(
    host: &mut Host,
    topology: TopologyName,
    transaction: TransactionId,
    by: &Operator,
    idle_limit_s: u32,
    force: bool,
) -> Result<Reply> {
    root()?;
    check_idle_limit(idle_limit_s)?;
    check_operator(by)?;
    let state_dir = host.state_dir.clone();
    let _lock = match lock::wait(&state_dir, &topology, BEGIN_PATIENCE).await? {
        Ok(lock) => lock,
        Err(held) => return Ok(busy_now(&state_dir, &topology, held)),
    };
    let open = there(&state_dir, &topology, &transaction)?;
    if let Some(busy) = busy(&open, host.held.as_ref(), true).filter(|_| !force) {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let holder = holder(by, idle_limit_s)?;
    journal::hold(&journal::folder(&state_dir, &topology, &transaction), &holder)?;
    let timer = host.held.take().and_then(|held| held.timer);
    host.held = Some(Held {
        topology,
        transaction,
        connection: holder.connection,
        idle_limit_s,
        taken_in: open.phase,
        settled: None,
        timer,
    });
    Ok(Reply::Begun)
}

/// See [`crate::protocol::Request::Do`].
pub(super) async fn carry_out(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
    steps: &[Step],
    sysctls: &BTreeSet<Sysctl>,
) -> Result<Reply> {
    let state_dir = host.state_dir.clone();
    let (_lock, open) = own(host, topology, transaction).await?;
    may_do(&open, held(host, topology, transaction)?.taken_in)?;
    if let Some(step) =
        steps.iter().find(|step| !open.journal.touched.contains(&step.change.item()))
    {
        return Err(Error::new(format!(
            "{}: this is no part of the transaction {transaction}: it could not be undone",
            step.change
        )));
    }
    let net = Net::open()?;
    if open.phase == Phase::Agreed {
        let folder = journal::folder(&state_dir, topology, transaction);
        journal::pass(&folder, Phase::Agreed, Phase::Begun)?;
        if let Some(held) = &mut host.held {
            held.taken_in = Phase::Begun;
        }
    }
    let (done, failed) = act::carry_out(&net, steps).await;
    let failure = failed.map(|error| error.to_failure());
    let outcome = act::look_again(&state_dir, topology, sysctls, done, failure).await;
    Ok(Reply::Done(Box::new(outcome)))
}

/// See [`crate::protocol::Request::Agree`].
pub(super) async fn agree(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<Reply> {
    let state_dir = host.state_dir.clone();
    let (_lock, open) = own(host, topology, transaction).await?;
    fault::at("agree");
    match open.phase {
        Phase::Begun => {
            let folder = journal::folder(&state_dir, topology, transaction);
            journal::pass(&folder, Phase::Begun, Phase::Agreed)?;
        }
        Phase::Agreed | Phase::Done => {}
        Phase::Reverting | Phase::Undone => return Err(reverted(transaction)),
    }
    if let Some(held) = &mut host.held {
        // From here on steps are done only by somebody who took it up knowing that it was agreed to.
        held.taken_in = Phase::Begun;
        disarm(open.begun.timer.as_ref(), held);
    }
    fault::at("agreed");
    Ok(Reply::Agreed)
}

/// See [`crate::protocol::Request::Settle`].
pub(super) async fn settle(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
    ending: Ending,
) -> Result<Reply> {
    if held(host, topology, transaction)?.settled == Some(ending) {
        return Ok(Reply::Settled);
    }
    let state_dir = host.state_dir.clone();
    let (_lock, open) = own(host, topology, transaction).await?;
    may_settle(&open, held(host, topology, transaction)?.taken_in, ending)?;
    journal::settle(&state_dir, &open, ending)?;
    if let Some(held) = &mut host.held {
        held.settled = Some(ending);
        disarm(open.begun.timer.as_ref(), held);
    }
    fault::at("closed");
    Ok(Reply::Settled)
}

/// The timer does nothing any more, whether it is ended or not: this only keeps it from lying about.
/// The lock is held, so it is not in the middle of anything.
fn disarm(timer: Option<&Timer>, held: &mut Held) {
    if let Some(timer) = timer {
        let _ = timer.process.end();
    }
    if let Some(mut child) = held.timer.take() {
        let _ = child.wait();
    }
}

/// Whether steps may be done in this phase by a connection that came to it in the phase `taken_in`.
fn may_do(open: &Open, taken_in: Phase) -> Result<()> {
    let id = &open.journal.transaction;
    match open.phase {
        Phase::Begun => Ok(()),
        // Both were seen by whoever took it up since: it is to be undone.
        Phase::Agreed | Phase::Reverting if open.phase == taken_in => Ok(()),
        Phase::Agreed => Err(Error::new(format!(
            "the transaction {id} is agreed to: nothing is changed in it any more"
        ))
        .cure("settle it; or, where another host has not agreed, take it up again to undo it")),
        Phase::Reverting => Err(reverted(id)),
        Phase::Done | Phase::Undone => Err(Error::new(format!(
            "the transaction {id} is being settled as {}: nothing is changed in it any more",
            open.phase.file()
        ))
        .cure("settle it")),
    }
}

fn may_settle(open: &Open, taken_in: Phase, ending: Ending) -> Result<()> {
    let id = &open.journal.transaction;
    match (open.phase, ending) {
        (Phase::Done | Phase::Agreed, Ending::Done)
        | (Phase::Undone | Phase::Begun | Phase::Reverting, Ending::Undone) => Ok(()),
        (Phase::Begun, Ending::Done) if open.journal.hosts.len() <= 1 => Ok(()),
        (Phase::Begun, Ending::Done) => Err(Error::new(format!(
            "the transaction {id} is not agreed to here, and {} hosts take part in it",
            open.journal.hosts.len()
        ))
        .cure("nobody settles before all have agreed: agree first")),
        (Phase::Agreed, Ending::Undone) if taken_in == Phase::Agreed => Ok(()),
        (Phase::Agreed, Ending::Undone) => Err(Error::new(format!(
            "the transaction {id} is agreed to: it was not undone"
        ))
        .cure(
            "settle it as done; or, where another host has not agreed, take it up again to undo it",
        )),
        (Phase::Done, Ending::Undone) => Err(Error::new(format!(
            "the transaction {id} is being settled as done: it cannot be undone any more"
        ))
        .cure("settle it as done")),
        (Phase::Reverting | Phase::Undone, Ending::Done) => Err(reverted(id)),
    }
}

fn reverted(transaction: &TransactionId) -> Error {
    Error::new(format!(
        "the transaction {transaction} was not confirmed in time: this host has begun to undo it"
    ))
    .cure("look at the host again: it goes back to what was there before the transaction")
}

/// What this connection works at, if it is that.
fn held<'a>(
    host: &'a Host,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<&'a Held> {
    host.held
        .as_ref()
        .filter(|held| held.topology == *topology && held.transaction == *transaction)
        .ok_or_else(|| {
            Error::new(format!(
                "this connection has neither begun nor taken up the transaction {transaction} of \
                 {topology}"
            ))
        })
}

/// The lock and the transaction as it lies on the disk, if it still is this connection's.
async fn own(
    host: &Host,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<(Lock, Open)> {
    let held = held(host, topology, transaction)?;
    let lock =
        lock::wait(&host.state_dir, topology, PATIENCE).await?.map_err(HeldBy::into_error)?;
    let open = there(&host.state_dir, topology, transaction)?;
    match &open.holder {
        Some(holder) if holder.connection == held.connection => {}
        Some(HolderRecord { by, process, .. }) => {
            return Err(Error::new(format!(
                "{by} has taken up the transaction {transaction} meanwhile (process {} on this host)",
                process.pid
            ))
            .cure("let them finish; lvsprov status says what came of it"));
        }
        None => {
            return Err(Error::new(format!(
                "who works at the transaction {transaction} cannot be read any more"
            ))
            .cure("take it up again"));
        }
    }
    Ok((lock, open))
}

fn there(state_dir: &Path, topology: &TopologyName, transaction: &TransactionId) -> Result<Open> {
    let gone = |what: String| {
        Error::new(format!(
            "the transaction {transaction} of {topology} is not here any more: {what}"
        ))
        .cure("look at the host again: it was settled, or undone by the host itself")
    };
    match journal::read(state_dir, topology)? {
        Some(open) if open.journal.transaction == *transaction => Ok(open),
        Some(open) => Err(gone(format!("{} is under way", open.journal.transaction))),
        None => Err(gone("nothing is under way".to_owned())),
    }
}

/// Who is in the way of beginning (or, with `only_holder`, of taking up) while `open` lies here.
fn busy(open: &Open, held: Option<&Held>, only_holder: bool) -> Option<Busy> {
    let mine = |holder: &HolderRecord| held.is_some_and(|h| h.connection == holder.connection);
    let others = open.living_holder().is_some_and(|holder| !mine(holder));
    let reverts_in_ms = open.reverts_in_ms();
    (others || (reverts_in_ms.is_some() && !only_holder)).then(|| Busy {
        topology: open.journal.topology.clone(),
        transaction: Some(open.journal.transaction.clone()),
        holder: open.holder(),
        reverts_in_ms,
    })
}

/// A request is being carried out: by whom, as far as that can be read.
fn busy_now(state_dir: &Path, topology: &TopologyName, held: HeldBy) -> Reply {
    let topology = held.topology.unwrap_or_else(|| topology.clone());
    let open = journal::read(state_dir, &topology).ok().flatten();
    Reply::Busy(Box::new(Busy {
        transaction: None,
        holder: open.as_ref().and_then(Open::holder),
        reverts_in_ms: open.as_ref().and_then(Open::reverts_in_ms),
        topology,
    }))
}

/// Another topology that may still put back what is to be touched.
fn overlap(state_dir: &Path, touched: &Owned, seen: &Sighting) -> Result<Option<Busy>> {
    let mut all = seen.unfinished_elsewhere.iter();
    let Some((topology, there)) = all.find(|(_, there)| !there.touched.is_disjoint(touched)) else {
        return Ok(None);
    };
    let open = journal::read(state_dir, topology)?;
    Ok(Some(Busy {
        topology: topology.clone(),
        transaction: Some(there.transaction.clone()),
        holder: open.as_ref().and_then(Open::holder),
        reverts_in_ms: open.as_ref().and_then(Open::reverts_in_ms),
    }))
}

fn holder(by: &Operator, idle_limit_s: u32) -> Result<HolderRecord> {
    Ok(HolderRecord {
        process: Process::own()?,
        connection: process::by_chance()?,
        by: by.clone(),
        from: observe::controller(),
        since_ms: process::boottime_ms(),
        idle_limit_s,
    })
}

/// When the timer is due, counted from now.
fn due(begin: &Begin, after: RevertAfter) -> revert::Order {
    let now = process::boottime_ms();
    let RevertAfter { withdraw_ms, build_ms } = after;
    revert::Order {
        topology: begin.journal.topology.clone(),
        transaction: begin.journal.transaction.clone(),
        withdraw_at_ms: withdraw_ms.map(|after| now.saturating_add(after.into())),
        build_at_ms: now.saturating_add(build_ms.into()),
    }
}

/// What must be read to compare the host with what the plan saw, and to undo later.
fn to_read(begin: &Begin) -> BTreeSet<Sysctl> {
    let named = begin.expected.items.iter().chain(&begin.journal.touched);
    let named = named.filter_map(|item| match item {
        Item::Sysctl(key) => Some(key.clone()),
        _ => None,
    });
    begin.sysctls.iter().cloned().chain(named).collect()
}

fn root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("changing a host needs root")
        .cure("log in as root, or give the user passwordless sudo"))
}

/// Whether what was asked for fits together.
fn check(begin: &Begin) -> Result<()> {
    let Begin {
        journal,
        expected,
        receipt_before,
        receipt,
        settled,
        revert,
        idle_limit_s,
        sysctls: _,
    } = begin;
    if journal.version != JOURNAL_VERSION {
        return Err(Error::new(format!(
            "a journal of format {} cannot be written: this lvsprov knows format {JOURNAL_VERSION}",
            journal.version
        )));
    }
    check_operator(&journal.by)?;
    check_idle_limit(*idle_limit_s)?;
    let receipts = [receipt_before.as_ref(), Some(receipt), settled.as_ref()];
    for named in receipts.into_iter().flatten() {
        if named.topology != journal.topology {
            return Err(Error::new(format!(
                "the receipt of {} was sent with a transaction of {}",
                named.topology, journal.topology
            )));
        }
    }
    if let Some(step) = journal.steps().find(|s| !journal.touched.contains(&s.change.item())) {
        return Err(Error::new(format!(
            "{}: the journal does not say what was there before: it could not be undone",
            step.change
        )));
    }
    if let Some(step) = journal.steps().find(|s| !expected.items.contains(&s.change.item())) {
        return Err(Error::new(format!(
            "{}: the plan does not say what it saw there: whether that is still so cannot be told",
            step.change
        )));
    }
    if let Some(RevertAfter { withdraw_ms, build_ms }) = revert {
        for after in withdraw_ms.iter().chain([build_ms]) {
            super::in_range("the time to revert in milliseconds", *after, 1000, 86_400_000)?;
        }
    }
    Ok(())
}

fn check_idle_limit(seconds: u32) -> Result<()> {
    super::in_range("the time of silence in seconds", seconds, 1, 86_400)
}

/// What is written in place must have its place.
fn check_operator(by: &Operator) -> Result<()> {
    let Operator { user, host, pid: _ } = by;
    if user.len() <= 256 && host.len() <= 256 {
        return Ok(());
    }
    Err(Error::new("the names of the user and of the controller have 256 bytes at most"))
}

/// What undoing puts back must be what is there: the receipt now, or the one before what is taken over.
fn check_before(begin: &Begin, old: Option<&Open>, there: Option<&Receipt>) -> Result<()> {
    let before = old.map_or(there, |old| old.receipt_before.as_ref());
    if begin.receipt_before.as_ref() == before {
        return Ok(());
    }
    Err(Error::new("the receipt to which undoing leads back is not the one on this host")
        .cure("this is a fault of lvsprov: please report it"))
}

impl Host {
    /// Notes that the controller was heard, or is answered, just now.
    pub(super) fn heard(&self) {
        if let Some(Held { topology, transaction, .. }) = &self.held {
            journal::heard(&journal::folder(&self.state_dir, topology, transaction));
        }
    }

    /// After how much silence of the controller the agent ends; `None`: never.
    pub fn idle_limit(&self) -> Option<Duration> {
        self.held.as_ref().and_then(Held::idle_limit)
    }
}
