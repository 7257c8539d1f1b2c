//! The revert timer's way back.
//!
//! It has no operator to ask, and the operator may be cut off until it is done. So where a controller stops
//! at the first step that fails, it goes on with those behind (each checks for itself whether it fits), and
//! tries again until the transaction is closed, or another is open.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::journal::{self, TransactionFiles};
use super::lock::{self, HeldBy, Lock};
use super::phase::Phase;
use super::store::Store;
use super::{observe, records, requests, unit};
use crate::desired::Reasons;
use crate::failure::Failure;
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::plan::order;
use crate::plan::ownership::Goal;
use crate::protocol::Decision;
use crate::state::{Item, Step, TransactionId};

/// How long it waits for the lock, each time, before it ends the process that has it, if that holds the
/// very transaction whose time is over.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits after that, for any other process.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits before it tries again, at first.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];
/// The same from then on, for ever: an obstacle may go at any time, as a link comes back.
const LAST_PAUSE: Duration = Duration::from_mins(1);

/// How long it waits after each attempt.
fn pauses() -> impl Iterator<Item = Duration> {
    PAUSES.into_iter().chain(std::iter::repeat(LAST_PAUSE))
}

/// How the note begins that names what the last attempt has left.
const LEFT: &str = "could not undo everything";

/// What a revert timer is to undo, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevertOrder {
    /// The topology of the transaction.
    pub topology: TopologyName,
    /// The transaction.
    pub transaction: TransactionId,
    /// When it executes the steps that withdraw, in milliseconds since the host was started; `None`: with
    /// the others.
    pub withdraw_at_ms: Option<u64>,
    /// When it executes the others.
    pub build_at_ms: u64,
}

impl RevertOrder {
    /// When it has something to do for the first time.
    pub fn first_ms(&self) -> u64 {
        self.withdraw_at_ms.map_or(self.build_at_ms, |at| at.min(self.build_at_ms))
    }
}

/// A revert timer at work.
pub struct RevertTimer<'a> {
    store: &'a dyn Store,
    actor: &'a dyn Actor,
    order: &'a RevertOrder,
    notes: Vec<String>,
}

/// The steps that are executed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevertPart {
    /// Those that withdraw.
    Withdraw,
    /// All of them; then the transaction is closed.
    All,
}

/// How an attempt ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevertAttempt {
    /// The transaction is closed, another's or voted for: there is nothing to do.
    NotNeeded,
    /// The part was executed.
    Executed,
}

impl<'a> RevertTimer<'a> {
    /// A timer with notes for the operator from its start.
    pub fn new(
        store: &'a dyn Store,
        actor: &'a dyn Actor,
        order: &'a RevertOrder,
        notes: Vec<String>,
    ) -> Self {
        Self { store, actor, order, notes }
    }

    /// Whether the transaction is open, as far as that can be read now.
    pub fn is_open(&self) -> bool {
        let RevertOrder { topology, transaction, .. } = self.order;
        journal::read(self.store, topology)
            .map_or(true, |open| open.is_some_and(|open| open.journal.transaction == *transaction))
    }

    /// Waits for its time, and undoes the transaction unless it is closed or voted for by then.
    pub async fn live(&mut self) -> Result<()> {
        self.write_notes();
        let RevertOrder { withdraw_at_ms, build_at_ms, .. } = self.order;
        if let Some(at) = withdraw_at_ms.filter(|at| at < build_at_ms) {
            self.actor.sleep_until(at).await?;
            match self.attempt(RevertPart::Withdraw).await {
                Ok(RevertAttempt::NotNeeded) => return Ok(()),
                Ok(RevertAttempt::Executed) => {}
                Err(error) => self.note(format!("could not withdraw: {}", full(&error))),
            }
        }
        self.actor.sleep_until(*build_at_ms).await?;
        for (before, pause) in pauses().enumerate() {
            let Err(error) = self.attempt(RevertPart::All).await else { break };
            // One note of it is enough, the latest.
            self.notes.retain(|line| !line.starts_with(LEFT));
            let (tries, seconds) = (before + 1, pause.as_secs());
            let tries = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
            let error = full(&error);
            self.note(format!("{LEFT} in {tries}, the next in {seconds} s: {error}"));
            let pause = self.actor.retry_pause(pause);
            let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.actor.sleep_until(self.actor.boottime_ms().saturating_add(pause)).await?;
        }
        Ok(())
    }

    /// Undoes `part` of the transaction once; closes it if nothing of it is left.
    pub async fn attempt(&mut self, part: RevertPart) -> Result<RevertAttempt> {
        let RevertOrder { topology, transaction, .. } = self.order;
        let _lock = self.lock().await?;
        let Some(open) = journal::read(self.store, topology)? else {
            return Ok(RevertAttempt::NotNeeded);
        };
        if open.journal.transaction != *transaction {
            return Ok(RevertAttempt::NotNeeded);
        }
        let folder = journal::folder(self.store.root(), topology, transaction);
        match open.phase {
            Phase::Voted | Phase::Committing => return Ok(RevertAttempt::NotNeeded),
            Phase::Prepared => {
                let (from, to) = (Phase::Prepared, Phase::Reverting);
                if let Err(error) = journal::change_phase(self.store, &folder, from, to) {
                    self.note(full(&error));
                    if part == RevertPart::Withdraw {
                        // A controller that comes in time would not know, and go on with a half of it.
                        let all = "cannot mark that it is undone: does all of it at its later time";
                        self.note(all.to_owned());
                        return Ok(RevertAttempt::Executed);
                    }
                }
            }
            Phase::Reverting | Phase::Aborting => {}
        }
        let mut steps = self.way_back(&open).await?;
        if part == RevertPart::Withdraw {
            let done = self.execute(&steps.withdraw).await?;
            self.note(format!("not confirmed in time: withdrew by itself, {done} steps"));
            return Ok(RevertAttempt::Executed);
        }
        steps.build.splice(0..0, std::mem::take(&mut steps.withdraw));
        if !steps.build.is_empty() {
            let done = self.execute(&steps.build).await?;
            self.note(format!("not confirmed in time: undid it by itself, {done} steps"));
        }
        let left = self.way_back(&open).await?.into_all();
        if let Some(step) = left.first() {
            return Err(Error::new(format!(
                "{} steps are left, the first: {}",
                left.len(),
                step.edit
            )));
        }
        self.close()
    }

    /// Closes the transaction, of which nothing is left on the host.
    fn close(&self) -> Result<RevertAttempt> {
        let RevertOrder { topology, transaction, .. } = self.order;
        let (store, actor) = (self.store, self.actor);
        let Some(open) = journal::read(store, topology)? else {
            return Ok(RevertAttempt::NotNeeded);
        };
        let folder = journal::folder(store.root(), topology, transaction);
        records::keep_reverted(store, actor, &folder, &open.journal, false);
        journal::close(store, actor, &open, Decision::Abort)
            .inspect_err(|_| records::take_reverted_back(store, &folder))?;
        let _ = unit::tidy(store, actor);
        actor.reach("closed");
        Ok(RevertAttempt::Executed)
    }

    /// The lock, from a hung holder too: a process that was stopped, or waits for a connection that it cut
    /// itself, would else keep it for ever. Undoing starts from the steps that it executed.
    async fn lock(&mut self) -> Result<Lock> {
        let topology = &self.order.topology;
        match lock::wait(self.store, topology, HOLDER_PATIENCE).await? {
            Ok(lock) => return Ok(lock),
            Err(held_by) => self.end_holder(&held_by)?,
        }
        lock::wait(self.store, topology, PATIENCE).await?.map_err(HeldBy::into_error)
    }

    /// Ends the process that has the lock, if it is the one that holds this transaction and that may be
    /// undone. It waits for any other.
    fn end_holder(&mut self, held_by: &HeldBy) -> Result<()> {
        let RevertOrder { topology, transaction, .. } = self.order;
        let Some(open) = journal::read(self.store, topology)? else { return Ok(()) };
        if open.journal.transaction != *transaction
            || matches!(open.phase, Phase::Voted | Phase::Committing)
        {
            return Ok(());
        }
        let Some(holder) = open.living_holder(self.actor) else { return Ok(()) };
        if held_by.process.is_none_or(|(pid, _)| pid != holder.process.pid) {
            return Ok(());
        }
        self.actor.kill(&holder.process)?;
        self.note(format!(
            "ended process {} of {}: it had this host locked as its time was over",
            holder.process.pid, holder.by
        ));
        Ok(())
    }

    /// The steps from the present state of the host to the state before.
    async fn way_back(&self, open: &TransactionFiles) -> Result<order::Steps> {
        let sysctls = open.journal.touched.iter().filter_map(|item| match item {
            Item::Sysctl(key) => Some(key.clone()),
            _ => None,
        });
        let topology = &self.order.topology;
        let observed =
            observe::observe_own(self.store, self.actor, topology, &sysctls.collect()).await?;
        let gone = || Error::new("the journal is gone while the lock is held");
        let goal = Goal::undo(observed.open_transaction.as_deref().ok_or_else(gone)?, &observed);
        order::steps_between(&observed.state, &goal.wanted, &goal.owned, &Reasons::default())
            .map_err(|error| Error::new("cannot plan the way back").because(error))
    }

    /// Executes `steps`, those behind one that fails too. How many were executed; an error if not all.
    async fn execute(&mut self, steps: &[Step]) -> Result<usize> {
        let executor = self.actor.open_executor()?;
        let (mut done, mut rest, mut failures) = (0, steps, 0);
        loop {
            let (count, failed) = executor.execute(rest).await;
            done += count;
            for warning in requests::announce(self.actor, rest.get(..count).unwrap_or(rest)) {
                self.note(warning);
            }
            let Some(error) = failed else { break };
            failures += 1;
            if let Some(step) = rest.get(count) {
                self.note(format!("{}: {}", step.edit, full(&error)));
            }
            rest = rest.get(count + 1..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        if failures == 0 {
            return Ok(done);
        }
        Err(Error::new(format!("{failures} of {} steps failed", steps.len())))
    }

    /// Adds a note for the operator.
    pub fn note(&mut self, line: String) {
        // A failure that repeats at every attempt is noted once.
        self.notes.retain(|earlier| *earlier != line);
        self.notes.push(line);
        // The first and the latest matter most.
        if self.notes.len() > 40 {
            self.notes.remove(20);
        }
        self.write_notes();
    }

    fn write_notes(&self) {
        let RevertOrder { topology, transaction, .. } = self.order;
        if !self.notes.is_empty() {
            let folder = journal::folder(self.store.root(), topology, transaction);
            records::write_notes(self.store, &folder, &self.notes);
        }
    }
}

/// An error with all that caused it, on one line.
fn full(error: &Error) -> String {
    Failure::from_error(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tries_soon_at_first_and_every_minute_for_ever() {
        let seconds: Vec<u64> = pauses().take(8).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 5, 10, 30, 60, 60, 60]);
        assert_eq!(pauses().nth(1_000_000), Some(Duration::from_mins(1)));
    }
}
