//! What lvsprov remembers of services whose weights a health checker sets (`weights: external`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DestinationKey, ServiceKey};

/// The real servers that lvsprov has made, of each service with `weights: external`: as a health checker may have removed
/// one since, the table alone does not tell a real server that is out of service from one that was never added.
pub type ExternalWeights = BTreeMap<ServiceKey, BTreeMap<DestinationKey, ExternalWeight>>;

/// What the last commit knew of one real server of such a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalWeight {
    /// Its weight in the file then (0 in maintenance), 0-2147483647.
    pub file: u32,
    /// Whether lvsprov itself gave it the weight 0, and it was not seen with another one since: then it is not the health
    /// checker that has it out of service.
    pub drained: bool,
}
