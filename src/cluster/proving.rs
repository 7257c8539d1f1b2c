//! What the network itself says: who answers ARP or neighbour discovery for a VIP, whether requests are
//! answered, and how the running table compares with the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::outcome::{HostStatus, StepState};
use super::planning::{ClusterPlan, Prospect};
use super::session::{NoAnswer, Session, unexpected};
use super::unfinished;
use super::views::{
    HostView, Proof, RealServerView, ServiceView, StatusReport, Verdict, VerifyReport,
};
use crate::desired::service_key;
use crate::protocol::{Failure, Reply, Request, Sighting};
use crate::state::ServiceFlags;
use crate::topology::{Host, HostName, IfName, Protocol, Role, Service, Topology};

/// How long to listen for a neighbour's answers, in milliseconds. A neighbour answers within a few.
const ARP_WAIT_MS: u32 = 700;
/// How long one request may take, in milliseconds.
const FETCH_TIMEOUT_MS: u32 = 3000;

type Seen = BTreeMap<HostName, Result<Sighting, Failure>>;

/// State, ARP and traffic, in this order.
pub async fn verify(session: &mut Session<'_>, plan: &ClusterPlan, seen: &Seen) -> VerifyReport {
    let mut proofs = state_proofs(plan);
    proofs.extend(prove_network(session, seen, |_| true).await);
    VerifyReport { topology: session.topology.name.to_string(), proofs }
}

/// ARP and traffic of the services that `which` names.
pub async fn prove_network(
    session: &mut Session<'_>,
    seen: &Seen,
    which: impl Fn(&Service) -> bool,
) -> Vec<Proof> {
    let mut proofs = Vec::new();
    for vip in vips(session.topology) {
        if which(vip.1) {
            proofs.push(prove_arp(session, vip, seen).await);
        }
    }
    proofs.extend(prove_traffic(session, which).await);
    proofs
}

fn state_proofs(plan: &ClusterPlan) -> Vec<Proof> {
    let proofs = plan.hosts.iter().map(|(name, prospect)| {
        let claim = format!("{name} is as the file wants it");
        let report = prospect.report();
        let steps: Vec<&str> = report.steps.iter().map(|step| step.text.as_str()).collect();
        let (verdict, evidence) = match prospect {
            Prospect::Plan(_) if steps.is_empty() => {
                (Verdict::Holds, "read back: nothing differs".to_owned())
            }
            Prospect::Plan(_) => (Verdict::Fails, steps.join("; ")),
            Prospect::Obstructed(obstacles) => {
                let all: Vec<_> = obstacles.iter().map(ToString::to_string).collect();
                (Verdict::Fails, all.join("; "))
            }
            Prospect::Failed(_, failure) => (Verdict::Fails, failure.to_string()),
            Prospect::Absent(HostStatus::LeftOut) => {
                (Verdict::NotChecked, "left out by --limit".to_owned())
            }
            Prospect::Absent(_) => {
                (Verdict::NotChecked, "the file does not say how it is reached".to_owned())
            }
        };
        Proof { claim, verdict, evidence }
    });
    proofs.collect()
}

fn vips(topology: &Topology) -> BTreeMap<IpAddr, &Service> {
    topology.services.iter().filter_map(|s| Some((s.vip_address()?, s))).collect()
}

/// On the VIP's segment exactly one machine may answer ARP (neighbour discovery) for it: the director.
async fn prove_arp(session: &mut Session<'_>, vip: (IpAddr, &Service), seen: &Seen) -> Proof {
    let (vip, service) = vip;
    let how = if vip.is_ipv4() { "ARP" } else { "neighbour solicitations" };
    let claim = format!("only {} answers {how} for {vip}", service.director);
    let not_checked =
        |evidence: String| Proof { claim: claim.clone(), verdict: Verdict::NotChecked, evidence };
    let Some((asker, dev)) = asker(session.topology, service, seen) else {
        return not_checked("no host on the director's segment can be reached to ask".to_owned());
    };
    let request = Request::WhoHas { dev: dev.clone(), target: vip, wait_ms: ARP_WAIT_MS };
    let mut answers = session.ask(BTreeMap::from([(asker.clone(), request)])).await;
    let macs = match answers.remove(&asker) {
        Some(Ok(Reply::Answered(macs))) => macs,
        Some(Ok(other)) => return not_checked(unexpected(&other).to_string()),
        Some(Err(failure)) => return not_checked(failure.to_string()),
        None => return not_checked(format!("{asker} went away")),
    };
    judge_arp(session.topology, claim, service, seen, &asker, &macs)
}

fn judge_arp(
    topology: &Topology,
    claim: String,
    service: &Service,
    seen: &Seen,
    asker: &HostName,
    macs: &BTreeSet<String>,
) -> Proof {
    let owner = |mac: &String| owner_of(topology, seen, mac);
    let is_known =
        |mac: &String| topology.hosts.keys().any(|host| hardware(seen, host).contains(mac));
    let names: Vec<String> = macs.iter().map(&owner).collect();
    let directors: BTreeSet<String> = hardware(seen, &service.director);
    let heard = format!("{asker} asked and heard {}", names.join(", "));
    let (verdict, evidence) = if macs.is_empty() {
        (Verdict::Fails, format!("{asker} asked and nobody answered"))
    } else if macs.is_subset(&directors) {
        (Verdict::Holds, heard)
    } else if directors.is_empty() && macs.len() == 1 && !macs.iter().any(is_known) {
        // It may well be the director; a machine that nobody knows may be as well.
        let director = &service.director;
        (Verdict::NotChecked, format!("{heard}; {director} was not looked at: is it that one?"))
    } else {
        (Verdict::Fails, heard)
    };
    Proof { claim, verdict, evidence }
}

fn hardware(seen: &Seen, host: &HostName) -> BTreeSet<String> {
    let sighting = seen.get(host).and_then(|sighting| sighting.as_ref().ok());
    sighting.map(|s| s.facts.hardware.values().cloned().collect()).unwrap_or_default()
}

fn owner_of(topology: &Topology, seen: &Seen, mac: &String) -> String {
    let owner = topology.hosts.keys().find(|host| hardware(seen, host).contains(mac));
    owner.map_or_else(|| format!("{mac} (unknown)"), |host| format!("{host} ({mac})"))
}

/// Somebody on the segment of the director's VIP interface who can be asked to ask: a router or
/// client rather than a real server.
fn asker(topology: &Topology, service: &Service, seen: &Seen) -> Option<(HostName, IfName)> {
    let director = topology.hosts.get(&service.director)?;
    let vip = service.vip.as_ref()?;
    let network = director.interfaces.get(&vip.interface)?.network.as_ref()?;
    let candidates = topology.hosts.values().filter(|host| {
        host.name != director.name && seen.get(&host.name).is_some_and(Result::is_ok)
    });
    let on_segment = candidates.filter_map(|host| {
        let mut interfaces: Vec<_> = topology.interfaces_on(host, network).collect();
        interfaces.sort_by_key(|interface| {
            !interface.addresses.iter().any(|net| net.contains(&vip.address))
        });
        interfaces.first().map(|interface| (host, interface.name.clone()))
    });
    let best = on_segment.min_by_key(|(host, _)| host.roles.contains(&Role::RealServer));
    best.map(|(host, dev)| (host.name.clone(), dev))
}

/// Every client that can be reached sends requests to every service.
async fn prove_traffic(session: &mut Session<'_>, which: impl Fn(&Service) -> bool) -> Vec<Proof> {
    let topology = session.topology;
    let mut proofs = Vec::new();
    let absent = session.absent().clone();
    let clients: Vec<&Host> =
        topology.with_role(Role::Client).filter(|c| !absent.contains_key(&c.name)).collect();
    for service in topology.services.iter().filter(|service| which(service)) {
        let targets = targets(service);
        if targets.is_empty() || clients.is_empty() {
            proofs.push(Proof {
                claim: format!("a client is answered by {}", called(service)),
                verdict: Verdict::NotChecked,
                evidence: why_not(service, &targets).to_owned(),
            });
            continue;
        }
        for (client, (protocol, target)) in
            clients.iter().flat_map(|client| targets.iter().map(move |target| (client, *target)))
        {
            let claim = answered(&client.name, service, protocol, target);
            let count = requests_for(service);
            let request = Request::Fetch { target, protocol, count, timeout_ms: FETCH_TIMEOUT_MS };
            let mut answers = session.ask(BTreeMap::from([(client.name.clone(), request)])).await;
            let answer = answers.remove(&client.name);
            proofs.push(judge_traffic(claim, answer));
        }
    }
    proofs
}

/// Where requests can be sent for `service`: every port that the file names, over protocols that an
/// agent speaks. None where the file names no VIP or no port: which of a host's ports answers when all
/// are passed on is nothing that a file says.
pub(crate) fn targets(service: &Service) -> Vec<(Protocol, SocketAddr)> {
    let Some(vip) = service.vip_address() else { return Vec::new() };
    let protocols = match &service.mark {
        Some(mark) => mark.protocols.clone(),
        None => BTreeSet::from([service.protocol]),
    };
    let spoken = protocols.into_iter().filter(|protocol| *protocol != Protocol::Sctp);
    let ports = service.ports();
    spoken
        .flat_map(|protocol| ports.iter().map(move |port| (protocol, SocketAddr::new(vip, *port))))
        .collect()
}

fn why_not(service: &Service, targets: &[(Protocol, SocketAddr)]) -> &'static str {
    if !targets.is_empty() {
        "no client of the file can be reached to send requests"
    } else if service.vip.is_none() {
        "the file does not say to which address requests go: others' rules set the mark"
    } else if service.ports().is_empty() {
        "the file does not say which of all ports answers"
    } else {
        "lvsprov sends TCP and UDP requests only"
    }
}

/// The claim; a service with several ports is told with each.
fn answered(client: &HostName, service: &Service, protocol: Protocol, at: SocketAddr) -> String {
    let claim = format!("{client} is answered by {}", called(service));
    if service.mark.is_some() { format!("{claim} on {protocol} {at}") } else { claim }
}

/// `web (tcp 192.0.2.1:80)`, or only the latter where the file gives no name.
fn called(service: &Service) -> String {
    let (spoken, key) = (service.spoken(), service_key(service).to_string());
    if spoken == key { key } else { format!("{spoken} ({key})") }
}

/// Enough that every real server gets its turn twice under round robin; at most 50.
fn requests_for(service: &Service) -> u32 {
    let active = service.real_servers.iter().filter(|rs| rs.weight > 0).count();
    u32::try_from(active * 2).unwrap_or(50).clamp(2, 50)
}

fn judge_traffic(claim: String, answer: Option<Result<Reply, NoAnswer>>) -> Proof {
    let (verdict, evidence) = match answer {
        Some(Ok(Reply::Fetched(fetched))) => {
            let answered: u32 = fetched.answers.values().sum();
            let failed: u32 = fetched.failures.values().sum();
            let mut evidence = format!("{answered} of {} requests answered", answered + failed);
            for (reason, count) in &fetched.failures {
                let _ = write!(evidence, "; {count} failed: {reason}");
            }
            let good = failed == 0 && answered > 0;
            (if good { Verdict::Holds } else { Verdict::Fails }, evidence)
        }
        Some(Ok(other)) => (Verdict::Fails, unexpected(&other).to_string()),
        Some(Err(failure)) => (Verdict::Fails, failure.to_string()),
        None => (Verdict::Fails, "the client went away".to_owned()),
    };
    Proof { claim, verdict, evidence }
}

/// What is running, and how it differs from the file. Pure.
pub fn status(topology: &Topology, plan: &ClusterPlan, seen: &Seen) -> StatusReport {
    let directs = |name: &HostName| topology.services.iter().any(|s| s.director == *name);
    let hosts = plan.hosts.iter().map(|(name, prospect)| {
        let sighting = seen.get(name).and_then(|sighting| sighting.as_ref().ok());
        let report = prospect.report();
        let mut drift: Vec<String> = report
            .steps
            .iter()
            .filter(|step| step.state == StepState::Planned)
            .map(|step| step.text.clone())
            .collect();
        drift.extend(report.obstacles.iter().map(ToString::to_string));
        let view = HostView {
            status: report.status,
            failure: report.failure,
            applied_since: sighting.and_then(|s| s.receipt.as_ref()).map(|receipt| receipt.since),
            drift,
            services: sighting.map(|s| services(topology, name, s)).unwrap_or_default(),
            foreign: report.foreign,
            timeouts: sighting.filter(|_| directs(name)).and_then(|s| s.state.timeouts),
            daemons: sighting.map(|s| s.state.daemons.clone()).unwrap_or_default(),
            unfinished: sighting.and_then(unfinished::view),
            reverted: sighting.and_then(|seen| seen.reverted.clone()),
        };
        (name.clone(), view)
    });
    StatusReport {
        topology: topology.name.to_string(),
        hosts: hosts.collect(),
        unfinished: unfinished::found(plan, seen),
    }
}

fn services(topology: &Topology, director: &HostName, seen: &Sighting) -> Vec<ServiceView> {
    let mine = topology.services.iter().filter(|service| service.director == *director);
    let views = mine.map(|service| {
        let key = service_key(service);
        let there = seen.state.services.get(&key);
        let counters = seen.counters.get(&key);
        let real_servers = there.into_iter().flat_map(|there| &there.destinations);
        let real_servers = real_servers.map(|(at, destination)| RealServerView {
            host: service
                .real_servers
                .iter()
                .find(|rs| rs.rip == at.0.ip())
                .map(|rs| rs.host.clone()),
            key: *at,
            method: destination.method.to_string(),
            weight: destination.weight,
            upper_threshold: destination.upper_threshold,
            lower_threshold: destination.lower_threshold,
            counters: counters.and_then(|c| c.get(at)).copied().unwrap_or_default(),
        });
        ServiceView {
            name: service.name.to_string(),
            spoken: service.spoken(),
            scheduler: there.map(|there| there.scheduler.clone()),
            settings: there.map(ToString::to_string),
            persistence: there
                .filter(|there| there.flags.has(ServiceFlags::PERSISTENT))
                .map(|there| there.timeout),
            real_servers: real_servers.collect(),
            key,
        }
    });
    views.collect()
}

#[cfg(test)]
#[path = "proving_tests.rs"]
mod tests;
