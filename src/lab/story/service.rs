//! The chapters of one service, chosen by what it has: shares, and what its setup promises beside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::chapters::{BEAT, PATIENCE};
use super::{Proof, Stage, Teller};
use crate::apply::Session;
use crate::lab::clients::{self, Answer, Question, Tally, Way};
use crate::lab::expect::{self, setups, setups::Asked};
use crate::lab::targets::{self, Target};
use crate::state::{DestinationKey, Protocol};
use crate::topology::{Forward, Host, Persistence, RealServer, Scheduler, Service, Topology};

/// Until the director has heard of the ends of all connections.
const SETTLED: Duration = Duration::from_secs(2);
/// A large body, in bytes.
const LARGE: u64 = 1 << 20;
/// How long one may take, in an emulated machine.
const PATIENCE_FOR_LARGE: Duration = Duration::from_mins(1);
/// Requests to each port, from each address of a client that is to stay with its real server.
const TO_EACH_PORT: usize = 4;

/// All of them.
pub(super) async fn prove(stage: &Stage<'_>, service: &Service, teller: &mut Teller<'_>) {
    let name = &service.name;
    let mut asked = Vec::new();
    let shared = shared(stage, service, &mut asked).await;
    teller.case(&format!("requests to {name} are shared as its weights say"), shared);
    teller.case(&format!("{} of {name}", whom(service)), seen(stage, service, &asked));
    if service.mark.is_some() || service.port == 0 {
        let ports = targets::of_service(service).iter().map(|target| target.at.port()).collect();
        let all: Vec<Asked> = asked.iter().map(|(_, one)| one.clone()).collect();
        let proof = setups::answers_on_every_port(&all, &ports);
        teller.case(&format!("every port of {name} is answered"), proof);
    }
    let (shut, open) = by_weight(service);
    if !shut.is_empty() && !open.is_empty() {
        let everybody = if spreads(service) { open } else { BTreeSet::new() };
        let all: Vec<Asked> = asked.iter().map(|(_, one)| one.clone()).collect();
        let proof = setups::is_drained(&all, &shut, &everybody);
        teller.case(&format!("who has weight 0 in {name} gets no requests"), proof);
    }
    if shares_in(service) && spreads(service) {
        let here = BTreeSet::from([service.director.to_string()]);
        let all: Vec<Asked> = asked.iter().map(|(_, one)| one.clone()).collect();
        let proof = setups::is_drained(&all, &BTreeSet::new(), &here);
        teller.case(&format!("the director answers its own share of {name}"), proof);
    }
    if let Some(persistence) = &service.persistence {
        let proof = stays(stage, service, *persistence).await;
        teller.case(&format!("a client of {name} stays with its real server"), proof);
    }
    if let Some(target) = targets::unmarked(stage.topology, service) {
        let proof = not_passed_on(stage, target).await;
        teller.case(&format!("a port that is not marked is not passed on by {name}"), proof);
    }
    if service.one_packet {
        let proof = spread(stage, service).await;
        teller.case(&format!("datagrams of one port are spread by {name}"), proof);
    }
    if let Some(target) = targets::of_service(service).iter().find(|t| t.protocol == Protocol::Tcp)
    {
        let proof = large(stage, service, *target).await;
        teller.case(&format!("a megabyte goes each way through {name}"), proof);
    }
}

/// Who takes no new connections, and who does.
fn by_weight(service: &Service) -> (BTreeSet<String>, BTreeSet<String>) {
    let names = |takes: bool| {
        let those = service.real_servers.iter().filter(|server| (server.weight > 0) == takes);
        those.map(|server| server.host.to_string()).collect::<BTreeSet<_>>()
    };
    let (shut, open) = (names(false), names(true));
    (shut.difference(&open).cloned().collect(), open)
}

/// Whether a single client reaches every real server of weight above 0 in a few requests.
fn spreads(service: &Service) -> bool {
    let goes_round = match service.scheduler {
        Scheduler::Rr | Scheduler::Wrr => true,
        Scheduler::Lc | Scheduler::Wlc => !service.one_packet,
        _ => false,
    };
    goes_round && service.persistence.is_none()
}

/// Whether the director is one of the real servers that take requests.
fn shares_in(service: &Service) -> bool {
    service.real_servers.iter().any(|rs| rs.host == service.director && rs.weight > 0)
}

async fn shared(stage: &Stage<'_>, service: &Service, all: &mut Vec<(Host, Asked)>) -> Proof {
    let mut seen = Vec::new();
    let requests = usize::try_from(stage.requests).unwrap_or(usize::MAX);
    for client in stage.clients() {
        let before = connections(stage, service).await?;
        let targets = targets::of_service(service);
        let turns: Vec<Target> = targets.iter().copied().cycle().take(requests).collect();
        let asked = ask(stage, client, None, &turns).await?;
        let mut tally = Tally::default();
        for one in &asked {
            tally.count(one.result.clone().map(|answer| answer.server));
        }
        all.extend(asked.into_iter().map(|one| (client.clone(), one)));
        let told: Vec<String> = before.iter().map(|(host, n)| format!("{host} {n}")).collect();
        let judged = expect::judge(service, &tally, stage.requests, &before);
        seen.push(judged.map_err(|why| format!("{why}; counted before: {}", told.join(", ")))?);
    }
    if seen.is_empty() {
        return Err("the file has no client to send requests from".to_owned());
    }
    let kind = if service.protocol == Protocol::Udp { "datagrams" } else { "connections" };
    Ok(format!("{} {kind}: {}", stage.requests, seen.join("; ")))
}

/// Asks each of `targets` once, in their order.
async fn ask(
    stage: &Stage<'_>,
    client: &Host,
    from: Option<IpAddr>,
    targets: &[Target],
) -> Result<Vec<Asked>, String> {
    let question = |target: &Target| Question {
        from,
        target: target.at,
        protocol: target.protocol,
        patience: PATIENCE,
    };
    let questions: Vec<Question> = targets.iter().map(question).collect();
    let results = clients::ask_each(&stage.lab, &client.name, &questions).await;
    let results = results.map_err(|error| error.to_string())?;
    let asked = targets.iter().zip(results).map(|(target, result)| Asked {
        // Where the kernel chooses it is one of these; whose it is counts.
        source: from.or_else(|| addresses(client, target.at.ip()).next()).unwrap_or(target.at.ip()),
        port: target.at.port(),
        result,
    });
    Ok(asked.collect())
}

/// The addresses of a host, of the family of `like`.
fn addresses(host: &Host, like: IpAddr) -> impl Iterator<Item = IpAddr> {
    let all = host.interfaces.values().flat_map(|interface| &interface.addresses);
    all.map(ipnet::IpNet::addr).filter(move |address| address.is_ipv4() == like.is_ipv4())
}

fn whom(service: &Service) -> &'static str {
    if service.uses(Forward::Fullnat) {
        "the director, and not the client, is seen by the real servers"
    } else {
        "the client's own address is seen by the real servers"
    }
}

fn seen(stage: &Stage<'_>, service: &Service, asked: &[(Host, Asked)]) -> Proof {
    let mut told = Vec::new();
    for client in stage.clients() {
        let its = asked.iter().filter(|(host, _)| host.name == client.name);
        let its: Vec<Asked> = its.map(|(_, one)| one.clone()).collect();
        let may = |server: &RealServer| whom_it_may_see(stage.topology, service, server, client);
        // A host may be there twice, by two ways.
        let mut may_see: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for server in &service.real_servers {
            may_see.entry(server.host.to_string()).or_default().extend(may(server));
        }
        told.push(setups::sees(&its, &may_see)?);
    }
    Ok(told.join("; "))
}

/// Behind FULLNAT everybody is the director, but for the director itself.
fn whom_it_may_see(
    topology: &Topology,
    service: &Service,
    server: &RealServer,
    client: &Host,
) -> BTreeSet<IpAddr> {
    let director = topology.hosts.get(&service.director);
    match director.filter(|d| server.forward == Forward::Fullnat && d.name != server.host) {
        Some(director) => addresses(director, server.rip).collect(),
        None => addresses(client, service.vip_address().unwrap_or(server.rip)).collect(),
    }
}

/// From each address of each client, several times to each port.
async fn stays(stage: &Stage<'_>, service: &Service, persistence: Persistence) -> Proof {
    let targets = targets::of_service(service);
    let turns: Vec<Target> =
        targets.iter().copied().cycle().take(targets.len() * TO_EACH_PORT).collect();
    let Some(vip) = service.vip_address() else { return Err("it has no VIP".to_owned()) };
    let mask = mask(service.ipv6, persistence);
    let (mut asked, mut known) = (Vec::new(), 0);
    for client in stage.clients() {
        known += 1;
        for from in addresses(client, vip) {
            asked.extend(ask(stage, client, Some(from), &turns).await?);
        }
    }
    let all: BTreeSet<IpAddr> = asked.iter().map(|one| setups::under(one.source, mask)).collect();
    let (_, open) = by_weight(service);
    // Each client has one that was asked from before, at any time. The others are given out in turn.
    let fresh =
        if service.scheduler == Scheduler::Rr { all.len().saturating_sub(known) } else { 0 };
    setups::sticks(&asked, &open, mask, fresh.min(open.len()))
}

/// Ones where the client's address counts.
fn mask(ipv6: bool, persistence: Persistence) -> IpAddr {
    let Persistence { timeout: _, netmask, engine: _ } = persistence;
    if ipv6 {
        let bits = netmask.min(128);
        let ones = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        return Ipv6Addr::from_bits(ones).into();
    }
    Ipv4Addr::from_bits(netmask).into()
}

async fn not_passed_on(stage: &Stage<'_>, target: Target) -> Proof {
    let mut asked = Vec::new();
    for client in stage.clients() {
        asked.extend(ask(stage, client, None, &[target; 2]).await?);
    }
    setups::is_not_passed_on(&asked)
}

async fn spread(stage: &Stage<'_>, service: &Service) -> Proof {
    let (_, open) = by_weight(service);
    let goes_round = matches!(service.scheduler, Scheduler::Rr | Scheduler::Wrr);
    let least = if goes_round { open.len() } else { 1 };
    let mut told = Vec::new();
    for client in stage.clients() {
        for Target { at, protocol: _ } in targets::of_service(service) {
            let (lab, count) = (&stage.lab, stage.requests);
            let results = clients::ask_from_one_port(lab, &client.name, at, count, PATIENCE).await;
            let results: Vec<Result<Answer, String>> =
                results.map_err(|error| error.to_string())?;
            told.push(setups::is_spread(&results, least)?);
        }
    }
    Ok(told.join("; "))
}

/// Up and down; where the packets are wrapped, until every real server had its turn.
async fn large(stage: &Stage<'_>, service: &Service, target: Target) -> Proof {
    let (_, open) = by_weight(service);
    let all = service.uses(Forward::Tun) && spreads(service);
    let most = if all { open.len() * 2 } else { 1 };
    let Some(client) = stage.clients().next() else { return Err("there is no client".to_owned()) };
    let mut transfers = Vec::new();
    for way in [Way::Up, Way::Down] {
        let mut served = BTreeSet::new();
        for _ in 0..most {
            let (lab, patience) = (&stage.lab, PATIENCE_FOR_LARGE);
            let done = clients::transfer(lab, &client.name, target.at, way, LARGE, patience).await;
            let done = done.map_err(|error| error.to_string())?;
            served.extend(done.as_ref().map(|transfer| transfer.server.clone()));
            transfers.push((way, done));
            if served.len() >= open.len() {
                break;
            }
        }
    }
    setups::came_through(&transfers, LARGE)
}

/// What the director counts on each real server of `service`, once none of it is active any more. A
/// connection that is over is heard of a moment later; one that was given up while it was being made,
/// when the VIP had just come, may count as active for minutes, so this does not wait for ever.
async fn connections(stage: &Stage<'_>, service: &Service) -> Result<expect::Before, String> {
    let mut session = Session::open(stage.topology, &stage.settings).await;
    let deadline = tokio::time::Instant::now() + SETTLED;
    let counted = loop {
        let seen = session.observe(true).await;
        let director = match seen.get(&service.director) {
            Some(Ok(sighting)) => sighting,
            Some(Err(failure)) => break Err(failure.to_string()),
            None => break Err(format!("{} is not asked", service.director)),
        };
        let counters = director.counters.get(&crate::desired::service_key(service));
        let of = |rs: &RealServer| {
            let at = DestinationKey::new(rs.rip, rs.port);
            counters.and_then(|counters| counters.get(&at)).copied().unwrap_or_default()
        };
        let active: u32 = service.real_servers.iter().map(|rs| of(rs).active).sum();
        if active == 0 || tokio::time::Instant::now() >= deadline {
            let mut before = expect::Before::new();
            for rs in &service.real_servers {
                let counters = of(rs);
                let load = u64::from(counters.active) * 256 + u64::from(counters.inactive);
                *before.entry(rs.host.to_string()).or_default() += load;
            }
            break Ok(before);
        }
        tokio::time::sleep(BEAT).await;
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
