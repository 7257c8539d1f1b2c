//! Two controllers, and an operator who is asked.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::super::acting::{Again, Came, transact};
use super::super::outcome::{Ended, HostStatus, UndoEnd};
use super::super::planning;
use super::super::recovering::{self, Rollback};
use super::super::session::Session;
use super::super::transaction::{Conduct, ConfirmBy, ConfirmWithin, OnError};
use super::super::watch::{Phase, Watch, Word};
use super::super::{operator, unfinished};
use super::laws::{APPLY, Silent, conduct, run, runtime, small};
use super::*;

/// A person who says this, `after` so many questions.
struct Person {
    word: Option<Word>,
    after: usize,
    asked: Mutex<usize>,
    stops: bool,
}

impl Watch for Person {
    fn awaited(&self, _: Phase, _: &BTreeSet<HostName>) {}

    fn says(&self) -> Option<Word> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        self.word.filter(|_| *asked > self.after)
    }

    fn wants_to_stop(&self) -> bool {
        self.stops
    }
}

fn person(word: Option<Word>) -> Person {
    Person { word, after: 3, asked: Mutex::new(0), stops: false }
}

fn manual() -> Conduct {
    Conduct {
        confirm: ConfirmBy::Operator,
        within: ConfirmWithin::Always(Duration::from_mins(1)),
        ..conduct()
    }
}

async fn run_with(world: &World, topology: &Topology, how: &Conduct, watch: &dyn Watch) -> Came {
    let mut session = Session::watched(topology, world, watch).await;
    let seen = session.look(false).await;
    let plan = planning::plan(topology, &session.desired, &seen, session.absent(), APPLY);
    transact(&mut session, &plan, &seen, APPLY, how).await
}

fn ended(came: &Came) -> (Ended, String) {
    let of = came.report.transaction.as_ref().unwrap();
    (of.ended, of.because.clone().unwrap_or_default())
}

#[test]
fn who_comes_second_is_told_who_is_at_work_and_touches_nothing() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let mut first = Session::watched(&topology, &world, &Silent).await;
        let seen = first.look(false).await;
        let plan = planning::plan(&topology, &first.desired, &seen, first.absent(), APPLY);
        // It is cut off between two requests, and its connections live.
        world.fail(Fault { at: 4, kind: Kind::ControllerBefore });
        let conduct = conduct();
        let mut acting = Box::pin(transact(&mut first, &plan, &seen, APPLY, &conduct));
        assert!(acting.as_mut().now_or_never().is_none());
        let before = world.hosts();
        let second = run(&world, &topology, APPLY, &conduct).await;
        let Some(Again::Busy { host, busy }) = &second.again else { panic!("{second:#?}") };
        assert_eq!(host.as_str(), "director", "two controllers meet at the first by name");
        assert_eq!(busy.holder.as_ref().unwrap().by, operator::here());
        assert!(second.report.has_failures());
        for (name, machine) in world.hosts() {
            assert_eq!(machine.sighting, before[&name].sighting, "{name}");
        }
        // Once the first is gone for good the next one takes it over.
        drop(acting);
        drop(first);
        world.heal();
        let third = run(&world, &topology, APPLY, &conduct).await;
        assert_eq!(ended(&third).0, Ended::Done, "{third:#?}");
        assert_eq!(world.broken(), Vec::<String>::new());
    });
}

#[test]
fn a_host_that_has_changed_since_it_was_looked_at_is_not_touched() {
    let topology = small();
    runtime().block_on(async {
        let world = World::bare(&topology);
        let mut session = Session::watched(&topology, &world, &Silent).await;
        let seen = session.look(false).await;
        let plan = planning::plan(&topology, &session.desired, &seen, session.absent(), APPLY);
        let rs2 = "rs2".parse().unwrap();
        world.change(&rs2, |machine| {
            let sysctls = &mut machine.sighting.state.sysctls;
            sysctls.insert("net.ipv4.conf.all.arp_ignore".parse().unwrap(), "8".to_owned());
        });
        let before = world.hosts();
        let came = transact(&mut session, &plan, &seen, APPLY, &conduct()).await;
        let Some(Again::Moved { host, differences }) = &came.again else { panic!("{came:#?}") };
        assert_eq!(*host, rs2);
        assert_eq!(differences, &["net.ipv4.conf.all.arp_ignore: 0 -> 8"]);
        assert_eq!(ended(&came).0, Ended::Undone);
        for (name, machine) in world.hosts() {
            assert_eq!(machine.sighting, before[&name].sighting, "{name}");
            assert!(machine.open.is_none(), "{name}");
        }
    });
}

#[test]
fn the_operator_has_the_last_word_and_silence_is_no() {
    let topology = small();
    runtime().block_on(async {
        for (word, end, because) in [
            (Some(Word::Yes), Ended::Done, ""),
            (Some(Word::No), Ended::Undone, "the operator said no"),
            (None, Ended::Undone, "nobody confirmed it within 60 s"),
        ] {
            let world = World::bare(&topology);
            let came = run_with(&world, &topology, &manual(), &person(word)).await;
            assert_eq!(ended(&came), (end, because.to_owned()), "{word:?}");
            assert!(world.hosts().values().all(|machine| machine.open.is_none()));
            assert_eq!(world.broken(), Vec::<String>::new());
        }
        let world = World::bare(&topology);
        let stopping = Person { stops: true, ..person(None) };
        let came = run_with(&world, &topology, &conduct(), &stopping).await;
        assert_eq!(ended(&came), (Ended::Undone, "it was interrupted".to_owned()));
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
                let mut session = Session::watched(&topology, &world, &Silent).await;
                let seen = session.look(false).await;
                let plan =
                    planning::plan(&topology, &session.desired, &seen, session.absent(), APPLY);
                if keeps {
                    recovering::confirm(&mut session, &plan, &seen, &operator::here()).await
                } else {
                    let how = Rollback { by: operator::here(), force: true, dry_run: false };
                    recovering::rollback(&mut session, &plan, &seen, &how).await
                }
            };
            let (came, there) = tokio::join!(waiting, elsewhere);
            assert!(!there.has_failures(), "{there:#?}");
            let expected = if keeps {
                (Ended::Done, String::new())
            } else {
                (Ended::Undone, "somebody else has undone it".to_owned())
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
        let conduct = conduct();
        assert!(run(&world, &topology, APPLY, &conduct).now_or_never().is_none());
        let mut session = Session::watched(&topology, &world, &Silent).await;
        let seen = session.look(false).await;
        let plan = planning::plan(&topology, &session.desired, &seen, session.absent(), APPLY);
        let by = operator::here();
        let report = recovering::confirm(&mut session, &plan, &seen, &by).await;
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
        let keep = Conduct { on_error: OnError::Keep, within, ..conduct() };
        let came = run(&world, &topology, APPLY, &keep).await;
        assert_eq!(ended(&came).0, Ended::Unfinished);
        assert!(came.report.has_failures(), "{:#?}", came.report);
        let text = crate::report::cluster::text(&came.report);
        let text = anstream::adapter::strip_str(&text).to_string();
        for words in
            ["done, and left open", "undoes all of it by itself in about", "left unfinished on"]
        {
            assert!(text.contains(words), "{words:?} is not said: {text}");
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
        let keep = Conduct { on_error: OnError::Keep, ..conduct() };
        let came = run(&world, &topology, APPLY, &keep).await;
        let (end, because) = ended(&came);
        assert_eq!(end, Ended::Unfinished);
        assert!(because.ends_with("it is in use"), "{because}");
        world.heal();
        let mut session = Session::watched(&topology, &world, &Silent).await;
        let seen = session.look(false).await;
        let plan = planning::plan(&topology, &session.desired, &seen, session.absent(), APPLY);
        let open = world.hosts().values().filter(|machine| machine.open.is_some()).count();
        assert!(open >= 3, "{open}");
        assert_eq!(unfinished::found(&plan, &seen)[0].hosts.len(), open);
        let how = Rollback { by: operator::here(), force: false, dry_run: true };
        let dry = recovering::rollback(&mut session, &plan, &seen, &how).await;
        assert!(world.hosts().values().any(|machine| machine.open.is_some()), "it was dry");
        assert!(dry.hosts.values().any(|host| host.status == HostStatus::Pending));
        let how = Rollback { dry_run: false, ..how };
        let report = recovering::rollback(&mut session, &plan, &seen, &how).await;
        assert!(!report.has_failures(), "{report:#?}");
        for (name, machine) in world.hosts() {
            let was = &was[&name].sighting.state;
            assert_eq!(essence(&machine.sighting.state, was), *was, "{name}");
            assert!(machine.open.is_none(), "{name}");
        }
        let undone = |host: &super::super::HostReport| {
            host.undoing.as_ref().is_some_and(|undoing| undoing.end == UndoEnd::Undone)
        };
        assert_eq!(report.hosts.values().filter(|host| undone(host)).count(), open);
    });
}
