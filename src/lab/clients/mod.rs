//! The client's side: asks a service, and counts who answered and why others did not.
//!
//! Each request is a connection of its own, one after another, as the schedulers' expectations
//! ([`crate::lab::expect`]) take for granted. Sockets are made in the client's namespace and used
//! on the caller's runtime, which needs its I/O and time drivers.

mod request;
mod sockets;
mod transfer;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use self::sockets::Sockets;
pub use self::transfer::{Transfer, Way, transfer};
use super::{Lab, LabError};
use crate::names::HostName;
use crate::state::Protocol;

/// Who answered how often, and what else happened how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// By the name that was answered: that of a real server.
    pub answers: BTreeMap<String, u32>,
    /// By reason: `refused`, `timed out`, `no route`, `reset`, or what the kernel said.
    pub failures: BTreeMap<String, u32>,
}

impl Tally {
    /// Adds one result.
    pub fn count(&mut self, result: Result<String, String>) {
        let (kind, name) = match result {
            Ok(name) => (&mut self.answers, name),
            Err(reason) => (&mut self.failures, reason),
        };
        let count = kind.entry(name).or_default();
        *count = count.saturating_add(1);
    }
}

/// What a responder said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its name: that of a real server.
    pub server: String,
    /// The address at which it saw the client; `None` if it said none.
    pub saw: Option<IpAddr>,
}

/// Where a request goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// One of the client's addresses; `None`: the kernel's choice.
    pub from: Option<IpAddr>,
    /// What is asked.
    pub target: SocketAddr,
    /// Over which protocol.
    pub protocol: Protocol,
    /// How long an answer is waited for.
    pub patience: Duration,
}

/// So many requests in a row that nobody answers are enough to know.
const GIVE_UP_AFTER: u32 = 4;

/// Sends `questions` from `client`, one after another, each from a fresh socket and port. The inner
/// errors are the reasons of [`Tally::failures`]; after four of them in a row the rest is not sent.
///
/// # Errors
/// If there is no such host or its namespace cannot be entered.
pub async fn ask_each(
    lab: &Lab,
    client: &HostName,
    questions: &[Question],
) -> Result<Vec<Result<Answer, String>>, LabError> {
    let sockets = Sockets::of(lab, client)?;
    let mut results = Vec::new();
    let mut in_vain = 0;
    for question in questions {
        if in_vain >= GIVE_UP_AFTER {
            results.push(Err("not tried any more".to_owned()));
            continue;
        }
        let result = request::ask_once(&sockets, *question).await;
        in_vain = if result.is_ok() { 0 } else { in_vain + 1 };
        results.push(result);
    }
    Ok(results)
}

/// Sends `count` datagrams from `client` to `target`, all from one socket and so from one port; each
/// when the one before was answered or given up.
///
/// # Errors
/// As [`ask_each`].
pub async fn ask_from_one_port(
    lab: &Lab,
    client: &HostName,
    target: SocketAddr,
    count: u32,
    patience: Duration,
) -> Result<Vec<Result<Answer, String>>, LabError> {
    let sockets = Sockets::of(lab, client)?;
    let opened = request::open_udp(&sockets, None, target).await;
    let socket = opened.map_err(LabError::io(format!("ask {target} from {client}")))?;
    let mut results = Vec::new();
    for _ in 0..count {
        let answer = request::in_time(patience, request::exchange(&socket)).await;
        results.push(
            answer.and_then(|bytes| request::said(&bytes).map_err(|error| error.to_string())),
        );
    }
    Ok(results)
}

/// Sends `count` requests from `client`, one after another, each from a fresh socket and for at most
/// `patience`.
///
/// # Errors
/// If there is no such host or its namespace cannot be entered. A request that nobody answers is no
/// error but counted.
pub async fn ask(
    lab: &Lab,
    client: &HostName,
    target: SocketAddr,
    protocol: Protocol,
    count: u32,
    patience: Duration,
) -> Result<Tally, LabError> {
    let question = Question { from: None, target, protocol, patience };
    let sockets = Sockets::of(lab, client)?;
    let mut tally = Tally::default();
    for _ in 0..count {
        let result = request::ask_once(&sockets, question).await;
        tally.count(result.map(|answer| answer.server));
    }
    Ok(tally)
}

/// One request of a [`Stream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub started: Instant,
    /// When it was answered or given up.
    pub ended: Instant,
    /// The name that was answered, or the reason why none was.
    pub result: Result<String, String>,
}

/// Requests without end, one after another, in the background. Dropping it ends it.
pub struct Stream {
    /// Taken, and with it the task told to end, by [`Stream::stop`].
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
}

/// The shortest pause between the beginnings of two requests of a stream.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

impl Stream {
    /// Begins. The next request starts `interval` (at least a millisecond) after the one before, or
    /// when that is done, whichever is later. To be called on a runtime.
    ///
    /// # Errors
    /// As [`ask`].
    // Async although it never waits: it needs a runtime, and says so by its type.
    #[allow(clippy::unused_async)]
    pub async fn start(
        lab: &Lab,
        client: &HostName,
        target: SocketAddr,
        protocol: Protocol,
        interval: Duration,
        patience: Duration,
    ) -> Result<Self, LabError> {
        let sockets = Sockets::of(lab, client)?;
        let question = Question { from: None, target, protocol, patience };
        let interval = interval.max(SHORTEST_INTERVAL);
        let (stop, mut stopped) = oneshot::channel();
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let made = Arc::clone(&attempts);
        let task = tokio::spawn(async move {
            loop {
                let started = Instant::now();
                let result = request::ask_once(&sockets, question).await;
                let result = result.map(|answer| answer.server);
                let attempt = Attempt { started, ended: Instant::now(), result };
                made.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                tokio::select! {
                    biased;
                    _ = &mut stopped => return,
                    () = sleep_until((started + interval).into()) => {}
                }
            }
        });
        Ok(Self { stop: Some(stop), task: Some(task), attempts })
    }

    /// The requests that are done by now, in the order of their beginning.
    pub fn so_far(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the present request finish and returns all of them, in the order of their beginning.
    pub async fn stop(mut self) -> Vec<Attempt> {
        drop(self.stop.take());
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        self.so_far()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The attempts that were not answered although the service had answered before: each that began
/// after the first answer was there. One that began earlier says nothing, even if it ended later:
/// it may have been sent when there was no service yet. Empty too if nothing was ever answered;
/// whether anything was is for the caller to see.
pub fn lost_after_first_answer(attempts: &[Attempt]) -> Vec<Attempt> {
    let answered = attempts.iter().filter(|attempt| attempt.result.is_ok());
    let Some(first) = answered.map(|attempt| attempt.ended).min() else { return Vec::new() };
    let lost = |attempt: &&Attempt| attempt.result.is_err() && attempt.started >= first;
    attempts.iter().filter(lost).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(list: &[(u64, u64, Result<&str, &str>)]) -> Vec<Attempt> {
        let zero = Instant::now();
        let at = |milliseconds: u64| zero + Duration::from_millis(milliseconds);
        let attempt = |(started, ended, result): &(u64, u64, Result<&str, &str>)| Attempt {
            started: at(*started),
            ended: at(*ended),
            result: result.map(str::to_owned).map_err(str::to_owned),
        };
        list.iter().map(attempt).collect()
    }

    #[test]
    fn only_what_began_after_the_first_answer_can_be_lost() {
        let made = attempts(&[
            (0, 1, Err("refused")),
            (2, 50, Err("timed out")), // begun before the first answer, ended after it
            (10, 20, Ok("web1")),
            (15, 30, Err("reset")), // likewise
            (20, 21, Err("refused")),
            (30, 31, Ok("web2")),
            (40, 1040, Err("timed out")),
        ]);
        let lost = lost_after_first_answer(&made);
        assert_eq!(lost, vec![made[4].clone(), made[6].clone()]);
    }

    #[test]
    fn nothing_is_lost_where_nothing_was_ever_answered() {
        let list = attempts(&[(0, 1, Err("refused")), (1, 2, Err("refused"))]);
        assert!(lost_after_first_answer(&list).is_empty());
        assert!(lost_after_first_answer(&[]).is_empty());
    }

    #[test]
    fn a_tally_keeps_answers_and_failures_apart() {
        let mut tally = Tally::default();
        tally.count(Ok("web1".into()));
        tally.count(Ok("web1".into()));
        tally.count(Err("refused".into()));
        assert_eq!(tally.answers, BTreeMap::from([("web1".to_owned(), 2)]));
        assert_eq!(tally.failures, BTreeMap::from([("refused".to_owned(), 1)]));
    }
}
