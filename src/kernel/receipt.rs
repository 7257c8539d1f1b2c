//! The receipt: which things on this host are a topology's, and how they were before.
//!
//! `STATE_DIR/TOPOLOGY/receipt.json`, folders 0700, file 0600. It is what undoing relies on, so a new
//! one is written beside the old, flushed to the disk, and only then takes its name: after a crash
//! there is the old or the new one, never half of one. Nothing here follows a symbolic link.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};

use super::error::{Error, Result};
use crate::protocol::Receipt;
use crate::state::Owned;
use crate::topology::TopologyName;

/// The format of the file that this build reads and writes.
pub const VERSION: u32 = 1;

/// More than any receipt needs: 100,000 destinations are about 20 MB.
const LIMIT: u64 = 256 << 20;

/// Where the receipt of `topology` lies.
pub fn path(state_dir: &Path, topology: &TopologyName) -> PathBuf {
    state_dir.join(topology.as_str()).join("receipt.json")
}

/// Reads the receipt; `None` if there is none. Makes nothing, changes nothing.
pub fn read(state_dir: &Path, topology: &TopologyName) -> Result<Option<Receipt>> {
    let path = path(state_dir, topology);
    for folder in [state_dir, &state_dir.join(topology.as_str())] {
        match fs::symlink_metadata(folder) {
            Ok(found) => check_folder(folder, &found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_io("read", folder, error)),
        }
    }
    let Some(text) = read_file(&path)? else { return Ok(None) };
    let receipt: Receipt = serde_json::from_slice(&text)
        .map_err(|error| damaged(&path, "is damaged").because(error))?;
    let Receipt { version, topology: owner, since: _, owned: _, found: _ } = &receipt;
    if *version != VERSION {
        return Err(damaged(
            &path,
            &format!("has format {version}, this lvsprov knows format {VERSION}"),
        )
        .cure("use the version of lvsprov that wrote it"));
    }
    if owner != topology {
        return Err(damaged(&path, &format!("is that of the topology {owner:?}")));
    }
    Ok(Some(receipt))
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

/// Not a file that is opened and hangs (a FIFO), and none that fills the memory.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let opened = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(symlink(path));
        }
        Err(error) => return Err(cannot_io("read", path, error)),
    };
    let read = |error| cannot_io("read", path, error);
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(damaged(path, "is no plain file"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "the receipt {} can be written by others than this user (owner {}, mode {:o}): what it \
             says cannot be trusted",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        ))
        .cure("look who wrote it; if it is right: chown root, chmod 600"));
    }
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text).map_err(read)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LIMIT) {
        return Err(damaged(path, &format!("is larger than {LIMIT} bytes")));
    }
    Ok(Some(text))
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
    let mut text = serde_json::to_vec_pretty(receipt)
        .map_err(|error| cannot_io("write", &target, error.into()))?;
    text.push(b'\n');
    let temporary = folder.join(format!(".receipt.json.{tag}"));
    let prepared = Prepared { temporary, target, committed: false };
    write_new(&prepared.temporary, &text)
        .map_err(|error| cannot_io("write", &prepared.target, error))?;
    Ok(prepared)
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

/// Makes `folder` with mode 0700 if it is not there, and refuses one that others can change.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let found = made
        .and_then(|()| fs::symlink_metadata(folder))
        .map_err(|error| cannot_io("make", folder, error))?;
    check_folder(folder, &found)?;
    if found.mode() & 0o777 != 0o700 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .map_err(|error| cannot_io("protect", folder, error))?;
    }
    Ok(())
}

fn check_folder(folder: &Path, found: &fs::Metadata) -> Result<()> {
    if found.is_symlink() {
        return Err(symlink(folder));
    }
    if !found.is_dir() {
        return Err(Error::new(format!(
            "{} is in the way: a folder for receipts belongs there",
            folder.display()
        ))
        .cure("look what it is, and move it away"));
    }
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "the folder {} can be written by others than this user (owner {}, mode {:o}): receipts \
             in there cannot be trusted",
            folder.display(),
            found.uid(),
            found.mode() & 0o7777
        ))
        .cure("look who changed it; if all is right: chown root, chmod 700"));
    }
    Ok(())
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    // What an earlier run left when it was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder: File =
        OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(folder)?;
    folder.sync_all()
}

/// `verb` failed, with the cure where it is a matter of the file system.
pub(super) fn cannot_io(verb: &str, path: &Path, error: io::Error) -> Error {
    let cure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room on that file system: a receipt has to be kept there")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("mount that file system writable: a receipt has to be kept there")
        }
        _ => None,
    };
    Error::new(format!("cannot {verb} {}", path.display())).because(error).maybe_cure(cure)
}

fn symlink(path: &Path) -> Error {
    Error::new(format!(
        "{} is a symbolic link: receipts are not followed out of their place",
        path.display()
    ))
    .cure("look who made it, and remove it")
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
