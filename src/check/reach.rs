//! Rules about paths: from clients to the VIP, from the director to real servers, and back to clients.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::cure::{self, obstacle};
use super::path::{WalkEnd, source};
use super::{MAX_FINDINGS, Subject, vips};
use crate::finding::Finding;
use crate::topology::{Forward, Gateway, Host, NextHop, RealServer, Role, Service};

/// The real servers whose method is `wanted`, if their host and director are not unclear.
pub(super) fn real_servers<'a>(
    subject: &Subject<'a>,
    wanted: impl Fn(Forward) -> bool,
) -> Vec<(&'a Service, &'a RealServer, &'a Host, &'a Host)> {
    let mut found = Vec::new();
    for service in &subject.topology.services {
        let Some(director) = subject.host(&service.director) else { continue };
        let elsewhere = |r: &&RealServer| r.host != service.director && wanted(r.forward);
        for real in service.real_servers.iter().filter(elsewhere) {
            let Some(host) = subject.host(&real.host) else { continue };
            if !subject.is_unclear(host) && !subject.is_unclear(director) {
                found.push((service, real, host, director));
            }
        }
    }
    found
}

/// Clients that are not unclear, with their source address towards `vip`.
pub(super) fn clients<'a>(subject: &Subject<'a>, vip: IpAddr) -> Vec<(&'a Host, IpAddr)> {
    let clients = subject.index.clients.iter().filter(|host| !subject.is_unclear(host));
    clients.filter_map(|host| Some((*host, source(host, vip)?))).collect()
}

/// Whether the RIP is on-link for the director.
fn on_link(subject: &Subject<'_>, director: &Host, host: &Host, real: &RealServer) -> bool {
    let wire = host.interfaces.get(&real.interface).and_then(|i| i.network.as_ref());
    let Some(director) = subject.host(&director.name) else { return false };
    subject.on_link(director, real.rip).is_some_and(|(i, _)| i.network.as_ref() == wire)
}

/// Trap 7: DR rewrites the MAC address only, so the RIP must be on-link for the director.
pub(super) fn dr_not_on_link(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, real, host, director) in real_servers(subject, Forward::needs_on_link) {
        if !on_link(subject, director, host, real) {
            findings.push(Finding::error(
                "dr-not-on-link",
                real.at,
                format!("{} ({}) is not on-link for the director {}", real.host, real.rip, service.director),
                "dr rewrites only the MAC address: a router in between would send the packet back to the director or drop it",
                format!("put {} into a subnet of {}, or use `forward: tun`", real.host, service.director),
            ));
        }
    }
    findings
}

/// FULLNAT: the director needs a route to the RIP, the real server one to the director's own address,
/// which is the source of the requests.
pub(super) fn fullnat_no_route(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, real, host, director) in real_servers(subject, Forward::hides_client) {
        let there = subject.walk(director, real.rip);
        if let Some(because) = obstacle(there) {
            findings.push(Finding::error(
                "fullnat-no-route",
                real.at,
                format!(
                    "the director {} cannot reach {} ({}): {because}",
                    director.name, real.host, real.rip
                ),
                "the director routes requests to the real server like any other packet",
                cure::of_walk(subject, (director, real.rip), there, real.host.as_str()),
            ));
            continue;
        }
        let Some(source) = source(director, real.rip) else { continue };
        let back = subject.walk(host, source);
        let Some(because) = obstacle(back) else { continue };
        findings.push(Finding::error(
            "fullnat-no-route",
            real.at,
            format!(
                "{} cannot reach {source} of the director {}: {because}",
                real.host, director.name
            ),
            "requests have that source address: replies to it never arrive",
            cure::of_walk(subject, (host, source), back, director.name.as_str()),
        ));
    }
    findings
}

/// A service of an address family that no client has.
pub(super) fn family_without_client(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let clients = &subject.index.clients;
    if clients.is_empty() || !subject.whole {
        return findings;
    }
    for (service, vip) in subject.with_vip() {
        if clients.iter().any(|client| Subject::has_family(client, vip.address)) {
            continue;
        }
        let family = if service.ipv6 { "IPv6" } else { "IPv4" };
        findings.push(Finding::warning(
            "family-without-client",
            vip.at,
            format!(
                "{} is an {family} service, but no client has an {family} address",
                service.display_name()
            ),
            "`verify` and the lab cannot send requests to it, and the path rules do not cover it",
            format!("give a client an {family} address"),
        ));
    }
    findings
}

/// The director needs a route to the tunnel's endpoint.
pub(super) fn tun_no_route(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, real, _, director) in real_servers(subject, Forward::encapsulates) {
        let end = subject.walk(director, real.rip);
        let Some(because) = obstacle(end) else { continue };
        findings.push(Finding::error(
            "tun-no-route",
            real.at,
            format!(
                "the director {} cannot reach {} ({}): {because}",
                director.name, real.host, real.rip
            ),
            "the director routes the tunnel's packets like any other packet",
            cure::of_walk(subject, (director, real.rip), end, real.host.as_str()),
        ));
    }
    findings
}

/// Trap 11: replies have the VIP as source and pass through the director, which has the VIP. One that forwards passes them
/// on: `desired` sets `accept_local` there, and IPv6 has no source validation (net/ipv6/ip6_output.c, `ip6_forward`).
pub(super) fn director_is_gateway(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, real, host, director) in real_servers(subject, |f| !f.rewrites()) {
        let Some(vip) = service.vip_address().filter(IpAddr::is_ipv4) else { continue };
        if subject.forwards(director) {
            continue;
        }
        let Some(gateway) = leaves_by(subject, host, vip, director) else { continue };
        findings.push(Finding::error(
            "director-is-gateway",
            gateway.at,
            match host.routes.iter().find(|route| route.via == *gateway) {
                Some(route) => {
                    let to = route.to;
                    format!(
                        "the route of {} to {to} leads by the director {}, which does not forward",
                        host.name, director.name
                    )
                }
                None => format!(
                    "the gateway of {} is the director {}, which does not forward",
                    host.name, director.name
                ),
            },
            format!(
                "under {} the replies have the VIP {} as source, and the director drops what is not for itself",
                real.forward, vip
            ),
            format!(
                "name the router as gateway, add router to the roles of {} (lvsprov then has it take replies with its own \
                 VIP as their source), or use `forward: nat`",
                director.name
            ),
        ));
    }
    findings
}

/// The next hop of IPv4 replies of `host` to clients that is the director, if one is.
fn leaves_by<'a>(
    subject: &Subject<'a>,
    host: &'a Host,
    vip: IpAddr,
    director: &Host,
) -> Option<&'a Gateway> {
    let hops = subject.hops_of_replies(host, vip).into_iter().filter(|_| vip.is_ipv4());
    let mut by_director = hops.filter(|hop| hop.host.as_ref() == Some(&director.name));
    by_director.find(|hop| is_on_a_way_back(subject, host, hop, vip))
}

/// Whether replies to a client of the file leave `host` by `hop`: a client on a subnet of `host` needs no gateway. Without a client
/// of the VIP's family in the file its clients are somewhere behind the gateway.
fn is_on_a_way_back(subject: &Subject<'_>, host: &Host, hop: &Gateway, vip: IpAddr) -> bool {
    let Some(host) = subject.host(&host.name) else { return true };
    let mut clients =
        subject.index.clients.iter().filter_map(|client| source(client, vip)).peekable();
    let leaves_by = |client| match host.next_hop_beside(subject.on_link(host, client), client) {
        Some(NextHop::Via(next)) => next == hop,
        Some(NextHop::OnLink(..)) | None => false,
    };
    clients.peek().is_none() || clients.any(leaves_by)
}

/// A client without a route to the VIP.
pub(super) fn vip_unreachable(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let clients = subject.index.clients.iter().filter(|host| !subject.is_unclear(host));
    let clients: Vec<&Host> = clients.copied().collect();
    for (service, vip) in subject.with_vip() {
        let elsewhere = LazyCell::new(|| vips::other_network(subject, service).is_some());
        for client in clients.iter().copied() {
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            if !Subject::has_family(client, vip.address) {
                continue;
            }
            let end = subject.walk(client, vip.address);
            let Some(because) = obstacle(end) else { continue };
            // The rule `vip-wrong-network` reports it.
            if matches!(end, WalkEnd::WrongWire(..)) && *elsewhere {
                continue;
            }
            findings.push(Finding::error(
                "vip-unreachable",
                client.at,
                format!("{} cannot reach the VIP {}: {because}", client.name, vip.address),
                "its requests would never reach the director",
                cure::of_walk(subject, (client, vip.address), end, service.director.as_str()),
            ));
        }
    }
    findings
}

/// Replies without a route to the client: from the real server, under NAT and FULLNAT from the director.
pub(super) fn no_way_back(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut checked = HashSet::new();
    for (service, real, host, director) in real_servers(subject, |_| true) {
        let sender = if real.forward.rewrites() { director } else { host };
        let Some(vip) = service.vip_address() else { continue };
        // A director sends the replies of all its NAT real servers: check it once.
        if !checked.insert((&sender.name, vip, service.at.line, service.at.column)) {
            continue;
        }
        for (client, source) in clients(subject, vip) {
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            let end = subject.walk(sender, source);
            let Some(because) = obstacle(end) else { continue };
            // The rule `director-is-gateway` reports it.
            if matches!(end, WalkEnd::NotForwarding(at) if at.name == director.name)
                && sender.name != director.name
                && leaves_by(subject, sender, vip, director).is_some()
            {
                continue;
            }
            findings.push(Finding::error(
                "no-way-back",
                sender.at,
                format!(
                    "replies of {} do not reach {} ({source}): {because}",
                    sender.name, client.name
                ),
                format!("requests to {vip} arrive, but the client gets no reply"),
                way_back(subject, (sender, source), end, service, client),
            ));
        }
    }
    findings
}

/// Under NAT the VIP's prefix length can give the director its only subnet with the client.
fn way_back<'a>(
    subject: &Subject<'a>,
    way: (&'a Host, IpAddr),
    end: WalkEnd<'a>,
    service: &Service,
    client: &Host,
) -> String {
    let cure = cure::of_walk(subject, way, end, client.name.as_str());
    match (end, &service.vip) {
        (WalkEnd::NoGateway(_), Some(vip))
            if service.uses(Forward::needs_director_as_gateway) && vip.prefix.is_none() =>
        {
            format!("{cure}, or give the VIP its prefix length (`vip: {}/24`)", vip.address)
        }
        _ => cure,
    }
}

/// Traps 10 and 12 on a router without a connection, in a file where other hosts have one.
pub(super) fn router_not_reached(subject: &Subject<'_>) -> Vec<Finding> {
    let topology = subject.topology;
    let mut findings = Vec::new();
    if topology.hosts.values().all(|h| h.reach.is_none()) {
        return findings;
    }
    let routers =
        topology.with_role(Role::Router).filter(|h| h.reach.is_none() && !subject.is_unclear(h));
    for router in routers {
        for (service, vip) in subject.with_vip() {
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            if subject.on_link(router, vip.address).is_none()
                && subject.takes_host_route(router, service)
            {
                findings.push(unmanaged_router(
                    router,
                    &format!("a host route to the VIP {}", vip.address),
                    &format!(
                        "ip route add {} via the director's address",
                        IpNet::from(vip.address)
                    ),
                ));
            }
        }
        for (service, real, host, _) in real_servers(subject, |f| !f.rewrites()) {
            // IPv6 has no rp_filter.
            let Some(vip) = service.vip_address().filter(IpAddr::is_ipv4) else { continue };
            let mut hops = subject.hops_of_replies(host, vip).into_iter();
            let behind = hops.any(|hop| hop.host.as_ref() == Some(&router.name));
            let Some((vip_side, _)) = subject.on_link(router, vip) else { continue };
            let Some((rip_side, _)) = subject.on_link(router, real.rip) else { continue };
            if behind && vip_side.name != rip_side.name {
                findings.push(unmanaged_router(
                    router,
                    &format!("loose rp_filter on {}", rip_side.name),
                    &format!("sysctl net/ipv4/conf/{}/rp_filter=2", rip_side.name),
                ));
            }
        }
    }
    findings
}

fn unmanaged_router(router: &Host, what: &str, cure: &str) -> Finding {
    Finding::warning(
        "router-not-reached",
        router.at,
        format!("{} needs {what}, but the file has no connection to it", router.name),
        "without it this router drops requests or replies, and logs nothing",
        format!("add `ssh:`, `local:` or `netns:` to it, or set it yourself: {cure}"),
    )
}
