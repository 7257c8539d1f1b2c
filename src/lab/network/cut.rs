//! Cuts and restores a host's cable to the management network.

use super::links::links_in;
use super::{Lab, LabError};
use crate::names::HostName;

impl Lab {
    /// Cuts `host` off the management network: its frames are dropped silently. The host keeps its carrier,
    /// as behind a switch with a broken uplink.
    ///
    /// # Errors
    /// If the lab has no such host, or the host has no management interface.
    pub fn cut(&self, host: &HostName) -> Result<(), LabError> {
        self.set_management(host, false)
    }

    /// Undoes [`Lab::cut`]. Connections that have not timed out continue.
    ///
    /// # Errors
    /// As [`Lab::cut`].
    pub fn join(&self, host: &HostName) -> Result<(), LabError> {
        self.set_management(host, true)
    }

    fn set_management(&self, host: &HostName, open: bool) -> Result<(), LabError> {
        let port = self.host(host)?.management_port.as_deref().ok_or_else(|| {
            LabError::Topology(format!("{host} has no management interface to cut"))
        })?;
        links_in(&self.home, async |links| links.set_forwarding(port, open).await)
    }
}
