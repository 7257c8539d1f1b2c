//! Rules about NAT: replies go back through the director.

use std::net::IpAddr;

use super::reach::{clients, real_servers};
use super::{MAX_FINDINGS, Subject, cure};
use crate::finding::Finding;
use crate::topology::{Forward, Gateway, Host, NextHop, RealServer, StaticRoute};

/// Trap 14: replies that bypass the director are not rewritten.
pub(super) fn nat_gateway(subject: &Subject<'_>) -> Vec<Finding> {
    const WHY: &str = "under nat only the director can restore the VIP as the source of a reply: the client resets or ignores a reply that bypasses it";
    let mut findings = Vec::new();
    for (service, real, host, director) in real_servers(subject, Forward::needs_director_as_gateway)
    {
        let name = &director.name;
        let vip = service.vip_address().unwrap_or(real.rip);
        let hops = subject.hops_of_replies(host, vip);
        let past = hops.iter().find(|hop| hop.host.as_ref() != Some(name));
        let finding = match past {
            None if !hops.is_empty() => continue,
            Some(hop) => {
                let is = hop.host.as_ref().map_or(hop.address.to_string(), ToString::to_string);
                let (message, cure) = past_director(subject, (vip, real, host, director), hop, &is);
                Finding::error("nat-gateway", hop.at, message, WHY, cure)
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

/// The message and the cure where replies leave `host` by `hop`, which `is` not the director.
fn past_director(
    subject: &Subject<'_>,
    (vip, real, host, director): (IpAddr, &RealServer, &Host, &Host),
    hop: &Gateway,
    is: &str,
) -> (String, String) {
    let name = &director.name;
    if let Some(StaticRoute { to, .. }) = host.routes.iter().find(|route| route.via == *hop) {
        return (
            format!("the route of {} to {to} leads by {is}, not by the director {name}", host.name),
            format!("write `via: {name}` there, or remove the route"),
        );
    }
    let cure = format!("write `gateway: {name}`, or remove `gateway`: lvsprov derives it for nat");
    let client = clients(subject, vip).into_iter().map(|(_, source)| source).next();
    let by_route = host
        .interfaces
        .get(&real.interface)
        .zip(client)
        .and_then(|(dev, client)| cure::route_through(subject, (dev, director), client));
    let cure = match by_route {
        Some(route) => format!("{cure}; or keep it, and add `{route}` to `routes:`"),
        None => cure,
    };
    (format!("the gateway of {} is {is}, not the director {name}", host.name), cure)
}

/// Trap 15: a client that is on-link for a NAT real server.
pub(super) fn nat_client_on_link(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, real, host, _) in real_servers(subject, Forward::needs_director_as_gateway) {
        let Some(vip) = service.vip_address() else { continue };
        for (client, source) in clients(subject, vip) {
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            let hop = host.next_hop_beside(subject.on_link(host, source), source);
            if matches!(hop, Some(NextHop::OnLink(..))) && client.name != host.name {
                findings.push(Finding::error(
                    "nat-client-on-link",
                    client.at,
                    format!("{} ({source}) is in the subnet of {}, a real server of {}", client.name, real.host, service.display_name()),
                    "the real server replies directly, past the director, and the client resets a reply from an address other than the VIP",
                    "move the client or the real servers into another subnet, or use `forward: dr`",
                ));
            }
        }
    }
    findings
}
