//! Rules about static routes that the kernel would take and that do not lead where they say.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Subject;
use crate::finding::Finding;
use crate::topology::{Forward, Host, StaticRoute};

/// The static routes of hosts whose values are all valid.
fn routes<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a Host, &'a StaticRoute)> {
    let hosts = subject.topology.hosts.values();
    let clear =
        hosts.filter(|host| !subject.is_unclear(host) && !subject.has_unclear_gateway(host));
    clear.flat_map(|host| host.routes.iter().map(move |route| (host, route)))
}

/// A route to a subnet or an address that the host has itself.
pub(super) fn to_connected(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, StaticRoute { to, via }) in routes(subject) {
        let alone = to.prefix_len() == to.max_prefix_len();
        if alone && takes(subject, host, to.addr()) {
            findings.push(Finding::error(
                "route-to-connected",
                via.at,
                format!("{} is an address of {} itself", to.addr(), host.name),
                "the kernel asks the table of its own addresses first: the route would have no effect",
                "remove the route",
            ));
            continue;
        }
        let connected = subject.on_link(host, to.addr()).filter(|(_, net)| net.trunc() == *to);
        if let Some((interface, _)) = connected {
            findings.push(Finding::error(
                "route-to-connected",
                via.at,
                format!("{to} is connected to {} on {}", host.name, interface.name),
                "the address there makes a route to the whole subnet: this one would take its place and cut the \
                 host off from its neighbours",
                "remove the route; for single hosts of that subnet write their addresses with /32 (IPv6: /128)",
            ));
        }
    }
    findings
}

/// Whether `host` has `address`, or gets it as a VIP.
fn takes(subject: &Subject<'_>, host: &Host, address: IpAddr) -> bool {
    let serves = || {
        let with_vip = subject.with_vip().filter(|(_, vip)| vip.address == address);
        let mut real = with_vip.flat_map(|(service, _)| &service.real_servers);
        real.any(|real| real.host == host.name && !Forward::rewrites(real.forward))
    };
    subject.has(host, address) || serves()
}

/// A route by a host of the file that drops the packets.
pub(super) fn via_no_router(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, StaticRoute { to, via }) in routes(subject) {
        let Some(next) = via.host.as_ref().and_then(|name| subject.host(name)) else { continue };
        if subject.is_unclear(next) || subject.forwards(next) || takes_itself(subject, next, to) {
            continue;
        }
        findings.push(Finding::warning(
            "route-via-no-router",
            via.at,
            format!(
                "the route of {} to {to} leads by {}, which does not forward",
                host.name, next.name
            ),
            "it drops packets for other hosts, and logs nothing",
            format!("add router to the roles of {}, or name another next hop", next.name),
        ));
    }
    findings
}

/// Whether `host` takes packets to `net` itself: it is its own address, or holds a VIP that it directs.
fn takes_itself(subject: &Subject<'_>, host: &Host, net: &IpNet) -> bool {
    let mut own = host.interfaces.values().flat_map(|interface| &interface.addresses);
    let mut vips = subject.with_vip().filter(|(service, _)| service.director == host.name);
    own.any(|address| IpNet::from(address.addr()) == *net)
        || vips.any(|(_, vip)| net.contains(&vip.address))
}
