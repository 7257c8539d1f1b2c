//! What `verify` and `status` saw, host by host: plain data for the reports. The JSON form is stable:
//! members are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outcome::{Found, HostStatus, UnfinishedView};
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::Foreign;
use crate::state::{
    Counters, DaemonRole, DestinationKey, Reverted, ServiceKey, SyncDaemon, Timeouts,
};

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The topology's name.
    pub topology: String,
    /// One after the other.
    pub proofs: Vec<Proof>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What must be true.
    pub claim: String,
    /// Whether it is.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// Of which service, where requests are to prove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Why a claim that is not true does not undo a change all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excuse: Option<Excuse>,
}

impl Proof {
    /// Whether a change must not stay because of it.
    pub fn condemns(&self) -> bool {
        self.verdict == Verdict::Fails && self.excuse.is_none()
    }
}

/// Why requests without an answer do not speak against the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excuse {
    /// Each was refused or reset, or its connection was made: the way there and back works, and the
    /// application behind it is not ready.
    Replied,
    /// Datagrams, and not one came back: an application need not answer what it does not understand.
    Datagrams,
}

/// Whether a claim is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is.
    Holds,
    /// It is not.
    Fails,
    /// It could not be looked at; the evidence says why.
    NotChecked,
}

impl VerifyReport {
    /// Whether any claim failed.
    pub fn has_failures(&self) -> bool {
        self.proofs.iter().any(|proof| proof.verdict == Verdict::Fails)
    }
}

/// What `status` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The topology's name.
    pub topology: String,
    /// By name of the host.
    pub hosts: BTreeMap<HostName, HostView>,
    /// Transactions that were found unfinished, and what can be done with each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<Found>,
}

/// One host as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Reachable or not, drifted or not.
    pub status: HostStatus,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// Seconds since 1970 of the first apply, where there was one.
    pub applied_since: Option<u64>,
    /// What differs from the file, one line each.
    pub drift: Vec<String>,
    /// Services of the file that this host directs.
    pub services: Vec<ServiceView>,
    /// What somebody else made on it.
    #[serde(default)]
    pub foreign: Vec<Foreign>,
    /// The timeouts of its IPVS, where it directs something.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// Its sync daemons.
    #[serde(default)]
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// What was found there of a transaction that is not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<UnfinishedView>,
    /// What it undid by itself, if nothing was begun there since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
}

/// One service as IPVS has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name: the file's, or the one derived from protocol, VIP and port.
    pub name: String,
    /// What a person calls it.
    #[serde(skip)]
    pub spoken: String,
    /// Its name in the IPVS table.
    pub key: ServiceKey,
    /// The scheduler in use; `None` where the service is not there.
    pub scheduler: Option<String>,
    /// Scheduler, persistence, flags and engine in one breath; `None` where the service is not there.
    #[serde(default)]
    pub settings: Option<String>,
    /// Seconds that a client stays with its real server; `None`: it does not.
    #[serde(default)]
    pub persistence: Option<u32>,
    /// Its real servers.
    pub real_servers: Vec<RealServerView>,
}

/// One real server as IPVS has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerView {
    /// The host's name, if the file knows the address.
    pub host: Option<HostName>,
    /// Address and port.
    pub key: DestinationKey,
    /// nat, dr, tun, local.
    pub method: String,
    /// Its weight now.
    pub weight: u32,
    /// Connections from which on no new one is given; 0: no limit.
    #[serde(default)]
    pub upper_threshold: u32,
    /// Connections below which new ones are given again.
    #[serde(default)]
    pub lower_threshold: u32,
    /// Connections.
    pub counters: Counters,
}
