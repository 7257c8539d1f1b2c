//! Changes of the files that lvsprov-network.path watches: programs of the host write them as they configure an interface.
//!
//! systemd starts the unit at a change. A change while the unit runs starts nothing: its start is merged with the one that
//! runs (systemd.unit(5), job modes). So the process that the unit starts looks for changes itself, and ends once none
//! came for [`QUIET`].

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The folders, as in the path unit.
const FOLDERS: [&str; 3] =
    ["/run/systemd/netif/links", "/run/NetworkManager/devices", "/run/network"];

/// Without a change for so long, the programs are done.
const QUIET: Duration = Duration::from_secs(1);
/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// After so long the process ends all the same: systemd starts it again at the next change.
const LONGEST: Duration = Duration::from_mins(1);

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
        changes.since = Instant::now().checked_sub(LONGEST).unwrap();
        fs::create_dir_all(&links).unwrap();
        assert!(!changes.another().await, "it ends, whatever comes");
    }
}
