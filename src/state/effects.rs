//! What the kernel changes along with an edit, written once: planner, simulator, journal and observer ask here.
//!
//! - Writing `ip_forward` writes `accept_redirects` of `all` and `forwarding` of `default` and of every
//!   interface (net/ipv4/devinet.c, `inet_forward_change`); IPv6's own writes every other `forwarding` of
//!   IPv6 (net/ipv6/addrconf.c, `addrconf_fixup_forwarding`). Such a setting is a *leader* here.
//! - A module brings its device and, with `ip_vs`, settings and timeouts.
//! - A device comes down and with the values of `conf.default`; everything on it goes with it.
//! - Addresses are lost with another of their subnet, or as their interface goes down. The agent puts them
//!   back at once, but may be killed before.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    Address, AddressKey, Conf6Item, ConfDev, ConfItem, Edit, HostState, Item, KeyedEdit, Link,
    Module, Owned, Scope, Sysctl, Timeouts, VsItem,
};
use crate::names::IfName;

/// Settings whose writing moves others.
pub const LEADERS: [Sysctl; 2] = [Sysctl::IpForward, Sysctl::Ip6Forward];

/// One thing that the kernel does along with an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    /// A setting gets another value.
    Moved(Sysctl, String),
    /// An interface appears, down and with the values of `conf.default`.
    Device(IfName),
    /// A setting comes with a module, with this value.
    Brought(Sysctl, String),
    /// The timeouts of IPVS come with its module.
    Timeouts,
    /// An item goes away.
    Gone(Item),
    /// An address is lost, and the agent puts it back.
    Interrupted(AddressKey),
}

/// Does in `state` what the kernel does along with `edit`, which is not done there yet.
pub fn carry_along(edit: &Edit, state: &mut HostState) {
    for effect in effects(edit, state) {
        match effect {
            Effect::Moved(key, value) => drop(state.sysctls.insert(key, value)),
            Effect::Device(dev) => device_appears(state, dev),
            Effect::Brought(key, value) => drop(state.sysctls.entry(key).or_insert(value)),
            Effect::Timeouts => drop(state.timeouts.get_or_insert_with(Timeouts::default)),
            Effect::Gone(item) => state.copy_item(&item, &HostState::default()),
            Effect::Interrupted(_) => {}
        }
    }
}

/// The items of `state` that change along with `edit`, or are lost for a moment. Not what comes with a
/// module or a device: that goes with it, or stays with it.
pub fn moved_by(edit: &Edit, state: &HostState) -> Owned {
    let item = |effect| match effect {
        Effect::Moved(key, _) => (!is_alias(&key)).then_some(Item::Sysctl(key)),
        Effect::Gone(item) => Some(item),
        Effect::Interrupted(key) => Some(Item::Address(key)),
        Effect::Device(_) | Effect::Brought(..) | Effect::Timeouts => None,
    };
    effects(edit, state).into_iter().filter_map(item).collect()
}

/// The settings of `state` that move when `leader` is written, with their values; none for most.
pub fn led_by(leader: &Sysctl, state: &HostState) -> BTreeMap<Sysctl, String> {
    if !LEADERS.contains(leader) {
        return BTreeMap::new();
    }
    let led = |key: &Sysctl| !is_alias(key) && led_value(leader, "", key).is_some();
    let led = state.sysctls.iter().filter(|(key, _)| led(key));
    led.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The settings that move when one of `written` is, on a host with these interfaces: a plan must know them.
pub fn led_on<'a>(
    written: &BTreeSet<Sysctl>,
    interfaces: impl Iterator<Item = &'a IfName>,
) -> BTreeSet<Sysctl> {
    let leaders: Vec<_> = LEADERS.iter().filter(|leader| written.contains(leader)).collect();
    if leaders.is_empty() {
        return BTreeSet::new();
    }
    let interfaces = interfaces.map(|dev| ConfDev::Dev(dev.clone()));
    let of = |dev: ConfDev| {
        let v4 = ConfItem::ALL.iter().map(|item| Sysctl::Conf(dev.clone(), *item));
        let v6 = Conf6Item::ALL.iter().map(|item| Sysctl::Conf6(dev.clone(), *item));
        v4.chain(v6).collect::<Vec<_>>()
    };
    let all = [ConfDev::All, ConfDev::Default].into_iter().chain(interfaces).flat_map(of);
    all.filter(|key| leaders.iter().any(|leader| led_value(leader, "", key).is_some())).collect()
}

/// The setting whose value `key` has on a new interface; `None`: it is not one of an interface.
pub fn inherited_from(key: &Sysctl) -> Option<Sysctl> {
    key.device()?;
    key.of_dev(ConfDev::Default)
}

fn effects(edit: &Edit, state: &HostState) -> Vec<Effect> {
    match edit {
        Edit::Module(KeyedEdit { key, after: Some(_), .. }) => comes_with(*key),
        Edit::Sysctl(KeyedEdit { key, before, after: Some(value) })
            if LEADERS.contains(key) && before.as_ref() != Some(value) =>
        {
            let moved =
                |led: &Sysctl| Some(Effect::Moved(led.clone(), led_value(key, value, led)?));
            state.sysctls.keys().filter_map(moved).collect()
        }
        Edit::Link(KeyedEdit { key, after: Some(Link::Down), .. }) => lost_on_down(key, state),
        Edit::Address(KeyedEdit { key, after: None, .. }) => lost_with_address(key, state),
        Edit::Tunnel(KeyedEdit { key, before: None, .. }) => vec![Effect::Device(key.clone())],
        Edit::Tunnel(KeyedEdit { key, after: None, .. }) => {
            let on_it = state.items().into_iter().filter(|item| stands_on(item, key, state));
            on_it.map(Effect::Gone).collect()
        }
        _ => Vec::new(),
    }
}

/// The value that `key` gets as `leader` is written with `value`; `None`: it stays.
fn led_value(leader: &Sysctl, value: &str, key: &Sysctl) -> Option<String> {
    match (leader, key) {
        (Sysctl::IpForward, Sysctl::Conf(_, ConfItem::Forwarding))
        | (
            Sysctl::Ip6Forward,
            Sysctl::Conf6(ConfDev::Default | ConfDev::Dev(_), Conf6Item::Forwarding),
        ) => Some(value.to_owned()),
        (Sysctl::IpForward, Sysctl::Conf(ConfDev::All, ConfItem::AcceptRedirects)) => {
            Some(if value == "0" { "1" } else { "0" }.to_owned())
        }
        _ => None,
    }
}

/// Whether it is another name of a leader: it is never put back by itself.
fn is_alias(key: &Sysctl) -> bool {
    *key == Sysctl::all(ConfItem::Forwarding)
}

fn comes_with(module: Module) -> Vec<Effect> {
    let mut all: Vec<_> =
        module.device().and_then(|dev| dev.parse().ok()).map(Effect::Device).into_iter().collect();
    if module == Module::IpVs {
        all.push(Effect::Timeouts);
        all.extend(VsItem::ALL.iter().filter_map(|item| {
            Some(Effect::Brought(Sysctl::Vs(*item), item.default_value()?.to_owned()))
        }));
    }
    all
}

fn device_appears(state: &mut HostState, dev: IfName) {
    let of_dev = |(key, value): (&Sysctl, &String)| {
        let is_default = key.conf_dev() == Some(&ConfDev::Default);
        let own = key.of_dev(ConfDev::Dev(dev.clone())).filter(|_| is_default)?;
        Some((own, value.clone()))
    };
    let inherited: Vec<_> = state.sysctls.iter().filter_map(of_dev).collect();
    for (key, value) in inherited {
        state.sysctls.entry(key).or_insert(value);
    }
    state.links.entry(dev).or_insert(Link::Down);
}

/// Whether `item` goes away with the device `dev`, of which the tunnel itself is no part.
fn stands_on(item: &Item, dev: &IfName, state: &HostState) -> bool {
    match item {
        Item::Link(link) => link == dev,
        Item::Address(key) => key.dev == *dev,
        Item::Route(key) => {
            state.routes.get(key).is_some_and(|route| route.dev.as_ref() == Some(dev))
        }
        Item::Sysctl(key) => key.device() == Some(dev),
        _ => false,
    }
}

/// The other IPv4 addresses of its subnet on its interface: with the first of them the kernel removes the
/// others, unless `promote_secondaries` is set (net/ipv4/devinet.c, `__inet_del_ifa`).
fn lost_with_address(removed: &AddressKey, state: &HostState) -> Vec<Effect> {
    let along = |key: &&AddressKey| {
        *key != removed
            && key.net.addr().is_ipv4()
            && key.dev == removed.dev
            && key.net.trunc() == removed.net.trunc()
    };
    state.addresses.keys().filter(along).cloned().map(Effect::Interrupted).collect()
}

/// The IPv6 addresses of an interface that goes down, unless `keep_addr_on_down` is set
/// (net/ipv6/addrconf.c, `addrconf_ifdown`). Not those that come back by themselves as it comes up: of the
/// link, and what sit0 makes of each IPv4 address (`sit_add_v4_addrs`).
fn lost_on_down(dev: &IfName, state: &HostState) -> Vec<Effect> {
    let comes_with_sit0 = |net: &IpNet| match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.prefix_len() == 96 && net.addr().octets().starts_with(&[0; 12]),
    };
    let lost = |(key, address): &(&AddressKey, &Address)| {
        key.dev == *dev
            && key.net.addr().is_ipv6()
            && address.scope != Scope::Link
            && !comes_with_sit0(&key.net)
    };
    let lost = state.addresses.iter().filter(lost);
    lost.map(|(key, _)| Effect::Interrupted(key.clone())).collect()
}
