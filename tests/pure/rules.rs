//! The table of rules: codes that never change, a page for each, a row in docs/checks.md, symptoms that lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lvsprov::apply::saved_plan::{SavedContent, SavedPlan};
use lvsprov::check;
use lvsprov::finding::rules::{self, Rule};
use lvsprov::finding::{DeniedFindings, Severity};
use lvsprov::report;

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        codes_and_names_are_unique_and_well_formed,
        a_code_keeps_its_rule,
        every_rule_has_a_page,
        every_rule_has_a_trial_on_a_kernel_or_a_reason,
        the_table_of_checks_is_the_table_of_rules,
        every_symptom_leads_to_rules_and_commands,
        a_mistyped_rule_is_answered_with_the_nearest,
        denied_findings_are_errors_and_silenced_ones_are_not_denied,
        a_saved_plan_is_refused_for_what_the_command_line_denies
    ]
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn codes_and_names_are_unique_and_well_formed() {
    let codes: BTreeSet<&str> = rules::all().map(|rule| rule.code).collect();
    let names: BTreeSet<&str> = rules::all().map(|rule| rule.name).collect();
    let count = rules::all().count();
    assert!(count > 100, "only {count} rules");
    assert_eq!((codes.len(), names.len()), (count, count));
    for rule in rules::all() {
        let digits = rule.code.strip_prefix("LVS").unwrap();
        assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()), "{rule}");
        assert!(rule.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{rule}");
        assert!(rule.severities.is_sorted() && !rule.severities.is_empty(), "{rule}");
        assert_eq!(rules::find(&rule.code.to_lowercase()), Some(rule));
        assert_eq!(rules::find(rule.name), Some(rule));
    }
}

/// `tests/cases/codes.txt` has every code that was ever given. `LVSPROV_BLESS=1` adds new ones and changes none.
fn a_code_keeps_its_rule() {
    let path = "tests/cases/codes.txt";
    let pinned = fs::read_to_string(root().join(path)).unwrap_or_default();
    let now: BTreeMap<&str, String> =
        rules::all().map(|rule| (rule.code, rule.to_string())).collect();
    for line in pinned.lines() {
        let code = line.split(' ').next().unwrap();
        let rule = now.get(code).map(String::as_str);
        assert_eq!(rule, Some(line), "{code} is another rule now, or none");
    }
    let pinned: BTreeSet<&str> = pinned.lines().collect();
    if std::env::var_os("LVSPROV_BLESS").is_some() {
        let all: Vec<&str> = now.values().map(String::as_str).collect();
        fs::write(root().join(path), all.join("\n") + "\n").unwrap();
    } else {
        let new: Vec<_> = now.values().filter(|line| !pinned.contains(line.as_str())).collect();
        assert!(new.is_empty(), "{path} lacks {new:?}: LVSPROV_BLESS=1 adds them");
    }
}

/// `tests/cases/trials.txt` says of each rule which test breaks it on a kernel.
fn every_rule_has_a_trial_on_a_kernel_or_a_reason() {
    let text = read("tests/cases/trials.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows: Vec<(&str, &str)> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    let mut expected: Vec<String> = rules::all().map(ToString::to_string).collect();
    expected.sort();
    let named: Vec<&str> = rows.iter().map(|(rule, _)| *rule).collect();
    assert_eq!(named, expected, "one row for each rule, by code");
    for (rule, trials) in &rows {
        if *trials == "file" {
            continue;
        }
        for trial in trials.split("; ") {
            let [program, module, function] = trial.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{rule}: {trial} is no program, module and function");
            };
            let folder = root().join("tests").join(program);
            let sources = rust_files(&folder.join(module));
            let sources = sources.into_iter().chain([folder.join(format!("{module}.rs"))]);
            let needle = format!("fn {function}(");
            let is_there =
                |path: PathBuf| fs::read_to_string(path).is_ok_and(|it| it.contains(&needle));
            assert!(sources.into_iter().any(is_there), "{rule}: there is no test {trial}");
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|it| it == "rs")).collect()
}

/// What a page names as the source of what it says.
const SOURCES: &[&str] = &[
    "net/",
    "include/",
    "drivers/",
    "Documentation/",
    "RFC ",
    "(1)",
    "(3)",
    "(5)",
    "(7)",
    "(8)",
    "YAML 1.2",
    "src/",
    "docs/",
    "tests/",
];

fn every_rule_has_a_page() {
    let pages = read("docs/diagnostics.md");
    let headings: Vec<&str> = pages.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let expected: Vec<String> = rules::all().map(ToString::to_string).collect();
    assert_eq!(headings, expected, "one page for each rule, in the order of the table");
    let groups: Vec<&str> = pages.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let expected: Vec<&str> = rules::GROUPS.iter().map(|group| group.title).collect();
    assert_eq!(groups, expected);
    let mut wrong = Vec::new();
    for rule in rules::all() {
        let page = report::rules::page(rule).unwrap();
        let parts: Vec<usize> = ["**Symptom:** ", "**Why:** ", "**Do:** "]
            .iter()
            .filter_map(|part| page.find(part))
            .collect();
        if parts.len() != 3 || !parts.is_sorted() || parts[0] != 0 {
            wrong.push(format!("{rule}: symptom, why and do, in this order"));
        }
        if !SOURCES.iter().any(|source| page.contains(source)) {
            wrong.push(format!("{rule}: no source"));
        }
        let text = report::rules::page_text(rule);
        if text.contains("**") || text.contains("](") {
            wrong.push(format!("{rule}: marks in the text\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn row(rule: &Rule) -> String {
    let severities = rule.severities.iter().map(|severity| match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "info",
    });
    let severities: Vec<&str> = severities.collect();
    let anchor = rule.to_string().to_lowercase().replace(' ', "-");
    format!(
        "| [{}](diagnostics.md#{anchor}) | `{}` | {} | {} |",
        rule.code,
        rule.name,
        severities.join(", "),
        rule.title
    )
}

/// `LVSPROV_BLESS=1` writes the rows anew.
fn the_table_of_checks_is_the_table_of_rules() {
    const HEAD: &str = "| code | rule | | it finds |\n| --- | --- | --- | --- |";
    let page = read("docs/checks.md");
    let mut expected = String::new();
    for group in rules::GROUPS {
        let rows: Vec<String> = group.rules.iter().map(row).collect();
        let rows = rows.join("\n");
        writeln!(expected, "## {}\n\n{HEAD}\n{rows}\n", group.title).unwrap();
    }
    let begin = page.find(&format!("## {}\n", rules::GROUPS[0].title)).unwrap();
    let end = page.find("Each rule has a case under").unwrap();
    if std::env::var_os("LVSPROV_BLESS").is_some() {
        let page = format!("{}{expected}{}", &page[..begin], &page[end..]);
        fs::write(root().join("docs/checks.md"), page).unwrap();
    } else {
        assert_eq!(
            &page[begin..end],
            expected,
            "LVSPROV_BLESS=1 writes the rows of docs/checks.md"
        );
    }
}

/// What an operator sees, as docs/symptoms.md has it.
const SYMPTOMS: &[&str] = &[
    "The client times out",
    "It works from one client only",
    "One real server takes all",
    "It hangs after the first kilobytes",
    "It works until the first failover or reboot",
    "Connection refused",
    "Only the first request works",
];

fn every_symptom_leads_to_rules_and_commands() {
    let page = read("docs/symptoms.md");
    let sections: BTreeMap<&str, &str> =
        page.split("\n## ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    let missing: Vec<_> =
        SYMPTOMS.iter().filter(|symptom| !sections.contains_key(**symptom)).collect();
    assert!(missing.is_empty(), "docs/symptoms.md lacks {missing:?}");
    for symptom in SYMPTOMS {
        let section = sections[symptom];
        let codes: Vec<&str> = section
            .match_indices("[LVS")
            .filter_map(|(at, _)| section[at + 1..].split(']').next())
            .collect();
        assert!(
            !codes.is_empty() && codes.iter().all(|code| rules::find(code).is_some()),
            "{symptom}: {codes:?}"
        );
        assert!(section.contains("`lvsprov "), "{symptom}: no command");
        for code in codes {
            let rule = rules::find(code).unwrap();
            let anchor = rule.to_string().to_lowercase().replace(' ', "-");
            assert!(
                section.contains(&format!("[{code}](diagnostics.md#{anchor})")),
                "{symptom}: {code}"
            );
        }
    }
}

fn a_mistyped_rule_is_answered_with_the_nearest() {
    let codes = |word: &str| -> Vec<&str> {
        rules::nearest(word).into_iter().map(|rule| rule.code).collect()
    };
    assert_eq!(codes("LVS14"), ["LVS014", "LVS124", "LVS104"]);
    assert_eq!(codes("no-anwser"), ["LVS001"]);
    assert_eq!(codes("no_answer"), ["LVS001"]);
    assert!(codes("LVS").is_empty() && codes("xyzzy").is_empty());
    assert!(codes(&"x".repeat(1_000_000)).is_empty());
    let error = "no-anwser".parse::<&Rule>().unwrap_err().to_string();
    assert_eq!(error, "there is no rule \"no-anwser\"; did you mean LVS001 no-answer?");
    for word in ["LVS014", "lvs14", "LVS000001"] {
        assert!(rules::looks_like_code(word), "{word}");
    }
    for word in ["LVS", "LVS01a", "LV014", "\u{e9}LVS1", "lvs", ""] {
        assert!(!rules::looks_like_code(word), "{word}");
    }
}

fn denied_findings_are_errors_and_silenced_ones_are_not_denied() {
    let text = read("tests/cases/check/allow.yaml");
    let plain = check::examine("x", &text);
    assert!(plain.topology.is_some() && !plain.silenced.is_empty());
    let warnings = plain.findings.iter().filter(|f| f.severity == Severity::Warning).count();
    assert!(warnings > 0);
    let denied = check::examine("x", &text).denying(&[DeniedFindings::Warnings]);
    assert!(denied.topology.is_none());
    assert_eq!(denied.silenced, plain.silenced);
    let is_denied = |f: &&lvsprov::finding::Finding| f.denied && f.severity == Severity::Error;
    assert_eq!(denied.findings.iter().filter(is_denied).count(), warnings);
    // Of one rule only; and one that the file has only silenced findings of.
    let of = |word: &str| check::examine("x", &text).denying(&[word.parse().unwrap()]);
    assert!(of("LVS034").topology.is_none());
    assert!(of("one-destination").topology.is_some());
    assert!(of("LVS001").topology.is_some());
    let json = report::findings::json("x", &plain.findings, &plain.silenced);
    assert_eq!(json["silenced"], plain.silenced.len());
    let first = &json["silenced_findings"][0];
    assert_eq!(first["rule"], "one-destination");
    assert_eq!(first["code"], "LVS032");
    assert_eq!(first["severity"], "warning");
    assert!(first["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{first}");
}

/// The topology in a saved plan is checked again. Its hosts cannot be reached, which is another exit code.
fn a_saved_plan_is_refused_for_what_the_command_line_denies() {
    let content = SavedContent {
        file: "allow.yaml".to_owned(),
        topology: read("tests/cases/check/allow.yaml"),
        adopt: false,
        limit: BTreeSet::new(),
        drain: None,
        ramp: None,
        hosts: BTreeMap::new(),
    };
    let plan = SavedPlan::of(content, "a test".to_owned(), 0);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan"), serde_json::to_vec(&plan).unwrap()).unwrap();
    let code = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
            .args(["apply", "plan"])
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (exit, text) = code(&[]);
    assert!(exit == Some(1) && text.contains("says of no host how it is reached"), "{text}");
    let (exit, text) = code(&["--deny", "LVS034"]);
    assert!(exit == Some(3) && text.contains("error[LVS034 hash-without-fallback]"), "{text}");
    assert_eq!(code(&["--deny", "LVS032"]).0, Some(1));
}
