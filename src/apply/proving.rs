//! What the network itself says: who answers ARP or neighbour discovery for a VIP, whether
//! [`requests`] are answered, and how the running table compares with the file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::time::Instant;

use super::outcome::{HostStatus, StepState};
use super::planning::{ClusterPlan, Prospect};
use super::requests::{self, Manner};
use super::session::{Session, unexpected};
use super::unfinished;
use super::views::{
    HostView, Proof, RealServerView, ServiceView, StatusReport, Verdict, VerifyReport,
};
use crate::desired::service_key;
use crate::failure::Failure;
use crate::names::{HostName, IfName};
use crate::protocol::{Reply, Request};
use crate::state::{Observation, ServiceFlags};
use crate::topology::{Role, Service, Topology};

/// How long to listen for a neighbour's answers, in milliseconds. A neighbour answers within a few.
const ARP_WAIT_MS: u32 = 700;

type Seen = BTreeMap<HostName, Result<Observation, Failure>>;

/// State, ARP and traffic, in this order.
pub async fn verify(session: &mut Session<'_>, plan: &ClusterPlan, seen: &Seen) -> VerifyReport {
    let mut proofs = state_proofs(plan);
    proofs.extend(prove_network(session, seen, &Manner::default()).await);
    VerifyReport { topology: session.topology.name.to_string(), proofs }
}

/// ARP and traffic of the services whose director is fit.
pub async fn prove_network(session: &mut Session<'_>, seen: &Seen, manner: &Manner) -> Vec<Proof> {
    let mut proofs = Vec::new();
    let started = Instant::now();
    for (vip, service) in vips(session.topology) {
        if manner.unfit.contains_key(&service.director) {
            continue;
        }
        if session.watch().wants_to_stop() {
            return proofs;
        }
        let proof = match manner.limit {
            // The rest of the time is for requests.
            Some(limit) if started.elapsed() >= limit / 4 => {
                let claim = only_director(service, vip);
                let evidence = format!("the {} s for it were over", (limit / 4).as_secs());
                plain(claim, Verdict::NotChecked, evidence)
            }
            _ => prove_arp(session, (vip, service), seen).await,
        };
        let last = manner.stops && proof.condemns();
        proofs.push(proof);
        if last {
            return proofs;
        }
    }
    proofs.extend(requests::prove(session, manner).await);
    proofs
}

/// A claim that is about no requests.
fn plain(claim: String, verdict: Verdict, evidence: String) -> Proof {
    Proof { claim, verdict, evidence, service: None, excuse: None }
}

fn only_director(service: &Service, vip: IpAddr) -> String {
    let how = if vip.is_ipv4() { "ARP" } else { "neighbour solicitations" };
    format!("only {} answers {how} for {vip}", service.director)
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
        plain(claim, verdict, evidence)
    });
    proofs.collect()
}

fn vips(topology: &Topology) -> BTreeMap<IpAddr, &Service> {
    topology.services.iter().filter_map(|s| Some((s.vip_address()?, s))).collect()
}

/// On the VIP's segment exactly one machine may answer ARP (neighbour discovery) for it: the director.
async fn prove_arp(session: &mut Session<'_>, vip: (IpAddr, &Service), seen: &Seen) -> Proof {
    let (vip, service) = vip;
    let claim = only_director(service, vip);
    let not_checked = |evidence: String| plain(claim.clone(), Verdict::NotChecked, evidence);
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
    plain(claim, verdict, evidence)
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

fn services(topology: &Topology, director: &HostName, seen: &Observation) -> Vec<ServiceView> {
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
            spoken: service.display_name(),
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
