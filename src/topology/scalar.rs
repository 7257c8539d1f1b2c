//! The text of one value to its type, strictly, or a finding that says what was expected.
//!
//! Nothing is guessed: `no` is not a boolean, `0x50` and `080` are not numbers, a prefix is not left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::Ipv4Net;

use super::document::GatewayDoc;
use super::model::{Forward, Position, Protocol, Role, Scheduler};
use super::names::{HostName, NameError};
use super::node::{At, Content, Node};
use super::suggest::nearest_of;
use crate::check::Finding;

/// Weights are what fits into a signed int of the kernel (`ip_vs_add_dest`, ERANGE below 0).
const MAX_WEIGHT: u64 = 2_147_483_647;

type Read<T> = Result<T, Box<Finding>>;

fn no<T>(
    rule: &'static str,
    at: Position,
    message: impl Into<String>,
    why: &str,
    cure: impl Into<String>,
) -> Read<T> {
    Err(Box::new(Finding::error(rule, at, message, why, cure)))
}

/// The finding for a value of the wrong kind.
pub fn wrong_kind<T>(node: &Node, what: &str, expected: &str) -> Read<T> {
    let found = match &node.content {
        Content::Nothing => "nothing",
        Content::Scalar { .. } => "a single value",
        Content::List(_) => "a list",
        Content::Map(_) => "a mapping",
    };
    let message = format!("{what}: expected {expected}, found {found}");
    let why = "what is meant cannot be told from a value of another kind";
    no("wrong-type", node.at, message, why, format!("write {expected}"))
}

/// The text of a scalar.
pub fn text<'a>(node: &'a Node, what: &str) -> Read<&'a str> {
    match &node.content {
        Content::Scalar { text, .. } => Ok(text),
        _ => wrong_kind(node, what, "a single value"),
    }
}

/// A name that its own type checks.
pub fn name<T: FromStr<Err = NameError>>(node: &Node, what: &str) -> Read<At<T>> {
    name_at(text(node, what)?, node.at)
}

/// A name that its own type checks.
pub fn name_at<T: FromStr<Err = NameError>>(text: &str, at: Position) -> Read<At<T>> {
    match text.parse() {
        Ok(value) => Ok(At { value, at }),
        Err(error) => no(
            "bad-name",
            at,
            error.to_string(),
            "names become parts of paths, arguments and lines on a terminal",
            "choose another name",
        ),
    }
}

/// Decimal digits, quoted or not.
fn number(node: &Node, what: &str, range: &str, max: u64) -> Read<u64> {
    let text = text(node, what)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    match text.parse::<u64>() {
        Ok(number) if digits && !leading_zero && number <= max => Ok(number),
        _ => no(
            "bad-number",
            node.at,
            format!("{text:?} is not a {what}"),
            "a number is written in decimal digits only, so that no reader takes it for another",
            format!("write a whole number, {range}"),
        ),
    }
}

/// 1-65535; 0 has a finding of its own.
pub fn port(node: &Node) -> Read<At<u16>> {
    let number = number(node, "port", "1 to 65535", 65_535)?;
    match u16::try_from(number) {
        Ok(value) if value != 0 => Ok(At { value, at: node.at }),
        _ => no(
            "port-zero",
            node.at,
            "port 0 (every port) needs a persistent service",
            "the kernel refuses port 0 without persistence, and this version cannot say persistence yet",
            "write one service for each port",
        ),
    }
}

/// 0-2147483647.
pub fn weight(node: &Node) -> Read<At<u32>> {
    let number = number(node, "weight", "0 to 2147483647", MAX_WEIGHT)?;
    Ok(At { value: u32::try_from(number).unwrap_or(u32::MAX), at: node.at })
}

/// `true` or `false`, without quotes.
pub fn boolean(node: &Node, what: &str) -> Read<bool> {
    match &node.content {
        Content::Scalar { text, plain: true } if text == "true" => Ok(true),
        Content::Scalar { text, plain: true } if text == "false" => Ok(false),
        Content::Scalar { text, .. } => no(
            "bad-boolean",
            node.at,
            format!("{text:?} is neither true nor false"),
            "yes, no, on and off mean different things to different YAML readers",
            "write `true`, or leave the key out",
        ),
        _ => wrong_kind(node, what, "`true` or `false`"),
    }
}

/// The words of a closed set.
fn word<T>(
    node: &Node,
    what: &str,
    rule: &'static str,
    known: &[&str],
    parse: impl Fn(&str) -> Option<T>,
) -> Read<At<T>> {
    let text = text(node, what)?;
    match parse(text) {
        Some(value) => Ok(At { value, at: node.at }),
        None => no(
            rule,
            node.at,
            format!("{text:?} is not a {what}"),
            "lvsprov knows a closed set of these",
            nearest_of(text, known),
        ),
    }
}

/// Every scheduler that IPVS knows.
pub fn scheduler(node: &Node) -> Read<At<Scheduler>> {
    let known: Vec<&str> = Scheduler::ALL.iter().map(|s| s.as_str()).collect();
    word(node, "scheduler", "unknown-scheduler", &known, |text| text.parse().ok())
}

/// tcp, udp, sctp.
pub fn protocol(node: &Node) -> Read<At<Protocol>> {
    let known = ["tcp", "udp", "sctp"];
    word(node, "protocol", "unknown-protocol", &known, |text| text.parse().ok())
}

/// nat, dr, tun; fullnat has a finding of its own.
pub fn forward(node: &Node) -> Read<At<Forward>> {
    if text(node, "forwarding method")? == "fullnat" {
        return no(
            "fullnat-not-yet",
            node.at,
            "fullnat is not in this version yet",
            "it is NAT, net.ipv4.vs.conntrack=1 and a source NAT rule, set as one",
            "use `nat` with the director as the real servers' gateway, or `tun` for real servers in other networks",
        );
    }
    word(node, "forwarding method", "unknown-forward", &["nat", "dr", "tun"], |text| match text {
        "nat" => Some(Forward::Nat),
        "dr" => Some(Forward::Dr),
        "tun" => Some(Forward::Tun),
        _ => None,
    })
}

/// client, router, director, real_server.
pub fn role(node: &Node) -> Read<At<Role>> {
    let known = ["client", "router", "director", "real_server"];
    word(node, "role", "unknown-role", &known, |text| match text {
        "client" => Some(Role::Client),
        "router" => Some(Role::Router),
        "director" => Some(Role::Director),
        "real_server" => Some(Role::RealServer),
        _ => None,
    })
}

fn ipv6_not_yet<T>(at: Position, text: &str) -> Read<T> {
    no(
        "ipv6-not-yet",
        at,
        format!("{text:?} is IPv6, and this version brings up IPv4 only"),
        "IPv6 has no arp_ignore and needs other settings on every host",
        "use IPv4 addresses",
    )
}

fn bad_address<T>(at: Position, text: &str, expected: &str) -> Read<T> {
    let message = format!("{text:?} is not {expected}");
    let why = "an address is four decimal numbers up to 255, a prefix length one up to 32, without leading zeros";
    no("bad-address", at, message, why, format!("write {expected}"))
}

/// Why no machine can be reached at `address`.
fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("0.0.0.0/8 means this network, not a machine"),
        [127, ..] => Some("127.0.0.0/8 never leaves a machine"),
        [224..=239, ..] => Some("it is a multicast address"),
        [240..=255, ..] => Some("240.0.0.0/4 is reserved"),
        _ => None,
    }
}

fn usable(address: Ipv4Addr, at: Position) -> Read<Ipv4Addr> {
    match unusable(address) {
        None => Ok(address),
        Some(why) => no(
            "unusable-address",
            at,
            format!("{address} cannot be a machine's address"),
            why,
            "use an address out of one of the networks' subnets",
        ),
    }
}

/// An address without a prefix.
pub fn address(node: &Node, what: &str) -> Read<At<Ipv4Addr>> {
    let text = text(node, what)?;
    if text.parse::<Ipv6Addr>().is_ok() {
        return ipv6_not_yet(node.at, text);
    }
    match text.parse() {
        Ok(address) => Ok(At { value: usable(address, node.at)?, at: node.at }),
        Err(_) => bad_address(node.at, text, "an IPv4 address such as 192.0.2.1"),
    }
}

/// An address with its prefix; host bits are kept.
fn prefix(text: &str, at: Position, expected: &str) -> Read<Ipv4Net> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    if address.parse::<Ipv6Addr>().is_ok() {
        return ipv6_not_yet(at, text);
    }
    // The standard library's parser refuses leading zeros, which others take for octal.
    let plain =
        length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let net = match (address.parse(), length.parse()) {
        (Ok(address), Ok(length)) if plain => Ipv4Net::new(address, length).ok(),
        _ => None,
    };
    match net {
        Some(net) if net.prefix_len() == 0 => no(
            "bad-address",
            at,
            format!("{text:?} stands for every address there is"),
            "with prefix length 0 all traffic would be local",
            format!("write {expected}"),
        ),
        Some(net) => Ok(net),
        None => bad_address(at, text, expected),
    }
}

/// The subnet of a network: no host bits.
pub fn subnet(node: &Node) -> Read<At<Ipv4Net>> {
    let text = text(node, "a subnet")?;
    let net = prefix(text, node.at, "a subnet such as 192.0.2.0/24")?;
    usable(net.network(), node.at)?;
    if net.addr() != net.network() {
        return no(
            "subnet-has-host-bits",
            node.at,
            format!("{net} is an address in a subnet, not a subnet"),
            "it is not clear whether the address or the prefix length is mistyped",
            format!("write {}", net.trunc()),
        );
    }
    Ok(At { value: net, at: node.at })
}

/// The address of an interface with its prefix.
pub fn interface_address(node: &Node) -> Read<At<Ipv4Net>> {
    const EXPECTED: &str = "an address with its prefix length, such as 192.0.2.1/24";
    let text = text(node, "an interface's address")?;
    if text.parse::<Ipv4Addr>().is_ok() {
        return no(
            "prefix-missing",
            node.at,
            format!("{text} has no prefix length"),
            "without it nobody knows which addresses are on the same wire",
            format!("write {text}/24, or whatever the subnet has"),
        );
    }
    let net = prefix(text, node.at, EXPECTED)?;
    Ok(At { value: net, at: node.at })
}

/// A VIP, with a prefix or without.
pub fn vip(node: &Node) -> Read<At<(Ipv4Addr, Option<u8>)>> {
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

/// Refuses the first and the last address of a subnet: no machine can have them.
pub fn not_an_end_of(net: Ipv4Net, at: Position) -> Read<()> {
    let (rule, end) = match net.addr() {
        _ if net.prefix_len() >= 31 => return Ok(()),
        address if address == net.network() => ("network-address", "first"),
        address if address == net.broadcast() => ("broadcast-address", "last"),
        _ => return Ok(()),
    };
    no(
        rule,
        at,
        format!("{} is the {end} address of {}", net.addr(), net.trunc()),
        "the first address of a subnet names the subnet, the last one is its broadcast address",
        format!("use one in between, or correct the prefix length /{}", net.prefix_len()),
    )
}

/// Checks what an interface may have: lo may have 127.0.0.0/8, others no such address.
pub fn usable_on(net: &At<Ipv4Net>, loopback: bool) -> Read<()> {
    if loopback && net.value.addr().is_loopback() {
        return Ok(());
    }
    usable(net.value.addr(), net.at)?;
    not_an_end_of(net.value, net.at)
}

/// A host's name or an address.
pub fn gateway(node: &Node) -> Read<At<GatewayDoc>> {
    let text = text(node, "a gateway")?;
    let looks_like_address = text.parse::<IpAddr>().is_ok()
        || text.contains('/')
        || text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_address {
        let At { value, at } = address(node, "a gateway")?;
        return Ok(At { value: GatewayDoc::Address(value), at });
    }
    let At { value, at } = name_at::<HostName>(text, node.at)?;
    Ok(At { value: GatewayDoc::Host(value), at })
}

/// The name of a namespace under /run/netns, or the path of its file.
pub fn netns(node: &Node) -> Read<At<PathBuf>> {
    let text = text(node, "a network namespace")?;
    if text.starts_with('/') && !text.contains("/../") && !text.chars().any(char::is_control) {
        return Ok(At { value: PathBuf::from(text), at: node.at });
    }
    // The same form as a host's name: one safe part of a path.
    let At { value, at } = name_at::<HostName>(text, node.at)?;
    Ok(At { value: PathBuf::from("/run/netns").join(value.as_str()), at })
}
