//! Addresses, prefixes and VIPs, in strict notation, and only those that a host can have.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ScalarResult, refuse, text};
use crate::finding::Position;
use crate::topology::node::{At, YamlNode};

fn bad_address<T>(at: Position, text: &str, expected: &str) -> ScalarResult<T> {
    let message = format!("{text:?} is not {expected}");
    let why = "an IPv4 address has four decimal numbers up to 255 without leading zeros, a prefix length is \
               at most 32 (IPv6: 128); write `::ffff:192.0.2.1` as 192.0.2.1";
    refuse("bad-address", at, message, why, format!("write {expected}"))
}

/// Why `address` cannot be a host's address; `None` if it can.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [0, ..] => Some("0.0.0.0/8 means this network, not a host"),
            [127, ..] => Some("127.0.0.0/8 never leaves the host"),
            [224..=239, ..] => Some("it is a multicast address"),
            [240..=255, ..] => Some("240.0.0.0/4 is reserved"),
            _ => None,
        },
        IpAddr::V6(v6) if v6.is_unspecified() => Some(":: means no address"),
        IpAddr::V6(v6) if v6.is_loopback() => Some("::1 never leaves the host"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("it is a multicast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("a link-local address is valid on one link only")
        }
        IpAddr::V6(_) => None,
    }
}

fn usable(address: IpAddr, at: Position) -> ScalarResult<IpAddr> {
    match unusable(address) {
        None => Ok(address),
        Some(why) => refuse(
            "unusable-address",
            at,
            format!("{address} cannot be a host's address"),
            why,
            "use an address in a subnet of one of the networks",
        ),
    }
}

/// Refuses IPv4-mapped IPv6 addresses: the kernel treats them as IPv6, operators as IPv4.
fn parse(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    (!mapped).then_some(address)
}

/// An address without a prefix.
pub fn address(node: &YamlNode, what: &str) -> ScalarResult<At<IpAddr>> {
    let text = text(node, what)?;
    match parse(text) {
        Some(address) => Ok(At { value: usable(address, node.at)?, at: node.at }),
        None => bad_address(node.at, text, "an address such as 192.0.2.1 or 2001:db8::1"),
    }
}

/// An address with its prefix; host bits are kept.
fn prefix(text: &str, at: Position, expected: &str) -> ScalarResult<IpNet> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    // The standard library's parser refuses leading zeros, which inet_aton(3) reads as octal.
    let plain =
        length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let net = match (parse(address), length.parse()) {
        (Some(address), Ok(length)) if plain => IpNet::new(address, length).ok(),
        _ => None,
    };
    match net {
        Some(net) if net.prefix_len() == 0 => refuse(
            "bad-address",
            at,
            format!("{text:?} covers every address"),
            "with prefix length 0 all traffic would be local",
            format!("write {expected}"),
        ),
        Some(net) => Ok(net),
        None => bad_address(at, text, expected),
    }
}

/// The subnet of a network: no host bits.
pub fn subnet(node: &YamlNode) -> ScalarResult<At<IpNet>> {
    let text = text(node, "a subnet")?;
    let net = prefix(text, node.at, "a subnet such as 192.0.2.0/24")?;
    usable(net.network(), node.at)?;
    without_host_bits(net, node.at)?;
    Ok(At { value: net, at: node.at })
}

fn without_host_bits(net: IpNet, at: Position) -> ScalarResult<()> {
    if net.addr() == net.network() {
        return Ok(());
    }
    refuse(
        "subnet-has-host-bits",
        at,
        format!("{net} is an address in a subnet, not a subnet"),
        "the address or the prefix length may be mistyped",
        format!("write {}", net.trunc()),
    )
}

/// One host or a subnet whose hosts may send wrapped packets: an address, or a subnet.
pub fn tunnel_source(node: &YamlNode) -> ScalarResult<At<IpNet>> {
    let text = text(node, "a source of wrapped packets")?;
    if text.ends_with("/0") {
        let message = format!("{text} covers every address");
        let why = "any host could then send requests to the real servers past the director";
        return refuse(
            "bad-address",
            node.at,
            message,
            why,
            "write `sources: any` if you want that",
        );
    }
    if text.contains('/') {
        return subnet(node);
    }
    let At { value, at } = address(node, "a source of wrapped packets")?;
    Ok(At { value: IpNet::from(value), at })
}

/// The destination of a static route: a subnet, or one address as /32 or /128.
pub fn route_destination(node: &YamlNode) -> ScalarResult<At<IpNet>> {
    let text = text(node, "a route's destination")?;
    if text == "default" || text.ends_with("/0") {
        return refuse(
            "route-is-default",
            node.at,
            format!("{text} is the default route"),
            "a host has one default route of each address family, and `gateway` sets it",
            "write `gateway:` on the host instead, with the next hop",
        );
    }
    if let Some(address) = parse(text) {
        return refuse(
            "prefix-missing",
            node.at,
            format!("{text} has no prefix length"),
            "lvsprov needs it to know which addresses the route is for",
            format!("write {} for this address alone, or a subnet", IpNet::from(address)),
        );
    }
    let net = prefix(text, node.at, "a subnet such as 198.51.100.0/24")?;
    // A shorter prefix holds other addresses beside the unusable ones.
    if let Some(why) = unusable(net.addr()).filter(|_| net.prefix_len() >= 8) {
        let message = format!("{net} cannot be the destination of a route");
        return refuse("unusable-address", node.at, message, why, "write a subnet of other hosts");
    }
    without_host_bits(net, node.at)?;
    Ok(At { value: net, at: node.at })
}

/// The address of an interface with its prefix.
pub fn interface_address(node: &YamlNode) -> ScalarResult<At<IpNet>> {
    const EXPECTED: &str = "an address with its prefix length, such as 192.0.2.1/24";
    let text = text(node, "an interface's address")?;
    if let Some(address) = parse(text) {
        let usual = if address.is_ipv4() { 24 } else { 64 };
        return refuse(
            "prefix-missing",
            node.at,
            format!("{text} has no prefix length"),
            "lvsprov needs it to know which addresses are on-link",
            format!("write {text}/{usual}, or the subnet's prefix length"),
        );
    }
    let net = prefix(text, node.at, EXPECTED)?;
    Ok(At { value: net, at: node.at })
}

/// A VIP, with a prefix or without.
pub fn vip(node: &YamlNode) -> ScalarResult<At<(IpAddr, Option<u8>)>> {
    let text = text(node, "a VIP")?;
    if !text.contains('/') {
        let At { value, at } = address(node, "a VIP")?;
        return Ok(At { value: (value, None), at });
    }
    let net = prefix(text, node.at, "an address such as 192.0.2.80 or 192.0.2.80/24")?;
    let value = (usable(net.addr(), node.at)?, Some(net.prefix_len()));
    not_an_end_of(net, node.at)?;
    Ok(At { value, at: node.at })
}

/// Refuses the first and the last address of an IPv4 subnet.
pub fn not_an_end_of(net: IpNet, at: Position) -> ScalarResult<()> {
    let (rule, end) = match net.addr() {
        // In IPv6 the first address is an anycast address of routers, and there is no broadcast.
        _ if net.addr().is_ipv6() || net.prefix_len() >= 31 => return Ok(()),
        address if address == net.network() => ("network-address", "first"),
        address if address == net.broadcast() => ("broadcast-address", "last"),
        _ => return Ok(()),
    };
    refuse(
        rule,
        at,
        format!("{} is the {end} address of {}", net.addr(), net.trunc()),
        "the first address of a subnet is its network address, the last one its broadcast address",
        format!("use another address, or correct the prefix length /{}", net.prefix_len()),
    )
}

/// Checks an interface's address: only lo may have 127.0.0.0/8.
pub fn usable_on(net: &At<IpNet>, loopback: bool) -> ScalarResult<()> {
    if loopback && net.value.addr().is_loopback() {
        return Ok(());
    }
    usable(net.value.addr(), net.at)?;
    not_an_end_of(net.value, net.at)
}
