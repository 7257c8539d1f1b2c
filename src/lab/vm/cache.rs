//! The cache of fetched kernels and of the record about KVM.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// The cache folder, which exists.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `folder` if given, else `$LVSPROV_CACHE`, `$XDG_CACHE_HOME/lvsprov`, `/var/cache/lvsprov` for
    /// root, or `~/.cache/lvsprov`. It is created if missing.
    ///
    /// # Errors
    /// If none of these is set, or the folder cannot be created.
    pub fn open(folder: Option<&Path>) -> io::Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => default_folder(root, |name| env::var_os(name).filter(|v| !v.is_empty()))
                .ok_or_else(|| io::Error::other("no cache folder: set LVSPROV_CACHE or HOME"))?,
        };
        fs::create_dir_all(&folder).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot create {}: {e}", folder.display()))
        })?;
        Ok(Self { folder: folder.canonicalize()? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Waits for the lock, and holds it as long as the value lives.
    ///
    /// # Errors
    /// If the lock file cannot be created.
    pub fn lock(&self) -> io::Result<Flock<File>> {
        let file = File::options().create(true).append(true).open(self.folder.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    /// A file's text, if it exists.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }

    /// Writes a file atomically.
    ///
    /// # Errors
    /// As writing does.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(self.folder.join(name))?;
        Ok(())
    }
}

fn default_folder(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable("LVSPROV_CACHE") {
        return Some(folder.into());
    }
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Some(PathBuf::from(folder).join("lvsprov"));
    }
    if root {
        return Some("/var/cache/lvsprov".into());
    }
    variable("HOME").map(|home| PathBuf::from(home).join(".cache/lvsprov"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_given_one_or_the_default() {
        let home = |name: &str| (name == "HOME").then(|| "/home/u".into());
        let place = |root, of: &dyn Fn(&str) -> Option<OsString>| default_folder(root, of);
        assert_eq!(place(false, &home), Some("/home/u/.cache/lvsprov".into()));
        assert_eq!(place(true, &home), Some("/var/cache/lvsprov".into()));
        assert_eq!(place(false, &|_| None), None);
        let given = |name: &str| (name == "LVSPROV_CACHE").then(|| "/c".into());
        assert_eq!(place(true, &given), Some("/c".into()));
    }
}
