//! From the record of requests to the figures of one client and service. Pure.

use std::time::{Duration, Instant};

use crate::lab::clients::Attempt;
use crate::report::chaos::RequestCount;

/// The moments of one fault, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultMoments {
    /// The part begins to die.
    pub began: Instant,
    /// Its return begins.
    pub returning: Instant,
    /// Everything is answered again.
    pub answered: Instant,
    /// The measurement ends.
    pub ended: Instant,
}

/// The figures of one client and service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFigures {
    /// The longest time without an answered request.
    pub outage: Duration,
    /// Requests that were under way when the part died, or whose whole time lay before its return.
    pub dead: RequestCount,
    /// Requests that began later and before everything was answered again: TCP may have repeated them after the return.
    pub returning: RequestCount,
    /// Requests that began afterwards.
    pub after: RequestCount,
    /// From the fault to the begin of the last failed request that began before the return.
    pub failing: Option<Duration>,
    /// Whether a request failed that began when the part had soon been dead for its whole time: [`BEYOND`] and `patience`
    /// before the return, or later.
    pub until_return: bool,
    /// From the begin of the return to the begin of the last failed request after it.
    pub failing_return: Option<Duration>,
}

/// The figures of `attempts`, which are of one client and one service. `patience`: after this time a request counts as
/// failed.
pub fn figures(attempts: &[Attempt], moments: &FaultMoments, patience: Duration) -> StreamFigures {
    let FaultMoments { began, returning, answered, .. } = *moments;
    let chosen = |chooses: &dyn Fn(&Attempt) -> bool| -> Vec<&Attempt> {
        // What ended before the fault is no matter of it.
        attempts.iter().filter(|it| it.ended > began && chooses(it)).collect()
    };
    let last_failed = |from: Instant, to: Instant| {
        let failed = |it: &Attempt| it.result.is_err() && it.started >= from && it.started < to;
        chosen(&failed).iter().map(|it| it.started).max()
    };
    let before = |it: &Attempt| it.started < returning;
    let failing = chosen(&|it| before(it) && it.result.is_err());
    let failing = failing.iter().map(|it| it.started).max();
    let is_dead = |it: &Attempt| before(it) && it.started + patience < returning;
    StreamFigures {
        outage: longest_gap(attempts, moments),
        dead: count(&chosen(&is_dead)),
        returning: count(&chosen(&|it| !is_dead(it) && it.started < answered)),
        after: count(&chosen(&|it| !is_dead(it) && it.started >= answered)),
        failing: failing.map(|at| at.saturating_duration_since(began)),
        until_return: failing.is_some_and(|at| at >= began && at + patience + BEYOND >= returning),
        failing_return: last_failed(returning, answered).map(|at| at - returning),
    }
}

fn count(attempts: &[&Attempt]) -> RequestCount {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let failed = attempts.iter().filter(|attempt| attempt.result.is_err()).count();
    RequestCount { sent: number(attempts.len()), failed: number(failed) }
}

/// The longest time between two answers of which the second came after the fault, or between the last one and the end. Without
/// an answer before the fault it counts from the fault.
fn longest_gap(attempts: &[Attempt], moments: &FaultMoments) -> Duration {
    let FaultMoments { began, ended, .. } = *moments;
    let answers = attempts.iter().filter(|attempt| attempt.result.is_ok());
    let mut answers: Vec<Instant> = answers.map(|attempt| attempt.ended).collect();
    answers.sort();
    let mut last = answers.iter().rev().find(|at| **at <= began).copied().unwrap_or(began);
    let mut longest = Duration::ZERO;
    for at in answers.into_iter().filter(|at| *at > began).chain([ended]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = last.max(at);
    }
    longest
}

/// How long a part stays dead: `wanted`, but longer than every promise about it, as its return would prove a shorter one. A
/// request that begins [`BEYOND`] after that, or after the death, must also have the time to fail.
pub fn time_dead(
    wanted: Duration,
    patience: Duration,
    promised_s: impl IntoIterator<Item = u32>,
) -> Duration {
    let promised = promised_s.into_iter().max().unwrap_or(0);
    let shown = Duration::from_secs(promised.into()).max(BEYOND) + BEYOND + patience;
    wanted.max(shown)
}

/// Time at the end of a death, before the last `patience` of it, in which failures show that there is no bound.
pub const BEYOND: Duration = Duration::from_secs(1);

/// How many requests in a row must be answered before a service counts as answered again: with one of `servers` dead, a
/// scheduler that goes round would have failed several of them.
pub fn answers_in_a_row(servers: usize) -> usize {
    (10 + 4 * servers).min(60)
}

/// Whether the last `wanted` requests that began after `since` are all answered.
pub fn is_answered_again(attempts: &[Attempt], since: Instant, wanted: usize) -> bool {
    let later: Vec<&Attempt> = attempts.iter().filter(|it| it.started >= since).collect();
    later.len() >= wanted && later.iter().rev().take(wanted).all(|it| it.result.is_ok())
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
