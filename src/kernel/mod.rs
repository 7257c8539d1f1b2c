//! The kernel edge: what an agent does on its host. It obeys and decides nothing.
//!
//! [`observe`] reads a host, [`act`] changes it, [`arp`], [`ndp`] and [`traffic`] try it. Below them [`net`]
//! (rtnetlink), [`ipvs`] and [`nft`] (netlink in our own words, framed by [`wire`], carried by
//! [`netlink`]), [`sysctls`], [`modules`] and [`receipt`]. A transaction is begun in `begin` and worked at in
//! `transaction`; how it lies on the disk is in [`journal`], and who undoes it where nobody comes back in
//! [`revert`]. [`namespace`] chooses where all of that happens: everything here works in the network
//! namespace of the thread that calls it. [`sys`] holds the only unsafe code.

pub mod act;
pub mod arp;
mod begin;
mod cgroups;
mod disk;
pub mod error;
pub mod fault;
#[cfg(test)]
mod fuzz;
pub mod generic;
pub mod ipvs;
pub mod journal;
pub mod lock;
pub mod modules;
pub mod namespace;
pub mod ndp;
pub mod net;
pub mod netlink;
pub mod nft;
pub mod observe;
mod opening;
mod others;
mod phase;
pub mod process;
pub mod receipt;
mod records;
pub mod revert;
mod reverting;
pub mod sys;
pub mod sysctls;
pub mod traffic;
mod transaction;
pub mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::{Controller, Reply, Request};
use crate::topology::IfName;

pub use error::Error;

/// The host on which this process runs, in the network namespace in which it runs.
///
/// One value is one connection: it remembers which transaction that works at.
#[derive(Debug)]
pub struct Host {
    state_dir: PathBuf,
    program: PathBuf,
    piped: bool,
    held: Option<transaction::Held>,
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
            Request::Look { topology, sysctls, counters } => {
                let mut seen =
                    observe::look(&self.state_dir, &topology, &sysctls, counters).await?;
                if self.piped && seen.facts.controller == Controller::Unknown {
                    seen.facts.controller = Controller::Pipe;
                }
                Ok(Reply::Seen(Box::new(seen)))
            }
            Request::Begin(begin) => begin::begin(self, &begin).await,
            Request::TakeUp { topology, transaction, by, idle_limit_s, force } => {
                transaction::take_up(self, &topology, &transaction, &by, idle_limit_s, force).await
            }
            Request::Do { topology, transaction, steps, sysctls } => {
                transaction::carry_out(self, &topology, &transaction, &steps, &sysctls).await
            }
            Request::Agree { topology, transaction } => {
                transaction::agree(self, &topology, &transaction).await
            }
            Request::Settle { topology, transaction, ending } => {
                transaction::settle(self, &topology, &transaction, ending).await
            }
            Request::WhoHas { dev, target, wait_ms } => {
                in_range("the time to listen in milliseconds", wait_ms, 1, 10_000)?;
                who_has(&dev, target, Duration::from_millis(wait_ms.into())).await
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

/// The socket is opened here, in the right namespace; only the waiting goes to another thread.
async fn who_has(dev: &IfName, target: IpAddr, wait: Duration) -> error::Result<Reply> {
    let ask: Box<dyn FnOnce() -> std::io::Result<_> + Send> = match target {
        IpAddr::V4(target) => {
            let question = arp::Question::prepare(dev, target)?;
            Box::new(move || question.ask(wait))
        }
        IpAddr::V6(target) => {
            let question = ndp::Question::prepare(dev, target)?;
            Box::new(move || question.ask(wait))
        }
    };
    let failed = || Error::new(format!("cannot ask for {target} over {dev}"));
    let answers = tokio::task::spawn_blocking(ask)
        .await
        .map_err(|error| failed().because(error))?
        .map_err(|error| failed().because(error))?;
    Ok(Reply::Answered(answers.into_iter().map(|mac| mac.to_string()).collect()))
}

/// Compiles only if an answer can be awaited on any thread of a runtime.
const _: fn(&mut Host, Request) = |host, request| {
    fn can_move<T: Send>(_: T) {}
    can_move(host.answer(request));
};
