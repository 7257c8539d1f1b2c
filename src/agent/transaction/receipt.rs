//! The receipt: the items on this host that a topology owns, and how they were before.
//!
//! `STATE_DIR/TOPOLOGY/receipt.json`, folders 0700, file 0600. Undoing relies on it, so a new one is
//! written beside the old, synced, and only then renamed: after a crash there is the old or the new one,
//! never half of one.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::settled;
use super::store::{
    EntryKind, Store, cannot_io, remove_if_present, symlink, sync_parent, write_durably,
};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::state::{RECEIPT_VERSION, Receipt};

/// The path of the receipt of `topology`.
pub fn path(state_dir: &Path, topology: &TopologyName) -> PathBuf {
    state_dir.join(topology.as_str()).join("receipt.json")
}

/// Reads the receipt; `None` if there is none. A settled state that is not there whole counts as none, so that
/// the next transaction writes it anew. Makes nothing, changes nothing.
pub fn read(store: &dyn Store, topology: &TopologyName) -> Result<Option<Receipt>> {
    let Some(mut receipt) = read_as_written(store, topology)? else { return Ok(None) };
    if receipt.settled.is_some() && receipt.settled != settled::digest(store, topology) {
        receipt.settled = None;
    }
    Ok(Some(receipt))
}

/// The same with the settled state that it names, whether that is there or not.
pub(super) fn read_as_written(
    store: &dyn Store,
    topology: &TopologyName,
) -> Result<Option<Receipt>> {
    let path = path(store.root(), topology);
    if !store.folders_exist(&[store.root(), &store.root().join(topology.as_str())])? {
        return Ok(None);
    }
    let Some(text) = store.read(&path, "receipt")? else { return Ok(None) };
    parse(&path, topology, &text).map(Some)
}

/// The receipt of `topology` in a file at `path`.
pub(super) fn parse(path: &Path, topology: &TopologyName, text: &[u8]) -> Result<Receipt> {
    let receipt = parse_any(path, text)?;
    if receipt.topology != *topology {
        return Err(damaged(path, &format!("is that of the topology {}", receipt.topology)));
    }
    Ok(receipt)
}

/// The receipt in a file at `path`, of any topology. Its format is read before the rest: one of a later
/// format has members that this build does not know, and is not damaged.
pub(super) fn parse_any(path: &Path, text: &[u8]) -> Result<Receipt> {
    let broken = |error: serde_json::Error| damaged(path, "is damaged").because(error);
    let FileFormat { version } = serde_json::from_slice(text).map_err(broken)?;
    if version > RECEIPT_VERSION {
        return Err(later("receipt", path, version, RECEIPT_VERSION));
    }
    if version < 1 {
        return Err(damaged(path, &format!("has format {version}, which never existed")));
    }
    let receipt: Receipt = serde_json::from_slice(text).map_err(broken)?;
    Ok(Receipt { version: RECEIPT_VERSION, ..receipt })
}

/// The member that every format of a file has.
#[derive(Deserialize)]
pub(super) struct FileFormat {
    pub version: u32,
}

/// The error for a file of a later format than this build reads.
pub(super) fn later(what: &str, path: &Path, version: u32, known: u32) -> Error {
    Error::new(format!(
        "the {what} {} was written by a later lvsprov: it has format {version}, this lvsprov reads formats \
         up to {known}",
        path.display()
    ))
    .cure("use that version of lvsprov; the file is as it should be: leave it where it is")
}

/// A receipt that is on the disk already, but has not its name yet: the rest needs no room. Dropped
/// without [`WrittenReceipt::rename`] it is removed.
#[derive(Debug)]
pub(super) struct WrittenReceipt<'s> {
    store: &'s dyn Store,
    temporary: PathBuf,
    target: PathBuf,
    renamed: bool,
}

impl WrittenReceipt<'_> {
    /// Its path until it has its name.
    pub fn file(&self) -> &Path {
        &self.temporary
    }

    /// Gives it its name, in place of the present receipt.
    pub fn rename(mut self) -> Result<()> {
        let failed = |error| cannot_io("write", &self.target, error);
        self.store.rename(&self.temporary, &self.target).map_err(failed)?;
        self.renamed = true;
        sync_parent(self.store, &self.target)
            .map_err(|error| cannot_io("write", &self.target, error))
    }
}

impl Drop for WrittenReceipt<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = self.store.remove(&self.temporary);
            // Made for this receipt, if it is empty.
            if let Some(folder) = self.temporary.parent() {
                let _ = self.store.remove_folder(folder);
            }
        }
    }
}

/// Writes `receipt` to the disk beside its place.
pub(super) fn write_beside<'s>(
    store: &'s dyn Store,
    receipt: &Receipt,
) -> Result<WrittenReceipt<'s>> {
    let target = path(store.root(), &receipt.topology);
    if receipt.version != RECEIPT_VERSION {
        return Err(Error::new(format!(
            "a receipt of format {} cannot be written: this lvsprov knows format {RECEIPT_VERSION}",
            receipt.version
        )));
    }
    let folder = store.root().join(receipt.topology.as_str());
    store.make_folder(store.root())?;
    store.make_folder(&folder)?;
    if store.kind(&target) == Some(EntryKind::Symlink) {
        return Err(symlink(&target));
    }
    let text = text(receipt).map_err(|error| cannot_io("write", &target, error))?;
    let temporary = folder.join(".receipt.json.new");
    let written = WrittenReceipt { store, temporary, target, renamed: false };
    write_durably(store, &written.temporary, &text)
        .map_err(|error| cannot_io("write", &written.target, error))?;
    Ok(written)
}

/// The bytes of its file.
pub(super) fn text(receipt: &Receipt) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(receipt)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes `receipt` in place of the present one.
pub fn write(store: &dyn Store, receipt: &Receipt) -> Result<()> {
    write_beside(store, receipt)?.rename()
}

/// Removes the receipt and its folder, if they exist.
pub fn remove(store: &dyn Store, topology: &TopologyName) -> Result<()> {
    let path = path(store.root(), topology);
    let failed = |error| Error::new(format!("cannot remove {}", path.display())).because(error);
    remove_if_present(store, &path).map_err(failed)?;
    let folder = store.root().join(topology.as_str());
    match store.remove_folder(&folder) {
        Ok(()) => sync_parent(store, &folder).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It has other files in it.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            sync_parent(store, &path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn damaged(path: &Path, how: &str) -> Error {
    Error::new(format!(
        "the receipt {} {how}: without it lvsprov does not know which items it owns on this host, and \
         how they were before",
        path.display()
    ))
    .cure(
        "restore it from a backup; or, if the host is as it should be, move it away: its present \
         state then counts as found, and destroy will leave it",
    )
}

#[cfg(test)]
#[path = "receipt_tests.rs"]
mod tests;
