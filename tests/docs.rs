//! The documents are true: their examples run, and what they name exists.
//!
//! Code blocks by the first word of their info string:
//!
//! | block | is |
//! | --- | --- |
//! | `yaml` | a whole topology in which `check` finds nothing; `file=NAME` makes it available to commands below |
//! | `yaml wrong` | a topology in which `check` finds an error; `yaml part`: a few keys, not checked |
//! | `console` | `$ lvsprov ...` commands with what they print: standard output, standard error, and the exit code where it is not 0 |
//! | `console golden=FILE` | one command that needs hosts; what it prints is compared with a golden file |
//! | `console no-run` | commands that need hosts; counted in [`NO_RUN`] |
//! | `json`, `text` | a JSON document; a picture |
//!
//! A line `...` stands for any lines. Blanks and line ends do not count, so that long lines may be wrapped.
//! `LVSPROV_BLESS=1 cargo test --test docs` rewrites what commands print.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "docs/words.rs"]
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How many console blocks of each page need hosts and so are not run. Keep them few: a block that no test
/// runs goes stale.
const NO_RUN: &[(&str, usize)] = &[
];

/// The longest README that is still read, in lines.
const README_LINES: usize = 150;

/// Every option of ipvsadm 1.31 (ipvsadm(8), ipvsadm.c), short and long.
const OPTIONS: &str = "-A --add-service -E --edit-service -D --delete-service -C --clear -R --restore \
    -S --save -a --add-server -e --edit-server -d --delete-server -L -l --list -Z --zero --set \
    --start-daemon --stop-daemon -h --help -t --tcp-service -u --udp-service --sctp-service -f \
    --fwmark-service -6 --ipv6 -s --scheduler -p --persistent -M --netmask --pe -b --sched-flags -o \
    --ops -r --real-server -g --gatewaying -i --ipip -m --masquerading --tun-type --tun-port \
    --tun-nocsum --tun-csum --tun-remcsum -w --weight -x --u-threshold -y --l-threshold --syncid \
    --sync-maxlen --mcast-interface --mcast-group --mcast-port --mcast-ttl -c --connection --timeout \
    --daemon --stats --rate --thresholds --persistent-conn --tun-info --sort --nosort -n --numeric \
    --exact";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of each row whose first cell has an option.
fn rows() -> Vec<Vec<String>> {
    let text = read("docs/ipvsadm.md");
    let rows = text.lines().filter(|line| line.starts_with("| `-"));
    rows.map(|line| {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

#[test]
fn every_option_of_ipvsadm_has_one_row() {
    let mut found = BTreeSet::new();
    for row in rows() {
        assert_eq!(row.len(), 3, "{row:?}");
        assert!(!row[1].is_empty(), "{row:?} does not say how");
        for option in row[0].split(", ") {
            let option = option.trim_matches('`').to_owned();
            assert!(found.insert(option.clone()), "{option} has two rows");
        }
    }
    let options: BTreeSet<String> = OPTIONS.split_whitespace().map(str::to_owned).collect();
    let missing: Vec<_> = options.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&options).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
}

#[test]
fn every_test_that_a_row_names_exists() {
    let mut wrong = Vec::new();
    for row in rows() {
        let tests: Vec<&str> = row[2].split(", ").collect();
        for test in tests {
            if !exists(test) {
                wrong.push(format!("{}: {test:?}", row[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "there is no such test:\n{}", wrong.join("\n"));
}

/// `PROGRAM: case` of tests/, `src/FILE: name`, or a topology.
fn exists(test: &str) -> bool {
    let Some((place, name)) = test.split_once(": ") else {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(test);
        return path.extension().is_some_and(|e| e == "yaml") && path.is_file();
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return false;
    }
    let source =
        if place.starts_with("src/") { read(place) } else { read(&format!("tests/{place}.rs")) };
    // A case by its name, or a function that is marked as a test.
    let (case, function) = (format!("\"{name}\""), format!("fn {name}()"));
    let marked = |at: usize| {
        let before = source.get(..at).unwrap_or_default();
        before.trim_end().ends_with("#[test]") || before.trim_end().ends_with("#[tokio::test]")
    };
    source.contains(&case) || source.match_indices(&function).any(|(at, _)| marked(at))
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    for absent in
        ["tables: no_such_case", "tables: ", "kernel_vm: main", "playbooks/none.yaml", "x"]
    {
        assert!(!exists(absent), "{absent:?}");
    }
    assert!(exists("docs: a_test_that_is_not_there_is_noticed"));
}

/// `scripts/programs` row by row: program, package, purpose, machine, use.
fn listed_programs() -> Vec<Vec<String>> {
    let text = read("scripts/programs");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let mut cells: Vec<&str> = line.split_whitespace().collect();
            let rest = cells.split_off(4).join(" ");
            cells.into_iter().map(str::to_owned).chain([rest]).collect()
        })
        .collect()
}

#[test]
fn the_table_of_programs_is_the_list_of_them() {
    let text = read("docs/development.md");
    let table = text.split("| Program |").nth(1).unwrap().split("\n\n").next().unwrap();
    let table: Vec<Vec<String>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().trim_matches('`').trim().to_owned()).collect()
        })
        .collect();
    assert_eq!(table, listed_programs());
}

/// What the list has beside what the tests start stays honest too.
#[test]
fn every_listed_program_is_started_somewhere() {
    let mut sources = String::new();
    for folder in ["src", "tests", "benches", "scripts"] {
        gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    let unused: Vec<String> = listed_programs()
        .into_iter()
        .filter(|row| row[2] != "build")
        .map(|row| row[0].clone())
        .filter(|program| {
            let words =
                [format!("\"{program}\""), format!("/{program}\""), format!("\"{program} ")];
            !words.iter().any(|word| sources.contains(word.as_str()))
                && !sources.contains(&format!("{program} install"))
        })
        .collect();
    assert!(unused.is_empty(), "nothing starts {unused:?}: remove them from scripts/programs");
}

fn gather(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, into);
        } else if !path.ends_with("scripts/programs") && !path.ends_with("tests/docs.rs") {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// README.md, CONTRIBUTING.md and every page of docs/, by path from the root.
pub(crate) fn pages() -> BTreeMap<String, String> {
    let folder = root().join("docs");
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|ending| ending == "md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A code block: its info string, the index of its first line, and its lines.
struct Block<'a> {
    info: &'a str,
    first: usize,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
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

fn lvsprov(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "100")
        .env_remove("LVSPROV_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
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

#[test]
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

#[test]
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
            text.push_str(&format!("exit code: {code}\n"));
        }
        let right = matches(&expected, &text);
        differs |= !right;
        let shown = if right { expected.join("\n") } else { text.trim_end().to_owned() };
        now.push_str(&format!("$ {command}\n{shown}\n"));
    }
    differs.then_some(now)
}

/// The whole golden text where the block is not part of it.
fn compare_golden(block: &Block<'_>, golden: &str) -> Option<String> {
    let all = commands(block);
    let [(command, expected)] = all.as_slice() else { panic!("one command, please: {}", block.info) };
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
        expected.split(|line| *line == "...").map(|lines| plain(&lines.join("\n"))).collect();
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

#[test]
fn an_elision_stands_for_any_lines() {
    assert!(matches(&["a", "...", "d"], "a\nb\nc\n d\n"));
    assert!(matches(&["...", "b c", "..."], "a\nb\n  c\nd\n"));
    assert!(matches(&[], "") && matches(&["..."], "x"));
    assert!(!matches(&["a", "...", "e"], "a\nb\n") && !matches(&["b"], "a b"));
}

#[test]
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

/// A page without its code blocks.
fn prose(page: &str) -> String {
    let mut inside = false;
    let kept = page.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// The words between backticks.
fn quoted(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

#[test]
fn files_that_the_documents_name_exist() {
    let mut missing = Vec::new();
    for (name, page) in pages() {
        for word in quoted(&prose(&page)) {
            let folders = ["src/", "tests/", "docs/", "scripts/", "playbooks/", "templates/", "benches/", ".ci/"];
            let is_path = folders.iter().any(|folder| word.starts_with(folder))
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_path && !root().join(word).exists() {
                missing.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for (name, page) in pages() {
        let text = prose(&page);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => root().join(&name),
                file => root().join(&name).parent().unwrap().join(file),
            };
            let there = fs::read_to_string(&path).unwrap_or_default();
            let found = path.exists() && (anchor.is_empty() || anchors(&there).contains(anchor));
            if !found {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links to nothing:\n{}", broken.join("\n"));
}

/// The anchors of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |line: &str| -> String {
        let plain = line.trim_start_matches('#').trim().to_lowercase();
        let kept = plain.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn the_index_lists_every_page() {
    let index = read("docs/README.md");
    let listed = |page: &String| match page.strip_prefix("docs/") {
        Some("README.md") | None => true,
        Some(page) => index.contains(&format!("]({page})")),
    };
    let missing: Vec<String> = pages().into_keys().filter(|page| !listed(page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not list {missing:?}");
}

#[test]
fn the_readme_is_short_and_names_the_test_command() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
    assert!(readme.contains("$ make test"));
}
