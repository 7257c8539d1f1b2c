//! Rules about VIPs: who else has the address, and what its prefix covers.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{ENOUGH, Subject};
use crate::finding::Finding;
use crate::names::IfName;
use crate::topology::{Network, Service, Vip};

/// A VIP that a host other than its director has already.
pub(super) fn is_own_address(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, vip) in subject.with_vip() {
        let having = subject.index.having.get(&vip.address).into_iter().flatten();
        for (host, interface) in having.filter(|(host, _)| host.name != service.director) {
            if findings.len() >= ENOUGH {
                return findings;
            }
            let serves = service.real_servers.iter().any(|r| r.host == host.name);
            let (why, cure) = if serves {
                (
                    "lvsprov puts the VIP onto a real server itself, after the settings that keep it silent; there before them, it takes requests away from the director",
                    format!("remove it from {} in the file (and from the host)", interface.name),
                )
            } else {
                (
                    "two machines that answer ARP for one address take each other's packets",
                    "choose another VIP, or another address for this host".to_owned(),
                )
            };
            findings.push(Finding::error(
                "vip-is-own-address",
                interface.at,
                format!(
                    "the VIP {} of {} is an address of {} on {}",
                    vip.address,
                    service.spoken(),
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
type WithVip<'a> = (&'a Service, &'a Vip);

/// Pairs of a service and an earlier one with the same VIP that it does not agree with.
fn disagreements<'a>(
    subject: &Subject<'a>,
    differ: impl Fn(WithVip<'_>, WithVip<'_>) -> bool,
) -> Vec<(WithVip<'a>, WithVip<'a>)> {
    let mut first: HashMap<IpAddr, WithVip<'a>> = HashMap::new();
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

/// One VIP on two machines.
pub(super) fn on_two_directors(subject: &Subject<'_>) -> Vec<Finding> {
    let pairs = disagreements(subject, |(a, _), (b, _)| a.director != b.director);
    let finding = |((first, _), (second, vip)): (WithVip<'_>, WithVip<'_>)| {
        Finding::error(
            "vip-on-two-directors",
            vip.at,
            format!("{} would be on {} and on {}", vip.address, first.director, second.director),
            "both answer ARP for it, and a client reaches one or the other by chance",
            "use one director for all services of a VIP, or two VIPs",
        )
    };
    pairs.into_iter().map(finding).collect()
}

/// One VIP with two prefix lengths, or with another than the director has it with.
pub(super) fn prefix_differs(subject: &Subject<'_>) -> Vec<Finding> {
    let differ = |(a, first): WithVip<'_>, (b, second): WithVip<'_>| {
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
            "an address is on an interface once, with one prefix length",
            "write the prefix length once, or the same everywhere",
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
                format!("{} has {own} on {} already, not /{prefix}", director.name, interface.name),
                "an address is on an interface once, with one prefix length",
                format!("write `vip: {}`", vip.address),
            ));
        }
    }
    findings
}

/// One VIP on two interfaces, or on another than has it already.
pub(super) fn interface_differs(subject: &Subject<'_>) -> Vec<Finding> {
    let differ = |(a, first): WithVip<'_>, (b, second): WithVip<'_>| {
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
            "an address belongs on one interface",
            format!("let every service of {} say the same `vip_interface:`, or none", vip.address),
        )
    };
    found.into_iter().map(finding).collect()
}

/// A VIP's prefix that covers a subnet on another wire.
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
            if findings.len() >= ENOUGH {
                return findings;
            }
            findings.push(Finding::error(
                "vip-mask-overlaps",
                vip.at,
                format!(
                    "/{} covers {subnet} of network {}, which is on another wire",
                    net.prefix_len(),
                    network.name
                ),
                format!("the director would look for all of {} on {}", net.trunc(), vip.interface),
                format!("write `vip: {}` without a prefix length", vip.address),
            ));
        }
    }
    findings
}

/// The network whose subnet holds the VIP, if that is not the one that the VIP is put onto.
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

/// A VIP on one wire whose subnet is on another: who is on that wire asks there, in vain.
pub(super) fn wrong_network(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (service, vip) in subject.with_vip() {
        let Some(network) = other_network(subject, service) else { continue };
        let director = subject.host(&service.director);
        let near = director.and_then(|d| subject.topology.interfaces_on(d, &network.name).next());
        let cure = match near {
            Some(interface) => {
                format!("write `vip_interface: {}`, or leave it away", interface.name)
            }
            None => format!(
                "put {} onto network {}, or choose a VIP from one of its own networks",
                service.director, network.name
            ),
        };
        findings.push(Finding::error(
            "vip-wrong-network",
            vip.at,
            format!(
                "{} is in a subnet of network {}, and {} of {} is not on it",
                vip.address, network.name, vip.interface, service.director
            ),
            "routers and hosts of that network look for the VIP on their own wire, where nobody answers",
            cure,
        ));
    }
    findings
}

/// A VIP that is the first or last address of a subnet it lies in.
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
            "the first address of a subnet names the subnet, the last one is its broadcast address",
            "choose a VIP in between",
        ));
    }
    findings
}

/// An interface whose prefix length is not its subnet's.
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
                    format!("{address} of {} has another prefix length than {subnet}, the subnet it is in", host.name),
                    "hosts that disagree about where a subnet ends do not find some of their neighbours",
                    format!("write {}/{}, or correct the subnet", address.addr(), subnet.prefix_len()),
                ));
            }
        }
    }
    findings
}
