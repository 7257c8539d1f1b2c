//! Test targets of a service: where clients send requests, and where real servers listen.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::checks;
use super::responders::Endpoint;
use crate::state::Protocol;
use crate::topology::{RealServer, Service, Topology};

/// Test ports of a service for every port.
const PORTS_OF_ANY: [u16; 2] = [22, 80];
/// First candidate for an unmarked test port.
const FIRST_UNMARKED_PORT: u16 = 8081;

/// A destination of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestTarget {
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub at: SocketAddr,
}

fn ports(service: &Service) -> BTreeSet<u16> {
    let ports = service.ports();
    if ports.is_empty() { PORTS_OF_ANY.into() } else { ports }
}

/// Where clients send requests for `service`. Empty without a VIP: the file does not have its addresses.
pub fn of_service(service: &Service) -> Vec<RequestTarget> {
    let Some(vip) = service.vip_address() else { return Vec::new() };
    let ports = ports(service);
    let all = service.protocols().into_iter().flat_map(|protocol| {
        let at = |port: &u16| RequestTarget { protocol, at: SocketAddr::new(vip, *port) };
        ports.iter().map(at).collect::<Vec<_>>()
    });
    all.collect()
}

/// Where `server` listens for `service`.
pub fn of_server(service: &Service, server: &RealServer) -> Vec<RequestTarget> {
    let ports = if server.port == 0 { ports(service) } else { BTreeSet::from([server.port]) };
    let all = service.protocols().into_iter().flat_map(|protocol| {
        let at = |port: &u16| RequestTarget { protocol, at: SocketAddr::new(server.rip, *port) };
        ports.iter().map(at).collect::<Vec<_>>()
    });
    all.collect()
}

/// For a service with a mark that lvsprov sets: its address and protocol on a port that is not marked and
/// belongs to no other service. Real servers listen there too, so that only the mark makes the
/// difference. `None` if the director is a real server: it would answer by itself.
pub fn unmarked(topology: &Topology, service: &Service) -> Option<RequestTarget> {
    let mark = service.mark.as_ref().filter(|mark| mark.ours && !mark.ports.is_empty())?;
    let vip = service.vip_address()?;
    if service.real_servers.iter().any(|server| server.host == service.director) {
        return None;
    }
    let others = topology.services.iter().filter(|other| other.vip_address() == Some(vip));
    let taken: BTreeSet<u16> = others.flat_map(Service::ports).collect();
    let port = (FIRST_UNMARKED_PORT..u16::MAX).find(|port| !taken.contains(port))?;
    Some(RequestTarget { protocol: *mark.protocols.first()?, at: SocketAddr::new(vip, port) })
}

/// All endpoints of the real servers of `topology`: for clients, and for health checks.
pub fn endpoints(topology: &Topology) -> BTreeSet<Endpoint> {
    let mut all = checks::endpoints(topology);
    for service in &topology.services {
        let beside = unmarked(topology, service);
        for server in &service.real_servers {
            for RequestTarget { protocol, at } in
                of_server(service, server).into_iter().chain(beside)
            {
                all.insert(Endpoint { host: server.host.clone(), protocol, port: at.port() });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TOPOLOGY: &str = "
version: 1
name: targets
networks: {lan: [192.0.2.0/24]}
defaults: {forward: nat, scheduler: rr}
hosts:
  client: {role: client, interfaces: {eth0: 192.0.2.9/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.1/24}}
  rs1: {role: real_server, interfaces: {eth0: 192.0.2.11/24}}
services:
";

    fn topology(services: &str) -> Topology {
        let text = TOPOLOGY.to_owned() + services;
        crate::topology::read("targets", &text).topology.unwrap()
    }

    fn listed(targets: &[RequestTarget]) -> Vec<String> {
        targets.iter().map(|target| format!("{} {}", target.protocol, target.at)).collect()
    }

    #[test]
    fn clients_use_the_vips_port_and_real_servers_the_mapped_one() {
        let topology =
            topology("  - {vip: 192.0.2.80, port: 80, real_servers: [{host: rs1, port: 8080}]}\n");
        let service = &topology.services[0];
        assert_eq!(listed(&of_service(service)), ["tcp 192.0.2.80:80"]);
        let behind = of_server(service, &service.real_servers[0]);
        assert_eq!(listed(&behind), ["tcp 192.0.2.11:8080"]);
        assert_eq!(unmarked(&topology, service), None);
    }

    #[test]
    fn a_service_for_every_port_has_two_test_ports() {
        let topology =
            topology("  - {vip: 192.0.2.80, port: any, persistence: 60, real_servers: [rs1]}\n");
        let service = &topology.services[0];
        assert_eq!(listed(&of_service(service)), ["tcp 192.0.2.80:22", "tcp 192.0.2.80:80"]);
        let ports: Vec<u16> = endpoints(&topology).into_iter().map(|at| at.port).collect();
        assert_eq!(ports, [22, 80]);
    }

    #[test]
    fn a_mark_has_an_unmarked_test_port_of_no_other_service() {
        let topology = topology(
            "  - {vip: 192.0.2.80, mark: 8, ports: [80, 443], protocol: [tcp, udp], real_servers: [rs1]}\n  \
             - {vip: 192.0.2.80, port: 8081, real_servers: [rs1]}\n",
        );
        let service = topology.services.iter().find(|service| service.mark.is_some()).unwrap();
        assert_eq!(
            listed(&of_service(service)),
            ["tcp 192.0.2.80:80", "tcp 192.0.2.80:443", "udp 192.0.2.80:80", "udp 192.0.2.80:443"]
        );
        let beside = unmarked(&topology, service).unwrap();
        assert_eq!(listed(&[beside]), ["tcp 192.0.2.80:8082"]);
        assert!(endpoints(&topology).iter().any(|at| at.port == 8082));
    }
}
