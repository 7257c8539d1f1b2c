//! Test clusters on one network, fixed or random.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod fuzz;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::finding::Position;
use crate::names::HostName;
use crate::state::{
    HostState, Intent, JOURNAL_VERSION, Journal, OpenTransaction, Operator, Protocol,
    TransactionId, Tunnel,
};
use crate::topology::{
    FirewallMark, Forward, Gateway, Host, Interface, Network, Persistence, RealServer, Role,
    Scheduler, Service, Topology,
};

/// An apply of `t` that was cut off on `hosts`, with `before` in its journal and nothing else.
pub(crate) fn unfinished(hosts: &[&str], before: HostState) -> OpenTransaction {
    let journal = Journal {
        version: JOURNAL_VERSION,
        topology: "t".parse().unwrap(),
        transaction: TransactionId::from_bits(1),
        intent: Intent::Apply,
        by: Operator { user: "u".to_owned(), host: "h".to_owned(), pid: 1 },
        since: 0,
        hosts: hosts.iter().map(|name| name.parse().unwrap()).collect(),
        stages: Vec::new(),
        touched: before.items(),
        before,
    };
    OpenTransaction {
        journal,
        receipt_before: None,
        voted: false,
        holder: None,
        reverts_in_ms: None,
        restarted: false,
        notes: Vec::new(),
    }
}

/// A client, a director and three real servers in 10.0.0.0/24, with some services.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub topology: Topology,
}

const AT: Position = Position { line: 0, column: 0, length: 0 };

impl Cluster {
    /// Services by method, port and the numbers (1-3) of their real servers. NAT does not share a real
    /// server with other methods, because the gateways differ.
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
            persist: true,
            promise: crate::topology::Promise::default(),
            name: "t".parse().unwrap(),
            networks: [(network.name.clone(), network)].into(),
            hosts,
            services,
            pace: crate::topology::PaceOverride::default(),
            maintenance: crate::state::Maintenance::default(),
        };
        Self { topology }
    }

    /// The host with an address of this cluster.
    pub fn host_with(address: IpAddr) -> HostName {
        let number = match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        if number == 8 {
            return "director".parse().unwrap();
        }
        format!("rs{number}").parse().unwrap()
    }

    /// The director's address of a family.
    pub fn address_of_director(ipv6: bool) -> IpAddr {
        if ipv6 { address6(8) } else { address_of(8) }
    }

    /// The same cluster with both address families on every host, and with the variants of its services.
    fn with_variants(mut self, variants: &[ServiceVariant], tunnel: Tunnel) -> Self {
        for host in self.topology.hosts.values_mut() {
            for interface in host.interfaces.values_mut() {
                let number = match interface.addresses[0].addr() {
                    IpAddr::V4(address) => address.octets()[3],
                    IpAddr::V6(address) => panic!("{address}: IPv4 comes first"),
                };
                let net = ipnet::IpNet::new(address6(number), 64).unwrap();
                interface.addresses.push(net);
            }
            let mut second = host.gateways.clone();
            for gateway in &mut second {
                gateway.address = other_family(gateway.address);
            }
            host.gateways.extend(second);
        }
        for (service, variant) in self.topology.services.iter_mut().zip(variants) {
            service.apply_variant(*variant, tunnel);
        }
        self
    }
}

fn address_of(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn address6(number: u8) -> IpAddr {
    [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)].into()
}

fn other_family(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => address6(v4.octets()[3]),
        IpAddr::V6(v6) => address_of(v6.octets()[15]),
    }
}

/// A variant of a service.
#[allow(clippy::struct_excessive_bools, reason = "all combinations are valid")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceVariant {
    /// Its VIP is IPv6.
    ipv6: bool,
    /// Its RIPs are of the other address family: needs tunnels.
    mixed: bool,
    /// Its key is a firewall mark.
    marked: bool,
    /// FULLNAT instead of direct routing.
    fullnat: bool,
    /// The director is a real server too.
    local: bool,
    /// Persistent, for every port.
    persistent: bool,
}

impl Service {
    fn apply_variant(&mut self, variant: ServiceVariant, tunnel: Tunnel) {
        let ServiceVariant { ipv6, mixed, marked, fullnat, local, persistent } = variant;
        self.ipv6 = ipv6;
        if let Some(vip) = self.vip.as_mut().filter(|_| ipv6) {
            vip.address = other_family(vip.address);
        }
        for rs in &mut self.real_servers {
            rs.tunnel = if rs.forward == Forward::Tun { tunnel } else { Tunnel::Ipip };
            if ipv6 != (mixed && rs.forward == Forward::Tun) {
                rs.rip = other_family(rs.rip);
            }
            if rs.forward == Forward::Dr && fullnat {
                rs.forward = Forward::Fullnat;
            }
        }
        if let Some(first) = self.real_servers.first().filter(|_| local).cloned() {
            let rip = if first.rip.is_ipv4() { address_of(8) } else { address6(8) };
            let host = "director".parse().unwrap();
            self.real_servers.push(RealServer { host, rip, ..first });
        }
        if persistent {
            let netmask = if ipv6 { 128 } else { u32::MAX };
            self.persistence = Some(Persistence { timeout: 600, netmask, engine: None });
        }
        if marked {
            let ports = BTreeSet::from([self.port]);
            let protocols = BTreeSet::from([Protocol::Tcp, Protocol::Udp]);
            let mark = u32::from(self.port);
            self.mark = Some(FirewallMark { mark, protocols, ports, ours: true });
            self.port = 0;
            self.real_servers.iter_mut().for_each(|rs| rs.port = 0);
        }
    }
}

fn host(name: &str, role: Role, number: u8, gateway: Option<(&str, u8)>) -> (HostName, Host) {
    let name: HostName = name.parse().unwrap();
    let interface = Interface {
        name: "eth0".parse().unwrap(),
        addresses: vec![ipnet::IpNet::new(address_of(number), 24).unwrap()],
        network: Some("lan".parse().unwrap()),
        mtu: None,
        at: AT,
    };
    let gateway = gateway.map(|(host, number)| Gateway {
        address: address_of(number),
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
        routes: Vec::new(),
        ipvs: crate::topology::IpvsSettings::default(),
        drift: None,
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
        rip: address_of(*number),
        interface: "eth0".parse().unwrap(),
        port,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        forward,
        tunnel: crate::state::Tunnel::Ipip,
        tunnel_sources: crate::topology::TunnelSources::default(),
        check: None,
        sorry: false,
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
        pace: crate::topology::Pace { drain: crate::topology::Pace::DRAIN, ramp: 0 },
        weights: crate::topology::WeightSource::File,
        quorum: None,
        director: "director".parse().unwrap(),
        real_servers: real_servers.collect(),
        at: AT,
    }
}

/// Up to three random services, each with some of the three real servers, in all variants.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let forward = select(vec![Forward::Nat, Forward::Dr, Forward::Tun]);
    let service = (forward, vec(1..=3u8, 1..4), variant());
    // One tunnel type in a cluster: a RIP cannot receive two kinds of checksum.
    let tunnel = select(vec![
        Tunnel::Ipip,
        Tunnel::Gue { port: 6080, flags: 0 },
        Tunnel::Gue { port: 6081, flags: 2 },
        Tunnel::Gre { flags: 0 },
        Tunnel::Gre { flags: 1 },
    ]);
    (vec(service, 1..4), tunnel).prop_map(|(services, tunnel)| {
        let ports = 80..;
        let variants: Vec<ServiceVariant> = services.iter().map(|(.., variant)| *variant).collect();
        let services: Vec<_> = services
            .into_iter()
            .zip(ports)
            .map(|((forward, servers, _), port)| (forward, port, servers))
            .collect();
        Cluster::of(&services).with_variants(&variants, tunnel)
    })
}

fn variant() -> impl Strategy<Value = ServiceVariant> {
    vec(any::<bool>(), 6).prop_map(|said| ServiceVariant {
        ipv6: said[0],
        mixed: said[1],
        marked: said[2],
        fullnat: said[3],
        local: said[4],
        persistent: said[5],
    })
}
