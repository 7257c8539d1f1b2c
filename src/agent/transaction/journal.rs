//! The open transaction of a topology, as it lies on this host.
//!
//! `STATE_DIR/TOPOLOGY/journal.json` is the journal: as long as it exists the transaction is open. Beside
//! it, in a folder that has the transaction's name, lie the files that closing and undoing will need:
//! `before.json` and `committed.json` (the receipts of the two decisions), `prepared.json` (the run of the
//! host, and the revert timer), an empty file whose name is the [`Phase`], and three files that are
//! written over in place: `holder.json`, `last_request` and `notes.json`.
//!
//! All the room that will ever be needed is taken when it is prepared: everything later is a rename, a
//! removal or a write in place, so a disk that fills up stops neither closing nor undoing. The result of
//! each point of failure is in docs/transactions.md.

use std::io;
use std::path::{Path, PathBuf};

use super::actor::Actor;
use super::drift;
use super::phase::Phase;
use super::receipt::{self, FileFormat};
use super::records::{HolderRecord, PreparedRecord};
use super::settled::{self, SettledChange};
use super::store::{Identity, Store, cannot_io, remove_if_present, sync_parent};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::protocol::Decision;
use crate::state::{Holder, JOURNAL_VERSION, Journal, OpenTransaction, Receipt, TransactionId};

/// All files of an open transaction, as they were read.
#[derive(Debug)]
pub(super) struct TransactionFiles {
    pub journal: Journal,
    pub receipt_before: Option<Receipt>,
    pub phase: Phase,
    pub prepared: PreparedRecord,
    pub holder: Option<HolderRecord>,
    pub last_request_ms: Option<u64>,
    pub notes: Vec<String>,
}

impl TransactionFiles {
    /// The connection that holds it, if that is alive.
    pub fn living_holder(&self, actor: &dyn Actor) -> Option<&HolderRecord> {
        self.holder.as_ref().filter(|holder| actor.is_alive(&holder.process))
    }

    /// The same for messages.
    pub fn holder(&self, actor: &dyn Actor) -> Option<Holder> {
        let HolderRecord { process, connection: _, by, from, since_ms, idle_limit_s } =
            self.living_holder(actor)?;
        let now = actor.boottime_ms();
        let since = |then: u64| now.saturating_sub(then) / 1000;
        Some(Holder {
            by: by.clone(),
            from: *from,
            pid: process.pid,
            for_s: since(*since_ms),
            idle_s: since(self.last_request_ms.unwrap_or(*since_ms)),
            idle_limit_s: *idle_limit_s,
        })
    }

    /// Milliseconds until the timer undoes it, if a living one still would.
    pub fn reverts_in_ms(&self, actor: &dyn Actor) -> Option<u64> {
        if matches!(self.phase, Phase::Voted | Phase::Committing) {
            return None;
        }
        let timer = self.prepared.timer.as_ref();
        timer.and_then(|timer| timer.pending(actor, self.phase != Phase::Prepared))
    }

    /// As a controller gets it.
    pub fn into_open_transaction(self, actor: &dyn Actor) -> Result<OpenTransaction> {
        let restarted = self.prepared.restarted(actor)?;
        let (holder, reverts_in_ms) = (self.holder(actor), self.reverts_in_ms(actor));
        let Self {
            journal,
            receipt_before,
            phase,
            prepared: _,
            holder: _,
            last_request_ms: _,
            notes,
        } = self;
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

/// The path of the journal of `topology`.
pub fn path(state_dir: &Path, topology: &TopologyName) -> PathBuf {
    state_dir.join(topology.as_str()).join("journal.json")
}

/// The folder of a transaction's other files.
pub fn folder(state_dir: &Path, topology: &TopologyName, transaction: &TransactionId) -> PathBuf {
    state_dir.join(topology.as_str()).join(transaction.as_str())
}

/// Tells whether the transaction, its phase or the receipt changed between two readings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marks(Vec<(PathBuf, Option<Identity>)>);

/// The marks now.
pub(super) fn marks(store: &dyn Store, topology: &TopologyName) -> Marks {
    let root = store.root();
    let mut paths = vec![receipt::path(root, topology), path(root, topology)];
    paths.extend(transaction_folders(store, &root.join(topology.as_str())));
    Marks(paths.into_iter().map(|path| (path.clone(), store.identity(&path))).collect())
}

/// Every folder in `parent` that has the name of a transaction, in the order of their names.
fn transaction_folders(store: &dyn Store, parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = store.entries(parent) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries
        .into_iter()
        .filter_map(|name| {
            name.to_str()?.parse::<TransactionId>().ok()?;
            Some(parent.join(name))
        })
        .collect();
    all.sort();
    all
}

/// Reads the open transaction; `None` if there is none. Changes nothing.
pub(super) fn read(store: &dyn Store, topology: &TopologyName) -> Result<Option<TransactionFiles>> {
    let Some(journal) = read_journal(store, topology)? else { return Ok(None) };
    let folder = folder(store.root(), topology, &journal.transaction);
    if !store.folders_exist(&[&folder])? {
        return Err(incomplete(&folder));
    }
    let prepared: PreparedRecord =
        read_json(store, &folder.join("prepared.json"))?.ok_or_else(|| incomplete(&folder))?;
    let phase = Phase::ALL
        .into_iter()
        .find(|phase| store.kind(&folder.join(phase.file())).is_some())
        .ok_or_else(|| incomplete(&folder))?;
    let receipt_before = if prepared.has_before {
        let path = before_path(store, topology, &journal.transaction, phase);
        let text = store.read(&path, "receipt")?.ok_or_else(|| incomplete(&folder))?;
        Some(receipt::parse(&path, topology, &text)?)
    } else {
        None
    };
    Ok(Some(TransactionFiles {
        journal,
        receipt_before,
        phase,
        prepared,
        holder: read_in_place(store, &folder.join("holder.json")),
        last_request_ms: read_in_place(store, &folder.join("last_request")),
        notes: read_in_place(store, &folder.join("notes.json")).unwrap_or_default(),
    }))
}

/// The receipt before, which has its old name again once the transaction is aborting.
pub(super) fn before_path(
    store: &dyn Store,
    topology: &TopologyName,
    transaction: &TransactionId,
    phase: Phase,
) -> PathBuf {
    let path = folder(store.root(), topology, transaction).join("before.json");
    if phase == Phase::Aborting && store.kind(&path).is_none() {
        return receipt::path(store.root(), topology);
    }
    path
}

pub(super) fn read_journal(store: &dyn Store, topology: &TopologyName) -> Result<Option<Journal>> {
    let path = path(store.root(), topology);
    if !store.folders_exist(&[store.root(), &store.root().join(topology.as_str())])? {
        return Ok(None);
    }
    let Some(text) = store.read(&path, "journal")? else { return Ok(None) };
    parse(&path, topology, &text).map(Some)
}

/// The journal of `topology` in `text`, read at `path`. Its format is read before the rest.
pub fn parse(path: &Path, topology: &TopologyName, text: &[u8]) -> Result<Journal> {
    let broken = |error: serde_json::Error| damaged(path, "is damaged").because(error);
    let FileFormat { version } = serde_json::from_slice(text).map_err(broken)?;
    if version > JOURNAL_VERSION {
        return Err(receipt::later("journal", path, version, JOURNAL_VERSION));
    }
    if version < 1 {
        return Err(damaged(path, &format!("has format {version}, which never existed")));
    }
    let journal: Journal = serde_json::from_slice(text).map_err(broken)?;
    let journal = Journal { version: JOURNAL_VERSION, ..journal };
    if journal.topology != *topology {
        return Err(damaged(path, &format!("is that of the topology {}", journal.topology)));
    }
    Ok(journal)
}

fn read_json<T: serde::de::DeserializeOwned>(store: &dyn Store, path: &Path) -> Result<Option<T>> {
    let Some(text) = store.read(path, "file")? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| damaged(path, "is damaged").because(error))
}

/// A file that is written in place may be read half old, half new: then it is read once more. No such
/// file matters after a crash.
fn read_in_place<T: serde::de::DeserializeOwned>(store: &dyn Store, path: &Path) -> Option<T> {
    (0..3).find_map(|_| read_json(store, path).ok().flatten())
}

/// Brings the transaction from one phase to another; the new phase is durable when this returns.
pub(super) fn change_phase(store: &dyn Store, folder: &Path, from: Phase, to: Phase) -> Result<()> {
    let target = folder.join(to.file());
    store
        .rename(&folder.join(from.file()), &target)
        .and_then(|()| store.sync_folder(folder))
        .map_err(|error| cannot_io("write", &target, error))
}

/// Closes it: the receipt of `decision` takes the receipt's name, and the journal goes. May be cut off
/// anywhere and called again.
pub(super) fn close(
    store: &dyn Store,
    actor: &dyn Actor,
    open: &TransactionFiles,
    decision: Decision,
) -> Result<()> {
    let TransactionFiles { journal, phase, prepared, .. } = open;
    let folder = folder(store.root(), &journal.topology, &journal.transaction);
    if *phase != Phase::of(decision) {
        change_phase(store, &folder, *phase, Phase::of(decision))?;
    }
    actor.reach("close");
    let (exists, name) = match decision {
        Decision::Commit => (prepared.has_committed, "committed.json"),
        Decision::Abort => (prepared.has_before, "before.json"),
    };
    if decision == Decision::Commit && prepared.settled != SettledChange::Keep {
        // Before the receipt, which names it.
        let target = settled::path(store.root(), &journal.topology);
        let is_put = prepared.settled == SettledChange::Put;
        put(store, &folder.join(settled::FILE), is_put, &target)
            .map_err(|error| cannot_io("write", &target, error))?;
    }
    let target = receipt::path(store.root(), &journal.topology);
    put(store, &folder.join(name), exists, &target)
        .and_then(|()| store.sync_folder(&folder))
        .map_err(|error| cannot_io("write", &target, error))?;
    actor.reach("receipt");
    drift::forget_unwatched(store, &journal.topology);
    remove(store, &journal.topology)
}

fn put(store: &dyn Store, source: &Path, exists: bool, target: &Path) -> io::Result<()> {
    if exists {
        match store.rename(source, target) {
            // It has its name already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    } else {
        remove_if_present(store, target)?;
    }
    sync_parent(store, target)
}

/// Removes the journal, and all that belonged to it.
fn remove(store: &dyn Store, topology: &TopologyName) -> Result<()> {
    let path = path(store.root(), topology);
    let failed = |error| cannot_io("remove", &path, error);
    remove_if_present(store, &path).map_err(failed)?;
    let parent = store.root().join(topology.as_str());
    store.sync_folder(&parent).map_err(failed)?;
    sweep(store, &parent, None);
    // If it is empty, this topology has nothing on this host any more.
    if store.remove_folder(&parent).is_ok() {
        let _ = store.sync_folder(store.root());
    }
    Ok(())
}

/// Removes what killed runs have left beside the transaction `keep`. A file that cannot be removed is in
/// the way of nothing.
pub(super) fn sweep(store: &dyn Store, parent: &Path, keep: Option<&TransactionId>) {
    for folder in transaction_folders(store, parent) {
        if keep.is_none_or(|keep| !folder.ends_with(keep.as_str())) {
            let _ = store.remove_tree(&folder);
        }
    }
    for name in [".journal.json.new", ".receipt.json.new", ".drift.json.new"] {
        let _ = store.remove(&parent.join(name));
    }
}

fn incomplete(folder: &Path) -> Error {
    damaged(folder, "is not whole")
}

fn damaged(path: &Path, how: &str) -> Error {
    let place = path.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    Error::new(format!(
        "the journal {} {how}: without it lvsprov cannot undo the transaction that is open here",
        path.display()
    ))
    .cure(format!(
        "restore it from a backup; or move journal.json in its folder (at or above {place}) away: the \
         receipt beside it still has the state before the first apply, so that apply and destroy work as \
         ever, and only the changes of this one transaction are not known any more"
    ))
}
