//! The phases of a scenario, in order. A case has the tested property as its name and the observation as
//! its detail.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::capture::{self, FrameCapture};
use super::super::clients::{self, Stream};
use super::super::responders;
use super::super::snapshot::{self, Snapshot};
use super::super::targets::{self, RequestTarget};
use super::{CaseOutcome, Recorder, Scenario, drift, service};
use crate::apply::cluster_plan::{self, ClusterPlan, Direction};
use crate::apply::outcome::{ClusterReport, HostStatus, StepState};
use crate::apply::session::Observations;
use crate::apply::verify::Verdict;
use crate::apply::{ConnectionSettings, Session, traffic, transaction, verify};
use crate::names::HostName;
use crate::state::{Module, Protocol};
use crate::topology::{Role, Service, Topology};

/// How long to wait for a response that must not come.
const NO_ANSWER_TIMEOUT: Duration = Duration::from_millis(700);
/// Timeout of one request, under load in an emulated machine.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a request of the stream, after two TCP retransmissions: then it is lost.
const LOST_AFTER: Duration = Duration::from_secs(4);
/// Interval of the request stream during apply, and of polls.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Runs all phases, up to a failure that the next phases depend on.
pub(super) async fn all(scenario: &mut Scenario<'_>, recorder: &mut Recorder<'_>) {
    let responders = match responders::start(&scenario.lab, scenario.topology).await {
        Ok(responders) => responders,
        Err(error) => {
            recorder.case("responders listen on the real servers", Err(error.to_string()));
            return;
        }
    };
    scenario.sctp = !responders.not_served().keys().any(|at| at.protocol == Protocol::Sctp);
    for service in scenario.unsupported_services() {
        let why = "the running kernel has no SCTP (module sctp)".to_owned();
        recorder.case(&format!("the lab can send requests to {}", service.name), Err(why));
    }
    let before = match snapshots(scenario) {
        Ok(before) => before,
        Err(error) => {
            recorder.case("the state of the hosts is recorded before apply", Err(error));
            return;
        }
    };
    recorder.case("no service answers before apply", no_answers(scenario).await);
    recorder.case("plan changes nothing", plan_changes_nothing(scenario, &before).await);
    if apply(scenario, recorder).await {
        for service in scenario.services() {
            service::run_cases(scenario, service, recorder).await;
        }
        recorder.case("verify passes: state, ARP and traffic", verified(scenario).await);
        recorder.case("a second apply changes nothing", second_apply(scenario).await);
        recorder
            .case("apply repairs drift, and changes nothing else", drift::repaired(scenario).await);
    }
    recorder.case("destroy restores every host", destroy(scenario, &before).await);
    recorder.case("no service answers after destroy", no_answers(scenario).await);
    drop(responders);
}

/// A snapshot of every host.
fn snapshots(scenario: &Scenario<'_>) -> Result<BTreeMap<HostName, Snapshot>, String> {
    let all = scenario.topology.hosts.keys().map(|host| {
        let namespace = scenario.lab.namespace(host).map_err(|error| error.to_string())?;
        let snapshot = snapshot::snapshot(namespace).map_err(|error| error.to_string())?;
        Ok((host.clone(), snapshot))
    });
    all.collect()
}

fn same_as(scenario: &Scenario<'_>, before: &BTreeMap<HostName, Snapshot>) -> CaseOutcome {
    let after = snapshots(scenario)?;
    let mut differences = Vec::new();
    let mut compared = 0;
    // A device that was up once keeps its IPv6 settings (net/ipv6/addrconf.c, `addrconf_notify`), and
    // devices such as tunl0 exist as long as their modules.
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
        Ok(format!("{compared} settings of {} hosts are unchanged", before.len()))
    } else {
        Err(differences.join("\n"))
    }
}

async fn no_answers(scenario: &Scenario<'_>) -> CaseOutcome {
    let mut observed = Vec::new();
    for client in scenario.clients() {
        for service in scenario.services() {
            let Some(RequestTarget { protocol, at }) =
                targets::of_service(service).first().copied()
            else {
                continue;
            };
            if answers_by_itself(scenario, service) {
                observed.push(format!(
                    "{}: skipped, the director answers at its own address",
                    service.name
                ));
                continue;
            }
            let tally =
                clients::ask(&scenario.lab, &client.name, at, protocol, 2, NO_ANSWER_TIMEOUT).await;
            let tally = tally.map_err(|error| error.to_string())?;
            if !tally.answers.is_empty() {
                return Err(format!("{} is answered by {:?}", service.name, tally.answers));
            }
            let reasons: Vec<_> = tally.failures.keys().cloned().collect();
            observed.push(format!("{}: {}", service.name, reasons.join(", ")));
        }
    }
    if observed.is_empty() {
        return Err("the file has no client to send requests from".to_owned());
    }
    Ok(observed.join("; "))
}

/// Whether the director answers without IPVS: it is a real server, and the VIP is its own address.
fn answers_by_itself(scenario: &Scenario<'_>, service: &Service) -> bool {
    let (Some(vip), Some(director)) =
        (service.vip_address(), scenario.topology.hosts.get(&service.director))
    else {
        return false;
    };
    let real = service.real_servers.iter().any(|server| server.host == director.name);
    real && director.interface_with(vip).is_some()
}

/// Opens a session, observes the hosts and plans.
async fn survey<'s>(
    scenario: &'s Scenario<'_>,
    direction: Direction,
) -> (Session<'s>, Observations, ClusterPlan) {
    survey_of(scenario.topology, &scenario.settings, direction).await
}

async fn survey_of<'s>(
    topology: &'s Topology,
    settings: &'s ConnectionSettings,
    direction: Direction,
) -> (Session<'s>, Observations, ClusterPlan) {
    let mut session = Session::open(topology, settings).await;
    let observed = session.observe(false).await;
    let mut plan =
        cluster_plan::plan(topology, &session.desired, &observed, session.absent(), direction);
    // As `plan` and `apply` do.
    if direction != Direction::Destroy {
        plan.refuse_unanswered(topology, &session.desired, &observed);
    }
    (session, observed, plan)
}

pub(in crate::lab) fn apply_direction() -> Direction {
    Direction::Apply { now: crate::apply::operator::now() }
}

async fn run(scenario: &Scenario<'_>, direction: Direction) -> ClusterReport {
    change(scenario.topology, &scenario.settings, direction).await
}

/// Plans and carries out, as `apply` or `destroy` do.
pub(in crate::lab) async fn change(
    topology: &Topology,
    settings: &ConnectionSettings,
    direction: Direction,
) -> ClusterReport {
    let (mut session, observed, plan) = survey_of(topology, settings, direction).await;
    let report = transaction::run_plain(&mut session, &plan, &observed, direction).await;
    session.close().await;
    report
}

/// Fails with the report if it has failures.
pub(in crate::lab) fn succeeded(report: &ClusterReport) -> Result<(), String> {
    if !report.has_failures() {
        return Ok(());
    }
    Err(anstream::adapter::strip_str(&crate::report::cluster::text(report)).to_string())
}

async fn plan_changes_nothing(
    scenario: &Scenario<'_>,
    before: &BTreeMap<HostName, Snapshot>,
) -> CaseOutcome {
    let (session, _, plan) = survey(scenario, apply_direction()).await;
    session.close().await;
    let report = plan.report(scenario.topology);
    succeeded(&report)?;
    if !report.has_pending() {
        return Err("the plan for bare hosts has no steps".to_owned());
    }
    let same = same_as(scenario, before)?;
    Ok(format!("{} steps planned; {same}", report.count(StepState::Planned)))
}

/// Applies while clients send requests and ARP frames are captured. True if apply succeeded.
async fn apply(scenario: &Scenario<'_>, recorder: &mut Recorder<'_>) -> bool {
    let watch = FrameCapture::start(&scenario.lab).map_err(|error| error.to_string());
    let streams = streams(scenario).await;
    let report = run(scenario, apply_direction()).await;
    let applied = succeeded(&report).map(|()| {
        format!("{} changes on {} hosts", report.count(StepState::Done), report.hosts.len())
    });
    let up = recorder.case("apply brings the cluster up", applied);
    let answered = match streams {
        Ok(streams) => no_request_lost(streams).await,
        Err(error) => Err(error),
    };
    let quiet = match watch {
        Ok(watch) => only_director_claims(scenario, watch),
        Err(error) => Err(error),
    };
    recorder.case("no request is lost after the first answer", answered);
    recorder.case("only the director claims the VIP during apply", quiet);
    up
}

/// Polls until `count` requests were answered, at most for [`REQUEST_TIMEOUT`].
async fn until_answered(stream: &Stream, count: usize) {
    let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        let answered = stream.so_far().iter().filter(|attempt| attempt.result.is_ok()).count();
        if answered >= count {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn streams(scenario: &Scenario<'_>) -> Result<Vec<(String, Stream)>, String> {
    let mut all = Vec::new();
    for client in scenario.clients() {
        for service in scenario.services() {
            let Some(RequestTarget { protocol, at }) =
                targets::of_service(service).first().copied()
            else {
                continue;
            };
            let stream =
                Stream::start(&scenario.lab, &client.name, at, protocol, POLL_INTERVAL, LOST_AFTER)
                    .await
                    .map_err(|error| error.to_string())?;
            all.push((format!("{} from {}", service.name, client.name), stream));
        }
    }
    Ok(all)
}

/// Waits until each stream has some responses, then stops it and looks for lost requests.
async fn no_request_lost(streams: Vec<(String, Stream)>) -> CaseOutcome {
    let mut observed = Vec::new();
    for (name, stream) in streams {
        until_answered(&stream, 20).await;
        let attempts = stream.stop().await;
        let answered = attempts.iter().filter(|attempt| attempt.result.is_ok()).count();
        if answered == 0 {
            return Err(format!("{name}: none of {} requests got a response", attempts.len()));
        }
        let lost = clients::lost_after_first_answer(&attempts);
        if let Some(first) = lost.first() {
            let why = first.result.as_ref().err().cloned().unwrap_or_default();
            return Err(format!("{name}: {} requests lost, the first: {why}", lost.len()));
        }
        observed.push(format!("{name}: {answered} answered, {} before", attempts.len() - answered));
    }
    Ok(observed.join("; "))
}

fn only_director_claims(scenario: &Scenario<'_>, watch: FrameCapture) -> CaseOutcome {
    let frames = watch.stop().map_err(|error| error.to_string())?;
    let mut claims = Vec::new();
    for service in &scenario.topology.services {
        let Some(vip) = service.vip_address() else { continue };
        for mac in capture::claims_of(&frames, vip).keys() {
            let owner = scenario.lab.owner_of(*mac).map(|(host, _)| host.clone());
            if owner.as_ref() != Some(&service.director) {
                let who = owner.map_or_else(|| mac.to_string(), |host| host.to_string());
                return Err(format!("{who} claimed {vip}"));
            }
            claims.push(vip);
        }
    }
    claims.dedup();
    let unclaimed: Vec<IpAddr> = scenario
        .topology
        .services
        .iter()
        .filter_map(Service::vip_address)
        .filter(|vip| !claims.contains(vip) && asked_for(scenario, *vip))
        .collect();
    if !unclaimed.is_empty() {
        return Err(format!("no host claimed {unclaimed:?}: the capture missed frames"));
    }
    Ok(format!("{} frames of ARP and neighbour discovery captured", frames.len()))
}

/// Whether a host must resolve the VIP by ARP during apply: it has an interface in the VIP's subnet. (Other
/// hosts resolve the director's own address. A VIP that is the director's own address is resolved before
/// apply.)
fn asked_for(scenario: &Scenario<'_>, vip: IpAddr) -> bool {
    if scenario.topology.hosts.values().any(|host| host.interface_with(vip).is_some()) {
        return false;
    }
    let others =
        scenario.topology.hosts.values().filter(|host| !host.roles.contains(&Role::Director));
    others
        .into_iter()
        .any(|host| !host.roles.contains(&Role::RealServer) && host.on_link(vip).is_some())
}

async fn verified(scenario: &Scenario<'_>) -> CaseOutcome {
    let (mut session, observed, plan) = survey(scenario, apply_direction()).await;
    let report = verify::verify(&mut session, &plan, &observed).await;
    session.close().await;
    let observed = |verdict: Verdict| -> Vec<String> {
        let those = report.verifications.iter().filter(|outcome| outcome.verdict == verdict);
        those.map(|outcome| format!("{}: {}", outcome.claim, outcome.evidence)).collect()
    };
    let (failed, unchecked) = (observed(Verdict::Fails), observed(Verdict::NotChecked));
    // Only services without request targets may be unchecked.
    let cannot =
        scenario.topology.services.iter().filter(|service| traffic::targets(service).is_empty());
    if !failed.is_empty() || unchecked.len() != cannot.count() {
        return Err([failed, unchecked].concat().join("\n"));
    }
    let held = report.verifications.len() - unchecked.len();
    Ok(format!("{held} checks passed; {} services cannot be checked from outside", unchecked.len()))
}

async fn second_apply(scenario: &Scenario<'_>) -> CaseOutcome {
    let report = run(scenario, apply_direction()).await;
    succeeded(&report)?;
    let idle = report.hosts.values().all(|host| host.status == HostStatus::Unchanged);
    let steps = report.hosts.values().map(|host| host.steps.len()).sum::<usize>();
    if idle && steps == 0 {
        Ok("0 changes".to_owned())
    } else {
        Err(anstream::adapter::strip_str(&crate::report::cluster::text(&report)).to_string())
    }
}

async fn destroy(scenario: &Scenario<'_>, before: &BTreeMap<HostName, Snapshot>) -> CaseOutcome {
    let report = run(scenario, Direction::Destroy).await;
    succeeded(&report)?;
    let same = same_as(scenario, before)?;
    Ok(format!("{} changes reverted; {same}", report.count(StepState::Done)))
}
