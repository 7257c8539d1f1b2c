//! [`PacketRule`] to expressions and back, and the base chains of the rules. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::expr::{Expr, NETWORK, TRANSPORT};
use crate::state::{PacketRule, Protocol};

/// NFPROTO_IPV4, NFPROTO_IPV6 (include/uapi/linux/netfilter.h).
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// The bit SYN, in byte 13 of a TCP header (RFC 9293, 3.1).
const SYN: u8 = 0x02;
const TCP_FLAGS: Expr = Expr::LoadPacket { base: TRANSPORT, offset: 13, length: 1 };
/// At the same offset in TCP, UDP and SCTP.
const DESTINATION_PORT: Expr = Expr::LoadPacket { base: TRANSPORT, offset: 2, length: 2 };

/// The base chains of a table of lvsprov. A table has those that its rules need.
///
/// `nft -f` reads these names in the output of `nft list ruleset`; it would not read `mark` and
/// `masquerade`, which are keywords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// For [`PacketRule::Mark`].
    Marks,
    /// For [`PacketRule::ClampMss`].
    Mss,
    /// For [`PacketRule::Masquerade`].
    Source,
}

impl Chain {
    /// In the order of the hooks.
    pub const ALL: [Self; 3] = [Self::Marks, Self::Mss, Self::Source];

    /// The chain of `rule`; `None` for [`PacketRule::Unknown`].
    pub fn of(rule: &PacketRule) -> Option<Self> {
        match rule {
            PacketRule::Mark { .. } => Some(Self::Marks),
            PacketRule::Masquerade { .. } => Some(Self::Source),
            PacketRule::ClampMss { .. } => Some(Self::Mss),
            PacketRule::Unknown(_) => None,
        }
    }

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Marks => "marks",
            Self::Mss => "mss",
            Self::Source => "source",
        }
    }

    /// Its type in nf_tables.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Marks | Self::Mss => "filter",
            Self::Source => "nat",
        }
    }

    /// NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT or NF_INET_POST_ROUTING.
    pub fn hook(self) -> u32 {
        match self {
            Self::Marks => 0,
            Self::Mss => 3,
            Self::Source => 4,
        }
    }

    /// NF_IP_PRI_MANGLE or NF_IP_PRI_NAT_SRC.
    pub fn priority(self) -> i32 {
        match self {
            Self::Marks | Self::Mss => -150,
            Self::Source => 100,
        }
    }
}

/// Names a set of ports, in a transaction or in a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetName {
    /// `__set%d` in a transaction: the kernel puts a number there.
    pub name: String,
    /// Its number within a transaction, from 1; 0 in a dump.
    pub id: u32,
}

/// Why a rule cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// lvsprov makes no such rule.
    #[error("{0:?} is not a rule that lvsprov makes")]
    Unknown(String),
    /// `vip` and `rip` are of different address families.
    #[error("{vip} and {rip} are of two families: source NAT needs one address family")]
    Families {
        /// The address of the service.
        vip: IpAddr,
        /// The address of the real server.
        rip: IpAddr,
    },
}

/// The ports for which `rule` needs a set: more than one.
pub fn set_of(rule: &PacketRule) -> Option<&BTreeSet<u16>> {
    match rule {
        PacketRule::Mark { ports, .. } if ports.len() > 1 => Some(ports),
        _ => None,
    }
}

/// The expressions of `rule`, with `set` for the ports of [`set_of`].
pub fn expressions(rule: &PacketRule, set: &SetName) -> Result<Vec<Expr>, RuleError> {
    let mut all = Vec::new();
    match rule {
        PacketRule::Mark { vip, protocol, ports, mark } => {
            to(&mut all, *vip, *protocol);
            match (ports.first(), ports.len()) {
                (None, _) => {}
                (Some(port), 1) => port_is(&mut all, *port),
                (Some(_), _) => {
                    let SetName { name, id } = set.clone();
                    all.extend([DESTINATION_PORT, Expr::InSet { set: name, id }]);
                }
            }
            all.extend([Expr::Constant(mark.to_ne_bytes().to_vec()), Expr::StoreMark]);
        }
        PacketRule::Masquerade { vip, rip, protocol, port } => {
            to(&mut all, *rip, *protocol);
            if *port != 0 {
                port_is(&mut all, *port);
            }
            if let Some(vip) = vip {
                if vip.is_ipv6() != rip.is_ipv6() {
                    return Err(RuleError::Families { vip: *vip, rip: *rip });
                }
                all.push(Expr::LoadOriginalDestination { v6: vip.is_ipv6() });
                all.push(Expr::Equal(octets(*vip)));
            }
            all.push(Expr::Masquerade);
        }
        PacketRule::ClampMss { source, mss } => {
            addressed(&mut all, *source, if source.is_ipv6() { 8 } else { 12 }, Protocol::Tcp);
            all.extend([
                TCP_FLAGS,
                Expr::Keep(vec![SYN]),
                Expr::Equal(vec![SYN]),
                Expr::Constant(mss.to_be_bytes().to_vec()),
                Expr::StoreMss,
            ]);
        }
        PacketRule::Unknown(text) => return Err(RuleError::Unknown(text.clone())),
    }
    Ok(all)
}

fn to(all: &mut Vec<Expr>, destination: IpAddr, protocol: Protocol) {
    addressed(all, destination, if destination.is_ipv6() { 24 } else { 16 }, protocol);
}

/// Matches packets with `address` at byte `offset` of the IP header, and of `protocol`.
fn addressed(all: &mut Vec<Expr>, address: IpAddr, offset: u32, protocol: Protocol) {
    let (family, length) = if address.is_ipv6() { (IPV6, 16) } else { (IPV4, 4) };
    all.extend([
        Expr::LoadFamily,
        Expr::Equal(vec![family]),
        Expr::LoadPacket { base: NETWORK, offset, length },
        Expr::Equal(octets(address)),
        Expr::LoadProtocol,
        Expr::Equal(vec![protocol_number(protocol)]),
    ]);
}

/// The byte in the IP header.
fn protocol_number(protocol: Protocol) -> u8 {
    u8::try_from(protocol.number()).unwrap_or_default()
}

fn port_is(all: &mut Vec<Expr>, port: u16) {
    all.extend([DESTINATION_PORT, Expr::Equal(port.to_be_bytes().to_vec())]);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

fn number(octets: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(octets).ok().map(u16::from_be_bytes)
}

/// The rule that `found` in `chain` encodes; `None` unless [`expressions`] would write exactly `found`.
/// `sets`: the elements of the table's sets.
pub fn recognise(
    chain: Chain,
    found: &[Expr],
    sets: &BTreeMap<String, BTreeSet<u16>>,
) -> Option<PacketRule> {
    let (rule, set) = candidate(chain, found, sets)?;
    // The candidate comes from the variable expressions only: the constant ones are compared here.
    let exact = expressions(&rule, &set).is_ok_and(|own| own == found);
    exact.then_some(rule)
}

fn candidate(
    chain: Chain,
    found: &[Expr],
    sets: &BTreeMap<String, BTreeSet<u16>>,
) -> Option<(PacketRule, SetName)> {
    let [_, _, _, Expr::Equal(ip), _, Expr::Equal(protocol), rest @ ..] = found else {
        return None;
    };
    let ip = address(ip)?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|one| protocol.as_slice() == [protocol_number(*one)])?;
    let mut set = SetName { name: String::new(), id: 0 };
    let (ports, rest) = match rest {
        [load, Expr::Equal(port), rest @ ..] if *load == DESTINATION_PORT => {
            (BTreeSet::from([number(port)?]), rest)
        }
        [_, Expr::InSet { set: name, id }, rest @ ..] => {
            set = SetName { name: name.clone(), id: *id };
            (sets.get(name)?.clone(), rest)
        }
        _ => (BTreeSet::new(), rest),
    };
    let rule = match (chain, rest) {
        (Chain::Marks, [Expr::Constant(mark), Expr::StoreMark]) => {
            let mark = u32::from_ne_bytes(<[u8; 4]>::try_from(mark.as_slice()).ok()?);
            PacketRule::Mark { vip: ip, protocol, ports, mark }
        }
        (Chain::Source, [middle @ .., Expr::Masquerade]) => {
            let vip = match middle {
                [] => None,
                [_, Expr::Equal(vip)] => Some(address(vip)?),
                _ => return None,
            };
            let port = ports.first().copied().unwrap_or(0);
            PacketRule::Masquerade { vip, rip: ip, protocol, port }
        }
        (Chain::Mss, [.., Expr::Constant(mss), Expr::StoreMss]) => {
            PacketRule::ClampMss { source: ip, mss: number(mss)? }
        }
        _ => return None,
    };
    Some((rule, set))
}
