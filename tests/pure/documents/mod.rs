//! The documents are true: what they name exists, and their examples run ([`examples`]).

mod examples;
mod tables;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    [
        cases![
            files_that_the_documents_name_exist,
            links_lead_somewhere,
            the_index_lists_every_page,
            the_readme_is_short_and_names_the_test_command
        ],
        examples::cases(),
        tables::cases(),
        words::cases(),
    ]
    .concat()
}

/// The longest README that is still read, in lines.
const README_LINES: usize = 150;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README.md, CONTRIBUTING.md and every page of docs/, by path from the root.
fn pages() -> BTreeMap<String, String> {
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
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

fn files_that_the_documents_name_exist() {
    let mut missing = Vec::new();
    for (name, page) in pages() {
        for word in quoted(&prose(&page)) {
            let folders = [
                "src/",
                "tests/",
                "docs/",
                "scripts/",
                "playbooks/",
                "templates/",
                "benches/",
                ".ci/",
            ];
            let is_path = folders.iter().any(|folder| word.starts_with(folder))
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_path && !root().join(word).exists() {
                missing.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

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

fn the_index_lists_every_page() {
    let index = read("docs/README.md");
    let listed = |page: &String| match page.strip_prefix("docs/") {
        Some("README.md") | None => true,
        Some(page) => index.contains(&format!("]({page})")),
    };
    let missing: Vec<String> = pages().into_keys().filter(|page| !listed(page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not list {missing:?}");
}

fn the_readme_is_short_and_names_the_test_command() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
    assert!(readme.contains("$ make test"));
}

fn gather(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, into);
        } else {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}
