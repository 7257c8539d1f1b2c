//! For tests only: clusters made by hand or by chance, on one network.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::topology::{
    Forward, Gateway, Host, HostName, Interface, Network, Position, Protocol, RealServer, Role,
    Scheduler, Service, Topology,
};

/// A client, a director and three real servers in 10.0.0.0/24, with some services.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub topology: Topology,
}

const AT: Position = Position { line: 0, column: 0, length: 0 };

impl Cluster {
    /// Services by method, port and the numbers (1-3) of their real servers. NAT and the others do not
    /// share a real server, as a gateway cannot be both.
    pub fn of(services: &[(Forward, u16, Vec<u8>)]) -> Self {
        let nat: BTreeSet<u8> = services
            .iter()
            .filter(|(forward, ..)| *forward == Forward::Nat)
            .flat_map(|(.., servers)| servers.clone())
            .collect();
        let mut hosts = BTreeMap::new();
        hosts.extend([
            host("client", Role::Client, 9, None),
            host("director", Role::Director, 8, None),
        ]);
        for number in 1..=3 {
            let gateway = if nat.contains(&number) { ("director", 8) } else { ("client", 9) };
            hosts.extend([host(&format!("rs{number}"), Role::RealServer, number, Some(gateway))]);
        }
        let mut services: Vec<Service> = services
            .iter()
            .map(|(forward, port, servers)| service(*forward, *port, servers, &nat))
            .collect();
        services.sort_by_key(|service| service.port);
        let network = Network {
            name: "lan".parse().unwrap(),
            subnets: vec!["10.0.0.0/24".parse().unwrap()],
            at: AT,
        };
        let topology = Topology {
            name: "t".parse().unwrap(),
            networks: [(network.name.clone(), network)].into(),
            hosts,
            services,
        };
        Self { topology }
    }

    /// Which host has an address of this cluster.
    pub fn host_with(address: IpAddr) -> HostName {
        let IpAddr::V4(address) = address else { panic!("{address} is not of this cluster") };
        format!("rs{}", address.octets()[3]).parse().unwrap()
    }
}

fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn host(name: &str, role: Role, number: u8, gateway: Option<(&str, u8)>) -> (HostName, Host) {
    let name: HostName = name.parse().unwrap();
    let interface = Interface {
        name: "eth0".parse().unwrap(),
        addresses: vec![ipnet::IpNet::new(address(number), 24).unwrap()],
        network: Some("lan".parse().unwrap()),
        at: AT,
    };
    let gateway = gateway.map(|(host, number)| Gateway {
        address: address(number),
        host: Some(host.parse().unwrap()),
        interface: interface.name.clone(),
        derived: false,
        at: AT,
    });
    let host = Host {
        name: name.clone(),
        roles: [role].into(),
        interfaces: [(interface.name.clone(), interface)].into(),
        gateways: gateway.into_iter().collect(),
        ipvs: crate::topology::IpvsSettings::default(),
        reach: None,
        at: AT,
    };
    (name, host)
}

fn service(forward: Forward, port: u16, servers: &[u8], nat: &BTreeSet<u8>) -> Service {
    let servers: BTreeSet<u8> = servers
        .iter()
        .copied()
        .filter(|number| forward == Forward::Nat || !nat.contains(number))
        .collect();
    let real_servers = servers.iter().map(|number| RealServer {
        host: format!("rs{number}").parse().unwrap(),
        rip: address(*number),
        interface: "eth0".parse().unwrap(),
        port,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        forward,
        tunnel: crate::state::Tunnel::Ipip,
        at: AT,
    });
    Service {
        name: format!("s{port}").parse().unwrap(),
        vip: Some(crate::topology::Vip {
            address: [10, 0, 0, 100 + u8::try_from(port % 2).unwrap()].into(),
            prefix: None,
            interface: "eth0".parse().unwrap(),
            at: AT,
        }),
        ipv6: false,
        port,
        protocol: Protocol::Tcp,
        mark: None,
        scheduler: Scheduler::Rr,
        scheduler_flags: BTreeSet::new(),
        persistence: None,
        one_packet: false,
        director: "director".parse().unwrap(),
        real_servers: real_servers.collect(),
        at: AT,
    }
}

/// Up to three services by chance, each with some of the three real servers.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let forward = select(vec![Forward::Nat, Forward::Dr, Forward::Tun]);
    let service = (forward, vec(1..=3u8, 1..4));
    vec(service, 1..4).prop_map(|services| {
        let ports = 80..;
        let services: Vec<_> = services
            .into_iter()
            .zip(ports)
            .map(|((forward, servers), port)| (forward, port, servers))
            .collect();
        Cluster::of(&services)
    })
}
