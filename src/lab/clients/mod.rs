//! Test clients: send requests to a service, count responses by real server and failures by reason.
//!
//! Each request is one connection, one after another, as [`crate::lab::expect`] requires. Sockets are
//! created in the client's namespace and used on the caller's runtime, which needs its I/O and time
//! drivers.

mod request;
mod sockets;
mod steady;
mod talk;
mod transfer;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use self::sockets::SocketFactory;
pub use self::steady::{SteadyRequests, SteadyStream};
pub use self::talk::{Talk, open_talks};
pub use self::transfer::{Transfer, TransferDirection, transfer};
use super::{Lab, LabError};
use crate::names::HostName;
use crate::state::Protocol;

/// Number of responses by real server, and of failures by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// By real server.
    pub answers: BTreeMap<String, u32>,
    /// By reason: `refused`, `timed out`, `no route`, `reset`, or the kernel's error text.
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

/// The response of a real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The real server's name.
    pub server: String,
    /// The client's address as the real server saw it; `None` if the response has none.
    pub saw: Option<IpAddr>,
}

/// One request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRequest {
    /// Source address, one of the client's; `None`: the kernel chooses.
    pub from: Option<IpAddr>,
    /// Destination.
    pub target: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Timeout of the response.
    pub patience: Duration,
}

/// After this number of failures in a row no more requests are sent.
const MAX_FAILURES_IN_A_ROW: u32 = 4;

/// Sends `questions` from `client`, one after another, each from a fresh socket and port. The inner
/// errors are the reasons of [`Tally::failures`]; after four failures in a row the rest is not sent.
///
/// # Errors
/// If there is no such host or its namespace cannot be entered.
pub async fn ask_each(
    lab: &Lab,
    client: &HostName,
    questions: &[ClientRequest],
) -> Result<Vec<Result<Response, String>>, LabError> {
    let sockets = SocketFactory::of(lab, client)?;
    let mut results = Vec::new();
    let mut failures_in_a_row = 0;
    for question in questions {
        if failures_in_a_row >= MAX_FAILURES_IN_A_ROW {
            results.push(Err("not sent after repeated failures".to_owned()));
            continue;
        }
        let result = request::ask_once(&sockets, *question).await;
        failures_in_a_row = if result.is_ok() { 0 } else { failures_in_a_row + 1 };
        results.push(result);
    }
    Ok(results)
}

/// Sends `count` datagrams from `client` to `target`, all from one source port, each after the response
/// or timeout of the one before.
///
/// # Errors
/// As [`ask_each`].
pub async fn ask_from_one_port(
    lab: &Lab,
    client: &HostName,
    target: SocketAddr,
    count: u32,
    patience: Duration,
) -> Result<Vec<Result<Response, String>>, LabError> {
    let sockets = SocketFactory::of(lab, client)?;
    let opened = request::open_udp(&sockets, None, target).await;
    let socket = opened.map_err(LabError::io(format!("ask {target} from {client}")))?;
    let mut results = Vec::new();
    for _ in 0..count {
        let answer = request::in_time(patience, request::exchange(&socket)).await;
        results.push(
            answer.and_then(|bytes| {
                request::parse_response(&bytes).map_err(|error| error.to_string())
            }),
        );
    }
    Ok(results)
}

/// Sends `count` requests from `client`, one after another, each from a fresh socket and for at most
/// `patience`.
///
/// # Errors
/// If there is no such host or its namespace cannot be entered. A request without a response is
/// counted, not an error.
pub async fn ask(
    lab: &Lab,
    client: &HostName,
    target: SocketAddr,
    protocol: Protocol,
    count: u32,
    patience: Duration,
) -> Result<Tally, LabError> {
    let question = ClientRequest { from: None, target, protocol, patience };
    let sockets = SocketFactory::of(lab, client)?;
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
    /// Start time.
    pub started: Instant,
    /// Time of the response or timeout.
    pub ended: Instant,
    /// The real server, or the reason of the failure.
    pub result: Result<String, String>,
}

/// Endless requests, one after another, in the background. Ends when dropped.
pub struct Stream {
    /// [`Stream::stop`] drops it, which ends the task.
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
}

/// Minimum time between the starts of two requests of a stream.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

impl Stream {
    /// Starts the stream. A request starts `interval` (at least 1 ms) after the start of the one before,
    /// but not before that one has ended. Must be called on a runtime.
    ///
    /// # Errors
    /// As [`ask`].
    // Async without an await: the type shows that it needs a runtime.
    #[allow(clippy::unused_async)]
    pub async fn start(
        lab: &Lab,
        client: &HostName,
        target: SocketAddr,
        protocol: Protocol,
        interval: Duration,
        patience: Duration,
    ) -> Result<Self, LabError> {
        let sockets = SocketFactory::of(lab, client)?;
        let question = ClientRequest { from: None, target, protocol, patience };
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

    /// The finished requests, in start order.
    pub fn so_far(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the running request and returns all requests, in start order.
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

/// The failed attempts that started after the first response. An earlier attempt proves nothing, even if
/// it ended later: it may have been sent before the service existed. Also empty without any response;
/// the caller must check for that.
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
    fn only_attempts_after_the_first_response_can_be_lost() {
        let made = attempts(&[
            (0, 1, Err("refused")),
            (2, 50, Err("timed out")), // started before the first response, ended after it
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
    fn without_a_response_no_attempt_is_lost() {
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
