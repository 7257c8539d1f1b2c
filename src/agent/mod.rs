//! The agent: what runs on a host. It answers requests, and holds the host's half of a transaction.
//!
//! [`serve`] reads requests and writes replies. [`look`] observes the host. A transaction is begun in `begin` and
//! worked at in `transaction`; how it lies on the disk is in [`journal`], and who undoes it where nobody comes back in
//! [`revert`]. What touches the kernel is in [`crate::kernel`]: everything there works in the network namespace
//! of the thread that calls it.

mod cgroups;
mod disk;
#[cfg(test)]
mod fuzz;
pub mod journal;
pub mod lock;
pub mod look;
mod others;
mod phase;
mod preparation;
mod prepare;
pub mod process;
pub mod receipt;
mod records;
pub mod revert;
mod reverting;
pub mod serve;
mod transaction;

use std::path::PathBuf;
use std::time::Duration;

use crate::kernel::error::{self, Error};
use crate::kernel::{traffic, who_has};
use crate::protocol::{Reply, Request};
use crate::state::Controller;

/// The host on which this process runs, in the network namespace in which it runs.
///
/// One value is one connection: it remembers which transaction that works at.
#[derive(Debug)]
pub struct Host {
    state_dir: PathBuf,
    program: PathBuf,
    piped: bool,
    held: Option<transaction::HeldTransaction>,
}

impl Host {
    /// With its receipts in `state_dir`, which is made when there is something to keep.
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, program: "/proc/self/exe".into(), piped: false, held: None }
    }

    /// Reached by a pipe from another network namespace of this machine.
    #[must_use]
    pub fn piped(self, piped: bool) -> Self {
        Self { piped, ..self }
    }

    /// With another program than this one for the revert timer: where this one is not lvsprov.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// Answers `request`. Every thread of the runtime must be in the same network namespace.
    ///
    /// An error is an answer too: [`Reply::Refused`] where no step was done, a failure in the outcome
    /// where one was.
    pub async fn answer(&mut self, request: Request) -> Reply {
        self.heard();
        let reply = match self.try_answer(request).await {
            Ok(reply) => reply,
            Err(error) => Reply::Refused(error.to_failure()),
        };
        self.heard();
        reply
    }

    async fn try_answer(&mut self, request: Request) -> error::Result<Reply> {
        match request {
            Request::Observe { topology, sysctls, counters } => {
                let mut seen = look::look(&self.state_dir, &topology, &sysctls, counters).await?;
                if self.piped && seen.facts.controller == Controller::Unknown {
                    seen.facts.controller = Controller::Pipe;
                }
                Ok(Reply::Observed(Box::new(seen)))
            }
            Request::Prepare(begin) => prepare::prepare(self, &begin).await,
            Request::Resume { topology, transaction, by, idle_limit_s, force } => {
                transaction::resume(self, &topology, &transaction, &by, idle_limit_s, force).await
            }
            Request::Execute { topology, transaction, steps, sysctls } => {
                transaction::execute(self, &topology, &transaction, &steps, &sysctls).await
            }
            Request::Vote { topology, transaction } => {
                transaction::vote(self, &topology, &transaction).await
            }
            Request::Close { topology, transaction, decision } => {
                transaction::close(self, &topology, &transaction, decision).await
            }
            Request::WhoHas { dev, target, wait_ms } => {
                in_range("the time to listen in milliseconds", wait_ms, 1, 10_000)?;
                let wait = Duration::from_millis(wait_ms.into());
                Ok(Reply::Answered(who_has(&dev, target, wait).await?))
            }
            Request::Fetch { target, protocol, count, timeout_ms } => {
                in_range("the number of requests", count, 1, 10_000)?;
                in_range("the time for one request in milliseconds", timeout_ms, 1, 60_000)?;
                let patience = Duration::from_millis(timeout_ms.into());
                Ok(Reply::Fetched(traffic::fetch(target, protocol, count, patience).await?))
            }
        }
    }
}

fn in_range(what: &str, value: u32, lowest: u32, highest: u32) -> error::Result<()> {
    if (lowest..=highest).contains(&value) {
        return Ok(());
    }
    Err(Error::new(format!("{what} is {lowest} to {highest}, not {value}")))
}

/// Compiles only if an answer can be awaited on any thread of a runtime.
const _: fn(&mut Host, Request) = |host, request| {
    fn can_move<T: Send>(_: T) {}
    can_move(host.answer(request));
};
