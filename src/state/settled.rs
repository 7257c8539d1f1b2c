//! The settled state: what a host makes again by itself after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AcceptedValues, HostState, ServiceKey, Sysctl};
use crate::names::{IfName, TopologyName};
use crate::visible::hex;

/// What a topology wants of a host, as the last commit left it. It lies beside the receipt, which names its
/// digest: reading a receipt stays cheap, however large the IPVS table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// [`super::RECEIPT_VERSION`]: the two files have one format.
    pub version: u32,
    /// The topology's name.
    pub topology: TopologyName,
    /// What the file says of the host. It leaves open what the host decides: the metric of a route, say.
    pub state: HostState,
    /// Other values of its settings that serve, should the host come up with them.
    pub accepted: BTreeMap<Sysctl, AcceptedValues>,
    /// Whether the IPVS table is the topology's as a whole (`ipvs: exclusive`).
    pub exclusive: bool,
    /// Services whose weights a health checker sets (`weights: external`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub external: BTreeSet<ServiceKey>,
    /// Interfaces that get an address, with those that the host's own configuration gives them, as the file says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<IfName, Vec<IpNet>>,
}

/// SHA-256 of the bytes of a settled state's file, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SettledDigest(String);

impl Settled {
    /// The bytes of its file. An error is a fault of lvsprov: every state has a JSON form.
    pub fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

impl SettledDigest {
    /// The digest of the bytes of a file.
    pub fn of(text: &[u8]) -> Self {
        Self(hex(&Sha256::digest(text)))
    }
}

impl fmt::Display for SettledDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
