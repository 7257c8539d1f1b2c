//! What exists becomes a topology: each source under tests/cases/import with the file that comes of
//! it, which must pass the checker, and lead to the rules that the source had.
//!
//! `LVSPROV_BLESS=1 cargo test --test pure import` writes them anew; read the difference before you commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lvsprov::check;
use lvsprov::desired::desired_for;
use lvsprov::finding::Severity;
use lvsprov::import::{self, Dialect, IpvsRules, WrittenTopology, guess};
use lvsprov::render;
use lvsprov::state::{HostState, ServiceFlags, ServiceKey, VirtualService};
use lvsprov::topology::Role;

use crate::support::any_tables;
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = cases![
        each_source_becomes_the_file_that_was_read_and_found_right,
        the_topology_leads_to_the_rules_that_were_there,
        any_table_is_written_for_ipvsadm_and_read_again,
        any_table_becomes_a_topology_that_can_be_read
    ];
    // It needs LVSPROV_SAMPLES, a folder with sources.
    all.extend(cases![samples_are_taken_over].into_iter().map(Case::ignored));
    all
}

fn sources() -> Vec<PathBuf> {
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
fn imported(text: &str, source: &str) -> (IpvsRules, WrittenTopology) {
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

fn each_source_becomes_the_file_that_was_read_and_found_right() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        let (_, written) = imported(&text, &name);
        crate::support::playbooks::golden(&path.with_extension("yaml"), &written.topology);
        assert_eq!(errors(&written.topology), Vec::<String>::new(), "{name}");
        assert!(!written.topology.contains("hunter2"), "{name}: a password came along");
    }
}

fn the_topology_leads_to_the_rules_that_were_there() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let (rules, written) = imported(&text, &path.display().to_string());
        let compared = compare(&rules.services, &written, &path.display().to_string());
        assert!(compared > 0, "{}: nothing was compared", path.display());
    }
}

/// The topology leads to `services`, but for what was named. Says how many services that were.
fn compare(
    services: &BTreeMap<ServiceKey, VirtualService>,
    written: &WrittenTopology,
    source: &str,
) -> usize {
    let mut table = table(&written.topology);
    // Services by mark that checks go through, which lvsprov makes besides (`via: vip`).
    table.retain(|key, _| match key {
        ServiceKey::Fwmark { mark, .. } => mark >> 16 != 0x4c56,
        ServiceKey::Address(..) => true,
    });
    let named = |text: &str| written.remarks.iter().any(|r| r.what.contains(text));
    let mut compared = 0;
    for (key, service) in services {
        let Some(found) = table.get(key) else {
            assert!(named(&key.to_string()), "{source}: {key} is lost silently");
            continue;
        };
        let (mut found, mut expected) = (found.clone(), service.clone());
        let told = |at: &_| named(&format!("{at} of {key}"));
        let ports_told = expected.destinations.keys().any(told);
        expected.destinations.retain(|at, _| !told(at));
        if ports_told {
            // Where a port that has no effect was left out, the key is another.
            found.destinations.retain(|at, _| expected.destinations.contains_key(at));
        }
        if named(&format!("scheduler {} of {key}", service.scheduler)) {
            expected.scheduler.clone_from(&found.scheduler);
        }
        if let Some(engine) = &service.engine
            && named(&format!("persistence engine {engine:?} of {key}"))
        {
            expected.engine = None;
        }
        if named("persistence mask") && !service.flags.has(ServiceFlags::PERSISTENT) {
            expected.netmask = found.netmask;
        }
        assert_eq!(found, expected, "{source}: {key}");
        compared += 1;
    }
    assert_eq!(table.len(), compared, "{source}: services from nowhere");
    compared
}

fn any_table_is_written_for_ipvsadm_and_read_again() {
    let (mut runner, seed) = any_tables::runner(256);
    let strategy = any_tables::tables();
    let mut services = 0;
    for _ in 0..256 {
        let table = any_tables::one(&mut runner, &strategy);
        let state = HostState { services: table.clone(), ..HostState::default() };
        let rendered = render::ipvsadm::rules(&state);
        let rules = import::ipvsadm::read(&rendered.text);
        assert_eq!(rules.remarks, [], "{seed}: {}", rendered.text);
        if rendered.unsupported.is_empty() {
            assert_eq!(rules.services, table, "{seed}: {}", rendered.text);
            services += table.len();
        }
    }
    assert!(services > 100, "only {services} services were compared");
}

fn any_table_becomes_a_topology_that_can_be_read() {
    let (mut runner, seed) = any_tables::runner(256);
    let strategy = any_tables::tables();
    let mut compared = 0;
    for _ in 0..256 {
        let table = any_tables::one(&mut runner, &strategy);
        let rules = IpvsRules { services: table, ..IpvsRules::default() };
        let name = "imported".parse().unwrap();
        let (draft, remarks) = guess::draft(&rules, None, name).unwrap();
        let written = import::write(&draft, remarks, "a table");
        let read = lvsprov::topology::read("imported.yaml", &written.topology);
        let errors = read.findings.iter().filter(|f| f.severity == Severity::Error);
        let errors: Vec<_> = errors.map(|f| &f.message).collect();
        assert!(errors.is_empty(), "{seed}: {errors:#?}\n{}", written.topology);
        // What the checker says of it is the table's own trouble.
        if self::errors(&written.topology).is_empty() {
            compared += compare(&rules.services, &written, &seed);
        }
    }
    assert!(compared > 100, "only {compared} services were compared");
}

/// Any folder with sources: keepalived's doc/samples, rules of one's own. Prints what came of each.
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
