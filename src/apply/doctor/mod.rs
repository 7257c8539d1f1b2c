//! `doctor`: finds out why a cluster does not answer. It walks the hosts as they are, sends real requests, and where they are
//! not answered asks the kernels: route lookups, counters of drops, connections of IPVS, the listeners of the real servers.
//!
//! Changes nothing. `causes` decides what the evidence means, [`diagnosis`] makes the report.

mod causes;
pub mod diagnosis;
pub mod evidence;
mod lines;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use self::diagnosis::{ClusterFacts, DoctorReport};
use self::evidence::{CounterRise, Evidence, Instruments, KernelLookup, RealRequests, RequestWay};
use super::cluster_plan::ClusterPlan;
use super::health;
use super::requests::unexpected;
use super::session::{Observations, Session};
use super::traffic::{clients, targets};
use super::unanswered::world_as_observed;
use super::verify::{Verification, verify_arp, vips};
use crate::desired::{ExpectedRequest, every_request, service_key};
use crate::names::{HostName, ServiceName};
use crate::protocol::{Fetched, Reply, Request};
use crate::state::examination::{DropCounters, Examination, RouteQuestion};
use crate::state::{DestinationKey, Protocol};
use crate::topology::{Forward, Service};
use crate::walk::{Cause, WalkVerdict};

/// How long one request may take, in milliseconds: TCP has sent its first packet twice by then.
const PATIENCE_MS: u32 = 2000;
/// Requests to one service from one client at most.
const MOST_REQUESTS: u32 = 8;
/// After so many unanswered services a client sends one request to each further one: each waits for its whole patience.
const PATIENT_WITH: u32 = 3;
/// How long counters are watched before requests are sent: what rises then rises anyway.
const QUIET: Duration = Duration::from_secs(1);
/// Unanswered pairs for which the hosts are asked at most: of those that the walk explains alike one is enough.
const MOST_INSTRUMENTED: usize = 12;

/// Whether the kernels' drop monitors are used, whose module is loaded for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropWatch {
    /// While further requests are sent.
    On,
    /// Never.
    Off,
}

/// Finds out what keeps the requests that `wanted` names from being answered.
pub async fn examine(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    drop_watch: DropWatch,
    wanted: &dyn Fn(&ExpectedRequest<'_>) -> bool,
) -> DoctorReport {
    let mut all = walked(session, plan, observed, wanted);
    probe(session, &mut all).await;
    let segments = ask_segments(session, observed, &all).await;
    for nth in to_instrument(&all) {
        if session.console().stop_requested() {
            break;
        }
        let Some(evidence) = all.get_mut(nth) else { continue };
        evidence.instruments = Some(instrument(session, evidence, drop_watch).await);
        ask_listeners(session, evidence).await;
    }
    let facts = ClusterFacts::new(session.topology, plan, observed, session.absent(), segments);
    diagnosis::report(&facts, &all)
}

/// Each client and service, with the walks.
fn walked(
    session: &Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
    wanted: &dyn Fn(&ExpectedRequest<'_>) -> bool,
) -> Vec<Evidence> {
    let topology = &*health::present_weights(session.topology, observed);
    let world = world_as_observed(topology, &session.desired, observed);
    let after = plan.world_after(topology, &session.desired, observed);
    let mut all: Vec<Evidence> = Vec::new();
    let mut places: BTreeMap<(HostName, ServiceName), usize> = BTreeMap::new();
    for expected in every_request(topology) {
        if expected.real_server.weight == 0 || !wanted(&expected) {
            continue;
        }
        let key = (expected.client.name.clone(), expected.service.name.clone());
        let place = *places.entry(key).or_insert_with(|| {
            all.push(unasked(session, &expected));
            all.len() - 1
        });
        let way = RequestWay {
            real_server: expected.real_server.host.clone(),
            walk: world.walk(&expected.request),
            after_apply: after.as_ref().map(|world| world.walk(&expected.request).end),
            listener: listener(&expected),
            from_itself: None,
        };
        if let Some(evidence) = all.get_mut(place) {
            evidence.ways.push(way);
        }
    }
    all
}

/// Before anything is known.
fn unasked(session: &Session<'_>, expected: &ExpectedRequest<'_>) -> Evidence {
    let ExpectedRequest { client, service, .. } = expected;
    let able = clients(session.topology, service, session.absent(), &BTreeMap::new());
    let probe = match able {
        Ok(able) if able.contains(&&client.name) => RealRequests::Sent(Fetched::default()),
        Ok(_) => RealRequests::NotSent(
            "it cannot send requests as a client does: it is not reached, or is part of the service"
                .to_owned(),
        ),
        Err(why) => RealRequests::NotSent(why),
    };
    Evidence {
        client: client.name.clone(),
        service: service.name.clone(),
        service_name: service.display_name(),
        director: service.director.clone(),
        target: targets(service).first().copied(),
        probe,
        ways: Vec::new(),
        instruments: None,
    }
}

/// Where the real server itself reaches what serves: under DR and TUN its packets have the VIP as their destination.
fn listener(expected: &ExpectedRequest<'_>) -> Option<(Protocol, SocketAddr)> {
    let ExpectedRequest { service, real_server, request, .. } = expected;
    let (protocol, at) = targets(service).first().copied()?;
    Some(match real_server.forward {
        Forward::Dr | Forward::Tun => (protocol, at),
        Forward::Nat | Forward::Fullnat => {
            let DestinationKey(rip) = request.destination;
            (
                protocol,
                SocketAddr::new(rip.ip(), if rip.port() == 0 { at.port() } else { rip.port() }),
            )
        }
    })
}

/// Sends requests: all clients at once, each client's services one after the other.
async fn probe(session: &mut Session<'_>, all: &mut [Evidence]) {
    let mut queues: BTreeMap<HostName, VecDeque<usize>> = BTreeMap::new();
    for (nth, evidence) in all.iter().enumerate() {
        if matches!(evidence.probe, RealRequests::Sent(_)) {
            queues.entry(evidence.client.clone()).or_default().push_back(nth);
        }
    }
    let mut unanswered: BTreeMap<HostName, u32> = BTreeMap::new();
    loop {
        let mut round = BTreeMap::new();
        for (client, queue) in &mut queues {
            if let Some(nth) = queue.pop_front() {
                round.insert(client.clone(), nth);
            }
        }
        if round.is_empty() || session.console().stop_requested() {
            return;
        }
        let requests = round.iter().filter_map(|(client, nth)| {
            let evidence = all.get(*nth)?;
            let patient = unanswered.get(client).is_none_or(|count| *count < PATIENT_WITH);
            let count = if patient { count(evidence) } else { 1 };
            Some((client.clone(), fetch(evidence.target?, count)))
        });
        let mut answers = session.ask(requests.collect()).await;
        for (client, nth) in round {
            let Some(evidence) = all.get_mut(nth) else { continue };
            evidence.probe = match answers.remove(&client) {
                Some(Ok(Reply::Fetched(fetched))) => RealRequests::Sent(fetched),
                Some(Ok(other)) => RealRequests::NotSent(unexpected(&other).to_string()),
                Some(Err(error)) => RealRequests::NotSent(error.into_failure().to_string()),
                None => RealRequests::NotSent(session.why_absent(&client).to_string()),
            };
            if evidence.counts().is_some_and(|(answered, _)| answered == 0) {
                let count = unanswered.entry(client).or_default();
                *count = count.saturating_add(1);
            }
        }
    }
}

/// As many as real servers, so that round robin reaches each.
fn count(evidence: &Evidence) -> u32 {
    u32::try_from(evidence.ways.len()).unwrap_or(MOST_REQUESTS).clamp(2, MOST_REQUESTS)
}

fn fetch((protocol, target): (Protocol, SocketAddr), count: u32) -> Request {
    Request::Fetch { target, protocol, count, timeout_ms: PATIENCE_MS }
}

/// Who answers ARP or neighbour discovery for each VIP, by service.
async fn ask_segments(
    session: &mut Session<'_>,
    observed: &Observations,
    all: &[Evidence],
) -> BTreeMap<ServiceName, Verification> {
    let asked: BTreeSet<&ServiceName> = all.iter().map(|evidence| &evidence.service).collect();
    let mut found = BTreeMap::new();
    for (vip, service) in vips(session.topology) {
        let same_vip = |it: &&Service| {
            it.vip_address() == Some(vip)
                && it.director == service.director
                && asked.contains(&it.name)
        };
        let services: Vec<&Service> = session.topology.services.iter().filter(same_vip).collect();
        if services.is_empty() || session.console().stop_requested() {
            continue;
        }
        let verification = verify_arp(session, (vip, service), observed).await;
        for service in services {
            found.insert(service.name.clone(), verification.clone());
        }
    }
    found
}

/// Of the unanswered pairs that the walk explains alike the first.
fn to_instrument(all: &[Evidence]) -> Vec<usize> {
    let mut explained = BTreeSet::new();
    let new = |(_, evidence): &(usize, &Evidence)| {
        let deaths = evidence.ways.iter().map(|way| match &way.walk.end {
            WalkVerdict::Dead { death, .. } => Some(death.clone()),
            WalkVerdict::Answered | WalkVerdict::Unknown(_) => None,
        });
        let deaths: Vec<_> = deaths.collect();
        let by_walk = deaths.iter().any(Option::is_some);
        let service = (!by_walk).then(|| evidence.service.clone());
        evidence.is_unanswered() && explained.insert((deaths, service))
    };
    let unanswered = all.iter().enumerate().filter(new).map(|(nth, _)| nth);
    unanswered.take(MOST_INSTRUMENTED).collect()
}

/// Asks the hosts on the ways, and sends requests once more between two readings of their counters.
async fn instrument(
    session: &mut Session<'_>,
    evidence: &Evidence,
    drop_watch: DropWatch,
) -> Instruments {
    let mut found = Instruments { sent: count(evidence), ..Instruments::default() };
    let (questions, passing) = questions(evidence);
    let first = ask_kernels(session, &questions, &mut found).await;
    for (host, examination) in &first {
        let asked = questions.get(host).into_iter().flatten();
        for (question, answer) in asked.zip(&examination.routes) {
            found.lookups.push(KernelLookup {
                host: host.clone(),
                question: question.clone(),
                passes: passing.contains(&(host.clone(), question.clone())),
                answer: answer.clone(),
            });
        }
    }
    let none: BTreeMap<HostName, Vec<RouteQuestion>> =
        first.keys().map(|host| (host.clone(), Vec::new())).collect();
    tokio::time::sleep(QUIET).await;
    let second = ask_kernels(session, &none, &mut found).await;
    let connections_before = connections(session, evidence).await;
    if let Some(target) = evidence.target {
        let mut requests = BTreeMap::from([(evidence.client.clone(), fetch(target, found.sent))]);
        if drop_watch == DropWatch::On {
            let watch = watch_drops(session, evidence, found.sent);
            let others = none.keys().filter(|host| **host != evidence.client);
            requests.extend(others.map(|host| (host.clone(), watch.clone())));
        }
        // What came of the client's is known from the first ones; these are for counters and drops.
        for (host, answer) in session.ask(requests).await {
            match answer {
                Ok(Reply::Dropped(drops)) => drop(found.drops.insert(host, drops)),
                Err(error) if drop_watch == DropWatch::On => {
                    found.failures.insert(host, error.into_failure().to_string());
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    let third = ask_kernels(session, &none, &mut found).await;
    found.connections = new_connections(connections_before, connections(session, evidence).await);
    found.rises = rises(&first, &second, &third);
    found
}

/// For the addresses that these requests have on their way.
fn watch_drops(session: &Session<'_>, evidence: &Evidence, count: u32) -> Request {
    let on_the_way = evidence.ways.iter().flat_map(|way| &way.walk.lookups);
    let sources = on_the_way.clone().filter_map(|lookup| lookup.question.source);
    let mut addresses: BTreeSet<IpAddr> =
        on_the_way.map(|lookup| lookup.question.target).chain(sources).collect();
    addresses.extend(evidence.target.map(|(_, at)| at.ip()));
    let client = session.topology.hosts.get(&evidence.client);
    let own = client.into_iter().flat_map(|host| host.interfaces.values());
    addresses.extend(own.flat_map(|interface| &interface.addresses).map(IpNet::addr));
    let wait_ms = count.saturating_mul(PATIENCE_MS).saturating_add(500).min(60_000);
    Request::WatchDrops { addresses, wait_ms }
}

/// The lookups of all ways, by host, each once; and those that the walk has go on.
type Lookups = (BTreeMap<HostName, Vec<RouteQuestion>>, BTreeSet<(HostName, RouteQuestion)>);

fn questions(evidence: &Evidence) -> Lookups {
    let (mut by_host, mut passing) = (BTreeMap::<_, Vec<RouteQuestion>>::new(), BTreeSet::new());
    // Hosts on whose counters something may show although the walk looks up nothing there.
    let others = evidence.ways.iter().map(|way| &way.real_server);
    for host in others.chain([&evidence.client, &evidence.director]) {
        by_host.entry(host.clone()).or_default();
    }
    for lookup in evidence.ways.iter().flat_map(|way| &way.walk.lookups) {
        let questions = by_host.entry(lookup.host.clone()).or_default();
        if !questions.contains(&lookup.question) {
            questions.push(lookup.question.clone());
        }
        if lookup.passes {
            passing.insert((lookup.host.clone(), lookup.question.clone()));
        }
    }
    for (host, question) in
        evidence.ways.iter().filter_map(|way| unanswered_question(&way.walk.end))
    {
        let questions = by_host.entry(host).or_default();
        if !questions.contains(&question) {
            questions.push(question);
        }
    }
    (by_host, passing)
}

/// A host whose source validation keeps it from answering a neighbour validates the question as it would a packet
/// (net/ipv4/arp.c, `arp_process`, asks `ip_route_input`).
fn unanswered_question(end: &WalkVerdict) -> Option<(HostName, RouteQuestion)> {
    let WalkVerdict::Dead { death, .. } = end else { return None };
    let (Cause::NobodyAnswers { next_hop, .. }, inner) = (&death.cause, death.innermost()) else {
        return None;
    };
    let Cause::SourceInvalid { dev, source, .. } = &inner.cause else { return None };
    let (dev, source) = (Some(dev.clone()), Some(*source));
    let question = RouteQuestion { dev, source, target: *next_hop, mark: 0 };
    Some((inner.host.clone(), question))
}

async fn ask_kernels(
    session: &mut Session<'_>,
    questions: &BTreeMap<HostName, Vec<RouteQuestion>>,
    found: &mut Instruments,
) -> BTreeMap<HostName, Examination> {
    let request = |(host, routes): (&HostName, &Vec<RouteQuestion>)| {
        (host.clone(), Request::Examine { routes: routes.clone() })
    };
    let mut answers = session.ask(questions.iter().map(request).collect()).await;
    let mut all = BTreeMap::new();
    for host in questions.keys() {
        let why = match answers.remove(host) {
            Some(Ok(Reply::Examined(examination))) => {
                all.insert(host.clone(), examination);
                continue;
            }
            Some(Ok(other)) => unexpected(&other).to_string(),
            Some(Err(error)) => error.into_failure().to_string(),
            None => session.why_absent(host).to_string(),
        };
        found.failures.insert(host.clone(), why);
    }
    all
}

/// Connections that IPVS has given to each real server's host since its counters were zeroed.
async fn connections(
    session: &mut Session<'_>,
    evidence: &Evidence,
) -> Option<BTreeMap<HostName, u64>> {
    let director = BTreeSet::from([evidence.director.clone()]);
    let observation =
        session.observe_hosts(&director, true).await.remove(&evidence.director)?.ok()?;
    let services = &session.topology.services;
    let service = services.iter().find(|service| service.name == evidence.service)?;
    let counters = observation.counters.get(&service_key(service))?;
    let mut found = BTreeMap::new();
    for real_server in &service.real_servers {
        let of_host = counters.iter().filter(|(key, _)| key.0.ip() == real_server.rip);
        let total: u64 = of_host.map(|(_, counters)| counters.total).sum();
        found.insert(real_server.host.clone(), total);
    }
    Some(found)
}

fn new_connections(
    before: Option<BTreeMap<HostName, u64>>,
    after: Option<BTreeMap<HostName, u64>>,
) -> Option<BTreeMap<HostName, u64>> {
    let before = before?;
    let new = after?.into_iter().map(|(host, total)| {
        let earlier = before.get(&host).copied().unwrap_or(0);
        (host, total.saturating_sub(earlier))
    });
    Some(new.collect())
}

/// Counters that rose during the requests, and more than twice as much as in the quiet time before.
fn rises(
    first: &BTreeMap<HostName, Examination>,
    second: &BTreeMap<HostName, Examination>,
    third: &BTreeMap<HostName, Examination>,
) -> Vec<CounterRise> {
    let rise = |from: &DropCounters, to: &DropCounters, counter| {
        let (from, to) = (from.get(&counter).copied(), to.get(&counter).copied());
        to.unwrap_or(0).saturating_sub(from.unwrap_or(0))
    };
    let mut found = Vec::new();
    for (host, last) in third {
        let (Some(first), Some(second)) = (first.get(host), second.get(host)) else { continue };
        for counter in last.drops.keys().copied() {
            let before = rise(&first.drops, &second.drops, counter);
            let during = rise(&second.drops, &last.drops, counter);
            if during > 2 * before {
                found.push(CounterRise { host: host.clone(), counter, before, during });
            }
        }
    }
    found
}

/// Asks the real servers whether what serves answers there, without the network between.
async fn ask_listeners(session: &mut Session<'_>, evidence: &mut Evidence) {
    let requests = evidence.ways.iter().filter_map(|way| {
        let is_alive = way.walk.end == WalkVerdict::Answered;
        let request = fetch(way.listener?, 1);
        is_alive.then(|| (way.real_server.clone(), request))
    });
    let requests: BTreeMap<HostName, Request> = requests.collect();
    let mut answers = session.ask(requests).await;
    for way in &mut evidence.ways {
        way.from_itself = match answers.remove(&way.real_server) {
            Some(Ok(Reply::Fetched(fetched))) => Some(Ok(fetched)),
            Some(Ok(other)) => Some(Err(unexpected(&other).to_string())),
            Some(Err(error)) => Some(Err(error.into_failure().to_string())),
            None => None,
        };
    }
}
