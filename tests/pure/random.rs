//! Random clusters: what the generator makes, and the record of what kernels answered in them (`tests/vm/random.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use lvsprov::check;

use crate::support::cases::{Case, cases};
use crate::support::random_clusters::random_cluster;
use crate::support::random_verdict::{RandomTrial, examine};

pub fn cases() -> Vec<Case> {
    cases![
        most_random_clusters_are_read_and_many_are_accepted,
        check_and_the_walk_say_what_clients_of_random_clusters_got,
        what_check_once_refused_without_need_is_accepted
    ]
}

/// Trials that lvsprov would set up otherwise today, each with the difference.
const KNOWN: &[(u64, &str)] = &[(
    1190,
    "the rule of source NAT of a mark had every port, and hid the clients of a NAT service too: `check` refused what was answered so",
)];

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn most_random_clusters_are_read_and_many_are_accepted() {
    const COUNT: u64 = 500;
    let (mut unread, mut accepted, mut rules) = (0, 0, BTreeMap::<&str, usize>::new());
    for seed in 1..=COUNT {
        let cluster = random_cluster(seed);
        assert_eq!(cluster.text, random_cluster(seed).text, "a seed repeats its cluster");
        let findings = match examine(&cluster.text) {
            Ok((_, errors)) => {
                accepted += u64::from(errors.is_empty());
                errors
            }
            Err(findings) => {
                unread += 1;
                findings
            }
        };
        for rule in findings.iter().map(|it| it.rule).collect::<BTreeSet<_>>() {
            *rules.entry(rule).or_default() += 1;
        }
        if std::env::var_os("LVSPROV_SHOW").is_some() {
            println!("{}", cluster.text);
            for finding in &findings {
                println!("{}: {}", finding.rule, finding.message);
            }
        }
    }
    println!("{accepted} of {COUNT} accepted, {unread} not read; refused by {rules:?}");
    assert!(unread * 10 < COUNT && accepted * 3 > COUNT, "{accepted} accepted, {unread} not read");
    assert!(rules.len() >= 10, "too few kinds of refusals: {rules:?}");
}

fn check_and_the_walk_say_what_clients_of_random_clusters_got() {
    let (mut tried, mut refused, mut wrong) = (0, 0, Vec::new());
    for path in files("tests/cases/walk/random") {
        for line in BufReader::new(GzDecoder::new(File::open(&path).unwrap())).lines() {
            let trial: RandomTrial = serde_json::from_str(&line.unwrap()).unwrap();
            tried += 1;
            refused +=
                usize::from(examine(&trial.text).is_ok_and(|(_, errors)| !errors.is_empty()));
            if !KNOWN.iter().any(|(seed, _)| *seed == trial.seed) {
                wrong.extend(trial.disagreements());
            }
        }
    }
    println!("{tried} random clusters, {refused} of them refused by check");
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried >= 300, "only {tried} on record");
}

/// Refusals that traffic showed to be wrong.
fn what_check_once_refused_without_need_is_accepted() {
    for path in files("tests/cases/accepted") {
        let text = std::fs::read_to_string(&path).unwrap();
        let examined = check::examine(&path.display().to_string(), &text);
        assert!(examined.findings.is_empty(), "{}: {:?}", path.display(), examined.findings);
    }
}
