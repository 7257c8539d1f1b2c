//! The state folder, as the transaction sees it: files that survive a crash of the host.
//!
//! A write survives a crash of the host only after a sync: of the file for its content, of the folder for
//! its name. Until then a crash may keep it or lose it, each on its own. A crash of the agent alone loses
//! nothing.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use super::lock::HeldBy;
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;

/// A folder for durable files. Paths are absolute, at or below [`Store::root`].
pub trait Store: fmt::Debug + Send + Sync {
    /// The state folder.
    fn root(&self) -> &Path;

    /// Reads a file; `None` if it does not exist. An error if another user could have written it. `what`
    /// names its kind in errors ("receipt").
    fn read(&self, path: &Path, what: &str) -> Result<Option<Vec<u8>>>;

    /// What the path names; `None` if it does not exist. Follows no symbolic link.
    fn kind(&self, path: &Path) -> Option<EntryKind>;

    /// Tells the present file at a path from an earlier or later one of the same name.
    fn identity(&self, path: &Path) -> Option<Identity>;

    /// Whether all of `folders` exist; an error if another user can write one of them.
    fn folders_exist(&self, folders: &[&Path]) -> Result<bool>;

    /// The names in a folder.
    fn entries(&self, folder: &Path) -> io::Result<Vec<OsString>>;

    /// Makes a folder, and those above it, if it does not exist, with mode 0700; it survives a crash. An
    /// error if another user can write it.
    fn make_folder(&self, folder: &Path) -> Result<()>;

    /// Makes a folder that must not exist, with mode 0700.
    fn make_new_folder(&self, folder: &Path) -> io::Result<()>;

    /// Writes a file of mode 0600 in place of the one that exists.
    fn write_new(&self, path: &Path, text: &[u8]) -> io::Result<Box<dyn Unsynced>>;

    /// Writes over the beginning of a file that exists, without a sync. Takes no room on the disk.
    fn overwrite(&self, path: &Path, text: &[u8]) -> io::Result<()>;

    /// Gives a file a second name.
    fn link(&self, source: &Path, target: &Path) -> io::Result<()>;

    /// Renames a file, in place of the one that has the new name.
    fn rename(&self, source: &Path, target: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// Removes a folder with all that is in it.
    fn remove_tree(&self, folder: &Path) -> io::Result<()>;

    /// Writes the names in a folder to the disk.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Takes the host's lock, if no other process has it.
    fn try_lock(
        &self,
        topology: Option<&TopologyName>,
    ) -> Result<std::result::Result<LockGuard, HeldBy>>;
}

/// Releases the lock when it is dropped.
pub type LockGuard = Box<dyn Any + Send>;

/// A file that was written, and that a crash of the host may still lose.
#[must_use = "a crash of the host may lose this file"]
pub trait Unsynced: Send {
    /// Writes its content to the disk.
    fn sync(self: Box<Self>) -> io::Result<()>;
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A device, a socket or a FIFO.
    Special,
}

/// Inode, when that was changed (seconds, nanoseconds), length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(pub u64, pub i64, pub i64, pub u64);

/// Writes a file whose content survives a crash; its name does after a sync of the folder.
pub(super) fn write_durably(store: &dyn Store, path: &Path, text: &[u8]) -> io::Result<()> {
    store.write_new(path, text)?.sync()
}

/// Removes a file, if it exists.
pub(super) fn remove_if_present(store: &dyn Store, path: &Path) -> io::Result<()> {
    match store.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes the names in the folder of `path` to the disk.
pub(super) fn sync_parent(store: &dyn Store, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| store.sync_folder(folder))
}

/// `verb` failed, with the cure where it is a matter of the file system.
pub(crate) fn cannot_io(verb: &str, path: &Path, error: io::Error) -> Error {
    let cure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room on that file system: what undoing needs has to be kept there")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("mount that file system writable: what undoing needs has to be kept there")
        }
        _ => None,
    };
    Error::new(format!("cannot {verb} {}", path.display())).because(error).maybe_cure(cure)
}

/// A symbolic link in the place of a file or folder of the state folder.
pub(crate) fn symlink(path: &Path) -> Error {
    Error::new(format!(
        "{} is a symbolic link: receipts are not followed out of their place",
        path.display()
    ))
    .cure("find out what made it, and remove it")
}
