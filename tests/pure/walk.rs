//! The packet walk on what kernels answered: clusters that were brought up, and in which one thing was broken at a time
//! (`tests/vm/walk.rs`, `scripts/walk-record`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use lvsprov::names::HostName;
use lvsprov::plan::simulate;
use lvsprov::state::{Edit, HostState};
use lvsprov::topology::Topology;
use lvsprov::walk::World;

use crate::support::cases::{Case, cases};
use crate::support::playbooks::load;
use crate::support::prediction::{Prediction, Record, announced, is_known, ways};

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
    states: BTreeMap<HostName, HostState>,
}

fn the_walk_says_what_kernels_did() {
    let (mut tried, mut wrong) = (0, Vec::new());
    for path in records() {
        let lines = BufReader::new(GzDecoder::new(File::open(&path).unwrap())).lines();
        let mut replay: Option<Replay> = None;
        for line in lines {
            match serde_json::from_str(&line.unwrap()).unwrap() {
                Record::Cluster { file, kernel: _, states } => {
                    let topology = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(&file));
                    replay = Some(Replay { file, topology, states });
                }
                Record::Broken { host, edit, served } => {
                    let replay = replay.as_ref().expect("a cluster comes first");
                    tried += 1;
                    wrong.extend(replay.contradictions(&host, &edit, &served));
                }
            }
        }
    }
    println!("{tried} broken clusters");
    assert!(tried >= 1_000, "only {tried} on record");
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

impl Replay {
    fn contradictions(
        &self,
        host: &HostName,
        edit: &Edit,
        served: &[(HostName, usize, Vec<Option<String>>)],
    ) -> Vec<String> {
        let mut states = self.states.clone();
        let state = states.get_mut(host).unwrap();
        *state = simulate(state, [edit]).unwrap();
        let world = World::of_file(&self.topology, &states);
        let ways = ways(&self.topology);
        let announced = announced(&world, &ways);
        let what = format!("{edit} on {host}");
        if is_known(&self.file, &what) {
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
