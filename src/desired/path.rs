//! What lies on the way: default gateways, static routes, routers, and the hosts that replies of real servers
//! pass.

use std::net::IpAddr;

use super::{Desired, Places, director};
use crate::names::IfName;
use crate::state::{Route, RouteKey, Sysctl};
use crate::topology::{Forward, Gateway, Host, NextHop, Role, Service, StaticRoute, Topology};

/// Adds what `host` needs for packets to find their way.
pub(super) fn settle<'a>(
    topology: &'a Topology,
    places: &Places<'a>,
    host: &Host,
    desired: &mut Desired,
) {
    for gateway in &host.gateways {
        default_route(places, host, gateway, desired);
    }
    for route in &host.routes {
        static_route(route, desired);
    }
    if host.roles.contains(&Role::Router) {
        let why = "it is a router: requests and replies pass through it";
        let has = |v4: bool| {
            let mut addresses = host.interfaces.values().flat_map(|dev| &dev.addresses);
            addresses.any(|net| net.addr().is_ipv4() == v4)
        };
        if has(true) {
            desired.sysctl(Sysctl::IpForward, "1", why);
        }
        if has(false) {
            director::forward6(host, why, desired);
        }
        for service in &topology.services {
            route_to_vip(topology, host, service, desired);
        }
    }
    if places.gateways.contains(&host.name) {
        for service in &topology.services {
            replies_with_the_vip(topology, places, host, service, desired);
        }
    }
}

fn via(gateway: IpAddr, dev: &IfName) -> Route {
    Route::via(gateway, Some(dev.clone()))
}

fn default_route(places: &Places<'_>, host: &Host, gateway: &Gateway, desired: &mut Desired) {
    let named = gateway.host.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let of_its_family = |service: &&Service| service.ipv6 == gateway.address.is_ipv6();
    let serves = |property: &dyn Fn(&Service, Forward) -> bool| {
        places.services_of(&host.name).filter(of_its_family).any(|service| {
            let mut here = service.real_servers.iter().filter(|rs| rs.host == host.name);
            host.name != service.director && here.any(|rs| property(service, rs.forward))
        })
    };
    let is_director = |service: &Service| gateway.host.as_ref() == Some(&service.director);
    let mut to_clients = places.routes_to_clients(&host.name);
    let by_routes =
        to_clients.any(|route| route.via.address.is_ipv4() == gateway.address.is_ipv4());
    let why = if serves(&|service, forward| {
        forward.needs_director_as_gateway() && is_director(service)
    }) {
        format!(
            "NAT: replies must go back through the director{named}, which puts the VIP back as their \
             source"
        )
    } else if !by_routes && serves(&|_, forward| !forward.rewrites()) {
        format!(
            "replies go straight to the client, by {}{named}, not by the director",
            gateway.address
        )
    } else {
        format!("the file names {}{named} as its gateway", gateway.address)
    };
    desired.route(
        RouteKey::default_for(gateway.address),
        via(gateway.address, &gateway.interface),
        why,
    );
}

fn static_route(StaticRoute { to, via }: &StaticRoute, desired: &mut Desired) {
    let named = via.host.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let why = format!("`routes:` in the file: {to} lies behind {}{named}", via.address);
    desired.route(RouteKey(*to), self::via(via.address, &via.interface), why);
}

/// A router in whose subnets the VIP is not needs a route to it by the director.
fn route_to_vip(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    let Some(vip) = service.vip_address() else { return };
    if let Some((dev, dip)) = host_route(topology, host, service) {
        desired.route(
            RouteKey::host(vip),
            via(dip, &dev),
            format!(
                "{} is in none of this router's subnets: without this route it does not know that {} has it",
                vip, service.director
            ),
        );
    }
}

/// Over which interface, and by which address of the director, a router reaches a VIP that is in
/// none of its subnets. `None` where a subnet or a static route of the file holds it, or the director is not a
/// neighbour.
fn host_route(topology: &Topology, host: &Host, service: &Service) -> Option<(IfName, IpAddr)> {
    let vip = service.vip.as_ref()?;
    let holds = host.on_link(vip.address).is_some() || host.route_for(vip.address).is_some();
    // The director itself has the VIP: a route by an address of its own is refused (`fib_check_nh`).
    if holds || host.interface_with(vip.address).is_some() || host.name == service.director {
        return None;
    }
    let director = topology.hosts.get(&service.director)?;
    let outside = director.interfaces.get(&vip.interface).into_iter();
    outside
        .chain(director.interfaces.values())
        .flat_map(|interface| &interface.addresses)
        .filter(|net| net.addr().is_ipv4() == vip.address.is_ipv4())
        .find_map(|net| host.on_link(net.addr()).map(|(dev, _)| (dev.name.clone(), net.addr())))
}

/// Replies carry the VIP as their source. Their next hop takes them in on the side of their sender: the real
/// server (DR, TUN), or the director, which rewrote them or answers itself. Where the next hop's own route to
/// the VIP points elsewhere, a strict source check drops them all. Where the next hop is the director, the source is an address
/// of its own: [`super::source_validation`] finds that by the ways of clients, and without one in the file they may be anywhere.
fn replies_with_the_vip<'a>(
    topology: &'a Topology,
    places: &Places<'a>,
    host: &Host,
    service: &Service,
    desired: &mut Desired,
) {
    // There is no source check in IPv6.
    let Some(vip) = service.vip_address().filter(IpAddr::is_ipv4) else { return };
    let is_director = host.name == service.director;
    for real_server in &service.real_servers {
        let sender =
            if real_server.forward.rewrites() { &service.director } else { &real_server.host };
        let Some(sender) = topology.hosts.get(sender) else { continue };
        for hop in next_hops_of_replies(places, sender, vip) {
            if hop.host.as_ref() != Some(&host.name) {
                continue;
            }
            let Some((incoming, _)) = host.interface_with(hop.address) else { continue };
            if is_director && !places.has_client_of_v4 && host.roles.contains(&Role::Router) {
                let why = super::why_accept_local(vip, &incoming.name, &real_server.host);
                desired.accept_local(&incoming.name, why);
            }
            let Some(towards) = route_towards_vip(topology, host, service) else { continue };
            if towards == incoming.name {
                continue;
            }
            desired.loose_source_validation(
                &incoming.name,
                format!(
                    "replies with source {vip} come in on {}, while the route to {vip} points to \
                     {towards}: a strict source check would drop every one of them",
                    incoming.name
                ),
            );
        }
    }
}

/// The default gateway of `sender`, and the next hops of its static routes to clients.
fn next_hops_of_replies<'a>(
    places: &Places<'a>,
    sender: &'a Host,
    vip: IpAddr,
) -> impl Iterator<Item = &'a Gateway> {
    let routes = places.routes_to_clients(&sender.name).map(|route| &route.via);
    let of_family = routes.filter(move |via| via.address.is_ipv4() == vip.is_ipv4());
    sender.gateway_for(vip).into_iter().chain(of_family)
}

fn route_towards_vip(topology: &Topology, host: &Host, service: &Service) -> Option<IfName> {
    let vip = service.vip_address()?;
    if host.name == service.director {
        return Some(service.vip.as_ref()?.interface.clone());
    }
    if host.roles.contains(&Role::Router)
        && let Some((dev, _)) = host_route(topology, host, service)
    {
        return Some(dev);
    }
    Some(match host.next_hop(vip)? {
        NextHop::OnLink(interface, _) => interface.name.clone(),
        NextHop::Via(gateway) => gateway.interface.clone(),
    })
}
