//! The transaction that is under way for a topology, as it lies on this host.
//!
//! `STATE_DIR/TOPOLOGY/journal.json` is the journal: as long as it is there the transaction is not
//! settled. Beside it, in a folder that has the transaction's name, lies what settling and undoing will
//! need: `before.json` and `settled.json` (the receipts of the two endings), `begun.json` (which host run
//! it was begun in, and the revert timer), an empty file whose name is the [`Phase`], and three files
//! that are written over in place: `holder.json`, `heard` and `notes.json`.
//!
//! All the room that will ever be needed is taken when it begins: everything later is a rename, a removal
//! or a write in place, so a disk that fills up stops neither settling nor undoing. What each point of
//! failure leaves is told in docs/transactions.md.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::disk::{
    Identity, cannot_io, folders_are_there, identity, read_file, remove_if_there, sync_folder,
};
use super::phase::Phase;
use super::process;
use super::receipt;
use super::receipt::Format;
use super::records::{HolderRecord, PreparedRecord};
use crate::kernel::error::{Error, Result};
use crate::kernel::fault;
use crate::names::TopologyName;
use crate::protocol::Decision;
use crate::state::{Holder, JOURNAL_VERSION, Journal, OpenTransaction, Receipt, TransactionId};

/// All of it, as it was read.
#[derive(Debug)]
pub(super) struct Transaction {
    pub journal: Journal,
    pub receipt_before: Option<Receipt>,
    pub phase: Phase,
    pub begun: PreparedRecord,
    pub holder: Option<HolderRecord>,
    pub heard_ms: Option<u64>,
    pub notes: Vec<String>,
}

impl Transaction {
    /// The connection that works at it, if that is alive.
    pub fn living_holder(&self) -> Option<&HolderRecord> {
        self.holder.as_ref().filter(|holder| holder.process.is_alive())
    }

    /// The same for whoever asks.
    pub fn holder(&self) -> Option<Holder> {
        let HolderRecord { process, connection: _, by, from, since_ms, idle_limit_s } =
            self.living_holder()?;
        let now = process::boottime_ms();
        let since = |then: u64| now.saturating_sub(then) / 1000;
        Some(Holder {
            by: by.clone(),
            from: *from,
            pid: process.pid,
            for_s: since(*since_ms),
            idle_s: since(self.heard_ms.unwrap_or(*since_ms)),
            idle_limit_s: *idle_limit_s,
        })
    }

    /// Milliseconds until the timer undoes it, if there is a living one that still would.
    pub fn reverts_in_ms(&self) -> Option<u64> {
        if matches!(self.phase, Phase::Voted | Phase::Committing) {
            return None;
        }
        self.begun.timer.as_ref().and_then(|timer| timer.pending(self.phase != Phase::Prepared))
    }

    /// As a controller sees it.
    pub fn into_open_transaction(self) -> Result<OpenTransaction> {
        let restarted = self.begun.restarted()?;
        let (holder, reverts_in_ms) = (self.holder(), self.reverts_in_ms());
        let Self { journal, receipt_before, phase, begun: _, holder: _, heard_ms: _, notes } = self;
        Ok(OpenTransaction {
            journal,
            receipt_before,
            voted: matches!(phase, Phase::Voted | Phase::Committing),
            holder,
            reverts_in_ms,
            restarted,
            notes,
        })
    }
}

/// Where the journal of `topology` lies.
pub fn path(state_dir: &Path, topology: &TopologyName) -> PathBuf {
    state_dir.join(topology.as_str()).join("journal.json")
}

/// Where everything else of a transaction lies.
pub fn folder(state_dir: &Path, topology: &TopologyName, transaction: &TransactionId) -> PathBuf {
    state_dir.join(topology.as_str()).join(transaction.as_str())
}

/// Tells whether the transaction, its phase or the receipt changed between two looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marks(Vec<(PathBuf, Option<Identity>)>);

/// As they are now.
pub(super) fn marks(state_dir: &Path, topology: &TopologyName) -> Marks {
    let mut paths = vec![receipt::path(state_dir, topology), path(state_dir, topology)];
    paths.extend(transaction_folders(&state_dir.join(topology.as_str())));
    Marks(paths.into_iter().map(|path| (path.clone(), identity(&path))).collect())
}

/// Every folder in `parent` that has the name of a transaction, in the order of their names.
fn transaction_folders(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<TransactionId>().ok()?;
            Some(parent.join(name))
        })
        .collect();
    all.sort();
    all
}

/// Reads what is under way; `None` if nothing is. Changes nothing.
pub(super) fn read(state_dir: &Path, topology: &TopologyName) -> Result<Option<Transaction>> {
    let Some(journal) = read_journal(state_dir, topology)? else { return Ok(None) };
    let folder = folder(state_dir, topology, &journal.transaction);
    if !folders_are_there(&[&folder])? {
        return Err(incomplete(&folder));
    }
    let begun: PreparedRecord =
        read_json(&folder.join("prepared.json"))?.ok_or_else(|| incomplete(&folder))?;
    let phase = Phase::ALL
        .into_iter()
        .find(|phase| fs::symlink_metadata(folder.join(phase.file())).is_ok())
        .ok_or_else(|| incomplete(&folder))?;
    let receipt_before = if begun.has_before {
        let path = before_path(state_dir, topology, &journal.transaction, phase);
        let text = read_file(&path, "receipt")?.ok_or_else(|| incomplete(&folder))?;
        Some(receipt::parse(&path, topology, &text)?)
    } else {
        None
    };
    Ok(Some(Transaction {
        journal,
        receipt_before,
        phase,
        begun,
        holder: read_in_place(&folder.join("holder.json")),
        heard_ms: read_in_place(&folder.join("last_request")),
        notes: read_in_place(&folder.join("notes.json")).unwrap_or_default(),
    }))
}

/// The receipt before, which has its old name again once the transaction is being settled as undone.
pub(super) fn before_path(
    state_dir: &Path,
    topology: &TopologyName,
    transaction: &TransactionId,
    phase: Phase,
) -> PathBuf {
    let path = folder(state_dir, topology, transaction).join("before.json");
    if phase == Phase::Aborting && fs::symlink_metadata(&path).is_err() {
        return receipt::path(state_dir, topology);
    }
    path
}

pub(super) fn read_journal(state_dir: &Path, topology: &TopologyName) -> Result<Option<Journal>> {
    let path = path(state_dir, topology);
    if !folders_are_there(&[state_dir, &state_dir.join(topology.as_str())])? {
        return Ok(None);
    }
    let Some(text) = read_file(&path, "journal")? else { return Ok(None) };
    parse(&path, topology, &text).map(Some)
}

/// What `text`, read at `path`, says of a transaction of `topology`. Its format is read before the rest.
pub fn parse(path: &Path, topology: &TopologyName, text: &[u8]) -> Result<Journal> {
    let broken = |error: serde_json::Error| damaged(path, "is damaged").because(error);
    let Format { version } = serde_json::from_slice(text).map_err(broken)?;
    if version > JOURNAL_VERSION {
        return Err(receipt::later("journal", path, version, JOURNAL_VERSION));
    }
    if version == 0 {
        return Err(damaged(path, &format!("has format {version}, which there never was")));
    }
    let journal: Journal = serde_json::from_slice(text).map_err(broken)?;
    if journal.topology != *topology {
        return Err(damaged(path, &format!("is that of the topology {}", journal.topology)));
    }
    Ok(journal)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = read_file(path, "file")? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| damaged(path, "is damaged").because(error))
}

/// What is written in place may be read half old, half new: then once more. Nothing that matters after a
/// crash is in such a file.
fn read_in_place<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    (0..3).find_map(|_| read_json(path).ok().flatten())
}

/// Brings it from one phase to another.
pub(super) fn pass(folder: &Path, from: Phase, to: Phase) -> Result<()> {
    let target = folder.join(to.file());
    fs::rename(folder.join(from.file()), &target)
        .and_then(|()| sync_folder(folder))
        .map_err(|error| cannot_io("write", &target, error))
}

/// Settles it: the receipt of `decision` takes the receipt's name, and the journal goes. May be cut off
/// anywhere and called again.
pub(super) fn settle(state_dir: &Path, open: &Transaction, decision: Decision) -> Result<()> {
    let Transaction { journal, phase, begun, .. } = open;
    let folder = folder(state_dir, &journal.topology, &journal.transaction);
    if *phase != Phase::of(decision) {
        pass(&folder, *phase, Phase::of(decision))?;
    }
    fault::at("close");
    let (there, name) = match decision {
        Decision::Commit => (begun.has_settled, "committed.json"),
        Decision::Abort => (begun.has_before, "before.json"),
    };
    let target = receipt::path(state_dir, &journal.topology);
    put(&folder.join(name), there, &target)
        .and_then(|()| sync_folder(&folder))
        .map_err(|error| cannot_io("write", &target, error))?;
    fault::at("receipt");
    close(state_dir, &journal.topology)
}

fn put(source: &Path, there: bool, target: &Path) -> io::Result<()> {
    if there {
        match fs::rename(source, target) {
            // It has its name already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    } else {
        remove_if_there(target)?;
    }
    super::disk::sync_parent(target)
}

/// Removes the journal, and all that belonged to it.
pub(super) fn close(state_dir: &Path, topology: &TopologyName) -> Result<()> {
    let path = path(state_dir, topology);
    let failed = |error| cannot_io("remove", &path, error);
    remove_if_there(&path).map_err(failed)?;
    let parent = state_dir.join(topology.as_str());
    sync_folder(&parent).map_err(failed)?;
    sweep(&parent, None);
    // Nothing of ours is on this host any more, if it is empty.
    if fs::remove_dir(&parent).is_ok() {
        let _ = sync_folder(state_dir);
    }
    Ok(())
}

/// Removes what killed runs have left beside the transaction `keep`. What cannot be removed is in
/// nobody's way.
pub(super) fn sweep(parent: &Path, keep: Option<&TransactionId>) {
    for folder in transaction_folders(parent) {
        if keep.is_none_or(|keep| !folder.ends_with(keep.as_str())) {
            let _ = fs::remove_dir_all(folder);
        }
    }
    for name in [".journal.json.new", ".receipt.json.new", ".receipt.json.settled"] {
        let _ = fs::remove_file(parent.join(name));
    }
}

/// Makes the folder of a transaction.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)
}

fn incomplete(folder: &Path) -> Error {
    damaged(folder, "is not whole")
}

fn damaged(path: &Path, how: &str) -> Error {
    let place = path.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    Error::new(format!(
        "the journal {} {how}: without it lvsprov cannot undo the transaction that is under way here",
        path.display()
    ))
    .cure(format!(
        "restore it from a backup; or move journal.json in its folder (at or above {place}) away: the \
         receipt beside it still says what was here before the first apply, so that apply and destroy \
         work as ever, and only what this one transaction changed cannot be told any more"
    ))
}
