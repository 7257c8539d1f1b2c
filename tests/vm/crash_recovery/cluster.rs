//! A cluster over real ssh, controllers as processes, and everything that is known of a host from
//! outside of lvsprov.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::lab::network::Management;
use lvsprov::lab::sshd::Sshds;
use lvsprov::lab::{self, Lab, snapshot};
use lvsprov::names::HostName;
use lvsprov::topology::Topology;
use nix::unistd::Pid;

use crate::support::speed;

/// A copy of the program in the virtual machine's memory: it is started hundreds of times, and stays the
/// same whatever is built outside meanwhile.
const LVSPROV: &str = "/tmp/lvsprov-crash-recovery";

/// Where each host's agents look for faults, by the lab's sshd (templates/sshd_config.j2).
const FAULTS: &str = "run/lvsprov-fault";
/// Where each host keeps what lvsprov must not forget.
const STATE: &str = "var/lib/lvsprov";
/// How long anything may take that has no limit of its own, where all is emulated; [`speed::scaled`].
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Makes [`LVSPROV`].
pub fn keep_the_program() {
    fs::copy(env!("CARGO_BIN_EXE_lvsprov"), LVSPROV).unwrap();
}

/// Hosts with an sshd each, joined by a management network that the controllers are in.
pub struct Cluster {
    pub lab: Lab,
    pub sshds: Sshds,
    pub topology: Topology,
    /// How controllers reach the hosts.
    pub ssh_config: PathBuf,
    folder: tempfile::TempDir,
}

/// What a process said and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

/// A process that is ended and reaped when it is dropped.
pub struct Running {
    child: Child,
    folder: PathBuf,
    since: Instant,
}

impl Cluster {
    /// Builds bare hosts for `text`, and an sshd in each that the file says how to reach.
    pub fn build(text: &str) -> Self {
        lab::isolate().unwrap();
        let topology = load(text);
        let lab = Lab::build(&topology, Management::Bridge).unwrap();
        let managed: Vec<&HostName> =
            topology.hosts.values().filter(|h| h.reach.is_some()).map(|h| &h.name).collect();
        let sshds = Sshds::start(&lab, managed, Path::new(LVSPROV)).unwrap();
        let folder = tempfile::Builder::new().prefix("cr-").tempdir_in("/tmp").unwrap();
        let ssh_config = sshds.ssh_config();
        let cluster = Self { lab, sshds, topology, ssh_config, folder };
        // Hosts that were met before: that each is sent its agent is proven elsewhere.
        cluster.sshds.place_agent(&cluster.hosts(), Path::new(LVSPROV)).unwrap();
        cluster.wait_for_addresses();
        cluster
    }

    /// The hosts that are reached.
    pub fn hosts(&self) -> Vec<HostName> {
        let managed = self.topology.hosts.values().filter(|host| host.reach.is_some());
        managed.map(|host| host.name.clone()).collect()
    }

    /// From now on, controllers reach some hosts by what `text` says of them.
    pub fn reach_by(&mut self, text: &str) {
        let config = fs::read_to_string(self.sshds.ssh_config()).unwrap();
        self.ssh_config = self.folder.path().join("ssh_config");
        fs::write(&self.ssh_config, format!("{text}\n{config}")).unwrap();
    }

    /// Writes a topology that `lvsprov` can be told of.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.yaml"));
        fs::write(&path, text).unwrap();
        path
    }

    /// A controller with these arguments, in the controllers' network.
    pub fn controller(&self, arguments: &[&str]) -> Command {
        let runtime = self.folder.path().join("run");
        fs::create_dir_all(&runtime).unwrap();
        let mut command = Command::new(LVSPROV);
        command.args(arguments).env("XDG_RUNTIME_DIR", runtime).stdin(Stdio::null());
        if !arguments.contains(&"check") {
            command.arg("--ssh-config").arg(&self.ssh_config);
            // Emulated hosts may take long to log in to; only one without its cable is not waited for.
            if !arguments.contains(&"--connect-timeout") {
                command.args(["--connect-timeout", "60"]);
            }
        }
        command
    }

    /// Starts a controller.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.spawn(self.controller(arguments))
    }

    /// Starts a program of which every word is kept.
    pub fn spawn(&self, mut command: Command) -> Running {
        let folder = tempfile::Builder::new().prefix("said-").tempdir_in(self.folder.path());
        let folder = folder.unwrap().keep();
        let file = |name| fs::File::create(folder.join(name)).unwrap();
        let child = command.stdout(file("out")).stderr(file("err")).spawn().unwrap();
        Running { child, folder, since: Instant::now() }
    }

    /// Runs a controller to its end.
    pub fn lvsprov(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait(PATIENCE)
    }

    /// The same, which must end with `code`.
    pub fn expect(&self, arguments: &[&str], code: i32) -> Ended {
        let ended = self.lvsprov(arguments);
        assert_eq!(ended.code, Some(code), "{arguments:?} said:\n{ended}");
        ended
    }

    /// A path in a host's own tree of files.
    pub fn path(&self, host: &HostName, path: &str) -> PathBuf {
        self.sshds.root(host).unwrap().join(path)
    }

    /// Runs a program in a host's network namespace.
    pub fn inside(
        &self,
        host: &HostName,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> String {
        let run = || {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let output = self.lab.run_in(host, run).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?} on {host}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a program on a host over ssh, as an operator would.
    pub fn on(&self, host: &HostName, line: &str) -> Ended {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.sshds.ssh_config()).arg(host.as_str()).arg(line);
        self.spawn({
            ssh.stdin(Stdio::null());
            ssh
        })
        .wait(PATIENCE)
    }

    /// What a host's agents do at which point, from now on.
    pub fn fault(&self, host: &HostName, lines: &str) {
        fs::write(self.path(host, FAULTS), lines).unwrap();
    }

    pub fn no_faults(&self) {
        for host in self.hosts() {
            let _ = fs::remove_file(self.path(&host, FAULTS));
        }
    }

    /// Agents of a host (not its revert timers), with the state that the kernel says they are in.
    pub fn agents(&self, host: &HostName) -> Vec<(Pid, char)> {
        processes(self.sshds.root(host).as_deref())
            .into_iter()
            .filter(|process| !process.arguments.iter().any(|a| a.contains("revert")))
            .map(|process| (process.pid, process.state))
            .collect()
    }

    /// Waits until an agent of `host` has stopped itself.
    pub fn wait_for_stopped(&self, host: &HostName, controller: &mut Running) -> Option<Pid> {
        let deadline = Instant::now() + speed::scaled(PATIENCE);
        loop {
            let stopped = self.agents(host).into_iter().find(|(_, state)| *state == 'T');
            if let Some((pid, _)) = stopped {
                return Some(pid);
            }
            if controller.ended() {
                return None;
            }
            assert!(Instant::now() < deadline, "no agent of {host} stops, and none ends");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no agent is left anywhere: what they were told they have done or not.
    pub fn wait_for_agents(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + speed::scaled(limit);
        while self.hosts().iter().any(|host| !self.agents(host).is_empty()) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// All that a host shows without lvsprov: the lab's snapshot, `ip -j`, `ipvsadm -Sn`, and what lies
    /// in lvsprov's folder but the agent itself.
    pub fn photograph(&self) -> Photo {
        let of = |host: &HostName| {
            let mut seen = snapshot::snapshot(self.lab.namespace(host).unwrap()).unwrap();
            if let Some(root) = self.sshds.root(host) {
                seen.insert("ip -j".to_owned(), self.ip(host));
                seen.insert("ipvsadm -Sn".to_owned(), self.inside(host, "ipvsadm", &["-Sn"], ""));
                kept(&root.join(STATE), &mut seen);
            }
            seen
        };
        std::thread::scope(|scope| {
            let all = self.topology.hosts.keys();
            let all: Vec<_> = all.map(|host| (host, scope.spawn(move || of(host)))).collect();
            all.into_iter().map(|(host, seen)| (host.clone(), seen.join().unwrap())).collect()
        })
    }

    fn ip(&self, host: &HostName) -> String {
        let all = "link show\naddress show\nroute show table all\nrule show\n";
        without_noise(&self.inside(host, "ip", &["-j", "-b", "-"], all))
    }

    /// IPv6 addresses of the links' own are of no use for a second or two; and look different then.
    fn wait_for_addresses(&self) {
        let deadline = Instant::now() + speed::scaled(PATIENCE);
        for host in self.topology.hosts.keys() {
            while !self.inside(host, "ip", &["-6", "address", "show", "tentative"], "").is_empty() {
                assert!(Instant::now() < deadline, "{host} has tentative addresses");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

impl Running {
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// What it has said so far, on both streams.
    pub fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// What it hears; only once, and only if it was told to listen.
    pub fn input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Waits for its end, for `limit` on a machine for which that was chosen; that it has none in time is
    /// told as such.
    pub fn wait(mut self, limit: Duration) -> Ended {
        let limit = speed::scaled(limit);
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still there after {limit:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        };
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap();
        Ended {
            code: status.code(),
            out: read("out"),
            err: read("err"),
            took: self.since.elapsed(),
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait(PATIENCE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, out, err, took } = self;
        write!(f, "exit {code:?} after {:.1} s\n{out}{err}", took.as_secs_f64())
    }
}

/// By host, what there is by name.
pub type Photo = BTreeMap<HostName, snapshot::Snapshot>;

/// What differs between two looks at the same hosts, one line each.
pub fn difference(before: &Photo, after: &Photo) -> Vec<String> {
    let of = |host: &HostName| {
        let none = snapshot::Snapshot::new();
        let (before, after) = (before.get(host).unwrap_or(&none), after.get(host).unwrap_or(&none));
        let lines = snapshot::difference(before, after);
        lines.into_iter().map(|line| format!("{host}: {line}")).collect::<Vec<_>>()
    };
    before.keys().flat_map(of).collect()
}

pub fn load(text: &str) -> Topology {
    let examined = lvsprov::check::examine("crash-recovery", text);
    examined.topology.unwrap_or_else(|| panic!("{:#?}", examined.findings))
}

/// Lifetimes count down.
fn without_noise(lines: &str) -> String {
    let mut all = String::new();
    for shown in serde_json::Deserializer::from_str(lines).into_iter::<serde_json::Value>() {
        let mut document = shown.unwrap();
        let all_links = document.as_array_mut().into_iter().flatten();
        let addresses =
            all_links.filter_map(|link| link.get_mut("addr_info")?.as_array_mut()).flatten();
        for address in addresses {
            let address = address.as_object_mut().unwrap();
            address.remove("valid_life_time");
            address.remove("preferred_life_time");
        }
        all.push_str(&document.to_string());
        all.push('\n');
    }
    all
}

/// Every file below `folder` with its mode and content, without the agent, what was undone last, and without the time of the
/// first apply, which is another one after each destroy.
fn kept(folder: &Path, seen: &mut snapshot::Snapshot) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        // What is only told, and of another time.
        if name == "agent" || name == "lock" || name == "reverted.json" {
            continue;
        }
        if path.is_dir() {
            kept(&path, seen);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let text = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(mut value) => {
                if let Some(object) = value.as_object_mut() {
                    object.remove("since");
                }
                value.to_string()
            }
            Err(_) => text,
        };
        let whole = path.to_string_lossy();
        let short = whole.split_once("/root/").map_or(whole.as_ref(), |(_, rest)| rest);
        let mode = fs::symlink_metadata(&path).map_or(0, |found| found.mode() & 0o7777);
        seen.insert(format!("file {short}"), format!("{mode:o} {text}"));
    }
}

struct Process {
    pid: Pid,
    state: char,
    arguments: Vec<String>,
}

/// The agents' processes that have the same view of the file tree as an sshd.
fn processes(root: Option<&Path>) -> Vec<Process> {
    let Some(root) = root else { return Vec::new() };
    // /var/lib is each host's own.
    let own = |root: &Path| fs::metadata(root.join("var/lib")).ok().map(|found| found.dev());
    let wanted = own(root);
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let all = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<String> =
            line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        let is_agent = arguments.first()?.contains("/lvsprov/agent/lvsprov-")
            && arguments.get(1).is_some_and(|word| word == "agent");
        if !is_agent || own(&entry.path().join("root")) != wanted {
            return None;
        }
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        Some(Process { pid: Pid::from_raw(pid), state, arguments })
    });
    all.filter(|process| process.state != 'Z').collect()
}
