//! Diagnoses of evidence made by hand.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use super::diagnosis::{ClusterFacts, DiagnosisKind, DoctorReport, report};
use super::evidence::{CounterRise, Evidence, Instruments, KernelLookup, RealRequests, RequestWay};
use super::rises;
use crate::apply::cluster_plan::{self, Direction};
use crate::apply::session::Observations;
use crate::apply::tests::{all_bare, host};
use crate::apply::verify::{Verdict, Verification};
use crate::desired::desired;
use crate::names::ServiceName;
use crate::protocol::Fetched;
use crate::state::examination::{
    DropCounter, Examination, RouteAnswer, RouteQuestion, RouteRefusal,
};
use crate::state::{Protocol, StatefulDrop};
use crate::support::Cluster;
use crate::topology::{Forward, Topology};
use crate::walk::{Cause, Death, Hop, Walk, WalkVerdict};

fn topology(forward: Forward) -> Topology {
    Cluster::of(&[(forward, 80, vec![1, 2])]).topology
}

fn fetched(answered: u32, failures: &[(&str, u32)]) -> Fetched {
    let answers =
        if answered > 0 { [("web".to_owned(), answered)].into() } else { BTreeMap::new() };
    let failures = failures.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect();
    Fetched { answers, failures }
}

fn death() -> Death {
    let (dev, source) = ("eth0".parse().unwrap(), "192.0.2.9".parse().unwrap());
    let cause = Cause::SourceInvalid {
        dev,
        source,
        rp_filter: 1,
        of_all: true,
        towards: None,
        loose_passes: false,
        refused: false,
    };
    Death { host: host("director"), cause }
}

fn dead() -> WalkVerdict {
    WalkVerdict::Dead { death: death(), in_reply: false }
}

/// One client, all real servers, one verdict for each way.
fn evidence(topology: &Topology, probe: Fetched, end: &WalkVerdict) -> Evidence {
    let service = &topology.services[0];
    let way = |name: &str| RequestWay {
        real_server: host(name),
        walk: Walk {
            hops: vec![Hop { host: host("client"), text: "asks".to_owned(), over: None }],
            reply_from: None,
            end: end.clone(),
            by_chance: false,
            lookups: Vec::new(),
            unclear: Vec::new(),
        },
        after_apply: Some(WalkVerdict::Answered),
        listener: Some(super::targets(service)[0]),
        from_itself: None,
    };
    Evidence {
        client: host("client"),
        service: service.name.clone(),
        service_name: service.display_name(),
        director: host("director"),
        target: super::targets(service).first().copied(),
        probe: RealRequests::Sent(probe),
        ways: vec![way("rs1"), way("rs2")],
        instruments: None,
    }
}

fn question() -> RouteQuestion {
    let source = "192.0.2.9".parse().unwrap();
    let target = "192.0.2.80".parse().unwrap();
    RouteQuestion { dev: Some("eth0".parse().unwrap()), source: Some(source), target, mark: 0 }
}

fn lookup(passes: bool, answer: RouteAnswer) -> KernelLookup {
    KernelLookup { host: host("director"), question: question(), passes, answer }
}

fn judged(topology: &Topology, all: &[Evidence]) -> DoctorReport {
    judged_with(topology, &all_bare(topology), all, BTreeMap::new())
}

fn judged_with(
    topology: &Topology,
    observed: &Observations,
    all: &[Evidence],
    segments: BTreeMap<ServiceName, Verification>,
) -> DoctorReport {
    let absent = BTreeMap::new();
    let direction = Direction::Apply { now: 7 };
    let plan = cluster_plan::plan(topology, &desired(topology), observed, &absent, direction);
    report(&ClusterFacts::new(topology, &plan, observed, &absent, segments), all)
}

fn kinds(report: &DoctorReport) -> Vec<DiagnosisKind> {
    report.causes.iter().map(|cause| cause.kind).collect()
}

const SILENT: &[(&str, u32)] = &[(Fetched::TIMED_OUT, 2)];

#[test]
fn all_answered_is_well() {
    let topology = topology(Forward::Dr);
    let found = judged(&topology, &[evidence(&topology, fetched(2, &[]), &WalkVerdict::Answered)]);
    assert!(found.is_well(), "{found:?}");
    let mut unsent = evidence(&topology, fetched(0, &[]), &WalkVerdict::Answered);
    unsent.probe = RealRequests::NotSent("no client".to_owned());
    let found = judged(&topology, &[unsent]);
    assert!(!found.is_well() && found.causes.is_empty(), "nothing was asked: {found:?}");
}

#[test]
fn the_walk_names_the_cause_and_the_kernel_is_quoted() {
    let topology = topology(Forward::Dr);
    let mut one = evidence(&topology, fetched(0, SILENT), &dead());
    let rise = CounterRise {
        host: host("director"),
        counter: DropCounter::ReversePathFilter,
        before: 0,
        during: 4,
    };
    let elsewhere = CounterRise { host: host("rs1"), ..rise.clone() };
    one.instruments = Some(Instruments {
        sent: 2,
        lookups: vec![lookup(false, RouteAnswer::Refused(RouteRefusal::SourceValidation))],
        rises: vec![rise, elsewhere],
        ..Instruments::default()
    });
    let mut other = evidence(&topology, fetched(0, SILENT), &dead());
    other.client = host("other");
    let found = judged(&topology, &[one, other]);
    assert_eq!(kinds(&found), [DiagnosisKind::PacketDies], "one cause for all that it explains");
    let cause = &found.causes[0];
    assert_eq!(cause.cause, death().to_string());
    assert_eq!(cause.requests.len(), 4);
    let evidence = cause.evidence.join("\n");
    assert!(evidence.contains("the kernel agrees: on director `ip route get"), "{evidence}");
    assert!(evidence.contains("on director TcpExt IPReversePathFilter rose by 4"), "{evidence}");
    assert!(!evidence.contains("on rs1"), "{evidence}");
    assert!(
        cause.cure.starts_with("lvsprov apply FILE, which does on director: "),
        "{}",
        cause.cure
    );
}

#[test]
fn what_apply_does_not_mend_has_the_walks_cure() {
    let topology = topology(Forward::Dr);
    let mut one = evidence(&topology, fetched(0, SILENT), &dead());
    one.ways.iter_mut().for_each(|way| way.after_apply = Some(dead()));
    let found = judged(&topology, &[one]);
    assert!(!found.causes[0].cure.contains("lvsprov apply"), "{:?}", found.causes);
}

#[test]
fn an_answer_that_the_walk_has_die_is_a_fault_of_ours() {
    let topology = topology(Forward::Dr);
    let mut one = evidence(&topology, fetched(2, &[]), &dead());
    assert_eq!(kinds(&judged(&topology, &[one.clone()])), [DiagnosisKind::WalkIsWrong]);
    // Another way may have answered.
    one.ways[1].walk.end = WalkVerdict::Answered;
    assert_eq!(kinds(&judged(&topology, &[one])), []);
}

#[test]
fn what_is_chance_is_a_cause_although_it_is_answered_now() {
    let topology = topology(Forward::Dr);
    let cause = Cause::SeveralAnswer {
        network: "lan".parse().unwrap(),
        next_hop: "192.0.2.80".parse().unwrap(),
        hosts: vec![host("director"), host("rs1")],
    };
    let end = WalkVerdict::Dead { death: Death { host: host("client"), cause }, in_reply: false };
    let found = judged(&topology, &[evidence(&topology, fetched(2, &[]), &end)]);
    assert_eq!(kinds(&found), [DiagnosisKind::PacketDies]);
    let evidence = found.causes[0].evidence.join("\n");
    assert!(evidence.contains("it is chance"), "{evidence}");
}

#[test]
fn a_listener_that_is_missing_is_found_where_the_walk_arrives() {
    let topology = topology(Forward::Dr);
    let mut one = evidence(&topology, fetched(1, &[(Fetched::REFUSED, 1)]), &WalkVerdict::Answered);
    one.ways[0].from_itself = Some(Ok(fetched(1, &[])));
    one.ways[1].from_itself = Some(Ok(fetched(0, &[(Fetched::REFUSED, 1)])));
    let found = judged(&topology, &[one]);
    assert_eq!(kinds(&found), [DiagnosisKind::NoListener]);
    assert_eq!(found.causes[0].host, Some(host("rs2")));
    assert!(found.causes[0].cause.starts_with("no process on rs2 listens on tcp "));
}

#[test]
fn a_missing_listener_explains_no_silence() {
    let topology = topology(Forward::Dr);
    let mut one = evidence(&topology, fetched(0, SILENT), &WalkVerdict::Answered);
    one.instruments = Some(Instruments {
        connections: Some([(host("rs1"), 0)].into()),
        ..Instruments::default()
    });
    one.ways[0].from_itself = Some(Ok(fetched(0, &[(Fetched::REFUSED, 1)])));
    let found = judged(&topology, &[one]);
    assert_eq!(kinds(&found), [DiagnosisKind::NoListener, DiagnosisKind::LostBeforeDirector]);
}

#[test]
fn the_silence_of_datagrams_shows_nothing_and_a_dead_walk_does() {
    let topology = topology(Forward::Dr);
    let of = |end: &WalkVerdict, failures| {
        let mut one = evidence(&topology, fetched(0, failures), end);
        one.target = one.target.map(|(_, at)| (Protocol::Udp, at));
        one.ways[0].listener = one.target;
        one.ways[0].from_itself = Some(Ok(fetched(0, failures)));
        judged(&topology, &[one])
    };
    let silent = of(&WalkVerdict::Answered, SILENT);
    assert!(silent.is_well() && silent.requests[0].undecided, "{silent:?}");
    assert_eq!(kinds(&of(&dead(), SILENT)), [DiagnosisKind::PacketDies]);
    // ICMP says that no process listens.
    let refused = of(&WalkVerdict::Answered, &[(Fetched::REFUSED, 2)]);
    assert_eq!(kinds(&refused), [DiagnosisKind::NoListener]);
}

#[test]
fn a_kernel_that_refuses_counts_more_than_the_walk() {
    let topology = topology(Forward::Dr);
    let mut one = evidence(&topology, fetched(0, SILENT), &WalkVerdict::Answered);
    let lookups = vec![
        lookup(true, RouteAnswer::Local),
        lookup(true, RouteAnswer::Refused(RouteRefusal::Prohibited)),
    ];
    one.instruments = Some(Instruments { sent: 2, lookups, ..Instruments::default() });
    let found = judged(&topology, &[one]);
    assert_eq!(kinds(&found), [DiagnosisKind::KernelRefuses]);
    let evidence = found.causes[0].evidence.join("\n");
    assert!(evidence.contains("EACCES") && !evidence.contains("as its own"), "{evidence}");
}

#[test]
fn the_counters_of_ipvs_say_on_which_side_it_is_lost() {
    let topology = topology(Forward::Dr);
    let lost = |connections: Option<[u64; 2]>| {
        let mut one = evidence(&topology, fetched(0, SILENT), &WalkVerdict::Answered);
        let connections =
            connections.map(|counts| [host("rs1"), host("rs2")].into_iter().zip(counts).collect());
        one.instruments = Some(Instruments { sent: 2, connections, ..Instruments::default() });
        kinds(&judged(&topology, &[one]))
    };
    assert_eq!(lost(Some([0, 0])), [DiagnosisKind::LostBeforeDirector]);
    assert_eq!(lost(Some([1, 1])), [DiagnosisKind::LostBehindDirector]);
    assert_eq!(lost(None), [DiagnosisKind::NotKnown]);
}

#[test]
fn tables_of_others_are_suspects() {
    let topology = topology(Forward::Dr);
    let mut observed = all_bare(&topology);
    let director = observed.get_mut(&host("director")).unwrap().as_mut().unwrap();
    director.facts.foreign_tables.insert("inet filter".to_owned());
    let mut one = evidence(&topology, fetched(0, SILENT), &WalkVerdict::Answered);
    let connections = Some([(host("rs1"), 0)].into());
    one.instruments = Some(Instruments { sent: 2, connections, ..Instruments::default() });
    let found = judged_with(&topology, &observed, &[one], BTreeMap::new());
    assert!(found.causes[0].cure.contains("director (inet filter)"), "{:?}", found.causes);
}

#[test]
fn a_stateful_firewall_is_named_only_where_nat_passes_it() {
    let of = |forward| {
        let topology = topology(forward);
        let mut observed = all_bare(&topology);
        let director = observed.get_mut(&host("director")).unwrap().as_mut().unwrap();
        let chain = "inet filter forward".to_owned();
        director.facts.stateful_drops = vec![StatefulDrop { chain, always: true }];
        director.state.services = desired(&topology)[&host("director")].state.services.clone();
        let one = evidence(&topology, fetched(0, SILENT), &WalkVerdict::Answered);
        kinds(&judged_with(&topology, &observed, &[one], BTreeMap::new()))
    };
    assert_eq!(of(Forward::Nat), [DiagnosisKind::StatefulFirewall]);
    assert_eq!(of(Forward::Dr), [DiagnosisKind::NotKnown]);
}

#[test]
fn another_machine_that_answers_for_the_vip_is_a_cause_although_requests_are_answered() {
    let topology = topology(Forward::Dr);
    let service = &topology.services[0];
    let segment = Verification {
        claim: "only director answers ARP".to_owned(),
        verdict: Verdict::Fails,
        evidence: "client asked, answered by 02:00:00:00:00:99 (unknown)".to_owned(),
        service: None,
        excuse: None,
    };
    let one = evidence(&topology, fetched(2, &[]), &WalkVerdict::Answered);
    let segments = [(service.name.clone(), segment)].into();
    let found = judged_with(&topology, &all_bare(&topology), &[one], segments);
    assert_eq!(kinds(&found), [DiagnosisKind::Segment]);
    assert!(!found.is_well());
}

#[test]
fn a_counter_that_rises_anyway_shows_nothing() {
    let of = |value: u64| {
        let drops = [(DropCounter::InAddrErrors, value)].into();
        BTreeMap::from([(host("rs1"), Examination { routes: Vec::new(), drops })])
    };
    assert_eq!(rises(&of(5), &of(5), &of(9)).len(), 1);
    assert_eq!(rises(&of(5), &of(8), &of(12)), [], "3 before, 4 during");
    assert_eq!(rises(&of(5), &of(5), &of(5)), []);
    assert_eq!(rises(&of(9), &of(9), &of(0)), [], "zeroed meanwhile");
}
