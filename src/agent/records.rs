//! The small files beside a [`journal`](super::journal): what is known when a transaction begins, and
//! three that are written over in place, so that no full disk stops them.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::disk::{cannot_io, overwrite, read_file};
use super::process::{self, Process};
use crate::kernel::error::Result;
use crate::kernel::namespace::NamespaceId;
use crate::state::{Journal, Operator, Reverted};

/// What `holder.json` takes, in bytes.
pub(super) const HOLDER_SIZE: usize = 4 << 10;
/// What `notes.json` takes, in bytes.
pub(super) const NOTES_SIZE: usize = 16 << 10;
/// What `heard` takes, in bytes.
pub(super) const HEARD_SIZE: usize = 32;

/// `begun.json`: what is known when it begins and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreparedRecord {
    /// Between which restarts of the host.
    pub boot: String,
    /// When the first process was started, as [`process::init_start`] says; in a container that tells two
    /// of its runs apart.
    #[serde(default)]
    pub init: Option<u64>,
    /// In which network namespace; one that was deleted and made anew is as empty as after a restart.
    #[serde(default)]
    pub namespace: Option<NamespaceId>,
    /// Whether there was a receipt before.
    pub has_before: bool,
    /// Whether there will be one.
    pub has_settled: bool,
    /// Who undoes it, and when.
    pub timer: Option<Timer>,
}

impl PreparedRecord {
    /// Whether the host, or its network namespace, was made anew since. Where the first process or the
    /// namespace cannot be told, by the rest alone.
    pub fn restarted(&self) -> Result<bool> {
        let another_init =
            self.init.zip(process::init_start()).is_some_and(|(then, now)| then != now);
        let another_namespace = self
            .namespace
            .as_ref()
            .is_some_and(|then| NamespaceId::current().is_ok_and(|now| then.differs(&now)));
        Ok(another_init || another_namespace || self.boot != process::boot_id()?)
    }
}

/// The revert timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timer {
    /// Which process.
    pub process: Process,
    /// When it does what withdraws, in milliseconds since the host was started.
    pub withdraw_at_ms: Option<u64>,
    /// When it does the rest.
    pub build_at_ms: u64,
}

impl Timer {
    /// Milliseconds until it undoes anything. `None`: it is no more; or it is `reverting` and past its time,
    /// so it has done what it could, tries again from time to time, and keeps nobody from doing better.
    pub fn pending(&self, reverting: bool) -> Option<u64> {
        let Self { process, withdraw_at_ms, build_at_ms } = self;
        let now = process::boottime_ms();
        if reverting && now >= *build_at_ms {
            return None;
        }
        // What withdraws first is no sooner undone than the rest is begun.
        let next =
            withdraw_at_ms.filter(|at| *at > now).map_or(*build_at_ms, |at| at.min(*build_at_ms));
        process.is_alive().then(|| next.saturating_sub(now))
    }
}

/// `holder.json`: the connection that works at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderRecord {
    /// The agent.
    pub process: Process,
    /// Tells two connections of one process apart, by chance.
    pub connection: String,
    /// Who, by the controller's word.
    pub by: Operator,
    /// From where.
    pub from: Option<IpAddr>,
    /// Since when, in milliseconds since the host was started.
    pub since_ms: u64,
    /// When it ends by itself, in seconds of silence.
    pub idle_limit_s: u32,
}

/// `value` as JSON, with blanks behind it up to `size` bytes.
pub(super) fn padded<T: Serialize>(value: &T, size: usize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(value)?;
    if text.len() >= size {
        return Err(io::Error::other(format!("{} bytes have no place in {size}", text.len())));
    }
    text.resize(size - 1, b' ');
    text.push(b'\n');
    Ok(text)
}

/// Notes who works at it from now on.
pub(super) fn hold(folder: &Path, holder: &HolderRecord) -> Result<()> {
    let path = folder.join("holder.json");
    padded(holder, HOLDER_SIZE)
        .and_then(|text| overwrite(&path, &text))
        .map_err(|error| cannot_io("write", &path, error))?;
    heard(folder);
    Ok(())
}

/// Notes that the holder was heard just now. For people: it may fail.
pub(super) fn heard(folder: &Path) {
    let _ = padded(&process::boottime_ms(), HEARD_SIZE)
        .and_then(|text| overwrite(&folder.join("last_request"), &text));
}

/// Notes for people what the timer did or could not do; as many lines as there is room for, the first and
/// the last of them: those say most.
pub(super) fn tell(folder: &Path, lines: &[String]) {
    let mut kept = lines.to_vec();
    while let Err(_too_long) = padded(&kept, NOTES_SIZE) {
        if kept.is_empty() {
            return;
        }
        kept.remove(kept.len() / 2 - usize::from(kept.len() == 2));
    }
    let _ = padded(&kept, NOTES_SIZE).and_then(|text| overwrite(&folder.join("notes.json"), &text));
}

fn reverted_path(parent: &Path) -> PathBuf {
    parent.join("reverted.json")
}

/// Keeps past the end of a transaction that the timer undid it, in the room that `notes.json` had. For
/// people: it may fail.
pub(super) fn keep_reverted(folder: &Path, journal: &Journal) {
    let Some(parent) = folder.parent() else { return };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let reverted = Reverted {
        transaction: journal.transaction.clone(),
        intent: journal.intent,
        by: journal.by.clone(),
        at: now.map_or(0, |since| since.as_secs()),
    };
    let told = folder.join("notes.json");
    let _ = padded(&reverted, NOTES_SIZE)
        .and_then(|text| overwrite(&told, &text))
        .and_then(|()| fs::rename(&told, reverted_path(parent)));
}

/// It was not the end after all: `notes.json` has its room again.
pub(super) fn take_reverted_back(folder: &Path) {
    let Some(parent) = folder.parent() else { return };
    let _ = fs::rename(reverted_path(parent), folder.join("notes.json"));
}

/// What the timer undid last in the folder of a topology, if that can be read.
pub(super) fn reverted(parent: &Path) -> Option<Reverted> {
    let text = read_file(&reverted_path(parent), "note").ok().flatten()?;
    serde_json::from_slice(&text).ok()
}

/// Something else was begun since.
pub(super) fn forget_reverted(parent: &Path) {
    let _ = fs::remove_file(reverted_path(parent));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_too_many_lines_the_first_and_the_last_stay() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("notes.json");
        let none: Vec<String> = Vec::new();
        fs::write(&told, padded(&none, NOTES_SIZE).unwrap()).unwrap();
        let long = |length: usize| {
            let mut lines = vec!["the first".to_owned()];
            lines.extend((0..30).map(|number| format!("{number:02}{}", "x".repeat(length))));
            lines.push("has given up".to_owned());
            lines
        };
        let read = || {
            let text = fs::read(&told).unwrap();
            assert_eq!(text.len(), NOTES_SIZE);
            serde_json::from_slice::<Vec<String>>(&text).unwrap()
        };
        tell(folder.path(), &long(1000));
        let kept = read();
        assert!(kept.len() > 10 && kept.len() < 32, "{}", kept.len());
        assert_eq!(
            (kept[0].as_str(), kept.last().unwrap().as_str()),
            ("the first", "has given up")
        );
        // Even where one line has no place beside it.
        tell(folder.path(), &["x".repeat(NOTES_SIZE), "has given up".to_owned()]);
        assert_eq!(read(), ["has given up"]);
    }
}
