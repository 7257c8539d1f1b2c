//! The receiving side of TUN: what takes wrapped packets on a real server and unwraps them.
//!
//! What wraps them is the director's business and needs no device there. Which device unwraps them
//! follows from the families outside (that of the RIP) and inside (that of the VIP):
//!
//! | | IPv4 inside | IPv6 inside |
//! | --- | --- | --- |
//! | IPIP, IPv4 outside | `tunl0` | `sit0` |
//! | IPIP, IPv6 outside | a device of our own for each RIP: `ip6tnl0` takes IPv6 only | the same |
//! | GUE | a UDP port, and the device that IPIP would need: what was in GUE is handed to it | the same |
//! | GRE | a device of our own for each RIP | the same |
//!
//! GUE over IPv6 needs no `fou6`, which is for sending. Each row was seen to work on Linux 6.1, and
//! not to work with the device down.
//!
//! A device takes packets only while it is up. An IPv4 VIP stands on it: a source check, loose or
//! not, drops everything that comes in on a device without an address (net/ipv4/fib_frontend.c,
//! `__fib_validate_source`). IPv6 asks for none, so an IPv6 VIP stands on lo.

use std::net::IpAddr;

use super::real_server::{vip, vip_on_lo};
use super::{Desired, director};
use crate::names::IfName;
use crate::state::{GuePort, Module, Protocol, Tunnel, TunnelDevice, TunnelKind};
use crate::topology::{ETHERNET_MTU, Interface, RealServer, Role, Service, Topology};
use crate::walk::wrapping_bytes;

/// Adds what a real server of `service` needs to take what is sent to it by `rs`.
pub(super) fn settle(
    topology: &Topology,
    service: &Service,
    rs: &RealServer,
    desired: &mut Desired,
) {
    let Some(dev) = receiver(service, rs, desired) else { return };
    desired.link_up(dev.clone(), "wrapped requests are unwrapped here");
    if !service.ipv6 {
        desired.loose_source_validation(
            &dev,
            "requests come out of the tunnel but replies leave by another interface: a strict source \
             check would drop them; 2 (loose) is enough and beats a strict `all`, as the kernel takes \
             the larger of the two",
        );
    }
    match service.vip_address() {
        None => {}
        Some(address @ IpAddr::V6(_)) => vip_on_lo(address, desired),
        Some(address @ IpAddr::V4(_)) => {
            let why = format!(
                "requests come out of {dev} addressed to {address}; the device takes none without \
                 an address"
            );
            vip(address, dev, why, desired);
        }
    }
    clamp(topology, service, rs, desired);
}

/// What unwraps packets, and the device that they come out of.
fn receiver(service: &Service, rs: &RealServer, desired: &mut Desired) -> Option<IfName> {
    match rs.tunnel {
        Tunnel::Ipip => bare(service, rs, desired),
        Tunnel::Gue { port, flags: _ } => {
            let why = format!(
                "the director sends requests for {} wrapped in UDP to port {port} (GUE)",
                service.display_name()
            );
            desired.module(Module::Fou, why.clone());
            desired.gue_port(GuePort { v6: rs.rip.is_ipv6(), port }, why);
            bare(service, rs, desired)
        }
        Tunnel::Gre { flags } => gre(service, rs, flags & CHECKSUM != 0, desired),
    }
}

/// `IP_VS_TUNNEL_ENCAP_FLAG_CSUM` (include/uapi/linux/ip_vs.h), of GUE and GRE.
const CHECKSUM: u16 = 1;

/// The device that takes IPv4 or IPv6 as they are: over IPv4 the kernel's, which takes packets from
/// any host; over IPv6 one of our own.
fn bare(service: &Service, rs: &RealServer, desired: &mut Desired) -> Option<IfName> {
    let (module, wrapped) = match (rs.rip, service.ipv6) {
        (IpAddr::V4(_), false) => (Module::Ipip, "IPIP"),
        (IpAddr::V4(_), true) => (Module::Sit, "IPv4 (6in4)"),
        (IpAddr::V6(_), true) => (Module::Ip6Tnl, "IPv6 (6in6)"),
        (IpAddr::V6(_), false) => (Module::Ip6Tnl, "IPv6 (4in6)"),
    };
    let spoken = service.display_name();
    let why = match rs.tunnel {
        Tunnel::Gue { .. } => {
            format!("what was in GUE of requests for {spoken} is taken as if wrapped in {wrapped}")
        }
        Tunnel::Ipip | Tunnel::Gre { .. } => {
            format!("the director sends requests for {spoken} wrapped in {wrapped}")
        }
    };
    desired.module(module, why);
    if module != Module::Ip6Tnl {
        return module.device()?.parse().ok();
    }
    let dev = own_device(TunnelKind::Ip6tnl, rs.rip)?;
    let why = format!(
        "this device unwraps what comes to {}, from whichever director; ip6tnl0 would take IPv6 only",
        rs.rip
    );
    let device = TunnelDevice { kind: TunnelKind::Ip6tnl, local: rs.rip, checksum: false };
    desired.tunnel(dev.clone(), device, why);
    Some(dev)
}

/// A device of our own, bound to the RIP. `gre0` would take packets with and without a checksum only
/// as it happens to be set, and is not ours.
fn gre(
    service: &Service,
    rs: &RealServer,
    checksum: bool,
    desired: &mut Desired,
) -> Option<IfName> {
    let (module, kind) = match rs.rip {
        IpAddr::V4(_) => (Module::IpGre, TunnelKind::Gre),
        IpAddr::V6(_) => (Module::Ip6Gre, TunnelKind::Ip6gre),
    };
    let dev = own_device(kind, rs.rip)?;
    let spoken = service.display_name();
    desired.module(module, format!("the director sends requests for {spoken} wrapped in GRE"));
    let sums = if checksum { "with" } else { "without" };
    let why = format!(
        "the director sends requests for {spoken} wrapped in GRE to {}, {sums} a checksum: this device \
         unwraps just these, from whichever director",
        rs.rip
    );
    desired.tunnel(dev.clone(), TunnelDevice { kind, local: rs.rip, checksum }, why);
    Some(dev)
}

/// The name of the device of our own that takes what is sent to `rip`.
fn own_device(kind: TunnelKind, rip: IpAddr) -> Option<IfName> {
    format!("{}{}", kind.prefix(), tail(rip)).parse().ok()
}

/// Eight hexadecimal digits for an address, so that a device's name says whose it is and stays the
/// same whatever else is in the file: IPv4 as it is, IPv6 folded.
fn tail(address: IpAddr) -> String {
    let number = match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => {
            let words = address.octets();
            words.chunks(4).fold(0, |folded, word| {
                let word = word.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
                folded ^ word
            })
        }
    };
    format!("{number:08x}")
}

/// Requests of TCP: what clients send must leave room for what wraps it.
fn clamp(topology: &Topology, service: &Service, rs: &RealServer, desired: &mut Desired) {
    let Some(source) = service.vip_address() else { return };
    if !director::protocols(service).any(|protocol| protocol == Protocol::Tcp) {
        return;
    }
    let mtu = mtu_of_way(topology, service, rs);
    let Some(mss) = largest_segment(mtu, rs.rip.is_ipv6(), service.ipv6, rs.tunnel) else { return };
    let why = format!(
        "clients of {source} are asked for segments of at most {mss} bytes: wrapped, larger ones do \
         not fit into {mtu} bytes, and large uploads would stall where ICMP is lost on the way"
    );
    desired.clamp_mss(topology, source, mss, &why);
    desired.module(Module::NfTables, "the maximum segment size is clamped with nftables");
}

/// The smallest MTU between the director and the real server, as the file has it. Where routers stand between them, all
/// their interfaces count.
fn mtu_of_way(topology: &Topology, service: &Service, rs: &RealServer) -> u32 {
    let mtu = |interface: &Interface| interface.mtu.unwrap_or(ETHERNET_MTU);
    let hosts = |name| topology.hosts.get(name);
    let of_server = hosts(&rs.host).and_then(|host| host.interface_with(rs.rip));
    let of_server = of_server.map(|(interface, _)| mtu(interface));
    let director = hosts(&service.director);
    let on_link = director.and_then(|director| director.on_link(rs.rip));
    let way = on_link.map(|(interface, _)| mtu(interface)).or_else(|| {
        let routers = topology.with_role(Role::Router).chain(director);
        let all = routers.flat_map(|host| host.interfaces.values());
        all.filter(|interface| interface.network.is_some()).map(mtu).min()
    });
    of_server.into_iter().chain(way).min().unwrap_or(ETHERNET_MTU)
}

/// Bytes of payload of a TCP segment without options (RFC 9293, 3.7.1) that still fits into `mtu` bytes when wrapped. `None`:
/// none does.
fn largest_segment(mtu: u32, outside_v6: bool, inside_v6: bool, tunnel: Tunnel) -> Option<u16> {
    let tcp = 20;
    let header = if inside_v6 { 40 } else { 20 };
    let most = mtu.checked_sub(wrapping_bytes(tunnel, outside_v6) + header + tcp)?;
    u16::try_from(most).ok().filter(|most| *most > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_wrapped_segment_fills_the_wire_exactly() {
        let gue = |flags| Tunnel::Gue { port: 6080, flags };
        assert_eq!(largest_segment(ETHERNET_MTU, false, false, Tunnel::Ipip), Some(1440));
        assert_eq!(largest_segment(ETHERNET_MTU, false, true, Tunnel::Ipip), Some(1420));
        assert_eq!(largest_segment(ETHERNET_MTU, true, true, Tunnel::Ipip), Some(1400));
        assert_eq!(largest_segment(ETHERNET_MTU, false, false, gue(1)), Some(1428));
        assert_eq!(largest_segment(ETHERNET_MTU, true, true, gue(2)), Some(1380));
        assert_eq!(
            largest_segment(ETHERNET_MTU, false, false, Tunnel::Gre { flags: 0 }),
            Some(1436)
        );
        assert_eq!(
            largest_segment(ETHERNET_MTU, true, false, Tunnel::Gre { flags: 1 }),
            Some(1412)
        );
        assert_eq!(largest_segment(9000, false, false, Tunnel::Ipip), Some(8940));
        assert_eq!(largest_segment(68, true, true, Tunnel::Ipip), None);
    }

    #[test]
    fn names_of_devices_tell_addresses_apart_and_are_short_enough() {
        let name = |address: &str| format!("lvsgre{}", tail(address.parse().unwrap()));
        assert_eq!(name("192.0.2.4"), "lvsgrec0000204");
        assert_ne!(name("2001:db8::4"), name("2001:db8::5"));
        assert!(name("2001:db8::4").parse::<IfName>().is_ok());
    }
}
