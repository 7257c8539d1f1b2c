//! Which route a packet takes on one host: policy rules, tables, the longest prefix, the lowest metric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::machine::{Device, Machine};
use crate::names::IfName;
use crate::state::Scope;

/// `RT_TABLE_LOCAL`.
pub const LOCAL: u32 = 255;
/// `RT_TABLE_MAIN`.
pub const MAIN: u32 = 254;
/// `RT_TABLE_DEFAULT`.
pub const DEFAULT: u32 = 253;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it here.
    Local,
    /// Drops it, with or without an ICMP message (blackhole, unreachable, prohibit).
    Refuses,
    /// Goes on with the next rule.
    Throw,
}

/// All routes of a host, by table and destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    by_destination: BTreeMap<(u32, IpNet), Vec<RouteEntry>>,
    /// The prefix lengths in use, of each table and family.
    lengths: BTreeMap<(u32, bool), BTreeSet<u8>>,
}

impl Routes {
    /// Adds a route.
    pub fn add(&mut self, route: RouteEntry) {
        let (table, destination) = (route.table, route.destination.trunc());
        let lengths = self.lengths.entry((table, destination.addr().is_ipv6())).or_default();
        lengths.insert(destination.prefix_len());
        self.by_destination.entry((table, destination)).or_default().push(route);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RouteEntry> {
        self.by_destination.values().flatten()
    }

    /// The routes of `table` whose destination has `target`, the longest prefix first.
    fn towards(&self, table: u32, target: IpAddr) -> impl Iterator<Item = &[RouteEntry]> {
        let lengths = self.lengths.get(&(table, target.is_ipv6())).into_iter().flatten().rev();
        lengths.filter_map(move |length| {
            let net = IpNet::new(target, *length).ok()?.trunc();
            self.by_destination.get(&(table, net)).map(Vec::as_slice)
        })
    }

    /// Whether `address` is one of the host's own.
    pub fn has_local(&self, address: IpAddr) -> bool {
        let own = self.by_destination.get(&(LOCAL, IpNet::from(address)));
        own.is_some_and(|routes| routes.iter().any(|route| route.kind == RouteKind::Local))
    }
}

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// The lowest number is asked first.
    pub priority: u32,
    /// Family: IPv6?
    pub ipv6: bool,
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
}

/// The rules of a host without policy rules of its own (net/ipv4/fib_rules.c, `fib_default_rules_init`).
pub fn default_rules() -> Vec<PolicyRule> {
    let rule = |priority, ipv6, table| PolicyRule {
        priority,
        ipv6,
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        table: Some(table),
    };
    let v4 = [(0, LOCAL), (32766, MAIN), (32767, DEFAULT)];
    let v6 = [(0, LOCAL), (32766, MAIN)];
    v4.map(|(priority, table)| rule(priority, false, table))
        .into_iter()
        .chain(v6.map(|(priority, table)| rule(priority, true, table)))
        .collect()
}

/// What is asked of the routes.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// Source, as far as it is known.
    pub source: Option<IpAddr>,
    /// Destination.
    pub target: IpAddr,
    /// The device where it came in; `None`: the host sends it itself.
    pub iif: Option<&'a IfName>,
    /// The device by which it must leave.
    pub oif: Option<&'a IfName>,
    /// Firewall mark.
    pub mark: u32,
}

impl PolicyRule {
    fn applies(&self, flow: &Flow<'_>) -> bool {
        let within = |net: Option<IpNet>, address: Option<IpAddr>| match (net, address) {
            (None, _) => true,
            (Some(net), Some(address)) => net.contains(&address),
            (Some(net), None) => net.prefix_len() == 0,
        };
        let iif = match (&self.iif, flow.iif) {
            (None, _) => true,
            (Some(wanted), Some(is)) => wanted == is,
            (Some(wanted), None) => wanted.as_str() == "lo",
        };
        self.ipv6 == flow.target.is_ipv6()
            && within(self.from, flow.source)
            && within(self.to, Some(flow.target))
            && iif
            && (self.oif.is_none() || self.oif.as_ref() == flow.oif)
            && self.mark.is_none_or(|(value, mask)| flow.mark & mask == value & mask)
    }
}

impl Machine {
    /// The route of `flow`; `None`: there is none. A route that refuses is returned as it is.
    pub fn route(&self, flow: &Flow<'_>) -> Option<&RouteEntry> {
        for rule in self.rules.iter().filter(|rule| rule.applies(flow)) {
            match self.in_table(rule.table?, flow) {
                None | Some(RouteEntry { kind: RouteKind::Throw, .. }) => {}
                found => return found,
            }
        }
        None
    }

    /// The longest prefix with a usable route, and of its routes the one with the lowest metric, the first of equals.
    fn in_table(&self, table: u32, flow: &Flow<'_>) -> Option<&RouteEntry> {
        let fits = |route: &&RouteEntry| {
            let asked = flow.oif.is_none() || route.dev.as_ref() == flow.oif;
            route.kind != RouteKind::Unicast || asked && self.is_usable(route)
        };
        self.routes
            .towards(table, flow.target)
            .find_map(|routes| routes.iter().filter(fits).min_by_key(|route| route.metric))
    }

    /// Routes over a device that is down are dead (net/ipv4/fib_semantics.c, `fib_sync_down_dev`).
    fn is_usable(&self, route: &RouteEntry) -> bool {
        route.dev.as_ref().and_then(|dev| self.devices.get(dev)).is_some_and(|device| device.up)
    }

    /// The source of what the host itself sends by `route` to `target`.
    pub fn source_for(&self, route: &RouteEntry, target: IpAddr) -> Option<IpAddr> {
        if route.kind == RouteKind::Local {
            return Some(target);
        }
        if route.source.is_some() {
            return route.source;
        }
        let near = route.gateway.unwrap_or(target);
        let own = self.devices.get(route.dev.as_ref()?)?;
        source_on(own, near).or_else(|| {
            self.devices
                .values()
                .filter(|device| device.up)
                .find_map(|device| source_on(device, near))
        })
    }
}

/// IPv4: the address whose subnet has `near`, else the first (net/ipv4/devinet.c, `inet_select_addr`).
/// IPv6: the one with the longest common prefix that is not deprecated (RFC 6724, rules 3 and 8).
fn source_on(device: &Device, near: IpAddr) -> Option<IpAddr> {
    let ipv6 = near.is_ipv6();
    let usable = |own: &&super::machine::DeviceAddress| own.scope.number() < Scope::Host.number();
    if ipv6 {
        let best = device.of_family(true).filter(usable).max_by_key(|own| {
            (!own.deprecated, common_prefix(own.net.addr(), near).min(own.net.prefix_len()))
        });
        return best.map(|own| own.net.addr());
    }
    let usable: Vec<_> = device.of_family(false).filter(usable).collect();
    let fitting = usable.iter().find(|own| own.net.contains(&near));
    fitting.or(usable.first()).map(|own| own.net.addr())
}

/// How many leading bits two IPv6 addresses share.
fn common_prefix(a: IpAddr, b: IpAddr) -> u8 {
    match (a, b) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            u8::try_from((a.to_bits() ^ b.to_bits()).leading_zeros()).unwrap_or(128)
        }
        _ => 0,
    }
}
