//! Rules about health checks: what keepalived cannot carry out, quorum and sorry server, marks that checks use.

use std::cmp::Reverse;

use super::Subject;
use crate::desired::CheckAims;
use crate::finding::Finding;
use crate::keepalived;
use crate::names::HostName;
use crate::state::Protocol;
use crate::topology::{Check, CheckQuestion, CheckWay, RealServer, Service, Topology};

/// A check that keepalived cannot carry out, or whose answer says nothing about the service.
pub(super) fn impossible(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for director in subject.topology.checking_directors() {
        let aims = CheckAims::of(subject.topology, director);
        for service in of_director(subject.topology, director) {
            for rs in &service.real_servers {
                let Some(check) = &rs.check else { continue };
                if let Some((message, why, cure)) = why_impossible(&aims, service, rs, check) {
                    findings.push(Finding::error("check-impossible", check.at, message, why, cure));
                }
            }
        }
        findings.extend(line_too_long(subject.topology, director));
    }
    findings
}

fn of_director<'a>(
    topology: &'a Topology,
    director: &'a HostName,
) -> impl Iterator<Item = &'a Service> {
    topology.services.iter().filter(move |service| service.director == *director)
}

type Parts = (String, &'static str, &'static str);

fn why_impossible(
    aims: &CheckAims<'_>,
    service: &Service,
    rs: &RealServer,
    check: &Check,
) -> Option<Parts> {
    let kind = check.question.as_str();
    let name = service.display_name();
    let is_script = matches!(check.question, CheckQuestion::Script { .. });
    let protocols = service.protocols();
    let speaks_tcp = protocols.contains(&Protocol::Tcp);
    let asks_udp = matches!(check.question, CheckQuestion::Dns { .. });
    let speaks_udp = protocols.contains(&Protocol::Udp);
    if !is_script && !asks_udp && !speaks_tcp && check.port.is_none() {
        return Some((
            format!("a check of type {kind} asks over TCP, and {name} has no TCP"),
            "keepalived would ask a TCP port that may not exist, or one of another program: the answer says nothing about the service",
            "write `type: dns` or `type: script`, or a `port` that answers over TCP",
        ));
    }
    if asks_udp && !speaks_udp && check.port.is_none() {
        return Some((
            format!("a check of type dns asks over UDP, and {name} has no UDP"),
            "keepalived asks DNS over UDP only (check_dns.c, `dns_connect_thread`)",
            "write `type: tcp`, or a `port` that answers DNS over UDP",
        ));
    }
    if !is_script && service.check_port(rs).is_none() {
        return Some((
            format!("the check of {name} has no port: the service is for every port"),
            "keepalived asks one port",
            "add `port:` to the check",
        ));
    }
    if check.way == CheckWay::Vip && !rs.forward.rewrites() && !is_script {
        if service.vip.is_none() {
            return Some((
                format!("the check of {} should go to the VIP, and {name} has none", rs.host),
                "without a VIP lvsprov does not know to which address clients send",
                "add `vip:` to the service, or `via: rip` to the check",
            ));
        }
        if aims.source(service, rs).is_none() {
            return Some((
                format!("{} has no address to check {name} from", service.director),
                "to a VIP of its own a host sends from that VIP, and the real server would answer itself",
                "give the director an address of the VIP's family, or add `via: rip` to the check",
            ));
        }
    }
    None
}

/// keepalived reads no more of a line than 1024 bytes.
fn line_too_long(topology: &Topology, director: &HostName) -> Option<Finding> {
    let text = keepalived::configuration(topology, director)?;
    let longest = text.lines().map(str::len).max().filter(|it| *it > keepalived::LONGEST_LINE)?;
    let services = of_director(topology, director);
    let checks = services.flat_map(|it| &it.real_servers).filter_map(|rs| rs.check.as_ref());
    let at = checks.max_by_key(|check| (check.question.text_length(), Reverse(check.at)))?.at;
    Some(Finding::error(
        "check-impossible",
        at,
        format!("this check becomes a line of {longest} bytes in keepalived's configuration"),
        "keepalived cuts a line off after 1024 bytes (lib/parser.h, `MAXBUF`)",
        "shorten the text, the expression or the command; put a long command into a script",
    ))
}

/// A quorum that is never met, and a sorry server that is out with the rest.
pub(super) fn quorum(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let sum: u64 = service.serving().map(|rs| u64::from(rs.weight)).sum();
        let is_in_maintenance =
            service.serving().any(|rs| subject.topology.maintenance.contains(&rs.host));
        if let Some(quorum) = service.quorum.filter(|it| u64::from(it.weight) > sum)
            && subject.whole
            && !is_in_maintenance
        {
            findings.push(Finding::error(
                "quorum-unreachable",
                quorum.at,
                format!(
                    "the quorum of {} is {}, and the weights of its real servers are {sum} together",
                    service.display_name(),
                    quorum.weight
                ),
                "keepalived adds up weights, not real servers: the quorum is never met, and the sorry server gets every request",
                "write a smaller `quorum`, or larger weights",
            ));
        }
        let Some(sorry) = service.sorry_server() else { continue };
        if service.serving().any(|rs| rs.host == sorry.host) {
            findings.push(Finding::error(
                "quorum-unreachable",
                sorry.at,
                format!("the sorry server {} is a real server of {} too", sorry.host, service.display_name()),
                "where the quorum is lost it may be dead itself, and keepalived removes the one as it adds the other",
                "name another host, or remove it from `real_servers`",
            ));
        }
    }
    findings
}

/// A mark that lvsprov has given to a check already.
pub(super) fn mark_taken(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for director in subject.topology.checking_directors() {
        let aims = CheckAims::of(subject.topology, director);
        let services = of_director(subject.topology, director);
        for (service, mark) in services.filter_map(|it| Some((it, it.mark.as_ref()?))) {
            let taken = aims
                .marks()
                .iter()
                .find(|(target, other)| **other == mark.mark && target.ipv6 == service.ipv6);
            let Some((target, _)) = taken else { continue };
            findings.push(Finding::error(
                "check-mark-taken",
                service.at,
                format!(
                    "{} has the mark {} ({:#x}), and so have the health checks of {}",
                    service.display_name(),
                    mark.mark,
                    mark.mark,
                    target.rip
                ),
                "IPVS has one service for a mark: clients and checks would be forwarded to each other's real servers",
                "choose a mark below 1280704512 (0x4c560000) or above 1280770047",
            ));
        }
    }
    findings
}
