//! Routes of the main table: reading the route in use to each destination, adding, replacing, removing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use nix::errno::Errno;

use super::rules::beside_main;
use super::{LinksByIndex, Net, errno_of, refused};
use crate::kernel::error::{Error, Result};
use crate::state::routing::{MAIN, RouteEntry};
use crate::state::{Route, RouteKey, Scope};

/// `IP6_RT_PRIO_USER`: the metric that the kernel gives an IPv6 route without one. Its canonical form is 0:
/// a route without metric, with 0 or with 1024 is the same. In IPv4 0 and 1024 are different metrics.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// The routes of a host.
#[derive(Debug, Default)]
pub(super) struct AllRoutes {
    /// Of the main table; of several to one destination the one in use.
    pub main: BTreeMap<RouteKey, Route>,
    /// What [`crate::state::Routing`] holds of routes.
    pub beside: Vec<RouteEntry>,
}

impl Net {
    /// Dumps all tables.
    pub(super) async fn all_routes(&self, links: &LinksByIndex) -> Result<AllRoutes> {
        let mut all = AllRoutes::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in &self.dump_routes(family).await? {
                if is_of_main_table(message)
                    && let Some((key, route)) = observed(message, links)
                {
                    keep_better(&mut all.main, key, route);
                }
                all.beside.extend(beside_main(message, links));
            }
        }
        Ok(all)
    }

    /// The routes of all tables of one family.
    async fn dump_routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>> {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let messages = self.handle.route().get(query).execute().try_collect().await;
        let mut messages: Vec<RouteMessage> =
            messages.map_err(|error| refused("cannot read the routes".to_owned(), error))?;
        // A kernel without IPv6 answers with other families.
        messages.retain(|message| message.header.address_family == family);
        Ok(messages)
    }

    /// Whether the main table has just this route, whichever is in use.
    async fn has_route(&self, key: &RouteKey, route: &Route, links: &LinksByIndex) -> Result<bool> {
        let v6 = key.0.addr().is_ipv6();
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let messages = self.dump_routes(family).await?;
        let mut of_main = messages.iter().filter(|message| is_of_main_table(message));
        Ok(of_main.any(|message| {
            observed(message, links).is_some_and(|it| it.0 == *key && it.1 == *route)
        }))
    }

    async fn present_route(&self, key: &RouteKey) -> Result<(LinksByIndex, Option<Route>)> {
        let links = self.links().await?;
        let route = self.all_routes(&links).await?.main.remove(key);
        Ok((links, route))
    }

    /// An error if the present route is not `expected`.
    async fn verify(&self, key: &RouteKey, expected: Option<&Route>) -> Result<LinksByIndex> {
        let (links, found) = self.present_route(key).await?;
        if found.as_ref() == expected {
            return Ok(links);
        }
        let text =
            |route: Option<&Route>| route.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let what = format!("route {key}");
        Err(Error::changed_since(&what, &text(expected), &text(found.as_ref())))
    }

    /// Adds a route; an error if the destination has one.
    pub async fn add_route(&self, key: &RouteKey, route: &Route) -> Result<()> {
        let links = self.verify(key, None).await?;
        self.new_route(key, route, &links, false).await
    }

    /// Removes a route; an error if it is not equal to `route`.
    pub async fn remove_route(&self, key: &RouteKey, route: &Route) -> Result<()> {
        let links = self.verify(key, Some(route)).await?;
        self.delete_route(key, route, &links).await
    }

    /// Replaces `before` by `after`; the destination has a route at each moment.
    ///
    /// The kernel replaces in place only a route of the same metric (net/ipv4/fib_trie.c,
    /// `fib_table_insert`). Where the metric changes, the new route is added before the old one is removed. A route that
    /// stands behind the old one already, as a DHCP client adds its own again at each lease, comes into use by itself: the
    /// kernel would refuse it (EEXIST).
    pub async fn replace_route(&self, key: &RouteKey, before: &Route, after: &Route) -> Result<()> {
        if !before.unsupported.is_empty() {
            return Err(Error::new(format!(
                "route {key} ({before}) has settings that lvsprov could not restore: it is not replaced"
            ))
            .cure("replace or remove it by hand, then plan again"));
        }
        let links = self.verify(key, Some(before)).await?;
        if self.has_route(key, after, &links).await? {
            return self.delete_route(key, before, &links).await;
        }
        if before.metric == after.metric {
            return self.new_route(key, after, &links, true).await;
        }
        self.new_route(key, after, &links, false).await?;
        self.delete_route(key, before, &links).await
    }

    async fn new_route(
        &self,
        key: &RouteKey,
        route: &Route,
        links: &LinksByIndex,
        replace: bool,
    ) -> Result<()> {
        let request = self.handle.route().add(message(key, route, links)?);
        let request = if replace { request.replace() } else { request };
        let verb = if replace { "replace" } else { "add" };
        request.execute().await.map_err(|error| match errno_of(&error) {
            Some(Errno::EEXIST) => Error::new(format!(
                "cannot {verb} route {key} {route}: another route to this destination has metric {}",
                route.metric
            ))
            .cure("give this route another metric, or remove the other route"),
            _ => refused(format!("cannot {verb} route {key} {route}"), error),
        })
    }

    async fn delete_route(
        &self,
        key: &RouteKey,
        route: &Route,
        links: &LinksByIndex,
    ) -> Result<()> {
        let request = self.handle.route().del(message(key, route, links)?);
        request
            .execute()
            .await
            .map_err(|error| refused(format!("cannot remove route {key} {route}"), error))
    }
}

/// Whether it is a route of the main table, and not a cache entry (RTM_F_CLONED).
fn is_of_main_table(message: &RouteMessage) -> bool {
    table_of(message) == MAIN && !message.header.flags.contains(RouteFlags::Cloned)
}

/// Its table: numbers above 255 do not fit into the header.
pub(super) fn table_of(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| message.header.table.into())
}

/// Keeps the route that the kernel uses: the lowest metric; of equal metrics the first of the dump. A route
/// for a single TOS ranks below one for all.
fn keep_better(best: &mut BTreeMap<RouteKey, Route>, key: RouteKey, route: Route) {
    let for_one_tos = |route: &Route| route.unsupported.iter().any(|text| text.starts_with("tos "));
    match best.entry(key) {
        Entry::Vacant(free) => {
            free.insert(route);
        }
        Entry::Occupied(mut there) => {
            let rank = |route: &Route| (for_one_tos(route), route.metric);
            if rank(&route) < rank(there.get()) {
                there.insert(route);
            }
        }
    }
}

pub(super) fn observed(message: &RouteMessage, links: &LinksByIndex) -> Option<(RouteKey, Route)> {
    let header = &message.header;
    let v6 = header.address_family == AddressFamily::Inet6;
    let mut destination = unspecified(v6);
    let mut route = Route {
        gateway: None,
        dev: None,
        scope: Scope::from_number(header.scope.into()),
        metric: 0,
        protocol: header.protocol.into(),
        source: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        unsupported: Vec::new(),
    };
    if header.kind != RouteType::Unicast {
        route.unsupported.push(format!("type {:?}", header.kind).to_lowercase());
    }
    if header.protocol == RouteProtocol::Ra {
        route.unsupported.push("ra".to_owned());
    }
    if header.tos != 0 {
        route.unsupported.push(format!("tos {:#x}", header.tos));
    }
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => match links.get(index) {
                Some(link) => route.dev = Some(link.name.clone()),
                None => route.unsupported.push(format!("interface number {index}")),
            },
            // Table, cache numbers and the default preference are not settings. A route that expires comes
            // from a router advertisement; the remaining time is not a setting, as it differs at each read.
            RouteAttribute::CacheInfo(cache) if cache.expires != 0 => {
                route.unsupported.push("expires".to_owned());
            }
            RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_) => {}
            RouteAttribute::Preference(preference) if u8::from(*preference) == 0 => {}
            RouteAttribute::MultiPath(hops) => {
                route.unsupported.push(format!("{} next hops", hops.len()));
            }
            RouteAttribute::Metrics(metrics) => {
                route
                    .unsupported
                    .extend(metrics.iter().map(|metric| words(&format!("{metric:?}"))));
            }
            other => route.unsupported.push(words(&format!("{other:?}"))),
        }
    }
    if v6 {
        route.metric = canonical_metric(route.metric);
    }
    let net = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some((RouteKey(net.trunc()), route))
}

/// The canonical form of a metric of IPv6.
pub(super) fn canonical_metric(metric: u32) -> u32 {
    if metric == IPV6_DEFAULT_METRIC { 0 } else { metric }
}

/// `Mtu(1400)` as `mtu 1400`: netlink-packet-route has only `Debug` for these.
fn words(debug: &str) -> String {
    debug.replace('(', " ").replace(')', "").to_lowercase()
}

pub(super) fn unspecified(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
    }
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

pub(super) fn message(key: &RouteKey, route: &Route, links: &LinksByIndex) -> Result<RouteMessage> {
    let Route { gateway, dev, scope, metric, protocol, source, onlink, unsupported } = route;
    if !unsupported.is_empty() {
        return Err(Error::new(format!(
            "route {key} ({route}) has settings that lvsprov does not write: {}",
            unsupported.join(", ")
        )));
    }
    let RouteKey(net) = key;
    let v6 = net.addr().is_ipv6();
    let mut message = RouteMessage::default();
    message.header.address_family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.header.scope = scope.number().into();
    message.header.protocol = (*protocol).into();
    message.header.destination_prefix_length = net.prefix_len();
    message.header.flags.set(RouteFlags::Onlink, *onlink);
    let list = &mut message.attributes;
    if net.prefix_len() != 0 {
        list.push(RouteAttribute::Destination(net.addr().into()));
    }
    for (what, address) in [("gateway", gateway), ("source", source)] {
        if let Some(wrong) = address.filter(|address| address.is_ipv6() != v6) {
            let error = format!("route {key}: its {what} {wrong} is of the other address family");
            return Err(Error::new(error));
        }
    }
    if let Some(gateway) = gateway {
        list.push(RouteAttribute::Gateway((*gateway).into()));
    }
    if let Some(source) = source {
        list.push(RouteAttribute::PrefSource((*source).into()));
    }
    if let Some(dev) = dev {
        let index = links.iter().find_map(|(index, link)| (link.name == *dev).then_some(*index));
        let index = index
            .ok_or_else(|| Error::new(format!("route {key}: this host has no interface {dev}")))?;
        list.push(RouteAttribute::Oif(index));
    }
    let metric = if v6 && *metric == 0 { IPV6_DEFAULT_METRIC } else { *metric };
    if metric != 0 {
        list.push(RouteAttribute::Priority(metric));
    }
    Ok(message)
}
