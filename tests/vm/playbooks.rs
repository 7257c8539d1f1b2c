//! The playbooks in the lab, in virtual machines: some of them over real ssh, the others with agents in the namespaces.
//! What is judged is what CI would judge: exit code and JUnit.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::cases::Case;
use crate::support::playbooks::playbooks;
use crate::support::vm::thorough;

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

/// Each of the `parts` has a machine of its own. Together with [`over_ssh`] they have every playbook; the same playbook in
/// both ways only where there is time.
pub fn local(part: usize, parts: usize) -> Vec<Case> {
    let name = format!("playbooks_come_up_and_go_again_{}_of_{parts}", part + 1);
    let all = if thorough() { playbooks() } else { chosen().1 };
    vec![Case::new(name, move || lab("local", &share(&all, part, parts)))]
}

/// The same of those that go over ssh.
pub fn over_ssh(part: usize, parts: usize) -> Vec<Case> {
    let name = format!("playbooks_come_up_and_go_again_over_ssh_{}_of_{parts}", part + 1);
    vec![Case::new(name, move || lab("ssh", &share(&chosen().0, part, parts)))]
}

/// Those of [`OVER_SSH`], and the others.
fn chosen() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let is_chosen = |path: &PathBuf| {
        path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| OVER_SSH.contains(&name))
    };
    let (chosen, others): (Vec<_>, Vec<_>) = playbooks().into_iter().partition(is_chosen);
    assert_eq!(chosen.len(), OVER_SSH.len(), "one of them is not there any more");
    (chosen, others)
}

fn share(all: &[PathBuf], part: usize, parts: usize) -> Vec<PathBuf> {
    all.iter().skip(part).step_by(parts).cloned().collect()
}

fn lab(over: &str, playbooks: &[PathBuf]) {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["lab", "run", "--in", "vm", "--over", over, "--junit"])
        .arg(&junit)
        .args(playbooks)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}\n{errors}");
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    let report = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    assert_eq!(report.test_suites.len(), playbooks.len(), "a playbook has no result");
    for suite in &report.test_suites {
        assert!(suite.test_cases.len() >= 12, "{} proved little: {xml}", suite.name.as_str());
    }
}
