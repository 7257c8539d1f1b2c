//! The other entries of the state folder: other topologies' receipts and journals, and strays.
//!
//! None of them may keep this topology from being undone. So an entry that cannot be read is no error
//! here: it is named, and the plan decides where it matters ([`crate::plan::other_topologies::unreadable`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use super::store::{EntryKind, Store, cannot_io};
use super::{journal, receipt};
use crate::failure::Failure;
use crate::kernel::error::Result;
use crate::names::TopologyName;
use crate::state::{Journal, OtherTransaction, Receipt, TransactionId};

/// So many strays are named.
const MOST_STRAYS: usize = 10;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct OtherEntries {
    /// See [`crate::state::Observation::others`].
    pub receipts: BTreeMap<TopologyName, Receipt>,
    /// See [`crate::state::Observation::open_elsewhere`].
    pub open: BTreeMap<TopologyName, OtherTransaction>,
    /// See [`crate::state::Observation::unreadable`].
    pub unreadable: BTreeMap<TopologyName, Failure>,
    /// See [`crate::state::Observation::strays`].
    pub strays: Vec<String>,
}

/// Reads the entries beside `topology` in the state folder.
pub(super) fn read(store: &dyn Store, topology: &TopologyName) -> Result<OtherEntries> {
    let entries = match store.entries(store.root()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(OtherEntries::default()),
        Err(error) => return Err(cannot_io("read", store.root(), error)),
    };
    let mut others = OtherEntries::default();
    let mut strays = BTreeSet::new();
    for name in entries {
        if TopologyName::RESERVED.iter().any(|own| name == *own) || name == topology.as_str() {
            continue;
        }
        if let Some(why) = others.add(store, &name) {
            strays.insert(format!("{} ({why})", name.to_string_lossy().escape_debug()));
        }
    }
    let more = strays.len().saturating_sub(MOST_STRAYS);
    others.strays = strays.into_iter().take(MOST_STRAYS).collect();
    if more > 0 {
        others.strays.push(format!("{more} more"));
    }
    Ok(others)
}

impl OtherEntries {
    /// Reads one entry; why it is a stray, if it is one.
    fn add(&mut self, store: &dyn Store, name: &OsStr) -> Option<String> {
        let Some(Ok(topology)) = name.to_str().map(str::parse::<TopologyName>) else {
            return Some("no topology has such a name".to_owned());
        };
        let root = store.root();
        let folder = root.join(name);
        let has = |path: &Path| store.kind(path).is_some();
        let (receipt, journal) = (receipt::path(root, &topology), journal::path(root, &topology));
        if !has(&receipt) && !has(&journal) {
            return is_stray(store, &folder).then(|| "no topology's folder".to_owned());
        }
        match read_receipt(store, &folder, &receipt) {
            Ok(Some(found)) if found.topology != topology => {
                // A copy in a folder of another name.
                return Some(format!("the receipt in it is that of {}", found.topology));
            }
            Ok(Some(found)) => drop(self.receipts.insert(topology.clone(), found)),
            Ok(None) => {}
            Err(error) => drop(self.unreadable.insert(topology.clone(), error.to_failure())),
        }
        match journal::read_journal(store, &topology) {
            Ok(Some(Journal { transaction, by, since, touched, .. })) => {
                let theirs = OtherTransaction { transaction, by, since, touched };
                self.open.insert(topology, theirs);
            }
            Ok(None) => {}
            Err(error) => drop(self.unreadable.entry(topology).or_insert(error.to_failure())),
        }
        None
    }
}

fn read_receipt(store: &dyn Store, folder: &Path, path: &Path) -> Result<Option<Receipt>> {
    if !store.folders_exist(&[store.root(), folder])? {
        return Ok(None);
    }
    let Some(text) = store.read(path, "receipt")? else { return Ok(None) };
    receipt::parse_any(path, &text).map(Some)
}

/// Whether an entry with neither a receipt nor a journal was not made by lvsprov. A folder of lvsprov may
/// be empty, or have the files that a transaction begins or ends with.
fn is_stray(store: &dyn Store, path: &Path) -> bool {
    match store.kind(path) {
        Some(EntryKind::Folder) => {}
        Some(_) => return true,
        // Gone meanwhile: a topology whose transaction was closed.
        None => return false,
    }
    let Ok(names) = store.entries(path) else { return false };
    let is_ours = |name: &str| {
        name.parse::<TransactionId>().is_ok()
            || [
                "receipt.json",
                "settled.json",
                "journal.json",
                "reverted.json",
                "drift.json",
                ".drift.json.",
                ".receipt.json.",
                ".journal.json.",
            ]
            .iter()
            .any(|own| name.starts_with(own))
    };
    !names.is_empty() && !names.iter().any(|name| name.to_str().is_some_and(is_ours))
}

#[cfg(test)]
#[path = "others_tests.rs"]
mod tests;
