//! Whole transactions in which nothing goes wrong.

use super::super::cluster_plan::{self, Direction};
use super::super::outcome::{HostStatus, TransactionEnd};
use super::super::session::Session;
use super::super::transaction::{self, TransactionOutcome};
use super::super::transaction::{ConfirmWithin, TransactionPolicy};
use super::super::{open_transactions, operator};
use super::*;
use crate::support::Cluster;
use crate::topology::Forward;

pub(super) const APPLY: Direction = Direction::Apply { now: 7 };

pub(super) fn policy() -> TransactionPolicy {
    TransactionPolicy::plain(operator::here(), 7)
}

/// Looks, plans, acts.
pub(super) async fn run(
    world: &World,
    topology: &Topology,
    direction: Direction,
    policy: &TransactionPolicy,
) -> TransactionOutcome {
    let mut session = Session::open_with_console(topology, world, &Silent).await;
    let observed = session.observe(false).await;
    let plan =
        cluster_plan::plan(topology, &session.desired, &observed, session.absent(), direction);
    transaction::run(&mut session, &plan, &observed, direction, policy).await
}

pub(super) struct Silent;

impl super::super::operator::OperatorConsole for Silent {
    fn show_awaited(&self, _: super::super::operator::Activity, _: &BTreeSet<HostName>) {}
}

pub(super) fn small() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 2])]).topology
}

pub(super) fn larger() -> Topology {
    Cluster::of(&[(Forward::Dr, 80, vec![1, 2, 3]), (Forward::Tun, 81, vec![1, 3])]).topology
}

/// A runtime whose clock goes on by itself when every task waits.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn an_apply_is_committed_on_every_host_and_a_second_one_sends_no_request() {
    runtime().block_on(async {
        let (world, topology) = (World::bare(&larger()), larger());
        let came = run(&world, &topology, APPLY, &policy()).await;
        assert!(!came.report.has_failures(), "{:#?}", came.report);
        assert_eq!(came.report.transaction.unwrap().ended, TransactionEnd::Committed);
        assert!(world.hosts().values().all(|machine| machine.open.is_none()));
        let asked = world.asked();
        let again = run(&world, &topology, APPLY, &policy()).await;
        assert_eq!(again.report.transaction, None);
        assert!(again.report.hosts.values().all(|host| host.status == HostStatus::Unchanged));
        assert_eq!(world.asked(), asked, "a host was asked");
        let back = run(&world, &topology, Direction::Destroy, &policy()).await;
        assert_eq!(back.report.transaction.unwrap().ended, TransactionEnd::Committed);
        let was = World::bare(&topology).hosts();
        for (name, machine) in world.hosts() {
            assert_eq!(machine.observation.receipt, None, "{name}");
            let was = &was[&name].observation.state;
            assert_eq!(essence(&machine.observation.state, was), *was, "{name}");
        }
        assert_eq!(world.broken(), Vec::<String>::new());
    });
}

#[test]
fn what_is_verified_over_new_connections_is_kept_and_what_is_not_is_undone_before_the_hosts_do() {
    let topology = small();
    let within = ConfirmWithin::Always(std::time::Duration::from_mins(1));
    let policy = TransactionPolicy { within, ..policy() };
    runtime().block_on(async {
        let world = World::bare(&topology);
        let came = run(&world, &topology, APPLY, &policy).await;
        assert_eq!(came.report.transaction.unwrap().ended, TransactionEnd::Committed);
        // The timers find nothing that is theirs to undo.
        let before = world.hosts();
        world.time_is_over();
        for (name, machine) in world.hosts() {
            assert_eq!(machine.observation, before[&name].observation, "{name}");
        }
        assert_eq!(world.broken(), Vec::<String>::new());

        let world = World::bare(&topology);
        let was = world.hosts();
        world.serve(Serves::Drops);
        let came = run(&world, &topology, APPLY, &policy).await;
        let of = came.report.transaction.as_ref().unwrap();
        assert_eq!(of.ended, TransactionEnd::Aborted);
        let because = of.because.clone().unwrap();
        assert!(because.contains("client is answered by"), "{because}");
        for (name, machine) in world.hosts() {
            assert!(machine.open.is_none(), "{name}");
            let was = &was[&name].observation.state;
            assert_eq!(essence(&machine.observation.state, was), *was, "{name}");
        }
        let text = crate::report::cluster::text(&came.report);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.contains("every host that took part is as it was before"), "{text}");
        assert_eq!(world.broken(), Vec::<String>::new());
    });
}

#[test]
fn what_is_found_unfinished_is_told_with_every_way_on() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        world.fail(Fault { at: 3, kind: Kind::ControllerAfter });
        let policy = policy();
        let run = run(&world, &topology, APPLY, &policy);
        assert!(futures_util::FutureExt::now_or_never(run).is_none(), "it was not cut off");
        world.heal();
        let mut session = Session::open_with_console(&topology, &world, &Silent).await;
        let observed = session.observe(false).await;
        let plan =
            cluster_plan::plan(&topology, &session.desired, &observed, session.absent(), APPLY);
        let found = open_transactions::reports(&plan, &observed);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].apply.contains("finishes it"), "{found:#?}");
        assert!(found[0].rollback.contains("every host as it was before"), "{found:#?}");
        assert!(found[0].confirm.contains("refuses: on "), "{found:#?}");
    });
}
