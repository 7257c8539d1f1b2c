//! The lab on the running kernel: hosts, traffic, captures, snapshots, sshd. Needs root.
//!
//! The tests named `vm_` boot a machine of their own and take longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/beat.rs"]
mod beat;
#[path = "lab/hosts.rs"]
mod hosts;
#[path = "support/mod.rs"]
mod support;
#[path = "lab/vm.rs"]
mod vm;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lvsprov::lab::sshd::Sshds;
use lvsprov::lab::{self, Lab};
use lvsprov::names::HostName;

const BINARY: &str = env!("CARGO_BIN_EXE_lvsprov");

/// A process of this machine.
struct Process {
    id: u32,
    parent: u32,
    command: String,
}

fn processes() -> impl Iterator<Item = Process> {
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    ids.filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let parent =
            status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Process { id, parent, command })
    })
}

/// Polls, for as long as anything may take on a busy machine.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + beat::patience();
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

#[test]
fn sshd_lets_the_controller_in_under_strict_host_keys_and_gives_each_host_its_own_folders() {
    lab::isolate().unwrap();
    let lab = Lab::bare_hosts(2).unwrap();
    let mut sshds = Sshds::start(&lab, lab.host_names(), Path::new(BINARY)).unwrap();
    let ssh = |host: &str, command: &[&str]| {
        Command::new("ssh")
            .arg("-F")
            .arg(sshds.ssh_config())
            .arg(host)
            .args(command)
            .output()
            .unwrap()
    };
    for name in ["host1", "host2"] {
        let output = ssh(name, &["true"]);
        assert!(output.status.success(), "{output:?}\n{}", sshds.log(&host(name)));
    }
    // What one host writes, the other and the machine do not see.
    assert!(ssh("host1", &["mkdir", "/var/lib/lvsprov", "/run/lvsprov"]).status.success());
    assert!(ssh("host1", &["test", "-d", "/var/lib/lvsprov"]).status.success());
    assert!(!ssh("host2", &["test", "-d", "/var/lib/lvsprov"]).status.success());
    // This machine may be a controller, and have the folder: what host1 puts into its own is not there.
    assert!(ssh("host1", &["touch", "/run/lvsprov/of-host1"]).status.success());
    assert!(!Path::new("/run/lvsprov/of-host1").exists());
    // Each is in its own network, with /sys and /proc to match.
    let output = ssh("host2", &["cat", "/proc/self/net/dev"]);
    let devices = String::from_utf8(output.stdout).unwrap();
    assert!(devices.contains("mgmt0") && !devices.contains("mgmt:"), "{devices}");
    let output = ssh("host2", &["ls", "/sys/class/net"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("mgmt0"));

    // Another host's key under this name is refused.
    let known = std::fs::read_to_string(sshds.known_hosts()).unwrap();
    let (one, two) = known.split_once('\n').unwrap();
    let key = |line: &str| line.split_once(' ').unwrap().1.trim().to_owned();
    let swapped =
        known.replace(&key(one), "?").replace(&key(two), &key(one)).replace('?', &key(two));
    std::fs::write(sshds.known_hosts(), swapped).unwrap();
    let output = ssh("host1", &["true"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("Host key verification failed"), "{said}");
    std::fs::write(sshds.known_hosts(), known).unwrap();

    sshds.kill(&host("host1"));
    let output =
        Command::new("ssh").arg("-F").arg(sshds.ssh_config()).args(["host1", "true"]).output();
    assert!(!output.unwrap().status.success());
}
