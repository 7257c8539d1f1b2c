//! What a measured fault says about the promises of the file. Pure.

use std::collections::BTreeSet;

use super::fault::{ClusterPart, Fault};
use crate::names::HostName;
use crate::report::chaos::{
    ConnectionResult, FaultResult, PromiseResult, PromiseState, PromiseVerdict, StreamResult,
};
use crate::topology::{
    Check, Promise, PromisedPart, RealServer, Role, Service, Topology, WeightSource,
};

/// The verdict of one fault on each promise that is about it. A client's own death, or that of its link, is no matter of the
/// cluster: its requests do not count.
pub fn verdicts(
    topology: &Topology,
    fault: &Fault,
    requests: &[StreamResult],
    connections: ConnectionResult,
) -> Vec<PromiseVerdict> {
    let promise = &topology.promise;
    let counted: Vec<&StreamResult> =
        requests.iter().filter(|stream| !fault.concerns_client(&stream.client)).collect();
    let times = fault.promised(topology, promise).into_iter();
    // A fault without a request that counts shows nothing.
    let times = times.filter(|_| !counted.is_empty());
    let mut all: Vec<PromiseVerdict> =
        times.map(|(part, within)| time_verdict(&counted, part, within)).collect();
    let could = connections.opened.saturating_sub(connections.ended_with_it);
    if promise.keeps_connections && could > 0 {
        all.push(PromiseVerdict {
            promise: CONNECTIONS.to_owned(),
            kept: connections.lost() == 0,
            because: format!("{} of {could} open connections survived", connections.kept),
        });
    }
    all
}

const CONNECTIONS: &str = "connections: keep";

fn named(part: PromisedPart, within_s: u32) -> String {
    format!("{}: {within_s}s", part.as_str())
}

/// Kept: no service is without an answer for longer, and no request fails that begins later, after the death and after the
/// begin of the return alike.
fn time_verdict(streams: &[&StreamResult], part: PromisedPart, within_s: u32) -> PromiseVerdict {
    let within = f64::from(within_s);
    // A stream without a bound is worse than any figure.
    let worst = streams.iter().max_by(|a, b| {
        let bound = a.until_return.cmp(&b.until_return);
        bound.then(longest_harm(a).total_cmp(&longest_harm(b)))
    });
    let (kept, because) = match worst {
        None => (true, "no request counts".to_owned()),
        Some(stream) => {
            let harm = longest_harm(stream);
            (harm <= within && !stream.until_return, harm_text(stream, harm))
        }
    };
    PromiseVerdict { promise: named(part, within_s), kept, because }
}

fn longest_harm(stream: &StreamResult) -> f64 {
    let StreamResult { outage_s, failing_s, failing_return_s, .. } = stream;
    outage_s.max(failing_s.unwrap_or(0.0)).max(failing_return_s.unwrap_or(0.0))
}

fn harm_text(stream: &StreamResult, harm: f64) -> String {
    let StreamResult { service, client, .. } = stream;
    if stream.until_return {
        return format!("{service} from {client}: requests failed until the part came back");
    }
    format!("{service} from {client}: everything answered after at most {harm:.1} s")
}

/// What an operator should know about the figures: why a dead real server has no bound.
pub fn notes(topology: &Topology, fault: &Fault, requests: &[StreamResult]) -> Vec<String> {
    let failing: BTreeSet<&str> = requests
        .iter()
        .filter(|it| it.until_return && !fault.concerns_client(&it.client))
        .map(|it| it.service.as_str())
        .collect();
    let dead: BTreeSet<&HostName> =
        fault.parts.iter().filter_map(|it| serving(topology, it)).collect();
    let mut notes = Vec::new();
    for host in requests.iter().map(|it| &it.client).collect::<BTreeSet<_>>() {
        if fault.kills_host(host) {
            notes.push(format!("{host} sent no requests while it was dead: its outage is its own"));
        }
    }
    for service in topology.services.iter().filter(|it| failing.contains(it.name.as_str())) {
        if fault.kills_host(&service.director) {
            continue;
        }
        let mut of_service = BTreeSet::new();
        for RealServer { host, check, .. } in &service.real_servers {
            if dead.contains(host) && of_service.insert(host) {
                notes.push(why_unbound(service, host, check.as_ref()));
            }
        }
    }
    notes
}

/// Why the requests of a dead real server failed until it came back.
fn why_unbound(service: &Service, server: &HostName, check: Option<&Check>) -> String {
    let name = &service.name;
    match (check, service.weights) {
        (Some(Check { fall, interval_s, timeout_s, .. }), _) => format!(
            "{server} keeps its share of {name} until its check has failed {fall} times, at most {} s: choose a longer `--dead`",
            fall * interval_s + timeout_s
        ),
        (None, WeightSource::File) => format!(
            "{server} keeps its share of {name} until it is back or `lvsprov maintain` takes it out: no health check watches it"
        ),
        (None, WeightSource::External) => format!(
            "{server} keeps its share of {name} in the lab: the health checker of its director (`weights: external`) does not \
             run here"
        ),
    }
}

/// The real server that does not answer any more because of `part`.
fn serving<'p>(topology: &Topology, part: &'p ClusterPart) -> Option<&'p HostName> {
    let host = part.host();
    let serves = topology.hosts.get(host).is_some_and(|it| it.roles.contains(&Role::RealServer));
    match part {
        ClusterPart::Process(_) => Some(host),
        ClusterPart::Host(_) | ClusterPart::Link { .. } => serves.then_some(host),
        ClusterPart::SyncDaemon { .. } | ClusterPart::HealthChecker(_) => None,
    }
}

/// The whole run's verdict on each promise of the file.
pub fn over_all(promise: &Promise, faults: &[FaultResult]) -> Vec<PromiseResult> {
    let times = promise.answered_within_s.iter().map(|(part, within)| named(*part, *within));
    let connections = promise.keeps_connections.then(|| CONNECTIONS.to_owned());
    times
        .chain(connections)
        .map(|promise| {
            let verdicts = faults.iter().flat_map(|fault| &fault.promises);
            let kept: Vec<bool> =
                verdicts.filter(|it| it.promise == promise).map(|it| it.kept).collect();
            let verdict = match (kept.is_empty(), kept.iter().all(|kept| *kept)) {
                (true, _) => PromiseState::NotTried,
                (false, true) => PromiseState::Kept,
                (false, false) => PromiseState::Refuted,
            };
            PromiseResult { promise, verdict }
        })
        .collect()
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
