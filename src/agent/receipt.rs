//! The receipt: which things on this host are a topology's, and how they were before.
//!
//! `STATE_DIR/TOPOLOGY/receipt.json`, folders 0700, file 0600. It is what undoing relies on, so a new
//! one is written beside the old, flushed to the disk, and only then takes its name: after a crash
//! there is the old or the new one, never half of one. Nothing here follows a symbolic link.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::disk::{
    cannot_io, folders_are_there, make_folder, read_file, symlink, sync_parent, write_new,
};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::state::{RECEIPT_VERSION, Receipt};

/// Where the receipt of `topology` lies.
pub fn path(state_dir: &Path, topology: &TopologyName) -> PathBuf {
    state_dir.join(topology.as_str()).join("receipt.json")
}

/// Reads the receipt; `None` if there is none. Makes nothing, changes nothing.
pub fn read(state_dir: &Path, topology: &TopologyName) -> Result<Option<Receipt>> {
    let path = path(state_dir, topology);
    if !folders_are_there(&[state_dir, &state_dir.join(topology.as_str())])? {
        return Ok(None);
    }
    let Some(text) = read_file(&path, "receipt")? else { return Ok(None) };
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

/// The receipt in a file at `path`, of whichever topology. Its format is read before the rest: one of a
/// later format has members that this build does not know, and is not damaged.
pub(super) fn parse_any(path: &Path, text: &[u8]) -> Result<Receipt> {
    let broken = |error: serde_json::Error| damaged(path, "is damaged").because(error);
    let Format { version } = serde_json::from_slice(text).map_err(broken)?;
    if version > RECEIPT_VERSION {
        return Err(later("receipt", path, version, RECEIPT_VERSION));
    }
    if !is_known(version) {
        return Err(damaged(path, &format!("has format {version}, which there never was")));
    }
    serde_json::from_slice(text).map_err(broken)
}

/// Whether this build reads a receipt of this format.
pub(super) fn is_known(version: u32) -> bool {
    (1..=RECEIPT_VERSION).contains(&version)
}

/// What every format of a file has.
#[derive(Deserialize)]
pub(super) struct Format {
    pub version: u32,
}

/// That a file is of a later format than this build reads.
pub(super) fn later(what: &str, path: &Path, version: u32, known: u32) -> Error {
    Error::new(format!(
        "the {what} {} was written by a later lvsprov: it has format {version}, this lvsprov reads formats \
         up to {known}",
        path.display()
    ))
    .cure("use that version of lvsprov; the file is as it should be: leave it where it is")
}

/// A receipt that is on the disk already, but not under its name yet: what is left to do needs no
/// room. Dropped without [`Prepared::commit`] it goes away.
#[derive(Debug)]
pub struct Prepared {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Prepared {
    /// Where it lies until then.
    pub(super) fn file(&self) -> &Path {
        &self.temporary
    }

    /// Gives it its name, in place of the receipt that was there.
    pub fn commit(mut self) -> Result<()> {
        let failed = |error| cannot_io("write", &self.target, error);
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        self.committed = true;
        sync_parent(&self.target).map_err(|error| cannot_io("write", &self.target, error))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
            // Made for this receipt, if it is empty.
            if let Some(folder) = self.temporary.parent() {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Writes `receipt` to the disk beside the place where it belongs. `tag` tells apart two that are
/// prepared at once.
pub fn prepare(state_dir: &Path, receipt: &Receipt, tag: &str) -> Result<Prepared> {
    let target = path(state_dir, &receipt.topology);
    if !is_known(receipt.version) {
        return Err(Error::new(format!(
            "a receipt of format {} cannot be written: this lvsprov knows formats up to {RECEIPT_VERSION}",
            receipt.version
        )));
    }
    let folder = state_dir.join(receipt.topology.as_str());
    make_folder(state_dir)?;
    make_folder(&folder)?;
    if fs::symlink_metadata(&target).is_ok_and(|found| found.is_symlink()) {
        return Err(symlink(&target));
    }
    let text = text(receipt).map_err(|error| cannot_io("write", &target, error))?;
    let temporary = folder.join(format!(".receipt.json.{tag}"));
    let prepared = Prepared { temporary, target, committed: false };
    write_new(&prepared.temporary, &text)
        .map_err(|error| cannot_io("write", &prepared.target, error))?;
    Ok(prepared)
}

/// As it is written.
pub(super) fn text(receipt: &Receipt) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(receipt)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes `receipt` in place of the one that is there.
pub fn write(state_dir: &Path, receipt: &Receipt) -> Result<()> {
    prepare(state_dir, receipt, "new")?.commit()
}

/// Removes the receipt and its folder. Fine if there is none.
pub fn remove(state_dir: &Path, topology: &TopologyName) -> Result<()> {
    let path = path(state_dir, topology);
    let failed = |error| Error::new(format!("cannot remove {}", path.display())).because(error);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let folder = state_dir.join(topology.as_str());
    match fs::remove_dir(&folder) {
        Ok(()) => sync_parent(&folder).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Somebody keeps something else there.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            sync_parent(&path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn damaged(path: &Path, how: &str) -> Error {
    Error::new(format!(
        "the receipt {} {how}: without it lvsprov does not know what is its own on this host, and \
         how it was before",
        path.display()
    ))
    .cure(
        "restore it from a backup; or, if the host is as it should be, move it away: what is there \
         then counts as found, and destroy will leave it",
    )
}

#[cfg(test)]
#[path = "receipt_tests.rs"]
mod tests;
