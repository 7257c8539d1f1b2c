//! The text of one value to its type, strictly, or a finding that says what was expected.
//!
//! Nothing is guessed: `no` is not a boolean, `0x50` and `080` are not numbers, a prefix is not left out.

mod addresses;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::document::{GatewayDoc, MaskDoc};
use super::model::{Engine, Forward, Pace, Role, Scheduler, SchedulerFlag};
use super::node::{At, Content, Node};
use super::suggest::nearest_of;
use crate::finding::{Finding, Position};
use crate::names::{HostName, NameError, TopologyName};
use crate::state::{DaemonRole, Protocol, VsItem};

pub use addresses::{address, interface_address, subnet, usable_on, vip};

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

/// A topology's name.
pub fn topology_name(node: &Node) -> Read<At<TopologyName>> {
    let name = name::<TopologyName>(node, "the topology's name")?;
    let word = name.value.as_str();
    if !TopologyName::RESERVED.contains(&word) {
        return Ok(name);
    }
    no(
        "reserved-name",
        node.at,
        format!("{word:?} cannot be a topology's name"),
        "the name becomes a folder in /var/lib/lvsprov on every host, where lvsprov has something of its own \
         of that name",
        format!("choose another name, such as `{word}-1`"),
    )
}

/// Decimal digits, quoted or not.
pub fn number(node: &Node, what: &str, range: &str, max: u64) -> Read<u64> {
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

/// `number` of a smaller type. Out of range is out of `max` too, so nothing is cut off.
pub fn number_of<T: TryFrom<u64>>(
    node: &Node,
    what: &str,
    range: &str,
    (min, max): (u64, u64),
) -> Read<At<T>> {
    let number = number(node, what, range, max)?;
    match T::try_from(number) {
        Ok(value) if number >= min => Ok(At { value, at: node.at }),
        _ => no(
            "bad-number",
            node.at,
            format!("{number} is not a {what}"),
            "the kernel would refuse it, or take it for something else",
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
            "0 is no port",
            "the kernel uses it for every port, which a persistent service can have",
            "write `port: any` with `persistence:`, or a port",
        ),
    }
}

/// A service's port: 1-65535, or `any`, which is 0.
pub fn service_port(node: &Node) -> Read<At<u16>> {
    match text(node, "a port") {
        Ok("any") => Ok(At { value: 0, at: node.at }),
        _ => port(node),
    }
}

/// 0-2147483647.
/// How long to wait before, or take for, a change: as long as a controller may sit there.
pub fn patience(node: &Node) -> Read<At<u32>> {
    number_of(node, "number of seconds", "0 to 3600", (0, u64::from(Pace::LONGEST)))
}

pub fn weight(node: &Node) -> Read<At<u32>> {
    number_of(node, "weight", "0 to 2147483647", (0, MAX_WEIGHT))
}

/// 0-2147483647: what the kernel takes (`ip_vs_genl_parse_dest` has room for more, but reads it as a
/// signed number).
pub fn threshold(node: &Node) -> Read<At<u32>> {
    number_of(node, "number of connections", "0 to 2147483647", (0, MAX_WEIGHT))
}

/// 1-4294967295.
pub fn mark(node: &Node) -> Read<At<u32>> {
    number_of(node, "firewall mark", "1 to 4294967295", (1, u64::from(u32::MAX)))
}

/// `lvsprov` or `others`.
pub fn marked_by(node: &Node) -> Read<At<bool>> {
    word(node, "marker of packets", "unknown-word", &["lvsprov", "others"], |text| match text {
        "lvsprov" => Some(true),
        "others" => Some(false),
        _ => None,
    })
}

/// `ipv4` or `ipv6`.
pub fn is_ipv6(node: &Node) -> Read<At<bool>> {
    word(node, "address family", "unknown-word", &["ipv4", "ipv6"], |text| match text {
        "ipv4" => Some(false),
        "ipv6" => Some(true),
        _ => None,
    })
}

/// `exclusive` or `shared`.
pub fn is_exclusive(node: &Node) -> Read<At<bool>> {
    let known = ["exclusive", "shared"];
    word(node, "way to own the IPVS table", "unknown-word", &known, |text| match text {
        "exclusive" => Some(true),
        "shared" => Some(false),
        _ => None,
    })
}

/// -20 to 19, as text.
pub fn nice(node: &Node) -> Read<String> {
    let text = text(node, "a nice value")?;
    match text.parse::<i8>() {
        Ok(nice) if (-20..=19).contains(&nice) && nice.to_string() == text => Ok(text.to_owned()),
        _ => no(
            "bad-number",
            node.at,
            format!("{text:?} is not a nice value"),
            "the kernel refuses it",
            "write a whole number, -20 to 19",
        ),
    }
}

/// A tunnel's checksum: none or false 0, full or true 1, remote 2.
pub fn checksum(node: &Node) -> Read<At<u16>> {
    let known = ["none", "full", "remote", "true", "false"];
    word(node, "kind of checksum", "unknown-word", &known, |text| match text {
        "none" | "false" => Some(0),
        "full" | "true" => Some(1),
        "remote" => Some(2),
        _ => None,
    })
}

/// `true` or `false`, with its place.
pub fn truth(node: &Node, what: &str) -> Read<At<bool>> {
    Ok(At { value: boolean(node, what)?, at: node.at })
}

/// The names of flags that schedulers read.
pub fn scheduler_flag(node: &Node) -> Read<At<SchedulerFlag>> {
    let known: Vec<&str> = SchedulerFlag::ALL.iter().map(|flag| flag.as_str()).collect();
    word(node, "scheduler flag", "unknown-scheduler-flag", &known, |text| {
        SchedulerFlag::ALL.iter().copied().find(|flag| flag.as_str() == text)
    })
}

/// `sip`.
pub fn engine(node: &Node) -> Read<At<Engine>> {
    word(node, "persistence engine", "unknown-engine", &["sip"], |text| {
        (text == "sip").then_some(Engine::Sip)
    })
}

/// A mask such as 255.255.255.0, or a prefix length.
pub fn mask(node: &Node) -> Read<At<MaskDoc>> {
    let text = text(node, "a persistence mask")?;
    if let Ok(dotted) = text.parse::<Ipv4Addr>() {
        return Ok(At { value: MaskDoc::Dotted(dotted), at: node.at });
    }
    let length =
        number_of(node, "persistence mask", "a mask such as 255.255.255.0, or 1 to 128", (1, 128))?;
    Ok(At { value: MaskDoc::Length(length.value), at: node.at })
}

/// A name under `net.ipv4.vs`.
pub fn vs_item(key: &At<String>) -> Read<At<VsItem>> {
    let known: Vec<&str> = VsItem::ALL.iter().map(|item| item.as_str()).collect();
    match VsItem::ALL.iter().copied().find(|item| item.as_str() == key.value) {
        Some(value) => Ok(At { value, at: key.at }),
        None => no(
            "unknown-setting",
            key.at,
            format!("net.ipv4.vs has no {:?}", key.value),
            "no kernel that lvsprov knows has it",
            nearest_of(&key.value, &known),
        ),
    }
}

/// `master` or `backup`.
pub fn daemon_role(key: &At<String>) -> Read<At<DaemonRole>> {
    match key.value.parse() {
        Ok(value) => Ok(At { value, at: key.at }),
        Err(()) => no(
            "unknown-key",
            key.at,
            format!("`sync` has no key {:?}", key.value),
            "a daemon sends connections out (master) or takes them in (backup)",
            nearest_of(&key.value, &["master", "backup"]),
        ),
    }
}

/// A multicast group.
pub fn group(node: &Node) -> Read<At<IpAddr>> {
    let text = text(node, "a multicast group")?;
    match text.parse::<IpAddr>() {
        Ok(value) if value.is_multicast() => Ok(At { value, at: node.at }),
        _ => no(
            "bad-address",
            node.at,
            format!("{text:?} is not a multicast group"),
            "sync daemons talk to a group, and the kernel refuses another address",
            "write an address of 224.0.0.0/4 or ff00::/8, such as 224.0.0.81",
        ),
    }
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

/// nat, dr, tun, fullnat.
pub fn forward(node: &Node) -> Read<At<Forward>> {
    let known = ["nat", "dr", "tun", "fullnat"];
    word(node, "forwarding method", "unknown-forward", &known, |text| text.parse().ok())
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

/// A host's name or an address.
pub fn gateway(node: &Node) -> Read<At<GatewayDoc>> {
    let text = text(node, "a gateway")?;
    let looks_like_address = text.parse::<IpAddr>().is_ok()
        || text.contains('/')
        || text.contains(':')
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
