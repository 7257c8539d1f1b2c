//! A host that boots: systemd as first process, with networkd, in namespaces of its own. Its root is the machine's own
//! root under an overlay, and the overlay's upper layer is its disk: it stays from boot to boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::speed;

/// Makes the root and becomes systemd. `$1`: the disk.
const BOOT: &str = "set -e; mkdir -p \"$1/up\" \"$1/work\" \"$1/root\"; \
    mount -t overlay overlay -o \"lowerdir=/,upperdir=$1/up,workdir=$1/work\" \"$1/root\"; cd \"$1/root\"; \
    mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup; \
    mount -t tmpfs -o mode=755 none run; mount -t tmpfs -o mode=1777 none tmp; mount --rbind /dev dev; \
    exec env -i container=lvsprov PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd \
    --unit=lvsprov-test.target --show-status=no --log-target=console";

/// What is booted into: the network, and what is wanted by it.
const TARGET: &str = "[Unit]\nDescription=The network of a host\n\
    Wants=systemd-networkd.service systemd-networkd-wait-online.service network-online.target\n";

/// Where the program lies on the disk.
pub const PROGRAM: &str = "/opt/lvsprov";

pub struct BootedHost {
    /// Its network namespace.
    pub netns: String,
    disk: tempfile::TempDir,
    running: Option<Child>,
}

impl BootedHost {
    /// Its disk, with `address` for eth0 in networkd's files. It is not started yet.
    pub fn new(netns: &str, address: &str) -> Self {
        // A file system of its own: the root cannot be above and below at once.
        let disk = tempfile::Builder::new().prefix("lvsprov-").tempdir_in("/dev/shm").unwrap();
        let host = Self { netns: netns.to_owned(), disk, running: None };
        host.write("/etc/systemd/system/lvsprov-test.target", TARGET);
        let network = format!(
            "[Match]\nName=eth0\n[Network]\nAddress={address}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        );
        host.write("/etc/systemd/network/10-eth0.network", &network);
        let program = host.path(PROGRAM);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_lvsprov"), program).unwrap();
        // Of other tests' hosts.
        let states = host.path("/var/lib/lvsprov");
        fs::create_dir_all(&states).unwrap();
        host
    }

    /// Where a file of its disk lies here.
    pub fn path(&self, path: &str) -> PathBuf {
        self.disk.path().join("up").join(path.trim_start_matches('/'))
    }

    /// Where a file lies here as it sees it while it runs: what is written beside an overlay, it may overlook.
    pub fn live_path(&self, path: &str) -> PathBuf {
        let first = self.first_process().expect("the host runs");
        Path::new("/proc").join(first).join("root").join(path.trim_start_matches('/'))
    }

    /// Before it is started.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Starts it in its network namespace, which must be as bare as the hardware.
    pub fn start(&mut self) {
        assert!(self.running.is_none());
        let log = fs::File::create(self.disk.path().join("console")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.netns, "unshare", "--mount", "--propagation", "private"])
            .args([
                "--pid",
                "--uts",
                "--ipc",
                "--cgroup",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                BOOT,
                "sh",
            ])
            .arg(self.disk.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
    }

    /// Until it has come up.
    pub fn wait(&self) {
        let deadline = Instant::now() + speed::patience();
        loop {
            let state = self.run(&["systemctl", "is-active", "lvsprov-test.target"]);
            if state.as_ref().is_some_and(|output| output.stdout == b"active\n") {
                return;
            }
            let console = || fs::read_to_string(self.disk.path().join("console"));
            assert!(Instant::now() < deadline, "it does not come up: {state:?}\n{:?}", console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has gone down by itself.
    pub fn wait_until_down(&mut self) {
        let deadline = Instant::now() + speed::patience();
        let child = self.running.as_mut().expect("it was started");
        while child.try_wait().unwrap().is_none() {
            let console = || fs::read_to_string(self.disk.path().join("console"));
            assert!(Instant::now() < deadline, "it does not go down: {:?}", console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The power fails: all of its processes end at once.
    pub fn cut_power(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        // unshare --kill-child ends the first process with itself, and with that all others.
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs a program there; `None`: the host is not so far.
    pub fn run(&self, words: &[&str]) -> Option<Output> {
        self.command(words)?.output().ok()
    }

    /// A program there.
    pub fn command(&self, words: &[&str]) -> Option<Command> {
        let first = self.first_process()?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &first, "--mount", "--pid", "--net", "--ipc", "--uts"]);
        command.args(["--root", "--wd=/", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(words).stdin(Stdio::null());
        Some(command)
    }

    /// What a program there says, after it ended with `code`.
    pub fn expect(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words).expect("the host runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?} said:\n{text}");
        text
    }

    /// The number of its first process here, once that is systemd.
    fn first_process(&self) -> Option<String> {
        let unshare = self.running.as_ref()?.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let first = fs::read_to_string(children).ok()?.split_whitespace().next()?.to_owned();
        let name = fs::read_to_string(Path::new("/proc").join(&first).join("comm")).ok()?;
        (name.trim() == "systemd").then_some(first)
    }
}

impl Drop for BootedHost {
    fn drop(&mut self) {
        self.cut_power();
    }
}
