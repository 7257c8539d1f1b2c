//! The expected shares of the real servers by scheduler and weights, and the comparison with a [`Tally`].
//!
//! For requests as [`crate::lab::clients`] sends them: from one address, one after another, each one
//! connection that ends before the next starts, without other traffic. The expectations follow from the
//! kernel's schedulers (net/netfilter/ipvs/ip_vs_*.c):
//!
//! * A destination of weight 0 gets no requests, under every scheduler.
//! * **rr**, **wrr** repeat a fixed cycle: rr has each destination once (weights do not count), wrr
//!   weight / gcd(weights) times. The position in the cycle is unknown, so whole cycles are exact and the
//!   rest is a range.
//! * **lc**, **wlc** choose the minimum of `(active << 8) + inactive` (`ip_vs_dest_conn_overhead` in
//!   include/net/ip_vs.h), wlc divided by the weight. Finished connections stay inactive for a
//!   while: TCP 120 s in TIME_WAIT, or in FIN_WAIT where the director sees the client's packets only (DR,
//!   TUN); UDP 300 s, and UDP is never active (ip_vs_proto_tcp.c, ip_vs_proto_udp.c). So shares follow
//!   the weights (lc: even), within the bounds that `fewest_connections` derives. Valid for shorter runs
//!   on unchanged destinations: one that is deleted and added again within that time keeps its counts
//!   (`ip_vs_trash_get_dest` in ip_vs_ctl.c).
//! * **sed**, **nq** count active connections only. None is active at the next request, so one
//!   destination gets all: for sed one of the highest weight, for nq the first in the kernel's list. One
//!   request in [`STRAY_INTERVAL`] may find the previous one still active and go elsewhere; with UDP none.
//! * **fo**, **ovf** choose the highest weight (ovf while it has at most as many active connections as
//!   its weight); among equals the first in the kernel's list. One gets all.
//! * **dh**, **sh**, **mh** hash one address (dh the VIP, the others the client's): one gets all. dh and
//!   sh also have buckets for destinations of weight 0; they refuse clients in those, unless sh has its
//!   fallback flag.
//! * **lblc**, **lblcr** keep one destination for a VIP until it has more active connections than its
//!   weight. One gets all.
//! * With persistence one gets all, under every scheduler.
//! * With one-packet scheduling no connection is counted: under **lc**, **wlc** one gets all.
//! * With the port flag **sh** and **mh** spread one client's connections unpredictably. Shares are also
//!   unpredictable where a threshold may be reached.
//! * **twos** draws two at random and chooses the less loaded one. Shares are unpredictable; with enough
//!   requests each destination gets some.

pub mod setups;
mod shares;

use std::collections::BTreeMap;

pub use self::shares::PriorConnections;
use self::shares::{ExpectedShares, expected};
use super::clients::Tally;
use crate::topology::Service;

/// Under sed and nq: one of this number of requests may find the previous connection still active.
const STRAY_INTERVAL: u32 = 8;
/// Shares are judged only while fewer than one of this number of connections is not one of the requests.
const OTHERS_INTERVAL: u64 = 8;

/// Whether `tally`, the result of `requests` requests to `service`, matches its scheduler and weights.
/// `Ok` has the result and the rule, as `web1 12, web2 12 (rr: even)`; `Err` also the expected shares.
///
/// `before` has the connections that the director counted for each host before the first request (an
/// active one counts 256); lc and wlc start from these. Empty if there were none.
///
/// `others` is by how many connections the director counted more, or fewer, than `requests`: a client that
/// gave up earlier had one of them, or a port came again whose connection IPVS still knew. Each moves the
/// shares by at most one. More than one in [`OTHERS_INTERVAL`] requests are an error.
///
/// # Errors
/// If requests failed, another host responded, or the shares do not match. If all weights are 0: if a
/// host responded.
pub fn judge(
    service: &Service,
    tally: &Tally,
    requests: u32,
    before: &PriorConnections,
    others: u64,
) -> Result<String, String> {
    let Tally { answers, failures } = tally;
    let seen = listed(answers, failures);
    let ExpectedShares { rule_set, rule, wanted } = expected(service, requests, before);
    let wrong = |why: &str| format!("{seen}: {why}; expected {wanted} ({})", service.scheduler);
    let sum = |counts: &BTreeMap<String, u32>| counts.values().map(|n| u64::from(*n)).sum::<u64>();
    let (answered, failed) = (sum(answers), sum(failures));
    if answered + failed != u64::from(requests) {
        return Err(wrong(&format!("{} results of {requests} requests", answered + failed)));
    }
    let known = |name: &str| service.real_servers.iter().any(|s| s.host.as_str() == name);
    if let Some(unknown) = answers.keys().find(|name| !known(name)) {
        return Err(wrong(&format!("{unknown} is not a real server of {}", service.name)));
    }
    if others * OTHERS_INTERVAL > u64::from(requests) {
        return Err(wrong(&format!("{others} connections of others in the same time")));
    }
    let rule_set = rule_set.among(others);
    rule_set.check(answers, failed, requests).map_err(|why| wrong(&why))?;
    Ok(format!("{seen} ({}: {rule})", service.scheduler))
}

/// `web1 12, web2 11; 1 timed out`.
fn listed(answers: &BTreeMap<String, u32>, failures: &BTreeMap<String, u32>) -> String {
    let answers: Vec<String> = answers.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let failures: Vec<String> = failures.iter().map(|(why, n)| format!("{n} {why}")).collect();
    let answers = if answers.is_empty() { "no answer".to_owned() } else { answers.join(", ") };
    if failures.is_empty() { answers } else { format!("{answers}; {}", failures.join(", ")) }
}

#[cfg(test)]
mod tests;
