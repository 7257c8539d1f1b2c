//! One try after the other: a change is cut off at a point, the plan is asked what it found, and one
//! more command leads on or back.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::cluster::{Ended, Photo};
use super::in_doubt::InDoubt;
use super::points::{self, How, MOVES, Point, Share, Try, Way};
use super::scene_run::SceneRun;
use super::scenes::Scene;
use crate::support::speed;

/// What a request may take, in seconds, scaled: more than any does, even emulated.
const CALL: u64 = 10;
/// For how many seconds, scaled, a controller tries to log in to a host whose cable is cut.
const CONNECT: u64 = 15;
/// When a controller whose host was cut off counts as hanging. It ends in half a minute where nothing else runs; the
/// rest costs only the try that fails.
const BOUND: Duration = Duration::from_mins(5);

/// So many tries may fail before a scene is given up: each has the lab built anew.
const MOST_FAILURES: usize = 4;

/// Plays a scene. Returns how many tries were made, and what went wrong.
pub fn play(scene: fn() -> Scene, share: Share) -> (usize, Vec<String>) {
    let mut run = SceneRun::set(scene());
    let name = run.scene.name;
    let mut all = Vec::new();
    for go in MOVES {
        all.push((go, points::of(&run, go.to)));
        run.walk(go.to);
    }
    let mut pending = share.of(name, &all);
    let count: usize = all.iter().map(|(_, points)| points.len()).sum();
    println!("{name}: {count} points in {} moves, {} tries", all.len(), pending.len());
    let (mut tried, mut wrong) = (0, Vec::new());
    while let Some(next) = pending.iter().position(|one| one.go.from == run.state).or_else(|| {
        // None begins here: on to where one does.
        let there = pending.first()?.go.from;
        while run.state != there {
            run.walk(if run.state < there { run.state + 1 } else { run.state - 1 });
        }
        Some(0)
    }) {
        let one = pending.remove(next);
        tried += 1;
        let title = describe(&run, &one);
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.play(&one)));
        match played.unwrap_or_else(|panic| Err(words_of(&panic))) {
            Ok(told) => println!("{title}: {told}"),
            Err(why) => {
                println!("{title}: FAILED: {why}");
                wrong.push(format!("{title}: {why}"));
                if wrong.len() >= MOST_FAILURES {
                    println!("{name}: given up, {} tries are left", pending.len());
                    break;
                }
                run = SceneRun::set(scene());
                for go in MOVES {
                    run.walk(go.to);
                }
            }
        }
    }
    println!("{name}: {tried} tried, {} survived", tried - wrong.len());
    (tried, wrong)
}

fn describe(run: &SceneRun, one: &Try) -> String {
    let Try { go, point, how, way } = one;
    let called = |state: usize| run.scene.states[state].0;
    let (from, to) = (called(go.from), called(go.to));
    let name = run.scene.name;
    format!(
        "{name} {from} -> {to}, {} `{}` ({}), {how:?}, {way:?}",
        point.host, point.at, point.kind
    )
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

impl SceneRun {
    /// Plays one try, which must be about a move from where the cluster is. Returns what it came to.
    pub fn play(&mut self, one: &Try) -> Result<String, String> {
        let started = Instant::now();
        assert_eq!(one.go.from, self.state);
        let cut = self.cut_off(one)?;
        self.cluster.no_faults();
        if !self.cluster.wait_for_agents(Duration::from_secs(90)) {
            return Err(format!("an agent is still there, after:\n{cut}"));
        }
        let photo = self.cluster.photograph();
        let found = InDoubt::read(&self.cluster, &photo);
        found.agrees_with_plan(self, one).map_err(|why| format!("{why}\nafter:\n{cut}"))?;
        self.is_possible(one, &found, &photo).map_err(|why| format!("{why}\nafter:\n{cut}"))?;
        let (arguments, goal) = match one.way {
            Way::Forward => (self.command(one.go).to_vec(), one.go.to),
            Way::Back => {
                let file = self.file(one.go.to.max(1));
                (vec!["rollback", file], found.way_back(one.go, self, &photo))
            }
        };
        let ended = self.cluster.lvsprov(&arguments);
        let told = |why: String| {
            format!("{why}\n{arguments:?} said:\n{ended}\nthe cut one had said:\n{cut}")
        };
        if ended.code != Some(0) {
            return Err(told("it did not end well".to_owned()));
        }
        let after = self.cluster.photograph();
        self.is(goal, &after).map_err(|lines| {
            told(format!("this is not {:?}:\n  {lines}", self.scene.states[goal].0))
        })?;
        self.photos.entry(goal).or_insert(after);
        self.state = goal;
        Ok(format!(
            "{} of {} steps were there; {} ({:.1} s)",
            found.there(),
            found.steps(),
            self.scene.states[goal].0,
            started.elapsed().as_secs_f64()
        ))
    }

    /// Starts the move and cuts it off.
    fn cut_off(&self, one: &Try) -> Result<Ended, String> {
        let Try { go, point, how, .. } = one;
        let mut arguments = self.command(*go).to_vec();
        let call = speed::seconds(CALL);
        arguments.extend(["--call-timeout", &call]);
        let connect = speed::seconds(CONNECT);
        if *how == How::Network {
            arguments.extend(["--connect-timeout", &connect]);
        }
        if *how == How::Undo {
            self.cluster.fault(&point.host, &format!("{} kill\n", point.at));
            return names(self.cluster.start(&arguments).wait(BOUND), point);
        }
        self.cluster.fault(&point.host, &format!("{} stop\n", point.at));
        arguments.extend(["--on-error", "keep"]);
        let mut controller = self.cluster.start(&arguments);
        let Some(agent) = self.cluster.wait_for_stopped(&point.host, &mut controller) else {
            let ended = controller.wait(BOUND);
            return Err(format!("the point was not reached:\n{ended}"));
        };
        // Only once: whoever comes next comes through.
        self.cluster.no_faults();
        let signal = |signal| kill(agent, signal).map_err(|error| error.to_string());
        match how {
            How::Agent => {
                signal(Signal::SIGKILL)?;
                names(controller.wait(BOUND), point)
            }
            How::Controller => {
                let ended = controller.kill();
                signal(Signal::SIGCONT)?;
                Ok(ended)
            }
            How::Network | How::Undo => {
                self.cluster.lab.cut(&point.host).unwrap();
                signal(Signal::SIGCONT)?;
                let ended = controller.wait(BOUND);
                self.cluster.lab.join(&point.host).unwrap();
                names(ended, point)
            }
        }
    }

    /// Nothing may be there that neither state explains: each host's every thing is as in one of both.
    fn is_possible(&self, one: &Try, found: &InDoubt, photo: &Photo) -> Result<(), String> {
        if found.is_nothing() {
            let from = self.is(one.go.from, photo);
            let to = self.is(one.go.to, photo);
            if let (Err(from), Err(to)) = (from, to) {
                return Err(format!(
                    "nothing is unfinished, but it is neither the one state:\n  {from}\nnor the \
                     other:\n  {to}"
                ));
            }
        }
        Ok(())
    }
}

/// A controller that lost a host says so and names it. Once all is done it may find the host again, and
/// come to its end.
fn names(ended: Ended, point: &Point) -> Result<Ended, String> {
    let said = ended.out.clone() + &ended.err;
    let host = &point.host;
    match ended.code {
        Some(0) if point.is_late() => Ok(ended),
        Some(5) if said.contains(host.as_str()) => Ok(ended),
        _ => Err(format!("it does not say that {host} was lost:\n{ended}")),
    }
}
