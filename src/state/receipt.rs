//! The receipt: what a topology owns on a host, and what it found there.

use serde::{Deserialize, Serialize};

use super::{DriftPolicy, ExternalWeights, HostRun, HostState, Maintenance, Owned, SettledDigest};
use crate::names::TopologyName;

/// The receipt's format, see [`Receipt`]. Format 1, without `run` and `settled`, format 2, whose tables guard no tunnel,
/// format 3, without `maintenance`, format 4, without `drift`, format 5, without `external`, format 6, whose settled states
/// have no `needs`, and format 7, without instances of daemons, are read too.
pub const RECEIPT_VERSION: u32 = 8;

/// What this topology owns on a host, and how that was before any topology had it.
///
/// **Every new key, and every new kind of item or setting in it, raises
/// [`RECEIPT_VERSION`]**: an lvsprov that does not know it then says
/// that it reads a later format, instead of taking the file for damaged. So does a new meaning of a key.
/// A test pins the keys of the current format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`RECEIPT_VERSION`].
    pub version: u32,
    /// The topology's name.
    pub topology: TopologyName,
    /// When it was first applied, in seconds since 1970 by the controller's clock.
    pub since: u64,
    /// What this topology owns here.
    pub owned: Owned,
    /// How that was before any topology had it; an item that is owned and not in here was absent. Of an
    /// item that another topology had already it is what that one found, so that whichever is destroyed
    /// last puts back the original value.
    pub found: HostState,
    /// The run of the host in which `found` was read; `None`: not known (format 1). After a restart `found` is
    /// read anew: the values of an earlier run are not put back ([`crate::plan::boot`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<HostRun>,
    /// The digest of the state that the host makes again after a restart; `None`: it makes nothing again. In an
    /// observation only where it does: that state's file is there, whole, and the boot unit is installed, where one
    /// can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<SettledDigest>,
    /// On a director: its real servers that are in maintenance, until the operator returns them. Only a commit changes it, as the
    /// transaction's goal says.
    #[serde(default, skip_serializing_if = "Maintenance::is_empty")]
    pub maintenance: Maintenance,
    /// What the host does about drift by itself; `None`: it looks for none. Never without `settled` on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftPolicy>,
    /// On a director: the real servers that lvsprov has made of services with `weights: external`. Only a commit changes it.
    #[serde(default, skip_serializing_if = "ExternalWeights::is_empty")]
    pub external: ExternalWeights,
}

impl Receipt {
    /// Whether the host lost all that this receipt speaks of since `found` was read. `now`: the present run.
    pub fn is_stale(&self, now: Option<&HostRun>) -> bool {
        self.run.as_ref().zip(now).is_some_and(|(then, now)| now.lost_state_of(then))
    }
}
