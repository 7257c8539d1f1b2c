//! Links, addresses, routes and rules of the calling thread's namespace, as text.

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
type InterfaceNames = BTreeMap<u32, String>;

/// Reads the calling thread's namespace.
pub(super) fn read() -> Result<Snapshot, LabError> {
    with_rtnetlink(async |handle| dump(&handle).await)
}

async fn dump(handle: &Handle) -> Result<Snapshot, LabError> {
    let mut snapshot = Snapshot::new();
    let links = all("links", handle.link().get().execute()).await?;
    let names: InterfaceNames =
        links.iter().map(|link| (link.header.index, name_of_link(link))).collect();
    for link in &links {
        describe_link(link, &names, &mut snapshot);
    }
    for address in all("addresses", handle.address().get().execute()).await? {
        describe_address(&address, &names, &mut snapshot);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        for route in all("routes", handle.route().get(wanted).execute()).await? {
            describe_route(&route, &names, &mut snapshot);
        }
    }
    for (version, family) in [(IpVersion::V4, "ipv4"), (IpVersion::V6, "ipv6")] {
        for rule in all("rules", handle.rule().get(version).execute()).await? {
            describe_rule(&rule, family, &mut snapshot);
        }
    }
    Ok(snapshot)
}

async fn all<T>(
    what: &str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, LabError> {
    match dump.try_collect().await {
        Ok(all) => Ok(all),
        // A kernel without IPv6 or policy routing has none.
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

fn name_of(names: &InterfaceNames, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| "an unknown interface".to_owned())
}

fn describe_link(link: &LinkMessage, names: &InterfaceNames, snapshot: &mut Snapshot) {
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
            LinkAttribute::LinkInfo(infos) => words.extend(infos.iter().filter_map(describe_info)),
            _ => {}
        }
    }
    snapshot.insert(format!("link {}", name_of_link(link)), words.join(" "));
}

fn describe_info(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(format!("kind {kind}")),
        // A tunnel's endpoints are settings. The data of other kinds has timers and counters.
        LinkInfo::Data(InfoData::IpTunnel(ends)) => Some(debug_text(ends)),
        LinkInfo::Data(InfoData::GreTun(ends) | InfoData::GreTap(ends)) => Some(debug_text(ends)),
        LinkInfo::Data(InfoData::GreTun6(ends) | InfoData::GreTap6(ends)) => Some(debug_text(ends)),
        _ => None,
    }
}

/// Whether the kernel adds and removes the address by itself, with the link.
fn is_automatic(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

fn describe_address(message: &AddressMessage, names: &InterfaceNames, snapshot: &mut Snapshot) {
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
                // The state of duplicate address detection.
                let passing = AddressFlags::Tentative | AddressFlags::Optimistic;
                words.push(debug_text(&flags.difference(passing)));
            }
            other => words.push(debug_text(other)),
        }
    }
    // On a point-to-point link, IFA_ADDRESS is the peer's (include/uapi/linux/if_addr.h).
    let Some(own) = local.or(address) else { return };
    if is_automatic(own) {
        return;
    }
    if let Some(peer) = address.filter(|peer| *peer != own) {
        words.push(format!("peer {peer}"));
    }
    let name = name_of(names, header.index);
    add(snapshot, format!("address {own}/{} on {name}", header.prefix_len), words.join(" "));
}

fn describe_route(route: &RouteMessage, names: &InterfaceNames, snapshot: &mut Snapshot) {
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
                words.push(format!("from {}/{length}", describe_ip(address)));
            }
            RouteAttribute::CacheInfo(_)
            | RouteAttribute::Expires(_)
            | RouteAttribute::MulticastExpires(_)
            | RouteAttribute::MfcStats(_) => {}
            RouteAttribute::MultiPath(hops) => {
                words.extend(hops.iter().map(|hop| describe_hop(hop, names)));
            }
            other => words.push(describe_route_attribute(other, names)),
        }
    }
    let kernels = header.protocol == RouteProtocol::Kernel;
    if let Some(RouteAddress::Inet6(address)) = destination
        && kernels
        && is_automatic(address.into())
    {
        return;
    }
    words.sort();
    let flags = header.flags & (RouteFlags::Onlink | RouteFlags::Pervasive);
    if !flags.is_empty() {
        words.push(debug_text(&flags));
    }
    if header.tos != 0 {
        words.push(format!("tos {}", header.tos));
    }
    let (kind, protocol, scope) = (header.kind, header.protocol, header.scope);
    let value = format!("{kind:?} {} protocol {protocol} scope {scope}", words.join(" "));
    let destination = match destination {
        Some(address) => {
            format!("{}/{}", describe_ip(&address), header.destination_prefix_length)
        }
        None if header.address_family == AddressFamily::Inet6 => "default6".to_owned(),
        None => "default".to_owned(),
    };
    add(snapshot, format!("route {} {destination}", name_of_table(table)), value);
}

fn describe_hop(hop: &RouteNextHop, names: &InterfaceNames) -> String {
    let mut words =
        vec![format!("[dev {} weight {}", name_of(names, hop.interface_index), hop.hops)];
    words.extend(hop.attributes.iter().map(|attribute| describe_route_attribute(attribute, names)));
    let flags = hop.flags & (RouteNextHopFlags::Onlink | RouteNextHopFlags::Pervasive);
    words.push(format!("{flags}]"));
    words.join(" ")
}

fn describe_route_attribute(attribute: &RouteAttribute, names: &InterfaceNames) -> String {
    match attribute {
        RouteAttribute::Oif(index) => format!("dev {}", name_of(names, *index)),
        RouteAttribute::Iif(index) => format!("from dev {}", name_of(names, *index)),
        RouteAttribute::Gateway(address) => format!("via {}", describe_ip(address)),
        RouteAttribute::PrefSource(address) => format!("source {}", describe_ip(address)),
        RouteAttribute::Priority(metric) => format!("metric {metric}"),
        other => debug_text(other),
    }
}

fn describe_ip(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(address) => address.to_string(),
        RouteAddress::Inet6(address) => address.to_string(),
        other => debug_text(other),
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

fn describe_rule(rule: &RuleMessage, family: &str, snapshot: &mut Snapshot) {
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
    let mut words = vec![debug_text(&header.action)];
    words.extend(attributes.into_iter().map(|attribute| match attribute {
        RuleAttribute::Source(ip) => format!("from {ip}/{}", header.src_len),
        RuleAttribute::Destination(ip) => format!("to {ip}/{}", header.dst_len),
        RuleAttribute::Table(table) => format!("look up {}", name_of_table(*table)),
        other => debug_text(other),
    }));
    if header.tos != 0 {
        words.push(format!("tos {}", header.tos));
    }
    words.push(debug_text(&header.flags));
    add(snapshot, format!("rule {family} {priority}"), words.join(" "));
}

/// Debug output for values without a text form.
fn debug_text(other: &impl Debug) -> String {
    format!("{other:?}")
}
