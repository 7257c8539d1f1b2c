//! Where a transaction is cut off, in which ways, and which of all that is tried.

use std::collections::{BTreeMap, BTreeSet};

use lvsprov::apply::ClusterReport;
use lvsprov::names::HostName;

use super::scene_run::SceneRun;
use crate::support::vm::thorough;

/// Points that every transaction passes on every host, besides its steps.
const NAMED: [&str; 8] =
    ["prepare", "journal", "prepared", "vote", "voted", "close", "receipt", "closed"];
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

impl Point {
    /// Whether all steps are done there, everywhere.
    pub fn is_late(&self) -> bool {
        NAMED.iter().position(|name| *name == self.at).is_some_and(|nth| nth > 2)
    }
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

/// The states of a scene are in a row: from bare to the last, and back.
pub const MOVES: [Move; 4] = [
    Move { from: 0, to: 1 },
    Move { from: 1, to: 2 },
    Move { from: 2, to: 1 },
    Move { from: 1, to: 0 },
];

/// Every point of a move from where the cluster is, by the plan's own word of it.
pub fn of(run: &SceneRun, to: usize) -> Vec<Point> {
    let [command, file] = run.command(Move { from: run.state, to });
    let arguments = match command {
        "destroy" => vec![command, file, "--dry-run", "--format", "json"],
        _ => vec!["plan", file, "--format", "json"],
    };
    let ended = run.cluster.lvsprov(&arguments);
    let report: ClusterReport = serde_json::from_str(&ended.out)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{ended}"));
    let mut all = Vec::new();
    let alone = report.hosts.values().filter(|of_host| !of_host.steps.is_empty()).count() == 1;
    for (host, of_host) in report.hosts {
        if of_host.steps.is_empty() {
            continue;
        }
        let point = |at: String, kind: &str| Point {
            host: host.clone(),
            at,
            kind: format!("{} {kind}", role(&host)),
        };
        // One host alone has nobody to agree with.
        let named = NAMED.into_iter().filter(|name| !(alone && name.starts_with("vote")));
        all.extend(named.map(|name| point(name.to_owned(), name)));
        all.push(point("step 0".to_owned(), "step 0"));
        for (nth, step) in of_host.steps.iter().enumerate() {
            let change = serde_json::to_value(&step.edit).unwrap();
            let kind = change.as_object().unwrap().keys().next().unwrap().clone();
            all.push(point(format!("step {}", nth + 1), &kind));
        }
    }
    all
}

fn role(host: &HostName) -> &str {
    host.as_str().trim_end_matches(char::is_numeric)
}

/// What is tried of a scene.
#[derive(Debug, Clone, Copy)]
pub enum Share {
    /// One try of each kind of point: [`kinds`].
    Kinds,
    /// Two of each: while the cluster is built up or changed, and while it is taken down.
    KindsBothWays,
    /// Of all tries ([`every`]) those of one part, counted from 1, of so many.
    Part(usize, usize),
}

impl Share {
    /// From `LVSPROV_HALFWAY`: `all`, or a part of it as `2/8`.
    pub fn wanted() -> Self {
        let Ok(text) = std::env::var("LVSPROV_HALFWAY") else {
            return if thorough() { Self::KindsBothWays } else { Self::Kinds };
        };
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

    pub fn of(self, scene: &'static str, points: &[(Move, Vec<Point>)]) -> Vec<Try> {
        let all = every(points);
        let count = all.len();
        let chosen: Vec<Try> = match self {
            Self::Kinds => kinds(scene, points, false),
            Self::KindsBothWays => kinds(scene, points, true),
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

/// Every point four times: the agent is killed, the controller is killed, the network is cut, the agent
/// is killed whenever it comes there; and after one of them on, after the next one back.
fn every(points: &[(Move, Vec<Point>)]) -> Vec<Try> {
    let mut all = Vec::new();
    for (go, points) in points {
        for (nth, point) in points.iter().enumerate() {
            for (turn, how) in HOWS.into_iter().enumerate() {
                let way = if (nth + turn) % 2 == 0 { Way::Forward } else { Way::Back };
                all.push(Try { go: *go, point: point.clone(), how, way });
            }
        }
    }
    all
}

/// Each kind of point on each kind of host, by one of the four hows in turn, and on and back in turn; `both_ways` while
/// the cluster is built up or changed, and again while it is taken down, else in one of these.
fn kinds(scene: &'static str, points: &[(Move, Vec<Point>)], both_ways: bool) -> Vec<Try> {
    // The named points are alike in every scene: each scene has its share of them.
    let share = match scene {
        "dr" => 0,
        "nat" => 1,
        _ => 2,
    };
    let is_ours = |point: &Point| {
        let name = NAMED.iter().position(|name| *name == point.at);
        name.is_none_or(|nth| nth % 3 == share)
    };
    let mut first_of_kind = BTreeMap::<(bool, &str), (Move, &Point)>::new();
    for (go, points) in points {
        for point in points.iter().filter(|point| is_ours(point)) {
            first_of_kind.entry((go.to == 0, &point.kind)).or_insert((*go, point));
        }
    }
    if !both_ways {
        let known: BTreeSet<&str> = first_of_kind.keys().map(|(_, kind)| *kind).collect();
        for (nth, kind) in known.into_iter().enumerate() {
            let there = [false, true].map(|down| first_of_kind.contains_key(&(down, kind)));
            if there == [true, true] {
                first_of_kind.remove(&(nth.is_multiple_of(2), kind));
            }
        }
    }
    let mut all: Vec<(Move, &Point)> = first_of_kind.into_values().collect();
    all.sort();
    let turn = |(nth, (go, point)): (usize, (Move, &Point))| {
        let nth = nth + share;
        let way = if (nth / HOWS.len() + nth).is_multiple_of(2) { Way::Forward } else { Way::Back };
        Try { go, point: point.clone(), how: HOWS[nth % HOWS.len()], way }
    };
    all.into_iter().enumerate().map(turn).collect()
}
