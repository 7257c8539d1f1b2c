//! What exists becomes a topology: each source under tests/cases/import with the file that comes of
//! it, which must pass the checker, and lead to the rules that the source had.
//!
//! `LVSPROV_BLESS=1 cargo test --test import` writes them anew; read the difference before you commit.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lvsprov::check::{self, Severity};
use lvsprov::desired::desired_for;
use lvsprov::import::{self, Dialect, Rules, Written, guess};
use lvsprov::state::{ServiceKey, VirtualService};
use lvsprov::topology::Role;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import");
    let mut all = Vec::new();
    for folder in [folder.clone(), folder.join("keepalived")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if matches!(ending, Some("rules" | "conf")) {
                all.push(path);
            }
        }
    }
    all.sort();
    assert!(all.len() >= 8, "cases are missing: {all:?}");
    all
}

/// As the command does it.
fn imported(text: &str, source: &str) -> (Rules, Written) {
    let dialect = Dialect::guess(text).unwrap_or_else(|| panic!("{source}: of no dialect"));
    let rules = dialect.read(text);
    let (draft, more) = guess::draft(&rules, None, "imported".parse().unwrap()).unwrap();
    let remarks = [rules.remarks.clone(), more].concat();
    let written = import::write(&draft, remarks, source);
    (rules, written)
}

fn errors(topology: &str) -> Vec<String> {
    let findings = check::examine("imported.yaml", topology).findings;
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|f| format!("{}:{}: {}", f.at.line, f.rule, f.message)).collect()
}

/// The table that the topology leads to.
fn table(topology: &str) -> BTreeMap<ServiceKey, VirtualService> {
    let topology = check::examine("imported.yaml", topology).topology.unwrap();
    let director = topology.with_role(Role::Director).next().unwrap();
    desired_for(&topology, director).state.services
}

#[test]
fn each_source_becomes_the_file_that_was_read_and_found_right() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        let (_, written) = imported(&text, &name);
        support::golden(&path.with_extension("yaml"), &written.topology);
        assert_eq!(errors(&written.topology), Vec::<String>::new(), "{name}");
        assert!(!written.topology.contains("hunter2"), "{name}: a password came along");
    }
}

#[test]
fn the_topology_leads_to_the_rules_that_were_there() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (rules, written) = imported(&text, &path.display().to_string());
        let table = table(&written.topology);
        let mut compared = 0;
        for (key, service) in &rules.services {
            // What cannot be expressed was named: as a whole, or a part of it.
            let named = |text: &str| written.remarks.iter().any(|r| r.what.contains(text));
            let Some(found) = table.get(key) else {
                assert!(named(&key.to_string()), "{}: {key} is lost silently", path.display());
                continue;
            };
            let mut expected = service.clone();
            expected.destinations.retain(|at, _| !named(&format!("{at} of {key}")));
            if named(&format!("scheduler {} of {key}", service.scheduler)) {
                expected.scheduler.clone_from(&found.scheduler);
            }
            assert_eq!(*found, expected, "{}: {key}", path.display());
            compared += 1;
        }
        assert_eq!(table.len(), compared, "{}: services from nowhere", path.display());
        assert!(compared > 0, "{}: nothing was compared", path.display());
    }
}

/// Any folder with sources: keepalived's doc/samples, rules of one's own. Prints what came of each.
#[test]
#[ignore = "needs LVSPROV_SAMPLES, a folder with sources"]
fn samples_are_taken_over() {
    let folder = std::env::var_os("LVSPROV_SAMPLES").expect("LVSPROV_SAMPLES names a folder");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut broken = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let Some(dialect) = Dialect::guess(&text) else {
            println!("{}: of no dialect", path.display());
            continue;
        };
        let rules = dialect.read(&text);
        let servers: usize = rules.services.values().map(|s| s.destinations.len()).sum();
        println!(
            "{}: {} services, {servers} real servers, {} remarks",
            path.display(),
            rules.services.len(),
            rules.remarks.len()
        );
        if rules.services.is_empty() {
            continue;
        }
        let (_, written) = imported(&text, &path.display().to_string());
        broken.extend(errors(&written.topology).into_iter().map(|e| (path.clone(), e)));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
