//! Every playbook in the lab, in the virtual machine: one boot for all of them, once with agents in
//! the namespaces and once over real ssh. What is judged is what CI would judge: exit code and JUnit.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::process::{Command, Stdio};
use std::sync::Mutex;

/// One machine at a time: both are slow enough.
static TURN: Mutex<()> = Mutex::new(());

fn lab(over: &str) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let playbooks = support::playbooks();
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["lab", "run", "--in", "vm", "--over", over, "--junit"])
        .arg(&junit)
        .args(&playbooks)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{told}\n{errors}");
    assert_eq!(output.status.code(), Some(0), "{told}\n{errors}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    let report = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    assert_eq!(report.test_suites.len(), playbooks.len(), "a playbook has no result");
    for suite in &report.test_suites {
        assert!(suite.test_cases.len() >= 12, "{} proved little: {xml}", suite.name.as_str());
    }
}

#[test]
fn every_playbook_comes_up_and_goes_again() {
    lab("local");
}

#[test]
fn every_playbook_comes_up_and_goes_again_over_ssh() {
    lab("ssh");
}
