//! Which route a packet takes on one host: policy rules, tables, the longest prefix, the lowest metric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

use super::machine::{Device, Machine};
use crate::names::IfName;
use crate::state::Scope;
use crate::state::routing::{LOCAL, PolicyRule, RouteEntry, RouteKind};

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

/// Whether a packet is one that a rule is for.
#[derive(PartialEq, Eq)]
enum Applies {
    Yes,
    No,
    /// The rule has selectors that are not known.
    Unclear,
}

fn applies(rule: &PolicyRule, flow: &Flow<'_>) -> Applies {
    if rule.ipv6 != flow.target.is_ipv6() {
        return Applies::No;
    }
    let within = |net: Option<IpNet>, address: Option<IpAddr>| match (net, address) {
        (None, _) => true,
        (Some(net), Some(address)) => net.contains(&address),
        (Some(net), None) => net.prefix_len() == 0,
    };
    let iif = match (&rule.iif, flow.iif) {
        (None, _) => true,
        (Some(wanted), Some(is)) => wanted == is,
        (Some(wanted), None) => wanted.as_str() == "lo",
    };
    let matches = within(rule.from, flow.source)
        && within(rule.to, Some(flow.target))
        && iif
        && (rule.oif.is_none() || rule.oif.as_ref() == flow.oif)
        && rule.mark.is_none_or(|(value, mask)| flow.mark & mask == value & mask);
    match (rule.unclear.is_empty(), matches, rule.invert) {
        (true, matches, invert) if matches != invert => Applies::Yes,
        // Selectors that are not known may make a match none.
        (false, true, _) | (false, _, true) => Applies::Unclear,
        _ => Applies::No,
    }
}

/// Stands for every route that is not known, as a rule on the way to it is not.
static BEHIND_UNCLEAR_RULE: LazyLock<RouteEntry> = LazyLock::new(|| of_rule(RouteKind::Unclear));

/// Stands for a rule that refuses: prohibit, unreachable, blackhole.
static REFUSED_BY_RULE: LazyLock<RouteEntry> = LazyLock::new(|| of_rule(RouteKind::Refuses));

fn of_rule(kind: RouteKind) -> RouteEntry {
    RouteEntry {
        table: LOCAL,
        destination: IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        kind,
        gateway: None,
        dev: None,
        metric: 0,
        source: None,
        mtu: None,
    }
}

impl Machine {
    /// The route of `flow`; `None`: there is none. A route that refuses is returned as it is, and so is one that is unclear.
    pub fn route(&self, flow: &Flow<'_>) -> Option<&RouteEntry> {
        for rule in &self.rules {
            match applies(rule, flow) {
                Applies::Yes => {}
                Applies::No => continue,
                Applies::Unclear => return Some(&BEHIND_UNCLEAR_RULE),
            }
            let Some(table) = rule.table else { return Some(&REFUSED_BY_RULE) };
            match self.in_table(table, flow) {
                None | Some(RouteEntry { kind: RouteKind::Throw, .. }) => {}
                // Not a route that refuses: net/core/fib_rules.c, `fib_rules_lookup`.
                Some(RouteEntry { destination, kind, .. })
                    if *kind != RouteKind::Refuses
                        && rule
                            .suppress_prefix
                            .is_some_and(|most| destination.prefix_len() <= most) => {}
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
            return route.source.or(Some(target));
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
