//! [`PacketRule`] to expressions and back, and the base chains of the rules. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::codec::SetKeys;
use super::expr::{Expr, NETWORK, TRANSPORT};
use super::{fragments, guard};
use crate::state::{PacketRule, Protocol};

/// NFPROTO_IPV4, NFPROTO_IPV6 (include/uapi/linux/netfilter.h).
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;
/// The bit SYN, in byte 13 of a TCP header (RFC 9293, 3.1).
const SYN: u8 = 0x02;
const TCP_FLAGS: Expr = Expr::LoadPacket { base: TRANSPORT, offset: 13, length: 1 };
/// At the same offset in TCP, UDP and SCTP.
pub(super) const DESTINATION_PORT: Expr =
    Expr::LoadPacket { base: TRANSPORT, offset: 2, length: 2 };

/// The base chains of a table of lvsprov. A table has those that its rules need.
///
/// `nft -f` reads these names in the output of `nft list ruleset`; it would not read `mark` and
/// `masquerade`, which are keywords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// For [`PacketRule::Mark`].
    Marks,
    /// For [`PacketRule::Guard`] and [`PacketRule::Fragments`].
    Wrapped,
    /// For [`PacketRule::ClampMss`].
    Mss,
    /// For [`PacketRule::Masquerade`].
    Source,
}

impl Chain {
    /// In the order of the hooks.
    pub const ALL: [Self; 4] = [Self::Marks, Self::Wrapped, Self::Mss, Self::Source];

    /// The chain of `rule`; `None` for [`PacketRule::Unknown`].
    pub fn of(rule: &PacketRule) -> Option<Self> {
        match rule {
            PacketRule::Mark { .. } => Some(Self::Marks),
            PacketRule::Masquerade { .. } => Some(Self::Source),
            PacketRule::ClampMss { .. } => Some(Self::Mss),
            PacketRule::Guard(_) | PacketRule::Fragments(_) => Some(Self::Wrapped),
            PacketRule::Unknown(_) => None,
        }
    }

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Marks => "marks",
            Self::Wrapped => "wrapped",
            Self::Mss => "mss",
            Self::Source => "source",
        }
    }

    /// Its type in nf_tables.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Marks | Self::Wrapped | Self::Mss => "filter",
            Self::Source => "nat",
        }
    }

    /// NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT or NF_INET_POST_ROUTING.
    pub fn hook(self) -> u32 {
        match self {
            Self::Marks => 0,
            Self::Wrapped => 1,
            Self::Mss => 3,
            Self::Source => 4,
        }
    }

    /// NF_IP_PRI_MANGLE or NF_IP_PRI_NAT_SRC.
    pub fn priority(self) -> i32 {
        match self {
            Self::Marks | Self::Wrapped | Self::Mss => -150,
            Self::Source => 100,
        }
    }
}

/// A rule of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRule {
    /// Its expressions. One at most asks a set, which has no name here.
    pub expressions: Vec<Expr>,
    /// The elements of that set.
    pub set: Option<SetKeys>,
}

impl KernelRule {
    /// The expressions, with the set's name, and its number within a transaction.
    pub fn naming(&self, name: &str, number: u32) -> Vec<Expr> {
        let named = |expr: &Expr| match expr {
            Expr::InSet { .. } => Expr::InSet { set: name.to_owned(), id: number },
            expr => expr.clone(),
        };
        self.expressions.iter().map(named).collect()
    }

    /// A rule that was found; `sets`: the elements of the table's sets. `None`: it asks one that is not among them, or several.
    pub fn found(expressions: &[Expr], sets: &BTreeMap<String, SetKeys>) -> Option<Self> {
        let mut rule = Self { expressions: expressions.to_vec(), set: None };
        for expr in &mut rule.expressions {
            if let Expr::InSet { set, id } = expr {
                let keys = sets.get(set)?.clone();
                if rule.set.replace(keys).is_some() {
                    return None;
                }
                (*set, *id) = (String::new(), 0);
            }
        }
        Some(rule)
    }
}

/// Why a rule cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// lvsprov makes no such rule.
    #[error("{0:?} is not a rule that lvsprov makes")]
    Unknown(String),
    /// More expressions than a rule of the kernel holds.
    #[error(
        "{0:?} does not fit into a rule: say `sources: any` under `tunnel`, or give the directors fewer addresses"
    )]
    TooLong(String),
    /// `vip` and `rip` are of different address families.
    #[error("{vip} and {rip} are of two families: source NAT needs one address family")]
    Families {
        /// The address of the service.
        vip: IpAddr,
        /// The address of the real server.
        rip: IpAddr,
    },
}

/// NFT_RULE_MAXEXPRS.
const MOST_EXPRESSIONS: usize = 128;

/// The kernel's rules for `rule`, in their order.
pub fn kernel_rules(rule: &PacketRule) -> Result<Vec<KernelRule>, RuleError> {
    let all = match rule {
        PacketRule::Guard(guard) => guard::kernel_rules(guard),
        PacketRule::Fragments(guard) => fragments::kernel_rules(guard),
        rule => vec![one_rule(rule)?],
    };
    if all.iter().any(|rule| rule.expressions.len() > MOST_EXPRESSIONS) {
        return Err(RuleError::TooLong(rule.to_string()));
    }
    Ok(all)
}

fn one_rule(rule: &PacketRule) -> Result<KernelRule, RuleError> {
    let (mut all, mut set) = (Vec::new(), None);
    match rule {
        PacketRule::Mark { vip, protocol, ports, mark } => {
            to(&mut all, *vip, *protocol);
            if !ports.is_empty() {
                all.push(DESTINATION_PORT);
                set = in_set(&mut all, ports.iter().map(|it| it.to_be_bytes().to_vec()).collect());
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
        PacketRule::Guard(_) | PacketRule::Fragments(_) | PacketRule::Unknown(_) => {
            return Err(RuleError::Unknown(rule.to_string()));
        }
    }
    Ok(KernelRule { expressions: all, set })
}

/// What was loaded is one of `keys`; the set that is asked where they are several.
pub(super) fn in_set(all: &mut Vec<Expr>, keys: SetKeys) -> Option<SetKeys> {
    match keys.first() {
        Some(key) if keys.len() == 1 => {
            all.push(Expr::Equal(key.clone()));
            None
        }
        _ => {
            all.push(Expr::InSet { set: String::new(), id: 0 });
            Some(keys)
        }
    }
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

pub(super) fn port_is(all: &mut Vec<Expr>, port: u16) {
    all.extend([DESTINATION_PORT, Expr::Equal(port.to_be_bytes().to_vec())]);
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

pub(super) fn number(octets: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(octets).ok().map(u16::from_be_bytes)
}

/// The rule that the first of `found` in `chain` encode, and how many. `None` unless [`kernel_rules`] would write exactly
/// these.
pub fn recognise(chain: Chain, found: &[KernelRule]) -> Option<(PacketRule, usize)> {
    let first = found.first()?;
    let rule = match chain {
        Chain::Wrapped if first.expressions.contains(&Expr::LoadFragmentPlace) => {
            PacketRule::Fragments(fragments::candidate(found)?)
        }
        Chain::Wrapped => PacketRule::Guard(guard::candidate(found)?),
        _ => candidate(chain, first)?,
    };
    // The candidate comes from the variable expressions only: the constant ones are compared here.
    let own = kernel_rules(&rule).ok()?;
    found.starts_with(&own).then_some((rule, own.len()))
}

fn candidate(chain: Chain, found: &KernelRule) -> Option<PacketRule> {
    let KernelRule { expressions, set } = found;
    let [_, _, _, Expr::Equal(ip), _, Expr::Equal(protocol), rest @ ..] = expressions.as_slice()
    else {
        return None;
    };
    let ip = address(ip)?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|one| protocol.as_slice() == [protocol_number(*one)])?;
    let (ports, rest) = match rest {
        [load, Expr::Equal(port), rest @ ..] if *load == DESTINATION_PORT => {
            (BTreeSet::from([number(port)?]), rest)
        }
        [_, Expr::InSet { .. }, rest @ ..] => {
            (set.iter().flatten().map(|port| number(port)).collect::<Option<_>>()?, rest)
        }
        _ => (BTreeSet::new(), rest),
    };
    Some(match (chain, rest) {
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
    })
}
