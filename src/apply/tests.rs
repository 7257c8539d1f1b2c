//! The decisions of this module on hand-made hosts: who acts, who must wait, what is written down.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use super::cluster_plan::{self, ClusterPlan, Direction, HostPlanResult};
use super::outcome::{
    Action, ClusterReport, HostReport, HostStatus, StepState, TransactionEnd, TransactionReport,
};
use super::requests::RequestError;
use super::session::HostAbsence;
use super::stage_work::{self, StageWork};
use crate::desired::desired_for;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::simulate;
use crate::protocol::Execution;
use crate::report;
use crate::state::{
    Address, AddressKey, Capability, ConfDev, ConfItem, Controller, Edit, HostFacts, HostState,
    Link, Observation, Receipt, Scope, Stage, Sysctl, TransactionId,
};
use crate::support::Cluster;
use crate::topology::{Forward, Topology};

/// Makes one host unfit.
type Spoil = fn(&mut Observations, &HostName);
/// How a turn ends without an answer.
type End = fn(Failure) -> RequestError;

const APPLY: Direction = Direction::Apply { now: 7 };

pub(super) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(super) fn failure(message: &str) -> Failure {
    Failure { message: message.to_owned(), causes: Vec::new(), cure: None }
}

/// A host as it is before anything was done, with a hardware address that ends like its own.
pub(super) fn bare(topology: &Topology, name: &HostName) -> Observation {
    let host = &topology.hosts[name];
    let mut state = HostState::default();
    let mut facts = HostFacts {
        modules: crate::state::Module::ALL
            .iter()
            .map(|module| (*module, Capability::Loadable))
            .collect(),
        controller: Controller::Pipe,
        ..HostFacts::default()
    };
    for dev in ["lo", "eth0"] {
        state.links.insert(dev.parse().unwrap(), Link::Up);
    }
    let devs = state.links.keys().cloned().map(ConfDev::Dev);
    for dev in devs.collect::<Vec<_>>().into_iter().chain([ConfDev::All, ConfDev::Default]) {
        for item in ConfItem::ALL {
            state.sysctls.insert(Sysctl::Conf(dev.clone(), *item), "0".to_owned());
        }
    }
    state.sysctls.insert(Sysctl::IpForward, "0".to_owned());
    for interface in host.interfaces.values() {
        for net in &interface.addresses {
            let key = AddressKey { dev: interface.name.clone(), net: *net };
            let address = Address::plain(Scope::Global);
            state.addresses.insert(key, address);
            facts.hardware.insert(interface.name.clone(), mac(topology, name));
        }
    }
    Observation { facts, state, ..Observation::default() }
}

pub(super) fn mac(topology: &Topology, name: &HostName) -> String {
    let at = topology.hosts.keys().position(|host| host == name).unwrap();
    format!("02:00:00:00:00:{at:02x}")
}

pub(super) type Observations = BTreeMap<HostName, Result<Observation, Failure>>;

pub(super) fn all_bare(topology: &Topology) -> Observations {
    topology.hosts.keys().map(|name| (name.clone(), Ok(bare(topology, name)))).collect()
}

pub(super) fn plan(
    topology: &Topology,
    observed: &Observations,
    absent: &BTreeMap<HostName, HostAbsence>,
    direction: Direction,
) -> ClusterPlan {
    let desired = topology
        .hosts
        .values()
        .map(|host| (host.name.clone(), desired_for(topology, host)))
        .collect();
    cluster_plan::plan(topology, &desired, observed, absent, direction)
}

/// All hosts after an apply that succeeded.
pub(super) fn applied(topology: &Topology) -> Observations {
    let mut observed = all_bare(topology);
    let plan = plan(topology, &observed, &BTreeMap::new(), APPLY);
    for (name, result) in plan.hosts {
        let HostPlanResult::Plan(plan) = result else { panic!("{name}: {result:?}") };
        let observation = observed.get_mut(&name).unwrap().as_mut().unwrap();
        let changes: Vec<Edit> =
            plan.stages.iter().flat_map(|(_, s)| s).map(|step| step.edit.clone()).collect();
        observation.state = simulate(&observation.state, &changes).unwrap();
        observation.receipt = plan.goal.receipt_after;
    }
    observed
}

fn receipts(observed: &Observations) -> BTreeMap<HostName, Receipt> {
    let with = observed
        .iter()
        .filter_map(|(name, s)| Some((name.clone(), s.as_ref().ok()?.receipt.clone()?)));
    with.collect()
}

/// Goes through the stages; `outcome` says what came of a host's turn.
fn act(
    topology: &Topology,
    plan: &ClusterPlan,
    observed: &Observations,
    outcome: impl Fn(&HostName, Stage, &StageWork) -> Result<Execution, RequestError>,
) -> (ClusterReport, Vec<(Stage, HostName)>) {
    let mut report = plan.report(topology);
    let mut acted = Vec::new();
    for stage in Stage::ALL {
        let due = stage_work::due(topology, plan, &receipts(observed), stage, &mut report);
        for (name, work) in due {
            acted.push((stage, name.clone()));
            let host = report.hosts.get_mut(&name).unwrap();
            match outcome(&name, stage, &work) {
                Ok(outcome) => stage_work::record(host, stage, usize::MAX, &outcome),
                Err(no_answer) => stage_work::record_error(host, stage, usize::MAX, no_answer),
            }
        }
    }
    (report, acted)
}

#[allow(clippy::unnecessary_wraps, reason = "one of several ways to end a work")]
fn all_done(_: &HostName, _: Stage, work: &StageWork) -> Result<Execution, RequestError> {
    Ok(outcome(work.steps.len(), None))
}

fn outcome(done: usize, failure: Option<Failure>) -> Execution {
    let after = Observation::default();
    Execution { done, failure, after, warnings: Vec::new() }
}

fn states(report: &HostReport) -> Vec<StepState> {
    report.steps.iter().map(|step| step.state).collect()
}

fn dr() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 2])]).topology
}

fn because(report: &ClusterReport, name: &str) -> String {
    match &report.hosts[&host(name)].status {
        HostStatus::NotAttempted { because } => because.clone(),
        other => panic!("{name} was attempted: {other:?}"),
    }
}

fn acted(acted: &[(Stage, HostName)]) -> Vec<(Stage, &str)> {
    acted.iter().map(|(stage, name)| (*stage, name.as_str())).collect()
}

#[test]
fn real_servers_go_before_the_director_and_after_it_on_the_way_back() {
    let topology = dr();
    let observed = all_bare(&topology);
    let there = plan(&topology, &observed, &BTreeMap::new(), APPLY);
    let (report, order) = act(&topology, &there, &observed, all_done);
    assert!(!report.has_failures());
    let order: Vec<_> =
        acted(&order).into_iter().filter(|(_, h)| *h != "rs3" && *h != "client").collect();
    assert_eq!(order, [(Stage::Ready, "rs1"), (Stage::Ready, "rs2"), (Stage::Live, "director")]);

    let observed = applied(&topology);
    let back = plan(&topology, &observed, &BTreeMap::new(), Direction::Destroy);
    let (_, order) = act(&topology, &back, &observed, all_done);
    let order: Vec<_> = acted(&order).into_iter().filter(|(_, h)| *h != "rs3").collect();
    // Its settings are put back once nothing needs them any more.
    assert_eq!(
        order,
        [
            (Stage::Withdraw, "director"),
            (Stage::Ready, "rs1"),
            (Stage::Ready, "rs2"),
            (Stage::Live, "director")
        ]
    );
}

#[test]
fn the_director_waits_for_a_real_server_that_is_not_ready_whatever_the_reason() {
    let topology = dr();
    let rs1 = host("rs1");
    let cases: [(&str, Spoil); 2] = [
        ("it refused", |observed, rs1| {
            observed.insert(rs1.clone(), Err(failure("no answer")));
        }),
        ("something stands in its way", |observed, rs1| {
            let observation = observed.get_mut(rs1).unwrap().as_mut().unwrap();
            observation.state.links.insert("eth0".parse().unwrap(), Link::Down);
        }),
    ];
    for (plight, spoil) in cases {
        let mut observed = all_bare(&topology);
        spoil(&mut observed, &rs1);
        let plan = plan(&topology, &observed, &BTreeMap::new(), APPLY);
        let (report, order) = act(&topology, &plan, &observed, all_done);
        assert_eq!(
            because(&report, "director"),
            format!("rs1 is not ready: {plight}, and requests sent to it would be lost")
        );
        assert!(states(&report.hosts[&host("director")]).iter().all(|s| *s == StepState::NotDone));
        assert!(acted(&order).contains(&(Stage::Ready, "rs2")), "the others are done");
        assert!(!acted(&order).iter().any(|(_, name)| *name == "rs1" || *name == "director"));
    }
}

/// A host whose agent answered that its receipt is damaged was reached.
#[test]
fn a_host_that_answers_and_refuses_is_not_called_unreachable() {
    let topology = dr();
    let mut observed = all_bare(&topology);
    observed.insert(host("rs1"), Err(failure("the receipt is damaged")));
    observed.insert(host("rs2"), Err(failure("the connection broke")));
    let lost = HostAbsence::Unreachable(failure("the connection broke"));
    let absent = BTreeMap::from([(host("rs2"), lost)]);
    let report = plan(&topology, &observed, &absent, APPLY).report(&topology);
    assert_eq!(report.hosts[&host("rs1")].status, HostStatus::Refused);
    let text = anstream::adapter::strip_str(&report::cluster::text(&report)).to_string();
    assert!(text.contains("rs1  not touched: it refused"), "{text}");
    assert!(text.contains("rs2  not touched: it could not be reached"), "{text}");
}

#[test]
fn a_host_that_failed_in_a_rollback_is_counted_once() {
    let topology = dr();
    let mut hosts = BTreeMap::new();
    let failed = HostPlanResult::Failed(HostStatus::Failed, failure("no"));
    hosts.insert(host("rs1"), failed);
    let plan = ClusterPlan { action: Action::Rollback, hosts };
    let text = report::cluster::text(&plan.report(&topology));
    let summary = text.lines().last().unwrap_or_default();
    assert_eq!(summary.matches("failed").count(), 1, "{text}");
}

#[test]
fn the_director_waits_for_one_that_fails_in_its_turn() {
    let topology = dr();
    let observed = all_bare(&topology);
    let plan = plan(&topology, &observed, &BTreeMap::new(), APPLY);
    let (report, _) = act(&topology, &plan, &observed, |name, stage, work| {
        if name.as_str() == "rs2" {
            return Ok(outcome(1, Some(failure("no"))));
        }
        all_done(name, stage, work)
    });
    let rs2 = &report.hosts[&host("rs2")];
    assert_eq!(rs2.status, HostStatus::Failed);
    assert_eq!(states(rs2)[..3], [StepState::Done, StepState::Failed, StepState::NotDone]);
    assert_eq!(
        because(&report, "director"),
        "rs2 is not ready: it failed, and requests sent to it would be lost"
    );
}

#[test]
fn a_real_server_that_no_service_names_does_not_hold_the_director_up() {
    let topology = dr();
    let mut observed = all_bare(&topology);
    observed.insert(host("rs3"), Err(failure("no answer")));
    let plan = plan(&topology, &observed, &BTreeMap::new(), APPLY);
    let (report, order) = act(&topology, &plan, &observed, all_done);
    assert!(acted(&order).contains(&(Stage::Live, "director")));
    assert!(report.has_failures(), "rs3 itself still failed");
}

#[test]
fn nothing_is_taken_from_a_real_server_while_its_director_may_still_send_to_it() {
    let topology = dr();
    let mut observed = applied(&topology);
    observed.insert(host("director"), Err(failure("no answer")));
    let gone = BTreeMap::from([(host("director"), HostAbsence::Unreachable(failure("no answer")))]);
    let back = plan(&topology, &observed, &gone, Direction::Destroy);
    let (report, order) = act(&topology, &back, &observed, all_done);
    assert!(acted(&order).is_empty(), "{order:?}");
    let because_of = because(&report, "rs1");
    assert!(
        because_of.starts_with("director may still send requests here: it could not be reached")
    );
    assert!(because_of.contains("--limit rs1"), "the way out is not named: {because_of}");
}

/// The file does not name it any more, the director's table still does.
#[test]
fn a_real_server_taken_out_of_the_file_keeps_its_vip_until_the_director_has_withdrawn_it() {
    let observed = {
        let mut observed = applied(&dr());
        observed.insert(host("director"), Err(failure("no answer")));
        observed
    };
    let smaller = Cluster::of(&[(Forward::Dr, 80, vec![1])]).topology;
    let plan = plan(&smaller, &observed, &BTreeMap::new(), APPLY);
    let HostPlanResult::Plan(rs2) = &plan.hosts[&host("rs2")] else { panic!() };
    assert!(!rs2.stages.is_empty(), "rs2 has something to give back");
    let (report, order) = act(&smaller, &plan, &observed, all_done);
    assert!(acted(&order).is_empty(), "{order:?}");
    assert!(because(&report, "rs2").starts_with("director may still send requests here"));
}

/// The file moves a service to another director, and the first cannot be withdrawn.
#[test]
fn a_vip_does_not_come_up_on_a_second_director_while_the_first_may_have_it() {
    let mut first = dr();
    let mut spare = first.hosts[&host("director")].clone();
    spare.name = host("spare");
    let eth0 = spare.interfaces.values_mut().next().unwrap();
    eth0.addresses = vec!["10.0.0.7/24".parse().unwrap()];
    first.hosts.insert(spare.name.clone(), spare);
    let observed = applied(&first);
    let mut second = first.clone();
    for service in &mut second.services {
        service.director = host("spare");
    }
    let plan = plan(&second, &observed, &BTreeMap::new(), APPLY);
    let withdrawn = |fails: bool| {
        act(&second, &plan, &observed, move |name, stage, work| {
            if fails && name.as_str() == "director" {
                return Ok(outcome(0, Some(failure("no"))));
            }
            all_done(name, stage, work)
        })
    };
    let (report, order) = withdrawn(false);
    assert!(!report.has_failures());
    let order = acted(&order);
    let at = |work| order.iter().position(|one| *one == work).unwrap();
    assert!(at((Stage::Withdraw, "director")) < at((Stage::Live, "spare")));

    let (report, _) = withdrawn(true);
    assert_eq!(
        because(&report, "spare"),
        "director may still have 10.0.0.100: it failed, and two hosts would answer for it"
    );
}

#[test]
fn a_lost_connection_leaves_steps_unknown_and_a_refusal_leaves_them_undone() {
    let topology = dr();
    let observed = all_bare(&topology);
    let plan = plan(&topology, &observed, &BTreeMap::new(), APPLY);
    let cases: [(End, StepState); 2] =
        [(RequestError::Lost, StepState::Unknown), (RequestError::Refused, StepState::NotDone)];
    for (no_answer, state) in cases {
        let (report, _) = act(&topology, &plan, &observed, |name, stage, work| {
            if name.as_str() == "rs1" {
                return Err(no_answer(failure("gone")));
            }
            all_done(name, stage, work)
        });
        let rs1 = &report.hosts[&host("rs1")];
        assert_eq!(rs1.status, HostStatus::Failed);
        assert!(!rs1.steps.is_empty() && states(rs1).iter().all(|s| *s == state), "{rs1:?}");
        assert!(because(&report, "director").starts_with("rs1 is not ready: it failed"));
    }
}

/// All steps of the first turn were done; what failed is the receipt, and not the next turn's step.
#[test]
fn a_receipt_that_fails_after_the_last_step_fails_no_step() {
    let larger = Cluster::of(&[(Forward::Dr, 80, vec![1, 2]), (Forward::Dr, 81, vec![1])]).topology;
    let observed = applied(&larger);
    let other = Cluster::of(&[(Forward::Dr, 80, vec![1, 2]), (Forward::Dr, 83, vec![1])]).topology;
    let plan = plan(&other, &observed, &BTreeMap::new(), APPLY);
    let (report, order) = act(&other, &plan, &observed, |_, _, work| {
        Ok(outcome(work.steps.len(), Some(failure("the disk is full"))))
    });
    assert_eq!(acted(&order)[0], (Stage::Withdraw, "director"));
    for step in &report.hosts[&host("director")].steps {
        let expected = match step.stage {
            Stage::Drain | Stage::Withdraw => StepState::Done,
            Stage::Ready | Stage::Live | Stage::Ramp => StepState::NotDone,
        };
        assert_eq!(step.state, expected, "{}", step.text);
    }
}

#[test]
fn what_limit_leaves_out_is_no_failure_but_is_said() {
    let topology = dr();
    let mut observed = all_bare(&topology);
    let director = observed.remove(&host("director")).unwrap();
    let absent: BTreeMap<_, _> =
        observed.keys().map(|h| (h.clone(), HostAbsence::LeftOut)).collect();
    let only_director = BTreeMap::from([(host("director"), director)]);
    let plan_ = plan(&topology, &only_director, &absent, APPLY);
    let (report, order) = act(&topology, &plan_, &only_director, all_done);
    assert_eq!(acted(&order), [(Stage::Live, "director")]);
    assert!(!report.has_failures());
    assert_eq!(
        report.hosts[&host("director")].notes,
        [
            "not looked at: rs1 (left out by --limit), rs2 (left out by --limit); requests sent there \
          are lost unless they are ready"
        ]
    );

    let mut observed = applied(&topology);
    observed.retain(|name, _| name.as_str() == "rs1");
    let absent = BTreeMap::from([(host("director"), HostAbsence::LeftOut)]);
    let back = plan(&topology, &observed, &absent, Direction::Destroy);
    let (report, order) = act(&topology, &back, &observed, all_done);
    assert_eq!(acted(&order), [(Stage::Ready, "rs1")]);
    let note = &report.hosts[&host("rs1")].notes[0];
    assert!(note.contains("director (left out by --limit)"), "{note}");
}

#[test]
fn who_only_has_a_receipt_to_write_gets_one_turn_without_steps() {
    let topology = dr();
    let mut observed = applied(&topology);
    for observation in observed.values_mut() {
        observation.as_mut().unwrap().receipt = None;
    }
    let plan = plan(&topology, &observed, &BTreeMap::new(), APPLY);
    let (report, order) = act(&topology, &plan, &observed, |_, _, work| {
        assert_eq!(*work, StageWork { steps: vec![], is_last: true });
        Ok(outcome(0, None))
    });
    assert_eq!(report.count(StepState::Done), 0);
    assert!(acted(&order).contains(&(Stage::Ready, "rs1")));
    assert!(acted(&order).contains(&(Stage::Live, "director")));
    // Where the receipt is present already no host has work.
    let observed = applied(&topology);
    let plan = self::plan(&topology, &observed, &BTreeMap::new(), APPLY);
    assert!(act(&topology, &plan, &observed, all_done).1.is_empty());
}

#[test]
fn nothing_of_ours_on_a_host_is_nothing_to_destroy() {
    let topology = dr();
    let observed = all_bare(&topology);
    let back = plan(&topology, &observed, &BTreeMap::new(), Direction::Destroy);
    let report = back.report(&topology);
    assert_eq!(report.action, Action::PlanDestroy);
    assert!(report.hosts.values().all(|h| h.status == HostStatus::Unchanged && h.steps.is_empty()));
}

#[test]
fn the_report_says_where_a_failed_apply_leaves_the_hosts_and_the_two_ways_on() {
    let topology = dr();
    let observed = all_bare(&topology);
    let plan = plan(&topology, &observed, &BTreeMap::new(), APPLY);
    let (mut report, _) = act(&topology, &plan, &observed, |name, stage, work| {
        if name.as_str() == "rs2" {
            return Ok(outcome(1, Some(failure("it is in use"))));
        }
        all_done(name, stage, work)
    });
    report.action = Action::Apply;
    report.transaction = Some(TransactionReport {
        id: TransactionId::from_bits(1),
        ended: TransactionEnd::Open,
        because: Some("rs2: it is in use".to_owned()),
    });
    let text = crate::report::cluster::text(&report);
    let text = anstream::adapter::strip_str(&text).to_string();
    for line in [
        "rs2  failed: 1 of 4 steps done, then it stopped",
        "error: it is in use",
        "director  not attempted, because rs2 is not ready: it failed",
        "left unfinished on director, rs1, rs2, rs3, because rs2: it is in use; `lvsprov plan` says how",
        "to finish:  mend what is shown above, then `lvsprov apply` again: it goes on from the present state",
        "to go back: `lvsprov rollback` undoes what this did, on every host that it reaches",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
    report.action = Action::Plan;
    assert!(!crate::report::cluster::text(&report).contains("to finish"));
}
