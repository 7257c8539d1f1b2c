//! The hosts as the file says they are, with what lvsprov sets on them.
//!
//! What the file does not say is as on a bare host: the kernel's compiled-in values, with strict source validation,
//! which most distributions switch on. A way that passes it passes loose and none too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::World;
use super::machine::{Device, DeviceAddress, DeviceKind, LOOPBACK_MTU, Machine, Unwraps, Wrapping};
use super::routes::Routes;
use crate::names::{HostName, IfName};
use crate::state::routing::{LOCAL, MAIN, RouteEntry, RouteKind, default_rules};
use crate::state::{
    Address, ConfItem, HostState, Link, Module, Route, RouteKey, Scope, Sysctl, TunnelDevice,
    TunnelKind,
};
use crate::topology::{ETHERNET_MTU, Host, Topology};

/// What lvsprov sets on each host.
pub type HostStates = BTreeMap<HostName, HostState>;

impl World {
    /// The hosts of `topology` with `states` set on them.
    pub fn of_file(topology: &Topology, states: &HostStates) -> Self {
        let none = HostState::default();
        Self::new(
            topology
                .hosts
                .values()
                .map(|host| Machine::of_file(host, states.get(&host.name).unwrap_or(&none))),
        )
    }
}

impl Machine {
    /// `host` with `state` set on it.
    pub(super) fn of_file(host: &Host, state: &HostState) -> Self {
        let mut sysctls = BTreeMap::from([(Sysctl::all(ConfItem::RpFilter), "1".to_owned())]);
        sysctls.extend(state.sysctls.clone());
        let mut machine =
            Self { sysctls, ..Self::without_routes(host, state, devices(host, state)) };
        for (dev, device) in &machine.devices {
            let of_device =
                device.addresses.iter().flat_map(|own| of_address(dev, device, own.net));
            of_device.for_each(|route| machine.routes.add(route));
        }
        for (key, route) in &state.routes {
            machine.routes.add(machine.configured(key, route));
        }
        machine
    }

    /// With `devices`, the kernel's own policy rules, and what else `state` has but routes.
    pub(super) fn without_routes(
        host: &Host,
        state: &HostState,
        devices: BTreeMap<IfName, Device>,
    ) -> Self {
        Self {
            name: host.name.clone(),
            devices,
            sysctls: state.sysctls.clone(),
            routes: Routes::default(),
            rules: default_rules(),
            custom_rules: false,
            services: state.services.clone(),
            packet_rules: state.tables.values().flat_map(|table| table.rules.clone()).collect(),
            gue_ports: state.gue_ports.iter().map(|it| (it.v6, it.port)).collect(),
            firewall: Arc::default(),
        }
    }

    /// A route of the main table. Without a device it leaves where the gateway is on-link.
    pub(super) fn configured(&self, key: &RouteKey, route: &Route) -> RouteEntry {
        let near = |address: IpAddr| {
            let on =
                |device: &Device| device.addresses.iter().any(|own| own.net.contains(&address));
            self.devices.iter().find(|(_, device)| on(device)).map(|(dev, _)| dev.clone())
        };
        RouteEntry {
            table: MAIN,
            destination: key.0,
            kind: RouteKind::Unicast,
            gateway: route.gateway,
            dev: route.dev.clone().or_else(|| near(route.gateway?)),
            metric: route.metric,
            source: route.source,
            mtu: own_mtu(route),
        }
    }
}

/// The MTU of a route, as [`Route::unsupported`] has it: `mtu 1400`.
fn own_mtu(route: &Route) -> Option<u32> {
    route.unsupported.iter().find_map(|text| text.strip_prefix("mtu ")?.parse().ok())
}

fn devices(host: &Host, state: &HostState) -> BTreeMap<IfName, Device> {
    let mut all = BTreeMap::new();
    if let Ok(lo) = "lo".parse::<IfName>() {
        let kind = DeviceKind::Loopback;
        all.insert(lo, Device { kind, up: true, addresses: Vec::new(), mtu: LOOPBACK_MTU });
    }
    for interface in host.interfaces.values() {
        let kind = kind_of(host, state, &interface.name);
        let device = all.entry(interface.name.clone()).or_insert_with(|| Device {
            kind,
            up: true,
            addresses: Vec::new(),
            mtu: interface.mtu.unwrap_or(ETHERNET_MTU),
        });
        device.addresses.extend(interface.addresses.iter().map(|net| DeviceAddress {
            net: *net,
            scope: Scope::Global,
            deprecated: false,
        }));
    }
    let off = |kind| Device { kind, up: false, addresses: Vec::new(), mtu: ETHERNET_MTU };
    for (dev, tunnel) in &state.tunnels {
        all.insert(dev.clone(), off(DeviceKind::Tunnel(of_tunnel(tunnel))));
    }
    for (dev, link) in &state.links {
        let device = all.entry(dev.clone()).or_insert_with(|| off(kind_by_name(dev)));
        device.up = *link == Link::Up;
    }
    for (key, address) in &state.addresses {
        let device = all.entry(key.dev.clone()).or_insert_with(|| off(kind_by_name(&key.dev)));
        let Address { scope, deprecated, .. } = address;
        let own = DeviceAddress { net: key.net, scope: *scope, deprecated: *deprecated };
        device.addresses.push(own);
    }
    all
}

/// Where a device leads: by the file, by what lvsprov made it, by its name.
pub(super) fn kind_of(host: &Host, state: &HostState, dev: &IfName) -> DeviceKind {
    let network = host.interfaces.get(dev).and_then(|interface| interface.network.clone());
    match (network, state.tunnels.get(dev)) {
        (Some(network), _) => DeviceKind::Wire(network),
        (None, Some(tunnel)) => DeviceKind::Tunnel(of_tunnel(tunnel)),
        (None, None) => kind_by_name(dev),
    }
}

/// The kernel's own devices.
fn kind_by_name(dev: &IfName) -> DeviceKind {
    if dev.as_str() == "lo" {
        return DeviceKind::Loopback;
    }
    let of = |module: &Module| module.device() == Some(dev.as_str());
    let bare = |outside_v6, inside_v6| {
        DeviceKind::Tunnel(Unwraps {
            wrapping: Wrapping::Bare,
            outside_v6,
            inside_v6: Some(inside_v6),
            local: None,
        })
    };
    match Module::ALL.iter().find(|module| of(module)) {
        Some(Module::Ipip) => bare(false, false),
        Some(Module::Sit) => bare(false, true),
        Some(Module::Ip6Tnl) => bare(true, true),
        _ => DeviceKind::Elsewhere,
    }
}

fn of_tunnel(tunnel: &TunnelDevice) -> Unwraps {
    let TunnelDevice { kind, local, checksum } = *tunnel;
    let wrapping = match kind {
        TunnelKind::Gre | TunnelKind::Ip6gre => Wrapping::Gre { checksum },
        TunnelKind::Ip6tnl => Wrapping::Bare,
    };
    Unwraps { wrapping, outside_v6: local.is_ipv6(), inside_v6: None, local: Some(local) }
}

/// The routes that the kernel makes of an address (net/ipv4/fib_frontend.c, `fib_add_ifaddr`): local to it, and to
/// its subnet; on lo the whole subnet is local. Of IPv4 an address of a device that is down is local all the same, of IPv6 it
/// is not (net/ipv6/addrconf.c, `addrconf_ifdown`). To an address of its own that is not the first of its subnet on the device
/// a host sends from the first.
pub(super) fn of_address(dev: &IfName, device: &Device, net: IpNet) -> Vec<RouteEntry> {
    let entry = |table, destination, kind, source| RouteEntry {
        table,
        destination,
        kind,
        gateway: None,
        dev: Some(dev.clone()),
        metric: 0,
        source,
        mtu: None,
    };
    let first = device.of_family(false).find(|own| own.net.trunc() == net.trunc());
    let first = first.map(|own| own.net.addr()).filter(|first| *first != net.addr());
    let local = entry(LOCAL, IpNet::from(net.addr()), RouteKind::Local, first);
    if !device.up {
        return if net.addr().is_ipv4() { vec![local] } else { Vec::new() };
    }
    let mut all = vec![local];
    if net.prefix_len() < net.max_prefix_len() {
        let subnet = net.trunc();
        all.push(match device.kind {
            DeviceKind::Loopback => entry(LOCAL, subnet, RouteKind::Local, None),
            // IPv6 chooses the source by itself.
            _ => entry(MAIN, subnet, RouteKind::Unicast, net.addr().is_ipv4().then(|| net.addr())),
        });
    }
    all
}
