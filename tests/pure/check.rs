//! The checker as a user meets it: whole files in, the text that is shown out.
//!
//! `tests/cases/check/NAME.yaml` is examined and its rendering compared with `NAME.txt`, byte for
//! byte. `LVSPROV_BLESS=1` writes the `.txt` files anew: look at the difference before committing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lvsprov::check;
use lvsprov::finding::{Severity, rules};
use lvsprov::report;

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        every_case_reads_as_written,
        every_case_finds_what_it_is_there_for_and_every_rule_has_a_case,
        every_playbook_is_without_a_finding,
        the_route_that_a_cure_names_is_the_cure,
        findings_are_data_too,
        colour_is_there_only_if_asked_for,
        nothing_in_a_file_reaches_the_terminal_as_a_command
    ]
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// As `check` prints it, without colours.
fn shown(name: &str, source: &str, examined: &check::Examined) -> String {
    report::findings::text(name, source, &examined.findings, &examined.silenced, false)
}

fn every_case_reads_as_written() {
    let bless = std::env::var_os("LVSPROV_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in files("tests/cases/check") {
        let source = fs::read_to_string(&path).unwrap();
        let examined = check::examine(&name(&path), &source);
        let shown = shown(&name(&path), &source, &examined);
        let golden = path.with_extension("txt");
        if bless {
            fs::write(&golden, &shown).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != shown {
            wrong.push(format!("--- {}\n{shown}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "these read differently now:\n{}", wrong.join("\n"));
}

/// The first comment of a case names the rules that it is there for.
fn every_case_finds_what_it_is_there_for_and_every_rule_has_a_case() {
    let (mut found, mut wrong) = (BTreeMap::<String, BTreeSet<Severity>>::new(), Vec::new());
    for path in files("tests/cases/check") {
        let source = fs::read_to_string(&path).unwrap();
        let promised: BTreeSet<&str> = source
            .lines()
            .find_map(|line| line.strip_prefix("# rules: "))
            .unwrap_or_else(|| {
                panic!("{} does not say which rules it is there for", path.display())
            })
            .split(' ')
            .collect();
        let examined = check::examine(&name(&path), &source);
        let rules: BTreeSet<&str> = examined.findings.iter().map(|f| f.rule).collect();
        let silenced = examined.silenced.iter().map(|it| it.finding.rule);
        let rules: BTreeSet<&str> = rules.into_iter().chain(silenced).collect();
        if rules != promised {
            let extra: Vec<_> = rules.difference(&promised).collect();
            let absent: Vec<_> = promised.difference(&rules).collect();
            wrong.push(format!("{}: not promised {extra:?}, not found {absent:?}", name(&path)));
        }
        let errors = examined.findings.iter().any(|f| f.severity == Severity::Error);
        assert_eq!(examined.topology.is_none(), errors, "{}", path.display());
        for finding in &examined.findings {
            found.entry(finding.rule.to_owned()).or_default().insert(finding.severity);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let known: BTreeSet<String> = rules::all().map(|rule| rule.name.to_owned()).collect();
    let uncoded: Vec<String> = rules_in_the_sources().difference(&known).cloned().collect();
    assert!(uncoded.is_empty(), "rules without a code in src/finding/rules.rs: {uncoded:?}");
    // The cases show each rule of the table with each of its severities, and no other.
    let listed = rules::all().map(|rule| {
        (rule.name.to_owned(), rule.severities.iter().copied().collect::<BTreeSet<_>>())
    });
    assert_eq!(found, listed.collect::<BTreeMap<_, _>>());
}

/// What stands first in a call that makes a finding.
fn rules_in_the_sources() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    let mut folders = vec![PathBuf::from("src/topology"), PathBuf::from("src/check")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            for call in
                ["Finding::error(", "Finding::warning(", "Finding::note(", "return no(", " no("]
            {
                for rest in source.split(call).skip(1) {
                    let Some(quoted) = rest.trim_start().strip_prefix('"') else { continue };
                    rules.insert(quoted.split('"').next().unwrap().to_owned());
                }
            }
        }
    }
    assert!(rules.len() > 40, "only {rules:?} found in the sources");
    rules
}

fn every_playbook_is_without_a_finding() {
    for path in files("playbooks") {
        let source = fs::read_to_string(&path).unwrap();
        let examined = check::examine(&name(&path), &source);
        let shown = shown(&name(&path), &source, &examined);
        // A note says what comes with a method; there is nothing to mend.
        assert!(examined.findings.iter().all(|f| f.severity == Severity::Note), "{shown}");
        let topology = examined.topology.expect("no finding, so there is a topology");
        assert_eq!(
            format!("{}.yaml", topology.name),
            name(&path),
            "a playbook is named as its file"
        );
        assert!(source.lines().count() <= 25, "{} is not short", path.display());
    }
}

/// A cluster with two routers. `HOST:` takes what the cure adds; in turn each lacks its route.
const TWO_ROUTERS: &str = r#"version: 1
name: two-routers
networks:
  clients: [198.51.100.0/24, "2001:db8:1::/64"]
  transit: [203.0.113.0/24, "2001:db8:2::/64"]
  farm: [192.0.2.0/24, "2001:db8:3::/64"]
hosts:
  client: {role: client, interfaces: {eth0: [198.51.100.9/24, "2001:db8:1::9/64"]}, gateway: edge}
  edge: {role: router, interfaces: {eth0: [198.51.100.1/24, "2001:db8:1::1/64"], eth1: [203.0.113.1/24, "2001:db8:2::1/64"]}}
  core: {role: router, interfaces: {eth0: [203.0.113.2/24, "2001:db8:2::2/64"], eth1: [192.0.2.1/24, "2001:db8:3::1/64"]}}
  lvs: {role: director, interfaces: {eth0: [192.0.2.2/24, "2001:db8:3::2/64"]}}
  web1: {role: real_server, interfaces: {eth0: [192.0.2.3/24, "2001:db8:3::3/64"]}}
services:
  - {vip: VIP, port: 80, forward: FORWARD, real_servers: [web1]}
"#;

/// `add `routes: [{...}]` to HOST` and `add `{...}` to the `routes:` of HOST`: the routes, and the host.
fn named_route(cure: &str) -> Option<(String, String)> {
    let (_, rest) = cure.split_once("add `")?;
    let (entry, rest) = rest.split_once("` to ")?;
    let rest = rest.strip_prefix("the `routes:` of ").unwrap_or(rest);
    let entry = entry.strip_prefix("routes: [").map_or(entry, |it| it.trim_end_matches(']'));
    let host = rest.split([' ', ',']).next()?;
    Some((entry.to_owned(), host.to_owned()))
}

fn the_route_that_a_cure_names_is_the_cure() {
    for vip in ["192.0.2.80", "100.64.0.80", "\"2001:db8:3::80\""] {
        for forward in ["dr", "tun"] {
            let text = TWO_ROUTERS.replace("VIP", vip).replace("FORWARD", forward);
            let mut routes: Vec<(String, String)> = Vec::new();
            for turn in 0.. {
                let mut text = text.clone();
                for (entry, host) in routes.iter().rev() {
                    let start = format!("  {host}: {{");
                    assert_eq!(text.matches(&start).count(), 1, "{host}");
                    let known = format!("{start}routes: [");
                    text = if text.contains(&known) {
                        text.replace(&known, &format!("{known}{entry}, "))
                    } else {
                        text.replace(&start, &format!("{known}{entry}], "))
                    };
                }
                let findings = check::examine("x.yaml", &text).findings;
                let shown = report::findings::text("x.yaml", &text, &findings, &[], false);
                let Some(first) = findings.iter().find(|it| it.severity == Severity::Error) else {
                    break;
                };
                let named = named_route(&first.cure).unwrap_or_else(|| panic!("{shown}"));
                assert!(!routes.contains(&named), "named twice: {named:?}\n{shown}");
                routes.push(named);
                assert!(turn < 8, "{routes:?}\n{shown}");
            }
            assert!((3..=6).contains(&routes.len()), "{vip} {forward}: {routes:?}");
        }
    }
}

fn findings_are_data_too() {
    let source = "version: 1\nname: x\nhost: {}\n";
    let examined = check::examine("x.yaml", source);
    let json = report::findings::json("x.yaml", &examined.findings, &examined.silenced);
    assert_eq!(json["file"], "x.yaml");
    assert_eq!(json["errors"], examined.findings.len());
    assert_eq!(json["warnings"], 0);
    assert_eq!(json["notes"], 0);
    let unknown = json["findings"].as_array().unwrap().iter().find(|f| f["rule"] == "unknown-key");
    let unknown = unknown.unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!(unknown["severity"], "error");
    assert_eq!(unknown["code"], "LVS089");
    assert_eq!(unknown.get("denied"), None);
    assert_eq!(unknown["at"], serde_json::json!({"line": 3, "column": 1, "length": 4}));
    assert_eq!(unknown["cure"], "did you mean `hosts`?");
}

fn colour_is_there_only_if_asked_for() {
    let source = "version: 2\n";
    let examined = check::examine("x.yaml", source);
    let coloured = report::findings::text("x.yaml", source, &examined.findings, &[], true);
    assert!(coloured.contains('\u{1b}'));
    assert!(!shown("x.yaml", source, &examined).contains('\u{1b}'));
}

fn nothing_in_a_file_reaches_the_terminal_as_a_command() {
    let sources = [
        "version: 1\nname: \"\\x1b[31m\"\n",
        "\u{9b}31m: \u{1b}]0;x\u{7}\n",
        "version: 1\n\"\\e[2J\": 1\nhosts: {\"a\\nb\": {}}\n",
        "a: *\u{1b}[31m\n",
        "a: !\u{1b}[31m b\n",
        "version: 1\nname: \"a\u{202e}b\"\n",
        "version: 1 # lvsprov: \u{9b}31m\n",
        "version: 1 # lvsprov: allow \u{9b}31m\u{202e} x\n",
    ];
    for source in sources {
        let examined = check::examine("x\u{1b}.yaml", source);
        assert!(!examined.findings.is_empty(), "{source:?}");
        let shown = shown("x\u{1b}.yaml", source, &examined);
        let bad = shown.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(bad, None, "{shown:?}");
    }
}
