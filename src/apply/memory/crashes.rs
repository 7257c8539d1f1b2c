//! A transaction over all hosts in which one of them crashes, at one write after the other.

use super::super::outcome::TransactionEnd;
use super::cut::{Way, is_as_before, is_reached, roll_back, ways};
use super::laws::{policy, run, runtime};
use super::*;
use crate::agent::transaction::memory::disk::Kept;

/// Of so many writes one is tried, unless `LVSPROV_EVERY_WRITE` is set. Each write of one host is tried in
/// every way in [`crate::agent::transaction::memory`]; here it is the other hosts that matter.
const STRIDE: usize = 5;

/// Every write of a host at which it can crash, until all is written without.
async fn everywhere(crashes: &[Crash]) {
    let stride = if std::env::var_os("LVSPROV_EVERY_WRITE").is_some() { 1 } else { STRIDE };
    let mut tried = 0;
    for way in ways().await {
        let finished = way.start.copy();
        let came = run(&finished, &way.topology, way.direction, &policy()).await;
        assert!(!came.report.has_failures(), "{}: {:#?}", way.name, came.report);
        for (offset, crash) in crashes.iter().enumerate() {
            for at in (offset..).step_by(stride) {
                let world = way.start.copy();
                world.crash_at(at, crash.clone());
                let came = run(&world, &way.topology, way.direction, &policy()).await;
                if !world.crashed() {
                    assert!(at > 30, "{}: nothing was written", way.name);
                    break;
                }
                tried += 1;
                let what = format!("{crash:?} at write {at}");
                let ended = came.report.transaction.as_ref().map(|of| of.ended);
                if ended.is_none_or(|ended| ended == TransactionEnd::Open) {
                    assert!(came.report.has_failures(), "{}: {what}: {:#?}", way.name, came.report);
                } else if !matches!(crash, Crash::Power(_)) {
                    match ended {
                        Some(TransactionEnd::Committed) => is_reached(&way, &world, &what).await,
                        _ => is_as_before(&way, &world, &what),
                    }
                }
                for broken in [world.broken(), goes_on(&way, &world, &what).await] {
                    assert!(broken.is_empty(), "{}: {what}: {broken:?}", way.name);
                }
                let done = !world.inner.lock().unwrap().done.is_empty();
                let powered = !matches!(crash, Crash::Power(_));
                let end = if done { &finished } else { &way.start };
                let broken = goes_back(&way, &world.copy(), end, powered, &what).await;
                assert!(broken.is_empty(), "{}: {what}: {broken:?}", way.name);
            }
        }
    }
    println!("{tried} crashes were tried");
    assert!(tried > 100, "only {tried} crashes were tried");
}

/// One more apply reaches the goal. What must not be, and was.
async fn goes_on(way: &Way, world: &World, what: &str) -> Vec<String> {
    let world = world.copy();
    let came = run(&world, &way.topology, way.direction, &policy()).await;
    assert!(!came.report.has_failures(), "{}: {what}: {:#?}", way.name, came.report);
    is_reached(way, &world, what).await;
    world.broken()
}

/// RollbackOptions ends all hosts alike: one decision for all. What must not be, and was.
async fn goes_back(
    way: &Way,
    world: &World,
    end: &World,
    powered: bool,
    what: &str,
) -> Vec<String> {
    let report = roll_back(way, world, false).await;
    assert!(!report.has_failures(), "{}: {what}: {report:#?}", way.name);
    let end = end.hosts();
    for (name, machine) in world.hosts() {
        let what = format!("{}: {what}: {name}", way.name);
        assert!(machine.open.is_none(), "{what} has a journal");
        let wanted = &end[&name].observation;
        assert_eq!(machine.observation.receipt, wanted.receipt, "{what}: the receipt");
        // A host without power has lost what earlier transactions made.
        if powered {
            let now = essence(&machine.observation.state, &wanted.state);
            assert_eq!(now, wanted.state, "{what}");
        }
    }
    world.broken()
}

#[test]
fn killed_at_any_write_apply_reaches_the_goal_and_rollback_ends_all_hosts_alike() {
    runtime().block_on(everywhere(&[Crash::Process, Crash::HalfWay]));
}

#[test]
fn without_power_at_any_write_apply_reaches_the_goal_and_rollback_ends_all_hosts_alike() {
    runtime().block_on(everywhere(&[Crash::Power(Kept::Nothing), Crash::Power(Kept::All)]));
}
