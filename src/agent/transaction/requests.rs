//! The requests of a transaction after it is prepared: resume it, execute steps, vote, close.
//!
//! Each request holds the lock and reads from the disk what it relies on: between two of them another
//! connection may have resumed the transaction, or the revert timer undone it. The memory of this process
//! ([`HeldTransaction`]) only names the transaction that it holds.

use std::collections::BTreeSet;
use std::time::Duration;

use super::actor::Actor;
use super::journal::{self, TransactionFiles};
use super::lock::{self, HeldBy, Lock};
use super::phase::{Phase, may_close, may_execute, reverted};
use super::records::{self, HolderRecord};
use super::store::Store;
use super::{Agent, in_range, observe, unit};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::protocol::{Busy, Decision, Reply};
use crate::state::announcement::announced_by;
use crate::state::{Journal, Operator, Step, Sysctl, TransactionId};

/// How long a request waits for another process that has the lock, of another topology say: that is no
/// reason to fail.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where no transaction is held yet, and the answer is `Busy`.
pub(super) const PREPARE_PATIENCE: Duration = Duration::from_secs(2);

/// The transaction that this connection holds.
#[derive(Debug)]
pub(super) struct HeldTransaction {
    topology: TopologyName,
    transaction: TransactionId,
    /// As in [`HolderRecord`].
    connection: String,
    idle_limit_s: u32,
    /// Its phase when this connection prepared or resumed it.
    entered: Phase,
    /// The decision with which this connection closed it.
    closed: Option<Decision>,
}

impl HeldTransaction {
    /// A transaction that `holder` prepared, or resumed when it was in the phase `entered`.
    pub fn new(journal: &Journal, holder: &HolderRecord, entered: Phase) -> Self {
        Self {
            topology: journal.topology.clone(),
            transaction: journal.transaction.clone(),
            connection: holder.connection.clone(),
            idle_limit_s: holder.idle_limit_s,
            entered,
            closed: None,
        }
    }

    /// How long the connection may send no request; `None`: for ever, it holds nothing any more.
    fn idle_limit(&self) -> Option<Duration> {
        let limit = Duration::from_secs(self.idle_limit_s.into());
        self.closed.is_none().then_some(limit)
    }
}

/// See [`crate::protocol::Request::Resume`].
pub(super) async fn resume(
    agent: &mut Agent,
    topology: &TopologyName,
    transaction: &TransactionId,
    by: &Operator,
    idle_limit_s: u32,
    force: bool,
) -> Result<Reply> {
    let Agent { store, actor, held } = agent;
    let (store, actor): (&dyn Store, &dyn Actor) = (store.as_ref(), actor.as_ref());
    check_root(actor)?;
    check_idle_limit(idle_limit_s)?;
    check_operator(by)?;
    let _lock = match lock::wait(store, topology, PREPARE_PATIENCE).await? {
        Ok(lock) => lock,
        Err(held_by) => return Ok(busy_now(store, actor, topology, held_by)),
    };
    let open = read_open(store, topology, transaction)?;
    if let Some(busy) = busy(actor, &open, held.as_ref(), true).filter(|_| !force) {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let holder = holder(actor, by, idle_limit_s)?;
    let folder = journal::folder(store.root(), topology, transaction);
    records::write_holder(store, actor, &folder, &holder)?;
    *held = Some(HeldTransaction::new(&open.journal, &holder, open.phase));
    Ok(Reply::Prepared)
}

/// See [`crate::protocol::Request::Execute`].
pub(super) async fn execute(
    agent: &mut Agent,
    topology: &TopologyName,
    transaction: &TransactionId,
    steps: &[Step],
    sysctls: &BTreeSet<Sysctl>,
) -> Result<Reply> {
    let Agent { store, actor, held } = agent;
    let (store, actor): (&dyn Store, &dyn Actor) = (store.as_ref(), actor.as_ref());
    let held = held_as(held.as_mut(), topology, transaction)?;
    let (_lock, open) = lock_own(store, held).await?;
    may_execute(open.phase, held.entered, transaction)?;
    if let Some(step) = steps.iter().find(|step| !open.journal.touched.contains(&step.edit.item()))
    {
        return Err(Error::new(format!(
            "{}: this is no part of the transaction {transaction}: it could not be undone",
            step.edit
        )));
    }
    let executor = actor.open_executor()?;
    if open.phase == Phase::Voted {
        let folder = journal::folder(store.root(), topology, transaction);
        journal::change_phase(store, &folder, Phase::Voted, Phase::Prepared)?;
        held.entered = Phase::Prepared;
    }
    let (done, failed) = executor.execute(steps).await;
    let warnings = announce(actor, steps.get(..done).unwrap_or(steps));
    let failure = failed.map(|error| error.to_failure());
    let mut execution =
        observe::after_execution(store, actor, topology, sysctls, done, failure).await;
    execution.warnings = warnings;
    Ok(Reply::Executed(Box::new(execution)))
}

/// Announces the addresses that `done` brought. What failed, a line each: the steps are executed all the same.
pub(super) fn announce(actor: &dyn Actor, done: &[Step]) -> Vec<String> {
    let addresses = announced_by(done.iter().map(|step| &step.edit));
    if addresses.is_empty() {
        return Vec::new();
    }
    let failed = actor.announce(&addresses).into_iter();
    failed.map(|error| error.to_failure().to_string()).collect()
}

/// See [`crate::protocol::Request::Vote`].
pub(super) async fn vote(
    agent: &mut Agent,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<Reply> {
    let Agent { store, actor, held } = agent;
    let (store, actor): (&dyn Store, &dyn Actor) = (store.as_ref(), actor.as_ref());
    let held = held_as(held.as_mut(), topology, transaction)?;
    let (_lock, open) = lock_own(store, held).await?;
    actor.reach("vote");
    match open.phase {
        Phase::Prepared => {
            let folder = journal::folder(store.root(), topology, transaction);
            journal::change_phase(store, &folder, Phase::Prepared, Phase::Voted)?;
        }
        Phase::Voted | Phase::Committing => {}
        Phase::Reverting | Phase::Aborting => return Err(reverted(transaction)),
    }
    // From here on only a connection that resumes it knowing of the vote executes steps.
    held.entered = Phase::Prepared;
    disarm(actor, &open);
    actor.reach("voted");
    Ok(Reply::Voted)
}

/// See [`crate::protocol::Request::Close`].
pub(super) async fn close(
    agent: &mut Agent,
    topology: &TopologyName,
    transaction: &TransactionId,
    decision: Decision,
) -> Result<Reply> {
    let Agent { store, actor, held } = agent;
    let (store, actor): (&dyn Store, &dyn Actor) = (store.as_ref(), actor.as_ref());
    let held = held_as(held.as_mut(), topology, transaction)?;
    if held.closed == Some(decision) {
        return Ok(Reply::Closed);
    }
    let (_lock, open) = lock_own(store, held).await?;
    may_close(open.phase, held.entered, decision, open.journal.hosts.len(), transaction)?;
    // A connection closes it, not the timer, which may have been killed just before it did.
    records::forget_reverted(store, &store.root().join(topology.as_str()));
    journal::close(store, actor, &open, decision)?;
    held.closed = Some(decision);
    disarm(actor, &open);
    // The transaction is closed, whatever becomes of the unit: without a receipt it does nothing.
    let _ = unit::tidy(store, actor);
    unit::start(store, actor);
    actor.reach("closed");
    Ok(Reply::Closed)
}

/// The timer does nothing any more, whether its process ends or not. The lock is held, so the timer is not
/// in the middle of an attempt.
fn disarm(actor: &dyn Actor, open: &TransactionFiles) {
    actor.disarm(open.prepared.timer.as_ref().map(|timer| &timer.process));
}

/// The transaction that this connection holds, if it is the one that the request names.
fn held_as<'h>(
    held: Option<&'h mut HeldTransaction>,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<&'h mut HeldTransaction> {
    held.filter(|held| held.topology == *topology && held.transaction == *transaction).ok_or_else(
        || {
            Error::new(format!(
                "this connection has neither prepared nor resumed the transaction {transaction} of \
                 {topology}"
            ))
        },
    )
}

/// The lock and the transaction as it lies on the disk, if this connection still holds it.
async fn lock_own(store: &dyn Store, held: &HeldTransaction) -> Result<(Lock, TransactionFiles)> {
    let HeldTransaction { topology, transaction, connection, .. } = held;
    let lock = lock::wait(store, topology, PATIENCE).await?.map_err(HeldBy::into_error)?;
    let open = read_open(store, topology, transaction)?;
    match &open.holder {
        Some(holder) if holder.connection == *connection => {}
        Some(HolderRecord { by, process, .. }) => {
            return Err(Error::new(format!(
                "{by} has resumed the transaction {transaction} meanwhile (process {} on this host)",
                process.pid
            ))
            .cure("let them finish; lvsprov status shows the result"));
        }
        None => {
            return Err(Error::new(format!(
                "the connection that holds the transaction {transaction} cannot be read any more"
            ))
            .cure("resume it"));
        }
    }
    Ok((lock, open))
}

fn read_open(
    store: &dyn Store,
    topology: &TopologyName,
    transaction: &TransactionId,
) -> Result<TransactionFiles> {
    let gone = |what: String| {
        Error::new(format!(
            "the transaction {transaction} of {topology} is not open on this host any more: {what}"
        ))
        .cure("observe the host again: the transaction was closed, or undone by the host itself")
    };
    match journal::read(store, topology)? {
        Some(open) if open.journal.transaction == *transaction => Ok(open),
        Some(open) => Err(gone(format!("{} is", open.journal.transaction))),
        None => Err(gone("none is".to_owned())),
    }
}

/// The reason not to prepare a transaction (or, with `only_holder`, not to resume this one) while `open` is
/// open here.
pub(super) fn busy(
    actor: &dyn Actor,
    open: &TransactionFiles,
    held: Option<&HeldTransaction>,
    only_holder: bool,
) -> Option<Busy> {
    let own = |holder: &HolderRecord| held.is_some_and(|h| h.connection == holder.connection);
    let another = open.living_holder(actor).is_some_and(|holder| !own(holder));
    let reverts_in_ms = open.reverts_in_ms(actor);
    (another || (reverts_in_ms.is_some() && !only_holder)).then(|| Busy {
        topology: open.journal.topology.clone(),
        transaction: Some(open.journal.transaction.clone()),
        holder: open.holder(actor),
        reverts_in_ms,
    })
}

/// Another process has the lock: which, as far as that can be read.
pub(super) fn busy_now(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    held_by: HeldBy,
) -> Reply {
    let topology = held_by.topology.unwrap_or_else(|| topology.clone());
    let open = journal::read(store, &topology).ok().flatten();
    Reply::Busy(Box::new(Busy {
        transaction: None,
        holder: open.as_ref().and_then(|open| open.holder(actor)),
        reverts_in_ms: open.as_ref().and_then(|open| open.reverts_in_ms(actor)),
        topology,
    }))
}

pub(super) fn holder(actor: &dyn Actor, by: &Operator, idle_limit_s: u32) -> Result<HolderRecord> {
    Ok(HolderRecord {
        process: actor.own_process()?,
        connection: actor.random()?,
        by: by.clone(),
        from: actor.controller_address(),
        since_ms: actor.boottime_ms(),
        idle_limit_s,
    })
}

pub(super) fn check_root(actor: &dyn Actor) -> Result<()> {
    if actor.is_root() {
        return Ok(());
    }
    Err(Error::new("changing a host needs root")
        .cure("log in as root, or give the user passwordless sudo"))
}

pub(super) fn check_idle_limit(seconds: u32) -> Result<()> {
    in_range("the time of silence in seconds", seconds, 1, 86_400)
}

/// A record that is written in place must fit in its file.
pub(super) fn check_operator(by: &Operator) -> Result<()> {
    let Operator { user, host, pid: _ } = by;
    if user.len() <= 256 && host.len() <= 256 {
        return Ok(());
    }
    Err(Error::new("the names of the user and of the controller have 256 bytes at most"))
}

impl Agent {
    /// Writes that the controller sent a request, or gets its answer, just now.
    pub(super) fn write_last_request(&self) {
        if let Some(HeldTransaction { topology, transaction, .. }) = &self.held {
            let folder = journal::folder(self.store.root(), topology, transaction);
            records::write_last_request(self.store.as_ref(), self.actor.as_ref(), &folder);
        }
    }

    /// After how long without a request the agent ends; `None`: never.
    pub fn idle_limit(&self) -> Option<Duration> {
        self.held.as_ref().and_then(HeldTransaction::idle_limit)
    }
}
