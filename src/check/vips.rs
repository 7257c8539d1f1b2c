//! Rules about VIPs: other owners of the address, and the subnet of its prefix length.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{MAX_FINDINGS, Subject};
use crate::finding::Finding;
use crate::names::IfName;
use crate::topology::{Network, Service, Vip};

/// A VIP that is an address of a host other than its director.
pub(super) fn is_own_address(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, vip) in subject.with_vip() {
        let holders = subject.index.holders.get(&vip.address).into_iter().flatten();
        for (host, interface) in holders.filter(|(host, _)| host.name != service.director) {
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            let serves = service.real_servers.iter().any(|r| r.host == host.name);
            let (why, cure) = if serves {
                (
                    "lvsprov adds the VIP to a real server itself, after the settings that stop ARP replies for it; a VIP without those settings takes requests away from the director",
                    format!("remove it from {} in the file (and from the host)", interface.name),
                )
            } else {
                (
                    "two hosts that answer ARP for one address take each other's packets",
                    "choose another VIP, or another address for this host".to_owned(),
                )
            };
            findings.push(Finding::error(
                "vip-is-own-address",
                interface.at,
                format!(
                    "the VIP {} of {} is an address of {} on {}",
                    vip.address,
                    service.display_name(),
                    interface.name,
                    host.name
                ),
                why,
                cure,
            ));
        }
    }
    findings
}

/// A service with its VIP.
type ServiceWithVip<'a> = (&'a Service, &'a Vip);

/// Pairs of services with the same VIP, the earlier one first, for which `differ` is true.
fn disagreements<'a>(
    subject: &Subject<'a>,
    differ: impl Fn(ServiceWithVip<'_>, ServiceWithVip<'_>) -> bool,
) -> Vec<(ServiceWithVip<'a>, ServiceWithVip<'a>)> {
    let mut first: HashMap<IpAddr, ServiceWithVip<'a>> = HashMap::new();
    let mut services: Vec<_> = subject.with_vip().collect();
    services.sort_by_key(|(service, _)| service.at);
    let mut found = Vec::new();
    for service in services {
        let earlier = *first.entry(service.1.address).or_insert(service);
        if differ(earlier, service) {
            found.push((earlier, service));
        }
    }
    found
}

/// One VIP on two directors.
pub(super) fn on_two_directors(subject: &Subject<'_>) -> Vec<Finding> {
    let pairs = disagreements(subject, |(a, _), (b, _)| a.director != b.director);
    let finding = |((first, _), (second, vip)): (ServiceWithVip<'_>, ServiceWithVip<'_>)| {
        Finding::error(
            "vip-on-two-directors",
            vip.at,
            format!("{} would be on {} and on {}", vip.address, first.director, second.director),
            "both answer ARP for it, and clients reach one or the other at random",
            "use one director for all services of a VIP, or two VIPs",
        )
    };
    pairs.into_iter().map(finding).collect()
}

/// One VIP with two prefix lengths, or with another one than on the director.
pub(super) fn prefix_differs(subject: &Subject<'_>) -> Vec<Finding> {
    let differ = |(a, first): ServiceWithVip<'_>, (b, second): ServiceWithVip<'_>| {
        a.director == b.director && first.prefix != second.prefix
    };
    let mut findings = Vec::new();
    for ((_, first), (_, second)) in disagreements(subject, differ) {
        findings.push(Finding::error(
            "vip-prefix-differs",
            second.at,
            format!(
                "{} has another prefix length at {}:{}",
                second.address, first.at.line, first.at.column
            ),
            "lvsprov sets an address once, with one prefix length",
            "write the prefix length in one service, or the same in all",
        ));
    }
    for (service, vip) in subject.with_vip() {
        let Some(director) = subject.host(&service.director) else { continue };
        let (Some((interface, own)), Some(prefix)) =
            (director.interface_with(vip.address), vip.prefix)
        else {
            continue;
        };
        if own.prefix_len() != prefix {
            findings.push(Finding::error(
                "vip-prefix-differs",
                vip.at,
                format!("{} already has {own} on {}, not /{prefix}", director.name, interface.name),
                "lvsprov sets an address once, with one prefix length",
                format!("write `vip: {}`", vip.address),
            ));
        }
    }
    findings
}

/// One VIP on two interfaces, or on another interface than its existing one.
pub(super) fn interface_differs(subject: &Subject<'_>) -> Vec<Finding> {
    let differ = |(a, first): ServiceWithVip<'_>, (b, second): ServiceWithVip<'_>| {
        a.director == b.director && first.interface != second.interface
    };
    let mut found: Vec<(&Vip, &IfName)> = disagreements(subject, differ)
        .into_iter()
        .map(|((_, first), (_, second))| (second, &first.interface))
        .collect();
    for (service, vip) in subject.with_vip() {
        let director = subject.host(&service.director);
        if let Some((own, _)) = director.and_then(|d| d.interface_with(vip.address))
            && own.name != vip.interface
        {
            found.push((vip, &own.name));
        }
    }
    let finding = |(vip, other): (&Vip, &IfName)| {
        Finding::error(
            "vip-interface-differs",
            vip.at,
            format!("{} would be on {other} and on {}", vip.address, vip.interface),
            "lvsprov sets an address on one interface only",
            format!(
                "write the same `vip_interface:` in every service of {}, or in none",
                vip.address
            ),
        )
    };
    found.into_iter().map(finding).collect()
}

/// A VIP's prefix length that covers a subnet of another network.
pub(super) fn mask_overlaps(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, vip) in subject.with_vip() {
        let Some(net) = vip.prefix.and_then(|p| IpNet::new(vip.address, p).ok()) else {
            continue;
        };
        if net.prefix_len() >= net.max_prefix_len() {
            continue;
        }
        let director = subject.host(&service.director);
        let wire = director.and_then(|d| d.interfaces.get(&vip.interface)?.network.as_ref());
        for network in subject.topology.networks.values().filter(|n| Some(&n.name) != wire) {
            let overlaps = |s: &&IpNet| s.contains(&net.trunc()) || net.contains(*s);
            let Some(subnet) = network.subnets.iter().find(overlaps) else { continue };
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            findings.push(Finding::error(
                "vip-mask-overlaps",
                vip.at,
                format!(
                    "the VIP's /{} covers {subnet}, which is on another network, {}",
                    net.prefix_len(),
                    network.name
                ),
                format!(
                    "the director would treat all of {} as on-link on {}",
                    net.trunc(),
                    vip.interface
                ),
                format!("write `vip: {}` without a prefix length", vip.address),
            ));
        }
    }
    findings
}

/// The network whose subnet contains the VIP, if the VIP's interface is on another network.
pub(super) fn other_network<'a>(subject: &Subject<'a>, service: &Service) -> Option<&'a Network> {
    let vip = service.vip.as_ref()?;
    let director = subject.host(&service.director).filter(|d| !subject.is_unclear(d))?;
    let wire = director.interfaces.get(&vip.interface)?.network.as_ref()?;
    let holds = |n: &&Network| n.subnets.iter().any(|s| s.contains(&vip.address));
    let networks = &subject.topology.networks;
    if networks.get(wire).is_some_and(|n| holds(&n)) {
        return None;
    }
    networks.values().find(holds)
}

/// A VIP on another network than its subnet: hosts of the subnet send ARP requests on the wrong network.
pub(super) fn wrong_network(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, vip) in subject.with_vip() {
        let Some(network) = other_network(subject, service) else { continue };
        let director = subject.host(&service.director);
        let near = director.and_then(|d| subject.topology.interfaces_on(d, &network.name).next());
        let cure = match near {
            Some(interface) => {
                format!("write `vip_interface: {}`, or remove `vip_interface`", interface.name)
            }
            None => format!(
                "connect {} to network {}, or choose a VIP from one of its networks",
                service.director, network.name
            ),
        };
        findings.push(Finding::error(
            "vip-wrong-network",
            vip.at,
            format!(
                "{} is in a subnet of network {}, but {} of {} is not on that network",
                vip.address, network.name, vip.interface, service.director
            ),
            "hosts of that network look for the VIP there, and no host answers",
            cure,
        ));
    }
    findings
}

/// A VIP that is the first or last address of its subnet.
pub(super) fn end_of_subnet(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let subnets: Vec<&IpNet> =
        subject.topology.networks.values().flat_map(|n| &n.subnets).collect();
    for (_, vip) in subject.with_vip() {
        let ends = |s: &&&IpNet| {
            s.addr().is_ipv4()
                && s.max_prefix_len() - s.prefix_len() > 1
                && (s.network() == vip.address || s.broadcast() == vip.address)
        };
        let Some(subnet) = subnets.iter().find(ends) else { continue };
        let (rule, end) = if subnet.network() == vip.address {
            ("network-address", "first")
        } else {
            ("broadcast-address", "last")
        };
        findings.push(Finding::error(
            rule,
            vip.at,
            format!("{} is the {end} address of {subnet}", vip.address),
            "the first address of a subnet is its network address, the last one its broadcast address",
            "choose another address as VIP",
        ));
    }
    findings
}

/// An interface with another prefix length than its subnet.
pub(super) fn mask_of_interface(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for host in subject.topology.hosts.values() {
        for interface in host.interfaces.values() {
            let network = interface.network.as_ref().and_then(|n| subject.topology.networks.get(n));
            let Some(network) = network else { continue };
            for address in &interface.addresses {
                let known = network.subnets.iter().any(|s| *s == address.trunc());
                let Some(subnet) = network.subnets.iter().find(|s| s.contains(&address.addr()))
                else {
                    continue;
                };
                if known || address.prefix_len() == address.max_prefix_len() {
                    continue;
                }
                findings.push(Finding::warning(
                    "mask-differs",
                    interface.at,
                    format!(
                        "{address} of {} has another prefix length than its subnet {subnet}",
                        host.name
                    ),
                    "hosts with different prefix lengths do not reach some of their neighbours",
                    format!(
                        "write {}/{}, or correct the subnet",
                        address.addr(),
                        subnet.prefix_len()
                    ),
                ));
            }
        }
    }
    findings
}
