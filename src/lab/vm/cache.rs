//! Where fetched kernels and the verdict on KVM are kept.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A folder of our own, which exists.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `folder` if given, else `$LVSPROV_CACHE`, `$XDG_CACHE_HOME/lvsprov`, `/var/cache/lvsprov` for
    /// root, or `~/.cache/lvsprov`. It is made where it does not exist.
    ///
    /// # Errors
    /// If there is none of these, or it cannot be made.
    pub fn open(folder: Option<&Path>) -> io::Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => usual_place(root, |name| env::var_os(name).filter(|v| !v.is_empty()))
                .ok_or_else(|| io::Error::other("set LVSPROV_CACHE: there is no HOME either"))?,
        };
        fs::create_dir_all(&folder).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot make {}: {e}", folder.display()))
        })?;
        Ok(Self { folder: folder.canonicalize()? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Waits until nobody else has the lock, and holds it as long as the value lives.
    ///
    /// # Errors
    /// If the lock's file cannot be made.
    pub fn lock(&self) -> io::Result<Flock<File>> {
        let file = File::options().create(true).append(true).open(self.folder.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    /// A file's text, if it is there.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }

    /// Writes a file at once or not at all.
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

fn usual_place(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
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
    fn the_place_is_the_one_that_was_said_or_the_usual_one() {
        let home = |name: &str| (name == "HOME").then(|| "/home/u".into());
        let place = |root, of: &dyn Fn(&str) -> Option<OsString>| usual_place(root, of);
        assert_eq!(place(false, &home), Some("/home/u/.cache/lvsprov".into()));
        assert_eq!(place(true, &home), Some("/var/cache/lvsprov".into()));
        assert_eq!(place(false, &|_| None), None);
        let said = |name: &str| (name == "LVSPROV_CACHE").then(|| "/c".into());
        assert_eq!(place(true, &said), Some("/c".into()));
    }
}
