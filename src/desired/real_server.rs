//! What a real server gets: the VIP on a silent device (DR and TUN; [`super::tunnels`] has what unwraps
//! packets). Under NAT it needs only its default gateway, which [`super::path`] sets; under
//! FULLNAT nothing. A director that serves itself answers for the VIP already and gets nothing either.
//!
//! Differences from the recipes in circulation, each because of how the kernel works:
//! - `arp_ignore` and `arp_announce` are set on `all` only. The kernel uses the maximum of `all` and
//!   the receiving interface (include/linux/inetdevice.h, `IN_DEV_MAXCONF`), so `all` holds on every
//!   interface, one plugged in later included; `lo` is never the receiving interface. A stricter `arp_ignore` that
//!   the host has already stays where it serves.
//! - IPv6 has nothing like them and needs nothing: a neighbour solicitation is answered for addresses
//!   of the interface where it comes in only, and one that the host sends has an address of the
//!   interface where it goes out (net/ipv6/ndisc.c, `ndisc_recv_ns`, `ndisc_solicit`).
//! - No host route `VIP dev lo`: the address itself puts `local VIP` into the local table, which is
//!   asked first (net/ipv4/fib_frontend.c, `fib_add_ifaddr`).
//! - `rp_filter` is 2 on the interface concerned instead of 0 on it and on `all`: the maximum counts
//!   here too, so 2 (loose) beats a strict `all`, and the other interfaces keep their protection. Where it is 0 on both
//!   already, it stays. IPv6 has no source check.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Desired, Places, label, tunnels};
use crate::names::IfName;
use crate::state::{AcceptedValues, Address, AddressKey, ConfItem, Scope, Sysctl};
use crate::topology::model::host_prefix;
use crate::topology::{Forward, Host, RealServer, Role, Service, Topology};

/// Adds what `service` needs on its real server `host`.
#[allow(clippy::match_same_arms, reason = "nothing is needed, for different reasons")]
pub(super) fn settle(
    topology: &Topology,
    places: &Places<'_>,
    host: &Host,
    service: &Service,
    desired: &mut Desired,
) {
    if host.name == service.director {
        return;
    }
    for rs in service.real_servers.iter().filter(|rs| rs.host == host.name) {
        match (rs.forward, service.vip_address()) {
            // Without a VIP others set marks, on whatever address they please: where that is, is theirs.
            (Forward::Nat | Forward::Fullnat, _) | (Forward::Dr, None) => {}
            (Forward::Dr, Some(address)) => {
                if address.is_ipv4() {
                    arp(places, host, address, desired);
                    loose_source_check(topology, places, host, rs, desired);
                }
                vip_on_lo(address, desired);
            }
            (Forward::Tun, address) => {
                if let Some(address) = address.filter(IpAddr::is_ipv4)
                    && shares_the_vips_segment(topology, host, service)
                {
                    arp(places, host, address, desired);
                }
                tunnels::settle(topology, service, rs, desired);
            }
        }
    }
}

/// `arp_announce` has one value that serves: 1 names the VIP where it is in the subnet of the neighbour that is asked
/// for, and 3 and more are as 0 (net/ipv4/arp.c, `arp_solicit`).
fn arp(places: &Places<'_>, host: &Host, vip: IpAddr, desired: &mut Desired) {
    desired.sysctl_of(
        Sysctl::all(ConfItem::ArpIgnore),
        "1",
        arp_ignore(places, host),
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

/// The values of `arp_ignore` with which the host is silent about a VIP on lo, and answers for its own addresses
/// (net/ipv4/arp.c, `arp_ignore`). 2 asks more than 1: the sender must be in a subnet of the receiving interface that has
/// the address too. It serves where every host of the file that may ask is in one, and where only directors and routers
/// ask, which pass on packets of others: of its own packet a host may name the source, from any subnet (`arp_announce=0`).
/// Not 3, which is silent about addresses of scope host only: a VIP that was on lo before lvsprov may have another. Not 8,
/// which is silent about all. The others answer for all.
fn arp_ignore(places: &Places<'_>, host: &Host) -> AcceptedValues {
    let only_serves = host.roles.iter().all(|role| *role == Role::RealServer);
    let all_near = host.interfaces.values().all(|interface| {
        let network = interface.network.as_ref();
        let Some(subnets) = network.and_then(|it| places.subnets.get(it)) else { return true };
        let own = || interface.addresses.iter().filter(|net| net.addr().is_ipv4());
        own().map(IpNet::addr).all(|asked| {
            let mut asking = subnets.iter().filter(|subnet| subnet.contains(&asked));
            asking.all(|subnet| own().any(|net| net.contains(&asked) && net.contains(subnet)))
        })
    });
    if only_serves && all_near { AcceptedValues::of([1, 2]) } else { AcceptedValues::of([1]) }
}

/// Requests come in where the director is. Where replies leave by another interface, a strict
/// source check drops the request without a word.
fn loose_source_check(
    topology: &Topology,
    places: &Places<'_>,
    host: &Host,
    rs: &RealServer,
    desired: &mut Desired,
) {
    let receiving = &rs.interface;
    let Some(other) =
        reply_interfaces(topology, places, host).into_iter().find(|dev| dev != receiving)
    else {
        return;
    };
    desired.loose_source_validation(
        receiving,
        format!(
            "requests come in on {receiving} from the director but replies leave by {other}: a \
             strict source check would drop the requests"
        ),
    );
}

/// By which interfaces this host reaches the clients over IPv4.
fn reply_interfaces(topology: &Topology, places: &Places<'_>, host: &Host) -> Vec<IfName> {
    let on_link = topology
        .with_role(Role::Client)
        .flat_map(|client| client.interfaces.values())
        .flat_map(|interface| &interface.addresses)
        .filter(|net| net.addr().is_ipv4())
        .filter_map(|net| host.on_link(net.addr()))
        .map(|(interface, _)| interface.name.clone());
    let routes = places.routes_to_clients(&host.name).map(|route| &route.via);
    let vias = host.gateways.iter().chain(routes).filter(|via| via.address.is_ipv4());
    vias.map(|via| via.interface.clone()).chain(on_link).collect()
}

/// Whether an ARP request for the VIP reaches this host.
fn shares_the_vips_segment(topology: &Topology, host: &Host, service: &Service) -> bool {
    let director = topology.hosts.get(&service.director);
    let vips = director
        .and_then(|director| director.interfaces.get(&service.vip.as_ref()?.interface))
        .and_then(|interface| interface.network.as_ref());
    vips.is_some_and(|network| topology.interfaces_on(host, network).next().is_some())
}

/// The VIP on lo, which has no neighbours.
pub(super) fn vip_on_lo(address: IpAddr, desired: &mut Desired) {
    let asked = if address.is_ipv4() { "ARP request" } else { "neighbour solicitation" };
    let why = format!(
        "requests arrive addressed to {address}: the host must take them as its own, where no {asked} \
         is answered"
    );
    let Ok(lo) = "lo".parse::<IfName>() else { return };
    vip(address, lo, why, desired);
}

/// Always a host address: a shorter prefix would make the VIP's whole subnet local and cut the host
/// off from it. An IPv6 address has the scope that its bits say, and no label; it is deprecated, so
/// that the host never sends from it unless a reply has to.
pub(super) fn vip(address: IpAddr, dev: IfName, why: String, desired: &mut Desired) {
    let Ok(net) = IpNet::new(address, host_prefix(address)) else { return };
    let ipv6 = address.is_ipv6();
    let settings = Address {
        scope: if ipv6 { Scope::Global } else { Scope::Host },
        label: if ipv6 { None } else { label(&dev) },
        broadcast: None,
        nodad: ipv6,
        deprecated: ipv6,
    };
    desired.address(AddressKey { dev, net }, settings, why);
}
