//! What `maintain`, `return` and `reboot` came to, host by host: plain data for the reports. The JSON form is stable: members
//! are only ever added.

use serde::{Deserialize, Serialize};

use crate::apply::drain::DrainedServer;
use crate::apply::outcome::ClusterReport;
use crate::apply::verify::Verification;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::preflight::Obstacle;

/// Which command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceAction {
    /// Takes hosts out of service.
    Maintain,
    /// Returns them.
    Return,
    /// Reboots them, one after the other.
    Reboot,
}

/// All hosts of the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceReport {
    /// Which command.
    pub action: MaintenanceAction,
    /// The topology's name.
    pub topology: String,
    /// In the order of the command line.
    pub hosts: Vec<HostMaintenance>,
    /// The transactions on the directors, in their order; with `--dry-run` the plans of them.
    pub changes: Vec<ClusterReport>,
    /// ARP and requests after a reboot.
    #[serde(default, rename = "proofs", skip_serializing_if = "Vec::is_empty")]
    pub verifications: Vec<Verification>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMaintenance {
    /// Its name.
    pub host: HostName,
    /// What the command came to on it.
    pub end: MaintenanceEnd,
    /// Since when it is in maintenance now, in seconds since 1970; `None`: it is in service.
    pub since: Option<u64>,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// Its connections, service by service.
    pub drained: Vec<DrainedServer>,
    /// What was done, and what a person should know, a line each.
    pub notes: Vec<String>,
}

/// What the command came to on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceEnd {
    /// `--dry-run`: nothing stands in the way.
    Planned,
    /// It is out of service.
    InMaintenance,
    /// It is in service again.
    Returned,
    /// It was in service before.
    Unchanged,
    /// It came back from its reboot, all is verified, and it stands as before.
    Rebooted,
    /// Something stands in the way: nothing was changed for this host.
    Refused,
    /// It failed on the way; `since` says whether it is in maintenance.
    Failed,
    /// Another host of the command failed before.
    NotAttempted,
}

impl MaintenanceEnd {
    /// Whether the command did not do what it was asked to.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Refused | Self::Failed | Self::NotAttempted)
    }
}

impl HostMaintenance {
    /// A host of which nothing is known yet.
    pub fn of(host: HostName) -> Self {
        Self {
            host,
            end: MaintenanceEnd::NotAttempted,
            since: None,
            obstacles: Vec::new(),
            failure: None,
            drained: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Its connections that had not ended when the time was over.
    pub fn connections_left(&self) -> u64 {
        self.drained.iter().map(|one| one.left).sum()
    }
}

impl MaintenanceReport {
    /// The entry of `host`.
    pub fn host_mut(&mut self, host: &HostName) -> Option<&mut HostMaintenance> {
        self.hosts.iter_mut().find(|entry| entry.host == *host)
    }

    /// Whether the command did not do what it was asked to on any host.
    pub fn has_failures(&self) -> bool {
        self.hosts.iter().any(|entry| entry.end.is_failure())
    }

    /// Whether hosts are out of service and connections to them are left.
    pub fn leaves_connections(&self) -> bool {
        let out = self.hosts.iter().filter(|entry| entry.end == MaintenanceEnd::InMaintenance);
        out.map(HostMaintenance::connections_left).sum::<u64>() > 0
    }

    /// Connections of all hosts that had not ended when their time was over.
    pub fn connections_left(&self) -> u64 {
        self.hosts.iter().map(HostMaintenance::connections_left).sum()
    }
}
