//! The state folder on the disk: the [`Store`] of a real host. Reads only what no other user can have
//! written, and follows no symbolic link.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};

use super::transaction::lock::HeldBy;
use super::transaction::store::{
    EntryKind, Identity, LockGuard, Store, Unsynced, cannot_io, symlink,
};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;

/// In bytes. More than any file of lvsprov needs: 100,000 destinations are about 20 MB.
const LIMIT: u64 = 256 << 20;

/// The lock's holder writes so many bytes into the file, so that it needs no new room on the disk.
const SIGNATURE: usize = 128;

/// A state folder, which is made when there is something to keep.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// The state folder at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Store for Disk {
    fn root(&self) -> &Path {
        &self.root
    }

    /// Opens no file that hangs (a FIFO), and reads none that fills the memory.
    fn read(&self, path: &Path, what: &str) -> Result<Option<Vec<u8>>> {
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
        check_file(path, what, &file.metadata().map_err(read)?)?;
        let mut text = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut text).map_err(read)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > LIMIT) {
            return Err(Error::new(format!(
                "the {what} {} is larger than {LIMIT} bytes",
                path.display()
            ))
            .cure("lvsprov did not write it: find out what did, and move it away"));
        }
        Ok(Some(text))
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        let kind = fs::symlink_metadata(path).ok()?.file_type();
        Some(if kind.is_symlink() {
            EntryKind::Symlink
        } else if kind.is_dir() {
            EntryKind::Folder
        } else if kind.is_file() {
            EntryKind::File
        } else {
            EntryKind::Special
        })
    }

    fn identity(&self, path: &Path) -> Option<Identity> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Identity(found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
    }

    fn folders_exist(&self, folders: &[&Path]) -> Result<bool> {
        for folder in folders {
            match fs::symlink_metadata(folder) {
                Ok(found) => check_folder(folder, &found)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(cannot_io("read", folder, error)),
            }
        }
        Ok(true)
    }

    fn entries(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn make_folder(&self, folder: &Path) -> Result<()> {
        let missing = folder.ancestors().take_while(|folder| fs::symlink_metadata(folder).is_err());
        let missing: Vec<&Path> = missing.collect();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let found = made
            .and_then(|()| sync_parents(&missing))
            .and_then(|()| fs::symlink_metadata(folder))
            .map_err(|error| cannot_io("make", folder, error))?;
        check_folder(folder, &found)?;
        if found.mode() & 0o777 != 0o700 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
                .map_err(|error| cannot_io("protect", folder, error))?;
        }
        Ok(())
    }

    fn make_new_folder(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(folder)
    }

    fn write_new(&self, path: &Path, text: &[u8]) -> io::Result<Box<dyn Unsynced>> {
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
        Ok(Box::new(WrittenFile(file)))
    }

    fn overwrite(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(path)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text)
    }

    fn link(&self, source: &Path, target: &Path) -> io::Result<()> {
        fs::hard_link(source, target)
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        fs::rename(source, target)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(folder)
    }

    fn remove_tree(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir_all(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder =
            OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(folder)?;
        folder.sync_all()
    }

    fn try_lock(
        &self,
        topology: Option<&TopologyName>,
    ) -> Result<std::result::Result<LockGuard, HeldBy>> {
        self.make_folder(&self.root)?;
        let path = self.root.join("lock");
        let failed = |error| cannot_io("lock", &path, error);
        let file = open_lock(&path).map_err(failed)?;
        if !file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 1) {
            return Err(Error::new(format!("{} is no plain file", path.display())));
        }
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // Only messages show it: a disk without room is no reason not to undo.
                let _ = sign(&mut lock, topology);
                Ok(Ok(Box::new(lock)))
            }
            Err((file, Errno::EWOULDBLOCK)) => Ok(Err(read_signature(file))),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Writes the names of `folders` to the disk. The folders above the state folder may be symbolic links.
fn sync_parents(folders: &[&Path]) -> io::Result<()> {
    for parent in folders.iter().filter_map(|folder| folder.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

struct WrittenFile(File);

impl Unsynced for WrittenFile {
    fn sync(self: Box<Self>) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn check_file(path: &Path, what: &str, found: &fs::Metadata) -> Result<()> {
    if !found.is_file() {
        return Err(Error::new(format!("the {what} {} is no plain file", path.display()))
            .cure("find out what made it, and move it away"));
    }
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "the {what} {} can be written by others than this user (owner {}, mode {:o}): its \
             content cannot be trusted",
            path.display(),
            found.uid(),
            found.mode() & 0o7777
        ))
        .cure("find out which user wrote it; if it is right: chown root, chmod 600"));
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
        .cure("find out which user changed it; if all is right: chown root, chmod 700"));
    }
    Ok(())
}

/// A lock needs no writing: a file that exists is locked on a read-only file system too.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NOFOLLOW);
    let made = options.clone().write(true).create(true).truncate(false).mode(0o600).open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            options.open(path).map_err(|_| error)
        }
        other => other,
    }
}

/// Writes the holder into the lock's file: process id, seconds since 1970, topology.
fn sign(file: &mut File, topology: Option<&TopologyName>) -> io::Result<()> {
    let topology = topology.map_or("", TopologyName::as_str);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let text = format!("{} {now} {topology}", std::process::id());
    writeln!(file, "{text:<width$}", width = SIGNATURE - 1)?;
    file.flush()
}

fn read_signature(file: File) -> HeldBy {
    let mut text = String::new();
    let _ = file.take(SIGNATURE as u64).read_to_string(&mut text);
    HeldBy::from_signature(&text)
}
