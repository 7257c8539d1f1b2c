//! The receipt: which things on this host are a topology's, and how they were before.
//!
//! `STATE_DIR/TOPOLOGY/receipt.json`, folders 0700, file 0600. It is what undoing relies on, so a new
//! one is written beside the old, flushed to the disk, and only then takes its name: after a crash
//! there is the old or the new one, never half of one. Nothing here follows a symbolic link.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{
    cannot_io, folders_are_there, make_folder, read_file, symlink, sync_parent, write_new,
};
use super::error::{Error, Result};
use crate::protocol::Receipt;
use crate::state::Owned;
use crate::topology::TopologyName;

/// The format of the file that this build reads and writes.
pub const VERSION: u32 = 1;

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
    let receipt: Receipt =
        serde_json::from_slice(text).map_err(|error| damaged(path, "is damaged").because(error))?;
    let Receipt { version, topology: owner, since: _, owned: _, found: _ } = &receipt;
    if *version != VERSION {
        return Err(damaged(
            path,
            &format!("has format {version}, this lvsprov knows format {VERSION}"),
        )
        .cure("use the version of lvsprov that wrote it"));
    }
    if owner != topology {
        return Err(damaged(path, &format!("is that of the topology {owner}")));
    }
    Ok(receipt)
}

/// What other topologies own on this host. A receipt of theirs that cannot be read is an error too:
/// what it says would have to be respected.
pub fn others(state_dir: &Path, topology: &TopologyName) -> Result<BTreeMap<TopologyName, Owned>> {
    let failed = |error| cannot_io("read", state_dir, error);
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut others = BTreeMap::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        // Other things lie here as well: the lock, the agent, the folders of namespaces.
        let Some(Ok(name)) = name.to_str().map(str::parse::<TopologyName>) else { continue };
        if name == *topology || fs::symlink_metadata(path(state_dir, &name)).is_err() {
            continue;
        }
        if let Some(receipt) = read(state_dir, &name)? {
            others.insert(name, receipt.owned);
        }
    }
    Ok(others)
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
    if receipt.version != VERSION {
        return Err(Error::new(format!(
            "a receipt of format {} cannot be written: this lvsprov knows format {VERSION}",
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
