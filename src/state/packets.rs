//! Firewall marks, source NAT, MSS clamping and who may wrap packets, as a [`super::HostState`] has them: the rules of an
//! nftables table of our own. Other tables are not read.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::edit::{JsonNames, KeyedEdit, SettingKind, Verbs, in_map};
use super::tunnel_guard::{FragmentGuard, TunnelGuard};
use crate::names::TopologyName;
use crate::state::Protocol;

/// Names a table of family `inet` that lvsprov made: `lvsprov-` and the topology's name. So two
/// topologies on one host do not meet, and tables of other programs have other names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName(TopologyName);

impl TableName {
    /// What a table's name begins with if it is ours.
    pub const PREFIX: &str = "lvsprov-";

    /// The table of `topology`.
    pub fn of(topology: &TopologyName) -> Self {
        Self(topology.clone())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

impl FromStr for TableName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text
            .strip_prefix(Self::PREFIX)
            .ok_or_else(|| format!("{text:?} is no table of lvsprov: {}TOPOLOGY", Self::PREFIX))?;
        Ok(Self(name.parse().map_err(|error| format!("{text:?}: {error}"))?))
    }
}

super::ipvs::text_form!(TableName);

/// What a table of ours does with packets. Replaced as a whole, in one transaction of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketRules {
    /// In their order, without doubles; canonical: sorted.
    pub rules: BTreeSet<PacketRule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketRule {
    /// Packets to a VIP get a firewall mark as they come in (hook prerouting, priority mangle), and
    /// so belong to the firewall-mark service.
    Mark {
        /// The destination address.
        vip: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// Destination ports, 1-65535; empty: all.
        ports: BTreeSet<u16>,
        /// 1-4294967295.
        mark: u32,
    },
    /// FULLNAT: what IPVS sends to a real server gets the director's own address as its source (hook
    /// postrouting, priority srcnat), so that replies come back to it. Works with
    /// `net.ipv4.vs.conntrack=1` only.
    Masquerade {
        /// The address that the connection was made to; `None`: whatever it was.
        vip: Option<IpAddr>,
        /// Where it goes.
        rip: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// The real server's port, 1-65535; 0: all.
        port: u16,
    },
    /// SYN and SYN-ACK segments that leave with this source say a smaller maximum segment size (hook
    /// output, priority mangle), so that requests fit into the tunnel.
    ClampMss {
        /// The source address: the VIP.
        source: IpAddr,
        /// Bytes of payload, 536-65495. The kernel only ever makes it smaller.
        mss: u16,
    },
    /// Wrapped packets are taken from the directors only (hook input, priority mangle).
    Guard(TunnelGuard),
    /// The same for fragments of IPv6 that guards cannot look into.
    Fragments(FragmentGuard),
    /// A rule in our table that another program put there. Never wanted.
    Unknown(
        /// Chain and handle, for a person.
        String,
    ),
}

impl fmt::Display for PacketRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark { vip, protocol, ports, mark } => {
                write!(f, "mark {protocol} to {vip}")?;
                if !ports.is_empty() {
                    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                    write!(f, " port {}", ports.join(","))?;
                }
                write!(f, " with {mark}")
            }
            Self::Masquerade { vip, rip, protocol, port } => {
                write!(f, "source NAT {protocol} to {rip}")?;
                if *port != 0 {
                    write!(f, " port {port}")?;
                }
                match vip {
                    Some(vip) => write!(f, " for {vip}"),
                    None => Ok(()),
                }
            }
            Self::ClampMss { source, mss } => write!(f, "MSS of {source} at most {mss}"),
            Self::Guard(guard) => guard.fmt(f),
            Self::Fragments(guard) => guard.fmt(f),
            Self::Unknown(text) => write!(f, "something else: {text}"),
        }
    }
}

impl fmt::Display for PacketRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<_> = self.rules.iter().map(ToString::to_string).collect();
        f.write_str(&rules.join("; "))
    }
}

impl SettingKind for PacketRules {
    type Key = TableName;
    type Value = Self;
    const VERBS: Verbs = Verbs { change: Some("replace"), ..Verbs::ADDED_CHANGED_REMOVED };
    const JSON: JsonNames = JsonNames { tags: ["set_table"; 3], key: "name", value: "" };
    in_map!(tables, Table);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, name) = (edit.verb_text(), &edit.key);
        match (&edit.before, &edit.after) {
            (Some(before), Some(after)) => {
                write!(f, "{verb} nftables table {name}: {before} -> {after}")
            }
            (None, Some(after)) => write!(f, "{verb} nftables table {name} ({after})"),
            (_, None) => write!(f, "{verb} nftables table {name}"),
        }
    }
}
