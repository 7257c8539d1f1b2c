//! One try after the other: a change is cut off at a point, the plan is asked what it found, and one
//! more command leads on or back.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lvsprov::cluster::ClusterReport;
use lvsprov::plan::journal::Journal;
use lvsprov::topology::HostName;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::cluster::{Cluster, Ended, Photo, difference};
use super::scenes::Scene;
use super::truth::View;

/// Points that every transaction passes on every host, besides its steps.
const NAMED: [&str; 8] =
    ["begin", "journal", "begun", "agree", "agreed", "settle", "settled", "closed"];
/// What a request may take, in seconds: more than any does, even emulated.
const CALL: &str = "10";
/// In which time a controller must have ended whose host was cut off.
const BOUND: Duration = Duration::from_secs(75);

/// What is done at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// `kill -9` the agent once; the controller is told to leave it like that.
    Agent,
    /// `kill -9` the controller; the agent then goes on.
    Controller,
    /// The cable to that host is cut, and joined when the controller has ended.
    Network,
    /// `kill -9` the agent, and every other that comes to that point; the controller is to undo what it
    /// can.
    Undo,
}

const HOWS: [How; 4] = [How::Agent, How::Controller, How::Undo, How::Network];

/// What is run afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Forward,
    Back,
}

/// Somewhere in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub host: HostName,
    /// As the agents' fault file has it.
    pub at: String,
    /// What kind of point it is: its name, or what the step before it does.
    pub kind: String,
}

/// From one state of a scene to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    pub from: usize,
    pub to: usize,
}

#[derive(Debug, Clone)]
pub struct Try {
    pub go: Move,
    pub point: Point,
    pub how: How,
    pub way: Way,
}

/// A scene as it is played.
pub struct Stage {
    pub scene: Scene,
    pub cluster: Cluster,
    pub state: usize,
    files: Vec<PathBuf>,
    /// Each state as it was first reached, without anything in the way.
    photos: BTreeMap<usize, Photo>,
}

impl Stage {
    pub fn set(scene: Scene) -> Self {
        let cluster = Cluster::build(scene.text(0));
        for (host, lines) in scene.before {
            for line in *lines {
                let words: Vec<&str> = line.split(' ').collect();
                cluster.inside(&host.parse().unwrap(), words[0], &words[1..], "");
            }
        }
        let files = (0..scene.states.len())
            .map(|state| cluster.file(scene.states[state].0, scene.text(state)))
            .collect();
        let photos = BTreeMap::from([(0, cluster.photograph())]);
        Self { scene, cluster, state: 0, files, photos }
    }

    /// Command and file of a move.
    fn command(&self, go: Move) -> [&str; 2] {
        let Move { from, to } = go;
        if to == 0 { ["destroy", self.file(from)] } else { ["apply", self.file(to)] }
    }

    /// Moves there with nothing in the way, and sees that it is what it was the first time.
    pub fn walk(&mut self, to: usize) {
        let go = Move { from: self.state, to };
        let ended = self.cluster.lvsprov(&self.command(go));
        assert_eq!(ended.code, Some(0), "{:?} said:\n{ended}", self.command(go));
        self.state = to;
        let photo = self.cluster.photograph();
        if let Err(differences) = self.is(to, &photo) {
            panic!("{} is not what it was: {differences}", self.scene.states[to].0);
        }
        self.photos.entry(to).or_insert(photo);
    }

    /// Something else than [`Stage::walk`] has moved it there.
    pub fn arrived(&mut self, to: usize) {
        if let Err(lines) = self.is(to, &self.cluster.photograph()) {
            panic!("this is not {}: {lines}", self.scene.states[to].0);
        }
        self.state = to;
    }

    /// The file of a state.
    pub fn file(&self, state: usize) -> &str {
        self.files[state].to_str().unwrap()
    }

    /// Whether that is what a state was like the first time.
    pub fn is(&self, state: usize, photo: &Photo) -> Result<(), String> {
        let Some(known) = self.photos.get(&state) else { return Ok(()) };
        let lines = difference(known, photo);
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n  ")) }
    }

    /// Every point of a move from where the cluster is, by the plan's own word of it.
    pub fn points(&self, to: usize) -> Vec<Point> {
        let [command, file] = self.command(Move { from: self.state, to });
        let arguments = match command {
            "destroy" => vec![command, file, "--dry-run", "--format", "json"],
            _ => vec!["plan", file, "--format", "json"],
        };
        let ended = self.cluster.lvsprov(&arguments);
        let report: ClusterReport = serde_json::from_str(&ended.out)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{ended}"));
        let mut all = Vec::new();
        for (host, of_host) in report.hosts {
            if of_host.steps.is_empty() {
                continue;
            }
            let point = |at: String, kind: &str| Point {
                host: host.clone(),
                at,
                kind: format!("{} {kind}", role(&host)),
            };
            all.extend(NAMED.map(|name| point(name.to_owned(), name)));
            all.push(point("step 0".to_owned(), "step 0"));
            for (nth, step) in of_host.steps.iter().enumerate() {
                let change = serde_json::to_value(&step.change).unwrap();
                let kind = change.as_object().unwrap().keys().next().unwrap().clone();
                all.push(point(format!("step {}", nth + 1), &kind));
            }
        }
        all
    }

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
        let found = Found::read(&self.cluster, &photo);
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
        arguments.extend(["--call-timeout", CALL]);
        if *how == How::Undo {
            self.cluster.fault(&point.host, &format!("{} kill\n", point.at));
            return names(self.cluster.start(&arguments).wait(BOUND), &point.host);
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
                names(controller.wait(BOUND), &point.host)
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
                names(ended, &point.host)
            }
        }
    }

    /// Nothing may be there that neither state explains: each host's every thing is as in one of both.
    fn is_possible(&self, one: &Try, found: &Found, photo: &Photo) -> Result<(), String> {
        if found.open.is_empty() {
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

/// A controller that lost a host says so and names it; or it found the host again and came to its end.
fn names(ended: Ended, host: &HostName) -> Result<Ended, String> {
    let said = ended.out.clone() + &ended.err;
    match ended.code {
        Some(0) => Ok(ended),
        Some(5) if said.contains(host.as_str()) => Ok(ended),
        _ => Err(format!("it does not say that {host} was lost:\n{ended}")),
    }
}

fn role(host: &HostName) -> &str {
    host.as_str().trim_end_matches(char::is_numeric)
}

/// What lies on the hosts, as files say it.
pub struct Found {
    /// The journals, and whether the host has agreed.
    open: BTreeMap<HostName, (Journal, bool)>,
    /// Of each journal's steps, how many are there.
    counts: BTreeMap<HostName, usize>,
}

impl Found {
    fn read(cluster: &Cluster, photo: &Photo) -> Self {
        let mut open = BTreeMap::new();
        let mut counts = BTreeMap::new();
        let name = cluster.topology.name.as_str();
        for host in cluster.hosts() {
            let folder = cluster.path(&host, "var/lib/lvsprov").join(name);
            let Ok(text) = fs::read_to_string(folder.join("journal.json")) else { continue };
            let journal: Journal = serde_json::from_str(&text).unwrap();
            let mark = |mark: &str| folder.join(journal.transaction.as_str()).join(mark).exists();
            let agreed = mark("agreed") || mark("done");
            let view = View::of(&photo[&host]);
            let changes: Vec<_> = journal.steps().map(|step| &step.change).collect();
            counts.insert(host.clone(), view.count(changes.into_iter()));
            open.insert(host, (journal, agreed));
        }
        Self { open, counts }
    }

    fn there(&self) -> usize {
        self.counts.values().sum()
    }

    fn steps(&self) -> usize {
        self.open.values().map(|(journal, _)| journal.steps().count()).sum()
    }

    /// Whether `plan` says just that.
    fn agrees_with_plan(&self, stage: &Stage, one: &Try) -> Result<(), String> {
        let file = stage.file(one.go.to.max(1));
        let ended = stage.cluster.lvsprov(&["plan", file, "--format", "json"]);
        let report: Value = serde_json::from_str(&ended.out)
            .map_err(|error| format!("plan's JSON: {error}\n{ended}"))?;
        let wrong = |why: String| Err(format!("{why}\nplan said:\n{ended}"));
        for host in stage.cluster.hosts() {
            let told = &report["hosts"][host.as_str()]["unfinished"];
            let (journal, agreed) = match (told.is_object(), self.open.get(&host)) {
                (false, None) => continue,
                (true, Some(open)) => open,
                (false, Some(_)) => return wrong(format!("plan is silent about {host}'s journal")),
                (true, None) => return wrong(format!("plan invents a journal on {host}")),
            };
            let truth = serde_json::json!({
                "id": journal.transaction.as_str(),
                "steps": journal.steps().count(),
                "as_wanted": self.counts.get(&host),
                "agreed": agreed,
                "restarted": false,
                "holder": null,
                "reverts_in_s": null,
            });
            for (name, value) in truth.as_object().into_iter().flatten() {
                if told[name] != *value {
                    return wrong(format!(
                        "{host}: plan says {name} {}, it is {value}",
                        told[name]
                    ));
                }
            }
        }
        Ok(())
    }

    /// Where `rollback` must lead: on, if all have agreed to it that have not settled it.
    fn way_back(&self, go: Move, stage: &Stage, photo: &Photo) -> usize {
        if self.open.is_empty() {
            return if stage.is(go.from, photo).is_ok() { go.from } else { go.to };
        }
        let all_agreed = self.open.values().all(|(_, agreed)| *agreed);
        if all_agreed { go.to } else { go.from }
    }
}

/// The states of a scene are in a row: from bare to the last, and back.
const MOVES: [Move; 4] = [
    Move { from: 0, to: 1 },
    Move { from: 1, to: 2 },
    Move { from: 2, to: 1 },
    Move { from: 1, to: 0 },
];

/// So many tries may fail before a scene is given up: each has the lab built anew.
const MOST_FAILURES: usize = 4;

/// What is tried of a scene.
#[derive(Debug, Clone, Copy)]
pub enum Share {
    /// One try of each kind of point: [`some`].
    Some,
    /// Of all tries ([`every`]) those of one part, counted from 1, of so many.
    Part(usize, usize),
}

impl Share {
    /// From `LVSPROV_HALFWAY`: `all`, or a part of it as `2/8`.
    pub fn wanted() -> Self {
        let Ok(text) = std::env::var("LVSPROV_HALFWAY") else { return Self::Some };
        let part = |text: &str| {
            let (part, of) = text.split_once('/')?;
            let (part, of) = (part.parse().ok()?, of.parse().ok()?);
            (1..=of).contains(&part).then_some(Self::Part(part, of))
        };
        match text.as_str() {
            "all" => Self::Part(1, 1),
            other => part(other).unwrap_or_else(|| panic!("LVSPROV_HALFWAY={other}: all, or 2/8")),
        }
    }

    fn of(self, scene: &'static str, points: &[(Move, Vec<Point>)]) -> Vec<Try> {
        let all = every(points);
        let count = all.len();
        let chosen: Vec<Try> = match self {
            Self::Some => some(scene, points),
            Self::Part(part, of) => all.into_iter().skip(part - 1).step_by(of).collect(),
        };
        if chosen.len() < count {
            println!(
                "{scene}: {} tries are left out: LVSPROV_HALFWAY=all makes {count} of every point, \
                 2/8 the second eighth of them",
                count.saturating_sub(chosen.len())
            );
        }
        chosen
    }
}

/// Plays a scene. Returns how many tries were made, and what went wrong.
pub fn play(scene: fn() -> Scene, share: Share) -> (usize, Vec<String>) {
    let mut stage = Stage::set(scene());
    let name = stage.scene.name;
    let mut points = Vec::new();
    for go in MOVES {
        points.push((go, stage.points(go.to)));
        stage.walk(go.to);
    }
    let mut pending = share.of(name, &points);
    let all: usize = points.iter().map(|(_, points)| points.len()).sum();
    println!("{name}: {all} points in {} moves, {} tries", points.len(), pending.len());
    let (mut tried, mut wrong) = (0, Vec::new());
    while let Some(next) = pending.iter().position(|one| one.go.from == stage.state).or_else(|| {
        // None begins here: on to where one does.
        let there = pending.first()?.go.from;
        while stage.state != there {
            stage.walk(if stage.state < there { stage.state + 1 } else { stage.state - 1 });
        }
        Some(0)
    }) {
        let one = pending.remove(next);
        tried += 1;
        let title = describe(&stage, &one);
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.play(&one)));
        match played.unwrap_or_else(|panic| Err(words_of(&panic))) {
            Ok(told) => println!("{title}: {told}"),
            Err(why) => {
                println!("{title}: FAILED: {why}");
                wrong.push(format!("{title}: {why}"));
                if wrong.len() >= MOST_FAILURES {
                    println!("{name}: given up, {} tries are left", pending.len());
                    break;
                }
                stage = Stage::set(scene());
                for go in MOVES {
                    stage.walk(go.to);
                }
            }
        }
    }
    println!("{name}: {tried} tried, {} survived", tried - wrong.len());
    (tried, wrong)
}

fn describe(stage: &Stage, one: &Try) -> String {
    let Try { go, point, how, way } = one;
    let called = |nth: usize| stage.scene.states[nth].0;
    let (from, to) = (called(go.from), called(go.to));
    let name = stage.scene.name;
    format!(
        "{name} {from} -> {to}, {} `{}` ({}), {how:?}, {way:?}",
        point.host, point.at, point.kind
    )
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Every point four times: the agent is killed, the controller is killed, the network is cut, the agent
/// is killed whenever it comes there; and after one of them on, after the next one back.
fn every(points: &[(Move, Vec<Point>)]) -> Vec<Try> {
    let mut all = Vec::new();
    for (go, points) in points {
        for (nth, point) in points.iter().enumerate() {
            for (turn, how) in HOWS.into_iter().enumerate() {
                let way = if (nth + turn).is_multiple_of(2) { Way::Forward } else { Way::Back };
                all.push(Try { go: *go, point: point.clone(), how, way });
            }
        }
    }
    all
}

/// Each kind of point on each kind of host, once for every way that a cluster is changed (built up,
/// changed, taken down), by one of the four hows in turn, and on and back in turn.
fn some(scene: &'static str, points: &[(Move, Vec<Point>)]) -> Vec<Try> {
    let mut known = std::collections::BTreeSet::new();
    let mut all = Vec::new();
    // The named points are alike in every scene: each scene has its share of them.
    let share = match scene {
        "dr" => 0,
        "nat" => 1,
        _ => 2,
    };
    for (go, points) in points {
        let intent = if go.to == 0 { "destroy" } else { "apply" };
        for point in points {
            let name = NAMED.iter().position(|name| *name == point.at);
            if name.is_some_and(|nth| nth % 3 != share) || !known.insert((intent, &point.kind)) {
                continue;
            }
            let nth = all.len() + share;
            let way =
                if (nth / HOWS.len() + nth).is_multiple_of(2) { Way::Forward } else { Way::Back };
            all.push(Try { go: *go, point: point.clone(), how: HOWS[nth % HOWS.len()], way });
        }
    }
    all
}
