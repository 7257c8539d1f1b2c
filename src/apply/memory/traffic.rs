//! Requests as a part of verification: which results keep a change, which undo it, and what the report says.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::super::cluster_plan::{self, Direction};
use super::super::operator;
use super::super::outcome::{ClusterReport, TransactionEnd};
use super::super::recover::{self, RollbackOptions};
use super::super::session::{AgentConnection, HostConnector, Session};
use super::super::transaction::{self, TransactionOutcome};
use super::super::transaction::{OnError, TransactionPolicy, VerifyBy};
use super::super::verify::{Excuse, Verdict};
use super::laws::{APPLY, Silent, larger, policy, run, runtime, small};
use super::*;
use crate::state::Counters;
use crate::support::Cluster;
use crate::topology::Forward;

/// The same hosts without a way to one of them.
struct Without<'w> {
    world: &'w World,
    host: &'w str,
    left_out: bool,
}

impl HostConnector for Without<'_> {
    fn reaches(&self, host: &Host) -> bool {
        host.name.as_str() != self.host
    }

    fn excludes(&self, host: &Host) -> bool {
        self.left_out && !self.reaches(host)
    }

    fn connect<'d>(
        &'d self,
        host: &'d Host,
        fresh: bool,
    ) -> BoxFuture<'d, Result<Box<dyn AgentConnection>, Failure>> {
        self.world.connect(host, fresh)
    }
}

async fn apply(
    dial: &dyn HostConnector,
    topology: &Topology,
    policy: &TransactionPolicy,
) -> TransactionOutcome {
    let mut session = Session::open_with_console(topology, dial, &Silent).await;
    let observed = session.observe(true).await;
    let plan = cluster_plan::plan(topology, &session.desired, &observed, session.absent(), APPLY);
    transaction::run(&mut session, &plan, &observed, APPLY, policy).await
}

fn ended(report: &ClusterReport) -> (TransactionEnd, String) {
    let of = report.transaction.as_ref().unwrap();
    (of.ended, of.because.clone().unwrap_or_default())
}

fn text(report: &ClusterReport) -> String {
    anstream::adapter::strip_str(&crate::report::cluster::text(report)).to_string()
}

fn is_as_it_was(world: &World, was: &BTreeMap<HostName, Machine>) {
    for (name, machine) in world.hosts() {
        assert!(machine.open.is_none(), "{name}");
        let was = &was[&name].observation;
        assert_eq!(machine.observation.receipt, was.receipt, "{name}");
        assert_eq!(essence(&machine.observation.state, &was.state), was.state, "{name}");
    }
    assert_eq!(world.broken(), Vec::<String>::new());
}

#[test]
fn a_cluster_that_answers_nobody_is_undone_and_says_why() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let was = world.hosts();
        world.serve(Serves::Drops);
        let started = Instant::now();
        let came = apply(&world, &topology, &policy()).await;
        let (end, because) = ended(&came.report);
        assert_eq!(end, TransactionEnd::Aborted, "{:#?}", came.report);
        assert!(because.contains("client is answered by"), "{because}");
        assert!(because.contains("timed out (nothing came back"), "{because}");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        assert!(came.report.has_failures());
        let text = text(&came.report);
        assert!(text.contains("every host that took part is as it was before"), "{text}");
        assert!(text.contains("to keep it: `lvsprov apply --verify state`"), "{text}");
        is_as_it_was(&world, &was);

        // Left open on demand, like any failure.
        let keep = TransactionPolicy { on_error: OnError::Keep, ..policy() };
        let came = apply(&world, &topology, &keep).await;
        assert_eq!(ended(&came.report).0, TransactionEnd::Open);
        assert!(world.hosts().values().any(|machine| machine.open.is_some()));
    });
}

#[test]
fn with_state_alone_no_request_is_sent_and_that_is_told() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        world.serve(Serves::Drops);
        let state = TransactionPolicy { verify: VerifyBy::State, ..policy() };
        let came = apply(&world, &topology, &state).await;
        assert_eq!(ended(&came.report), (TransactionEnd::Committed, String::new()));
        assert_eq!(world.fetched(), 0);
        let text = text(&came.report);
        assert!(
            text.contains("\nnot proven by requests: s80 (--verify state sends none)\n"),
            "{text}"
        );
    });
}

fn counted(active: u32, inactive: u32) -> Counters {
    Counters { active, inactive, total: 9, ..Counters::default() }
}

#[test]
fn a_refusal_is_a_warning_unless_the_service_was_in_use() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        world.serve(Serves::Refuses);
        let came = apply(&world, &topology, &policy()).await;
        assert_eq!(ended(&came.report), (TransactionEnd::Committed, String::new()));
        assert!(!came.report.has_failures());
        let refused = came.report.verifications.iter().find(|verification| verification.service.is_some()).unwrap();
        assert_eq!((refused.verdict, refused.excuse), (Verdict::Fails, Some(Excuse::Replied)));
        let text = text(&came.report);
        let warning = "warning: not true yet: client is answered by s80 (tcp 10.0.0.100:80): 0 of 4 requests \
                       answered; 4 failed: refused (the way works";
        assert!(text.contains(warning), "{text}");

        // Refused connections count as active under DR, though no client was answered.
        let other = Cluster::of(&[(Forward::Dr, 80, vec![1, 3])]).topology;
        let key = crate::desired::service_key(&topology.services[0]);
        let lvs = "director".parse().unwrap();
        world.change(&lvs, |director| {
            let at = director.observation.state.services[&key].destinations.keys().next().unwrap();
            director.observation.counters = [(key.clone(), [(*at, counted(3, 0))].into())].into();
        });
        let world_of_refused = world.copy();
        world_of_refused.serve(Serves::Refuses);
        let came = apply(&world_of_refused, &other, &policy()).await;
        assert_eq!(ended(&came.report).0, TransactionEnd::Committed, "{:#?}", came.report);

        // Clients use it, and after the change it refuses: the change took it away from them.
        world.change(&lvs, |director| {
            let at = director.observation.state.services[&key].destinations.keys().next().unwrap();
            director.observation.counters = [(key, [(*at, counted(3, 1))].into())].into();
        });
        let was = world.hosts();
        let came = apply(&world, &other, &policy()).await;
        let (end, because) = ended(&came.report);
        assert_eq!(end, TransactionEnd::Aborted, "{:#?}", came.report);
        assert!(because.ends_with("clients were answered shortly before this change"), "{because}");
        is_as_it_was(&world, &was);
    });
}

#[test]
fn what_is_answered_a_moment_later_is_kept() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        world.serve(Serves::DropsFirst(3));
        let came = apply(&world, &topology, &policy()).await;
        assert_eq!(ended(&came.report), (TransactionEnd::Committed, String::new()));
        let text = text(&came.report);
        assert!(text.contains("\nrequests: answered by s80\n"), "{text}");
        assert_eq!(world.fetched(), 3 + 4);
    });
}

#[test]
fn where_no_client_is_reached_the_change_is_kept_and_says_which_services_were_not_tried() {
    let topology = larger();
    runtime().block_on(async {
        for (left_out, why) in [
            (false, "has no `ssh`, `local` or `netns` in the file"),
            (true, "is left out by --limit"),
        ] {
            let world = World::bare(&topology);
            world.serve(Serves::Drops);
            let without = Without { world: &world, host: "client", left_out };
            let came = apply(&without, &topology, &policy()).await;
            assert_eq!(ended(&came.report), (TransactionEnd::Committed, String::new()));
            assert!(!came.report.has_failures());
            assert_eq!(world.fetched(), 0);
            let text = text(&came.report);
            let line = format!(
                "not proven by requests: s80, s81 (no client can send \
                 requests: client {why})\n"
            );
            assert!(text.contains(&line), "{text}");
        }
        // Nothing can be said of services whose director is left out either.
        let world = World::bare(&topology);
        let without = Without { world: &world, host: "director", left_out: true };
        let came = apply(&without, &topology, &policy()).await;
        assert_eq!(ended(&came.report).0, TransactionEnd::Committed);
        assert!(text(&came.report).contains("(director is left out by --limit)"));
        assert_eq!(world.fetched(), 0);
    });
}

#[test]
fn where_nothing_changes_nothing_is_sent() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let came = apply(&world, &topology, &policy()).await;
        assert_eq!(ended(&came.report).0, TransactionEnd::Committed);
        let sent = world.fetched();
        assert!(sent > 0);
        world.serve(Serves::Drops);
        let again = apply(&world, &topology, &policy()).await;
        assert_eq!(again.report.transaction, None);
        assert!(!again.report.has_failures());
        let text = text(&again.report);
        assert!(text.contains("(nothing was changed; `lvsprov verify` sends requests)"), "{text}");
        // A service that is taken away has nothing to answer with.
        let back = run(&world, &topology, Direction::Destroy, &policy()).await;
        assert_eq!(ended(&back.report).0, TransactionEnd::Committed);
        assert!(back.report.verifications.is_empty());
        assert_eq!(world.fetched(), sent);
    });
}

/// All steps are done, no host has voted: the next apply tries what the first could not, though it has no
/// step to do; and rollback leads back.
#[test]
fn killed_while_requests_are_sent_it_can_be_finished_or_undone() {
    let topology = small();
    runtime().block_on(async {
        let cut_off = async || {
            let world = World::bare(&topology);
            world.serve(Serves::Kills);
            let policy = policy();
            let acting = apply(&world, &topology, &policy);
            assert!(world.until_killed(acting).await.is_none());
            let open = world.hosts().values().filter(|machine| machine.open.is_some()).count();
            assert!(open > 1, "{open}");
            world
        };
        let world = cut_off().await;
        world.serve(Serves::Answers);
        let sent = world.fetched();
        let came = apply(&world, &topology, &policy()).await;
        assert_eq!(ended(&came.report), (TransactionEnd::Committed, String::new()));
        assert!(world.fetched() > sent, "what was never tried was kept");
        assert!(world.hosts().values().all(|machine| machine.open.is_none()));
        assert_eq!(world.broken(), Vec::<String>::new());

        let world = cut_off().await;
        let mut session = Session::open_with_console(&topology, &world, &Silent).await;
        let observed = session.observe(false).await;
        let plan =
            cluster_plan::plan(&topology, &session.desired, &observed, session.absent(), APPLY);
        let how = RollbackOptions { by: operator::here(), force: false, dry_run: false };
        let report = recover::rollback(&mut session, &plan, &observed, &how).await;
        assert!(!report.has_failures(), "{report:#?}");
        is_as_it_was(&world, &World::bare(&topology).hosts());
    });
}
