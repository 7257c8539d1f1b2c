//! Rules about firewall marks: whose packets they take, and what lvsprov cannot see to where it does
//! not know the addresses.

use super::{ENOUGH, Subject};
use crate::finding::Finding;
use crate::state::Protocol;
use crate::topology::{Mark, Service};

/// A mark goes first: IPVS looks for a service of the packet's mark before it looks for one of its
/// address (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_service_find`). And of two rules that mark one
/// packet, the last one wins.
pub(super) fn overlap(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut services: Vec<&Service> = subject.topology.services.iter().collect();
    services.sort_by_key(|service| service.at);
    for (turn, marked) in services.iter().enumerate() {
        let Some(mark) = marked.mark.as_ref().filter(|mark| mark.ours) else { continue };
        for (other_turn, other) in services.iter().enumerate() {
            let same =
                marked.director == other.director && marked.vip_address() == other.vip_address();
            // Of two marks, the later one is told.
            if !same || other_turn == turn || (other.mark.is_some() && other_turn > turn) {
                continue;
            }
            let Some(packets) = common(mark, other) else { continue };
            if findings.len() >= ENOUGH {
                return findings;
            }
            let (at, message, why) = match &other.mark {
                None => (
                    other.vip.as_ref().map_or(other.at, |vip| vip.at),
                    format!(
                        "{} never gets {packets}: they are marked for {}",
                        other.spoken(),
                        marked.spoken()
                    ),
                    "the kernel looks for a service of the packet's mark first, and for one of its address only if there is none",
                ),
                Some(_) => (
                    marked.at,
                    format!(
                        "{packets} are marked for {} and for {}",
                        other.spoken(),
                        marked.spoken()
                    ),
                    "a packet has one mark: one of the two services gets nothing",
                ),
            };
            findings.push(Finding::error(
                "mark-overlaps",
                at,
                message,
                why,
                "take the port out of one of them",
            ));
        }
    }
    findings
}

/// Packets that are marked, and belong to `other` too; in words.
fn common(mark: &Mark, other: &Service) -> Option<String> {
    let others: Vec<Protocol> = match &other.mark {
        Some(mark) if !mark.ours => return None,
        Some(mark) => mark.protocols.iter().copied().collect(),
        None => vec![other.protocol],
    };
    let protocol = others.into_iter().find(|protocol| mark.protocols.contains(protocol))?;
    let ports = other.ports();
    // A service of every port lives beside narrower ones: it takes what is left.
    if ports.is_empty() && other.mark.is_none() && !mark.ports.is_empty() {
        return None;
    }
    if mark.ports.is_empty() || ports.is_empty() {
        return Some(format!("{protocol} packets"));
    }
    let port = mark.ports.intersection(&ports).next()?;
    Some(format!("{protocol} packets to port {port}"))
}

/// Trap 13: without a VIP nobody knows on which machines its packets must count as local.
pub(super) fn without_address(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| service.vip.is_none()) {
        let bare = service.real_servers.iter().find(|real| !real.forward.rewrites());
        let (whose, cure) = match bare {
            Some(real) => (
                format!(
                    "the director {} and real servers such as {} must",
                    service.director, real.host
                ),
                "see that they do (an address, or `ip route add local ADDRESS dev lo`), or add `vip:`",
            ),
            None => (
                format!("the director {} must", service.director),
                "see that it does (an address, or an `ip rule fwmark` with a local route), or add `vip:`",
            ),
        };
        findings.push(Finding::note(
            "mark-without-vip",
            service.at,
            format!("{whose} take the packets that others mark as their own"),
            "IPVS looks only at packets for the machine itself; the file does not say which addresses they are sent to, so lvsprov sets none",
            cure,
        ));
    }
    findings
}
