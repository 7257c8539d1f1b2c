//! The receipt: what a topology owns on a host, and what it found there.

use serde::{Deserialize, Serialize};

use super::{HostState, Owned};
use crate::names::TopologyName;

/// The receipt's format, see [`Receipt`].
pub const RECEIPT_VERSION: u32 = 2;

/// What this topology owns on a host, and what was there before.
///
/// **Every new key, and every new kind of item or setting in it, raises
/// [`RECEIPT_VERSION`]**: an lvsprov that does not know it then says
/// that it reads a later format, instead of taking the file for damaged. So does a new meaning of a key.
/// A test pins the keys of the current format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format of this file. 1: `found` is what this topology found; 2: of what another topology had here
    /// already it is what that one found, so that whichever goes last puts back what was here first.
    pub version: u32,
    /// The topology's name.
    pub topology: TopologyName,
    /// When it was first applied, in seconds since 1970 by the controller's clock.
    pub since: u64,
    /// What is ours.
    pub owned: Owned,
    /// How that was before any topology had it; what is owned and not in here was absent.
    pub found: HostState,
}
