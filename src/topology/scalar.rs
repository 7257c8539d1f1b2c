//! One scalar to its type, strictly, or a finding with the expected form.
//!
//! No guesses: `no` is not a boolean, `0x50` and `080` are not numbers, a prefix length is required.

mod addresses;
pub mod checks;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::document::{GatewayDoc, MaskDoc};
use super::model::{Engine, Forward, Pace, Promise, Role, Scheduler, SchedulerFlag, WeightSource};
use super::node::{At, YamlNode, YamlValue};
use super::suggest::nearest_of;
use crate::finding::{Finding, Position};
use crate::names::{HostName, NameError, TopologyName};
use crate::state::{DaemonRole, DriftAction, Protocol, VsItem};

pub use addresses::{
    address, interface_address, route_destination, subnet, tunnel_source, usable_on, vip,
};

/// Maximum weight: the kernel stores a signed int (`ip_vs_add_dest`, ERANGE below 0).
const MAX_WEIGHT: u64 = 2_147_483_647;

type ScalarResult<T> = Result<T, Box<Finding>>;

fn refuse<T>(
    rule: &'static str,
    at: Position,
    message: impl Into<String>,
    why: &str,
    cure: impl Into<String>,
) -> ScalarResult<T> {
    Err(Box::new(Finding::error(rule, at, message, why, cure)))
}

/// The finding for a value of the wrong kind.
pub fn wrong_kind<T>(node: &YamlNode, what: &str, expected: &str) -> ScalarResult<T> {
    let found = match &node.content {
        YamlValue::Null => "nothing",
        YamlValue::Scalar { .. } => "a single value",
        YamlValue::List(_) => "a list",
        YamlValue::Map(_) => "a mapping",
    };
    let message = format!("{what}: expected {expected}, found {found}");
    let why = "lvsprov does not convert one kind of value into another";
    refuse("wrong-type", node.at, message, why, format!("write {expected}"))
}

/// The text of a scalar.
pub fn text<'a>(node: &'a YamlNode, what: &str) -> ScalarResult<&'a str> {
    match &node.content {
        YamlValue::Scalar { text, .. } => Ok(text),
        _ => wrong_kind(node, what, "a single value"),
    }
}

/// A name, checked by its type.
pub fn name<T: FromStr<Err = NameError>>(node: &YamlNode, what: &str) -> ScalarResult<At<T>> {
    name_at(text(node, what)?, node.at)
}

/// A name, checked by its type.
pub fn name_at<T: FromStr<Err = NameError>>(text: &str, at: Position) -> ScalarResult<At<T>> {
    match text.parse() {
        Ok(value) => Ok(At { value, at }),
        Err(error) => refuse(
            "bad-name",
            at,
            error.to_string(),
            "names become parts of paths, command arguments and terminal output",
            "choose another name",
        ),
    }
}

/// A topology's name.
pub fn topology_name(node: &YamlNode) -> ScalarResult<At<TopologyName>> {
    let name = name::<TopologyName>(node, "the topology's name")?;
    let word = name.value.as_str();
    if !TopologyName::RESERVED.contains(&word) {
        return Ok(name);
    }
    refuse(
        "reserved-name",
        node.at,
        format!("{word:?} cannot be a topology's name"),
        "the name becomes a folder in /var/lib/lvsprov on every host, and lvsprov uses that folder itself",
        format!("choose another name, such as `{word}-1`"),
    )
}

/// Decimal digits, quoted or not.
pub fn number(node: &YamlNode, what: &str, range: &str, max: u64) -> ScalarResult<u64> {
    let text = text(node, what)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    match text.parse::<u64>() {
        Ok(number) if digits && !leading_zero && number <= max => Ok(number),
        _ => refuse(
            "bad-number",
            node.at,
            format!("{text:?} is not a {what}"),
            "other notations mean different numbers to different YAML readers",
            format!("write a whole number, {range}"),
        ),
    }
}

/// `number` as a smaller type. A number outside `range` is refused, never truncated.
pub fn number_of<T: TryFrom<u64>>(
    node: &YamlNode,
    what: &str,
    range: &str,
    (min, max): (u64, u64),
) -> ScalarResult<At<T>> {
    let number = number(node, what, range, max)?;
    match T::try_from(number) {
        Ok(value) if number >= min => Ok(At { value, at: node.at }),
        _ => refuse(
            "bad-number",
            node.at,
            format!("{number} is not a {what}"),
            "the kernel would refuse it, or read it as another value",
            format!("write a whole number, {range}"),
        ),
    }
}

/// 1-65535; 0 is the finding `port-zero`.
pub fn port(node: &YamlNode) -> ScalarResult<At<u16>> {
    let number = number(node, "port", "1 to 65535", 65_535)?;
    match u16::try_from(number) {
        Ok(value) if value != 0 => Ok(At { value, at: node.at }),
        _ => refuse(
            "port-zero",
            node.at,
            "0 is not a port",
            "to the kernel port 0 means every port, which needs a persistent service",
            "write a port, or `port: any` with `persistence:`",
        ),
    }
}

/// A service's port: 1-65535, or `any`, which is 0.
pub fn service_port(node: &YamlNode) -> ScalarResult<At<u16>> {
    match text(node, "a port") {
        Ok("any") => Ok(At { value: 0, at: node.at }),
        _ => port(node),
    }
}

/// Seconds of drain or ramp, 0-3600: the controller waits that long.
pub fn wait_seconds(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "number of seconds", "0 to 3600", (0, u64::from(Pace::LONGEST)))
}

/// `3s` or `3`: seconds of a promise, 1-3600.
pub fn promised_seconds(node: &YamlNode) -> ScalarResult<At<u32>> {
    let text = text(node, "a time")?;
    let digits = text.strip_suffix('s').unwrap_or(text);
    match digits.parse::<u32>() {
        Ok(value) if (1..=Promise::LONGEST).contains(&value) && value.to_string() == digits => {
            Ok(At { value, at: node.at })
        }
        _ => refuse(
            "bad-number",
            node.at,
            format!("{text:?} is not a time within which requests are answered again"),
            "`lvsprov lab chaos` measures in whole seconds",
            "write whole seconds, 1s to 3600s",
        ),
    }
}

/// `keep`.
pub fn kept_connections(node: &YamlNode) -> ScalarResult<At<()>> {
    word(node, "promise about open connections", "unknown-word", &["keep"], |text| {
        (text == "keep").then_some(())
    })
}

/// 68-65535 bytes: the smallest and the largest MTU of Ethernet devices (include/uapi/linux/if_ether.h, `ETH_MIN_MTU`,
/// `ETH_MAX_MTU`).
pub fn mtu(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "MTU", "68 to 65535", (68, 65_535))
}

/// 0-2147483647.
pub fn weight(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "weight", "0 to 2147483647", (0, MAX_WEIGHT))
}

/// 0-2147483647: `ip_vs_genl_parse_dest` takes 32 bits, but the kernel reads them as a signed number.
pub fn threshold(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "number of connections", "0 to 2147483647", (0, MAX_WEIGHT))
}

/// 1-4294967295.
pub fn mark(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "firewall mark", "1 to 4294967295", (1, u64::from(u32::MAX)))
}

/// `lvsprov` or `others`.
pub fn marked_by(node: &YamlNode) -> ScalarResult<At<bool>> {
    word(node, "value for `marked_by`", "unknown-word", &["lvsprov", "others"], |text| match text {
        "lvsprov" => Some(true),
        "others" => Some(false),
        _ => None,
    })
}

/// `file` or `external`.
pub fn weights(node: &YamlNode) -> ScalarResult<At<WeightSource>> {
    let known = WeightSource::ALL.map(WeightSource::as_str);
    word(node, "value for `weights`", "unknown-word", &known, |text| {
        WeightSource::ALL.into_iter().find(|source| source.as_str() == text)
    })
}

/// `ipv4` or `ipv6`.
pub fn is_ipv6(node: &YamlNode) -> ScalarResult<At<bool>> {
    word(node, "address family", "unknown-word", &["ipv4", "ipv6"], |text| match text {
        "ipv4" => Some(false),
        "ipv6" => Some(true),
        _ => None,
    })
}

/// `exclusive` or `shared`.
pub fn is_exclusive(node: &YamlNode) -> ScalarResult<At<bool>> {
    let known = ["exclusive", "shared"];
    word(node, "way to own the IPVS table", "unknown-word", &known, |text| match text {
        "exclusive" => Some(true),
        "shared" => Some(false),
        _ => None,
    })
}

/// `report`, `mend`, or `off`, which is none.
pub fn drift_action(node: &YamlNode) -> ScalarResult<At<Option<DriftAction>>> {
    let known = ["off", "report", "mend"];
    word(node, "way to answer drift", "unknown-word", &known, |text| {
        let action = DriftAction::ALL.into_iter().find(|action| action.as_str() == text);
        (action.is_some() || text == "off").then_some(action)
    })
}

/// -20 to 19, as text.
pub fn nice(node: &YamlNode) -> ScalarResult<String> {
    let text = text(node, "a nice value")?;
    match text.parse::<i8>() {
        Ok(nice) if (-20..=19).contains(&nice) && nice.to_string() == text => Ok(text.to_owned()),
        _ => refuse(
            "bad-number",
            node.at,
            format!("{text:?} is not a nice value"),
            "the kernel refuses it",
            "write a whole number, -20 to 19",
        ),
    }
}

/// A tunnel's checksum: `none` or `false` is 0, `full` or `true` is 1, `remote` is 2.
pub fn checksum(node: &YamlNode) -> ScalarResult<At<u16>> {
    let known = ["none", "full", "remote", "true", "false"];
    word(node, "kind of checksum", "unknown-word", &known, |text| match text {
        "none" | "false" => Some(0),
        "full" | "true" => Some(1),
        "remote" => Some(2),
        _ => None,
    })
}

/// `true` or `false`, with its position.
pub fn boolean_at(node: &YamlNode, what: &str) -> ScalarResult<At<bool>> {
    Ok(At { value: boolean(node, what)?, at: node.at })
}

/// A scheduler flag.
pub fn scheduler_flag(node: &YamlNode) -> ScalarResult<At<SchedulerFlag>> {
    let known: Vec<&str> = SchedulerFlag::ALL.iter().map(|flag| flag.as_str()).collect();
    word(node, "scheduler flag", "unknown-scheduler-flag", &known, |text| {
        SchedulerFlag::ALL.iter().copied().find(|flag| flag.as_str() == text)
    })
}

/// `sip`.
pub fn engine(node: &YamlNode) -> ScalarResult<At<Engine>> {
    word(node, "persistence engine", "unknown-engine", &["sip"], |text| {
        (text == "sip").then_some(Engine::Sip)
    })
}

/// A mask such as 255.255.255.0, or a prefix length.
pub fn mask(node: &YamlNode) -> ScalarResult<At<MaskDoc>> {
    let text = text(node, "a persistence mask")?;
    if let Ok(dotted) = text.parse::<Ipv4Addr>() {
        return Ok(At { value: MaskDoc::Dotted(dotted), at: node.at });
    }
    let length =
        number_of(node, "persistence mask", "a mask such as 255.255.255.0, or 1 to 128", (1, 128))?;
    Ok(At { value: MaskDoc::Length(length.value), at: node.at })
}

/// A name under `net.ipv4.vs`.
pub fn vs_item(key: &At<String>) -> ScalarResult<At<VsItem>> {
    let known: Vec<&str> = VsItem::ALL.iter().map(|item| item.as_str()).collect();
    match VsItem::ALL.iter().copied().find(|item| item.as_str() == key.value) {
        Some(value) => Ok(At { value, at: key.at }),
        None => refuse(
            "unknown-setting",
            key.at,
            format!("net.ipv4.vs has no {:?}", key.value),
            "no kernel known to lvsprov has this setting",
            nearest_of(&key.value, &known),
        ),
    }
}

/// `master` or `backup`.
pub fn daemon_role(key: &At<String>) -> ScalarResult<At<DaemonRole>> {
    match key.value.parse() {
        Ok(value) => Ok(At { value, at: key.at }),
        Err(()) => refuse(
            "unknown-key",
            key.at,
            format!("`sync` has no key {:?}", key.value),
            "a sync daemon sends connections (master) or receives them (backup)",
            nearest_of(&key.value, &["master", "backup"]),
        ),
    }
}

/// A multicast group.
pub fn group(node: &YamlNode) -> ScalarResult<At<IpAddr>> {
    let text = text(node, "a multicast group")?;
    match text.parse::<IpAddr>() {
        Ok(value) if value.is_multicast() => Ok(At { value, at: node.at }),
        _ => refuse(
            "bad-address",
            node.at,
            format!("{text:?} is not a multicast group"),
            "the kernel refuses a sync daemon without a multicast group",
            "write an address of 224.0.0.0/4 or ff00::/8, such as 224.0.0.81",
        ),
    }
}

/// `true` or `false`, without quotes.
pub fn boolean(node: &YamlNode, what: &str) -> ScalarResult<bool> {
    match &node.content {
        YamlValue::Scalar { text, plain: true } if text == "true" => Ok(true),
        YamlValue::Scalar { text, plain: true } if text == "false" => Ok(false),
        YamlValue::Scalar { text, .. } => refuse(
            "bad-boolean",
            node.at,
            format!("{text:?} is neither true nor false"),
            "yes, no, on and off mean different things to different YAML readers",
            "write `true`, or remove the key",
        ),
        _ => wrong_kind(node, what, "`true` or `false`"),
    }
}

/// A word of a closed set.
fn word<T>(
    node: &YamlNode,
    what: &str,
    rule: &'static str,
    known: &[&str],
    parse: impl Fn(&str) -> Option<T>,
) -> ScalarResult<At<T>> {
    let text = text(node, what)?;
    match parse(text) {
        Some(value) => Ok(At { value, at: node.at }),
        None => refuse(
            rule,
            node.at,
            format!("{text:?} is not a {what}"),
            "lvsprov accepts a closed list of words here",
            nearest_of(text, known),
        ),
    }
}

/// An IPVS scheduler.
pub fn scheduler(node: &YamlNode) -> ScalarResult<At<Scheduler>> {
    let known: Vec<&str> = Scheduler::ALL.iter().map(|s| s.as_str()).collect();
    word(node, "scheduler", "unknown-scheduler", &known, |text| text.parse().ok())
}

/// tcp, udp, sctp.
pub fn protocol(node: &YamlNode) -> ScalarResult<At<Protocol>> {
    let known = ["tcp", "udp", "sctp"];
    word(node, "protocol", "unknown-protocol", &known, |text| text.parse().ok())
}

/// nat, dr, tun, fullnat.
pub fn forward(node: &YamlNode) -> ScalarResult<At<Forward>> {
    let known = ["nat", "dr", "tun", "fullnat"];
    word(node, "forwarding method", "unknown-forward", &known, |text| text.parse().ok())
}

/// client, router, director, real_server.
pub fn role(node: &YamlNode) -> ScalarResult<At<Role>> {
    let known = ["client", "router", "director", "real_server"];
    word(node, "role", "unknown-role", &known, |text| match text {
        "client" => Some(Role::Client),
        "router" => Some(Role::Router),
        "director" => Some(Role::Director),
        "real_server" => Some(Role::RealServer),
        _ => None,
    })
}

/// A default gateway: a host's name or an address.
pub fn gateway(node: &YamlNode) -> ScalarResult<At<GatewayDoc>> {
    host_or_address(node, "a gateway")
}

/// The next hop of a route: a host's name or an address.
pub fn next_hop(node: &YamlNode) -> ScalarResult<At<GatewayDoc>> {
    host_or_address(node, "a next hop")
}

fn host_or_address(node: &YamlNode, what: &str) -> ScalarResult<At<GatewayDoc>> {
    let text = text(node, what)?;
    let looks_like_address = text.parse::<IpAddr>().is_ok()
        || text.contains('/')
        || text.contains(':')
        || text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_address {
        let At { value, at } = address(node, what)?;
        return Ok(At { value: GatewayDoc::Address(value), at });
    }
    let At { value, at } = name_at::<HostName>(text, node.at)?;
    Ok(At { value: GatewayDoc::Host(value), at })
}

/// The name of a namespace under /run/netns, or the path of its file.
pub fn netns(node: &YamlNode) -> ScalarResult<At<PathBuf>> {
    let text = text(node, "a network namespace")?;
    if text.starts_with('/') && !text.contains("/../") && !text.chars().any(char::is_control) {
        return Ok(At { value: PathBuf::from(text), at: node.at });
    }
    // The form of a host name: one safe path component.
    let At { value, at } = name_at::<HostName>(text, node.at)?;
    Ok(At { value: PathBuf::from("/run/netns").join(value.as_str()), at })
}
