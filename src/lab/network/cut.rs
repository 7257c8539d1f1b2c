//! The cable that agents are reached over, cut and joined again.

use super::links::links_in;
use super::{Lab, LabError};
use crate::names::HostName;

impl Lab {
    /// Cuts `host` off the management network: whoever talks to it hears nothing any more, and nobody
    /// is told. The host keeps its carrier, as behind a switch whose uplink is gone.
    ///
    /// # Errors
    /// If there is no such host, or it is in no management network.
    pub fn cut(&self, host: &HostName) -> Result<(), LabError> {
        self.set_management(host, false)
    }

    /// Joins what [`Lab::cut`] has cut. Connections that have not given up by then go on.
    ///
    /// # Errors
    /// As [`Lab::cut`].
    pub fn join(&self, host: &HostName) -> Result<(), LabError> {
        self.set_management(host, true)
    }

    fn set_management(&self, host: &HostName, open: bool) -> Result<(), LabError> {
        let port = self.host(host)?.management_port.as_deref().ok_or_else(|| {
            LabError::Topology(format!("{host} is in no management network: nothing to cut"))
        })?;
        links_in(&self.home, async |links| links.set_passage(port, open).await)
    }
}
