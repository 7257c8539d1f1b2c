//! One request at a time: a request that changes a host holds the lock while it is executed, so that the
//! steps of two runs never mix.
//!
//! Between requests nothing is locked: then the journal names the connection that holds the transaction
//! ([`super::journal`]).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::store::{LockGuard, Store};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;

/// How often a lock that is held is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// Held until it is dropped, at the latest until the process ends: no stale lock is left behind.
pub struct Lock(#[allow(dead_code)] LockGuard);

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// The process that has the lock, as far as it has written that down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldBy {
    /// Its process id, and since when it has the lock, in seconds since 1970; `None`: not written yet.
    pub process: Option<(u32, u64)>,
    /// The topology of its request.
    pub topology: Option<TopologyName>,
}

impl HeldBy {
    /// From the text in the lock's file: process id, seconds since 1970, topology.
    pub fn from_signature(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut number = || words.next()?.parse::<u64>().ok();
        let process = number().and_then(|pid| Some((u32::try_from(pid).ok()?, number()?)));
        Self { process, topology: words.next().and_then(|name| name.parse().ok()) }
    }

    /// As an error, where the caller cannot wait.
    pub fn into_error(self) -> Error {
        let who = match self.process {
            Some((pid, since)) => format!("process {pid}, for {} s", now().saturating_sub(since)),
            None => "a process that just started".to_owned(),
        };
        Error::new(format!("another lvsprov is changing this host: {who}")).cure(
            "wait until it is done, then plan again: it may change what this plan starts from",
        )
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Takes the lock without waiting.
pub fn take(store: &dyn Store) -> Result<Lock> {
    store.try_lock(None)?.map(Lock).map_err(HeldBy::into_error)
}

/// Takes the lock as soon as it is free, within `patience`; `Ok(Err)`: it was held all the time.
pub async fn wait(
    store: &dyn Store,
    topology: &TopologyName,
    patience: Duration,
) -> Result<std::result::Result<Lock, HeldBy>> {
    let deadline = Instant::now() + patience;
    loop {
        match store.try_lock(Some(topology))? {
            Ok(guard) => return Ok(Ok(Lock(guard))),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(held) => return Ok(Err(held)),
        }
    }
}
