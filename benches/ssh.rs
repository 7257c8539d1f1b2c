//! How long commands take over ssh, beside the least that ssh itself takes.
//!
//! `cargo bench --bench ssh [HOSTS...]` (as root; 5, 20 and 50 hosts unless told). The hosts are
//! network namespaces with a real sshd each; the topology is direct routing with a real server on
//! each of them, so that the running kernel needs no IPVS. The floor, `ssh HOST true` to all hosts
//! at once with a fresh connection each, is measured in the same rounds as everything else, because
//! all of them are bound by the CPU of this one machine: controller, ssh and every sshd share it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use lvsprov::check;
use lvsprov::lab::network::Management;
use lvsprov::lab::sshd::Sshds;
use lvsprov::lab::{self, Lab};
use lvsprov::topology::Topology;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lvsprov");
const ROUNDS: usize = 5;

/// What is measured, with the most that it should take (in floors).
const GOALS: [(&str, f64); 5] = [
    ("first apply, with push", 2.5),
    ("plan, nothing to do", 1.2),
    ("apply, nothing to do", 1.2),
    ("plan, connection kept", 0.5),
    ("apply, connection kept", 0.5),
];

fn main() -> ExitCode {
    // cargo passes --bench and whatever follows `--`.
    let sizes: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![5, 20, 50] } else { sizes };
    let bytes = fs::metadata(PROGRAM).unwrap().len();
    println!("agent: {} kB; median of {ROUNDS} rounds; ratio to `ssh HOST true`", bytes / 1000);
    println!("| hosts | command | median s | ratio | aim | controller MB |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for hosts in sizes {
        measure(hosts);
    }
    ExitCode::SUCCESS
}

fn measure(count: usize) {
    let bench = Bench::new(count);
    let mut floor = Vec::new();
    let mut ours: Vec<Vec<Run>> = GOALS.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        floor.push(bench.everywhere(&["true"]));
        let kept = bench.new_run();
        ours[0].push(bench.lvsprov("apply", &kept));
        ours[1].push(bench.lvsprov("plan", &bench.new_run()));
        ours[2].push(bench.lvsprov("apply", &bench.new_run()));
        ours[3].push(bench.lvsprov("plan", &kept));
        ours[4].push(bench.lvsprov("apply", &kept));
        floor.push(bench.everywhere(&["true"]));
        bench.lvsprov("destroy", &kept);
        bench.everywhere(&["rm", "-rf", "/var/lib/lvsprov"]);
    }
    let floor = median(floor);
    println!("| {count} | ssh HOST true | {:.3} | 1.00 | | |", floor.as_secs_f64());
    for ((name, aim), runs) in GOALS.iter().zip(ours) {
        let memory = runs.iter().map(|run| run.memory_kb).max().unwrap_or_default();
        let time = median(runs.into_iter().map(|run| run.time).collect());
        let ratio = time.as_secs_f64() / floor.as_secs_f64();
        println!(
            "| {count} | {name} | {:.3} | {ratio:.2} | {aim} | {:.1} |",
            time.as_secs_f64(),
            f64::from(memory) / 1000.0
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// One run of the program.
struct Run {
    time: Duration,
    /// The most memory that the controller had, in kB (VmHWM in proc_pid_status(5)).
    memory_kb: u32,
}

/// Hosts, and a file that describes them.
struct Bench {
    sshds: Sshds,
    names: Vec<String>,
    folder: tempfile::TempDir,
    _lab: Lab,
}

impl Bench {
    fn new(count: usize) -> Self {
        // Each time anew: the last lab's management network stays in the namespace it was made in.
        lab::isolate().expect("needs root: makes network namespaces");
        let names: Vec<String> = (1..=count).map(|n| format!("rs{n}")).collect();
        let text = topology_text(&names);
        let folder = tempfile::Builder::new().prefix("lb").tempdir_in("/tmp").unwrap();
        fs::write(folder.path().join("topology.yaml"), &text).unwrap();
        let topology = load(&text);
        let lab = Lab::build(&topology, Management::Bridge).unwrap();
        let servers = topology.hosts.keys().filter(|name| name.as_str().starts_with("rs"));
        let sshds = Sshds::start(&lab, servers, Path::new(PROGRAM)).unwrap();
        Self { sshds, names, folder, _lab: lab }
    }

    /// `ssh HOST COMMAND` to all hosts at once, each over a fresh connection.
    fn everywhere(&self, command: &[&str]) -> Duration {
        let start = Instant::now();
        let running: Vec<Child> = self
            .names
            .iter()
            .map(|name| {
                Command::new("ssh")
                    .arg("-F")
                    .arg(self.sshds.ssh_config())
                    .args(["-S", "none", "-o", "BatchMode=yes", name])
                    .args(command)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for mut child in running {
            assert!(child.wait().unwrap().success(), "ssh failed");
        }
        start.elapsed()
    }

    /// A place for sockets in which no connection is kept yet.
    fn new_run(&self) -> PathBuf {
        let count = fs::read_dir(self.folder.path()).unwrap().count();
        let path = self.folder.path().join(format!("r{count}"));
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        path
    }

    fn lvsprov(&self, command: &str, sockets: &Path) -> Run {
        let output = fs::File::create(self.folder.path().join("output")).unwrap();
        let start = Instant::now();
        let mut child = Command::new(PROGRAM)
            .arg(command)
            .arg("--ssh-config")
            .arg(self.sshds.ssh_config())
            .arg(self.folder.path().join("topology.yaml"))
            .env("XDG_RUNTIME_DIR", sockets)
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        let mut memory_kb = 0;
        let status = loop {
            memory_kb = memory_kb.max(high_water(child.id()).unwrap_or_default());
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let time = start.elapsed();
        if !status.success() {
            let said = fs::read_to_string(self.folder.path().join("output")).unwrap();
            panic!("lvsprov {command}: {status}\n{said}");
        }
        Run { time, memory_kb }
    }
}

fn high_water(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn topology_text(names: &[String]) -> String {
    let mut text = "version: 1\nname: bench\nnetworks: {lan: [10.77.0.0/16]}\nhosts:\n".to_owned();
    text.push_str("  lvs: {role: director, interfaces: {eth0: 10.77.0.1/16}}\n");
    for (nth, name) in names.iter().enumerate() {
        let (high, low) = (1 + nth / 200, 1 + nth % 200);
        let _ = writeln!(
            text,
            "  {name}: {{role: real_server, ssh: {name}, interfaces: {{eth0: 10.77.{high}.{low}/16}}}}"
        );
    }
    let servers = names.join(", ");
    let _ = writeln!(
        text,
        "services:\n  - {{vip: 10.77.0.100, port: 80, forward: dr, real_servers: [{servers}]}}"
    );
    text
}

fn load(text: &str) -> Topology {
    let examined = check::examine("topology.yaml", text);
    let Some(topology) = examined.topology else { panic!("{:?}", examined.findings) };
    topology
}
