//! Tables of the documents against what they describe: the glossary, the keys of the file, exit codes,
//! JSON schemas, playbooks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::examples::lvsprov;
use super::{pages, prose, quoted, read, root};

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        the_glossary_has_one_definition_and_a_source_for_each_term,
        every_term_of_the_glossary_is_used,
        the_page_of_the_file_has_every_key_and_word,
        exit_codes_are_those_of_the_help_text,
        every_kind_of_json_document_is_listed,
        every_module_is_in_the_map,
        every_playbook_is_listed
    ]
}

/// The cells of the rows of a page's tables, without their heads.
fn rows(page: &str) -> Vec<Vec<String>> {
    let text = prose(page);
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &str| line.starts_with('|');
    let rows = lines.windows(2).filter(|pair| is_row(pair[1]) && is_row(pair[0]));
    let rows = rows
        .map(|pair| pair[1])
        .filter(|line| !line.starts_with("| ---") && !line.starts_with("|---"));
    rows.map(|line| {
        let cells = line.trim().trim_start_matches('|').trim_end_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

/// Where a term of the glossary may come from: a file of the kernel, an RFC, a man page, another tool or text.
const SOURCES: &[&str] = &[
    "net/",
    "Documentation/",
    "include/",
    "RFC ",
    "(8)",
    "(5)",
    "(7)",
    "Terraform",
    "Junos",
    "Kubernetes",
    "systemd",
    "nmstate",
    "X/Open XA",
    "LVS-HOWTO",
    "DPVS",
    "HAProxy",
    "Ansible",
    "PostgreSQL",
    "SQLite",
    "nix-installer",
    "netlab",
    "Batfish",
    "GitLab CI",
    "Consensus on Transaction Commit",
];

fn the_glossary_has_one_definition_and_a_source_for_each_term() {
    let page = read("docs/glossary.md");
    let rows = rows(&page);
    assert!((30..=50).contains(&rows.len()), "{} terms", rows.len());
    let terms: Vec<String> = rows.iter().map(|row| row[0].to_lowercase()).collect();
    assert!(
        terms.is_sorted() && terms.iter().collect::<BTreeSet<_>>().len() == terms.len(),
        "{terms:?}"
    );
    let mut wrong = Vec::new();
    for row in &rows {
        let [term, definition, source] = row.as_slice() else { panic!("{row:?}") };
        let sentences = definition.matches(". ").count() + 1;
        if !definition.ends_with('.') || sentences != 1 || definition.len() > 140 {
            wrong.push(format!("{term}: one sentence, please: {definition}"));
        }
        if !SOURCES.iter().any(|known| source.contains(known)) {
            wrong.push(format!("{term}: from where? {source:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn every_term_of_the_glossary_is_used() {
    let others = pages().into_iter().filter(|(name, _)| name != "docs/glossary.md");
    let text: String = others.map(|(_, page)| page.to_lowercase()).collect();
    let rows = rows(&read("docs/glossary.md"));
    let unused: Vec<&str> = rows
        .iter()
        .map(|row| row[0].as_str())
        .filter(|term| !text.contains(&term.to_lowercase()))
        .collect();
    assert!(unused.is_empty(), "no page uses {unused:?}");
}

/// A file with an unknown key at one place, and what holds the keys there. The message lists all of them.
const PLACES: &[(&str, &str)] = &[
    ("{zzzzzzzz: 1}", "the file"),
    ("{networks: {n: {zzzzzzzz: 1}}}", "a network"),
    ("{defaults: {zzzzzzzz: 1}}", "defaults"),
    ("{ipvs: {zzzzzzzz: 1}}", "ipvs"),
    ("{ipvs: {timeouts: {zzzzzzzz: 1}}}", "timeouts"),
    ("{ipvs: {sync: {zzzzzzzz: {interface: eth0}}}}", "sync"),
    ("{ipvs: {sync: {master: {zzzzzzzz: 1}}}}", "a sync daemon"),
    ("{hosts: {h: {zzzzzzzz: 1}}}", "a host"),
    ("{hosts: {h: {ssh: {zzzzzzzz: 1}}}}", "ssh"),
    ("{hosts: {h: {interfaces: {eth0: {zzzzzzzz: 1}}}}}", "an interface"),
    ("{services: [{zzzzzzzz: 1}]}", "a service"),
    ("{services: [{persistence: {zzzzzzzz: 1}}]}", "persistence"),
    ("{services: [{tunnel: {zzzzzzzz: 1}}]}", "a tunnel"),
    ("{services: [{real_servers: [{zzzzzzzz: 1}]}]}", "a real server"),
    ("{services: [{sorry_server: {zzzzzzzz: 1}}]}", "a sorry server"),
    ("{services: [{check: {zzzzzzzz: 1}}]}", "a check"),
    ("{promise: {zzzzzzzz: 1}}", "promise"),
    // Words of closed sets.
    ("{promise: {connections: zzzzzzzz}}", "promised connections"),
    ("{hosts: {h: {role: zzzzzzzz}}}", "roles"),
    ("{services: [{scheduler: zzzzzzzz}]}", "schedulers"),
    ("{services: [{scheduler_flags: zzzzzzzz}]}", "scheduler flags"),
    ("{services: [{forward: zzzzzzzz}]}", "forwarding methods"),
    ("{services: [{protocol: zzzzzzzz}]}", "protocols"),
    ("{services: [{tunnel: {type: gue, checksum: zzzzzzzz}}]}", "checksums"),
    ("{services: [{marked_by: zzzzzzzz}]}", "markers"),
    ("{services: [{family: zzzzzzzz}]}", "families"),
    ("{services: [{check: zzzzzzzz}]}", "checks"),
    ("{services: [{check: {type: tcp, via: zzzzzzzz}}]}", "ways of a check"),
    ("{services: [{check: {type: dns, record: zzzzzzzz}}]}", "records of DNS"),
];

fn the_page_of_the_file_has_every_key_and_word() {
    let page = read("docs/file.md");
    let known: BTreeSet<String> = rows(&page)
        .iter()
        .flat_map(|row| row.iter())
        .flat_map(|cell| quoted(cell))
        .map(str::to_owned)
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let mut missing = Vec::new();
    for (text, place) in PLACES {
        fs::write(folder.path().join("x.yaml"), text).unwrap();
        let (_, found) = lvsprov(folder.path(), &["check", "x.yaml", "--format", "json"]);
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let findings = found["findings"].as_array().unwrap();
        let of_it = |finding: &&serde_json::Value| {
            finding["message"].as_str().unwrap().contains("zzzzzzzz")
        };
        let cures: Vec<&str> =
            findings.iter().filter(of_it).filter_map(|finding| finding["cure"].as_str()).collect();
        let words = cures.iter().find_map(|cure| cure.strip_prefix("one of: "));
        let words = words.unwrap_or_else(|| panic!("{place}: no list of keys in {cures:?}"));
        missing.extend(
            words
                .split(", ")
                .filter(|word| !known.contains(*word))
                .map(|word| format!("{place}: `{word}`")),
        );
    }
    assert!(missing.is_empty(), "docs/file.md has no row for\n{}", missing.join("\n"));
}

fn exit_codes_are_those_of_the_help_text() {
    let (_, help) = lvsprov(&root(), &["--help"]);
    let codes = help.split("Exit codes:").nth(1).unwrap().lines();
    let codes = codes.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let of_help: BTreeSet<String> = codes
        .flat_map(|line| line.trim().split("  ").next().unwrap_or_default().split(", "))
        .map(str::to_owned)
        .collect();
    let page = read("docs/exit-codes-and-json.md");
    let is_code = |cell: &String| cell.bytes().all(|b| b.is_ascii_digit());
    let of_page: BTreeSet<String> =
        rows(&page).into_iter().filter_map(|row| row.into_iter().next()).filter(is_code).collect();
    assert_eq!(of_page, of_help);
}

fn every_kind_of_json_document_is_listed() {
    let mut sources = String::new();
    super::gather(&root().join("src"), &mut sources);
    let plain: String = sources.split_whitespace().collect();
    let calls = plain.split("with_schema(\"").skip(1);
    let mut made: BTreeSet<String> =
        calls.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect();
    // Chosen in a match: see src/report/cluster.rs.
    made.extend(["plan".to_owned(), "result".to_owned()]);
    // A saved plan is a file and no answer.
    let page = read("docs/exit-codes-and-json.md");
    let names = |cell: &str| Some(cell.strip_prefix("`lvsprov/")?.strip_suffix("/1`")?.to_owned());
    let listed: BTreeSet<String> =
        rows(&page).iter().filter_map(|row| names(row.first()?)).collect();
    assert!(made.is_subset(&listed), "made {made:?}, listed {listed:?}");
}

fn every_module_is_in_the_map() {
    let library = read("src/lib.rs");
    let modules: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let page = read("docs/how-it-works.md");
    let rows = rows(&page);
    let listed: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(listed, modules);
}

fn every_playbook_is_listed() {
    let page = read("docs/lab.md");
    let listed: BTreeMap<String, usize> = rows(&page)
        .iter()
        .flat_map(|row| quoted(&row[0]).map(str::to_owned).collect::<Vec<_>>())
        .map(|name| (name, 1))
        .collect();
    for entry in fs::read_dir(root().join("playbooks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(listed.contains_key(&name), "docs/lab.md does not list {name}");
    }
}
