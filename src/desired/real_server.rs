//! What a real server gets: the VIP where nobody hears of it (DR and TUN). Under NAT it needs only
//! its default gateway, which [`super::path`] sets.
//!
//! Differences from the recipes in circulation, each because of how the kernel works:
//! - `arp_ignore` and `arp_announce` are set on `all` only. The kernel uses the maximum of `all` and
//!   the receiving interface (include/linux/inetdevice.h, `IN_DEV_MAXCONF`), so `all` holds on every
//!   interface, one plugged in later included; `lo` is never the receiving interface.
//! - No host route `VIP dev lo`: the address itself puts `local VIP` into the local table, which is
//!   asked first (net/ipv4/fib_frontend.c, `fib_add_ifaddr`).
//! - `rp_filter` is 2 on the interface concerned instead of 0 on it and on `all`: the maximum counts
//!   here too, so 2 (loose) beats a strict `all`, and the other interfaces keep their protection.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Desired, label};
use crate::state::{Address, AddressKey, ConfItem, Module, Scope, Sysctl};
use crate::topology::model::host_prefix;
use crate::topology::{Forward, Host, IfName, Role, Service, Topology};

/// The wildcard IPIP device, which appears with the module.
const TUNNEL: &str = "tunl0";

/// Adds what `service` needs on its real server `host`.
pub(super) fn settle(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    let Some(outside) = &service.vip else { return };
    let here = service.real_servers.iter().filter(|rs| rs.host == host.name);
    let methods: BTreeSet<Forward> = here.map(|rs| rs.forward).collect();
    for method in methods {
        with(topology, host, (service, outside.address), method, desired);
    }
}

fn with(
    topology: &Topology,
    host: &Host,
    (service, address): (&Service, IpAddr),
    method: Forward,
    desired: &mut Desired,
) {
    match method {
        Forward::Nat | Forward::Fullnat => {}
        Forward::Dr => {
            arp(address, desired);
            loose_source_check(topology, host, service, desired);
            vip(address, "lo", method, desired);
        }
        Forward::Tun => {
            if shares_the_vips_segment(topology, host, service) {
                arp(address, desired);
            }
            tunnel(service, desired);
            vip(address, TUNNEL, method, desired);
        }
    }
}

fn arp(vip: IpAddr, desired: &mut Desired) {
    desired.sysctl(
        Sysctl::all(ConfItem::ArpIgnore),
        "1",
        format!(
            "{vip} is on this host too: without this it answers ARP for it, and clients bypass the \
             director"
        ),
    );
    desired.sysctl(
        Sysctl::all(ConfItem::ArpAnnounce),
        "2",
        format!(
            "replies have {vip} as their source: without this the host's own ARP requests announce \
             it, and the neighbours learn the wrong machine for it"
        ),
    );
}

/// Requests come in where the director is. Where replies leave by another interface, a strict
/// source check drops the request without a word.
fn loose_source_check(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    let Some(here) = service.real_servers.iter().find(|rs| rs.host == host.name) else { return };
    let receiving = &here.interface;
    let Some(other) = reply_interfaces(topology, host).into_iter().find(|dev| dev != receiving)
    else {
        return;
    };
    desired.sysctl(
        Sysctl::dev(receiving, ConfItem::RpFilter),
        "2",
        format!(
            "requests come in on {receiving} from the director but replies leave by {other}: a \
             strict source check would drop the requests"
        ),
    );
}

/// By which interfaces this host reaches the clients.
fn reply_interfaces(topology: &Topology, host: &Host) -> Vec<IfName> {
    let on_link = topology
        .with_role(Role::Client)
        .flat_map(|client| client.interfaces.values())
        .flat_map(|interface| &interface.addresses)
        .filter_map(|net| host.on_link(net.addr()))
        .map(|(interface, _)| interface.name.clone());
    host.gateways.iter().map(|gateway| gateway.interface.clone()).chain(on_link).collect()
}

/// Whether an ARP request for the VIP is heard by this host.
fn shares_the_vips_segment(topology: &Topology, host: &Host, service: &Service) -> bool {
    let director = topology.hosts.get(&service.director);
    let vips = director
        .and_then(|director| director.interfaces.get(&service.vip.as_ref()?.interface))
        .and_then(|interface| interface.network.as_ref());
    vips.is_some_and(|network| topology.interfaces_on(host, network).next().is_some())
}

fn tunnel(service: &Service, desired: &mut Desired) {
    let Ok(dev) = TUNNEL.parse::<IfName>() else { return };
    desired.module(
        Module::Ipip,
        format!("the director sends requests for {} wrapped in IPIP", service.spoken()),
    );
    desired.link_up(dev.clone(), "wrapped requests are unwrapped here");
    desired.sysctl(
        Sysctl::dev(&dev, ConfItem::RpFilter),
        "2",
        "requests come out of the tunnel but replies leave by another interface: a strict source \
         check would drop them; 2 (loose) is enough and beats a strict `all`, as the kernel takes \
         the larger of the two",
    );
}

/// Always a host address: a shorter prefix would make the VIP's whole subnet local and cut the host
/// off from it.
fn vip(address: IpAddr, dev: &str, method: Forward, desired: &mut Desired) {
    let Ok(dev) = dev.parse::<IfName>() else { return };
    let Ok(net) = IpNet::new(address, host_prefix(address)) else { return };
    let why = match method {
        Forward::Tun => format!(
            "requests come out of {dev} addressed to {address}; the device takes none without an \
             address",
        ),
        Forward::Dr | Forward::Nat | Forward::Fullnat => format!(
            "requests arrive addressed to {address}: the host must take them as its own, where no ARP \
             request is answered",
        ),
    };
    let address = Address { scope: Scope::Host, label: label(&dev), broadcast: None, nodad: false };
    desired.address(AddressKey { dev, net }, address, why);
}
