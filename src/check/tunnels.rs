//! Rules about the receiving side of tunnels: tunnels that one real server cannot receive together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Subject;
use crate::finding::Finding;
use crate::names::HostName;
use crate::state::{Protocol, Tunnel};
use crate::topology::{RealServer, Role, Service, TunnelSources};

fn tunnelled<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a Service, &'a RealServer)> {
    let services = subject.topology.services.iter();
    services
        .flat_map(|service| service.real_servers.iter().map(move |real| (service, real)))
        .filter(|(service, real)| real.forward.encapsulates() && real.host != service.director)
}

/// One GRE device receives all packets to a RIP, either with checksums or without (net/ipv4/ip_tunnel.c,
/// `ip_tunnel_lookup` and `ip_tunnel_rcv`).
pub(super) fn gre_checksums(subject: &Subject<'_>) -> Vec<Finding> {
    let mut seen: BTreeMap<_, &RealServer> = BTreeMap::new();
    let mut all: Vec<_> = tunnelled(subject).collect();
    all.sort_by_key(|(_, real)| real.at);
    let mut findings = Vec::new();
    for (_, real) in all {
        let Tunnel::Gre { flags } = real.tunnel else { continue };
        let first = *seen.entry((&real.host, real.rip)).or_insert(real);
        if first.tunnel == (Tunnel::Gre { flags }) {
            continue;
        }
        findings.push(Finding::error(
            "gre-checksums-differ",
            real.at,
            format!(
                "{} gets GRE packets both with and without a checksum (see {}:{})",
                real.host, first.at.line, first.at.column
            ),
            "one device receives all GRE packets to an address, and drops packets of the other kind",
            "write the same `checksum:` for both, or give one of them another `address:`",
        ));
    }
    findings
}

/// A UDP port has one receiver: the kernel's GUE decapsulation, or an application.
pub(super) fn gue_port_taken(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let gue = |real: &RealServer| match real.tunnel {
        Tunnel::Gue { port, .. } => Some(port),
        Tunnel::Ipip | Tunnel::Gre { .. } => None,
    };
    let wanted: BTreeSet<u16> = tunnelled(subject).filter_map(|(_, real)| gue(real)).collect();
    let mut listening: HashMap<(&HostName, u16), &Service> = HashMap::new();
    for service in &subject.topology.services {
        let udp = service.protocols().contains(&Protocol::Udp);
        let ports = service.ports();
        for other in service.real_servers.iter().filter(|_| udp) {
            let own = BTreeSet::from([other.port]);
            let ports = if other.port == 0 { &ports } else { &own };
            for port in ports.intersection(&wanted) {
                listening.entry((&other.host, *port)).or_insert(service);
            }
        }
    }
    for (service, real) in tunnelled(subject) {
        let Some(port) = gue(real) else { continue };
        let Some(other) = listening.get(&(&real.host, port)) else { continue };
        findings.push(Finding::error(
            "gue-port-taken",
            real.at,
            format!(
                "{} receives GUE on UDP port {port}, and serves {} on the same port",
                real.host,
                other.display_name()
            ),
            format!(
                "the kernel treats every packet to that port as GUE: either {} or {} does not work",
                service.display_name(),
                other.display_name()
            ),
            "choose another `port:` for the tunnel",
        ));
    }
    findings
}

/// A sync daemon means that another director takes over. Real servers take wrapped packets from directors of the file only
/// (desired/tunnel_guard.rs).
pub(super) fn partner_unknown(subject: &Subject<'_>) -> Vec<Finding> {
    let all: Vec<_> = subject.topology.with_role(Role::Director).collect();
    let [only] = all.as_slice() else { return Vec::new() };
    let of_directors = |real: &RealServer| matches!(&real.tunnel_sources, TunnelSources::Directors { further } if further.is_empty());
    let guarded = tunnelled(subject).find(|(_, real)| of_directors(real));
    let daemon = only.ipvs.daemons.keys().next();
    let (Some((service, _)), Some(daemon), true) = (guarded, daemon, subject.whole) else {
        return Vec::new();
    };
    let at = only.ipvs.daemons_at.get(daemon).copied().unwrap_or(only.at);
    vec![Finding::warning(
        "sync-partner-unknown",
        at,
        format!(
            "{} has a sync daemon, and the file has no other director: real servers of {} would drop what that one wraps",
            only.name,
            service.display_name()
        ),
        "real servers take wrapped packets from directors of the file only: any host could reach them past the director \
         otherwise",
        "add the other director to `hosts`, or name its address under the service: `tunnel: {type: ipip, sources: [ADDRESS]}`",
    )]
}
