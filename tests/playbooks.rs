//! The playbooks in the lab, in the virtual machine: one boot for all of them with agents in the
//! namespaces, and one for some of them over real ssh. What is judged is what CI would judge: exit code
//! and JUnit.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// One machine at a time: both are slow enough.
static TURN: Mutex<()> = Mutex::new(());

/// Over ssh go those that differ in what an agent does on its host: direct routing through a router,
/// NAT, tunnels; packet rules and net.ipv4.vs (fullnat); devices of its own making (gre); IPv6 settings
/// (nat-ipv6); both roles in one agent. What else the other playbooks do is IPVS's alone, and ssh takes
/// its time where the machine is emulated.
const OVER_SSH: [&str; 7] = [
    "director-is-real-server",
    "dr-two-networks",
    "fullnat",
    "gre",
    "nat-ipv6",
    "nat-one-nic",
    "tun",
];

fn lab(over: &str, playbooks: &[PathBuf]) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["lab", "run", "--in", "vm", "--over", over, "--junit"])
        .arg(&junit)
        .args(playbooks)
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
    lab("local", &support::playbooks());
}

#[test]
fn playbooks_come_up_and_go_again_over_ssh() {
    let chosen = |path: &PathBuf| {
        path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| OVER_SSH.contains(&name))
    };
    let playbooks: Vec<PathBuf> = support::playbooks().into_iter().filter(chosen).collect();
    assert_eq!(playbooks.len(), OVER_SSH.len(), "one of them is not there any more");
    lab("ssh", &playbooks);
}
