//! Requests at a steady rate: each begins at its time, whether the ones before were answered or not. So the time without
//! an answer is measured as finely as the rate, and not as coarsely as the timeout of a request.
//!
//! The times have some chance in them: two clients in step would each get the same real server of two that take turns.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep_until;

use super::sockets::SocketFactory;
use super::{Attempt, ClientRequest, request};
use crate::lab::{Lab, LabError};
use crate::names::HostName;

/// Most requests of one stream at a time. More are left out: a machine that is too slow must not be made slower.
const MOST_UNDER_WAY: usize = 100;

/// What a stream sends, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteadyRequests {
    /// Each request.
    pub request: ClientRequest,
    /// From the start of one to the start of the next, on average; at least 1 ms. Each time is half of it to one and a half.
    pub every: Duration,
}

/// Endless requests at a steady rate in the background. Dropped, it aborts those under way, as a power cut does.
pub struct SteadyStream {
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
}

impl SteadyStream {
    /// Starts it on the current runtime.
    ///
    /// # Errors
    /// If there is no such host or its namespace cannot be entered.
    // Async without an await: the type shows that it needs a runtime.
    #[allow(clippy::unused_async)]
    pub async fn start(
        lab: &Lab,
        client: &HostName,
        requests: SteadyRequests,
    ) -> Result<Self, LabError> {
        let sockets = Arc::new(SocketFactory::of(lab, client)?);
        let (stop, mut stopped) = oneshot::channel();
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let made = Arc::clone(&attempts);
        let SteadyRequests { request: question, every } = requests;
        let task = tokio::spawn(async move {
            let every = every.max(super::SHORTEST_INTERVAL);
            let chance = RandomState::new();
            let mut next = Instant::now();
            let mut running = JoinSet::new();
            for nth in 0_u64.. {
                tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    () = sleep_until(next.into()) => {}
                }
                next = Instant::now() + every / 2 + part_of(every, chance.hash_one(nth));
                while running.try_join_next().is_some() {}
                if running.len() >= MOST_UNDER_WAY {
                    continue;
                }
                let (sockets, made) = (Arc::clone(&sockets), Arc::clone(&made));
                running.spawn(async move {
                    let started = Instant::now();
                    let result = request::ask_once(&sockets, question).await;
                    let result = result.map(|answer| answer.server);
                    let attempt = Attempt { started, ended: Instant::now(), result };
                    made.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                });
            }
            while running.join_next().await.is_some() {}
        });
        Ok(Self { stop: Some(stop), task: Some(task), attempts })
    }

    /// The finished requests, in the order in which they ended.
    pub fn so_far(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends no more, waits for those under way, and returns all.
    pub async fn stop(mut self) -> Vec<Attempt> {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            // It ends by itself, as each request has a timeout. A panic in it is a lost record.
            let _ = task.await;
        }
        self.so_far()
    }
}

impl Drop for SteadyStream {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// `chance` parts of 2^64 of `time`.
fn part_of(time: Duration, chance: u64) -> Duration {
    let nanos = time.as_nanos().saturating_mul(u128::from(chance)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_time_is_between_nothing_and_all_of_it() {
        let time = Duration::from_millis(80);
        assert_eq!(part_of(time, 0), Duration::ZERO);
        assert_eq!(part_of(time, 1 << 63), time / 2);
        assert!(part_of(time, u64::MAX) < time);
    }
}
