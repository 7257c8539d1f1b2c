//! Reading the kernel: everything a plan needs. Changes nothing, loads no module.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Result;
use super::ipvs::control::{self, Control};
use super::ipvs::{self, IpvsSocket};
use super::net::{Net, NetState, fou};
use super::{modules, nft, sysctls};
use crate::names::IfName;
use crate::state::{
    Capability, Controller, Counters, DestinationKey, HostFacts, HostState, Link, Module,
    ServiceKey, Sysctl,
};

/// What the kernel of this host, in the network namespace of the calling thread, holds now.
#[derive(Debug, Clone, Default)]
pub struct KernelState {
    /// What the host is, beyond what can be set.
    pub facts: HostFacts,
    /// All links, addresses, routes and services; of the sysctls those that were asked for.
    pub state: HostState,
    /// Connection counters, if asked for.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// Reads the kernel. `wanted` names the sysctls to read, given the links; one that does not exist is left out.
pub async fn read(
    wanted: impl FnOnce(&BTreeMap<IfName, Link>) -> BTreeSet<Sysctl>,
    counters: bool,
) -> Result<KernelState> {
    let NetState { links, hardware, tunnels, addresses, routes } = Net::open()?.read().await?;
    let (ipvs, control) = if ipvs::is_loaded() {
        let mut socket = IpvsSocket::open()?;
        (socket.look(counters)?, control::read(&mut socket)?)
    } else {
        (ipvs::IpvsObservation::default(), Control::default())
    };
    let nft = nft::look()?;
    let facts = HostFacts { foreign_tables: nft.foreign, ..facts(hardware) };
    // Asking for the family would load the module.
    let gue_ports = match facts.capability(Module::Fou) {
        Capability::Present => fou::gue_ports()?,
        _ => BTreeSet::new(),
    };
    let present = |(module, capability): (&Module, &Capability)| {
        (*capability == Capability::Present).then_some(*module)
    };
    let state = HostState {
        modules: facts.modules.iter().filter_map(present).collect(),
        sysctls: read_sysctls(&wanted(&links))?,
        links,
        addresses,
        routes,
        services: ipvs.table,
        timeouts: control.timeouts,
        daemons: control.daemons,
        tables: nft.tables,
        tunnels,
        gue_ports,
    };
    Ok(KernelState { facts, state, counters: ipvs.counters })
}

fn facts(hardware: BTreeMap<IfName, String>) -> HostFacts {
    let (kernel, machine) = nix::sys::utsname::uname().map_or_else(
        |_| (String::new(), String::new()),
        |name| {
            let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
            (text(name.release()), text(name.machine()))
        },
    );
    HostFacts {
        kernel,
        machine,
        hardware,
        modules: Module::ALL.iter().map(|module| (*module, modules::capability(*module))).collect(),
        parts: modules::available_parts(),
        foreign_tables: BTreeSet::new(),
        controller: controller().map_or(Controller::Unknown, Controller::Address),
    }
}

/// From where the controller is logged in, where that is known.
pub fn controller() -> Option<std::net::IpAddr> {
    std::env::var("SSH_CONNECTION").ok().and_then(|text| client_of(&text))
}

/// `SSH_CONNECTION` is "client address, client port, server address, server port" (ssh(1)). A link-local
/// address has its zone behind it (`fe80::1%eth0`), which is no part of the address.
fn client_of(connection: &str) -> Option<std::net::IpAddr> {
    let address = connection.split(' ').next()?;
    address.split_once('%').map_or(address, |(address, _)| address).parse().ok()
}

fn read_sysctls(wanted: &BTreeSet<Sysctl>) -> Result<BTreeMap<Sysctl, String>> {
    let mut values = BTreeMap::new();
    for key in wanted {
        if let Some(value) = sysctls::read(key)? {
            values.insert(key.clone(), value);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_controller_is_the_first_of_what_sshd_says() {
        assert_eq!(client_of("192.0.2.7 50000 192.0.2.1 22"), "192.0.2.7".parse().ok());
        let link_local = client_of("fe80::1%eth0 50000 fe80::2%eth0 22");
        assert_eq!(link_local, "fe80::1".parse().ok());
        for nothing in ["", " ", "x 1 y 2", "%eth0 1 y 2", "$(id) 1 y 2"] {
            assert_eq!(client_of(nothing), None);
        }
    }
}
