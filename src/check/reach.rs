//! Rules about the way there and back: from clients to the VIP, from the director to the real
//! servers, and from those to the clients.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::path::{End, source};
use super::{ENOUGH, Subject, vips};
use crate::finding::Finding;
use crate::topology::{Forward, Host, RealServer, Role, Service};

/// Every real server of every service with `wanted` whose hosts are clear.
fn real_servers<'a>(
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

/// Clear clients, with the address that they use towards `vip`.
fn clients<'a>(subject: &Subject<'a>, vip: IpAddr) -> Vec<(&'a Host, IpAddr)> {
    let clients = subject.index.clients.iter().filter(|host| !subject.is_unclear(host));
    clients.filter_map(|host| Some((*host, source(host, vip)?))).collect()
}

/// Whether the real server's RIP is a neighbour of the director.
fn on_link(subject: &Subject<'_>, director: &Host, host: &Host, real: &RealServer) -> bool {
    let wire = host.interfaces.get(&real.interface).and_then(|i| i.network.as_ref());
    let Some(director) = subject.host(&director.name) else { return false };
    subject.on_link(director, real.rip).is_some_and(|(i, _)| i.network.as_ref() == wire)
}

/// Trap 7: DR rewrites the MAC address only, so the real server must be a neighbour.
pub(super) fn dr_not_on_link(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, real, host, director) in real_servers(subject, |f| f == Forward::Dr) {
        if !on_link(subject, director, host, real) {
            findings.push(Finding::error(
                "dr-not-on-link",
                real.at,
                format!("{} ({}) is no neighbour of the director {}", real.host, real.rip, service.director),
                "dr only rewrites the MAC address: a packet for the VIP that passes a router on the way goes back to the director or nowhere",
                format!("put {} onto a network and subnet of {}, or use `forward: tun`", real.host, service.director),
            ));
        }
    }
    findings
}

/// FULLNAT: the director must reach the real server, and that one the director's own address, which
/// is the source of what it gets.
pub(super) fn fullnat_no_route(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, real, host, director) in real_servers(subject, |f| f == Forward::Fullnat) {
        let there = subject.walk(director, real.rip);
        if let Some(because) = stuck(there) {
            findings.push(Finding::error(
                "fullnat-no-route",
                real.at,
                format!(
                    "the director {} cannot reach {} ({}): {because}",
                    director.name, real.host, real.rip
                ),
                "requests are routed to the real server like any other packet",
                cure(there, real.host.as_str()),
            ));
            continue;
        }
        let Some(source) = source(director, real.rip) else { continue };
        let back = subject.walk(host, source);
        let Some(because) = stuck(back) else { continue };
        findings.push(Finding::error(
            "fullnat-no-route",
            real.at,
            format!(
                "{} cannot reach {source} of the director {}: {because}",
                real.host, director.name
            ),
            "requests come with that source: replies to it never arrive",
            cure(back, director.name.as_str()),
        ));
    }
    findings
}

/// A family of which there is a service and no client that could ask for it.
pub(super) fn family_without_client(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let clients = &subject.index.clients;
    if clients.is_empty() || !subject.whole {
        return findings;
    }
    for (service, vip) in subject.with_vip() {
        if clients.iter().any(|client| Subject::speaks(client, vip.address)) {
            continue;
        }
        let family = if service.ipv6 { "IPv6" } else { "IPv4" };
        findings.push(Finding::warning(
            "family-without-client",
            vip.at,
            format!("no client of the file has an {family} address, and {} is an {family} service", service.spoken()),
            "`verify` and the lab have nobody to send requests, and no way there and back was looked at",
            format!("give a client an {family} address"),
        ));
    }
    findings
}

/// The director must have a route to a tunnel's other end.
pub(super) fn tun_no_route(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, real, _, director) in real_servers(subject, |f| f == Forward::Tun) {
        let end = subject.walk(director, real.rip);
        let Some(because) = stuck(end) else { continue };
        findings.push(Finding::error(
            "tun-no-route",
            real.at,
            format!(
                "the director {} cannot reach {} ({}): {because}",
                director.name, real.host, real.rip
            ),
            "the tunnel's packets are routed like any others",
            cure(end, &real.host.to_string()),
        ));
    }
    findings
}

/// Trap 11: replies with the VIP as source, sent through the machine that has the VIP.
pub(super) fn director_is_gateway(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, real, host, director) in real_servers(subject, |f| !f.rewrites()) {
        let Some(vip) = service.vip_address() else { continue };
        let gateway = host.gateway_for(vip);
        let Some(gateway) = gateway.filter(|g| g.host.as_ref() == Some(&director.name)) else {
            continue;
        };
        findings.push(Finding::error(
            "director-is-gateway",
            gateway.at,
            format!("the gateway of {} is the director {}", host.name, director.name),
            format!(
                "under {} the replies carry the VIP {} as source, and the director drops packets that come in from one of its own addresses",
                real.forward, vip
            ),
            "name the router as gateway, or use `forward: nat`",
        ));
    }
    findings
}

/// Trap 14: replies that do not pass the director are not rewritten.
pub(super) fn nat_gateway(subject: &Subject<'_>) -> Vec<Finding> {
    const WHY: &str = "under nat only the director can turn a reply's source back into the VIP: one that goes another way is reset or ignored by the client";
    let mut findings = Vec::new();
    for (_, real, host, director) in real_servers(subject, |f| f == Forward::Nat) {
        let name = &director.name;
        let finding = match host.gateway_for(real.rip) {
            Some(gateway) if gateway.host.as_ref() == Some(name) => continue,
            Some(gateway) => {
                let is =
                    gateway.host.as_ref().map_or(gateway.address.to_string(), ToString::to_string);
                let message =
                    format!("the gateway of {} is {is}, not the director {name}", host.name);
                let cure = format!("write `gateway: {name}`, or leave it away: nat derives it");
                Finding::error("nat-gateway", gateway.at, message, WHY, cure)
            }
            None if subject.has_unclear_gateway(host) => continue,
            None => {
                let message = format!(
                    "{} shares no subnet with the director {name}, which must be its gateway",
                    host.name
                );
                let cure = format!(
                    "give {name} an address in the subnet of {}, or use `forward: tun`",
                    real.rip
                );
                Finding::error("nat-gateway", real.at, message, WHY, cure)
            }
        };
        findings.push(finding);
    }
    findings
}

/// Trap 15: a client that the real server answers without a gateway.
pub(super) fn nat_client_on_link(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, real, host, _) in real_servers(subject, |f| f == Forward::Nat) {
        let Some(vip) = service.vip_address() else { continue };
        for (client, source) in clients(subject, vip) {
            if findings.len() >= ENOUGH {
                return findings;
            }
            let near = subject.on_link(host, source).filter(|_| client.name != host.name);
            if near.is_some() {
                findings.push(Finding::error(
                    "nat-client-on-link",
                    client.at,
                    format!("{} ({source}) is in the subnet of {}, a real server of {}", client.name, real.host, service.spoken()),
                    "the real server answers it directly instead of through the director, and the client refuses a reply from an address it did not ask",
                    "move the client or the real servers into another subnet, or use `forward: dr`",
                ));
            }
        }
    }
    findings
}

/// A client that no route leads to the VIP.
pub(super) fn vip_unreachable(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let clients = subject.index.clients.iter().filter(|host| !subject.is_unclear(host));
    let clients: Vec<&Host> = clients.copied().collect();
    for (service, vip) in subject.with_vip() {
        let elsewhere = LazyCell::new(|| vips::other_network(subject, service).is_some());
        for client in clients.iter().copied() {
            if findings.len() >= ENOUGH {
                return findings;
            }
            if !Subject::speaks(client, vip.address) {
                continue;
            }
            let end = subject.walk(client, vip.address);
            let Some(because) = stuck(end) else { continue };
            // Has a finding of its own.
            if matches!(end, End::WrongWire(..)) && *elsewhere {
                continue;
            }
            findings.push(Finding::error(
                "vip-unreachable",
                client.at,
                format!("{} cannot reach the VIP {}: {because}", client.name, vip.address),
                "its requests would never get to the director",
                cure(end, &service.director.to_string()),
            ));
        }
    }
    findings
}

/// Replies that do not find the client: from the real server, under NAT from the director.
pub(super) fn no_way_back(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut looked = HashSet::new();
    for (service, real, host, director) in real_servers(subject, |_| true) {
        let sender = if real.forward.rewrites() { director } else { host };
        let Some(vip) = service.vip_address() else { continue };
        // One director sends the replies of all its real servers.
        if !looked.insert((&sender.name, vip, service.at.line, service.at.column)) {
            continue;
        }
        for (client, source) in clients(subject, vip) {
            if findings.len() >= ENOUGH {
                return findings;
            }
            let end = subject.walk(sender, source);
            let Some(because) = stuck(end) else { continue };
            findings.push(Finding::error(
                "no-way-back",
                sender.at,
                format!(
                    "replies of {} do not reach {} ({source}): {because}",
                    sender.name, client.name
                ),
                format!("requests for {vip} arrive and are never answered"),
                way_back(end, service, client),
            ));
        }
    }
    findings
}

/// Under NAT the director may have its only address next to the client by the VIP's prefix.
fn way_back(end: End<'_>, service: &Service, client: &Host) -> String {
    let cure = cure(end, &client.name.to_string());
    match (end, &service.vip) {
        (End::NoGateway(_), Some(vip)) if service.uses(Forward::Nat) && vip.prefix.is_none() => {
            format!("{cure}, or give the VIP its prefix length (`vip: {}/24`)", vip.address)
        }
        _ => cure,
    }
}

fn stuck(end: End<'_>) -> Option<String> {
    Some(match end {
        End::Arrives | End::Unknown => return None,
        End::NoGateway(at) => format!("{} has neither a subnet with it nor a gateway", at.name),
        End::NotForwarding(at) => {
            format!("{} is the gateway on the way, and forwards nothing", at.name)
        }
        End::Circle(at) => format!("the gateways lead back to {}", at.name),
        End::WrongWire(at, interface) => {
            format!("{} asks for it on {}, and nobody on that wire has it", at.name, interface.name)
        }
    })
}

fn cure(end: End<'_>, towards: &str) -> String {
    match end {
        End::NoGateway(at) => format!("give {} a `gateway:` towards {towards}", at.name),
        End::NotForwarding(at) => {
            format!("add router to the roles of {}, or name another gateway", at.name)
        }
        End::Circle(_) | End::Arrives | End::Unknown => {
            format!("correct a `gateway:` on the way to {towards}")
        }
        End::WrongWire(at, _) => format!(
            "correct the prefix length or the network of {}, or name the interface with `vip_interface:`",
            at.name
        ),
    }
}

/// Traps 10 and 12 on a router that lvsprov does not reach while it reaches others.
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
            if findings.len() >= ENOUGH {
                return findings;
            }
            if subject.on_link(router, vip.address).is_none()
                && subject.takes_host_route(router, service)
            {
                findings.push(by_hand(
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
            // There is no rp_filter in IPv6.
            let Some(vip) = service.vip_address().filter(IpAddr::is_ipv4) else { continue };
            let behind =
                host.gateway_for(vip).is_some_and(|g| g.host.as_ref() == Some(&router.name));
            let Some((vip_side, _)) = subject.on_link(router, vip) else { continue };
            let Some((rip_side, _)) = subject.on_link(router, real.rip) else { continue };
            if behind && vip_side.name != rip_side.name {
                findings.push(by_hand(
                    router,
                    &format!("loose rp_filter on {}", rip_side.name),
                    &format!("sysctl net/ipv4/conf/{}/rp_filter=2", rip_side.name),
                ));
            }
        }
    }
    findings
}

fn by_hand(router: &Host, what: &str, cure: &str) -> Finding {
    Finding::warning(
        "router-not-reached",
        router.at,
        format!("{} needs {what}, and the file does not say how to reach it", router.name),
        "without it requests or replies end at this router, with nothing in any log",
        format!("add `ssh:`, `local:` or `netns:` to it, or see to it yourself: {cure}"),
    )
}
