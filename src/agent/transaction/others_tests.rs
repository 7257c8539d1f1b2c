//! The entries beside a topology's folder.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use std::fs;

use super::*;
use crate::agent::disk::Disk;
use crate::state::{HostState, Owned, RECEIPT_VERSION};

fn named(name: &str) -> TopologyName {
    name.parse().unwrap()
}

fn receipt(name: &str) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        topology: named(name),
        since: 7,
        owned: Owned::new(),
        found: HostState::default(),
        run: None,
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    }
}

fn write(folder: &Path, text: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("receipt.json"), text).unwrap();
}

fn state_dir() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["t", "good"] {
        receipt::write(&Disk::new(folder.path()), &receipt(name)).unwrap();
    }
    folder
}

#[test]
fn one_that_cannot_be_read_hides_none_of_the_others() {
    let folder = state_dir();
    let at = |name: &str| folder.path().join(name);
    write(&at("half"), "{ half");
    write(&at("later"), r#"{"version":99,"topology":"later","what":"nobody knows yet"}"#);
    write(&at("open"), &serde_json::to_string(&receipt("open")).unwrap());
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
    symlink(at("good"), at("linked")).unwrap();
    fs::create_dir(at("working")).unwrap();
    fs::write(at("working").join("journal.json"), "{ half").unwrap();
    let others = read(&Disk::new(folder.path()), &named("t")).unwrap();
    assert_eq!(others.receipts, [(named("good"), receipt("good"))].into());
    let unreadable = ["half", "later", "linked", "open", "working"].map(named);
    assert_eq!(others.unreadable.keys().cloned().collect::<Vec<_>>(), unreadable);
    let later = &others.unreadable[&named("later")];
    assert!(later.message.contains("written by a later lvsprov: it has format 99"), "{later}");
    assert!(others.unreadable[&named("half")].message.contains("is damaged"));
    assert_eq!(others.strays, Vec::<String>::new());
}

#[test]
fn what_is_no_topologys_is_named_and_passed_over() {
    let folder = state_dir();
    let at = |name: &str| folder.path().join(name);
    for own in ["agent", "netns", "empty"] {
        fs::create_dir(at(own)).unwrap();
    }
    fs::write(at("lock"), "").unwrap();
    // What a killed run leaves.
    fs::create_dir_all(at("cut").join("0123456789abcdef")).unwrap();
    fs::create_dir(at("undone")).unwrap();
    fs::write(at("undone").join("reverted.json"), "{}").unwrap();
    assert_eq!(read(&Disk::new(folder.path()), &named("t")).unwrap().strays, Vec::<String>::new());

    fs::write(at("notes.txt"), "").unwrap();
    fs::create_dir(at("old things")).unwrap();
    fs::create_dir(at("photos")).unwrap();
    fs::write(at("photos").join("cat.jpg"), "").unwrap();
    fs::create_dir(at("\u{1b}[2J")).unwrap();
    write(&at("t.bak"), &serde_json::to_string(&receipt("t")).unwrap());
    let others = read(&Disk::new(folder.path()), &named("t")).unwrap();
    assert_eq!(
        others.strays,
        [
            "\\u{1b}[2J (no topology has such a name)",
            "notes.txt (no topology's folder)",
            "old things (no topology has such a name)",
            "photos (no topology's folder)",
            "t.bak (the receipt in it is that of t)",
        ]
    );
    assert_eq!(others.receipts.len(), 1);
    assert!(others.unreadable.is_empty());
    for number in 0..20 {
        fs::write(at(&format!("z{number}")), "").unwrap();
    }
    let many = read(&Disk::new(folder.path()), &named("t")).unwrap().strays;
    assert_eq!((many.len(), many[10].as_str()), (11, "15 more"));
}
