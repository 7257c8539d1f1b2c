//! A host of a lab loses its power, and all that its kernel knows, and gets it back.

use std::os::fd::AsFd as _;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::unistd::dup3;

use super::links::{Cable, links_in};
use super::{
    Lab, LabError, READY_WITHIN, bare, configure, hardware_of, new_namespace, ports_of, set_lo_up,
};
use crate::names::HostName;
use crate::topology::{ETHERNET_MTU, Topology};

impl Lab {
    /// `host` goes down and comes up as bare as [`Lab::build`] makes it: [`Lab::power_off`] and [`Lab::power_on`].
    ///
    /// # Errors
    /// As those.
    pub fn restart(&mut self, topology: &Topology, host: &HostName) -> Result<(), LabError> {
        self.power_off(topology, host)?;
        self.power_on(topology, host)
    }

    /// `host` loses its power: its cables are gone, and its network namespace is replaced by a new one without any. Its path
    /// ([`Lab::netns_path`]) stays. Processes that ran there lose their network; the caller ends them.
    ///
    /// # Errors
    /// If the lab has no such host, or the host has a management network, which would be lost; errors of the kernel.
    pub fn power_off(&mut self, topology: &Topology, host: &HostName) -> Result<(), LabError> {
        if self.host(host)?.management.is_some() {
            return Err(LabError::Topology(format!(
                "{host} has a management network, which a restart would cut"
            )));
        }
        let ports = ports_of(topology, host);
        links_in(&self.switch, async |links| {
            for (port, _) in &ports {
                // With its other end.
                links.remove(port).await?;
            }
            Ok(())
        })?;
        self.host(host)?.lose_daemons();
        let namespace = new_namespace(bare::reset_settings)?;
        let unknown = || LabError::Topology(format!("the lab has no host {host}"));
        let there = self.hosts.get_mut(host).ok_or_else(unknown)?;
        dup3(namespace.as_fd(), &mut there.namespace, OFlag::O_CLOEXEC)
            .map_err(LabError::errno("replace a network namespace"))
    }

    /// `host`, which [`Lab::power_off`] took down, comes up as bare as [`Lab::build`] makes it, with its hardware addresses.
    /// The caller starts what a boot would start.
    ///
    /// # Errors
    /// If the lab has no such host; errors of the kernel.
    pub fn power_on(&mut self, topology: &Topology, host: &HostName) -> Result<(), LabError> {
        let unknown = || LabError::Topology(format!("the lab has no host {host}"));
        let wanted = topology.hosts.get(host).ok_or_else(unknown)?;
        let namespace = &self.host(host)?.namespace;
        set_lo_up(namespace)?;
        let ports = ports_of(topology, host);
        links_in(&self.switch, async |links| {
            for (port, interface) in &ports {
                let bridge = self
                    .networks
                    .iter()
                    .find(|(_, name)| Some(*name) == interface.network.as_ref());
                let (bridge, _) = bridge.ok_or_else(|| {
                    LabError::Topology(format!(
                        "{} of {host} is on an unknown network",
                        interface.name
                    ))
                })?;
                let name = interface.name.as_str();
                let mac = hardware_of(host, name);
                links
                    .add_cable(Cable { port, bridge: *bridge, host: namespace, name, mac })
                    .await?;
                if let Some(mtu) = interface.mtu.filter(|mtu| *mtu > ETHERNET_MTU) {
                    links.set_mtu(port, mtu).await?;
                }
            }
            Ok(())
        })?;
        configure(namespace, host, wanted)?;
        let deadline = Instant::now() + READY_WITHIN;
        let names: Vec<String> = ports.iter().map(|(port, _)| port.clone()).collect();
        links_in(&self.switch, async |links| links.wait_until_ready(&names, deadline).await)?;
        let names: Vec<String> = ports.iter().map(|(_, it)| it.name.to_string()).collect();
        links_in(namespace, async |links| links.wait_until_ready(&names, deadline).await)
    }
}
