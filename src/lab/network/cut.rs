//! Cuts and restores a host's cables: the one to the management network, and those of the file.

use std::time::Instant;

use super::links::links_in;
use super::{Lab, LabError, READY_WITHIN, ports_of};
use crate::names::{HostName, IfName};
use crate::topology::Topology;

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

    /// Unplugs the cable of an interface: both ends lose their carrier. The interface keeps its addresses and routes.
    ///
    /// # Errors
    /// If the lab has no such host, or the interface is on no network; errors of the kernel.
    pub fn unplug(
        &self,
        topology: &Topology,
        host: &HostName,
        interface: &IfName,
    ) -> Result<(), LabError> {
        let port = port_of(topology, host, interface)?;
        links_in(&self.switch, async |links| links.set_admin(&port, false).await)
    }

    /// Undoes [`Lab::unplug`], and waits for the carrier.
    ///
    /// # Errors
    /// As [`Lab::unplug`].
    pub fn plug_in(
        &self,
        topology: &Topology,
        host: &HostName,
        interface: &IfName,
    ) -> Result<(), LabError> {
        let ports = [port_of(topology, host, interface)?];
        let deadline = Instant::now() + READY_WITHIN;
        links_in(&self.switch, async |links| {
            links.set_admin(&ports[0], true).await?;
            links.wait_until_ready(&ports, deadline).await
        })
    }
}

fn port_of(topology: &Topology, host: &HostName, interface: &IfName) -> Result<String, LabError> {
    let mut ports = ports_of(topology, host).into_iter();
    let port = ports.find(|(_, plugged)| plugged.name == *interface).map(|(port, _)| port);
    port.ok_or_else(|| LabError::Topology(format!("{interface} of {host} has no cable in the lab")))
}
