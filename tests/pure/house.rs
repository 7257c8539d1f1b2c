//! How the source is built: which module may know which, and one name for one type.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        no_module_knows_one_above_it,
        every_module_stands_in_the_list,
        a_type_has_its_name_for_itself
    ]
}

/// The modules, lowest first. A module uses only those above it in this list, never one behind it.
const LAYERS: &[&str] = &[
    "names",
    "finding",
    "failure",
    "visible",
    "whole_file",
    "state",
    "topology",
    "walk",
    "desired",
    "keepalived",
    "plan",
    "check",
    "protocol",
    "kernel",
    "transport",
    "agent",
    "apply",
    "report",
    "render",
    "import",
    "lab",
    "cli",
];

/// Modules that only tests have.
const TESTS_ONLY: &[&str] = &["support"];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    into.sort();
}

/// Each source file: its path below src, and its lines up to the first that only tests have.
fn code() -> Vec<(String, Vec<String>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let name = |path: &PathBuf| path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
    let files = paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap()));
    let mut files: Vec<(String, Vec<String>)> = files
        .map(|(name, text)| {
            let lines = text.lines().take_while(|line| line.trim() != "#![cfg(test)]");
            (name, lines.map(str::to_owned).collect())
        })
        .collect();
    let tests = tests_only(&files);
    files.retain(|(name, _)| !tests.iter().any(|test| name.starts_with(test)));
    for (_, lines) in &mut files {
        let code =
            lines.iter().position(|line| line == "#[cfg(test)]" || line == "#[cfg(all(test))]");
        if let Some(end) =
            code.filter(|end| lines[end + 1..].iter().any(|l| l.starts_with("mod tests {")))
        {
            lines.truncate(end);
        }
        lines.retain(|line| !line.trim_start().starts_with("//"));
    }
    files
}

/// Files and folders of modules that stand behind `#[cfg(test)]`.
fn tests_only(files: &[(String, Vec<String>)]) -> Vec<String> {
    let mut all = Vec::new();
    for (name, lines) in files {
        for (at, line) in lines.iter().enumerate() {
            if line.trim() != "#[cfg(test)]" {
                continue;
            }
            let behind: Vec<&str> = lines[at + 1..].iter().take(2).map(|l| l.trim()).collect();
            let folder = match name.strip_suffix("/mod.rs") {
                Some(folder) => format!("{folder}/"),
                None if name == "lib.rs" => String::new(),
                None => format!("{}/", name.strip_suffix(".rs").unwrap()),
            };
            match behind.as_slice() {
                [path, ..] if path.starts_with("#[path = \"") => {
                    let file = path.trim_start_matches("#[path = \"").trim_end_matches("\"]");
                    let beside = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    all.push(format!("{beside}/{file}"));
                }
                [module, ..] if module.ends_with(';') && module.contains("mod ") => {
                    let module = module.rsplit(' ').next().unwrap().trim_end_matches(';');
                    all.push(format!("{folder}{module}.rs"));
                    all.push(format!("{folder}{module}/"));
                }
                _ => {}
            }
        }
    }
    all
}

/// Which modules each module names, with one place for each.
fn arrows() -> BTreeMap<(String, String), String> {
    let mut arrows = BTreeMap::new();
    for (name, lines) in code() {
        let from = name.split(['/', '.']).next().unwrap().to_owned();
        if matches!(from.as_str(), "main" | "lib") {
            continue;
        }
        for line in lines {
            for part in line.split("crate::").skip(1) {
                let to: String =
                    part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if to != from && !to.is_empty() {
                    arrows
                        .entry((from.clone(), to))
                        .or_insert_with(|| format!("{name}: {}", line.trim()));
                }
            }
        }
    }
    arrows
}

fn no_module_knows_one_above_it() {
    let place = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let arrows = arrows();
    assert!(
        arrows.len() > 50,
        "only {} arrows: the source is not read as it is written",
        arrows.len()
    );
    let upwards: Vec<String> = arrows
        .iter()
        .filter(|((_, to), _)| !TESTS_ONLY.contains(&to.as_str()))
        .filter(|((from, to), _)| match (place(from), place(to)) {
            (Some(from), Some(to)) => to > from,
            _ => true,
        })
        .map(|((from, to), line)| format!("{from} -> {to}: src/{line}"))
        .collect();
    assert!(
        upwards.is_empty(),
        "a module knows one above it (or one that LAYERS lacks):\n{}",
        upwards.join("\n")
    );
}

fn every_module_stands_in_the_list() {
    let of = |name: &str| name.split(['/', '.']).next().unwrap().to_owned();
    let mut modules: Vec<String> = code().iter().map(|(name, _)| of(name)).collect();
    modules.dedup();
    modules.retain(|module| !matches!(module.as_str(), "main" | "lib"));
    let mut listed: Vec<String> = LAYERS.iter().map(|&layer| layer.to_owned()).collect();
    listed.sort();
    modules.sort();
    modules.dedup();
    assert_eq!(modules, listed);
}

/// Where each type of the crate is defined.
fn types() -> BTreeMap<String, Vec<String>> {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, lines) in code() {
        for line in &lines {
            let line = line.trim_start();
            let line = match line.strip_prefix("pub") {
                Some(rest) if rest.starts_with('(') => {
                    rest.split_once(") ").map_or("", |(_, rest)| rest)
                }
                Some(rest) => rest.trim_start(),
                None => line,
            };
            let kinds = ["struct ", "enum ", "trait ", "union ", "type "];
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else {
                continue;
            };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            // What a trait asks for has the trait's name for it: `type Err` of FromStr.
            let of_a_trait = ["Err", "Error", "Item", "Output", "Target", "Future", "Key", "Value"]
                .contains(&name.as_str())
                && rest.contains(" = ");
            if !of_a_trait && name.starts_with(|c: char| c.is_ascii_uppercase()) {
                types.entry(name).or_default().push(file.clone());
            }
        }
    }
    types
}

fn a_type_has_its_name_for_itself() {
    let types = types();
    assert!(
        types.len() > 300,
        "only {} types: the source is not read as it is written",
        types.len()
    );
    let twice: Vec<String> = types
        .iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|(name, files)| format!("{name}: {}", files.join(", ")))
        .collect();
    assert!(
        twice.is_empty(),
        "{} names stand for several types:\n{}",
        twice.len(),
        twice.join("\n")
    );
}
