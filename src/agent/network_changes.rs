//! Changes of the files that lvsprov-network.path watches: programs of the host write them as they configure an interface.
//!
//! systemd starts the unit at a change. A change while the unit runs starts nothing: its start is merged with the one that
//! runs (systemd.unit(5), job modes). So the process that the unit starts looks for changes itself, and ends once none
//! came for [`QUIET`]. systemd watches again a little after that: a process that outlives the unit waits for it, and has
//! the unit started once more if something changed in between.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::boot_unit;
use super::cgroups;
use super::unit_files::{NETWORK_PATH_NAME, NETWORK_UNIT_NAME};
use crate::visible::hex;

/// The folders, as in the path unit.
const FOLDERS: [&str; 3] =
    ["/run/systemd/netif/links", "/run/NetworkManager/devices", "/run/network"];

/// Without a change for so long, the programs are done.
const QUIET: Duration = Duration::from_secs(1);
/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// After so long the process ends all the same, and systemd starts it again.
const LONGEST: Duration = Duration::from_mins(1);
/// How long it takes at most until systemd watches again.
const WATCHED_WITHIN: Duration = Duration::from_mins(1);

/// The files at one moment: path, inode, time of the last change in seconds and nanoseconds, length.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(Vec<(PathBuf, u64, i64, i64, u64)>);

impl Stamp {
    fn now(root: &Path) -> Self {
        let mut all = Vec::new();
        for folder in FOLDERS {
            let folder = super::link_managers::below(root, Path::new(folder));
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path()).chain([folder]);
            all.extend(paths.filter_map(|path| {
                // A file may be gone by now.
                let found = fs::symlink_metadata(&path).ok()?;
                Some((path, found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
            }));
        }
        all.sort();
        Self(all)
    }

    /// The same in 64 hexadecimal digits.
    fn digest(&self) -> String {
        hex(&Sha256::digest(format!("{self:?}")))
    }
}

/// Follows the changes from a moment on.
pub(super) struct NetworkChanges {
    root: PathBuf,
    since: Instant,
    last: Stamp,
}

impl NetworkChanges {
    /// From now on.
    pub fn new() -> Self {
        Self::below(Path::new("/"))
    }

    fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), since: Instant::now(), last: Stamp::now(root) }
    }

    /// Waits for a change since the last call, or since it follows them. False: there is none, and none came.
    pub async fn another(&mut self) -> bool {
        let waited = Instant::now();
        while self.since.elapsed() < LONGEST {
            let now = Stamp::now(&self.root);
            if now != self.last {
                self.last = now;
                return true;
            }
            if waited.elapsed() >= QUIET {
                break;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        false
    }

    /// Starts the process that outlives the unit of this one.
    pub fn hand_over(&self, program: &Path) -> io::Result<()> {
        let mut command = Command::new(program);
        command.args(["agent", "--changed-since", &self.last.digest()]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It may be a zombie until this process ends: nothing waits for it.
        command.spawn().map(drop)
    }
}

/// The whole life of the process that outlives the unit: what the files were when it ended has the digest `last`.
pub(super) fn watch_until_systemd_does(last: &str) -> ExitCode {
    // It fails where the process leads a session already.
    let _ = nix::unistd::setsid();
    cgroups::leave();
    let since = Instant::now();
    while since.elapsed() < WATCHED_WITHIN {
        match after_unit(&boot_unit::sub_state(NETWORK_PATH_NAME), last, || {
            Stamp::now(Path::new("/")).digest()
        }) {
            AfterUnit::Wait => std::thread::sleep(INTERVAL),
            AfterUnit::Start => {
                let started = boot_unit::start_unit(NETWORK_UNIT_NAME);
                return if started.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            AfterUnit::End => return ExitCode::SUCCESS,
        }
    }
    ExitCode::FAILURE
}

/// What the process that outlives the unit does next.
#[derive(Debug, PartialEq, Eq)]
enum AfterUnit {
    Wait,
    Start,
    End,
}

/// `path`: the state of the path unit, as systemd calls it (`systemctl --state=help`). It watches only while it waits.
fn after_unit(path: &str, last: &str, now: impl Fn() -> String) -> AfterUnit {
    match path {
        "running" => AfterUnit::Wait,
        "waiting" if now() != last => AfterUnit::Start,
        // The unit was stopped, or systemd does not answer.
        _ => AfterUnit::End,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::agent::boot_unit::NETWORK_PATH;

    #[test]
    fn the_folders_are_those_of_the_unit() {
        let watched = NETWORK_PATH.lines().filter_map(|line| line.strip_prefix("PathChanged="));
        assert_eq!(watched.collect::<Vec<_>>(), FOLDERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_once_whenever_it_came() {
        let root = tempfile::tempdir().unwrap();
        let links = root.path().join("run/systemd/netif/links");
        fs::create_dir_all(&links).unwrap();
        fs::write(links.join("2"), "configuring").unwrap();
        let mut changes = NetworkChanges::below(root.path());
        // While it works.
        fs::write(links.join("2"), "configured!").unwrap();
        fs::write(links.join("2.new"), "configured!").unwrap();
        fs::rename(links.join("2.new"), links.join("2")).unwrap();
        assert!(changes.another().await);
        // A program's folder that appears, and one that goes.
        fs::create_dir_all(root.path().join("run/network")).unwrap();
        assert!(changes.another().await);
        fs::remove_dir_all(&links).unwrap();
        assert!(changes.another().await);
        let digest = Stamp::now(root.path()).digest();
        assert_eq!(digest, changes.last.digest());
        changes.since = Instant::now().checked_sub(LONGEST).unwrap();
        fs::create_dir_all(&links).unwrap();
        assert!(!changes.another().await, "it ends, whatever comes");
        let now = || Stamp::now(root.path()).digest();
        assert_eq!(after_unit("running", &digest, now), AfterUnit::Wait);
        assert_eq!(after_unit("waiting", &digest, now), AfterUnit::Start);
        assert_eq!(after_unit("waiting", &now(), now), AfterUnit::End);
        assert_eq!(after_unit("dead", &digest, now), AfterUnit::End);
    }
}
