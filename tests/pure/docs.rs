//! What the documents say of tests and options, kept from rotting.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        every_option_of_ipvsadm_has_one_row,
        every_test_that_a_row_names_exists,
        a_test_that_is_not_there_is_noticed,
        the_table_of_programs_is_the_list_of_them,
        every_listed_program_is_started_somewhere
    ]
}

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

/// `MODULE: case` of tests/, `src/FILE: name`, or a topology.
fn exists(test: &str) -> bool {
    let Some((place, name)) = test.split_once(": ") else {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(test);
        return path.extension().is_some_and(|e| e == "yaml") && path.is_file();
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return false;
    }
    if place.starts_with("src/") {
        let (source, function) = (read(place), format!("fn {name}()"));
        let is_test = |at: usize| {
            let before = source.get(..at).unwrap_or_default();
            before.trim_end().ends_with("#[test]") || before.trim_end().ends_with("#[tokio::test]")
        };
        return source.match_indices(&function).any(|(at, _)| is_test(at));
    }
    let file = [format!("tests/{place}.rs"), format!("tests/{place}/mod.rs")]
        .into_iter()
        .find(|file| Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file());
    file.is_some_and(|file| lists(&read(&file), name))
}

/// Whether a module has that case: by its name in quotes, or as a function in a list of cases.
fn lists(source: &str, name: &str) -> bool {
    let lists = source.split("cases![").skip(1).filter_map(|rest| rest.split(']').next());
    let mut listed = lists.flat_map(|list| list.split(',')).map(str::trim);
    source.contains(&format!("\"{name}\"")) || listed.any(|listed| listed == name)
}

fn a_test_that_is_not_there_is_noticed() {
    for absent in [
        "vm/ipvs_round_trip: no_such_case",
        "vm/ipvs_round_trip: ",
        "vm/kernel: main",
        "vm/no_such_module: timeouts",
        "playbooks/none.yaml",
        "x",
    ] {
        assert!(!exists(absent), "{absent:?}");
    }
    assert!(exists("pure/docs: a_test_that_is_not_there_is_noticed"));
    assert!(exists("vm/kernel: timeouts"));
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
        } else if !path.ends_with("scripts/programs") && !path.ends_with("tests/pure/docs.rs") {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}
