//! The revert timer leaves control groups that end with the login, or says that it could not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lvsprov::protocol::{Reply, Request};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::faults::timers;
use crate::support::agents::{Agent, begin, changes, paired_netns, revert_after, roll_back};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually};

pub fn cases() -> Vec<Case> {
    cases![it_leaves_every_group_that_ends_with_the_login, it_says_at_once_what_it_could_not_leave]
}

/// Where such groups are, below the folder of a test.
const LOGINS: [&str; 3] = [
    "user.slice/user-0.slice/session-7.scope",
    "user.slice/user-0.slice/user@0.service/app.slice/vte-spawn-1.scope",
    "system.slice/system-ssh.slice/ssh@3-192.0.2.1:22-192.0.2.9:50000.service",
];

/// Version 2, mounted where nobody else sees it, with a group that goes when this is dropped.
struct Tree {
    mounted: tempfile::TempDir,
    group: PathBuf,
}

impl Tree {
    /// For this thread, and what it starts.
    fn here(group: &str) -> Self {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let mounted = tempfile::tempdir().unwrap();
        mount(Some("none"), mounted.path(), Some("cgroup2"), MsFlags::empty(), none).unwrap();
        let name = mounted.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let group = mounted.path().join(format!("lvsprov-test-{name}")).join(group);
        fs::create_dir_all(&group).unwrap();
        Self { mounted, group }
    }

    fn take(&self, pid: u32) {
        fs::write(self.group.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// As in a container, wherever it is mounted.
    fn make_read_only(&self) {
        assert!(mounts().iter().any(|point| point == self.mounted.path()));
        for point in mounts() {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, &point, None::<&str>, flags, None::<&str>).unwrap();
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        let _ = mount(None::<&str>, self.mounted.path(), None::<&str>, flags, None::<&str>);
        let failed = std::thread::panicking();
        if failed {
            // Nobody else is in there: the agent, and a timer that has not left.
            let inside = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        let mut folder = self.group.as_path();
        while folder != self.mounted.path() {
            // It is empty as soon as who was in there is gone for the kernel too.
            let pause = Duration::from_millis(10);
            let removed = (0..1000)
                .any(|_| fs::remove_dir(folder).inspect_err(|_| std::thread::sleep(pause)).is_ok());
            assert!(removed || failed, "{} is not empty", folder.display());
            folder = folder.parent().unwrap();
        }
        nix::mount::umount(self.mounted.path()).unwrap();
    }
}

/// Where version 2 is mounted, for this thread.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let lines = text.lines().filter(|line| line.contains(" - cgroup2 "));
    lines.map(|line| line.split(' ').nth(4).unwrap().into()).collect()
}

/// The group of a process in version 2.
fn group(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

fn begun(agent: &mut Agent) {
    let mut wish = begin(1, changes(), &agent.look());
    wish.revert = Some(revert_after(600_000));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
}

fn started(netns: &NetnsHost) -> Agent {
    Agent::here(netns.folder.path(), &BTreeMap::new())
}

fn it_leaves_every_group_that_ends_with_the_login() {
    for login in LOGINS {
        let netns = paired_netns();
        netns.run(|| {
            let tree = Tree::here(login);
            let mut agent = started(&netns);
            tree.take(agent.pid());
            begun(&mut agent);
            let timer = timers(&netns)[0];
            assert!(group(agent.pid()).ends_with(login), "{}", group(agent.pid()));
            assert_eq!(group(timer), group(1), "{login}");
            assert_eq!(agent.look().open_transaction.unwrap().notes, [""; 0]);
            drop(agent);
            roll_back(&netns, 1);
            eventually("the timer has ended", || timers(&netns).is_empty());
        });
    }
}

fn it_says_at_once_what_it_could_not_leave() {
    let netns = paired_netns();
    netns.run(|| {
        let tree = Tree::here(LOGINS[1]);
        let mut agent = started(&netns);
        tree.take(agent.pid());
        tree.make_read_only();
        begun(&mut agent);
        let timer = timers(&netns)[0];
        assert_eq!(group(timer), group(agent.pid()));
        let mut told = Vec::new();
        eventually("it says so", || {
            told = agent.look().open_transaction.unwrap().notes;
            !told.is_empty()
        });
        let [told] = &told[..] else { panic!("{told:?}") };
        for says in ["is still in the control group", LOGINS[1], "Read-only file system"] {
            assert!(told.contains(says), "{told}");
        }
        drop(agent);
        roll_back(&netns, 1);
        eventually("the timer has ended", || timers(&netns).is_empty());
    });
}
