//! `maintain`, `return` and `reboot` on whole clusters in memory.

use super::super::maintenance::reboot::reboot;
use super::super::maintenance::{
    MaintenanceEnd, MaintenanceOptions, MaintenanceReport, TopologyVersions, maintain,
    return_to_service,
};
use super::super::outcome::TransactionEnd;
use super::super::session::Session;
use super::super::transaction::{TransactionPolicy, VerifyBy};
use super::super::{cluster_plan, operator, transaction};
use super::laws::{APPLY, Silent, policy, runtime, small};
use super::*;
use crate::state::{Counters, DestinationKey, Maintenance, ServiceKey};
use crate::topology::{Reach, SshTarget};

fn file() -> Topology {
    let mut file = small();
    for (name, host) in &mut file.hosts {
        host.reach = Some(Reach::Ssh(SshTarget { host: name.to_string(), user: None, port: None }));
    }
    file
}

fn options() -> MaintenanceOptions {
    MaintenanceOptions {
        allow_outage: false,
        dry_run: false,
        wait: std::time::Duration::from_secs(5),
        verify: VerifyBy::Traffic,
        cut_connections: false,
        back_within: std::time::Duration::from_mins(5),
        by: operator::here(),
    }
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Maintain,
    Return,
    Reboot,
}

async fn work(
    world: &World,
    work: Work,
    hosts: &[&str],
    options: &MaintenanceOptions,
) -> MaintenanceReport {
    let versions = TopologyVersions::of(file());
    let mut session = Session::open_with_console(versions.file(), world, &Silent).await;
    let hosts: Vec<HostName> = hosts.iter().map(|host| host.parse().unwrap()).collect();
    match work {
        Work::Maintain => maintain(&mut session, &versions, &hosts, options).await,
        Work::Return => return_to_service(&mut session, &versions, &hosts, options).await,
        Work::Reboot => reboot(&mut session, &versions, &hosts, options).await,
    }
}

/// An apply as the command line does it: it follows the receipts.
async fn apply(world: &World) -> ClusterEnd {
    let versions = TopologyVersions::of(file());
    let mut session = Session::open_with_console(versions.file(), world, &Silent).await;
    let observed = session.observe(false).await;
    versions.follow(&mut session, &observed);
    let (topology, desired) = (session.topology, &session.desired);
    let plan = cluster_plan::plan(topology, desired, &observed, session.absent(), APPLY);
    let notes = plan.report(topology);
    let policy = TransactionPolicy { verify: VerifyBy::State, ..policy() };
    let done = transaction::run(&mut session, &plan, &observed, APPLY, &policy).await.report;
    assert!(!done.has_failures(), "{done:#?}");
    ClusterEnd {
        planned: crate::report::cluster::text(&notes),
        ended: done.transaction.map(|it| it.ended),
    }
}

struct ClusterEnd {
    planned: String,
    ended: Option<TransactionEnd>,
}

fn director() -> HostName {
    "director".parse().unwrap()
}

/// The weights in the director's table.
fn weights(world: &World) -> Vec<u32> {
    let director = &world.hosts()[&director()];
    let services = director.observation.state.services.values();
    services.flat_map(|service| service.destinations.values().map(|it| it.weight)).collect()
}

fn in_maintenance(world: &World) -> Vec<String> {
    let receipt = world.hosts()[&director()].observation.receipt.clone();
    let out = receipt.map(|receipt| receipt.maintenance).unwrap_or_default();
    out.iter().map(|(host, _)| host.to_string()).collect()
}

fn text(report: &MaintenanceReport) -> String {
    anstream::adapter::strip_str(&crate::report::maintenance::text(report)).to_string()
}

fn ends(report: &MaintenanceReport) -> Vec<MaintenanceEnd> {
    report.hosts.iter().map(|host| host.end).collect()
}

/// rs1 has so many connections.
fn connect(world: &World, active: u32) {
    world.change(&director(), |machine| {
        let Observation { state, counters, .. } = &mut machine.observation;
        let (key, service): (ServiceKey, _) = state.services.clone().pop_first().unwrap();
        let at: DestinationKey = *service.destinations.keys().next().unwrap();
        let count = Counters { active, ..Counters::default() };
        counters.entry(key).or_default().insert(at, count);
    });
}

async fn applied() -> World {
    let world = World::bare(&file());
    assert_eq!(apply(&world).await.ended, Some(TransactionEnd::Committed));
    world
}

#[test]
fn a_host_stays_out_through_applies_and_reboots_of_the_director_until_it_is_returned() {
    runtime().block_on(async {
        let world = applied().await;
        let before = world.hosts();
        let report = work(&world, Work::Maintain, &["rs1"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::InMaintenance], "{}", text(&report));
        assert_eq!((weights(&world), in_maintenance(&world)), (vec![0, 1], vec!["rs1".to_owned()]));
        for name in ["rs1", "rs2", "client"] {
            let name = name.parse().unwrap();
            let (was, is) = (&before[&name].observation, &world.hosts()[&name].observation);
            assert_eq!(was, is, "{name} was touched");
        }
        // Any controller, again and again.
        for _ in 0..2 {
            let end = apply(&world).await;
            assert_eq!(end.ended, None, "{}", end.planned);
            let says = "rs1 is in maintenance since";
            assert!(end.planned.contains(says), "{}", end.planned);
            assert!(end.planned.contains("`lvsprov return FILE rs1` ends it"), "{}", end.planned);
        }
        let asked = world.asked();
        let again = work(&world, Work::Maintain, &["rs1"], &options()).await;
        assert_eq!(ends(&again), [MaintenanceEnd::InMaintenance], "{}", text(&again));
        assert_eq!(again.hosts[0].since, report.hosts[0].since, "it keeps its time");
        assert_eq!(world.asked(), asked, "a second one changed something");
        world.reboot(&director());
        assert_eq!((weights(&world), in_maintenance(&world)), (vec![0, 1], vec!["rs1".to_owned()]));
        assert_eq!(apply(&world).await.ended, None);

        let report = work(&world, Work::Return, &["rs1", "rs2"], &options()).await;
        assert_eq!(
            ends(&report),
            [MaintenanceEnd::Returned, MaintenanceEnd::Unchanged],
            "{}",
            text(&report)
        );
        assert!(text(&report).contains("requests: answered by s80"), "{}", text(&report));
        assert_eq!((weights(&world), in_maintenance(&world)), (vec![1, 1], vec![]));
        assert_eq!(apply(&world).await.ended, None);
        assert_eq!(world.broken(), Vec::<String>::new());
    });
}

#[test]
fn what_connections_are_left_is_counted_and_what_differs_is_an_obstacle() {
    runtime().block_on(async {
        let world = applied().await;
        connect(&world, 3);
        let report = work(&world, Work::Maintain, &["rs1"], &options()).await;
        assert_eq!(report.connections_left(), 3, "{}", text(&report));
        assert!(report.leaves_connections() && !report.has_failures());
        let says = text(&report);
        assert!(
            says.contains("3 connections to 10.0.0.1:80") && says.contains("left after 30 s"),
            "{says}"
        );
        connect(&world, 0);
        let report = work(&world, Work::Maintain, &["rs1"], &options()).await;
        assert!(!report.leaves_connections(), "{}", text(&report));

        // Another tool changes the director: nothing is done on top of that.
        world.change(&director(), |machine| {
            let services = &mut machine.observation.state.services;
            services.values_mut().next().unwrap().scheduler = "sh".to_owned();
        });
        for what in [Work::Maintain, Work::Return] {
            let hosts = if matches!(what, Work::Maintain) { ["rs2"] } else { ["rs1"] };
            let allowed = MaintenanceOptions { allow_outage: true, ..options() };
            let report = work(&world, what, &hosts, &allowed).await;
            assert_eq!(ends(&report), [MaintenanceEnd::Refused], "{}", text(&report));
            assert!(
                text(&report).contains("director is not as the file says"),
                "{}",
                text(&report)
            );
        }
        assert_eq!(in_maintenance(&world), ["rs1"]);
    });
}

#[test]
fn a_host_that_is_not_right_is_not_returned() {
    runtime().block_on(async {
        let world = applied().await;
        work(&world, Work::Maintain, &["rs1"], &options()).await;
        let rs1: HostName = "rs1".parse().unwrap();
        let kept = world.hosts()[&rs1].observation.clone();
        world.change(&rs1, |machine| {
            machine.observation.state.addresses.retain(|key, _| key.dev.as_str() != "lo");
        });
        let report = work(&world, Work::Return, &["rs1"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Refused], "{}", text(&report));
        assert!(text(&report).contains("rs1 is not as the file says"), "{}", text(&report));
        world.change(&rs1, |machine| machine.observation = kept);
        // Requests die: the change is undone, and it stays out.
        world.serve(Serves::Drops);
        let report = work(&world, Work::Return, &["rs1"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Failed], "{}", text(&report));
        assert_eq!((weights(&world), in_maintenance(&world)), (vec![0, 1], vec!["rs1".to_owned()]));
        assert!(
            report.hosts[0].since.is_some() && text(&report).contains("out of service"),
            "{}",
            text(&report)
        );
        let state = MaintenanceOptions { verify: VerifyBy::State, ..options() };
        let report = work(&world, Work::Return, &["rs1"], &state).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Returned], "{}", text(&report));
    });
}

#[test]
fn a_dry_run_changes_nothing() {
    runtime().block_on(async {
        let world = applied().await;
        let asked = world.asked();
        let dry = MaintenanceOptions { dry_run: true, ..options() };
        for (what, says) in [
            (Work::Maintain, "weight 1 -> dr weight 0"),
            (Work::Reboot, "reboot it, and wait until it is back"),
        ] {
            let report = work(&world, what, &["rs1"], &dry).await;
            assert_eq!(ends(&report), [MaintenanceEnd::Planned], "{}", text(&report));
            assert!(text(&report).contains(says), "{}", text(&report));
        }
        assert_eq!(world.asked(), asked);
    });
}

#[test]
fn real_servers_are_rebooted_one_after_the_other_and_the_first_that_fails_ends_it() {
    runtime().block_on(async {
        let world = applied().await;
        let before = world.hosts();
        let report = work(&world, Work::Reboot, &["rs1", "rs2"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Rebooted; 2], "{}", text(&report));
        assert_eq!(report.changes.len(), 4, "each is taken out and returned");
        assert_eq!((weights(&world), in_maintenance(&world)), (vec![1, 1], vec![]));
        assert_eq!(world.reboots(), ["rs1", "rs2"]);
        for (name, machine) in world.hosts() {
            assert_eq!(machine.observation.state, before[&name].observation.state, "{name}");
        }
        // A host that was out before stays out.
        work(&world, Work::Maintain, &["rs1"], &options()).await;
        let report = work(&world, Work::Reboot, &["rs1"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Rebooted], "{}", text(&report));
        assert_eq!(in_maintenance(&world), ["rs1"]);
        work(&world, Work::Return, &["rs1"], &options()).await;

        for (comeback, says) in [
            (Comeback::Never, "rs1 is not back after 300 s"),
            (Comeback::Bare, "rs1 came back otherwise than it was"),
        ] {
            let world = world.copy();
            world.come_back(comeback);
            let report = work(&world, Work::Reboot, &["rs1", "rs2"], &options()).await;
            let expected = [MaintenanceEnd::Failed, MaintenanceEnd::NotAttempted];
            assert_eq!(ends(&report), expected, "{}", text(&report));
            let text = text(&report);
            assert!(text.contains(says) && text.contains("`lvsprov return FILE rs1`"), "{text}");
            assert_eq!(
                (weights(&world), in_maintenance(&world)),
                (vec![0, 1], vec!["rs1".to_owned()])
            );
            assert_eq!(world.reboots(), ["rs1"]);
        }
    });
}

#[test]
fn connections_that_are_left_keep_a_host_from_its_reboot() {
    runtime().block_on(async {
        let world = applied().await;
        connect(&world, 2);
        let report = work(&world, Work::Reboot, &["rs1"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Failed], "{}", text(&report));
        assert!(text(&report).contains("2 connections to rs1 are left"), "{}", text(&report));
        assert!(world.reboots().is_empty());
        assert_eq!(in_maintenance(&world), ["rs1"]);
        work(&world, Work::Return, &["rs1"], &options()).await;
        let cut = MaintenanceOptions { cut_connections: true, ..options() };
        let report = work(&world, Work::Reboot, &["rs1"], &cut).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Rebooted], "{}", text(&report));
    });
}

#[test]
fn what_would_cost_the_service_or_come_up_bare_is_refused_before_any_host_is_touched() {
    runtime().block_on(async {
        let world = applied().await;
        let asked = world.asked();
        let report = work(&world, Work::Reboot, &["rs1", "director"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::NotAttempted, MaintenanceEnd::Refused]);
        assert!(text(&report).contains("an outage: from its shutdown"), "{}", text(&report));
        let report = work(&world, Work::Maintain, &["rs1", "rs2"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Refused; 2], "{}", text(&report));
        world.lose_boot_unit(&"rs2".parse().unwrap());
        let report = work(&world, Work::Reboot, &["rs1", "rs2"], &options()).await;
        assert_eq!(ends(&report), [MaintenanceEnd::NotAttempted, MaintenanceEnd::Refused]);
        assert!(
            text(&report).contains("lvsprov-boot.service is not installed on rs2"),
            "{}",
            text(&report)
        );
        assert_eq!(world.asked(), asked, "a host was asked to change");

        let allowed = MaintenanceOptions { allow_outage: true, ..options() };
        let report = work(&world, Work::Reboot, &["director", "client"], &allowed).await;
        assert_eq!(ends(&report), [MaintenanceEnd::Rebooted; 2], "{}", text(&report));
        assert_eq!(weights(&world), [1, 1]);
        assert!(report.verifications.iter().any(|it| it.service.is_some()), "{report:#?}");
    });
}

/// A controller that is killed anywhere leaves the host in service or out of it, and every command goes on from there.
#[test]
fn law_a_maintenance_that_is_cut_off_is_done_or_not_and_can_be_repeated() {
    runtime().block_on(async {
        let start = applied().await;
        for at in 0.. {
            let world = start.copy();
            world.fail(Fault { at, kind: Kind::ControllerAfter });
            let options = options();
            let cut = world.until_killed(work(&world, Work::Maintain, &["rs1"], &options)).await;
            if cut.is_some() {
                assert!(at >= 3, "only {at} points were tried");
                break;
            }
            world.heal();
            // The next controller with the file ends it in one way or the other, and the receipt says which.
            apply(&world).await;
            let out = in_maintenance(&world);
            let expected = if out.is_empty() { vec![1, 1] } else { vec![0, 1] };
            assert_eq!(weights(&world), expected, "cut off at request {at}: {out:?}");
            let report = work(&world, Work::Maintain, &["rs1"], &options).await;
            assert_eq!(ends(&report), [MaintenanceEnd::InMaintenance], "{}", text(&report));
            let report = work(&world, Work::Return, &["rs1"], &options).await;
            assert_eq!(ends(&report), [MaintenanceEnd::Returned], "{}", text(&report));
            assert_eq!((weights(&world), in_maintenance(&world)), (vec![1, 1], vec![]));
            assert_eq!(world.broken(), Vec::<String>::new());
        }
    });
}

#[test]
fn one_director_that_knows_is_enough_and_the_other_is_named() {
    let mut file = file();
    let mut second = file.services[0].clone();
    second.director = "client".parse().unwrap();
    second.port = 81;
    file.services.push(second);
    let out: Maintenance = [("rs1".parse().unwrap(), 7)].into_iter().collect();
    let topology = file.in_maintenance(&out);
    runtime().block_on(async {
        let world = applied().await;
        work(&world, Work::Maintain, &["rs1"], &options()).await;
        let receipt = world.hosts()[&director()].observation.receipt.clone().unwrap();
        let without =
            crate::state::Receipt { maintenance: Maintenance::default(), ..receipt.clone() };
        let other: HostName = "client".parse().unwrap();
        let receipts = [(&director(), &receipt), (&other, &without)];
        let receipts = receipts.into_iter().collect();
        let said = crate::plan::maintenance::disagreements(&topology, &receipts);
        assert_eq!(said.keys().collect::<Vec<_>>(), [&other]);
        assert!(said[&other][0].contains("it counts as in maintenance"), "{said:?}");
        let union = crate::plan::maintenance::of_receipts([&receipt, &without]);
        assert_eq!(union, receipt.maintenance);
    });
}
