//! Files of the host that outlive a power cut in the order in which they were written: each is on the disk before the next
//! is begun. [`RootTree`] is the host's own disk; the laws have one in memory, which crashes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// What is written beside a file, and takes its name once it is whole.
pub(super) const BESIDE: &str = ".lvsprov-new";

/// Single writes. Names and contents are on the disk after their sync, and may be before.
pub(super) trait FileTree {
    /// Whether a file, a folder or a link is there.
    fn is_there(&self, path: &Path) -> bool;
    /// Makes one folder.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Writes a new file, or an old one anew, and syncs its content.
    fn write(&self, path: &Path, mode: u32, content: &mut dyn Read) -> io::Result<()>;
    /// Makes a symbolic link.
    fn link(&self, target: &Path, path: &Path) -> io::Result<()>;
    /// Gives a file another name in its folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or a link.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Syncs the names in a folder.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// Makes a folder with those above it.
fn make_folders(tree: &dyn FileTree, folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|it| !tree.is_there(it)).collect();
    for folder in missing.into_iter().rev() {
        tree.make_folder(folder)?;
        tree.sync_folder(parent(folder))?;
    }
    Ok(())
}

/// Writes a file whole or not at all.
pub(super) fn put(
    tree: &dyn FileTree,
    path: &Path,
    mode: u32,
    content: &mut dyn Read,
) -> io::Result<()> {
    let folder = parent(path);
    make_folders(tree, folder)?;
    let beside = folder.join(BESIDE);
    let written = tree.write(&beside, mode, content).and_then(|()| tree.rename(&beside, path));
    if written.is_err() {
        // It may not have come so far.
        let _ = tree.remove(&beside);
    }
    written?;
    tree.sync_folder(folder)
}

/// Makes a symbolic link, if nothing has its name.
pub(super) fn put_link(tree: &dyn FileTree, target: &Path, path: &Path) -> io::Result<()> {
    make_folders(tree, parent(path))?;
    match tree.link(target, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => tree.sync_folder(parent(path)),
    }
}

/// Removes those of `paths` that are there, with what a power cut left beside them. Whether there were any. When it
/// returns, none can come back.
pub(super) fn remove_all(tree: &dyn FileTree, paths: &[PathBuf]) -> io::Result<bool> {
    let folders: BTreeSet<&Path> = paths.iter().map(|path| parent(path)).collect();
    let beside = folders.iter().map(|folder| folder.join(BESIDE));
    let present: Vec<PathBuf> =
        paths.iter().cloned().chain(beside).filter(|path| tree.is_there(path)).collect();
    present.iter().try_for_each(|path| tree.remove(path))?;
    for folder in folders.into_iter().filter(|folder| tree.is_there(folder)) {
        tree.sync_folder(folder)?;
    }
    Ok(!present.is_empty())
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The host's own.
pub(super) struct RootTree;

impl FileTree for RootTree {
    fn is_there(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn write(&self, path: &Path, mode: u32, content: &mut dyn Read) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        io::copy(content, &mut file)?;
        file.sync_all()
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        symlink(target, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}
