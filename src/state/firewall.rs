//! Rules of other programs, of nftables and iptables-legacy, as far as they decide whether a routed packet passes. Read, never changed.
//!
//! Of the families inet, ip and ip6 the tables that are in use (iptables-nft's among them) with their chains and sets. A rule is
//! the list of its expressions (include/uapi/linux/netfilter/nf_tables.h), which work on registers; [`crate::walk`] runs them.
//! What a rule of iptables-legacy asks is written as such expressions.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::IfName;
use crate::visible::hex;

/// The rules of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// Tables with a chain on one of the hooks of [`HookPoint`].
    pub tables: Vec<FilterTable>,
    /// The numbers of interfaces: rules may name them so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub indexes: BTreeMap<IfName, u32>,
}

impl Firewall {
    /// Whether no packet meets a rule.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// As a field of a message: readings of a host share its rules.
pub mod shared {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Firewall;

    /// Writes the rules.
    pub fn serialize<S: Serializer>(rules: &Arc<Firewall>, to: S) -> Result<S::Ok, S::Error> {
        rules.as_ref().serialize(to)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Firewall>, D::Error> {
        Firewall::deserialize(from).map(Arc::new)
    }

    /// Whether there are none.
    pub fn is_empty(rules: &Arc<Firewall>) -> bool {
        rules.is_empty()
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterTable {
    /// Which packets pass it.
    pub family: FilterFamily,
    /// Its name, fit for a terminal.
    pub name: String,
    /// Its chains.
    pub chains: Vec<FilterChain>,
    /// Its sets and maps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sets: BTreeMap<String, FilterSet>,
    /// Why its rules were not read; `None`: they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

impl FilterTable {
    /// A chain for people: `nftables chain inet filter input`, `iptables-legacy chain filter INPUT`.
    pub fn describe(&self, chain: &str) -> String {
        let Self { family, name, .. } = self;
        if family.is_legacy() {
            format!("{} chain {name} {chain}", family.program())
        } else {
            format!("nftables chain {family} {name} {chain}")
        }
    }

    /// The command that shows the rules of a chain.
    pub fn shown_by(&self, chain: &str) -> String {
        let Self { family, name, .. } = self;
        let program = family.program();
        if family.is_legacy() {
            format!("{program} -t {name} -vnL {chain} --line-numbers")
        } else {
            format!("{program} -a list chain {family} {name} {chain}")
        }
    }
}

/// Family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterFamily {
    /// Both.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// IPv4, and a table of xtables, not of nftables.
    Iptables,
    /// IPv6, likewise.
    Ip6tables,
}

impl FilterFamily {
    /// Whether its tables are of xtables.
    pub fn is_legacy(self) -> bool {
        matches!(self, Self::Iptables | Self::Ip6tables)
    }

    /// The program that shows its tables.
    pub fn program(self) -> &'static str {
        match self {
            Self::Inet | Self::Ip | Self::Ip6 => "nft",
            Self::Iptables => "iptables-legacy",
            Self::Ip6tables => "ip6tables-legacy",
        }
    }

    /// Whether packets of this family of IP pass its tables.
    pub fn has(self, ipv6: bool) -> bool {
        match self {
            Self::Inet => true,
            Self::Ip | Self::Iptables => !ipv6,
            Self::Ip6 | Self::Ip6tables => ipv6,
        }
    }
}

impl fmt::Display for FilterFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip | Self::Iptables => "ip",
            Self::Ip6 | Self::Ip6tables => "ip6",
        })
    }
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterChain {
    /// Its name, fit for a terminal.
    pub name: String,
    /// Present if it is a base chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<FilterBase>,
    /// Its rules, in order. Rules that only count or log are left out.
    pub rules: Vec<FilterRule>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterBase {
    /// Where it is asked.
    pub hook: HookPoint,
    /// Lower is earlier.
    pub priority: i32,
    /// Type nat: only the first packet of a connection passes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nat: bool,
    /// Its policy is drop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
}

/// A hook of routed packets (include/uapi/linux/netfilter.h, `enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// As it came in, before it is routed.
    Prerouting,
    /// For this host.
    Input,
    /// For another host.
    Forward,
    /// From this host.
    Output,
    /// As it leaves.
    Postrouting,
}

impl HookPoint {
    /// The hook with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// Unique within the table.
    pub handle: u64,
    /// Its expressions, in order.
    pub ops: Vec<FilterOp>,
}

/// An expression. Registers are counted in words of 4 bytes, from NFT_REG32_00 on: 0-15.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FilterOp {
    /// Loads something of the packet.
    Load {
        /// What.
        field: FilterField,
        /// The register.
        to: u8,
    },
    /// Loads a constant.
    Constant {
        /// The register.
        to: u8,
        /// Its bytes.
        value: Octets,
    },
    /// Goes on if the register compares so with the constant, byte by byte.
    Compare {
        /// The register.
        at: u8,
        /// How.
        how: Comparison,
        /// The constant.
        with: Octets,
    },
    /// Goes on if the register lies in the range, both ends included.
    Range {
        /// The register.
        at: u8,
        /// If it does not.
        negated: bool,
        /// First.
        from: Octets,
        /// Last.
        to: Octets,
    },
    /// Copies a register, masked, and with these bits turned.
    Mask {
        /// The register that is read.
        from: u8,
        /// The register that is written.
        to: u8,
        /// Bits that are kept.
        mask: Octets,
        /// Bits that are turned after that.
        xor: Octets,
    },
    /// Copies a register between network order and the host's.
    Swap {
        /// The register that is read.
        from: u8,
        /// The register that is written.
        to: u8,
        /// Bytes of each number: 2, 4 or 8.
        size: u8,
        /// Bytes of all.
        length: u8,
    },
    /// Goes on if the register is in a set, and does or loads what a map has for it.
    Lookup {
        /// The register.
        at: u8,
        /// The set's name.
        set: String,
        /// If it is not.
        negated: bool,
        /// What a map has.
        gives: MapResult,
    },
    /// Ends the rule with a verdict.
    Verdict(RuleVerdict),
    /// xtables: goes on if a port is in one of the ranges.
    Ports {
        /// Of the source.
        source: bool,
        /// Of the destination.
        target: bool,
        /// First and last.
        ranges: Vec<(u16, u16)>,
        /// If none is.
        negated: bool,
    },
    /// xtables: goes on if the state of the connection is one of these bits ([`FilterField::State`]).
    States {
        /// The bits.
        bits: u32,
        /// If it is not.
        negated: bool,
    },
    /// xtables: goes on if these flags of TCP have this value.
    TcpFlags {
        /// Which flags.
        mask: u8,
        /// Those that are set.
        value: u8,
        /// If they have not.
        negated: bool,
    },
    /// Sets the packet's mark to the register.
    SetMark {
        /// The register; `None`: to what is not known.
        from: Option<u8>,
    },
    /// Takes the packet out of connection tracking.
    Untrack,
    /// Changes where the packet comes from or goes to, by the expression of this name.
    Alter(String),
    /// Asks for something that lvsprov does not read: the expression's name.
    Unread(String),
}

/// What a map has for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapResult {
    /// It is a set.
    Nothing,
    /// A verdict.
    Verdict,
    /// A value for this register.
    Value(u8),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Something of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterField {
    /// The number of the interface where it came in.
    InNumber,
    /// That of the interface by which it leaves.
    OutNumber,
    /// The name of the interface where it came in, 16 bytes.
    InName,
    /// That of the interface by which it leaves.
    OutName,
    /// Its mark.
    Mark,
    /// NFPROTO_IPV4 or NFPROTO_IPV6, one byte.
    Family,
    /// The EtherType, two bytes.
    EtherType,
    /// The transport protocol, one byte.
    Protocol,
    /// Bytes of the IP header.
    Network {
        /// Offset.
        offset: u8,
        /// Length.
        length: u8,
    },
    /// Bytes of the transport header.
    Transport {
        /// Offset.
        offset: u8,
        /// Length.
        length: u8,
    },
    /// The state of its connection: 1 invalid, 2 established, 4 related, 8 new, 64 untracked (`NF_CT_STATE_BIT`).
    State,
}

/// How a rule ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleVerdict {
    /// The packet passes this base chain.
    Accept,
    /// The packet is dropped, or refused with a message.
    Drop,
    /// The chain is asked, then the next rule.
    Jump(String),
    /// The chain is asked in the place of this one.
    Goto(String),
    /// The rest of the chain is skipped.
    Return,
    /// The next rule.
    Continue,
    /// Something else: a program decides.
    Other(String),
}

/// A set or a map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSet {
    /// Bytes of a key.
    pub length: u8,
    /// Elements mark where intervals begin and end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interval: bool,
    /// Lengths of the fields of a key, each padded to words; empty: it is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<u8>,
    /// Its elements.
    pub elements: Vec<SetElement>,
    /// Why it cannot be asked: packets change it, or it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// An element of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetElement {
    /// Its key; `None`: everything that no other element has.
    pub key: Option<Octets>,
    /// Of a range of fields: its last key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Octets>,
    /// An interval ends before this key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
    /// What a map has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<MapValue>,
}

/// What a map has for a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapValue {
    /// A verdict.
    Verdict(RuleVerdict),
    /// A value.
    Value(Octets),
}

/// Bytes, in JSON as hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Octets(pub Vec<u8>);

impl From<Octets> for String {
    fn from(Octets(bytes): Octets) -> Self {
        hex(&bytes)
    }
}

impl TryFrom<String> for Octets {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        let bytes: Option<Vec<u8>> = bytes.collect();
        bytes
            .filter(|_| rest.is_empty())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no even number of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_are_hexadecimal_digits_in_json() {
        let octets = Octets(vec![0, 1, 0xab, 0xff]);
        let text = serde_json::to_string(&octets).unwrap();
        assert_eq!(text, "\"0001abff\"");
        assert_eq!(serde_json::from_str::<Octets>(&text).unwrap(), octets);
        for wrong in ["\"0\"", "\"0g\"", "\"äb\""] {
            assert!(serde_json::from_str::<Octets>(wrong).is_err(), "{wrong}");
        }
    }
}
