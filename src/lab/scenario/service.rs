//! The cases of one service, by its properties: shares, client addresses, persistence, transfers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::phases::{POLL_INTERVAL, REQUEST_TIMEOUT};
use super::{CaseOutcome, Recorder, Scenario};
use crate::apply::Session;
use crate::lab::clients::{self, ClientRequest, Response, Tally, TransferDirection};
use crate::lab::expect::{self, setups, setups::RequestResult};
use crate::lab::targets::{self, RequestTarget};
use crate::state::{DestinationKey, Protocol};
use crate::topology::{Forward, Host, Persistence, RealServer, Scheduler, Service, Topology};

/// How long to wait until the director has seen the end of all connections.
const SETTLED: Duration = Duration::from_secs(2);
/// A large body, in bytes.
const LARGE: u64 = 1 << 20;
/// Timeout of a large transfer, in an emulated machine.
const LARGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Number of requests to each port from each client address, for persistence.
const TO_EACH_PORT: usize = 4;

/// Runs all cases of one service.
pub(super) async fn run_cases(
    scenario: &Scenario<'_>,
    service: &Service,
    recorder: &mut Recorder<'_>,
) {
    let name = &service.name;
    let mut results = Vec::new();
    let shared = shared(scenario, service, &mut results).await;
    recorder.case(&format!("requests to {name} follow its scheduler and weights"), shared);
    recorder.case(
        &format!("the real servers of {name} see {}", expected_source(service)),
        client_address(scenario, service, &results),
    );
    if service.mark.is_some() || service.port == 0 {
        let ports = targets::of_service(service).iter().map(|target| target.at.port()).collect();
        let all: Vec<RequestResult> = results.iter().map(|(_, one)| one.clone()).collect();
        let outcome = setups::answers_on_every_port(&all, &ports);
        recorder.case(&format!("every port of {name} answers"), outcome);
    }
    let (drained, open) = by_weight(service);
    if !drained.is_empty() && !open.is_empty() {
        let expected = if spreads(service) { open } else { BTreeSet::new() };
        let all: Vec<RequestResult> = results.iter().map(|(_, one)| one.clone()).collect();
        let outcome = setups::is_drained(&all, &drained, &expected);
        recorder.case(&format!("real servers of {name} with weight 0 get no requests"), outcome);
    }
    if shares_in(service) && spreads(service) {
        let here = BTreeSet::from([service.director.to_string()]);
        let all: Vec<RequestResult> = results.iter().map(|(_, one)| one.clone()).collect();
        let outcome = setups::is_drained(&all, &BTreeSet::new(), &here);
        recorder.case(&format!("the director answers its own share of {name}"), outcome);
    }
    if let Some(persistence) = &service.persistence {
        let outcome = stays(scenario, service, *persistence).await;
        recorder.case(&format!("clients of {name} stay with their real server"), outcome);
    }
    if let Some(target) = targets::unmarked(scenario.topology, service) {
        let outcome = not_passed_on(scenario, target).await;
        recorder.case(&format!("{name} does not forward an unmarked port"), outcome);
    }
    if service.one_packet {
        let outcome = spread(scenario, service).await;
        recorder.case(&format!("{name} spreads datagrams of one source port"), outcome);
    }
    if let Some(target) = targets::of_service(service).iter().find(|t| t.protocol == Protocol::Tcp)
    {
        let outcome = large(scenario, service, *target).await;
        recorder.case(&format!("1 MiB passes through {name} in each direction"), outcome);
    }
}

/// Hosts with weight 0 only, and hosts with a weight above 0.
fn by_weight(service: &Service) -> (BTreeSet<String>, BTreeSet<String>) {
    let names = |takes: bool| {
        let those = service.real_servers.iter().filter(|server| (server.weight > 0) == takes);
        those.map(|server| server.host.to_string()).collect::<BTreeSet<_>>()
    };
    let (drained, open) = (names(false), names(true));
    (drained.difference(&open).cloned().collect(), open)
}

/// Whether a few requests of one client reach every real server with a weight above 0.
fn spreads(service: &Service) -> bool {
    let goes_round = match service.scheduler {
        Scheduler::Rr | Scheduler::Wrr => true,
        Scheduler::Lc | Scheduler::Wlc => !service.one_packet,
        _ => false,
    };
    goes_round && service.persistence.is_none()
}

/// Whether the director is a real server with a weight above 0.
fn shares_in(service: &Service) -> bool {
    service.real_servers.iter().any(|rs| rs.host == service.director && rs.weight > 0)
}

async fn shared(
    scenario: &Scenario<'_>,
    service: &Service,
    all: &mut Vec<(Host, RequestResult)>,
) -> CaseOutcome {
    let mut observed = Vec::new();
    let requests = usize::try_from(scenario.requests).unwrap_or(usize::MAX);
    for client in scenario.clients() {
        let before = connections(scenario, service).await?;
        let targets = targets::of_service(service);
        let turns: Vec<RequestTarget> = targets.iter().copied().cycle().take(requests).collect();
        let results = send_requests(scenario, client, None, &turns).await?;
        let mut tally = Tally::default();
        for one in &results {
            tally.count(one.result.clone().map(|answer| answer.server));
        }
        all.extend(results.into_iter().map(|one| (client.clone(), one)));
        let judge =
            |others| expect::judge(service, &tally, scenario.requests, &before.load, others);
        let judged = match judge(0) {
            Err(why) => {
                let counted =
                    connections(scenario, service).await?.total.saturating_sub(before.total);
                let others = counted.abs_diff(u64::from(scenario.requests));
                let seen = format!("{before}; {counted} counted during the requests");
                judge(others).map_err(|_| format!("{why}; {seen}"))
            }
            fits => fits,
        };
        observed.push(judged?);
    }
    if observed.is_empty() {
        return Err("the file has no client to send requests from".to_owned());
    }
    let kind = if service.protocol == Protocol::Udp { "datagrams" } else { "connections" };
    Ok(format!("{} {kind}: {}", scenario.requests, observed.join("; ")))
}

/// Sends one request to each of `targets`, in order.
async fn send_requests(
    scenario: &Scenario<'_>,
    client: &Host,
    from: Option<IpAddr>,
    targets: &[RequestTarget],
) -> Result<Vec<RequestResult>, String> {
    let question = |target: &RequestTarget| ClientRequest {
        from,
        target: target.at,
        protocol: target.protocol,
        patience: REQUEST_TIMEOUT,
    };
    let questions: Vec<ClientRequest> = targets.iter().map(question).collect();
    let results = clients::ask_each(&scenario.lab, &client.name, &questions).await;
    let results = results.map_err(|error| error.to_string())?;
    let results = targets.iter().zip(results).map(|(target, result)| RequestResult {
        // If the kernel chooses the source, any of the client's addresses stands for the client.
        source: from.or_else(|| addresses(client, target.at.ip()).next()).unwrap_or(target.at.ip()),
        port: target.at.port(),
        result,
    });
    Ok(results.collect())
}

/// The addresses of a host, of the family of `like`.
fn addresses(host: &Host, like: IpAddr) -> impl Iterator<Item = IpAddr> {
    let all = host.interfaces.values().flat_map(|interface| &interface.addresses);
    all.map(ipnet::IpNet::addr).filter(move |address| address.is_ipv4() == like.is_ipv4())
}

/// The source address that real servers see, for the case's name.
fn expected_source(service: &Service) -> &'static str {
    if service.uses(Forward::hides_client) {
        "the director's address, not the client's"
    } else {
        "the client's own address"
    }
}

fn client_address(
    scenario: &Scenario<'_>,
    service: &Service,
    results: &[(Host, RequestResult)],
) -> CaseOutcome {
    let mut observed = Vec::new();
    for client in scenario.clients() {
        let its = results.iter().filter(|(host, _)| host.name == client.name);
        let its: Vec<RequestResult> = its.map(|(_, one)| one.clone()).collect();
        let may = |server: &RealServer| {
            expected_client_addresses(scenario.topology, service, server, client)
        };
        // A host may be two real servers, with two methods.
        let mut may_see: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for server in &service.real_servers {
            may_see.entry(server.host.to_string()).or_default().extend(may(server));
        }
        observed.push(setups::sees(&its, &may_see)?);
    }
    Ok(observed.join("; "))
}

/// The client addresses that a real server may see: under FULLNAT the director's, unless it is the director.
fn expected_client_addresses(
    topology: &Topology,
    service: &Service,
    server: &RealServer,
    client: &Host,
) -> BTreeSet<IpAddr> {
    let director = topology.hosts.get(&service.director);
    match director.filter(|d| server.forward.hides_client() && d.name != server.host) {
        Some(director) => addresses(director, server.rip).collect(),
        None => addresses(client, service.vip_address().unwrap_or(server.rip)).collect(),
    }
}

/// Persistence: requests from each address of each client to each port.
async fn stays(
    scenario: &Scenario<'_>,
    service: &Service,
    persistence: Persistence,
) -> CaseOutcome {
    let targets = targets::of_service(service);
    let turns: Vec<RequestTarget> =
        targets.iter().copied().cycle().take(targets.len() * TO_EACH_PORT).collect();
    let Some(vip) = service.vip_address() else { return Err("it has no VIP".to_owned()) };
    let mask = mask(service.ipv6, persistence);
    let (mut results, mut known) = (Vec::new(), 0);
    for client in scenario.clients() {
        known += 1;
        for from in addresses(client, vip) {
            results.extend(send_requests(scenario, client, Some(from), &turns).await?);
        }
    }
    let all: BTreeSet<IpAddr> = results.iter().map(|one| setups::under(one.source, mask)).collect();
    let (_, open) = by_weight(service);
    // One address of each client already has a real server. The others get theirs in rr order.
    let fresh =
        if service.scheduler == Scheduler::Rr { all.len().saturating_sub(known) } else { 0 };
    setups::sticks(&results, &open, mask, fresh.min(open.len()))
}

/// The persistence mask as an address.
fn mask(ipv6: bool, persistence: Persistence) -> IpAddr {
    let Persistence { timeout: _, netmask, engine: _ } = persistence;
    if ipv6 {
        let bits = netmask.min(128);
        let ones = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        return Ipv6Addr::from_bits(ones).into();
    }
    Ipv4Addr::from_bits(netmask).into()
}

async fn not_passed_on(scenario: &Scenario<'_>, target: RequestTarget) -> CaseOutcome {
    let mut results = Vec::new();
    for client in scenario.clients() {
        results.extend(send_requests(scenario, client, None, &[target; 2]).await?);
    }
    setups::is_not_passed_on(&results)
}

async fn spread(scenario: &Scenario<'_>, service: &Service) -> CaseOutcome {
    let (_, open) = by_weight(service);
    let goes_round = matches!(service.scheduler, Scheduler::Rr | Scheduler::Wrr);
    let least = if goes_round { open.len() } else { 1 };
    let mut observed = Vec::new();
    for client in scenario.clients() {
        for RequestTarget { at, protocol: _ } in targets::of_service(service) {
            let (lab, count) = (&scenario.lab, scenario.requests);
            let results =
                clients::ask_from_one_port(lab, &client.name, at, count, REQUEST_TIMEOUT).await;
            let results: Vec<Result<Response, String>> =
                results.map_err(|error| error.to_string())?;
            observed.push(setups::is_spread(&results, least)?);
        }
    }
    Ok(observed.join("; "))
}

/// Transfers up and down; with tunnels, until every real server has served one.
async fn large(scenario: &Scenario<'_>, service: &Service, target: RequestTarget) -> CaseOutcome {
    let (_, open) = by_weight(service);
    let all = service.uses(Forward::encapsulates) && spreads(service);
    let most = if all { open.len() * 2 } else { 1 };
    let Some(client) = scenario.clients().next() else {
        return Err("there is no client".to_owned());
    };
    let mut transfers = Vec::new();
    for way in [TransferDirection::Up, TransferDirection::Down] {
        let mut served = BTreeSet::new();
        for _ in 0..most {
            let (lab, patience) = (&scenario.lab, LARGE_TIMEOUT);
            let done = clients::transfer(lab, &client.name, target.at, way, LARGE, patience).await;
            let done = done.map_err(|error| error.to_string())?;
            served.extend(done.as_ref().map(|transfer| transfer.server.clone()));
            transfers.push((way, done));
            if served.len() >= open.len() {
                break;
            }
        }
    }
    setups::arrived_complete(&transfers, LARGE)
}

/// What the director counted for a service.
#[derive(Default)]
struct Connections {
    load: expect::PriorConnections,
    /// Since the service was made.
    total: u64,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load: Vec<String> = self.load.iter().map(|(host, n)| format!("{host} {n}")).collect();
        write!(f, "connections before: {}", load.join(", "))
    }
}

/// The director's connection counts for each real server of `service`, after none is active any more. The
/// director sees the end of a connection a moment later. A connection that was abandoned while the VIP
/// was being added may count as active for minutes, so the wait is bounded.
async fn connections(scenario: &Scenario<'_>, service: &Service) -> Result<Connections, String> {
    let mut session = Session::open(scenario.topology, &scenario.settings).await;
    let deadline = tokio::time::Instant::now() + SETTLED;
    let counted = loop {
        let observed = session.observe(true).await;
        let director = match observed.get(&service.director) {
            Some(Ok(observation)) => observation,
            Some(Err(failure)) => break Err(failure.to_string()),
            None => break Err(format!("{} was not observed", service.director)),
        };
        let counters = director.counters.get(&crate::desired::service_key(service));
        let of = |rs: &RealServer| {
            let at = DestinationKey::new(rs.rip, rs.port);
            counters.and_then(|counters| counters.get(&at)).copied().unwrap_or_default()
        };
        let active: u32 = service.real_servers.iter().map(|rs| of(rs).active).sum();
        if active == 0 || tokio::time::Instant::now() >= deadline {
            let mut all = Connections::default();
            for rs in &service.real_servers {
                let counters = of(rs);
                let load = u64::from(counters.active) * 256 + u64::from(counters.inactive);
                *all.load.entry(rs.host.to_string()).or_default() += load;
                all.total += counters.total;
            }
            break Ok(all);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    session.close().await;
    counted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mask_has_its_ones_in_front() {
        let of = |ipv6, netmask| {
            mask(ipv6, Persistence { timeout: 1, netmask, engine: None }).to_string()
        };
        assert_eq!(of(false, 0xffff_ff00), "255.255.255.0");
        assert_eq!(of(true, 128), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(of(true, 64), "ffff:ffff:ffff:ffff::");
        assert_eq!(of(true, 1), "8000::");
    }
}
