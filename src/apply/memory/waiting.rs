//! Two controllers, and an operator who is asked.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::super::cluster_plan;
use super::super::operator::{Activity, OperatorAnswer, OperatorConsole};
use super::super::outcome::{HostStatus, RollbackEnd, TransactionEnd};
use super::super::recover::{self, RollbackOptions};
use super::super::session::Session;
use super::super::transaction::{self, RetryReason, TransactionOutcome};
use super::super::transaction::{ConfirmBy, ConfirmWithin, OnError, TransactionPolicy};
use super::super::{open_transactions, operator};
use super::laws::{APPLY, Silent, policy, run, runtime, small};
use super::*;

/// A person who says this, `after` so many questions.
struct Person {
    word: Option<OperatorAnswer>,
    after: usize,
    asked: Mutex<usize>,
    stops: bool,
}

impl OperatorConsole for Person {
    fn show_awaited(&self, _: Activity, _: &BTreeSet<HostName>) {}

    fn answer(&self) -> Option<OperatorAnswer> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        self.word.filter(|_| *asked > self.after)
    }

    fn stop_requested(&self) -> bool {
        self.stops
    }
}

fn person(word: Option<OperatorAnswer>) -> Person {
    Person { word, after: 3, asked: Mutex::new(0), stops: false }
}

fn manual() -> TransactionPolicy {
    TransactionPolicy {
        confirm: ConfirmBy::Operator,
        within: ConfirmWithin::Always(Duration::from_mins(1)),
        ..policy()
    }
}

async fn run_with(
    world: &World,
    topology: &Topology,
    how: &TransactionPolicy,
    watch: &dyn OperatorConsole,
) -> TransactionOutcome {
    let mut session = Session::open_with_console(topology, world, watch).await;
    let observed = session.observe(false).await;
    let plan = cluster_plan::plan(topology, &session.desired, &observed, session.absent(), APPLY);
    transaction::run(&mut session, &plan, &observed, APPLY, how).await
}

fn ended(came: &TransactionOutcome) -> (TransactionEnd, String) {
    let of = came.report.transaction.as_ref().unwrap();
    (of.ended, of.because.clone().unwrap_or_default())
}

#[test]
fn who_comes_second_is_told_who_is_at_work_and_touches_nothing() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let mut first = Session::open_with_console(&topology, &world, &Silent).await;
        let observed = first.observe(false).await;
        let plan = cluster_plan::plan(&topology, &first.desired, &observed, first.absent(), APPLY);
        // It is cut off between two requests, and its connections live.
        world.fail(Fault { at: 4, kind: Kind::ControllerBefore });
        let policy = policy();
        let mut acting = Box::pin(transaction::run(&mut first, &plan, &observed, APPLY, &policy));
        assert!(acting.as_mut().now_or_never().is_none());
        let before = world.hosts();
        let second = run(&world, &topology, APPLY, &policy).await;
        let Some(RetryReason::Busy { host, busy }) = &second.retry else { panic!("{second:#?}") };
        assert_eq!(host.as_str(), "director", "two controllers meet at the first by name");
        assert_eq!(busy.holder.as_ref().unwrap().by, operator::here());
        assert!(second.report.has_failures());
        for (name, machine) in world.hosts() {
            assert_eq!(machine.observation, before[&name].observation, "{name}");
        }
        // Once the first is gone for good the next one takes it over.
        drop(acting);
        drop(first);
        world.heal();
        let third = run(&world, &topology, APPLY, &policy).await;
        assert_eq!(ended(&third).0, TransactionEnd::Committed, "{third:#?}");
        assert_eq!(world.broken(), Vec::<String>::new());
    });
}

#[test]
fn a_host_that_has_changed_since_it_was_looked_at_is_not_touched() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let mut session = Session::open_with_console(&topology, &world, &Silent).await;
        let observed = session.observe(false).await;
        let plan =
            cluster_plan::plan(&topology, &session.desired, &observed, session.absent(), APPLY);
        let rs2 = "rs2".parse().unwrap();
        world.change(&rs2, |machine| {
            let sysctls = &mut machine.observation.state.sysctls;
            sysctls.insert("net.ipv4.conf.all.arp_ignore".parse().unwrap(), "8".to_owned());
        });
        let before = world.hosts();
        let came = transaction::run(&mut session, &plan, &observed, APPLY, &policy()).await;
        let Some(RetryReason::Changed { host, differences }) = &came.retry else {
            panic!("{came:#?}")
        };
        assert_eq!(*host, rs2);
        assert_eq!(differences, &["net.ipv4.conf.all.arp_ignore: 0 -> 8"]);
        assert_eq!(ended(&came).0, TransactionEnd::Aborted);
        for (name, machine) in world.hosts() {
            assert_eq!(machine.observation, before[&name].observation, "{name}");
            assert!(machine.open.is_none(), "{name}");
        }
    });
}

#[test]
fn the_operator_has_the_last_word_and_silence_is_no() {
    let topology = small();
    runtime().block_on(async {
        for (word, end, because) in [
            (Some(OperatorAnswer::Yes), TransactionEnd::Committed, ""),
            (Some(OperatorAnswer::No), TransactionEnd::Aborted, "the operator answered no"),
            (None, TransactionEnd::Aborted, "it was not confirmed within 60 s"),
        ] {
            let world = World::bare(&topology);
            let came = run_with(&world, &topology, &manual(), &person(word)).await;
            assert_eq!(ended(&came), (end, because.to_owned()), "{word:?}");
            assert!(world.hosts().values().all(|machine| machine.open.is_none()));
            assert_eq!(world.broken(), Vec::<String>::new());
        }
        let world = World::bare(&topology);
        let stopping = Person { stops: true, ..person(None) };
        let came = run_with(&world, &topology, &policy(), &stopping).await;
        assert_eq!(ended(&came), (TransactionEnd::Aborted, "it was interrupted".to_owned()));
    });
}

#[test]
fn what_waits_for_the_operator_can_be_confirmed_or_undone_from_elsewhere() {
    let topology = small();
    runtime().block_on(async {
        for keeps in [true, false] {
            let world = World::bare(&topology);
            let nobody = person(None);
            let how = manual();
            let waiting = run_with(&world, &topology, &how, &nobody);
            let elsewhere = async {
                // Until everything is done and it waits.
                while *nobody.asked.lock().unwrap() == 0 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let mut session = Session::open_with_console(&topology, &world, &Silent).await;
                let observed = session.observe(false).await;
                let plan = cluster_plan::plan(
                    &topology,
                    &session.desired,
                    &observed,
                    session.absent(),
                    APPLY,
                );
                if keeps {
                    recover::confirm(&mut session, &plan, &observed, &operator::here()).await
                } else {
                    let how = RollbackOptions { by: operator::here(), force: true, dry_run: false };
                    recover::rollback(&mut session, &plan, &observed, &how).await
                }
            };
            let (came, there) = tokio::join!(waiting, elsewhere);
            assert!(!there.has_failures(), "{there:#?}");
            let expected = if keeps {
                (TransactionEnd::Committed, String::new())
            } else {
                (TransactionEnd::Aborted, "another controller has undone it".to_owned())
            };
            assert_eq!(ended(&came), expected);
            assert_eq!(world.broken(), Vec::<String>::new());
        }
    });
}

#[test]
fn what_is_not_done_everywhere_is_not_confirmed() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        world.fail(Fault { at: 3, kind: Kind::ControllerAfter });
        let policy = policy();
        assert!(run(&world, &topology, APPLY, &policy).now_or_never().is_none());
        let mut session = Session::open_with_console(&topology, &world, &Silent).await;
        let observed = session.observe(false).await;
        let plan =
            cluster_plan::plan(&topology, &session.desired, &observed, session.absent(), APPLY);
        let by = operator::here();
        let report = recover::confirm(&mut session, &plan, &observed, &by).await;
        assert!(report.has_failures(), "{report:#?}");
        let failure = report.hosts.values().find_map(|host| host.failure.clone()).unwrap();
        assert!(failure.message.contains("steps are done"), "{failure:#?}");
        assert!(world.hosts().values().any(|machine| machine.open.is_some()));
    });
}

/// All steps are done, and verification fails: it is no success because nothing was undone.
#[test]
fn what_is_kept_although_it_was_not_verified_is_told_as_unfinished() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        world.serve(Serves::Drops);
        let within = ConfirmWithin::Always(Duration::from_mins(1));
        let keep = TransactionPolicy { on_error: OnError::Keep, within, ..policy() };
        let came = run(&world, &topology, APPLY, &keep).await;
        assert_eq!(ended(&came).0, TransactionEnd::Open);
        assert!(came.report.has_failures(), "{:#?}", came.report);
        let text = crate::report::cluster::text(&came.report);
        let text = anstream::adapter::strip_str(&text).to_string();
        for words in
            ["done, and left open", "undoes all of it by itself in about", "left unfinished on"]
        {
            assert!(text.contains(words), "{words:?} is missing: {text}");
        }
        assert!(!text.contains("verified"), "{text}");
    });
}

#[test]
fn what_is_kept_on_error_stays_with_its_journals_until_it_is_rolled_back() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let was = world.hosts();
        world.fail(Fault { at: 4, kind: Kind::Refusal });
        let keep = TransactionPolicy { on_error: OnError::Keep, ..policy() };
        let came = run(&world, &topology, APPLY, &keep).await;
        let (end, because) = ended(&came);
        assert_eq!(end, TransactionEnd::Open);
        assert!(because.ends_with("it is in use"), "{because}");
        world.heal();
        let mut session = Session::open_with_console(&topology, &world, &Silent).await;
        let observed = session.observe(false).await;
        let plan =
            cluster_plan::plan(&topology, &session.desired, &observed, session.absent(), APPLY);
        let open = world.hosts().values().filter(|machine| machine.open.is_some()).count();
        assert!(open >= 3, "{open}");
        assert_eq!(open_transactions::reports(&plan, &observed)[0].hosts.len(), open);
        let how = RollbackOptions { by: operator::here(), force: false, dry_run: true };
        let dry = recover::rollback(&mut session, &plan, &observed, &how).await;
        assert!(world.hosts().values().any(|machine| machine.open.is_some()), "it was dry");
        assert!(dry.hosts.values().any(|host| host.status == HostStatus::Pending));
        let how = RollbackOptions { dry_run: false, ..how };
        let report = recover::rollback(&mut session, &plan, &observed, &how).await;
        assert!(!report.has_failures(), "{report:#?}");
        for (name, machine) in world.hosts() {
            let was = &was[&name].observation.state;
            assert_eq!(essence(&machine.observation.state, was), *was, "{name}");
            assert!(machine.open.is_none(), "{name}");
        }
        let undone = |host: &super::super::HostReport| {
            host.rollback.as_ref().is_some_and(|undoing| undoing.end == RollbackEnd::RolledBack)
        };
        assert_eq!(report.hosts.values().filter(|host| undone(host)).count(), open);
    });
}
