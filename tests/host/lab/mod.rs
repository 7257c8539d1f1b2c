//! The lab's hosts and their sshds. The program `vm` has these cases too, for a kernel with IPVS.

mod hosts;

use std::path::Path;
use std::process::Command;

use lvsprov::lab::sshd::Sshds;
use lvsprov::lab::{self, Lab};
use lvsprov::names::HostName;

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    let mut all = hosts::cases();
    all.extend(cases![
        sshd_lets_the_controller_in_under_strict_host_keys_and_gives_each_host_its_own_folders
    ]);
    all
}

pub fn needs_ipvs() -> Vec<Case> {
    hosts::needs_ipvs()
}

const BINARY: &str = env!("CARGO_BIN_EXE_lvsprov");

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

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
