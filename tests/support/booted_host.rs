//! A host that boots: systemd as first process in namespaces of its own. Its root is the machine's own root under an
//! overlay, and the overlay's upper layer is its disk: it stays from boot to boot.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::speed;

/// Goes into a control group of its own, makes the root and becomes systemd. `$1`: the disk, `$2`: the host's name.
/// Two systemd in one control group would end each other's processes (cgroup.kill).
const BOOT: &str = "set -e; mkdir -p \"$1/up\" \"$1/work\" \"$1/root\" \"$1/cgroup\"; \
    mount -t cgroup2 cgroup2 \"$1/cgroup\"; mkdir -p \"$1/cgroup/$2\"; echo 0 >\"$1/cgroup/$2/cgroup.procs\"; \
    umount \"$1/cgroup\"; exec unshare --cgroup sh -ec \"$3\" sh \"$1\"";
const ROOT: &str = "mount -t overlay overlay -o \"lowerdir=/,upperdir=$1/up,workdir=$1/work\" \"$1/root\"; \
    cd \"$1/root\"; mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup; \
    mount -t tmpfs -o mode=755 none run; mount -t tmpfs -o mode=1777 none tmp; mount --rbind /dev dev; \
    [ ! -d /lib/modules ] || mount --rbind /lib/modules lib/modules; \
    exec env -i container=lvsprov PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd \
    --unit=lvsprov-test.target --show-status=no --log-target=console";
/// Removes the control groups of a host that ended. `$1`: a folder to mount at, `$2`: the host's name.
const REMOVE_GROUPS: &str =
    "mount -t cgroup2 cgroup2 \"$1\"; find \"$1/$2\" -depth -type d -exec rmdir {} +";

/// Tells that all is up which is ordered before network-online.target.
const UP: &str = "[Unit]\nDefaultDependencies=no\nAfter=network-online.target\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch /run/lvsprov-test-up\n";
const UP_FILE: &str = "/run/lvsprov-test-up";

/// Where the program lies on the disk.
pub const PROGRAM: &str = "/opt/lvsprov";

/// What `scripts/booted-root` unpacks: programs that would manage this machine's network if they were installed.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/booted-root");

pub struct BootedHost {
    /// Its network namespace, and its name.
    pub netns: String,
    disk: tempfile::TempDir,
    running: Option<Child>,
}

impl BootedHost {
    /// Its disk; what it boots into wants `units`. It is not started yet.
    pub fn new(netns: &str, units: &[&str]) -> Self {
        // A file system of its own: the root cannot be above and below at once.
        let disk = tempfile::Builder::new().prefix("lvsprov-").tempdir_in("/dev/shm").unwrap();
        let host = Self { netns: netns.to_owned(), disk, running: None };
        let target = format!(
            "[Unit]\nDescription=What a host boots into\nWants=network-online.target lvsprov-test-up.service {}\n",
            units.join(" ")
        );
        host.write("/etc/systemd/system/lvsprov-test.target", &target);
        host.write("/etc/systemd/system/lvsprov-test-up.service", UP);
        host.mask_kernel_units();
        // Of other tests' hosts.
        fs::create_dir_all(host.path("/var/lib/lvsprov")).unwrap();
        host
    }

    /// Under networkd, with addresses (each with its prefix length) for the interfaces.
    pub fn with_networkd(netns: &str, interfaces: &[(&str, Vec<String>)]) -> Self {
        let units = ["systemd-networkd.service", "systemd-networkd-wait-online.service"];
        let host = Self::new(netns, &units);
        for (name, addresses) in interfaces {
            let addresses: Vec<String> =
                addresses.iter().map(|address| format!("Address={address}")).collect();
            let addresses = addresses.join("\n");
            let text = format!(
                "[Match]\nName={name}\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n{addresses}\n"
            );
            host.write(&format!("/etc/systemd/network/10-{name}.network"), &text);
        }
        host
    }

    /// Units that set up the kernel, which is the machine's own: a path unit has them started, as its default
    /// dependencies are.
    fn mask_kernel_units(&self) {
        let units = self.path("/etc/systemd/system");
        for entry in fs::read_dir("/lib/systemd/system/sysinit.target.wants").unwrap() {
            let name = entry.unwrap().file_name();
            if !name.to_string_lossy().contains("journal") {
                symlink("/dev/null", units.join(name)).unwrap();
            }
        }
    }

    /// Copies the program to [`PROGRAM`].
    pub fn with_program(self) -> Self {
        let program = self.path(PROGRAM);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_lvsprov"), program).unwrap();
        self
    }

    /// Unpacks NetworkManager, netplan and ifupdown on it. There is no udev in it, which a container has not either:
    /// netplan's calls of udevadm succeed and do nothing.
    pub fn with_network_programs(self) -> Self {
        assert!(
            Path::new(UNPACKED).is_dir(),
            "{UNPACKED} is missing: scripts/need test (or scripts/booted-root) unpacks it"
        );
        let copied = Command::new("cp")
            .args(["-a", "--no-preserve=ownership", &format!("{UNPACKED}/.")])
            .arg(self.path("/"))
            .status();
        assert!(copied.unwrap().success());
        let udevadm = self.path("/usr/local/sbin/udevadm");
        fs::create_dir_all(udevadm.parent().unwrap()).unwrap();
        symlink("/bin/true", udevadm).unwrap();
        self
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

    /// The same; only root may read it.
    pub fn write_private(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Starts it in its network namespace, which must be as bare as the hardware.
    pub fn start(&mut self) {
        assert!(self.running.is_none());
        let log = fs::File::create(self.disk.path().join("console")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.netns, "unshare", "--mount", "--propagation", "private"])
            .args(["--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-c", BOOT, "sh"])
            .arg(self.disk.path())
            .args([&self.netns, ROOT])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
    }

    /// Until all has come up that is ordered before network-online.target.
    pub fn wait(&self) {
        let deadline = Instant::now() + speed::patience();
        while !self.is_up() {
            let console = || fs::read_to_string(self.disk.path().join("console"));
            assert!(Instant::now() < deadline, "{} does not come up:\n{:?}", self.netns, console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_up(&self) -> bool {
        let up = UP_FILE.trim_start_matches('/');
        self.first_process()
            .is_some_and(|first| Path::new("/proc").join(first).join("root").join(up).exists())
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
        command.args(["--root", "--wd=/", "env", "-i"]);
        command.arg("PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
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
    pub fn first_process(&self) -> Option<String> {
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
        let folder = self.disk.path().join("cgroup");
        if folder.is_dir() {
            let mut remove = Command::new("unshare");
            remove.args(["--mount", "sh", "-ec", REMOVE_GROUPS, "sh"]).arg(folder).arg(&self.netns);
            let _ = remove.stderr(Stdio::null()).status();
        }
    }
}
