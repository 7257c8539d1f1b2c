//! Which real server should have answered how often: what the counts of one client are judged by.
//!
//! The client asks one request after the other, each on a connection of its own that is closed before
//! the next; all comes from one address. What the kernel does with that, by scheduler
//! (net/netfilter/ipvs/ip_vs_NAME.c):
//!
//! * `rr`, `wrr` repeat one sequence, of as many picks as there are servers, or as the weights sum up
//!   to after division by their greatest common divisor. The bounds are exact wherever it begins.
//! * `lc`, `wlc` weigh `256 * active + inactive` connections, `wlc` by weight. A connection that is
//!   closed stays as inactive for minutes, so the counts even out: shares within a tolerance, because
//!   the last connection may still count as active when the next one comes.
//! * `sed`, `nq`, `ovf` count active connections only, and there is none when the next request comes.
//!   `sed` and `ovf` then take the strongest server, `nq` the first in its list. A connection that is
//!   not closed yet lets another server have some: any server with a weight may answer.
//! * `fo` takes the strongest server, always.
//! * `sh`, `mh` hash the client's address, `dh`, `lblc`, `lblcr` go by the VIP: one server for all.
//!   `sh` and `dh` can pick a server of weight 0, and drop the request (trap 36).
//! * `twos` draws lots: shares within a wide tolerance.
//!
//! This is so for a director that starts from nothing. Earlier connections count too where connections
//! are counted, for minutes, even if service and server were deleted since: IPVS keeps a deleted
//! server that has connections, and takes it up again with them (ip_vs_ctl.c, `ip_vs_trash_get_dest`).
//!
//! A server of weight 0 gets nothing, whatever the scheduler.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::clients::Tally;
use crate::topology::Scheduler;

/// What counts are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// For each server how many answers it may have given.
    pub ranges: BTreeMap<String, RangeInclusive<u32>>,
    /// Whether one server must have given them all.
    pub one_for_all: bool,
    /// The rule in words, for a report.
    pub rule: &'static str,
}

/// What `requests` sequential requests of one client should come to. A server that stands in the list
/// twice (with two ports) counts with both weights.
pub fn expected_share(scheduler: Scheduler, servers: &[(String, u32)], requests: u32) -> Expected {
    let (rule, one_for_all) = rule(scheduler);
    let usable: Vec<u64> =
        servers.iter().filter(|(_, weight)| *weight > 0).map(|(_, w)| u64::from(*w)).collect();
    let strongest = usable.iter().copied().max().unwrap_or_default();
    let unique = usable.iter().filter(|weight| **weight == strongest).count() == 1;
    let divisor = usable.iter().copied().fold(0, gcd).max(1);
    let total: u64 = usable.iter().sum();
    let count = usable.len() as u64;

    let mut ranges: BTreeMap<String, RangeInclusive<u32>> = BTreeMap::new();
    for (name, weight) in servers {
        let weight = u64::from(*weight);
        let n = u64::from(requests);
        let range = match scheduler {
            _ if weight == 0 => 0..=0,
            Scheduler::Rr => of_cycle(n, 1, count),
            Scheduler::Wrr => of_cycle(n, weight / divisor, total / divisor),
            Scheduler::Lc => around(n, 1, count, 10),
            Scheduler::Wlc => around(n, weight, total, 10),
            Scheduler::Twos => around(n, weight, total, 2),
            Scheduler::Fo if unique && weight == strongest => n..=n,
            Scheduler::Fo if weight < strongest => 0..=0,
            _ => 0..=n,
        };
        let seen = ranges.entry(name.clone()).or_insert(0..=0);
        let sum = |a: u32, b: u64| u32::try_from(u64::from(a) + b).unwrap_or(u32::MAX);
        *seen = sum(*seen.start(), *range.start())..=sum(*seen.end(), *range.end()).min(requests);
    }
    Expected { ranges, one_for_all, rule }
}

fn rule(scheduler: Scheduler) -> (&'static str, bool) {
    match scheduler {
        Scheduler::Rr => ("each in its turn", false),
        Scheduler::Wrr => ("each in its turn, as often as its weight says", false),
        Scheduler::Lc => ("evenly, within a tenth", false),
        Scheduler::Wlc => ("by weight, within a tenth of all", false),
        Scheduler::Twos => ("by weight and chance, within half of all", false),
        Scheduler::Sed | Scheduler::Nq | Scheduler::Ovf => {
            ("any server with a weight: without load nothing is to be balanced", false)
        }
        Scheduler::Fo => ("the server with the highest weight", true),
        Scheduler::Sh | Scheduler::Mh => ("one server, by the client's address", true),
        Scheduler::Dh | Scheduler::Lblc | Scheduler::Lblcr => ("one server, by the VIP", true),
    }
}

/// How often one that has `share` places in a cycle of `length` comes up in `n` picks in a row,
/// wherever they begin.
fn of_cycle(n: u64, share: u64, length: u64) -> RangeInclusive<u64> {
    let (rounds, rest) = (n / length, n % length);
    let least = rounds * share + rest.saturating_sub(length - share);
    let most = rounds * share + rest.min(share);
    least..=most
}

/// `n * share / total`, give or take two and an `nth` of `n`.
fn around(n: u64, share: u64, total: u64, nth: u64) -> RangeInclusive<u64> {
    let slack = 2 + n / nth;
    // In 128 bits, for weights up to 2^31 and requests up to 2^32 exactly.
    let exact = u128::from(n) * u128::from(share) / u128::from(total);
    let exact = u64::try_from(exact).unwrap_or(n);
    exact.saturating_sub(slack)..=(exact + slack).min(n)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Expected {
    /// What is wrong with `tally`, one line each; nothing if it is as it should be. A request without
    /// an answer is always wrong, as is an answer from somebody unknown.
    pub fn judge(&self, tally: &Tally) -> Vec<String> {
        let Tally { answers, failures } = tally;
        let mut wrong = Vec::new();
        for (reason, count) in failures {
            wrong.push(format!("{count} requests were not answered: {reason}"));
        }
        for name in answers.keys().filter(|name| !self.ranges.contains_key(*name)) {
            wrong.push(format!("{name:?} answered, which is no real server of the service"));
        }
        for (name, range) in &self.ranges {
            let count = answers.get(name).copied().unwrap_or_default();
            if !range.contains(&count) {
                let (least, most) = (range.start(), range.end());
                let wanted =
                    if least == most { format!("{least}") } else { format!("{least} to {most}") };
                let rule = self.rule;
                wrong.push(format!("{name} answered {count} times, not {wanted} ({rule})"));
            }
        }
        let answered = answers.values().filter(|count| **count > 0).count();
        if self.one_for_all && answered > 1 {
            wrong.push(format!("{answered} servers answered, not one ({})", self.rule));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().enumerate().map(|(n, w)| (format!("web{n}"), *w)).collect()
    }

    fn tally(counts: &[u32]) -> Tally {
        let answers = counts.iter().enumerate().map(|(n, count)| (format!("web{n}"), *count));
        Tally { answers: answers.collect(), ..Tally::default() }
    }

    fn wrong(scheduler: Scheduler, weights: &[u32], counts: &[u32]) -> Vec<String> {
        let expected = expected_share(scheduler, &servers(weights), counts.iter().sum());
        expected.judge(&tally(counts))
    }

    #[test]
    fn shares_that_are_right_pass_and_others_do_not() {
        use Scheduler::{Dh, Fo, Lc, Nq, Rr, Sed, Sh, Twos, Wlc, Wrr};
        let right: [(Scheduler, &[u32], &[u32]); 12] = [
            (Rr, &[1, 1], &[5, 5]),
            (Rr, &[1, 9], &[5, 4]),
            (Rr, &[1, 0, 1], &[5, 0, 5]),
            (Wrr, &[1, 3], &[5, 15]),
            (Wrr, &[2, 6], &[5, 15]),
            (Lc, &[1, 3], &[10, 10]),
            (Wlc, &[1, 3], &[6, 14]),
            (Sed, &[1, 3], &[0, 20]),
            (Nq, &[1, 3], &[20, 0]),
            (Fo, &[1, 3], &[0, 20]),
            (Sh, &[1, 3], &[20, 0]),
            (Twos, &[1, 1], &[13, 7]),
        ];
        for (scheduler, weights, counts) in right {
            let wrong = wrong(scheduler, weights, counts);
            assert!(wrong.is_empty(), "{scheduler} {weights:?} {counts:?}: {wrong:?}");
        }
        let not: [(Scheduler, &[u32], &[u32]); 9] = [
            (Rr, &[1, 1], &[6, 4]),
            (Rr, &[1, 1], &[20, 0]),
            (Rr, &[1, 0], &[9, 1]),
            (Wrr, &[1, 3], &[10, 10]),
            (Wlc, &[1, 3], &[10, 10]),
            (Fo, &[1, 3], &[1, 19]),
            (Sh, &[1, 1], &[10, 10]),
            (Dh, &[0, 1], &[1, 0]),
            (Sed, &[0, 1], &[1, 19]),
        ];
        for (scheduler, weights, counts) in not {
            assert!(!wrong(scheduler, weights, counts).is_empty(), "{scheduler} {counts:?} passed");
        }
    }

    #[test]
    fn requests_without_an_answer_and_strangers_are_wrong() {
        let expected = expected_share(Scheduler::Sed, &servers(&[1, 1]), 3);
        let mut counts = tally(&[1, 1]);
        counts.failures.insert("timed out".into(), 1);
        assert_eq!(expected.judge(&counts).len(), 1);
        counts.answers.insert("director".into(), 1);
        assert_eq!(expected.judge(&counts).len(), 2);
    }

    /// The sequence of ip_vs_wrr.c, for one list of weights.
    fn wrr_sequence(weights: &[u32]) -> Vec<usize> {
        let divisor = weights.iter().filter(|w| **w > 0).fold(0, |a, w| gcd(a, u64::from(*w)));
        let step = u32::try_from(divisor.max(1)).unwrap_or(1);
        let most = weights.iter().copied().max().unwrap_or_default();
        let levels = (1..=most / step).rev().map(|level| level * step);
        levels
            .flat_map(|level| {
                let reached = move |(nth, weight): (usize, &u32)| (*weight >= level).then_some(nth);
                weights.iter().enumerate().filter_map(reached)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_window_of_the_kernels_sequence_passes(
            weights in prop::collection::vec(0_u32..6, 1..5),
            skipped in 0_usize..40,
            requests in 0_usize..60,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            for scheduler in [Scheduler::Rr, Scheduler::Wrr] {
                let flat: Vec<u32> = weights.iter().map(|w| (*w).min(1)).collect();
                let weights = if scheduler == Scheduler::Rr { &flat } else { &weights };
                let mut counts = vec![0; weights.len()];
                for pick in wrr_sequence(weights).iter().cycle().skip(skipped).take(requests) {
                    counts[*pick] += 1;
                }
                let wrong = wrong(scheduler, weights, &counts);
                prop_assert!(wrong.is_empty(), "{:?} {:?}: {:?}", weights, counts, wrong);
            }
        }

        #[test]
        fn any_weights_are_judged_without_panic(
            weights in prop::collection::vec(any::<u32>(), 0..5),
            requests: u32,
        ) {
            for scheduler in Scheduler::ALL {
                let expected = expected_share(*scheduler, &servers(&weights), requests);
                for range in expected.ranges.values() {
                    prop_assert!(range.start() <= range.end() && *range.end() <= requests);
                }
            }
        }
    }
}
