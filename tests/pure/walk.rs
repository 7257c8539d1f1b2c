//! The packet walk on what kernels answered: clusters that were brought up, and in which one thing was broken at a time
//! (`tests/vm/walk.rs`, `scripts/walk-record`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use lvsprov::names::HostName;
use lvsprov::plan::simulate;
use lvsprov::state::Routing;
use lvsprov::topology::{self, Topology};
use lvsprov::walk::HostStates;

use crate::support::cases::{Case, cases};
use crate::support::playbooks::load;
use crate::support::prediction::{Prediction, Record, announced, is_known, seen_world, ways};

pub fn cases() -> Vec<Case> {
    cases![the_walk_says_what_kernels_did]
}

fn records() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/walk/record");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    assert!(!all.is_empty(), "there is no record");
    all
}

struct Replay {
    file: String,
    topology: Topology,
    states: HostStates,
    routing: BTreeMap<HostName, Routing>,
}

fn the_walk_says_what_kernels_did() {
    let (mut tried, mut routed, mut wrong) = (0, 0, Vec::new());
    for path in records() {
        let lines = BufReader::new(GzDecoder::new(File::open(&path).unwrap())).lines();
        let mut replay: Option<Replay> = None;
        for line in lines {
            match serde_json::from_str(&line.unwrap()).unwrap() {
                Record::Cluster { file, text, kernel: _, states, routing } => {
                    let topology = match text {
                        Some(text) => topology::read(&file, &text).topology.unwrap(),
                        None => load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)),
                    };
                    replay = Some(Replay { file, topology, states, routing });
                }
                Record::Broken { host, edit, served } => {
                    let replay = replay.as_ref().expect("a cluster comes first");
                    tried += 1;
                    let mut states = replay.states.clone();
                    let state = states.get_mut(&host).unwrap();
                    *state = simulate(state, [&*edit]).unwrap();
                    let what = format!("{edit} on {host}");
                    wrong.extend(replay.contradictions(&states, &replay.routing, &what, &served));
                }
                Record::Routed { host, commands, state, routing, served } => {
                    let replay = replay.as_ref().expect("a cluster comes first");
                    routed += 1;
                    let mut states = replay.states.clone();
                    states.insert(host.clone(), *state);
                    let mut all = replay.routing.clone();
                    all.insert(host.clone(), routing);
                    let what = format!("ip {} on {host}", commands.join("; ip "));
                    wrong.extend(replay.contradictions(&states, &all, &what, &served));
                }
            }
        }
    }
    println!("{tried} broken clusters, {routed} with routes and rules of others");
    assert!(tried >= 1_000 && routed >= 1_000, "only {tried} and {routed} on record");
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

impl Replay {
    fn contradictions(
        &self,
        states: &HostStates,
        routing: &BTreeMap<HostName, Routing>,
        what: &str,
        served: &[(HostName, usize, Vec<Option<String>>)],
    ) -> Vec<String> {
        let world = seen_world(&self.topology, states, routing);
        let ways = ways(&self.topology);
        let announced = announced(&world, &ways);
        if is_known(&self.file, what) {
            return Vec::new();
        }
        let wrong = served.iter().filter_map(|(client, number, served)| {
            let says = Prediction::of(&world, &announced, &ways[&(client, *number)]);
            let why = says.contradicted_by(served)?;
            Some(format!(
                "{}: {what}: {client}: {why}\n    walk: {says:?}\n    kernel: {served:?}",
                self.file
            ))
        });
        wrong.collect()
    }
}
