//! A transaction that is cut off at every request, in every way, and what leads out of it.

use super::super::cluster_plan::{self, Direction};
use super::super::outcome::{RollbackEnd, TransactionEnd};
use super::super::recover::{self, RollbackOptions};
use super::super::session::Session;
use super::super::transaction::{ConfirmWithin, TransactionPolicy};
use super::super::{ClusterReport, operator};
use super::laws::{APPLY, Silent, larger, policy, run, runtime, small};
use super::*;
use crate::support::Cluster;
use crate::topology::Forward;

/// From where to where.
pub(super) struct Way {
    pub name: &'static str,
    pub start: World,
    pub topology: Topology,
    pub direction: Direction,
}

/// An apply to bare hosts, one that changes a running cluster, and a destroy.
pub(super) async fn ways() -> Vec<Way> {
    let way = async |name, first: Option<Topology>, topology: Topology, direction| {
        let start = World::bare(&topology);
        if let Some(first) = first {
            let came = run(&start, &first, APPLY, &policy()).await;
            assert_eq!(came.report.transaction.unwrap().ended, TransactionEnd::Committed);
        }
        Way { name, start: start.copy(), topology, direction }
    };
    vec![
        way("apply to bare hosts", None, small(), APPLY).await,
        way("apply of more", Some(small()), larger(), APPLY).await,
        way("apply of less", Some(larger()), small(), APPLY).await,
        way("apply of another", Some(small()), another(), APPLY).await,
        way("destroy", Some(larger()), larger(), Direction::Destroy).await,
    ]
}

fn another() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 3])]).topology
}

/// What goes wrong from a place on, one request after the other.
fn courses() -> Vec<Vec<Kind>> {
    let mut all: Vec<Vec<Kind>> = Kind::ALL.map(|kind| vec![kind]).into();
    all.push(vec![Kind::Refusal, Kind::AgentBefore]);
    all.push(vec![Kind::AgentAfter, Kind::Refusal]);
    all.push(vec![Kind::HostAfter, Kind::AgentAfter]);
    all
}

/// Of so many places one is tried: of all, or under `make quick` (`LVSPROV_QUICK`) of four. What goes wrong
/// decides which ones, so that every place is tried with something.
fn stride() -> usize {
    if std::env::var_os("LVSPROV_QUICK").is_some() { 4 } else { 1 }
}

/// Every place at which something can go wrong, until nothing does any more.
async fn everywhere(
    policy: &TransactionPolicy,
    then: impl AsyncFn(&Way, &World, Fault, Option<ClusterReport>),
) {
    let mut tried = 0;
    for way in ways().await {
        for (offset, transaction) in courses().into_iter().enumerate() {
            let kind = transaction[0];
            for at in (offset % stride()..).step_by(stride()) {
                let world = way.start.copy();
                let faults =
                    transaction.iter().zip(at..).map(|(kind, at)| Fault { at, kind: *kind });
                world.fail_all(faults.collect());
                let acting = run(&world, &way.topology, way.direction, policy);
                let report = world.until_killed(acting).await.map(|came| came.report);
                if world.asked() <= at {
                    assert!(at > 5, "{}: nothing was asked", way.name);
                    break;
                }
                tried += 1;
                then(&way, &world, Fault { at, kind }, report).await;
                let broken = world.broken();
                assert!(broken.is_empty(), "{} {transaction:?} at {at}: {broken:?}", way.name);
            }
        }
    }
    println!("{tried} places were tried");
    assert!(tried > 200 / stride(), "only {tried} places were tried");
}

pub(super) fn is_as_before(way: &Way, world: &World, what: &str) {
    let before = way.start.hosts();
    for (name, machine) in world.hosts() {
        let was = &before[&name].observation;
        let what = format!("{}: {what}: {name}", way.name);
        assert!(machine.open.is_none(), "{what} has a journal");
        assert_eq!(machine.observation.receipt, was.receipt, "{what}: the receipt");
        let now = essence(&machine.observation.state, &was.state);
        assert!(now == was.state, "{what} is not as before: {:?}", difference(&now, &was.state));
    }
}

/// Where real servers are lost before any host has voted, every other host is as before.
fn others_are_as_before(way: &Way, world: &World, what: &str) {
    let (before, hosts) = (way.start.hosts(), world.hosts());
    let lost = |name: &HostName| !hosts[name].reached;
    let agreed = hosts.values().any(|m| m.open.as_ref().is_some_and(|open| open.voted));
    let done = !world.inner.lock().unwrap().done.is_empty();
    if agreed || done || lost(&"director".parse().unwrap()) || !hosts.keys().any(lost) {
        return;
    }
    for (name, machine) in hosts.iter().filter(|(name, _)| !lost(name)) {
        assert!(machine.open.is_none(), "{}: {what}: {name} has a journal", way.name);
        let was = &before[name].observation.state;
        let now = essence(&machine.observation.state, was);
        assert!(now == *was, "{}: {what}: {name}: {:?}", way.name, difference(&now, was));
    }
}

fn difference(now: &HostState, was: &HostState) -> Vec<String> {
    let items: BTreeSet<_> = now.items().union(&was.items()).cloned().collect();
    let told = items.iter().map(|item| (item, was.describe(item), now.describe(item)));
    told.filter(|(_, was, now)| was != now).map(|all| format!("{all:?}")).collect()
}

/// Nothing is left to do, and no journal is left.
pub(super) async fn is_reached(way: &Way, world: &World, what: &str) {
    let what = format!("{}: {what}", way.name);
    let mut session = Session::open_with_console(&way.topology, world, &Silent).await;
    let observed = session.observe(false).await;
    let plan = cluster_plan::plan(
        &way.topology,
        &session.desired,
        &observed,
        session.absent(),
        way.direction,
    );
    let report = plan.report(&way.topology);
    assert!(!report.has_failures() && !report.has_pending(), "{what}: {report:#?}");
    for (name, machine) in world.hosts() {
        assert!(machine.open.is_none(), "{what}: {name} has a journal");
    }
}

pub(super) async fn roll_back(way: &Way, world: &World, force: bool) -> ClusterReport {
    let mut session = Session::open_with_console(&way.topology, world, &Silent).await;
    let observed = session.observe(false).await;
    let plan =
        cluster_plan::plan(&way.topology, &session.desired, &observed, session.absent(), APPLY);
    let how = RollbackOptions { by: operator::here(), force, dry_run: false };
    recover::rollback(&mut session, &plan, &observed, &how).await
}

#[test]
fn cut_off_anywhere_the_report_is_true_and_one_more_apply_reaches_the_goal() {
    runtime().block_on(async {
        everywhere(&policy(), async |way, world, fault, report| {
            let what = format!("{fault:?}");
            if let Some(report) = report {
                let ended = report.transaction.as_ref().map(|of| of.ended);
                match ended {
                    Some(TransactionEnd::Committed) => is_reached(way, world, &what).await,
                    Some(TransactionEnd::Aborted) => is_as_before(way, world, &what),
                    Some(TransactionEnd::Open) | None => {
                        assert!(report.has_failures(), "{what}: {report:#?}");
                        let open = world.hosts().values().any(|m| m.open.is_some() || !m.reached);
                        assert!(open, "{}: {what}: nothing is left of it: {report:#?}", way.name);
                        others_are_as_before(way, world, &format!("{what}: {report:#?}"));
                    }
                }
            }
            world.heal();
            let came = run(world, &way.topology, way.direction, &policy()).await;
            assert!(!came.report.has_failures(), "{}: {what}: {:#?}", way.name, came.report);
            is_reached(way, world, &what).await;
        })
        .await;
    });
}

#[test]
fn cut_off_anywhere_rollback_restores_every_host_or_finds_it_done_on_all() {
    runtime().block_on(async {
        everywhere(&policy(), async |way, world, fault, _| {
            let what = format!("{fault:?}");
            world.heal();
            let mut report = roll_back(way, world, false).await;
            if report.has_failures() {
                // Whether it was done or undone is not always to be seen: then it says so, and has
                // touched nothing.
                assert!(matches!(fault.kind, Kind::HostAfter), "{}: {what}: {report:#?}", way.name);
                report = roll_back(way, world, true).await;
            }
            assert!(!report.has_failures(), "{}: {what}: {report:#?}", way.name);
            let settled = report.hosts.values().any(|host| {
                host.rollback.as_ref().is_some_and(|u| u.end == RollbackEnd::Committed)
            });
            let done = !world.inner.lock().unwrap().done.is_empty();
            if settled || done {
                is_reached(way, world, &what).await;
            } else {
                is_as_before(way, world, &what);
            }
        })
        .await;
    });
}

#[test]
fn what_all_have_agreed_to_is_closed_before_anything_else_begins() {
    let closed = std::cell::Cell::new(0);
    runtime().block_on(async {
        everywhere(&policy(), async |way, world, fault, _| {
            let what = format!("{fault:?}");
            world.heal();
            let mut session = Session::open_with_console(&way.topology, world, &Silent).await;
            let observed = session.observe(false).await;
            let absent = BTreeMap::new();
            let plan = cluster_plan::plan(
                &way.topology,
                &session.desired,
                &observed,
                &absent,
                way.direction,
            );
            let by = operator::here();
            if recover::commit_voted(&mut session, &plan, &observed, &by).await {
                is_reached(way, world, &what).await;
                closed.set(closed.get() + 1);
            }
        })
        .await;
    });
    assert!(closed.get() > 10 / stride(), "only {} times", closed.get());
}

#[test]
fn with_a_timer_every_host_ends_as_before_or_done_though_nobody_comes_back() {
    let within = ConfirmWithin::Always(std::time::Duration::from_mins(1));
    let policy = TransactionPolicy { within, ..policy() };
    runtime().block_on(async {
        everywhere(&policy, async |way, world, fault, _| {
            let what = format!("{fault:?}");
            world.time_is_over();
            world.heal();
            let hosts = world.hosts();
            let agreed = hosts.values().any(|m| m.open.as_ref().is_some_and(|o| o.voted));
            let done = !world.inner.lock().unwrap().done.is_empty();
            if !agreed && !done {
                is_as_before(way, world, &what);
            }
            // And whatever it was, it can be finished.
            let came = run(world, &way.topology, way.direction, &super::laws::policy()).await;
            assert!(!came.report.has_failures(), "{}: {what}: {:#?}", way.name, came.report);
            is_reached(way, world, &what).await;
        })
        .await;
    });
}
