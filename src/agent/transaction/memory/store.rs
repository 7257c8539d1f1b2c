//! The [`Store`] of a process in memory: each write may be the one at which the process is killed, or the
//! power fails.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::super::lock::HeldBy;
use super::super::store::{EntryKind, Identity, LockGuard, Store, Unsynced};
use super::disk::Files;
use super::{Crash, MemoryHost, MemoryProcess};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;

const ROOT: &str = "/state";

#[derive(Debug, Clone)]
pub(crate) struct MemoryStore(MemoryProcess);

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

impl MemoryStore {
    pub fn new(process: &MemoryProcess) -> Self {
        Self(process.clone())
    }

    fn host(&self) -> &MemoryHost {
        &self.0.host
    }

    fn reads<T>(&self, read: impl FnOnce(&Files) -> io::Result<T>) -> io::Result<T> {
        if self.0.is_dead() {
            return Err(killed());
        }
        read(&self.host().lock().files)
    }

    /// A write; `half`: what is written where the process is killed in the middle of it.
    fn writes<T>(
        &self,
        write: impl FnOnce(&mut Files) -> io::Result<T>,
        half: impl FnOnce(&mut Files),
    ) -> io::Result<T> {
        if self.0.is_dead() {
            return Err(killed());
        }
        let mut point = self.host().crash.lock().unwrap();
        let now = point.writes;
        point.writes += 1;
        let crash = point.at.clone().filter(|(at, _)| *at == now).map(|(_, crash)| crash);
        let Some(crash) = crash else { return write(&mut self.host().lock().files) };
        point.happened = true;
        drop(point);
        match crash {
            Crash::Process => {}
            Crash::HalfWay => half(&mut self.host().lock().files),
            Crash::Power(kept) => self.host().lose_power(&kept),
        }
        self.0.die();
        Err(killed())
    }
}

impl Store for MemoryStore {
    fn root(&self) -> &Path {
        Path::new(ROOT)
    }

    fn read(&self, path: &Path, _: &str) -> Result<Option<Vec<u8>>> {
        match self.reads(|files| files.read(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(format!("cannot read {}", path.display())).because(error)),
        }
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        let folder = self.reads(|files| files.is_folder(path)).ok()?;
        Some(if folder { EntryKind::Folder } else { EntryKind::File })
    }

    fn identity(&self, path: &Path) -> Option<Identity> {
        let (inode, changed, length) = self.reads(|files| files.identity(path)).ok()?;
        Some(Identity(inode, i64::try_from(changed).unwrap(), 0, length as u64))
    }

    fn folders_exist(&self, folders: &[&Path]) -> Result<bool> {
        Ok(folders.iter().all(|folder| self.kind(folder) == Some(EntryKind::Folder)))
    }

    fn entries(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.reads(|files| files.entries(folder))
    }

    fn make_folder(&self, folder: &Path) -> Result<()> {
        if self.kind(folder).is_some() {
            return Ok(());
        }
        let parent = folder.parent().unwrap();
        self.make_new_folder(folder)
            .and_then(|()| self.sync_folder(parent))
            .map_err(|error| Error::new("cannot make a folder").because(error))
    }

    fn make_new_folder(&self, folder: &Path) -> io::Result<()> {
        self.writes(|files| files.make_folder(folder), |_| {})
    }

    fn write_new(&self, path: &Path, text: &[u8]) -> io::Result<Box<dyn Unsynced>> {
        let half = &text[..text.len() / 2];
        let write = |files: &mut Files| {
            let _ = files.remove(path);
            files.write_new(path, text)
        };
        let file = self.writes(write, |files| {
            let _ = files.remove(path);
            let _ = files.write_new(path, half);
        })?;
        Ok(Box::new(WrittenFile { store: self.clone(), file }))
    }

    fn overwrite(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let half = &text[..text.len() / 2];
        self.writes(|files| files.overwrite(path, text), |files| drop(files.overwrite(path, half)))
    }

    fn link(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.writes(|files| files.link(source, target), |_| {})
    }

    fn rename(&self, source: &Path, target: &Path) -> io::Result<()> {
        self.writes(|files| files.rename(source, target), |_| {})
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // Nothing is written where nothing is removed.
        self.reads(|files| files.is_folder(path))?;
        self.writes(|files| files.remove(path), |_| {})
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        if !self.reads(|files| files.entries(folder))?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.writes(|files| files.remove_folder(folder), |_| {})
    }

    fn remove_tree(&self, folder: &Path) -> io::Result<()> {
        for name in self.entries(folder)? {
            self.remove(&folder.join(name))?;
        }
        self.remove_folder(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.writes(|files| files.sync_folder(folder), |_| {})
    }

    fn try_lock(&self, _: Option<&TopologyName>) -> Result<std::result::Result<LockGuard, HeldBy>> {
        if self.0.is_dead() {
            return Err(Error::new("cannot lock").because(killed()));
        }
        self.make_folder(self.root())?;
        let mut memory = self.host().lock();
        if std::mem::replace(&mut memory.locked, true) {
            return Ok(Err(HeldBy::default()));
        }
        Ok(Ok(Box::new(MemoryLock(self.host().clone()))))
    }
}

struct MemoryLock(MemoryHost);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

struct WrittenFile {
    store: MemoryStore,
    file: u64,
}

impl Unsynced for WrittenFile {
    fn sync(self: Box<Self>) -> io::Result<()> {
        let file = self.file;
        let sync = |files: &mut Files| {
            files.sync_file(file);
            Ok(())
        };
        self.store.writes(sync, |_| {})
    }
}
