//! Topologies by hand, in the shapes that the seeds have.

use std::collections::{BTreeMap, BTreeSet};

use lvsprov::topology::{
    Forward, Host, Interface, Network, Position, Protocol, RealServer, Role, Scheduler, Service,
    Topology,
};

pub struct Sketch(Topology);

impl Sketch {
    pub fn new(name: &str, networks: &[(&str, &[&str])]) -> Self {
        let networks = networks.iter().map(|(name, subnets)| {
            let network = Network {
                name: name.parse().unwrap(),
                subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
                at: Position::default(),
            };
            (network.name.clone(), network)
        });
        let networks = networks.collect();
        let name = name.parse().unwrap();
        Self(Topology { name, networks, hosts: BTreeMap::new(), services: Vec::new() })
    }

    /// Interfaces are (name, network, addresses).
    pub fn host(mut self, name: &str, role: Role, interfaces: &[(&str, &str, &[&str])]) -> Self {
        let interfaces = interfaces.iter().map(|(name, network, addresses)| {
            let interface = Interface {
                name: name.parse().unwrap(),
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                network: Some(network.parse().unwrap()),
                at: Position::default(),
            };
            (interface.name.clone(), interface)
        });
        let host = Host {
            name: name.parse().unwrap(),
            roles: BTreeSet::from([role]),
            interfaces: interfaces.collect(),
            gateway: None,
            reach: None,
            at: Position::default(),
        };
        self.0.hosts.insert(host.name.clone(), host);
        self
    }

    /// Real servers are (host, RIP, port, weight).
    pub fn service(
        mut self,
        forward: Forward,
        (vip, port, protocol): (&str, u16, Protocol),
        scheduler: Scheduler,
        real_servers: &[(&str, &str, u16, u32)],
    ) -> Self {
        let real_servers = real_servers.iter().map(|(host, rip, port, weight)| RealServer {
            host: host.parse().unwrap(),
            rip: rip.parse().unwrap(),
            interface: "eth0".parse().unwrap(),
            port: *port,
            weight: *weight,
            at: Position::default(),
        });
        self.0.services.push(Service {
            name: format!("{protocol}-{port}").parse().unwrap(),
            vip: vip.parse().unwrap(),
            vip_prefix: None,
            port,
            protocol,
            scheduler,
            forward,
            director: "director".parse().unwrap(),
            vip_interface: "eth0".parse().unwrap(),
            real_servers: real_servers.collect(),
            at: Position::default(),
            vip_at: Position::default(),
        });
        self
    }

    pub fn done(self) -> Topology {
        self.0
    }
}

/// One network, a client, a director and two real servers; TCP and UDP.
pub fn dr_one_network() -> Topology {
    let rs = [("web1", "172.25.7.3", 80, 1), ("web2", "172.25.7.4", 80, 1)];
    let dns = [("web1", "172.25.7.3", 53, 1), ("web2", "172.25.7.4", 53, 1)];
    Sketch::new("dr-one-network", &[("lan", &["172.25.7.0/24"])])
        .host("client", Role::Client, &[("eth0", "lan", &["172.25.7.250/24"])])
        .host("director", Role::Director, &[("eth0", "lan", &["172.25.7.2/24"])])
        .host("web1", Role::RealServer, &[("eth0", "lan", &["172.25.7.3/24"])])
        .host("web2", Role::RealServer, &[("eth0", "lan", &["172.25.7.4/24"])])
        .service(Forward::Dr, ("172.25.7.200", 80, Protocol::Tcp), Scheduler::Rr, &rs)
        .service(Forward::Dr, ("172.25.7.200", 53, Protocol::Udp), Scheduler::Rr, &dns)
        .done()
}

/// Three subnets on two segments behind a router.
pub fn dr_two_networks() -> Topology {
    let rs = [("web1", "192.168.142.132", 80, 1), ("web2", "192.168.142.130", 80, 2)];
    let farm: &[&str] = &["172.18.0.0/16", "192.168.142.0/24"];
    let routed: [(&str, &str, &[&str]); 3] = [
        ("eth0", "clients", &["192.168.244.129/24"]),
        ("eth1", "farm", &["172.18.253.251/16"]),
        ("eth2", "farm", &["192.168.142.133/24"]),
    ];
    Sketch::new("dr-two-networks", &[("clients", &["192.168.244.0/24"]), ("farm", farm)])
        .host("client", Role::Client, &[("eth0", "clients", &["192.168.244.128/24"])])
        .host("router", Role::Router, &routed)
        .host("director", Role::Director, &[("eth0", "farm", &["192.168.142.129/24"])])
        .host("web1", Role::RealServer, &[("eth0", "farm", &["192.168.142.132/24"])])
        .host("web2", Role::RealServer, &[("eth0", "farm", &["192.168.142.130/24"])])
        .service(Forward::Dr, ("172.18.253.53", 80, Protocol::Tcp), Scheduler::Rr, &rs)
        .done()
}

/// The real servers on a network of their own, and a port that NAT maps.
pub fn nat_two_nics() -> Topology {
    let rs = [("web1", "192.168.12.11", 8080, 1), ("web2", "192.168.12.12", 8080, 3)];
    let nets: [(&str, &[&str]); 2] =
        [("outside", &["172.16.0.0/16"]), ("inside", &["192.168.12.0/24"])];
    let director: [(&str, &str, &[&str]); 2] =
        [("eth0", "outside", &["172.16.100.8/16"]), ("eth1", "inside", &["192.168.12.1/24"])];
    Sketch::new("nat-two-nics", &nets)
        .host("client", Role::Client, &[("eth0", "outside", &["172.16.100.10/16"])])
        .host("director", Role::Director, &director)
        .host("web1", Role::RealServer, &[("eth0", "inside", &["192.168.12.11/24"])])
        .host("web2", Role::RealServer, &[("eth0", "inside", &["192.168.12.12/24"])])
        .service(Forward::Nat, ("172.16.100.8", 80, Protocol::Tcp), Scheduler::Wlc, &rs)
        .done()
}
