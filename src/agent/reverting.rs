//! The revert timer at work: sleeping until its time, then going the way back.
//!
//! It has nobody to ask, and the operator may be cut off until it is done. So where a controller stops at
//! the first step that fails, it goes on with those behind (each looks for itself whether it fits), and
//! tries again until the transaction is closed, or another's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerFd, TimerSetTimeFlags};

use super::journal::{self, Transaction};
use super::lock::{self, HeldBy, Lock};
use super::phase::Phase;
use super::revert::RevertOrder;
use super::{look, process, records};
use crate::desired::Reasons;
use crate::failure::Failure;
use crate::kernel::error::{Error, Result};
use crate::kernel::net::Net;
use crate::kernel::{act, fault};
use crate::plan::order;
use crate::plan::ownership::Goal;
use crate::protocol::Decision;
use crate::state::{Item, Step};

/// How long it waits for a request that is being carried out, each time, before it ends the process if
/// that works at the very transaction whose time is over.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits after that, for any other.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits before it tries again, at first.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];
/// The same from then on, for ever: what stands in the way may go at any time, as a link comes back.
const LAST_PAUSE: Duration = Duration::from_mins(1);

/// How long it waits after each try.
fn pauses() -> impl Iterator<Item = Duration> {
    PAUSES.into_iter().chain(std::iter::repeat(LAST_PAUSE))
}

/// How the note begins that says what the last try has left.
const LEFT: &str = "could not undo everything";

/// A timer at work.
pub(super) struct Revert<'a> {
    pub state_dir: &'a Path,
    pub order: &'a RevertOrder,
    /// What was noted so far.
    pub notes: Vec<String>,
}

/// What is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Withdraw,
    All,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// It is settled, another's or agreed to: there is nothing to do.
    Over,
    /// It was done.
    Done,
}

impl Revert<'_> {
    /// Waits until the agent has begun the transaction, or given up, or is gone. Whether there is
    /// something to wait for.
    pub fn released(&self, alarm: &TimerFd) -> Result<bool> {
        Self::set(alarm, self.first())?;
        let stdin = io::stdin();
        let failed = |error: io::Error| Error::new("the revert timer cannot wait").because(error);
        loop {
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(alarm.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno.into())),
            }
            let released = fds[0].any().unwrap_or(true);
            let ours = self.is_there();
            if released {
                let null = File::open("/dev/null").map_err(failed)?;
                nix::unistd::dup2_stdin(null).map_err(|errno| failed(errno.into()))?;
                return Ok(ours);
            }
            if ours {
                // Its time has come while the agent hangs.
                return Ok(true);
            }
            // Its time has come before there is anything to undo: only the agent matters now.
            Self::set(alarm, u64::MAX / 2)?;
        }
    }

    fn first(&self) -> u64 {
        let RevertOrder { withdraw_at_ms, build_at_ms, .. } = self.order;
        withdraw_at_ms.map_or(*build_at_ms, |at| at.min(*build_at_ms))
    }

    /// Whether the transaction lies on the disk, as far as that can be read now.
    fn is_there(&self) -> bool {
        let RevertOrder { topology, transaction, .. } = self.order;
        journal::read(self.state_dir, topology)
            .map_or(true, |open| open.is_some_and(|open| open.journal.transaction == *transaction))
    }

    fn set(alarm: &TimerFd, at_ms: u64) -> Result<()> {
        let at = TimeSpec::from_duration(Duration::from_millis(at_ms.max(1)));
        alarm
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .map_err(|errno| Error::new("the revert timer cannot be set").because(errno))
    }

    fn sleep(alarm: &TimerFd, until_ms: u64) -> Result<()> {
        Self::set(alarm, until_ms)?;
        loop {
            match alarm.wait() {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Error::new("the revert timer cannot sleep").because(errno));
                }
            }
        }
    }

    pub fn live(&mut self, alarm: &TimerFd, runtime: &tokio::runtime::Runtime) -> Result<()> {
        self.write();
        let RevertOrder { withdraw_at_ms, build_at_ms, .. } = self.order;
        if let Some(at) = withdraw_at_ms.filter(|at| at < build_at_ms) {
            Self::sleep(alarm, at)?;
            match runtime.block_on(self.attempt(Part::Withdraw)) {
                Ok(Came::Over) => return Ok(()),
                Ok(Came::Done) => {}
                Err(error) => self.tell(format!("could not withdraw: {}", full(&error))),
            }
        }
        Self::sleep(alarm, *build_at_ms)?;
        for (before, pause) in pauses().enumerate() {
            let Err(error) = runtime.block_on(self.attempt(Part::All)) else { break };
            // One note of it is enough, the latest.
            self.notes.retain(|line| !line.starts_with(LEFT));
            let (tries, seconds) = (before + 1, pause.as_secs());
            let tries = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
            let error = full(&error);
            self.tell(format!("{LEFT} in {tries}, the next in {seconds} s: {error}"));
            let pause = u64::try_from(fault::pause(pause).as_millis()).unwrap_or(u64::MAX);
            Self::sleep(alarm, process::boottime_ms().saturating_add(pause))?;
        }
        Ok(())
    }

    /// Undoes `part` of the transaction once; settles it if nothing of it is left.
    async fn attempt(&mut self, part: Part) -> Result<Came> {
        let RevertOrder { topology, transaction, .. } = self.order;
        let _lock = self.lock().await?;
        let Some(open) = journal::read(self.state_dir, topology)? else { return Ok(Came::Over) };
        if open.journal.transaction != *transaction {
            return Ok(Came::Over);
        }
        let folder = journal::folder(self.state_dir, topology, transaction);
        match open.phase {
            Phase::Voted | Phase::Committing => return Ok(Came::Over),
            Phase::Prepared => {
                if let Err(error) = journal::pass(&folder, Phase::Prepared, Phase::Reverting) {
                    self.tell(full(&error));
                    if part == Part::Withdraw {
                        // A controller that comes in time would not know, and go on with a half of it.
                        let all = "cannot mark that it is undone: does all of it at its later time";
                        self.tell(all.to_owned());
                        return Ok(Came::Done);
                    }
                }
            }
            Phase::Reverting | Phase::Aborting => {}
        }
        let mut steps = self.way_back(&open).await?;
        if part == Part::Withdraw {
            let done = self.go(&steps.withdraw).await?;
            self.tell(format!("not confirmed in time: withdrew by itself, {done} steps"));
            return Ok(Came::Done);
        }
        steps.build.splice(0..0, std::mem::take(&mut steps.withdraw));
        if !steps.build.is_empty() {
            let done = self.go(&steps.build).await?;
            self.tell(format!("not confirmed in time: undid it by itself, {done} steps"));
        }
        let left = self.way_back(&open).await?.into_all();
        if let Some(step) = left.first() {
            return Err(Error::new(format!(
                "{} steps are left, the first: {}",
                left.len(),
                step.change
            )));
        }
        let Some(open) = journal::read(self.state_dir, topology)? else { return Ok(Came::Over) };
        records::keep_reverted(&folder, &open.journal);
        journal::settle(self.state_dir, &open, Decision::Abort)
            .inspect_err(|_| records::take_reverted_back(&folder))?;
        fault::at("closed");
        Ok(Came::Done)
    }

    /// The lock, from a hung holder too: one that was stopped, or waits for what it has cut off itself,
    /// would else keep it for ever. Where it still works at it, undoing starts from what it has done.
    async fn lock(&mut self) -> Result<Lock> {
        let (state_dir, topology) = (self.state_dir, &self.order.topology);
        match lock::wait(state_dir, topology, HOLDER_PATIENCE).await? {
            Ok(lock) => return Ok(lock),
            Err(held) => self.end_holder(&held)?,
        }
        lock::wait(state_dir, topology, PATIENCE).await?.map_err(HeldBy::into_error)
    }

    /// Ends the process that has the lock, if it is the one that works at this transaction and that may
    /// be undone. Any other is waited for.
    fn end_holder(&mut self, held: &HeldBy) -> Result<()> {
        let RevertOrder { topology, transaction, .. } = self.order;
        let Some(open) = journal::read(self.state_dir, topology)? else { return Ok(()) };
        if open.journal.transaction != *transaction
            || matches!(open.phase, Phase::Voted | Phase::Committing)
        {
            return Ok(());
        }
        let Some(holder) = open.living_holder() else { return Ok(()) };
        if held.process.is_none_or(|(pid, _)| pid != holder.process.pid) {
            return Ok(());
        }
        holder.process.end()?;
        self.tell(format!(
            "ended process {} of {}: it had this host locked as its time was over",
            holder.process.pid, holder.by
        ));
        Ok(())
    }

    /// From what is here now to what was here before.
    async fn way_back(&self, open: &Transaction) -> Result<order::Steps> {
        let sysctls = open.journal.touched.iter().filter_map(|item| match item {
            Item::Sysctl(key) => Some(key.clone()),
            _ => None,
        });
        let topology = &self.order.topology;
        let seen = look::look_at_own(self.state_dir, topology, &sysctls.collect()).await?;
        let gone = || Error::new("the journal is gone while the lock is held");
        let goal = Goal::undo(seen.unfinished.as_deref().ok_or_else(gone)?, &seen);
        order::steps_between(&seen.state, &goal.wanted, &goal.owned, &Reasons::default())
            .map_err(|error| Error::new("cannot plan the way back").because(error))
    }

    /// Does `steps`, those behind one that fails too. How many were done; an error if not all.
    async fn go(&mut self, steps: &[Step]) -> Result<usize> {
        let net = Net::open()?;
        let (mut done, mut rest, mut failures) = (0, steps, 0);
        loop {
            let (count, failed) = act::carry_out(&net, rest).await;
            done += count;
            let Some(error) = failed else { break };
            failures += 1;
            if let Some(step) = rest.get(count) {
                self.tell(format!("{}: {}", step.change, full(&error)));
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

    pub fn tell(&mut self, line: String) {
        // What fails at every try is told once.
        self.notes.retain(|there| *there != line);
        self.notes.push(line);
        // The first and the latest say most.
        if self.notes.len() > 40 {
            self.notes.remove(20);
        }
        self.write();
    }

    fn write(&self) {
        let RevertOrder { topology, transaction, .. } = self.order;
        if !self.notes.is_empty() {
            records::tell(&journal::folder(self.state_dir, topology, transaction), &self.notes);
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
