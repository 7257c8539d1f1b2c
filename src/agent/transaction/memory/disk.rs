//! Files in memory that tell what is written from what is synced.
//!
//! A crash of the host keeps or loses each write that was not synced, by choice: a name that was given,
//! removed or exchanged without a sync of its folder, a content without a sync of its file. A rename
//! within a folder is kept as a whole or lost as a whole; one between folders may leave both names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};

/// The folder that holds the state folder.
const ROOT: u64 = 0;

#[derive(Debug, Clone)]
enum Inode {
    /// `synced`: the content that a crash cannot lose; `None`: nothing of it.
    File { content: Vec<u8>, synced: Option<Vec<u8>>, changed: u64 },
    /// `durable`: the names that a crash cannot lose.
    Folder { names: BTreeMap<String, u64>, durable: BTreeMap<String, u64> },
}

/// A change of names that was not synced.
#[derive(Debug, Clone)]
struct Pending {
    folder: u64,
    /// The name that gets a new meaning; `None`: it is removed.
    put: Option<(String, u64)>,
    /// The name that goes.
    removed: Option<String>,
}

/// What a crash of the host keeps of the writes that were not synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// Of the changes of names, in their order, those whose bit is set; of each content half.
    Names(u64),
}

/// All files of a host.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    clock: u64,
    pending: Vec<Pending>,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn folder() -> Inode {
    Inode::Folder { names: BTreeMap::new(), durable: BTreeMap::new() }
}

impl Default for Files {
    fn default() -> Self {
        Self { inodes: [(ROOT, folder())].into(), next: ROOT + 1, clock: 0, pending: Vec::new() }
    }
}

impl Files {
    fn names(&self, folder: u64) -> io::Result<&BTreeMap<String, u64>> {
        match self.inodes.get(&folder) {
            Some(Inode::Folder { names, .. }) => Ok(names),
            Some(Inode::File { .. }) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let name = name.to_str().ok_or_else(not_found)?;
            at = *self.names(at)?.get(name).ok_or_else(not_found)?;
        }
        Ok(at)
    }

    /// The folder of a path, and the path's last name.
    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(not_found)?;
        let parent = self.find(path.parent().ok_or_else(not_found)?)?;
        self.names(parent)?;
        Ok((parent, name.to_owned()))
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let id = self.next;
        self.next += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn change(&mut self, pending: Pending) {
        if let Some(Inode::Folder { names, .. }) = self.inodes.get_mut(&pending.folder) {
            apply(names, &pending);
        }
        self.pending.push(pending);
    }

    fn put(&mut self, folder: u64, name: String, inode: u64) {
        self.change(Pending { folder, put: Some((name, inode)), removed: None });
    }

    fn take(&mut self, folder: u64, name: String) {
        self.change(Pending { folder, put: None, removed: Some(name) });
    }

    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.inodes[&self.find(path)?] {
            Inode::File { content, .. } => Ok(content.clone()),
            Inode::Folder { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub fn is_folder(&self, path: &Path) -> io::Result<bool> {
        Ok(matches!(self.inodes[&self.find(path)?], Inode::Folder { .. }))
    }

    /// Inode, change and length of a file.
    pub fn identity(&self, path: &Path) -> io::Result<(u64, u64, usize)> {
        let id = self.find(path)?;
        Ok(match &self.inodes[&id] {
            Inode::File { content, changed, .. } => (id, *changed, content.len()),
            // A folder changes with each name in it.
            Inode::Folder { names, .. } => (id, names.values().sum(), names.len()),
        })
    }

    pub fn entries(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.names(self.find(folder)?)?.keys().map(OsString::from).collect())
    }

    pub fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        if self.names(parent)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let made = self.add(folder());
        self.put(parent, name, made);
        Ok(())
    }

    /// A new file; it is not synced.
    pub fn write_new(&mut self, path: &Path, text: &[u8]) -> io::Result<u64> {
        let (parent, name) = self.place(path)?;
        self.clock += 1;
        let (content, changed) = (text.to_owned(), self.clock);
        let file = self.add(Inode::File { content, synced: None, changed });
        self.put(parent, name, file);
        Ok(file)
    }

    pub fn sync_file(&mut self, file: u64) {
        if let Some(Inode::File { content, synced, .. }) = self.inodes.get_mut(&file) {
            *synced = Some(content.clone());
        }
    }

    pub fn overwrite(&mut self, path: &Path, text: &[u8]) -> io::Result<()> {
        let id = self.find(path)?;
        self.clock += 1;
        let now = self.clock;
        let Some(Inode::File { content, changed, .. }) = self.inodes.get_mut(&id) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        if content.len() < text.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        content[..text.len()].copy_from_slice(text);
        *changed = now;
        Ok(())
    }

    pub fn link(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let file = self.find(source)?;
        let (parent, name) = self.place(target)?;
        if self.names(parent)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(parent, name, file);
        Ok(())
    }

    pub fn rename(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let file = self.find(source)?;
        let (from, old) = self.place(source)?;
        let (to, new) = self.place(target)?;
        if self.is_folder(target).unwrap_or(false) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from == to {
            self.change(Pending { folder: from, put: Some((new, file)), removed: Some(old) });
        } else {
            self.put(to, new, file);
            self.take(from, old);
        }
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.is_folder(path)? {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (parent, name) = self.place(path)?;
        self.take(parent, name);
        Ok(())
    }

    pub fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        if !self.names(self.find(path)?)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = self.place(path)?;
        self.take(parent, name);
        Ok(())
    }

    pub fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        let id = self.find(path)?;
        self.names(id)?;
        let (mine, others) = self.pending.drain(..).partition(|change| change.folder == id);
        self.pending = others;
        if let Some(Inode::Folder { durable, .. }) = self.inodes.get_mut(&id) {
            let mine: Vec<Pending> = mine;
            mine.iter().for_each(|change| apply(durable, change));
        }
        Ok(())
    }

    /// All files and folders, by their paths.
    pub fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        self.collect(ROOT, "", &mut all);
        all
    }

    fn collect(&self, id: u64, path: &str, all: &mut BTreeMap<String, Vec<u8>>) {
        match &self.inodes[&id] {
            Inode::File { content, .. } => drop(all.insert(path.to_owned(), content.clone())),
            Inode::Folder { names, .. } => {
                all.insert(format!("{path}/"), Vec::new());
                for (name, id) in names {
                    self.collect(*id, &format!("{path}/{name}"), all);
                }
            }
        }
    }

    /// How many changes of names are not synced.
    pub fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// The host crashes, and starts again.
    pub fn crash(&mut self, kept: &Kept) {
        let pending = std::mem::take(&mut self.pending);
        for (at, change) in pending.iter().enumerate() {
            // A rename between folders is two changes; the old name never goes without the new one.
            let moved = change.removed.is_some() && at > 0 && is_moved(&pending[at - 1], change);
            let keeps = |at: usize| match kept {
                Kept::Nothing => false,
                Kept::All => true,
                Kept::Names(bits) => bits >> (at % 64) & 1 == 1,
            };
            if keeps(at) && (!moved || keeps(at - 1)) {
                if let Some(Inode::Folder { durable, .. }) = self.inodes.get_mut(&change.folder) {
                    apply(durable, change);
                }
            }
        }
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::Folder { names, durable } => names.clone_from(durable),
                Inode::File { content, synced, .. } => {
                    let old = synced.clone().unwrap_or_default();
                    match kept {
                        Kept::Nothing => *content = old,
                        Kept::All => {}
                        // The first half is written, the rest is as before.
                        Kept::Names(_) if *content != old => {
                            let half = content.len() / 2;
                            content.truncate(half);
                            content.extend(old.get(half..).unwrap_or_default());
                        }
                        Kept::Names(_) => {}
                    }
                    *synced = Some(content.clone());
                }
            }
        }
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Pending) {
    if let Some(removed) = &change.removed {
        names.remove(removed);
    }
    if let Some((name, inode)) = &change.put {
        names.insert(name.clone(), *inode);
    }
}

fn is_moved(put: &Pending, removed: &Pending) -> bool {
    put.put.is_some()
        && put.removed.is_none()
        && removed.put.is_none()
        && put.folder != removed.folder
}
