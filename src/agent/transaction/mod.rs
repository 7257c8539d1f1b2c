//! The host's half of a transaction: one machine over a [`Store`] (durable files) and an [`Actor`] (the
//! kernel, processes, clocks). No code here reaches the disk or the kernel in any other way.
//!
//! A transaction is written down in [`preparation`] and starts in [`prepare`]; the requests after that are
//! in [`requests`], the rules between phases in [`phase`]. How it lies on the disk is in [`journal`],
//! [`receipt`], [`settled`] and [`records`]; [`reverting`] is the revert timer's way back, and [`boot`] what a host
//! does by itself after a restart, [`drift`] what it does while it runs.

pub mod actor;
pub mod boot;
pub mod drift;
#[cfg(test)]
mod fuzz;
pub mod journal;
pub mod lock;
#[cfg(test)]
pub(crate) mod memory;
mod observe;
mod others;
mod phase;
mod preparation;
mod prepare;
pub mod receipt;
mod records;
mod requests;
pub mod reverting;
mod settled;
pub mod store;
mod unit;

use std::time::Duration;

use self::actor::Actor;
use self::store::Store;
use crate::kernel::error::{Error, Result};
use crate::protocol::{Reply, Request};

/// One connection to a host: answers requests, and remembers the transaction that it holds.
#[derive(Debug)]
pub struct Agent {
    store: Box<dyn Store>,
    actor: Box<dyn Actor>,
    held: Option<requests::HeldTransaction>,
}

impl Agent {
    /// An agent that holds no transaction.
    pub fn new(store: impl Store + 'static, actor: impl Actor + 'static) -> Self {
        Self { store: Box::new(store), actor: Box::new(actor), held: None }
    }

    /// Answers `request`. Every thread of the runtime must be in the same network namespace.
    ///
    /// An error is an answer too: [`Reply::Refused`] where no step was executed, a failure in the
    /// execution where one was.
    pub async fn answer(&mut self, request: Request) -> Reply {
        self.write_last_request();
        let reply = match self.try_answer(request).await {
            Ok(reply) => reply,
            Err(error) => Reply::Refused(error.to_failure()),
        };
        self.write_last_request();
        reply
    }

    async fn try_answer(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Observe { topology, sysctls, counters } => {
                let Self { store, actor, .. } = self;
                let (store, actor) = (store.as_ref(), actor.as_ref());
                let observation =
                    observe::observe(store, actor, &topology, &sysctls, counters).await?;
                Ok(Reply::Observed(Box::new(observation)))
            }
            Request::Prepare(request) => prepare::prepare(self, &request).await,
            Request::Resume { topology, transaction, by, idle_limit_s, force } => {
                requests::resume(self, &topology, &transaction, &by, idle_limit_s, force).await
            }
            Request::Execute { topology, transaction, steps, sysctls } => {
                requests::execute(self, &topology, &transaction, &steps, &sysctls).await
            }
            Request::Vote { topology, transaction } => {
                requests::vote(self, &topology, &transaction).await
            }
            Request::Close { topology, transaction, decision } => {
                requests::close(self, &topology, &transaction, decision).await
            }
            Request::WhoHas { dev, target, wait_ms } => {
                in_range(LISTENING, wait_ms, 1, 10_000)?;
                let wait = Duration::from_millis(wait_ms.into());
                Ok(Reply::Answered(self.actor.who_has(&dev, target, wait).await?))
            }
            Request::FindHolders { addresses, wait_ms } => {
                in_range(LISTENING, wait_ms, 1, 10_000)?;
                let wait = Duration::from_millis(wait_ms.into());
                Ok(Reply::Holders(self.actor.find_holders(&addresses, wait).await))
            }
            Request::Examine { routes } => {
                let count = u32::try_from(routes.len()).unwrap_or(u32::MAX);
                in_range("the number of packets to ask about", count, 0, 10_000)?;
                Ok(Reply::Examined(self.actor.examine(&routes).await?))
            }
            Request::WatchDrops { addresses, wait_ms } => {
                in_range(LISTENING, wait_ms, 1, 60_000)?;
                let wait = Duration::from_millis(wait_ms.into());
                Ok(Reply::Dropped(self.actor.watch_drops(&addresses, wait).await?))
            }
            Request::Fetch { target, protocol, count, timeout_ms } => {
                in_range("the number of requests", count, 1, 10_000)?;
                in_range("the time for one request in milliseconds", timeout_ms, 1, 60_000)?;
                let timeout = Duration::from_millis(timeout_ms.into());
                Ok(Reply::Fetched(self.actor.fetch(target, protocol, count, timeout).await?))
            }
            Request::Reboot => {
                requests::check_root(self.actor.as_ref())?;
                self.actor.reboot()?;
                Ok(Reply::Rebooting)
            }
        }
    }
}

const LISTENING: &str = "the time to listen in milliseconds";

fn in_range(what: &str, value: u32, lowest: u32, highest: u32) -> Result<()> {
    if (lowest..=highest).contains(&value) {
        return Ok(());
    }
    Err(Error::new(format!("{what} is {lowest} to {highest}, not {value}")))
}

/// Compiles only if an answer can be awaited on any thread of a runtime.
const _: fn(&mut Agent, Request) = |agent, request| {
    fn can_move<T: Send>(_: T) {}
    can_move(agent.answer(request));
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::path::Path;

    /// The machine reaches files and the kernel through its two traits alone: else a crash in a test would
    /// not be one.
    #[test]
    fn the_machine_has_no_other_way_to_the_host() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/transaction");
        let ways = ["std::fs", "std::process", "std::env", "nix::", "super::disk", "agent::host"];
        let mut files = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir()
                || path.extension().is_none_or(|extension| extension != "rs")
                || name.contains("test")
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            for way in ways {
                let found = code
                    .lines()
                    .find(|line| line.contains(way) && !line.trim_start().starts_with("//"));
                assert_eq!(found, None, "{name}");
            }
            files += 1;
        }
        assert!(files > 10, "only {files} files were read");
    }
}
