//! The receipt: what a topology owns on a host, and what it found there.

use serde::{Deserialize, Serialize};

use super::{HostState, Owned};
use crate::names::TopologyName;

/// The receipt's format, see [`Receipt`]. Only this format is read.
pub const RECEIPT_VERSION: u32 = 1;

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
}
