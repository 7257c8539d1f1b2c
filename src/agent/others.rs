//! What lies in the state folder beside this topology's own: other topologies' receipts and journals, and
//! what is neither.
//!
//! None of it may keep this topology from being undone. So what cannot be read is no error here: it is
//! named, and the plan says where it matters ([`crate::plan::neighbours::unreadable`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use super::disk::{cannot_io, folders_are_there, read_file};
use super::{journal, receipt};
use crate::failure::Failure;
use crate::kernel::error::Result;
use crate::names::TopologyName;
use crate::state::{Journal, OtherTransaction, Receipt, TransactionId};

/// So many strays are named.
const MOST_STRAYS: usize = 10;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// See [`crate::state::Observation::others`].
    pub receipts: BTreeMap<TopologyName, Receipt>,
    /// See [`crate::state::Observation::unfinished_elsewhere`].
    pub unfinished: BTreeMap<TopologyName, OtherTransaction>,
    /// See [`crate::state::Observation::unreadable`].
    pub unreadable: BTreeMap<TopologyName, Failure>,
    /// See [`crate::state::Observation::strays`].
    pub strays: Vec<String>,
}

/// Reads what lies beside `topology` in `state_dir`.
pub(super) fn read(state_dir: &Path, topology: &TopologyName) -> Result<Others> {
    let failed = |error| cannot_io("read", state_dir, error);
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Others::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut others = Others::default();
    let mut strays = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if TopologyName::RESERVED.iter().any(|own| name == *own) || name == topology.as_str() {
            continue;
        }
        if let Some(why) = others.add(state_dir, &name) {
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

impl Others {
    /// Reads one entry; why it is a stray, if it is one.
    fn add(&mut self, state_dir: &Path, name: &OsStr) -> Option<String> {
        let Some(Ok(topology)) = name.to_str().map(str::parse::<TopologyName>) else {
            return Some("no topology has such a name".to_owned());
        };
        let folder = state_dir.join(name);
        let has = |path: &Path| fs::symlink_metadata(path).is_ok();
        let (receipt, journal) =
            (receipt::path(state_dir, &topology), journal::path(state_dir, &topology));
        if !has(&receipt) && !has(&journal) {
            return is_stray(&folder).then(|| "no topology's folder".to_owned());
        }
        match read_receipt(state_dir, &folder, &receipt) {
            Ok(Some(there)) if there.topology != topology => {
                // Somebody kept a copy.
                return Some(format!("the receipt in it is that of {}", there.topology));
            }
            Ok(Some(there)) => drop(self.receipts.insert(topology.clone(), there)),
            Ok(None) => {}
            Err(error) => drop(self.unreadable.insert(topology.clone(), error.to_failure())),
        }
        match journal::read_journal(state_dir, &topology) {
            Ok(Some(Journal { transaction, by, since, touched, .. })) => {
                let theirs = OtherTransaction { transaction, by, since, touched };
                self.unfinished.insert(topology, theirs);
            }
            Ok(None) => {}
            Err(error) => drop(self.unreadable.entry(topology).or_insert(error.to_failure())),
        }
        None
    }
}

fn read_receipt(state_dir: &Path, folder: &Path, path: &Path) -> Result<Option<Receipt>> {
    if !folders_are_there(&[state_dir, folder])? {
        return Ok(None);
    }
    let Some(text) = read_file(path, "receipt")? else { return Ok(None) };
    receipt::parse_any(path, &text).map(Some)
}

/// Whether what has neither a receipt nor a journal was not made by lvsprov: a folder may be empty, or
/// have what a transaction begins or ends with.
fn is_stray(path: &Path) -> bool {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        // Gone meanwhile: a topology that was settled.
        return fs::symlink_metadata(path).is_ok();
    }
    let Ok(entries) = fs::read_dir(path) else { return false };
    let is_ours = |name: &str| {
        name.parse::<TransactionId>().is_ok()
            || ["receipt.json", "journal.json", "reverted.json", ".receipt.json.", ".journal.json."]
                .iter()
                .any(|own| name.starts_with(own))
    };
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    !names.is_empty() && !names.iter().any(|name| name.to_str().is_some_and(is_ours))
}

#[cfg(test)]
#[path = "others_tests.rs"]
mod tests;
