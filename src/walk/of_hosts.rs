//! The hosts as they were seen. What was not seen is as the file says ([`super::of_file`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::World;
use super::machine::{Device, DeviceAddress, Machine};
use super::of_file::{HostStates, kind_of, of_address};
use crate::names::{HostName, IfName};
use crate::state::firewall::Firewall;
use crate::state::routing::{LOCAL, MAIN, PolicyRule, RouteEntry, Routing, default_rules};
use crate::state::{Address, Conf6Item, ConfDev, ConfItem, HostState, Link, Sysctl, VsItem};
use crate::topology::{ETHERNET_MTU, Host, Topology};

/// A host as it was seen, or as it would be after a change.
#[derive(Debug, Clone, Copy)]
pub struct SeenHost<'a> {
    /// Its state, with the settings of [`sysctls`].
    pub state: &'a HostState,
    /// Policy rules and other tables.
    pub routing: &'a Routing,
    /// The MTU of each interface; of one that is missing it is as the file says.
    pub mtus: &'a BTreeMap<IfName, u32>,
    /// nftables rules of other programs; `None`: it has none, or they were not read.
    pub firewall: Option<&'a Arc<Firewall>>,
}

impl World {
    /// The hosts of `topology` as they were `seen`; the others with `states` set on them, as the file has them.
    pub fn of_hosts(
        topology: &Topology,
        seen: &BTreeMap<HostName, SeenHost<'_>>,
        states: &HostStates,
    ) -> Self {
        let none = HostState::default();
        Self::new(topology.hosts.values().map(|host| match seen.get(&host.name) {
            Some(seen) => Machine::of_host(host, *seen),
            None => Machine::of_file(host, states.get(&host.name).unwrap_or(&none)),
        }))
    }
}

/// The settings that decide what becomes of a packet on `host`.
pub fn sysctls(host: &Host, state: &HostState) -> Vec<Sysctl> {
    let own = host.interfaces.keys().chain(state.tunnels.keys());
    let of_modules = state.modules.iter().filter_map(|module| module.device()?.parse().ok());
    let devices = own.cloned().chain(of_modules).map(ConfDev::Dev).chain([ConfDev::All]);
    let of_device = |dev: ConfDev| {
        let v4 = [
            ConfItem::RpFilter,
            ConfItem::ArpIgnore,
            ConfItem::ArpAnnounce,
            ConfItem::AcceptLocal,
            ConfItem::Forwarding,
        ];
        let v6 = Sysctl::Conf6(dev.clone(), Conf6Item::Forwarding);
        v4.map(|item| Sysctl::Conf(dev.clone(), item)).into_iter().chain([v6])
    };
    let whole = [Sysctl::IpForward, Sysctl::Ip6Forward];
    let ipvs = [VsItem::Conntrack, VsItem::SnatReroute, VsItem::PmtuDisc].map(Sysctl::Vs);
    devices.flat_map(of_device).chain(whole).chain(ipvs).collect()
}

impl Machine {
    fn of_host(host: &Host, seen: SeenHost<'_>) -> Self {
        let SeenHost { state, routing, mtus, firewall } = seen;
        let rules = if routing.rules.is_empty() { default_rules() } else { routing.rules.clone() };
        let mut machine = Self {
            custom_rules: has_custom_rules(&rules),
            rules,
            firewall: firewall.cloned().unwrap_or_default(),
            ..Self::without_routes(host, state, devices(host, state, mtus))
        };
        for (dev, device) in &machine.devices {
            let of_device =
                device.addresses.iter().flat_map(|own| of_address(dev, device, own.net));
            // Routes to subnets were seen with the others.
            of_device
                .filter(|route| route.table == LOCAL)
                .for_each(|route| machine.routes.add(route));
        }
        // A host may have very many routes: each is looked up, not searched for.
        let of_main = routing.routes.iter().filter(|it| it.table == MAIN);
        let not_plain: BTreeSet<(IpNet, u32)> =
            of_main.map(|it| (it.destination, it.metric)).collect();
        for (key, route) in &state.routes {
            if !not_plain.contains(&(key.0, route.metric)) {
                machine.routes.add(machine.configured(key, route));
            }
        }
        for route in &routing.routes {
            machine.routes.add(RouteEntry::clone(route));
        }
        machine
    }
}

/// Whether rules of IPv4 were added to the kernel's own (net/ipv4/fib_rules.c, `fib_has_custom_rules`).
fn has_custom_rules(rules: &[PolicyRule]) -> bool {
    let own = default_rules();
    let v4 = |rules: &[PolicyRule]| -> Vec<PolicyRule> {
        rules.iter().filter(|rule| !rule.ipv6).cloned().collect()
    };
    v4(rules) != v4(&own)
}

fn devices(
    host: &Host,
    state: &HostState,
    mtus: &BTreeMap<IfName, u32>,
) -> BTreeMap<IfName, Device> {
    let of_file =
        |dev: &IfName| host.interfaces.get(dev).and_then(|it| it.mtu).unwrap_or(ETHERNET_MTU);
    let mut all: BTreeMap<IfName, Device> = state
        .links
        .iter()
        .map(|(dev, link)| {
            let kind = kind_of(host, state, dev);
            let mtu = mtus.get(dev).copied().unwrap_or_else(|| of_file(dev));
            (dev.clone(), Device { kind, up: *link == Link::Up, addresses: Vec::new(), mtu })
        })
        .collect();
    // The kernel keeps the order in which addresses were added, and its first is the source of what the host sends:
    // those that the file says the host has were there before the VIPs.
    let of_file = |dev: &IfName| {
        host.interfaces.get(dev).map(|it| it.addresses.as_slice()).unwrap_or_default()
    };
    for (dev, device) in &mut all {
        let seen = state.addresses.iter().filter(|(key, _)| key.dev == *dev);
        let (own, added): (Vec<_>, Vec<_>) =
            seen.partition(|(key, _)| of_file(dev).contains(&key.net));
        for (key, Address { scope, deprecated, .. }) in own.into_iter().chain(added) {
            device.addresses.push(DeviceAddress {
                net: key.net,
                scope: *scope,
                deprecated: *deprecated,
            });
        }
    }
    all
}
