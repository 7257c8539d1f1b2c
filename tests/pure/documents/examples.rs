//! The code blocks of the documents, by the first word of their info string:
//!
//! | block | is |
//! | --- | --- |
//! | `yaml` | a whole topology in which `check` finds nothing; `file=NAME` makes it a file for the page's commands |
//! | `yaml wrong` | a topology in which `check` finds an error; `yaml part`: a few keys, not checked |
//! | `console` | `$ lvsprov ...` commands with their output: standard output, standard error, and the exit code where it is not 0 |
//! | `console golden=FILE` | one command that needs hosts; its output is compared with a golden file |
//! | `console no-run` | commands that need hosts; counted in [`NO_RUN`] |
//! | `json`, `text` | a JSON document; a picture; `text output`: lines that the program prints |
//!
//! A line `...` stands for any lines. Blanks and line ends do not count, so long lines may be wrapped.
//! `LVSPROV_BLESS=1 cargo test --test pure documents` rewrites the output of commands.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{pages, read, root};

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        every_topology_in_the_documents_is_checked,
        every_command_in_the_documents_prints_what_they_say,
        an_elision_stands_for_any_lines,
        code_blocks_have_a_known_kind
    ]
}

/// How many console blocks of each page need hosts and so are not run. Keep them few: a block that no test
/// runs goes stale.
const NO_RUN: &[(&str, usize)] = &[
    ("CONTRIBUTING.md", 1),
    ("README.md", 2),
    ("docs/changing.md", 6),
    ("docs/development.md", 2),
    ("docs/getting-started.md", 5),
    ("docs/import.md", 1),
    ("docs/lab.md", 2),
    ("docs/maintenance.md", 2),
    ("docs/ownership.md", 1),
    ("docs/reboot.md", 2),
    ("docs/reports.md", 4),
    ("docs/troubleshooting.md", 1),
];

/// A code block: its info string, the index of its first line, and its lines.
pub struct Block<'a> {
    pub info: &'a str,
    pub first: usize,
    pub lines: Vec<&'a str>,
}

pub fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut all = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (at, line) in text.lines().enumerate() {
        match (open.take(), line.strip_prefix("```")) {
            (None, Some(info)) => open = Some(Block { info, first: at + 1, lines: Vec::new() }),
            (Some(block), Some(_)) => all.push(block),
            (Some(mut block), None) => {
                block.lines.push(line);
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a code block has no end");
    all
}

/// The value of `key=` in an info string.
fn option<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

pub fn lvsprov(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "100")
        .env_remove("LVSPROV_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

/// A folder in which the commands of a page run: what the repository has, and the page's own files.
fn workplace(page: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["playbooks", "tests"] {
        std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    for block in blocks(page).iter().filter(|block| block.info.starts_with("yaml")) {
        if let Some(name) = option(block.info, "file") {
            fs::write(folder.path().join(name), block.lines.join("\n") + "\n").unwrap();
        }
    }
    folder
}

fn every_topology_in_the_documents_is_checked() {
    let mut count = 0;
    for (name, page) in pages() {
        for block in blocks(&page).iter().filter(|block| block.info.starts_with("yaml")) {
            let words: Vec<&str> = block.info.split_whitespace().collect();
            if words.contains(&"part") {
                continue;
            }
            count += 1;
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("x.yaml"), block.lines.join("\n") + "\n").unwrap();
            let (code, text) = lvsprov(folder.path(), &["check", "x.yaml"]);
            let expected = if words.contains(&"wrong") { 3 } else { 0 };
            let place = format!("{name}:{}", block.first);
            assert_eq!(code, expected, "{place}:\n{text}");
            assert!(code == 3 || text == "x.yaml: nothing found\n", "{place}:\n{text}");
        }
    }
    assert!(count >= 3, "only {count} topologies were found");
}

fn every_command_in_the_documents_prints_what_they_say() {
    let mut wrong = Vec::new();
    let mut not_run: BTreeMap<String, usize> = BTreeMap::new();
    let mut run = 0;
    for (name, page) in pages() {
        let folder = workplace(&page);
        let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
        for block in blocks(&page).iter().rev().filter(|block| block.info.starts_with("console")) {
            let place = format!("{name}:{}", block.first);
            if block.info.contains("no-run") {
                *not_run.entry(name.clone()).or_default() += 1;
                continue;
            }
            run += 1;
            let now = match option(block.info, "golden") {
                Some(golden) => compare_golden(block, &read(golden)),
                None => replay(block, folder.path()),
            };
            if let Some(now) = now {
                let end = block.first + block.lines.len();
                lines.splice(block.first..end, now.lines().map(str::to_owned));
                wrong.push(format!("{place} is to be:\n{now}"));
            }
        }
        if std::env::var_os("LVSPROV_BLESS").is_some() {
            fs::write(root().join(&name), lines.join("\n") + "\n").unwrap();
        }
    }
    let blessed = std::env::var_os("LVSPROV_BLESS").is_some();
    assert!(blessed || wrong.is_empty(), "{}\n(LVSPROV_BLESS=1 rewrites them)", wrong.join("\n"));
    let listed = NO_RUN.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(not_run, listed, "console blocks that are not run");
    assert!(run >= 10, "only {run} blocks were run");
}

/// What the block is to be where a command prints something else than it says.
fn replay(block: &Block<'_>, folder: &Path) -> Option<String> {
    let mut now = String::new();
    let mut differs = false;
    for (command, expected) in commands(block) {
        let line = command.split(" #").next().unwrap_or_default();
        let arguments = line.strip_prefix("lvsprov").unwrap_or_else(|| {
            panic!("`{line}` is not a command of lvsprov: mark its block with `no-run`")
        });
        let (code, mut text) = lvsprov(folder, &arguments.split_whitespace().collect::<Vec<_>>());
        if code != 0 {
            let _ = writeln!(text, "exit code: {code}");
        }
        let right = matches(&expected, &text);
        differs |= !right;
        let shown = if right { expected.join("\n") } else { text.trim_end().to_owned() };
        let _ = writeln!(now, "$ {command}\n{shown}");
    }
    differs.then_some(now)
}

/// The whole golden text where the block is not part of it.
fn compare_golden(block: &Block<'_>, golden: &str) -> Option<String> {
    let all = commands(block);
    let [(command, expected)] = all.as_slice() else {
        panic!("one command, please: {}", block.info)
    };
    (!matches(expected, golden)).then(|| format!("$ {command}\n{}", golden.trim_end()))
}

/// Each `$ ` line without its prompt, with the lines below it.
fn commands<'a>(block: &Block<'a>) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in &block.lines {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push((command, Vec::new())),
            (None, Some((_, expected))) => expected.push(line),
            (None, None) => panic!("{line:?} stands before any command"),
        }
    }
    all
}

/// Whether `actual` is what the lines say, where a line `...` stands for any text and blanks do not count.
fn matches(expected: &[&str], actual: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let actual = plain(actual);
    let parts: Vec<String> =
        expected.split(|line| line.trim() == "...").map(|lines| plain(&lines.join("\n"))).collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return actual.is_empty() };
    if parts.len() == 1 {
        return actual == *first;
    }
    let mut rest = actual.as_str();
    for part in &parts {
        let Some(at) = rest.find(part.as_str()) else { return false };
        rest = &rest[at + part.len()..];
    }
    actual.starts_with(first.as_str()) && actual.ends_with(last.as_str())
}

fn an_elision_stands_for_any_lines() {
    assert!(matches(&["a", "...", "d"], "a\nb\nc\n d\n"));
    assert!(matches(&["...", "b c", "..."], "a\nb\n  c\nd\n"));
    assert!(matches(&[], "") && matches(&["..."], "x"));
    assert!(!matches(&["a", "...", "e"], "a\nb\n") && !matches(&["b"], "a b"));
}

fn code_blocks_have_a_known_kind() {
    for (name, page) in pages() {
        for block in blocks(&page) {
            let kind = block.info.split_whitespace().next().unwrap_or_default();
            let place = format!("{name}:{}: {kind:?}", block.first);
            assert!(["yaml", "console", "json", "text", "rust"].contains(&kind), "{place}");
            if kind == "json" {
                let text = block.lines.join("\n");
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{place}");
            }
        }
    }
}
