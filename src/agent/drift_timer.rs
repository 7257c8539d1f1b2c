//! The timer that has systemd start `lvsprov agent --drift`: its two units, installed and removed with the boot unit
//! ([`super::boot_unit`]), and the changes of other units that systemd knows of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::boot_unit::SYSTEMCTL;
use super::file_tree::{FileTree, RootTree, put, put_link, remove_all};
use super::link_managers::below;
use super::process;
use super::unit_files::UNIT_FOLDER;
use crate::state::UnitChange;

/// The unit that looks for drift.
pub const SERVICE: &str = include_str!("../../templates/lvsprov-drift.service");
/// The unit that starts it.
const TIMER: &str = include_str!("../../templates/lvsprov-drift.timer");

/// The name of the unit that looks for drift.
pub(super) const SERVICE_NAME: &str = "lvsprov-drift.service";
/// The name of the unit that starts it.
pub(super) const TIMER_NAME: &str = "lvsprov-drift.timer";
/// What the timer is wanted by, so that it runs from boot on.
const WANTS: &str = "lvsprov-boot.service.wants";

/// The text of the timer. `every_s`: seconds between two looks. A tenth of that more, by chance, keeps the hosts of a
/// cluster apart.
pub fn timer(every_s: u32) -> String {
    let delay = (every_s / 10).max(1);
    TIMER.replace("@EVERY@", &format!("{every_s}s")).replace("@DELAY@", &format!("{delay}s"))
}

/// The files of the timer below a root folder.
pub(super) struct TimerFiles {
    service: PathBuf,
    timer: PathBuf,
    link: PathBuf,
}

impl TimerFiles {
    /// Below `root`.
    pub fn below(root: &Path) -> Self {
        let folder = below(root, Path::new(UNIT_FOLDER));
        Self {
            service: folder.join(SERVICE_NAME),
            timer: folder.join(TIMER_NAME),
            link: folder.join(WANTS).join(TIMER_NAME),
        }
    }

    /// All of them: the link, then the unit that the timer starts last, which it needs.
    pub fn all(&self) -> [PathBuf; 3] {
        [self.link.clone(), self.timer.clone(), self.service.clone()]
    }

    /// Those that are missing or changed, for looks every `every_s` seconds.
    pub fn lacking(&self, every_s: u32) -> Vec<PathBuf> {
        let is_right =
            |path: &Path, text: &str| fs::read(path).is_ok_and(|there| there == text.as_bytes());
        let parts = [
            (&self.service, is_right(&self.service, SERVICE)),
            (&self.timer, is_right(&self.timer, &timer(every_s))),
            (&self.link, fs::symlink_metadata(&self.link).is_ok()),
        ];
        parts.into_iter().filter(|(_, is_right)| !is_right).map(|(path, _)| path.clone()).collect()
    }

    /// Writes them.
    pub fn install(&self, tree: &dyn FileTree, every_s: u32) -> io::Result<()> {
        put(tree, &self.service, 0o644, &mut SERVICE.as_bytes())?;
        put(tree, &self.timer, 0o644, &mut timer(every_s).as_bytes())?;
        put_link(tree, &Path::new("..").join(TIMER_NAME), &self.link)
    }

    /// Whether the timer is there.
    pub fn are_present(&self) -> bool {
        self.all().iter().any(|path| RootTree.is_there(path))
    }

    /// Removes them, the link first. Whether there was anything to remove.
    pub fn remove(&self, tree: &dyn FileTree) -> io::Result<bool> {
        let mut removed = false;
        for path in self.all() {
            removed |= remove_all(tree, std::slice::from_ref(&path))?;
        }
        // Only if it is empty: other units may be wanted there.
        if let Some(folder) = self.link.parent() {
            let _ = tree.remove_folder(folder);
        }
        Ok(removed)
    }
}

/// Those of `units` whose state systemd changed since `since`, in seconds since 1970; `now`: that time. A unit that was
/// never started has no such time.
pub(super) fn changed_since(units: &[&str], since: u64, now: u64) -> Vec<UnitChange> {
    let Some(program) = SYSTEMCTL.iter().find(|path| Path::new(path).exists()) else {
        return Vec::new();
    };
    if units.is_empty() {
        return Vec::new();
    }
    let mut command = Command::new(program);
    command.args(["show", "--property=Id,StateChangeTimestampMonotonic", "--"]).args(units);
    let Ok(output) = command.env_clear().output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    changes(&text, process::monotonic_us(), now).filter(|change| change.at >= since).collect()
}

/// The units in the output of systemctl(1). Times there are microseconds of `CLOCK_MONOTONIC`, which is at `clock_us` at
/// `now`.
fn changes(text: &str, clock_us: u64, now: u64) -> impl Iterator<Item = UnitChange> + '_ {
    text.split("\n\n").filter_map(move |unit| {
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
        let at: u64 = value("StateChangeTimestampMonotonic=")?.parse().ok()?;
        let id = value("Id=").filter(|id| !id.is_empty() && at > 0)?;
        let ago = clock_us.saturating_sub(at) / 1_000_000;
        Some(UnitChange { unit: id.to_owned(), at: now.saturating_sub(ago) })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_timer_is_installed_changed_and_removed_without_a_trace() {
        let root = tempfile::tempdir().unwrap();
        let folder = below(root.path(), Path::new(UNIT_FOLDER));
        fs::create_dir_all(&folder).unwrap();
        let files = TimerFiles::below(root.path());
        assert_eq!(files.lacking(60).len(), 3);
        files.install(&RootTree, 60).unwrap();
        files.install(&RootTree, 60).unwrap();
        assert_eq!(files.lacking(60), Vec::<PathBuf>::new());
        assert_eq!(files.lacking(61), std::slice::from_ref(&files.timer));
        assert_eq!(fs::read_to_string(&files.link).unwrap(), timer(60));
        fs::write(&files.service, "[Unit]").unwrap();
        assert_eq!(files.lacking(60), std::slice::from_ref(&files.service));
        assert!(files.are_present());
        files.remove(&RootTree).unwrap();
        files.remove(&RootTree).unwrap();
        assert!(!files.are_present());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_unit_that_changed_has_its_time() {
        let text = "Id=nftables.service\nStateChangeTimestampMonotonic=70000000\n\n\
                    StateChangeTimestampMonotonic=0\nId=ufw.service\n\nStateChangeTimestampMonotonic=99000000\n\
                    Id=networking.service\n";
        let found: Vec<UnitChange> = changes(text, 100_000_000, 1000).collect();
        let expected = [("nftables.service", 970), ("networking.service", 999)];
        let expected = expected.map(|(unit, at)| UnitChange { unit: unit.to_owned(), at });
        assert_eq!(found, expected);
    }
}
