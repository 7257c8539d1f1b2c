//! Files that undoing relies on: written whole beside their place, flushed to the disk, renamed; read
//! only where nobody else can have written them. Nothing here follows a symbolic link.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};

use crate::kernel::error::{Error, Result};

/// More than any file of ours needs: 100,000 destinations are about 20 MB.
pub(super) const LIMIT: u64 = 256 << 20;

/// Reads a file; `None` if there is none. `what` names its kind in errors ("receipt").
///
/// Not a file that is opened and hangs (a FIFO), none that fills the memory, none that others can write.
pub(super) fn read_file(path: &Path, what: &str) -> Result<Option<Vec<u8>>> {
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
        return Err(Error::new(format!("the {what} {} is no plain file", path.display()))
            .cure("look who made it, and move it away"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "the {what} {} can be written by others than this user (owner {}, mode {:o}): what it \
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
        return Err(Error::new(format!(
            "the {what} {} is larger than {LIMIT} bytes",
            path.display()
        ))
        .cure("it is none of lvsprov's: look who wrote it, and move it away"));
    }
    Ok(Some(text))
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

/// Whether all of `folders` are there; an error if one is not to be trusted.
pub(super) fn folders_are_there(folders: &[&Path]) -> Result<bool> {
    for folder in folders {
        match fs::symlink_metadata(folder) {
            Ok(found) => check_folder(folder, &found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(cannot_io("read", folder, error)),
        }
    }
    Ok(true)
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

/// Writes a file of mode 0600 and flushes it to the disk. What lies there (an earlier run may have been
/// killed) is removed first.
pub(super) fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    remove_if_there(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Writes over the beginning of a file that is there. Takes no room on the disk.
pub(super) fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(path)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text)
}

/// Removes a file; fine if there is none.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Flushes to the disk what names what in `folder`.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder: File =
        OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(folder)?;
    folder.sync_all()
}

/// The same for the folder of `path`.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

/// Tells two files of one name apart where each is a new one that takes the name.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let found = fs::symlink_metadata(path).ok()?;
    Some(Identity(found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
}

/// Inode, when that was changed (seconds, nanoseconds), length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, i64, i64, u64);

/// `verb` failed, with the cure where it is a matter of the file system.
pub(super) fn cannot_io(verb: &str, path: &Path, error: io::Error) -> Error {
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

pub(super) fn symlink(path: &Path) -> Error {
    Error::new(format!(
        "{} is a symbolic link: receipts are not followed out of their place",
        path.display()
    ))
    .cure("look who made it, and remove it")
}
