//! The settled state beside the receipt: what the host makes again after a restart.
//!
//! `STATE_DIR/TOPOLOGY/settled.json` changes only when a transaction commits: until then the new one lies in the
//! transaction's folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::receipt::{self, FileFormat};
use super::store::Store;
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::protocol::Prepare;
use crate::state::{RECEIPT_VERSION, Receipt, Settled, SettledDigest};

/// The name of its file, in the topology's folder and in a transaction's.
pub(super) const FILE: &str = "settled.json";

/// What a commit does with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SettledChange {
    /// It stays as it is.
    #[default]
    Keep,
    /// The one in the transaction's folder takes its place.
    Put,
    /// It is removed.
    Remove,
}

impl SettledChange {
    /// What the commit of `request` does with it.
    pub fn of(request: &Prepare) -> Self {
        match (&request.settled, is_named(request)) {
            (_, false) => Self::Remove,
            (Some(_), true) => Self::Put,
            (None, true) => Self::Keep,
        }
    }
}

/// Whether the host makes something again after a restart, once `request` is committed.
pub(super) fn is_named(request: &Prepare) -> bool {
    request.receipt_after.as_ref().is_some_and(|receipt| receipt.settled.is_some())
}

/// The path of the settled state of `topology`.
pub(super) fn path(state_dir: &Path, topology: &TopologyName) -> PathBuf {
    state_dir.join(topology.as_str()).join(FILE)
}

/// The digest of what lies there; `None`: nothing that can be read.
pub(super) fn digest(store: &dyn Store, topology: &TopologyName) -> Option<SettledDigest> {
    let text = store.read(&path(store.root(), topology), "settled state").ok()??;
    Some(SettledDigest::of(&text))
}

/// Reads the settled state that `receipt` names; `None`: it names none.
pub(super) fn read(store: &dyn Store, receipt: &Receipt) -> Result<Option<Settled>> {
    let Some(digest) = &receipt.settled else { return Ok(None) };
    let path = path(store.root(), &receipt.topology);
    let text = store.read(&path, "settled state")?.ok_or_else(|| damaged(&path, "is missing"))?;
    if SettledDigest::of(&text) != *digest {
        return Err(damaged(&path, "is not the one that the receipt names"));
    }
    let broken = |error: serde_json::Error| damaged(&path, "is damaged").because(error);
    let FileFormat { version } = serde_json::from_slice(&text).map_err(broken)?;
    if version > RECEIPT_VERSION {
        return Err(receipt::later("settled state", &path, version, RECEIPT_VERSION));
    }
    let settled: Settled = serde_json::from_slice(&text).map_err(broken)?;
    if settled.topology != receipt.topology {
        return Err(damaged(&path, &format!("is that of the topology {}", settled.topology)));
    }
    Ok(Some(settled))
}

/// Whether the request brings the settled state that its receipt names; `present`: the receipt on the host.
pub(super) fn check(request: &Prepare, present: Option<&Receipt>) -> Result<()> {
    let fault = |what: &str| {
        Err(Error::new(format!("the transaction's settled state {what}: nothing was prepared"))
            .cure("this is a fault of lvsprov: please report it"))
    };
    let after = request.receipt_after.as_ref().and_then(|receipt| receipt.settled.as_ref());
    match (&request.settled, after) {
        (None, None) => Ok(()),
        (None, Some(_)) => {
            let here = present.and_then(|receipt| receipt.settled.as_ref());
            if here == after { Ok(()) } else { fault("was not sent") }
        }
        (Some(_), None) => fault("is named by no receipt"),
        (Some(settled), Some(digest)) => {
            let text = settled.text().map_err(|error| Error::new("no JSON").because(error))?;
            if settled.topology != request.journal.topology {
                return fault("is another topology's");
            }
            if SettledDigest::of(&text) == *digest { Ok(()) } else { fault("has another digest") }
        }
    }
}

fn damaged(path: &Path, how: &str) -> Error {
    Error::new(format!(
        "the settled state {} {how}: this host cannot make again what it had before the restart",
        path.display()
    ))
    .cure("`lvsprov apply` with the topology's file makes it, and writes the file anew")
}
