//! Reads the kernel's state that a plan needs. Changes nothing, loads no module.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::Result;
use super::ipvs::control::{self, Control};
use super::ipvs::{self, IpvsSocket};
use super::modules::InstalledModules;
use super::net::{Net, NetState, fou};
use super::{instances, iptables, nft, offloads, sysctls};
use crate::names::IfName;
use crate::state::effects::LEADERS;
use crate::state::firewall::Firewall;
use crate::state::{
    Capability, Controller, Counters, DestinationKey, HostFacts, HostState, Link, Module, Routing,
    ServiceKey, Sysctl,
};

/// The state of the network namespace of the calling thread, and facts of the host.
#[derive(Debug, Clone, Default)]
pub struct KernelState {
    /// Facts that a plan does not change.
    pub facts: HostFacts,
    /// All links, addresses, routes and services; the requested sysctls.
    pub state: HostState,
    /// Connection counters; empty unless they were requested.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// Reads the state. `wanted` names the sysctls to read, given the links; one that does not exist is left out.
pub async fn read(
    wanted: impl FnOnce(&BTreeMap<IfName, Link>) -> BTreeSet<Sysctl>,
    counters: bool,
) -> Result<KernelState> {
    let NetState { links, indexes, hardware, mtus, tunnels, addresses, routes, routing } =
        Net::open()?.read().await?;
    let (ipvs, control) = if ipvs::is_loaded() {
        let mut socket = IpvsSocket::open()?;
        (socket.observe(counters)?, control::read(&mut socket)?)
    } else {
        (ipvs::IpvsObservation::default(), Control::default())
    };
    let mut nft = nft::observe()?;
    nft.filters.extend(iptables::observe()?);
    let indexes = if nft.filters.is_empty() { BTreeMap::new() } else { indexes };
    let facts = HostFacts {
        firewall: Arc::new(Firewall { tables: nft.filters, indexes }),
        foreign_tables: nft.unmanaged,
        stateful_drops: nft.stateful_drops,
        routing,
        mtus,
        ..facts(hardware)
    };
    // A request for the family of a module that is not loaded could load it.
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
        instances: instances::read()?,
    };
    let lro = devices_with_lro(&state);
    Ok(KernelState { facts: HostFacts { lro, ..facts }, state, counters: ipvs.counters })
}

/// What forwarding would switch LRO off on. Only for a caution: where it cannot be read, there is none.
fn devices_with_lro(state: &HostState) -> BTreeSet<IfName> {
    let is_off = |key: &Sysctl| state.sysctls.get(key).is_some_and(|value| value == "0");
    if LEADERS.iter().any(is_off) {
        offloads::with_lro().unwrap_or_default()
    } else {
        BTreeSet::new()
    }
}

fn facts(hardware: BTreeMap<IfName, String>) -> HostFacts {
    let (kernel, machine) = nix::sys::utsname::uname().map_or_else(
        |_| (String::new(), String::new()),
        |name| {
            let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
            (text(name.release()), text(name.machine()))
        },
    );
    let installed = InstalledModules::look();
    HostFacts {
        kernel,
        machine,
        hardware,
        mtus: BTreeMap::new(),
        lro: BTreeSet::new(),
        modules: installed.capabilities(),
        parts: installed.parts(),
        foreign_tables: BTreeSet::new(),
        stateful_drops: Vec::new(),
        firewall: Arc::default(),
        routing: Routing::default(),
        lacking: instances::lacking(),
        health_checkers: instances::health_checkers(),
        controller: controller().map_or(Controller::Unknown, Controller::Address),
    }
}

/// The controller's address, if the agent was started over SSH.
pub fn controller() -> Option<std::net::IpAddr> {
    std::env::var("SSH_CONNECTION").ok().and_then(|text| client_of(&text))
}

/// `SSH_CONNECTION` is "client address, client port, server address, server port" (ssh(1)). The zone after a
/// link-local address (`fe80::1%eth0`) is dropped.
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
    fn the_controller_is_the_first_field_of_ssh_connection() {
        assert_eq!(client_of("192.0.2.7 50000 192.0.2.1 22"), "192.0.2.7".parse().ok());
        let link_local = client_of("fe80::1%eth0 50000 fe80::2%eth0 22");
        assert_eq!(link_local, "fe80::1".parse().ok());
        for nothing in ["", " ", "x 1 y 2", "%eth0 1 y 2", "$(id) 1 y 2"] {
            assert_eq!(client_of(nothing), None);
        }
    }
}
