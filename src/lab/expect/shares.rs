//! The rules of [`super`] as numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::STRAY_INTERVAL;
use crate::state::Protocol;
use crate::topology::{Scheduler, SchedulerFlag, Service};

/// The expected result, with its text.
pub(super) struct ExpectedShares {
    pub(super) rule_set: ShareRule,
    /// The rule in two or three words.
    pub(super) rule: &'static str,
    /// The rule with numbers.
    pub(super) wanted: String,
}

pub(super) enum ShareRule {
    /// No response.
    NoAnswer,
    /// Each host's count is in a range, both ends included.
    Ranges(BTreeMap<String, (u64, u64)>),
    /// Any of these hosts. `may_refuse`: a hash may select a host of weight 0.
    Any { of: BTreeSet<String>, may_refuse: bool },
    /// All to one of `of`, except at most `strays` requests to any host of weight above 0.
    One { of: BTreeSet<String>, others: BTreeSet<String>, strays: u64, may_refuse: bool },
}

/// A host with a weight above 0.
type WeightedHost = (String, u64);

/// Connections of each host before the first request; see [`super::judge`].
pub type PriorConnections = BTreeMap<String, u64>;

pub(super) fn expected(
    service: &Service,
    requests: u32,
    before: &PriorConnections,
) -> ExpectedShares {
    let all = service.real_servers.iter();
    let all: Vec<WeightedHost> =
        all.map(|server| (server.host.to_string(), u64::from(server.weight))).collect();
    let open: Vec<WeightedHost> = all.iter().filter(|(_, weight)| *weight > 0).cloned().collect();
    if open.is_empty() {
        let rule = "no response, all weights are 0";
        return ExpectedShares { rule_set: ShareRule::NoAnswer, rule, wanted: rule.to_owned() };
    }
    let n = u64::from(requests);
    let even: Vec<WeightedHost> = open.iter().map(|(host, _)| (host.clone(), 1)).collect();
    let drained = all.len() > open.len();
    if service.persistence.is_some() {
        return one(&open, &open, "persistence: one", 0);
    }
    if service.real_servers.iter().any(|server| server.upper_threshold > 0) {
        return any(&open, "any below its threshold", false);
    }
    if service.one_packet && goes_by_connections(service.scheduler) {
        // Each connection ends before the next request, so none is counted.
        return one(&open, &open, "all to one, as no connection counts", 0);
    }
    if by_port(service) {
        return any(&open, "by the client's port", drained && !falls_back(service));
    }
    match service.scheduler {
        Scheduler::Rr => ranges("even", &even, &all, |d| in_cycle(d, &even, n)),
        Scheduler::Wrr => ranges("by weight", &open, &all, |d| in_cycle(d, &open, n)),
        Scheduler::Lc => ranges("about even", &even, &all, |d| fewest(d, &even, n, before)),
        Scheduler::Wlc => ranges("about by weight", &open, &all, |d| fewest(d, &open, n, before)),
        Scheduler::Twos => ranges("some to each", &open, &all, |d| (at_least_one(d, &open, n), n)),
        Scheduler::Sed => one(&heaviest(&open), &open, "all to the heaviest", strays(service, n)),
        Scheduler::Nq => one(&open, &open, "all to one", strays(service, n)),
        Scheduler::Fo | Scheduler::Ovf => one(&heaviest(&open), &open, "all to the heaviest", 0),
        Scheduler::Lblc | Scheduler::Lblcr | Scheduler::Mh => one(&open, &open, "all to one", 0),
        Scheduler::Dh | Scheduler::Sh => {
            let mut expected = one(&open, &open, "all to one", 0);
            if let ShareRule::One { may_refuse, .. } = &mut expected.rule_set
                && drained
                && !falls_back(service)
            {
                *may_refuse = true;
                expected.wanted += ", or no response if the hash selects weight 0";
            }
            expected
        }
    }
}

/// The flags of sh and mh are two bits with several names (include/uapi/linux/ip_vs.h).
fn has_flag(service: &Service, flag: SchedulerFlag) -> bool {
    service.scheduler_flags.iter().any(|has| has.bit() == flag.bit())
}

/// sh and mh hash the client's port as well (`IP_VS_SVC_F_SCHED_SH_PORT`, `..._MH_PORT`).
fn by_port(service: &Service) -> bool {
    matches!(service.scheduler, Scheduler::Sh | Scheduler::Mh)
        && has_flag(service, SchedulerFlag::ShPort)
}

/// sh chooses another host if the hash selects weight 0 (`IP_VS_SVC_F_SCHED_SH_FALLBACK`); the table of mh
/// has no hosts of weight 0 (`ip_vs_mh_populate`).
fn falls_back(service: &Service) -> bool {
    match service.scheduler {
        Scheduler::Sh => has_flag(service, SchedulerFlag::ShFallback),
        other => other == Scheduler::Mh,
    }
}

fn goes_by_connections(scheduler: Scheduler) -> bool {
    matches!(scheduler, Scheduler::Lc | Scheduler::Wlc)
}

fn any(open: &[WeightedHost], rule: &'static str, may_refuse: bool) -> ExpectedShares {
    let of: BTreeSet<String> = open.iter().map(|(host, _)| host.clone()).collect();
    let wanted = format!("{rule}: {}", of.iter().cloned().collect::<Vec<_>>().join(" or "));
    ExpectedShares { rule, wanted, rule_set: ShareRule::Any { of, may_refuse } }
}

fn ranges(
    rule: &'static str,
    open: &[WeightedHost],
    all: &[WeightedHost],
    range: impl Fn(&WeightedHost) -> (u64, u64),
) -> ExpectedShares {
    // A host may be two destinations, on two ports: the range is for their sum.
    let mut hosts: BTreeMap<String, (u64, u64)> =
        all.iter().map(|(host, _)| (host.clone(), (0, 0))).collect();
    for destination in open {
        let (low, high) = range(destination);
        let sum = hosts.entry(destination.0.clone()).or_default();
        *sum = (sum.0.saturating_add(low), sum.1.saturating_add(high));
    }
    let told = hosts.iter().map(|(host, (low, high))| {
        if low == high { format!("{host} {low}") } else { format!("{host} {low} to {high}") }
    });
    let told: Vec<String> = told.collect();
    let wanted = format!("{rule}: {}", told.join(", "));
    ExpectedShares { rule, wanted, rule_set: ShareRule::Ranges(hosts) }
}

fn one(
    of: &[WeightedHost],
    open: &[WeightedHost],
    rule: &'static str,
    strays: u64,
) -> ExpectedShares {
    let names =
        |list: &[WeightedHost]| list.iter().map(|(host, _)| host.clone()).collect::<BTreeSet<_>>();
    let (of, others) = (names(of), names(open));
    let told: Vec<&str> = of.iter().map(String::as_str).collect();
    let mut wanted = format!("{rule}: {}", told.join(" or "));
    if strays > 0 && others.len() > 1 {
        wanted = format!("{wanted}, except for at most {strays}");
    }
    ExpectedShares {
        rule,
        wanted,
        rule_set: ShareRule::One { of, others, strays, may_refuse: false },
    }
}

fn heaviest(open: &[WeightedHost]) -> Vec<WeightedHost> {
    let most = open.iter().map(|(_, weight)| *weight).max();
    open.iter().filter(|(_, weight)| Some(*weight) == most).cloned().collect()
}

/// A UDP connection is never active (connections start as inactive, `__ip_vs_update_dest` in ip_vs_ctl.c,
/// and UDP does not change that).
fn strays(service: &Service, requests: u64) -> u64 {
    match service.protocol {
        Protocol::Udp => 0,
        Protocol::Tcp | Protocol::Sctp => requests.div_ceil(u64::from(STRAY_INTERVAL)),
    }
}

/// The range for `n` consecutive requests in the endless cycle with weight / gcd(weights) places for each
/// host.
pub(super) fn in_cycle((_, weight): &WeightedHost, all: &[WeightedHost], n: u64) -> (u64, u64) {
    let divisor = all.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    let own = weight / divisor;
    let cycle: u64 = all.iter().map(|(_, weight)| weight / divisor).sum::<u64>().max(1);
    let (whole, rest) = (n / cycle * own, n % cycle);
    // In the incomplete cycle this host comes last or first.
    (whole + rest.saturating_sub(cycle - own), whole + rest.min(own))
}

pub(super) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// As [`fewest_connections`]. With prior connections it simulates the kernel's choices one by one, and
/// allows a difference of two: one for the order among equals, one for a connection whose end the kernel
/// sees late.
fn fewest(
    one: &WeightedHost,
    all: &[WeightedHost],
    n: u64,
    before: &PriorConnections,
) -> (u64, u64) {
    if before.values().all(|count| *count == 0) || all.len() < 2 {
        return fewest_connections(one, all, n);
    }
    let had = |host: &String| before.get(host).copied().unwrap_or(0);
    let mut counts: Vec<u64> = all.iter().map(|(host, _)| had(host)).collect();
    for _ in 0..n {
        // a / w < b / v, without dividing.
        let least = (0..all.len()).min_by(|a, b| {
            let load = |at: usize, by: usize| u128::from(counts[at]) * u128::from(all[by].1);
            load(*a, *b).cmp(&load(*b, *a))
        });
        if let Some(least) = least {
            counts[least] += 1;
        }
    }
    let at = all.iter().position(|destination| destination == one).unwrap_or(0);
    let gained = counts[at] - had(&one.0);
    (gained.saturating_sub(2), (gained + 2).min(n))
}

/// The host with the fewest connections for its weight gets the next request. Let `n_i` be what destination `i`
/// of `k` has, `w_i` its weight, `W` the sum of weights, `N` that of connections. When `i` was last
/// chosen, `(n_i - 1) / w_i <= n_j / w_j` for every `j`. Summed over `i` and over `j` this gives
/// `w N / W - (k - 1) w / W <= n <= w N / W + (W - w) / W`, always; so what is added between two
/// moments is off the exact share by at most the sum of both, `1 + (k - 2) w / W`. One more is
/// granted because a request may come before the end of the previous connection was seen, which then
/// counts as 256.
pub(super) fn fewest_connections(
    (_, weight): &WeightedHost,
    all: &[WeightedHost],
    n: u64,
) -> (u64, u64) {
    let sum = all.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>().max(1);
    let (weight, n) = (u128::from(*weight), u128::from(n));
    let others = u128::try_from(all.len()).unwrap_or(u128::MAX).saturating_sub(2);
    if all.len() < 2 {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        return (n, n);
    }
    // In units of 1 / W.
    let share = weight * n;
    let slack = 2 * sum + others * weight;
    let low = share.saturating_sub(slack).div_ceil(sum);
    let high = ((share + slack) / sum).min(n);
    (u64::try_from(low).unwrap_or(u64::MAX), u64::try_from(high).unwrap_or(u64::MAX))
}

/// A host without connections is chosen whenever one of the two draws selects it, with the probability of
/// its part of all weights (plus one, ip_vs_twos.c). 1 if the probability that none of `n` requests
/// selects it is below one in a million.
fn at_least_one((_, weight): &WeightedHost, all: &[WeightedHost], n: u64) -> u64 {
    let sum: u64 = all.iter().map(|(_, weight)| weight).sum();
    // Weights are below 2^31: exact in a float.
    #[allow(clippy::cast_precision_loss)]
    let missed = 1.0 - *weight as f64 / (sum + 1) as f64;
    let draws = i32::try_from(n.saturating_mul(2)).unwrap_or(i32::MAX);
    u64::from(missed.powi(draws) < 1e-6)
}

impl ShareRule {
    /// The rule while `others` more connections, or fewer, took their turns.
    pub(super) fn among(mut self, others: u64) -> Self {
        if let Self::Ranges(ranges) = &mut self {
            for (low, high) in ranges.values_mut().filter(|(_, high)| *high > 0) {
                (*low, *high) = (low.saturating_sub(others), high.saturating_add(others));
            }
        }
        self
    }

    /// Checks the counts; `Err` has the violation.
    pub(super) fn check(
        &self,
        answers: &BTreeMap<String, u32>,
        failed: u64,
        requests: u32,
    ) -> Result<(), String> {
        let no_answer = matches!(self, Self::NoAnswer | Self::One { may_refuse: true, .. });
        let may_fail = matches!(self, Self::NoAnswer | Self::Any { may_refuse: true, .. });
        if no_answer && answers.is_empty() {
            return Ok(());
        }
        if failed > 0 && !may_fail {
            return Err(format!("{failed} of {requests} requests failed"));
        }
        match self {
            Self::NoAnswer => Err("a real server answered".to_owned()),
            Self::Any { of, may_refuse: _ } => {
                match answers.keys().find(|name| !of.contains(*name)) {
                    Some(drained) => Err(format!("{drained} takes no requests")),
                    None => Ok(()),
                }
            }
            Self::Ranges(ranges) => {
                for (host, (low, high)) in ranges {
                    let got = answers.get(host).map_or(0, |n| u64::from(*n));
                    if got < *low || got > *high {
                        return Err(format!("{host} answered {got} times"));
                    }
                }
                Ok(())
            }
            Self::One { of, others, strays, may_refuse: _ } => {
                if let Some(drained) = answers.keys().find(|name| !others.contains(*name)) {
                    return Err(format!("{drained} answered although its weight is 0"));
                }
                let of = of.iter().filter_map(|host| answers.get(host));
                let most = of.max().map_or(0, |n| u64::from(*n));
                let elsewhere = u64::from(requests).saturating_sub(most);
                if elsewhere > *strays {
                    return Err(format!("{elsewhere} went to other hosts"));
                }
                Ok(())
            }
        }
    }
}
