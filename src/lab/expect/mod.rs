//! What the shares of the real servers must be, given scheduler and weights, and whether they are.
//!
//! For requests as [`crate::lab::clients`] sends them: from one address, one after another, each a
//! connection of its own that is over before the next begins, and nobody else asking meanwhile. What
//! follows from the kernel's schedulers (net/netfilter/ipvs/ip_vs_*.c), and no more, is demanded:
//!
//! * A destination of weight 0 gets nothing, under every scheduler.
//! * **rr**, **wrr** go round in a fixed cycle: rr has each destination once in it (weights do not
//!   count), wrr each as often as its weight divided by the weights' greatest common divisor. Where in
//!   the cycle they are is not known, so whole cycles are exact and the rest is a range.
//! * **lc**, **wlc** take the least of `(active << 8) + inactive` (`ip_vs_dest_conn_overhead` in
//!   include/net/ip_vs.h), wlc divided by the weight. Connections that are over stay inactive for a
//!   while: TCP 120 s in TIME_WAIT, or in FIN_WAIT where the director hears only the client (DR, TUN);
//!   UDP 300 s, and those are never active (ip_vs_proto_tcp.c, ip_vs_proto_udp.c). So the shares go by
//!   the weights (lc: even), with the slack that `fewest_connections` derives. It is meant for runs
//!   shorter than that, on destinations that were there from the start: one that is deleted and added
//!   again within that time still has its old counts (`ip_vs_trash_get_dest` in ip_vs_ctl.c).
//! * **sed**, **nq** look at active connections only. There are none when the next request comes, so
//!   all go to one: sed's has the highest weight, nq's is whichever comes first in the kernel's list.
//!   A request in [`SELDOM`] may find the one before still active and go elsewhere; under UDP none.
//! * **fo**, **ovf** take the highest weight (ovf while it has at most as many active connections as
//!   its weight); of equal ones the first in the kernel's list. One gets all.
//! * **dh**, **sh**, **mh** hash one address (dh the VIP, the others the client's): one gets all. dh and
//!   sh keep places for destinations of weight 0, too; whoever is hashed there is turned away, unless
//!   sh has its fallback flag.
//! * **lblc**, **lblcr** stay with one destination for a VIP until that has more active connections
//!   than its weight. One gets all.
//! * Where a client is to stay with its real server (persistence), one gets all, under any scheduler.
//! * With one-packet scheduling no connection is left to be counted: under **lc**, **wlc** all go to one.
//! * With the port flag **sh** and **mh** spread one client's connections, over whom is not foreseeable;
//!   so are shares where a threshold may be reached.
//! * **twos** draws two by lot and takes the less loaded. Shares are not foreseeable; with enough
//!   requests everyone gets some.

pub mod setups;
mod shares;

use std::collections::BTreeMap;

pub use self::shares::Before;
use self::shares::{Expected, expected};
use super::clients::Tally;
use crate::topology::Service;

/// Under sed and nq: one in so many requests may find the previous connection still active.
const SELDOM: u32 = 8;

/// Whether `tally`, the result of `requests` requests to `service`, is what its scheduler and weights
/// lead to. `Ok` says what was seen and against which rule, as `web1 12, web2 12 (rr: even)`; `Err`
/// also what was expected instead.
///
/// `before` has the connections that the director counted on each host when the first request was sent
/// (active ones count 256); lc and wlc go on from there. Empty where there were none.
///
/// # Errors
/// If requests were not answered, others answered than should, or the shares do not fit. Where all
/// weights are 0, if anybody answers.
pub fn judge(
    service: &Service,
    tally: &Tally,
    requests: u32,
    before: &Before,
) -> Result<String, String> {
    let Tally { answers, failures } = tally;
    let seen = listed(answers, failures);
    let Expected { law, rule, wanted } = expected(service, requests, before);
    let wrong = |why: &str| format!("{seen}: {why}; expected {wanted} ({})", service.scheduler);
    let sum = |counts: &BTreeMap<String, u32>| counts.values().map(|n| u64::from(*n)).sum::<u64>();
    let (answered, failed) = (sum(answers), sum(failures));
    if answered + failed != u64::from(requests) {
        return Err(wrong(&format!("{} results of {requests} requests", answered + failed)));
    }
    let known = |name: &str| service.real_servers.iter().any(|s| s.host.as_str() == name);
    if let Some(stranger) = answers.keys().find(|name| !known(name)) {
        return Err(wrong(&format!("{stranger} is no real server of {}", service.name)));
    }
    law.check(answers, failed, requests).map_err(|why| wrong(&why))?;
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
