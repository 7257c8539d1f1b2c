//! Working at a transaction: take it up, do steps, agree, settle. ([`super::prepare`] begins one.)
//!
//! Each request is carried out under the lock, and reads from the disk what it relies on: between two of
//! them another connection may have taken the transaction up, or the revert timer undone it. What this
//! process remembers ([`HeldTransaction`]) only says which transaction is its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::journal::{self, Transaction};
use super::lock::{self, HeldBy, Lock};
use super::phase::{Phase, may_close, may_execute, reverted};
use super::process::{self, Process};
use super::records::{self, HolderRecord, Timer};
use super::{Host, look};
use crate::kernel::error::{Error, Result};
use crate::kernel::net::Net;
use crate::kernel::{act, fault};
use crate::names::TopologyName;
use crate::protocol::{Busy, Decision, Reply};
use crate::state::{Journal, Operator, Step, Sysctl, TransactionId};

/// How long a request waits for one of somebody else that is carried out just now: of another topology,
/// which is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where nothing was begun yet, and the answer is that somebody is busy.
pub(super) const BEGIN_PATIENCE: Duration = Duration::from_secs(2);

/// The transaction that this connection works at.
#[derive(Debug)]
pub(super) struct HeldTransaction {
    topology: TopologyName,
    transaction: TransactionId,
    /// As in [`HolderRecord`].
    connection: String,
    idle_limit_s: u32,
    /// In which phase it was begun or taken up.
    entered: Phase,
    /// How it was settled by this connection.
    settled: Option<Decision>,
    /// The timer, if this process has started it.
    timer: Option<std::process::Child>,
}

impl HeldTransaction {
    /// A transaction that `holder` has begun or taken up when it was in the phase `entered`.
    pub fn new(
        journal: &Journal,
        holder: &HolderRecord,
        entered: Phase,
        timer: Option<std::process::Child>,
    ) -> Self {
        Self {
            topology: journal.topology.clone(),
            transaction: journal.transaction.clone(),
            connection: holder.connection.clone(),
            idle_limit_s: holder.idle_limit_s,
            entered,
            settled: None,
            timer,
        }
    }

    /// How long the connection may say nothing; `None`: for ever, it holds nothing any more.
    pub fn idle_limit(&self) -> Option<Duration> {
        let limit = Duration::from_secs(self.idle_limit_s.into());
        self.settled.is_none().then_some(limit)
    }
}

/// See [`crate::protocol::Request::Resume`].
pub(super) async fn resume(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
    by: &Operator,
    idle_limit_s: u32,
    force: bool,
) -> Result<Reply> {
    root()?;
    check_idle_limit(idle_limit_s)?;
    check_operator(by)?;
    let state_dir = host.state_dir.clone();
    let _lock = match lock::wait(&state_dir, topology, BEGIN_PATIENCE).await? {
        Ok(lock) => lock,
        Err(held) => return Ok(busy_now(&state_dir, topology, held)),
    };
    let open = there(&state_dir, topology, transaction)?;
    if let Some(busy) = busy(&open, host.held.as_ref(), true).filter(|_| !force) {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let holder = holder(by, idle_limit_s)?;
    records::hold(&journal::folder(&state_dir, topology, transaction), &holder)?;
    let timer = host.held.take().and_then(|held| held.timer);
    host.held = Some(HeldTransaction::new(&open.journal, &holder, open.phase, timer));
    Ok(Reply::Prepared)
}

/// See [`crate::protocol::Request::Execute`].
pub(super) async fn execute(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
    steps: &[Step],
    sysctls: &BTreeSet<Sysctl>,
) -> Result<Reply> {
    let state_dir = host.state_dir.clone();
    let (_lock, open) = own(host, topology, transaction).await?;
    let entered = held(host, topology, transaction)?.entered;
    may_execute(open.phase, entered, transaction)?;
    if let Some(step) =
        steps.iter().find(|step| !open.journal.touched.contains(&step.change.item()))
    {
        return Err(Error::new(format!(
            "{}: this is no part of the transaction {transaction}: it could not be undone",
            step.change
        )));
    }
    let net = Net::open()?;
    if open.phase == Phase::Voted {
        let folder = journal::folder(&state_dir, topology, transaction);
        journal::pass(&folder, Phase::Voted, Phase::Prepared)?;
        if let Some(held) = &mut host.held {
            held.entered = Phase::Prepared;
        }
    }
    let (done, failed) = act::carry_out(&net, steps).await;
    let failure = failed.map(|error| error.to_failure());
    let outcome = look::look_again(&state_dir, topology, sysctls, done, failure).await;
    Ok(Reply::Executed(Box::new(outcome)))
}

/// See [`crate::protocol::Request::Vote`].
pub(super) async fn vote(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<Reply> {
    let state_dir = host.state_dir.clone();
    let (_lock, open) = own(host, topology, transaction).await?;
    fault::at("vote");
    match open.phase {
        Phase::Prepared => {
            let folder = journal::folder(&state_dir, topology, transaction);
            journal::pass(&folder, Phase::Prepared, Phase::Voted)?;
        }
        Phase::Voted | Phase::Committing => {}
        Phase::Reverting | Phase::Aborting => return Err(reverted(transaction)),
    }
    if let Some(held) = &mut host.held {
        // From here on steps are done only by somebody who took it up knowing that it was agreed to.
        held.entered = Phase::Prepared;
        disarm(open.begun.timer.as_ref(), held);
    }
    fault::at("voted");
    Ok(Reply::Voted)
}

/// See [`crate::protocol::Request::Close`].
pub(super) async fn close(
    host: &mut Host,
    topology: &TopologyName,
    transaction: &TransactionId,
    decision: Decision,
) -> Result<Reply> {
    if held(host, topology, transaction)?.settled == Some(decision) {
        return Ok(Reply::Closed);
    }
    let state_dir = host.state_dir.clone();
    let (_lock, open) = own(host, topology, transaction).await?;
    let entered = held(host, topology, transaction)?.entered;
    may_close(open.phase, entered, decision, open.journal.hosts.len(), transaction)?;
    // Whoever closes it here was not the timer, which may have been killed just before it.
    records::forget_reverted(&state_dir.join(topology.as_str()));
    journal::settle(&state_dir, &open, decision)?;
    if let Some(held) = &mut host.held {
        held.settled = Some(decision);
        disarm(open.begun.timer.as_ref(), held);
    }
    fault::at("closed");
    Ok(Reply::Closed)
}

/// The timer does nothing any more, whether it is ended or not: this only keeps it from lying about.
/// The lock is held, so it is not in the middle of anything.
fn disarm(timer: Option<&Timer>, held: &mut HeldTransaction) {
    if let Some(timer) = timer {
        let _ = timer.process.end();
    }
    if let Some(mut child) = held.timer.take() {
        // Waiting for one that waits for the lock would never end. It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What this connection works at, if it is that.
fn held<'a>(
    host: &'a Host,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<&'a HeldTransaction> {
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
) -> Result<(Lock, Transaction)> {
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

fn there(
    state_dir: &Path,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<Transaction> {
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
pub(super) fn busy(
    open: &Transaction,
    held: Option<&HeldTransaction>,
    only_holder: bool,
) -> Option<Busy> {
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
pub(super) fn busy_now(state_dir: &Path, topology: &TopologyName, held: HeldBy) -> Reply {
    let topology = held.topology.unwrap_or_else(|| topology.clone());
    let open = journal::read(state_dir, &topology).ok().flatten();
    Reply::Busy(Box::new(Busy {
        transaction: None,
        holder: open.as_ref().and_then(Transaction::holder),
        reverts_in_ms: open.as_ref().and_then(Transaction::reverts_in_ms),
        topology,
    }))
}

pub(super) fn holder(by: &Operator, idle_limit_s: u32) -> Result<HolderRecord> {
    Ok(HolderRecord {
        process: Process::own()?,
        connection: process::by_chance()?,
        by: by.clone(),
        from: crate::kernel::observe::controller(),
        since_ms: process::boottime_ms(),
        idle_limit_s,
    })
}

pub(super) fn root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("changing a host needs root")
        .cure("log in as root, or give the user passwordless sudo"))
}

pub(super) fn check_idle_limit(seconds: u32) -> Result<()> {
    super::in_range("the time of silence in seconds", seconds, 1, 86_400)
}

/// What is written in place must have its place.
pub(super) fn check_operator(by: &Operator) -> Result<()> {
    let Operator { user, host, pid: _ } = by;
    if user.len() <= 256 && host.len() <= 256 {
        return Ok(());
    }
    Err(Error::new("the names of the user and of the controller have 256 bytes at most"))
}

impl Host {
    /// Notes that the controller was heard, or is answered, just now.
    pub(super) fn heard(&self) {
        if let Some(HeldTransaction { topology, transaction, .. }) = &self.held {
            records::heard(&journal::folder(&self.state_dir, topology, transaction));
        }
    }

    /// After how much silence of the controller the agent ends; `None`: never.
    pub fn idle_limit(&self) -> Option<Duration> {
        self.held.as_ref().and_then(HeldTransaction::idle_limit)
    }
}
