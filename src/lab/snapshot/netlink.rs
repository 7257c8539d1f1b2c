//! Links, addresses, routes and rules of the calling thread's namespace, in words.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use futures_util::{Stream, TryStreamExt as _};
use netlink_packet_core::Nla as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use super::{Snapshot, add};
use crate::lab::LabError;
use crate::lab::network::{Mac, with_rtnetlink};

/// Interface names by index.
type Names = BTreeMap<u32, String>;

/// Looks at the calling thread's namespace.
pub(super) fn look() -> Result<Snapshot, LabError> {
    with_rtnetlink(async |handle| dump(&handle).await)
}

async fn dump(handle: &Handle) -> Result<Snapshot, LabError> {
    let mut seen = Snapshot::new();
    let links = all("links", handle.link().get().execute()).await?;
    let names: Names = links.iter().map(|link| (link.header.index, name_of_link(link))).collect();
    for link in &links {
        tell_link(link, &names, &mut seen);
    }
    for address in all("addresses", handle.address().get().execute()).await? {
        tell_address(&address, &names, &mut seen);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        for route in all("routes", handle.route().get(wanted).execute()).await? {
            tell_route(&route, &names, &mut seen);
        }
    }
    for (version, family) in [(IpVersion::V4, "ipv4"), (IpVersion::V6, "ipv6")] {
        for rule in all("rules", handle.rule().get(version).execute()).await? {
            tell_rule(&rule, family, &mut seen);
        }
    }
    Ok(seen)
}

async fn all<T>(
    what: &str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, LabError> {
    match dump.try_collect().await {
        Ok(all) => Ok(all),
        // A kernel without IPv6 or without rules has none.
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(-error.raw_code(), nix::libc::EOPNOTSUPP | nix::libc::EAFNOSUPPORT) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(LabError::netlink(format!("list {what}"))(error)),
    }
}

fn name_of_link(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn name_of(names: &Names, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| "an unknown interface".to_owned())
}

fn tell_link(link: &LinkMessage, names: &Names, seen: &mut Snapshot) {
    let up = link.header.flags.contains(LinkFlags::Up);
    let mut words = vec![if up { "up" } else { "down" }.to_owned()];
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => words.push(format!("mtu {mtu}")),
            LinkAttribute::Address(bytes) => words.push(match bytes.as_slice().try_into() {
                Ok(mac) => format!("mac {}", Mac(mac)),
                Err(_) => format!("address {bytes:?}"),
            }),
            LinkAttribute::Controller(index) => {
                words.push(format!("part of {}", name_of(names, *index)));
            }
            LinkAttribute::TxQueueLen(length) => words.push(format!("queue {length}")),
            LinkAttribute::Group(group) => words.push(format!("group {group:?}")),
            LinkAttribute::LinkInfo(infos) => words.extend(infos.iter().filter_map(tell_info)),
            _ => {}
        }
    }
    seen.insert(format!("link {}", name_of_link(link)), words.join(" "));
}

fn tell_info(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(format!("kind {kind}")),
        // The ends of a tunnel are settings. Other kinds' data holds timers and counts.
        LinkInfo::Data(InfoData::IpTunnel(ends)) => Some(tell(ends)),
        LinkInfo::Data(InfoData::GreTun(ends) | InfoData::GreTap(ends)) => Some(tell(ends)),
        LinkInfo::Data(InfoData::GreTun6(ends) | InfoData::GreTap6(ends)) => Some(tell(ends)),
        _ => None,
    }
}

/// What the kernel adds and removes by itself, after duplicate address detection and with the link.
fn comes_by_itself(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

fn tell_address(message: &AddressMessage, names: &Names, seen: &mut Snapshot) {
    let header = &message.header;
    let mut address = None;
    let mut local = None;
    let mut words = vec![format!("scope {:?}", header.scope)];
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::CacheInfo(_) => {}
            AddressAttribute::Label(label) => words.push(format!("label {label}")),
            AddressAttribute::Broadcast(ip) => words.push(format!("broadcast {ip}")),
            AddressAttribute::Flags(flags) => {
                // Whether duplicate address detection is through yet.
                let passing = AddressFlags::Tentative | AddressFlags::Optimistic;
                words.push(tell(&flags.difference(passing)));
            }
            other => words.push(tell(other)),
        }
    }
    // On a point-to-point link, IFA_ADDRESS is the other end's (include/uapi/linux/if_addr.h).
    let Some(own) = local.or(address) else { return };
    if comes_by_itself(own) {
        return;
    }
    if let Some(peer) = address.filter(|peer| *peer != own) {
        words.push(format!("peer {peer}"));
    }
    let name = name_of(names, header.index);
    add(seen, format!("address {own}/{} on {name}", header.prefix_len), words.join(" "));
}

fn tell_route(route: &RouteMessage, names: &Names, seen: &mut Snapshot) {
    let header = &route.header;
    let mut table = u32::from(header.table);
    let mut destination = None;
    let mut words = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = Some(address.clone()),
            RouteAttribute::Source(address) => {
                let length = header.source_prefix_length;
                words.push(format!("from {}/{length}", tell_ip(address)));
            }
            RouteAttribute::CacheInfo(_)
            | RouteAttribute::Expires(_)
            | RouteAttribute::MulticastExpires(_)
            | RouteAttribute::MfcStats(_) => {}
            RouteAttribute::MultiPath(hops) => {
                words.extend(hops.iter().map(|hop| tell_hop(hop, names)));
            }
            other => words.push(tell_route_attribute(other, names)),
        }
    }
    let kernels = header.protocol == RouteProtocol::Kernel;
    if let Some(RouteAddress::Inet6(address)) = destination
        && kernels
        && comes_by_itself(address.into())
    {
        return;
    }
    words.sort();
    let flags = header.flags & (RouteFlags::Onlink | RouteFlags::Pervasive);
    if !flags.is_empty() {
        words.push(tell(&flags));
    }
    if header.tos != 0 {
        words.push(format!("tos {}", header.tos));
    }
    let (kind, protocol, scope) = (header.kind, header.protocol, header.scope);
    let value = format!("{kind:?} {} protocol {protocol} scope {scope}", words.join(" "));
    let destination = match destination {
        Some(address) => {
            format!("{}/{}", tell_ip(&address), header.destination_prefix_length)
        }
        None if header.address_family == AddressFamily::Inet6 => "default6".to_owned(),
        None => "default".to_owned(),
    };
    add(seen, format!("route {} {destination}", name_of_table(table)), value);
}

fn tell_hop(hop: &RouteNextHop, names: &Names) -> String {
    let mut words =
        vec![format!("[dev {} weight {}", name_of(names, hop.interface_index), hop.hops)];
    words.extend(hop.attributes.iter().map(|attribute| tell_route_attribute(attribute, names)));
    let flags = hop.flags & (RouteNextHopFlags::Onlink | RouteNextHopFlags::Pervasive);
    words.push(format!("{flags}]"));
    words.join(" ")
}

fn tell_route_attribute(attribute: &RouteAttribute, names: &Names) -> String {
    match attribute {
        RouteAttribute::Oif(index) => format!("dev {}", name_of(names, *index)),
        RouteAttribute::Iif(index) => format!("from dev {}", name_of(names, *index)),
        RouteAttribute::Gateway(address) => format!("via {}", tell_ip(address)),
        RouteAttribute::PrefSource(address) => format!("source {}", tell_ip(address)),
        RouteAttribute::Priority(metric) => format!("metric {metric}"),
        other => tell(other),
    }
}

fn tell_ip(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(address) => address.to_string(),
        RouteAddress::Inet6(address) => address.to_string(),
        other => tell(other),
    }
}

/// RT_TABLE_* of include/uapi/linux/rtnetlink.h.
fn name_of_table(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => format!("table {other}"),
    }
}

fn tell_rule(rule: &RuleMessage, family: &str, seen: &mut Snapshot) {
    let header = &rule.header;
    let mut priority = 0;
    let mut attributes: Vec<&RuleAttribute> = Vec::new();
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            other => attributes.push(other),
        }
    }
    attributes.sort_by_key(|attribute| attribute.kind());
    let mut words = vec![tell(&header.action)];
    words.extend(attributes.into_iter().map(|attribute| match attribute {
        RuleAttribute::Source(ip) => format!("from {ip}/{}", header.src_len),
        RuleAttribute::Destination(ip) => format!("to {ip}/{}", header.dst_len),
        RuleAttribute::Table(table) => format!("look up {}", name_of_table(*table)),
        other => tell(other),
    }));
    if header.tos != 0 {
        words.push(format!("tos {}", header.tos));
    }
    words.push(tell(&header.flags));
    add(seen, format!("rule {family} {priority}"), words.join(" "));
}

/// For what has no words of its own.
fn tell(other: &impl Debug) -> String {
    format!("{other:?}")
}
