//! A cluster of named network namespaces on one bridge, gone with everything lvsprov kept for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The first VIP; the others follow it.
pub const VIP: &str = "172.25.8.1";

const HOSTS: [(&str, &str, &str); 4] = [
    ("client", "client", "172.25.7.1/16"),
    ("lvs", "director", "172.25.7.2/16"),
    ("rs1", "real_server", "172.25.7.3/16"),
    ("rs2", "real_server", "172.25.7.4/16"),
];

/// Numbers the clusters of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct NetnsCluster {
    pub file: PathBuf,
    tag: String,
    _folder: tempfile::TempDir,
}

impl NetnsCluster {
    pub fn new() -> Self {
        Self::with_vips(1)
    }

    /// One service for each VIP; at most 250.
    pub fn with_vips(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tag = format!("lvp{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cluster = Self { file: folder.path().join("topology.yaml"), tag, _folder: folder };
        let vips: Vec<String> = (1..=count).map(|n| format!("172.25.8.{n}")).collect();
        std::fs::write(&cluster.file, cluster.topology("cluster-test", &vips)).unwrap();
        cluster.build();
        cluster
    }

    /// Another file for the same hosts.
    pub fn another(&self, name: &str, vip: &str) -> PathBuf {
        let file = self.file.with_file_name(format!("{name}.yaml"));
        std::fs::write(&file, self.topology(name, &[vip.to_owned()])).unwrap();
        file
    }

    fn topology(&self, name: &str, vips: &[String]) -> String {
        let mut text =
            format!("version: 1\nname: {name}\nnetworks: {{lan: [172.25.0.0/16]}}\nhosts:\n");
        for (host, role, address) in HOSTS {
            let netns = self.name(host);
            text.extend([
                "  ",
                host,
                ": {role: ",
                role,
                ", netns: ",
                &netns,
                ", interfaces: {eth0: ",
                address,
                "}}\n",
            ]);
        }
        text.push_str("services:\n");
        for vip in vips {
            text.extend([
                "  - {vip: ",
                vip,
                ", port: 80, forward: dr, real_servers: [rs1, rs2]}\n",
            ]);
        }
        text
    }

    fn build(&self) {
        let switch = self.name("sw");
        run("ip", &["netns", "add", &switch]);
        run("ip", &["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        run("ip", &["-n", &switch, "link", "set", "br0", "up"]);
        for (host, ..) in HOSTS {
            self.start(host);
        }
    }

    /// Makes the namespace of `host` as a boot leaves it.
    fn start(&self, host: &str) {
        let (switch, netns) = (self.name("sw"), self.name(host));
        let (_, _, address) = HOSTS.iter().find(|(name, ..)| *name == host).unwrap();
        run("ip", &["netns", "add", &netns]);
        // Its addresses come and go by themselves for a while.
        self.set(host, "net.ipv6.conf.all.disable_ipv6", "1");
        let veth = ["-n", &switch, "link", "add", host, "type", "veth"];
        run("ip", &[&veth[..], &["peer", "name", "eth0", "netns", &netns]].concat());
        run("ip", &["-n", &switch, "link", "set", host, "master", "br0", "up"]);
        self.ip(host, &["link", "set", "lo", "up"]);
        self.ip(host, &["address", "add", address, "dev", "eth0"]);
        if host != "lvs" {
            self.ip(host, &["link", "set", "eth0", "up"]);
        }
    }

    /// `host` loses all that its kernel knows, and comes up anew. Its disk stays.
    pub fn restart(&self, host: &str) {
        run("ip", &["netns", "del", &self.name(host)]);
        // The namespace may outlive its name for a moment; its cable need not.
        let cable = ["-n", &self.name("sw"), "link", "del", host];
        let _ = Command::new("ip").args(cable).output();
        self.start(host);
    }

    /// The namespace of a host.
    pub fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.tag)
    }

    /// Where lvsprov keeps what belongs to a host.
    pub fn state(&self, host: &str) -> PathBuf {
        Path::new("/var/lib/lvsprov/netns").join(self.name(host))
    }

    pub fn receipt(&self, host: &str) -> PathBuf {
        self.state(host).join("cluster-test/receipt.json")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        Self::command_of(&self.file, arguments)
    }

    pub fn command_of(file: &Path, arguments: &[&str]) -> Command {
        let (subcommand, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvsprov"));
        command.arg(subcommand).arg(file).args(rest).stdin(Stdio::null());
        for variable in ["CLICOLOR_FORCE", "NO_COLOR", "LVSPROV_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// What it says, after it ended with `code`.
    pub fn expect(&self, arguments: &[&str], code: i32) -> String {
        Self::expect_of(&self.file, arguments, code)
    }

    pub fn expect_of(file: &Path, arguments: &[&str], code: i32) -> String {
        said(arguments, &Self::command_of(file, arguments).output().unwrap(), code)
    }

    /// With a file system of its own, mounted with `options` and filled, where `host` keeps its state.
    pub fn on_a_bad_disk(
        &self,
        host: &str,
        options: &str,
        arguments: &[&str],
        code: i32,
    ) -> String {
        const SCRIPT: &str = "set -e; mkdir -p \"$1\"; mount -t tmpfs -o \"$2,mode=700\" none \"$1\"; \
                              dd if=/dev/zero of=\"$1/full\" 2>/dev/null || true; shift 2; exec \"$@\"";
        let command = self.command(arguments);
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"])
            .arg(self.state(host))
            .arg(options)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        said(arguments, &output, code)
    }

    pub fn ip(&self, host: &str, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.name(host)], arguments].concat())
    }

    pub fn set(&self, host: &str, key: &str, value: &str) {
        let setting = format!("{key}={value}");
        run("ip", &["netns", "exec", &self.name(host), "sysctl", "-qw", &setting]);
    }

    pub fn sysctl(&self, host: &str, key: &str) -> String {
        run("ip", &["netns", "exec", &self.name(host), "sysctl", "-n", key]).trim().to_owned()
    }

    pub fn addresses(&self, host: &str) -> String {
        self.ip(host, &["-4", "-o", "address", "show"])
    }

    /// How many VIPs a host has.
    pub fn vips(&self, host: &str) -> usize {
        self.addresses(host).lines().filter(|line| line.contains(" 172.25.8.")).count()
    }

    /// Everything about every host that other programs show.
    pub fn photograph(&self) -> String {
        let mut all = String::new();
        for (host, ..) in HOSTS {
            let netns = self.name(host);
            for show in [
                &["-j", "address", "show"][..],
                &["-j", "route", "show", "table", "all"],
                &["-j", "rule", "show"],
            ] {
                let json: serde_json::Value = serde_json::from_str(&self.ip(host, show)).unwrap();
                all.extend([host, " ", &format!("{json:#}"), "\n"]);
            }
            let sysctls =
                ["netns", "exec", &netns, "sysctl", "-a", "-r", r"^net\.ipv4\.(conf|ip_f)"];
            all.push_str(&run("ip", &sysctls));
        }
        all
    }
}

impl Drop for NetnsCluster {
    fn drop(&mut self) {
        for host in HOSTS.map(|(host, ..)| host).iter().chain(&["sw"]) {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).status();
            let _ = std::fs::remove_dir_all(self.state(host));
        }
    }
}

fn said(arguments: &[&str], output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} said:\n{text}");
    text
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {} {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first lines that differ.
pub fn difference(before: &str, after: &str) -> String {
    let lines = before.lines().zip(after.lines()).filter(|(before, after)| before != after);
    lines.take(20).flat_map(|(before, after)| ["- ", before, "\n+ ", after, "\n"]).collect()
}
