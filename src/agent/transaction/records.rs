//! The small files beside a [`journal`](super::journal): what is known when a transaction is prepared, and
//! three that are written over in place, so that no full disk stops them.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::process::Process;
use super::actor::{Actor, HostRun};
use super::settled::SettledChange;
use super::store::{Store, cannot_io};
use crate::kernel::error::Result;
use crate::state::{Journal, NamespaceId, Operator, Reverted};

/// Size of `holder.json` in bytes.
pub(super) const HOLDER_SIZE: usize = 4 << 10;
/// Size of `notes.json` in bytes.
pub(super) const NOTES_SIZE: usize = 16 << 10;
/// Size of `last_request` in bytes.
pub(super) const LAST_REQUEST_SIZE: usize = 32;

/// `prepared.json`: what is known when the transaction is prepared and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreparedRecord {
    /// As in [`HostRun`].
    pub boot: String,
    /// As in [`HostRun`].
    pub init: Option<u64>,
    /// As in [`HostRun`].
    pub namespace: Option<NamespaceId>,
    /// Whether there was a receipt before.
    pub has_before: bool,
    /// Whether there is a receipt after the commit.
    pub has_committed: bool,
    /// What the commit does with the settled state. Format 1 lacks it.
    #[serde(default)]
    pub settled: SettledChange,
    /// The revert timer, if there is one.
    pub timer: Option<TimerRecord>,
}

impl PreparedRecord {
    /// Whether the host, or its network namespace, is another one since. Where the first process or the
    /// namespace cannot be read, by the rest alone.
    pub fn restarted(&self, actor: &dyn Actor) -> Result<bool> {
        Ok(self.run().differs(&actor.run()?))
    }

    /// The run of the host in which it was prepared.
    pub fn run(&self) -> HostRun {
        let Self { boot, init, namespace, .. } = self;
        HostRun { boot: boot.clone(), init: *init, namespace: namespace.clone() }
    }
}

/// The revert timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimerRecord {
    /// Its process.
    pub process: Process,
    /// When it executes the steps that withdraw, in milliseconds since the host was started.
    pub withdraw_at_ms: Option<u64>,
    /// When it executes the others.
    pub build_at_ms: u64,
}

impl TimerRecord {
    /// Milliseconds until it undoes anything. `None`: its process ended; or it is `reverting` and past its
    /// time, so it has done what it could, tries again from time to time, and keeps no other connection
    /// from doing better.
    pub fn pending(&self, actor: &dyn Actor, reverting: bool) -> Option<u64> {
        let Self { process, withdraw_at_ms, build_at_ms } = self;
        let now = actor.boottime_ms();
        if reverting && now >= *build_at_ms {
            return None;
        }
        // The withdraw steps are undone no sooner than the others.
        let next =
            withdraw_at_ms.filter(|at| *at > now).map_or(*build_at_ms, |at| at.min(*build_at_ms));
        actor.is_alive(process).then(|| next.saturating_sub(now))
    }
}

/// `holder.json`: the connection that holds the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderRecord {
    /// The agent.
    pub process: Process,
    /// Random: tells two connections of one process apart.
    pub connection: String,
    /// The operator, as the controller reports.
    pub by: Operator,
    /// The address that the operator is logged in from.
    pub from: Option<IpAddr>,
    /// Since when, in milliseconds since the host was started.
    pub since_ms: u64,
    /// After so many seconds without a message it ends.
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

/// Writes the connection that holds the transaction from now on.
pub(super) fn write_holder(
    store: &dyn Store,
    actor: &dyn Actor,
    folder: &Path,
    holder: &HolderRecord,
) -> Result<()> {
    let path = folder.join("holder.json");
    padded(holder, HOLDER_SIZE)
        .and_then(|text| store.overwrite(&path, &text))
        .map_err(|error| cannot_io("write", &path, error))?;
    write_last_request(store, actor, folder);
    Ok(())
}

/// Writes that the holder sent a request just now. Only messages show it: it may fail.
pub(super) fn write_last_request(store: &dyn Store, actor: &dyn Actor, folder: &Path) {
    let _ = padded(&actor.boottime_ms(), LAST_REQUEST_SIZE)
        .and_then(|text| store.overwrite(&folder.join("last_request"), &text));
}

/// Writes for the operator what the timer did or could not do; as many lines as there is room for, the
/// first and the last of them: those matter most.
pub(super) fn write_notes(store: &dyn Store, folder: &Path, lines: &[String]) {
    let mut kept = lines.to_vec();
    while let Err(_too_long) = padded(&kept, NOTES_SIZE) {
        if kept.is_empty() {
            return;
        }
        kept.remove(kept.len() / 2 - usize::from(kept.len() == 2));
    }
    let _ = padded(&kept, NOTES_SIZE)
        .and_then(|text| store.overwrite(&folder.join("notes.json"), &text));
}

fn reverted_path(parent: &Path) -> PathBuf {
    parent.join("reverted.json")
}

/// Keeps past the end of a transaction that the host undid it by itself (the timer, or at boot if it was `restarted`), in
/// the room that `notes.json` had. Only
/// messages show it: it may fail.
pub(super) fn keep_reverted(
    store: &dyn Store,
    actor: &dyn Actor,
    folder: &Path,
    journal: &Journal,
    restarted: bool,
) {
    let Some(parent) = folder.parent() else { return };
    let reverted = Reverted {
        restarted,
        transaction: journal.transaction.clone(),
        intent: journal.intent,
        by: journal.by.clone(),
        at: actor.unix_time_s(),
    };
    let notes = folder.join("notes.json");
    let _ = padded(&reverted, NOTES_SIZE)
        .and_then(|text| store.overwrite(&notes, &text))
        .and_then(|()| store.rename(&notes, &reverted_path(parent)));
}

/// The transaction stays open after all: `notes.json` has its room again.
pub(super) fn take_reverted_back(store: &dyn Store, folder: &Path) {
    let Some(parent) = folder.parent() else { return };
    let _ = store.rename(&reverted_path(parent), &folder.join("notes.json"));
}

/// The transaction that the timer undid last in the folder of a topology, if that can be read.
pub(super) fn reverted(store: &dyn Store, parent: &Path) -> Option<Reverted> {
    let text = store.read(&reverted_path(parent), "note").ok().flatten()?;
    serde_json::from_slice(&text).ok()
}

/// Another transaction was prepared, or a connection closed this one.
pub(super) fn forget_reverted(store: &dyn Store, parent: &Path) {
    let _ = store.remove(&reverted_path(parent));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::agent::disk::Disk;
    use std::fs;

    #[test]
    fn of_too_many_lines_the_first_and_the_last_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Disk::new(folder.path());
        let notes = folder.path().join("notes.json");
        let none: Vec<String> = Vec::new();
        fs::write(&notes, padded(&none, NOTES_SIZE).unwrap()).unwrap();
        let long = |length: usize| {
            let mut lines = vec!["the first".to_owned()];
            lines.extend((0..30).map(|number| format!("{number:02}{}", "x".repeat(length))));
            lines.push("has given up".to_owned());
            lines
        };
        let read = || {
            let text = fs::read(&notes).unwrap();
            assert_eq!(text.len(), NOTES_SIZE);
            serde_json::from_slice::<Vec<String>>(&text).unwrap()
        };
        write_notes(&store, folder.path(), &long(1000));
        let kept = read();
        assert!(kept.len() > 10 && kept.len() < 32, "{}", kept.len());
        assert_eq!(
            (kept[0].as_str(), kept.last().unwrap().as_str()),
            ("the first", "has given up")
        );
        // Even where one line has no place beside it.
        write_notes(&store, folder.path(), &["x".repeat(NOTES_SIZE), "has given up".to_owned()]);
        assert_eq!(read(), ["has given up"]);
    }
}
