//! The boot unit follows the receipts: it stays as long as one of them names a settled state, or may do so soon.
//!
//! A unit without such a receipt does nothing. So it is installed before a transaction is prepared and removed after one
//! is closed, outside of any journal, and a crash in between leaves a unit that does nothing: the next boot removes it.

use std::io;

use super::actor::Actor;
use super::store::Store;
use super::{journal, receipt};
use crate::kernel::error::Result;
use crate::names::TopologyName;
use crate::plan::drift::{self, UnitNeeds};
use crate::state::Receipt;

/// Removes the boot unit if no topology needs it, and keeps the timer that looks for drift as the receipts say.
pub(super) fn tidy(store: &dyn Store, actor: &dyn Actor) -> Result<()> {
    if !actor.boot_unit(&UnitNeeds::default()).is_possible() {
        return Ok(());
    }
    if !is_needed(store) {
        return actor.remove_boot_unit();
    }
    let receipts = topologies(store).into_iter();
    let receipts: Result<Vec<Option<Receipt>>> =
        receipts.map(|topology| receipt::read_as_written(store, &topology)).collect();
    match receipts {
        Ok(receipts) => {
            let policies = receipts.into_iter().flatten().filter_map(|receipt| receipt.drift);
            actor.keep_drift_timer(drift::every_s(policies))
        }
        // What cannot be read may have asked for it.
        Err(_) => Ok(()),
    }
}

/// Has it started if a topology needs it. A failure is no reason to fail: the next boot starts it.
pub(super) fn start(store: &dyn Store, actor: &dyn Actor) {
    if actor.boot_unit(&UnitNeeds::default()).is_enabled() && is_needed(store) {
        let _ = actor.start_boot_unit();
    }
}

/// What cannot be read may name a settled state.
fn is_needed(store: &dyn Store) -> bool {
    match store.entries(store.root()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return true,
        _ => {}
    }
    topologies(store).iter().any(|topology| {
        let is_open = store.kind(&journal::path(store.root(), topology)).is_some();
        let names_one = match receipt::read_as_written(store, topology) {
            Ok(receipt) => receipt.is_some_and(|receipt| receipt.settled.is_some()),
            Err(_) => true,
        };
        is_open || names_one
    })
}

/// The topologies that have something on this host, in the order of their names.
pub(super) fn topologies(store: &dyn Store) -> Vec<TopologyName> {
    let entries = store.entries(store.root()).unwrap_or_default();
    let name = |entry: &std::ffi::OsString| {
        let is_own = TopologyName::RESERVED.iter().any(|own| entry == *own);
        entry.to_str().filter(|_| !is_own)?.parse::<TopologyName>().ok()
    };
    let has_files = |topology: &TopologyName| {
        let paths = [receipt::path(store.root(), topology), journal::path(store.root(), topology)];
        paths.iter().any(|path| store.kind(path).is_some())
    };
    let mut all: Vec<TopologyName> = entries.iter().filter_map(name).filter(has_files).collect();
    all.sort();
    all
}
