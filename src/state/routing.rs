//! Policy rules and routes as the kernel's routing has them. lvsprov changes none of this but routes of the main table
//! ([`super::Route`]); the rest it reads, to know which way a packet takes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::IfName;

/// `RT_TABLE_LOCAL`.
pub const LOCAL: u32 = 255;
/// `RT_TABLE_MAIN`.
pub const MAIN: u32 = 254;
/// `RT_TABLE_DEFAULT`.
pub const DEFAULT: u32 = 253;

/// What decides ways on a host beside the main table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// Policy rules, in the order in which the kernel asks them. A host has at least [`default_rules`]; empty: they
    /// were not read.
    pub rules: Vec<PolicyRule>,
    /// Routes of all other tables, without those that the kernel makes of an address; and of the main table
    /// the routes that are not plain: they refuse, or their way is not followed ([`RouteKind::Unclear`]).
    pub routes: Vec<RouteEntry>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// Its table.
    pub table: u32,
    /// Where it leads to.
    pub destination: IpNet,
    /// What it does.
    pub kind: RouteKind,
    /// Next hop; `None`: the destination is on-link.
    pub gateway: Option<IpAddr>,
    /// Outgoing device.
    pub dev: Option<IfName>,
    /// The lowest wins.
    pub metric: u32,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Its own MTU (RTAX_MTU), which goes before that of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it here.
    Local,
    /// Drops it, with or without an ICMP message (blackhole, unreachable, prohibit).
    Refuses,
    /// Goes on with the next rule.
    Throw,
    /// Something that the walk does not follow: several next hops, a lightweight tunnel, a source prefix.
    Unclear,
}

/// A policy rule (ip-rule(8)). Rules that do nothing (nop) are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// The lowest number is asked first.
    pub priority: u32,
    /// Family: IPv6?
    pub ipv6: bool,
    /// It applies to what does not match.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
    /// Source prefix.
    pub from: Option<IpNet>,
    /// Destination prefix.
    pub to: Option<IpNet>,
    /// Incoming device; `lo` for what the host sends itself.
    pub iif: Option<IfName>,
    /// Outgoing device that is asked for.
    pub oif: Option<IfName>,
    /// Firewall mark and mask.
    pub mark: Option<(u32, u32)>,
    /// The table that is asked; `None`: the packet is refused.
    pub table: Option<u32>,
    /// Routes of the table whose prefix is not longer than this are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_prefix: Option<u8>,
    /// Selectors and actions that the walk does not know, as ip-rule(8) writes them: where this rule would be asked, the
    /// way is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unclear: Vec<String>,
}

impl PolicyRule {
    /// A rule for all packets of a family.
    pub fn plain(priority: u32, ipv6: bool, table: u32) -> Self {
        Self {
            priority,
            ipv6,
            invert: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: None,
            table: Some(table),
            suppress_prefix: None,
            unclear: Vec::new(),
        }
    }
}

/// The rules of a host without policy rules of its own (net/ipv4/fib_rules.c, `fib_default_rules_init`; net/ipv6/fib6_rules.c,
/// `fib6_rules_net_init`).
pub fn default_rules() -> Vec<PolicyRule> {
    let v4 = [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)];
    let v6 = [(0, LOCAL), (32766, MAIN)];
    v4.map(|(priority, table)| PolicyRule::plain(priority, false, table))
        .into_iter()
        .chain(v6.map(|(priority, table)| PolicyRule::plain(priority, true, table)))
        .collect()
}
