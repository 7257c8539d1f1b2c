//! Writing down a transaction before anything is touched: see [`super::journal`] for what lies where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{cannot_io, make_folder, sync_folder, sync_parent, write_new};
use super::error::{Error, Result};
use super::journal::{self, Open};
use super::phase::Phase;
use super::records::{self, Begun, HolderRecord, Timer};
use super::{fault, process, receipt};
use crate::protocol::{Begin, Receipt};

/// What is to be written.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    /// What was asked for.
    pub begin: &'a Begin,
    /// The receipt that is there.
    pub receipt: Option<&'a Receipt>,
    /// What is taken over.
    pub old: Option<&'a Open>,
    /// Who undoes it.
    pub timer: Option<Timer>,
    /// Who works at it.
    pub holder: &'a HolderRecord,
}

/// On the disk already, but not begun: what is left to do needs no room. Dropped without
/// [`Prepared::commit`] it goes away.
#[derive(Debug)]
pub(super) struct Prepared {
    folder: PathBuf,
    temporary: PathBuf,
    target: PathBuf,
    receipt: Option<receipt::Prepared>,
    old_folder: Option<PathBuf>,
    committed: bool,
}

impl Prepared {
    /// Begins it. If this fails, nothing is begun; or, where another transaction was taken over and is
    /// gone, this one lies there instead.
    pub fn commit(mut self) -> Result<()> {
        let failed = |error| cannot_io("write", &self.target, error);
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        sync_parent(&self.target).map_err(failed)?;
        self.committed = self.old_folder.is_some();
        fault::at("journal");
        if let Some(receipt) = self.receipt.take() {
            receipt.commit()?;
        }
        self.committed = true;
        if let Some(old) = &self.old_folder {
            let _ = fs::remove_dir_all(old);
        }
        if let Some(parent) = self.folder.parent() {
            records::forget_reverted(parent);
        }
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if self.old_folder.is_none() {
            let _ = fs::remove_file(&self.target);
        }
        let _ = fs::remove_file(&self.temporary);
        let _ = fs::remove_dir_all(&self.folder);
        drop(self.receipt.take());
        // Made for this, if it is empty.
        if let Some(parent) = self.folder.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Writes everything to the disk, under names that nobody reads yet.
pub(super) fn prepare(state_dir: &Path, opening: &Opening<'_>) -> Result<Prepared> {
    let Opening { begin, receipt: there, old, timer: _, holder: _ } = opening;
    let id = &begin.journal.transaction;
    let topology = &begin.journal.topology;
    if old.is_some_and(|old| old.journal.transaction == *id) {
        return Err(Error::new(format!("the transaction {id} was begun here already")));
    }
    make_folder(state_dir)?;
    let parent = state_dir.join(topology.as_str());
    make_folder(&parent)?;
    journal::sweep(&parent, old.map(|old| &old.journal.transaction));
    let mut prepared = Prepared {
        folder: journal::folder(state_dir, topology, id),
        temporary: parent.join(".journal.json.new"),
        target: journal::path(state_dir, topology),
        receipt: None,
        old_folder: old.map(|old| journal::folder(state_dir, topology, &old.journal.transaction)),
        committed: false,
    };
    if *there != Some(&begin.receipt) {
        prepared.receipt = Some(receipt::prepare(state_dir, &begin.receipt, "new")?);
    }
    let failed = |error| cannot_io("write", &prepared.target, error);
    journal::make(&prepared.folder).map_err(failed)?;
    fill(state_dir, &prepared, opening)?;
    let text = serde_json::to_vec(&begin.journal).map_err(|error| failed(error.into()))?;
    write_new(&prepared.temporary, &text)
        .and_then(|()| sync_folder(&parent))
        .and_then(|()| sync_folder(state_dir))
        .map_err(failed)?;
    Ok(prepared)
}

/// All files of the transaction's own folder.
fn fill(state_dir: &Path, prepared: &Prepared, opening: &Opening<'_>) -> Result<()> {
    let Opening { begin, receipt: _, old, timer, holder } = opening;
    let topology = &begin.journal.topology;
    let folder = &prepared.folder;
    let current = receipt::path(state_dir, topology);
    if let Some(before) = &begin.receipt_before {
        let source = old.map_or(current.clone(), |old| {
            journal::before_path(state_dir, topology, &old.journal.transaction, old.phase)
        });
        keep(&source, &folder.join("before.json"), before)?;
    }
    if let Some(settled) = &begin.settled {
        let target = folder.join("settled.json");
        let working = prepared.receipt.as_ref().map_or(current.as_path(), receipt::Prepared::file);
        if *settled == begin.receipt {
            keep(working, &target, settled)?;
        } else {
            write(&target, &receipt::text(settled).map_err(|e| cannot_io("write", &target, e))?)?;
        }
    }
    let begun = Begun {
        boot: process::boot_id()?,
        init: process::init_start(),
        has_before: begin.receipt_before.is_some(),
        has_settled: begin.settled.is_some(),
        timer: timer.clone(),
    };
    let told: Vec<String> = Vec::new();
    let text = |text: io::Result<Vec<u8>>| text.map_err(|error| cannot_io("write", folder, error));
    let files = [
        ("begun.json", text(serde_json::to_vec(&begun).map_err(Into::into))?),
        ("holder.json", text(records::padded(holder, records::HOLDER_SIZE))?),
        ("heard", text(records::padded(&process::boottime_ms(), records::HEARD_SIZE))?),
        ("told.json", text(records::padded(&told, records::TOLD_SIZE))?),
        (Phase::Begun.file(), Vec::new()),
    ];
    for (name, text) in files {
        write(&folder.join(name), &text)?;
    }
    sync_folder(folder).map_err(|error| cannot_io("write", folder, error))
}

/// A second name for a receipt that is on the disk already; where the file system has no such thing, a
/// copy.
fn keep(source: &Path, target: &Path, receipt: &Receipt) -> Result<()> {
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    let text = receipt::text(receipt).map_err(|error| cannot_io("write", target, error))?;
    write(target, &text)
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    write_new(path, text).map_err(|error| cannot_io("write", path, error))
}
