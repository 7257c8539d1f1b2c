//! Verifies a cluster from outside: who answers ARP or neighbour discovery for a VIP, and whether services
//! answer requests ([`super::traffic`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::outcome::HostStatus;
use super::requests::unexpected;
use super::session::{Observations, Session};
use super::traffic::{self, TrafficOptions};
use crate::names::{HostName, IfName};
use crate::protocol::{Reply, Request};
use crate::topology::{Role, Service, Topology};

/// How long to listen for a neighbour's answers, in milliseconds. A neighbour answers within a few of them.
pub(super) const ARP_WAIT_MS: u32 = 700;

/// What `verify` found. The JSON form is stable: members are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The topology's name.
    pub topology: String,
    /// In the order in which they were made.
    #[serde(rename = "proofs")]
    pub verifications: Vec<Verification>,
}

/// One claim about the cluster, and whether it is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// What must be true.
    pub claim: String,
    /// Whether it is.
    pub verdict: Verdict,
    /// What shows it.
    pub evidence: String,
    /// The service, where requests verify the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Why a change stays although the claim is not true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excuse: Option<Excuse>,
}

impl Verification {
    /// Whether a change must be aborted because of it.
    pub fn requires_abort(&self) -> bool {
        self.verdict == Verdict::Fails && self.excuse.is_none()
    }
}

/// Why requests without an answer do not show a fault of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excuse {
    /// Each was refused or reset, or its connection was established: the way there and back works, and the
    /// application is not ready.
    Replied,
    /// Datagrams, none of which was answered: an application need not answer what it does not understand.
    Datagrams,
}

/// Whether a claim is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is.
    Holds,
    /// It is not.
    Fails,
    /// It could not be checked; the evidence says why.
    NotChecked,
}

impl VerifyReport {
    /// Whether any claim failed.
    pub fn has_failures(&self) -> bool {
        self.verifications.iter().any(|verification| verification.verdict == Verdict::Fails)
    }
}

/// State, ARP and traffic, in this order.
pub async fn verify(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
) -> VerifyReport {
    let mut verifications = verify_state(plan);
    verifications.extend(verify_network(session, observed, &TrafficOptions::default()).await);
    VerifyReport { topology: session.topology.name.to_string(), verifications }
}

/// ARP and traffic of the services whose director is fit.
pub async fn verify_network(
    session: &mut Session<'_>,
    observed: &Observations,
    options: &TrafficOptions,
) -> Vec<Verification> {
    let mut verifications = Vec::new();
    let started = Instant::now();
    for (vip, service) in vips(session.topology) {
        if options.unfit.contains_key(&service.director) {
            continue;
        }
        if session.console().stop_requested() {
            return verifications;
        }
        let verification = match options.limit {
            // Three quarters of the time are for requests.
            Some(limit) if started.elapsed() >= limit / 4 => {
                let claim = only_director(service, vip);
                let evidence = format!("the {} s for it were over", (limit / 4).as_secs());
                plain(claim, Verdict::NotChecked, evidence)
            }
            _ => verify_arp(session, (vip, service), observed).await,
        };
        let last = options.stops && verification.requires_abort();
        verifications.push(verification);
        if last {
            return verifications;
        }
    }
    verifications.extend(traffic::verify(session, observed, options).await);
    verifications
}

/// A claim that no requests verify.
fn plain(claim: String, verdict: Verdict, evidence: String) -> Verification {
    Verification { claim, verdict, evidence, service: None, excuse: None }
}

fn only_director(service: &Service, vip: IpAddr) -> String {
    let how = if vip.is_ipv4() { "ARP" } else { "neighbour solicitations" };
    format!("only {} answers {how} for {vip}", service.director)
}

fn verify_state(plan: &ClusterPlan) -> Vec<Verification> {
    let verifications = plan.hosts.iter().map(|(name, result)| {
        let claim = format!("{name} is as the file wants it");
        let report = result.report();
        let steps: Vec<&str> = report.steps.iter().map(|step| step.text.as_str()).collect();
        let (verdict, evidence) = match result {
            HostPlanResult::Plan(_) if steps.is_empty() => {
                (Verdict::Holds, "read back: nothing differs".to_owned())
            }
            HostPlanResult::Plan(_) => (Verdict::Fails, steps.join("; ")),
            HostPlanResult::Obstructed(obstacles) => {
                let all: Vec<_> = obstacles.iter().map(ToString::to_string).collect();
                (Verdict::Fails, all.join("; "))
            }
            HostPlanResult::Failed(_, failure) => (Verdict::Fails, failure.to_string()),
            HostPlanResult::Absent(HostStatus::LeftOut) => {
                (Verdict::NotChecked, "left out by --limit".to_owned())
            }
            HostPlanResult::Absent(_) => {
                (Verdict::NotChecked, "the file does not say how it is reached".to_owned())
            }
        };
        plain(claim, verdict, evidence)
    });
    verifications.collect()
}

pub(super) fn vips(topology: &Topology) -> BTreeMap<IpAddr, &Service> {
    topology.services.iter().filter_map(|s| Some((s.vip_address()?, s))).collect()
}

/// On the VIP's segment exactly one host may answer ARP (neighbour discovery) for it: the director.
pub(super) async fn verify_arp(
    session: &mut Session<'_>,
    (vip, service): (IpAddr, &Service),
    observed: &Observations,
) -> Verification {
    let claim = only_director(service, vip);
    let not_checked = |evidence: String| plain(claim.clone(), Verdict::NotChecked, evidence);
    let Some((asker, dev)) = asker(session.topology, service, observed) else {
        return not_checked("no host on the director's segment can be reached to ask".to_owned());
    };
    let request = Request::WhoHas { dev: dev.clone(), target: vip, wait_ms: ARP_WAIT_MS };
    let mut answers = session.ask(BTreeMap::from([(asker.clone(), request)])).await;
    let macs = match answers.remove(&asker) {
        Some(Ok(Reply::Answered(macs))) => macs,
        Some(Ok(other)) => return not_checked(unexpected(&other).to_string()),
        Some(Err(error)) => return not_checked(error.into_failure().to_string()),
        None => return not_checked(session.why_absent(&asker).to_string()),
    };
    judge_arp(session.topology, claim, service, observed, &asker, &macs)
}

fn judge_arp(
    topology: &Topology,
    claim: String,
    service: &Service,
    observed: &Observations,
    asker: &HostName,
    macs: &BTreeSet<String>,
) -> Verification {
    let owner = |mac: &String| owner_of(topology, observed, mac);
    let is_known =
        |mac: &String| topology.hosts.keys().any(|host| hardware(observed, host).contains(mac));
    let names: Vec<String> = macs.iter().map(&owner).collect();
    let directors: BTreeSet<String> = hardware(observed, &service.director);
    let answered = format!("{asker} asked, answered by {}", names.join(", "));
    let (verdict, evidence) = if macs.is_empty() {
        (Verdict::Fails, format!("{asker} asked, and no host answered"))
    } else if macs.is_subset(&directors) {
        (Verdict::Holds, answered)
    } else if directors.is_empty() && macs.len() == 1 && !macs.iter().any(is_known) {
        // It may be the director, or an unknown machine.
        let director = &service.director;
        (Verdict::NotChecked, format!("{answered}; {director} was not looked at: is it that one?"))
    } else {
        (Verdict::Fails, answered)
    };
    plain(claim, verdict, evidence)
}

fn hardware(observed: &Observations, host: &HostName) -> BTreeSet<String> {
    let observation = observed.get(host).and_then(|observation| observation.as_ref().ok());
    observation.map(|s| s.facts.hardware.values().cloned().collect()).unwrap_or_default()
}

fn owner_of(topology: &Topology, observed: &Observations, mac: &String) -> String {
    let owner = topology.hosts.keys().find(|host| hardware(observed, host).contains(mac));
    owner.map_or_else(|| format!("{mac} (unknown)"), |host| format!("{host} ({mac})"))
}

/// A host on the segment of the director's VIP interface that sends the ARP request: a router or client
/// rather than a real server.
fn asker(
    topology: &Topology,
    service: &Service,
    observed: &Observations,
) -> Option<(HostName, IfName)> {
    let director = topology.hosts.get(&service.director)?;
    let vip = service.vip.as_ref()?;
    let network = director.interfaces.get(&vip.interface)?.network.as_ref()?;
    let candidates = topology.hosts.values().filter(|host| {
        host.name != director.name && observed.get(&host.name).is_some_and(Result::is_ok)
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

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
