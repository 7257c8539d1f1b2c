//! The chapters, in their order. Each says what it proves in its name and what it saw in its text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::clients::{self, Stream};
use super::super::responders;
use super::super::snapshot::{self, Snapshot};
use super::super::targets::{self, Target};
use super::super::watch::{self, Watch};
use super::{Proof, Stage, Teller, drift, service};
use crate::apply::cluster_plan::{self, ClusterPlan, Direction};
use crate::apply::outcome::{ClusterReport, HostStatus, StepState};
use crate::apply::verify::Verdict;
use crate::apply::{Session, traffic, transaction, verify};
use crate::failure::Failure;
use crate::names::HostName;
use crate::state::{Module, Observation, Protocol};
use crate::topology::{Role, Service};

/// A bare host refuses or ignores a request; this long is waited for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(700);
/// One request under load, in an emulated machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A request of the stream is lost if it is not answered by then: TCP has sent it twice more.
const LOST_AFTER: Duration = Duration::from_secs(4);
/// Between two requests of the stream that runs through an apply.
pub(super) const BEAT: Duration = Duration::from_millis(20);

pub(super) type Seen = BTreeMap<HostName, Result<Observation, Failure>>;

/// All chapters, until one fails that the others build on.
pub(super) async fn all(stage: &mut Stage<'_>, teller: &mut Teller<'_>) {
    let responders = match responders::start(&stage.lab, stage.topology).await {
        Ok(responders) => responders,
        Err(error) => {
            teller.case("responders listen on the real servers", Err(error.to_string()));
            return;
        }
    };
    stage.sctp = !responders.not_served().keys().any(|at| at.protocol == Protocol::Sctp);
    for service in stage.untried() {
        let why = "the running kernel has no SCTP (module sctp)".to_owned();
        teller.case(&format!("requests can be sent to {}", service.name), Err(why));
    }
    let before = match snapshots(stage) {
        Ok(before) => before,
        Err(error) => {
            teller.case("the bare hosts are written down", Err(error));
            return;
        }
    };
    teller.case("the service does not answer yet", silent(stage).await);
    teller.case("plan changes nothing", plan_is_dry(stage, &before).await);
    if bring_up(stage, teller).await {
        for service in stage.services() {
            service::prove(stage, service, teller).await;
        }
        teller.case("verify holds: state, ARP and traffic", verified(stage).await);
        teller.case("a second apply changes nothing", second_apply(stage).await);
        teller.case("what is undone by hand is mended, and only that", drift::mended(stage).await);
    }
    teller.case("destroy puts every host back", tear_down(stage, &before).await);
    teller.case("the service does not answer any more", silent(stage).await);
    drop(responders);
}

/// Every host as text, for the comparison at the end.
fn snapshots(stage: &Stage<'_>) -> Result<BTreeMap<HostName, Snapshot>, String> {
    let all = stage.topology.hosts.keys().map(|host| {
        let namespace = stage.lab.namespace(host).map_err(|error| error.to_string())?;
        let snapshot = snapshot::snapshot(namespace).map_err(|error| error.to_string())?;
        Ok((host.clone(), snapshot))
    });
    all.collect()
}

fn same_as(stage: &Stage<'_>, before: &BTreeMap<HostName, Snapshot>) -> Proof {
    let after = snapshots(stage)?;
    let mut differences = Vec::new();
    let mut compared = 0;
    // A device that was up once keeps its IPv6 settings, which nothing takes away again
    // (net/ipv6/addrconf.c, `addrconf_notify`); tunl0 and its like cannot be removed, as their modules
    // stay.
    let wildcards: Vec<&str> = Module::ALL.iter().filter_map(|module| module.device()).collect();
    let stays = |line: &str| {
        let rest = line.strip_prefix("added net/ipv6/").unwrap_or_default();
        let rest = rest.strip_prefix("conf/").or_else(|| rest.strip_prefix("neigh/"));
        rest.and_then(|rest| rest.split_once('/')).is_some_and(|(dev, _)| wildcards.contains(&dev))
    };
    for (host, before) in before {
        compared += before.len();
        let Some(after) = after.get(host) else { continue };
        let of_host = snapshot::difference(before, after);
        let of_host = of_host.into_iter().filter(|line| !stays(line));
        differences.extend(of_host.map(|line| format!("{host}: {line}")));
    }
    if differences.is_empty() {
        Ok(format!("{compared} settings of {} hosts are as before", before.len()))
    } else {
        Err(differences.join("\n"))
    }
}

async fn silent(stage: &Stage<'_>) -> Proof {
    let mut seen = Vec::new();
    for client in stage.clients() {
        for service in stage.services() {
            let Some(Target { protocol, at }) = targets::of_service(service).first().copied()
            else {
                continue;
            };
            if answers_by_itself(stage, service) {
                seen.push(format!("{}: the director answers at its own address", service.name));
                continue;
            }
            let tally = clients::ask(&stage.lab, &client.name, at, protocol, 2, SILENCE).await;
            let tally = tally.map_err(|error| error.to_string())?;
            if !tally.answers.is_empty() {
                return Err(format!("{} is answered by {:?}", service.name, tally.answers));
            }
            let reasons: Vec<_> = tally.failures.keys().cloned().collect();
            seen.push(format!("{}: {}", service.name, reasons.join(", ")));
        }
    }
    if seen.is_empty() {
        return Err("the file has no client to send requests from".to_owned());
    }
    Ok(seen.join("; "))
}

/// A director that is a real server and has the VIP anyhow listens there with and without IPVS.
fn answers_by_itself(stage: &Stage<'_>, service: &Service) -> bool {
    let (Some(vip), Some(director)) =
        (service.vip_address(), stage.topology.hosts.get(&service.director))
    else {
        return false;
    };
    let real = service.real_servers.iter().any(|server| server.host == director.name);
    real && director.interface_with(vip).is_some()
}

/// A session with what was seen and planned in it.
async fn survey<'s>(
    stage: &'s Stage<'_>,
    direction: Direction,
) -> (Session<'s>, Seen, ClusterPlan) {
    let mut session = Session::open(stage.topology, &stage.settings).await;
    let seen = session.observe(false).await;
    let plan =
        cluster_plan::plan(stage.topology, &session.desired, &seen, session.absent(), direction);
    (session, seen, plan)
}

pub(super) fn towards() -> Direction {
    Direction::Apply { now: crate::apply::operator::now() }
}

async fn run(stage: &Stage<'_>, direction: Direction) -> ClusterReport {
    let (mut session, seen, plan) = survey(stage, direction).await;
    let report = transaction::run_plain(&mut session, &plan, &seen, direction).await;
    session.close().await;
    report
}

/// Fails with whatever the report has of failures.
pub(super) fn succeeded(report: &ClusterReport) -> Result<(), String> {
    if !report.has_failures() {
        return Ok(());
    }
    Err(anstream::adapter::strip_str(&crate::report::cluster::text(report)).to_string())
}

async fn plan_is_dry(stage: &Stage<'_>, before: &BTreeMap<HostName, Snapshot>) -> Proof {
    let (session, _, plan) = survey(stage, towards()).await;
    session.close().await;
    let report = plan.report(stage.topology);
    succeeded(&report)?;
    if !report.has_pending() {
        return Err("there is nothing to do on bare hosts".to_owned());
    }
    let same = same_as(stage, before)?;
    Ok(format!("{} steps planned; {same}", report.count(StepState::Planned)))
}

/// Applies, while requests are sent and ARP is listened to. Whether the cluster is up.
async fn bring_up(stage: &Stage<'_>, teller: &mut Teller<'_>) -> bool {
    let watch = Watch::start(&stage.lab).map_err(|error| error.to_string());
    let streams = streams(stage).await;
    let report = run(stage, towards()).await;
    let applied = succeeded(&report).map(|()| {
        format!("{} changes on {} hosts", report.count(StepState::Done), report.hosts.len())
    });
    let up = teller.case("apply brings the cluster up", applied);
    let answered = match streams {
        Ok(streams) => unbroken(streams).await,
        Err(error) => Err(error),
    };
    let quiet = match watch {
        Ok(watch) => only_director_claims(stage, watch),
        Err(error) => Err(error),
    };
    teller.case("no request was lost once one was answered", answered);
    teller.case("nobody but the director claimed the VIP meanwhile", quiet);
    up
}

/// Polls until `count` requests were answered; gives up after [`PATIENCE`], which shows in the attempts.
async fn until_answered(stream: &Stream, count: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        let answered = stream.so_far().iter().filter(|attempt| attempt.result.is_ok()).count();
        if answered >= count {
            return;
        }
        tokio::time::sleep(BEAT).await;
    }
}

async fn streams(stage: &Stage<'_>) -> Result<Vec<(String, Stream)>, String> {
    let mut all = Vec::new();
    for client in stage.clients() {
        for service in stage.services() {
            let Some(Target { protocol, at }) = targets::of_service(service).first().copied()
            else {
                continue;
            };
            let stream = Stream::start(&stage.lab, &client.name, at, protocol, BEAT, LOST_AFTER)
                .await
                .map_err(|error| error.to_string())?;
            all.push((format!("{} from {}", service.name, client.name), stream));
        }
    }
    Ok(all)
}

/// Waits until each stream was answered some times, then ends it and looks for gaps.
async fn unbroken(streams: Vec<(String, Stream)>) -> Proof {
    let mut seen = Vec::new();
    for (name, stream) in streams {
        until_answered(&stream, 20).await;
        let attempts = stream.stop().await;
        let answered = attempts.iter().filter(|attempt| attempt.result.is_ok()).count();
        if answered == 0 {
            return Err(format!("{name}: none of {} requests was answered", attempts.len()));
        }
        let lost = clients::lost_after_first_answer(&attempts);
        if let Some(first) = lost.first() {
            let why = first.result.as_ref().err().cloned().unwrap_or_default();
            return Err(format!("{name}: {} requests were lost, the first: {why}", lost.len()));
        }
        seen.push(format!("{name}: {answered} answered, {} before", attempts.len() - answered));
    }
    Ok(seen.join("; "))
}

fn only_director_claims(stage: &Stage<'_>, watch: Watch) -> Proof {
    let frames = watch.stop().map_err(|error| error.to_string())?;
    let mut claims = Vec::new();
    for service in &stage.topology.services {
        let Some(vip) = service.vip_address() else { continue };
        for mac in watch::announcements_of(&frames, vip).keys() {
            let owner = stage.lab.owner_of(*mac).map(|(host, _)| host.clone());
            if owner.as_ref() != Some(&service.director) {
                let who = owner.map_or_else(|| mac.to_string(), |host| host.to_string());
                return Err(format!("{who} claimed {vip} as its own"));
            }
            claims.push(vip);
        }
    }
    claims.dedup();
    let unclaimed: Vec<IpAddr> = stage
        .topology
        .services
        .iter()
        .filter_map(Service::vip_address)
        .filter(|vip| !claims.contains(vip) && asked_for(stage, *vip))
        .collect();
    if !unclaimed.is_empty() {
        return Err(format!("nobody answered for {unclaimed:?}: the watch heard nothing"));
    }
    Ok(format!("{} frames of ARP and neighbour discovery heard", frames.len()))
}

/// Whether a neighbour must ask by ARP for the VIP once it is there: one with an interface in a subnet
/// that holds it. (Elsewhere the director's own address is asked for; and a VIP that is its own
/// address is known from before.)
fn asked_for(stage: &Stage<'_>, vip: IpAddr) -> bool {
    if stage.topology.hosts.values().any(|host| host.interface_with(vip).is_some()) {
        return false;
    }
    let others = stage.topology.hosts.values().filter(|host| !host.roles.contains(&Role::Director));
    others
        .into_iter()
        .any(|host| !host.roles.contains(&Role::RealServer) && host.on_link(vip).is_some())
}

async fn verified(stage: &Stage<'_>) -> Proof {
    let (mut session, seen, plan) = survey(stage, towards()).await;
    let report = verify::verify(&mut session, &plan, &seen).await;
    session.close().await;
    let told = |verdict: Verdict| -> Vec<String> {
        let those = report.verifications.iter().filter(|proof| proof.verdict == verdict);
        those.map(|proof| format!("{}: {}", proof.claim, proof.evidence)).collect()
    };
    let (failed, unchecked) = (told(Verdict::Fails), told(Verdict::NotChecked));
    // What it cannot try and says so: those services, and no other claim.
    let cannot =
        stage.topology.services.iter().filter(|service| traffic::targets(service).is_empty());
    if !failed.is_empty() || unchecked.len() != cannot.count() {
        return Err([failed, unchecked].concat().join("\n"));
    }
    let held = report.verifications.len() - unchecked.len();
    Ok(format!("{held} claims hold; {} cannot be checked from outside", unchecked.len()))
}

async fn second_apply(stage: &Stage<'_>) -> Proof {
    let report = run(stage, towards()).await;
    succeeded(&report)?;
    let idle = report.hosts.values().all(|host| host.status == HostStatus::Unchanged);
    let steps = report.hosts.values().map(|host| host.steps.len()).sum::<usize>();
    if idle && steps == 0 {
        Ok("0 changes".to_owned())
    } else {
        Err(anstream::adapter::strip_str(&crate::report::cluster::text(&report)).to_string())
    }
}

async fn tear_down(stage: &Stage<'_>, before: &BTreeMap<HostName, Snapshot>) -> Proof {
    let report = run(stage, Direction::Destroy).await;
    succeeded(&report)?;
    let same = same_as(stage, before)?;
    Ok(format!("{} changes taken back; {same}", report.count(StepState::Done)))
}
