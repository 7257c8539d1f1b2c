//! What of a service can be tried: where clients send requests, and where real servers listen.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::responders::Endpoint;
use crate::state::Protocol;
use crate::topology::{RealServer, Service, Topology};

/// Of a service on every port these are tried.
const OF_EVERY_PORT: [u16; 2] = [22, 80];
/// Ports to try that nobody marks begin here.
const UNMARKED: u16 = 8081;

/// One thing to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// How it is asked.
    pub protocol: Protocol,
    /// Where.
    pub at: SocketAddr,
}

fn protocols(service: &Service) -> BTreeSet<Protocol> {
    match &service.mark {
        Some(mark) => mark.protocols.clone(),
        None => BTreeSet::from([service.protocol]),
    }
}

fn ports(service: &Service) -> BTreeSet<u16> {
    let ports = service.ports();
    if ports.is_empty() { OF_EVERY_PORT.into() } else { ports }
}

/// Where clients send requests for `service`. None where only others' rules say what belongs to it.
pub fn of_service(service: &Service) -> Vec<Target> {
    let Some(vip) = service.vip_address() else { return Vec::new() };
    let ports = ports(service);
    let all = protocols(service).into_iter().flat_map(|protocol| {
        let at = |port: &u16| Target { protocol, at: SocketAddr::new(vip, *port) };
        ports.iter().map(at).collect::<Vec<_>>()
    });
    all.collect()
}

/// Where `server` listens for `service`.
pub fn of_server(service: &Service, server: &RealServer) -> Vec<Target> {
    let ports = if server.port == 0 { ports(service) } else { BTreeSet::from([server.port]) };
    let all = protocols(service).into_iter().flat_map(|protocol| {
        let at = |port: &u16| Target { protocol, at: SocketAddr::new(server.rip, *port) };
        ports.iter().map(at).collect::<Vec<_>>()
    });
    all.collect()
}

/// For a service of marks that lvsprov sets: the same address and protocol on a port that is not
/// marked and belongs to no other service. Real servers listen there as well, so that it is the mark
/// which makes the difference. None where the director would answer by itself.
pub fn unmarked(topology: &Topology, service: &Service) -> Option<Target> {
    let mark = service.mark.as_ref().filter(|mark| mark.ours && !mark.ports.is_empty())?;
    let vip = service.vip_address()?;
    if service.real_servers.iter().any(|server| server.host == service.director) {
        return None;
    }
    let others = topology.services.iter().filter(|other| other.vip_address() == Some(vip));
    let taken: BTreeSet<u16> = others.flat_map(Service::ports).collect();
    let port = (UNMARKED..u16::MAX).find(|port| !taken.contains(port))?;
    Some(Target { protocol: *mark.protocols.first()?, at: SocketAddr::new(vip, port) })
}

/// Everything that the real servers of `topology` listen at.
pub fn endpoints(topology: &Topology) -> BTreeSet<Endpoint> {
    let mut all = BTreeSet::new();
    for service in &topology.services {
        let beside = unmarked(topology, service);
        for server in &service.real_servers {
            for Target { protocol, at } in of_server(service, server).into_iter().chain(beside) {
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

    fn told(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| format!("{} {}", target.protocol, target.at)).collect()
    }

    #[test]
    fn a_mapped_port_is_asked_at_the_vip_and_listened_at_behind_it() {
        let topology =
            topology("  - {vip: 192.0.2.80, port: 80, real_servers: [{host: rs1, port: 8080}]}\n");
        let service = &topology.services[0];
        assert_eq!(told(&of_service(service)), ["tcp 192.0.2.80:80"]);
        let behind = of_server(service, &service.real_servers[0]);
        assert_eq!(told(&behind), ["tcp 192.0.2.11:8080"]);
        assert_eq!(unmarked(&topology, service), None);
    }

    #[test]
    fn of_every_port_two_are_tried() {
        let topology =
            topology("  - {vip: 192.0.2.80, port: any, persistence: 60, real_servers: [rs1]}\n");
        let service = &topology.services[0];
        assert_eq!(told(&of_service(service)), ["tcp 192.0.2.80:22", "tcp 192.0.2.80:80"]);
        let ports: Vec<u16> = endpoints(&topology).into_iter().map(|at| at.port).collect();
        assert_eq!(ports, [22, 80]);
    }

    #[test]
    fn beside_a_marks_ports_one_is_tried_that_nobody_has() {
        let topology = topology(
            "  - {vip: 192.0.2.80, mark: 8, ports: [80, 443], protocol: [tcp, udp], real_servers: [rs1]}\n  \
             - {vip: 192.0.2.80, port: 8081, real_servers: [rs1]}\n",
        );
        let service = topology.services.iter().find(|service| service.mark.is_some()).unwrap();
        assert_eq!(
            told(&of_service(service)),
            ["tcp 192.0.2.80:80", "tcp 192.0.2.80:443", "udp 192.0.2.80:80", "udp 192.0.2.80:443"]
        );
        let beside = unmarked(&topology, service).unwrap();
        assert_eq!(told(&[beside]), ["tcp 192.0.2.80:8082"]);
        assert!(endpoints(&topology).iter().any(|at| at.port == 8082));
    }
}
