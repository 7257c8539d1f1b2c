//! Rules about firewall marks: overlaps with other services, and marks without a VIP.

use super::{MAX_FINDINGS, Subject};
use crate::finding::Finding;
use crate::state::Protocol;
use crate::topology::{FirewallMark, Service};

/// The mark wins: IPVS looks for a service with the packet's mark before one with its address
/// (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_service_find`). If two rules mark one packet, the last one
/// wins.
pub(super) fn overlap(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut services: Vec<&Service> = subject.topology.services.iter().collect();
    services.sort_by_key(|service| service.at);
    for (turn, marked) in services.iter().enumerate() {
        let Some(mark) = marked.mark.as_ref().filter(|mark| mark.ours) else { continue };
        for (other_turn, other) in services.iter().enumerate() {
            let same =
                marked.director == other.director && marked.vip_address() == other.vip_address();
            // Of two marks, the later one gets the finding.
            if !same || other_turn == turn || (other.mark.is_some() && other_turn > turn) {
                continue;
            }
            let Some(packets) = common(mark, other) else { continue };
            if findings.len() >= MAX_FINDINGS {
                return findings;
            }
            let (at, message, why) = match &other.mark {
                None => (
                    other.vip.as_ref().map_or(other.at, |vip| vip.at),
                    format!(
                        "{} never gets {packets}: they are marked for {}",
                        other.display_name(),
                        marked.display_name()
                    ),
                    "the kernel first looks for a service with the packet's mark, and only then for one with its address",
                ),
                Some(_) => (
                    marked.at,
                    format!(
                        "{packets} are marked for {} and for {}",
                        other.display_name(),
                        marked.display_name()
                    ),
                    "a packet has one mark: one of the two services gets no packets",
                ),
            };
            findings.push(Finding::error(
                "mark-overlaps",
                at,
                message,
                why,
                "remove the port from one of them",
            ));
        }
    }
    findings
}

/// Packets of `mark` that match `other` too, for a message.
fn common(mark: &FirewallMark, other: &Service) -> Option<String> {
    let others: Vec<Protocol> = match &other.mark {
        Some(mark) if !mark.ours => return None,
        Some(mark) => mark.protocols.iter().copied().collect(),
        None => vec![other.protocol],
    };
    let protocol = others.into_iter().find(|protocol| mark.protocols.contains(protocol))?;
    let ports = other.ports();
    // A service for every port takes only packets that no narrower service matches.
    if ports.is_empty() && other.mark.is_none() && !mark.ports.is_empty() {
        return None;
    }
    if mark.ports.is_empty() || ports.is_empty() {
        return Some(format!("{protocol} packets"));
    }
    let port = mark.ports.intersection(&ports).next()?;
    Some(format!("{protocol} packets to port {port}"))
}

/// Trap 13: without a VIP lvsprov does not know which addresses must be local on which hosts.
pub(super) fn without_address(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| service.vip.is_none()) {
        let bare = service.real_servers.iter().find(|real| !real.forward.rewrites());
        let (whose, cure) = match bare {
            Some(real) => (
                format!("the director {} and real servers such as {}", service.director, real.host),
                "add the address on each of them (or `ip route add local ADDRESS dev lo`), or add `vip:`",
            ),
            None => (
                format!("the director {}", service.director),
                "add the address there (or an `ip rule fwmark` with a local route), or add `vip:`",
            ),
        };
        findings.push(Finding::note(
            "mark-without-vip",
            service.at,
            format!("{whose} must treat the marked packets as local"),
            "IPVS handles only packets to local addresses; the file does not have the destination addresses, so lvsprov sets none",
            cure,
        ));
    }
    findings
}
