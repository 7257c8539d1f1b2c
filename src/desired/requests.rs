//! The requests that must be answered: each client, each service, each real server.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::director::{self, protocols};
use crate::state::{DestinationKey, Protocol};
use crate::topology::{Host, RealServer, Role, Service, Topology};
use crate::walk::{Cause, Death, WalkRequest, WalkVerdict, World};

/// A port for services that take every port.
const ANY: u16 = 80;

/// A request, and what of the file it is about.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedRequest<'a> {
    /// The client.
    pub client: &'a Host,
    /// The service.
    pub service: &'a Service,
    /// The real server to which it goes.
    pub real_server: &'a RealServer,
    /// The same for the walk.
    pub request: WalkRequest<'a>,
}

/// Every request of `topology`.
pub fn every_request(topology: &Topology) -> impl Iterator<Item = ExpectedRequest<'_>> {
    let clients: Vec<&Host> = topology.with_role(Role::Client).collect();
    let services = topology.services.iter().filter_map(|it| Some((it, it.vip_address()?)));
    services.flat_map(move |(service, vip)| {
        let port = asked_port(topology, service, vip);
        let mut found = Vec::new();
        for real_server in service.serving() {
            let known = topology.hosts.contains_key(&real_server.host);
            for client in clients.iter().filter(|client| known && has_family(client, vip)) {
                let request = request(service, (vip, port), client, real_server);
                found.push(ExpectedRequest { client, service, real_server, request });
            }
        }
        found
    })
}

/// The requests of `topology`. Of several that take the same way, ports and protocols aside, the first.
pub fn expected_requests(topology: &Topology) -> impl Iterator<Item = ExpectedRequest<'_>> {
    one_of_each_way(every_request(topology), |_| false)
}

/// The same through `world`, and those that rules of other programs drop: these tell ports apart.
pub fn requests_through<'a>(topology: &'a Topology, world: &World) -> Vec<ExpectedRequest<'a>> {
    let is_filtered = |it: &ExpectedRequest<'_>| {
        world.is_filtered()
            && matches!(
                world.walk(&it.request).end,
                WalkVerdict::Dead { death: Death { cause: Cause::Filtered { .. }, .. }, .. }
            )
    };
    one_of_each_way(every_request(topology), is_filtered).collect()
}

/// The requests of TCP, which makes packets as large as the way takes; of several that take the same way, the first.
pub fn large_requests(topology: &Topology) -> impl Iterator<Item = ExpectedRequest<'_>> {
    let is_tcp = |it: &ExpectedRequest<'_>| it.request.protocol == Protocol::Tcp;
    one_of_each_way(every_request(topology).filter(is_tcp), |_| false)
}

fn one_of_each_way<'a>(
    all: impl Iterator<Item = ExpectedRequest<'a>>,
    is_of_interest: impl Fn(&ExpectedRequest<'a>) -> bool,
) -> impl Iterator<Item = ExpectedRequest<'a>> {
    let mut ways = BTreeSet::new();
    all.filter(move |expected| {
        let ExpectedRequest { client, service, real_server, request } = expected;
        let RealServer { forward, tunnel, rip, .. } = real_server;
        let tunnel = format!("{tunnel:?}");
        // A client with the VIP answers itself, if it serves.
        let serves = service.real_servers.iter().any(|server| server.host == client.name);
        let way = (&client.name, &service.director, request.vip, *forward, *rip, tunnel);
        ways.insert((way, serves)) || is_of_interest(expected)
    })
}

/// Requests of services that no client of the file can ask, for [`World::any_client`]: one for each real server.
pub fn requests_of_any_client(
    topology: &Topology,
) -> impl Iterator<Item = (&Service, &RealServer, WalkRequest<'_>)> {
    let clients: Vec<&Host> = topology.with_role(Role::Client).collect();
    let services = topology.services.iter().filter_map(|it| Some((it, it.vip_address()?)));
    services.filter(move |(_, vip)| !clients.iter().any(|it| has_family(it, *vip))).flat_map(
        |(service, vip)| {
            let port = asked_port(topology, service, vip);
            let known = |it: &&RealServer| topology.hosts.contains_key(&it.host);
            let director = topology.hosts.get(&service.director);
            let pairs = service.serving().filter(known).zip(std::iter::repeat(director));
            pairs.filter_map(move |(real_server, director)| {
                let request = request(service, (vip, port), director?, real_server);
                Some((service, real_server, request))
            })
        },
    )
}

fn has_family(client: &Host, vip: IpAddr) -> bool {
    let mut addresses = client.interfaces.values().flat_map(|interface| &interface.addresses);
    addresses.any(|net| net.addr().is_ipv4() == vip.is_ipv4())
}

/// A port that the service takes, and no other of its VIP: IPVS asks for the exact port first.
fn asked_port(topology: &Topology, service: &Service, vip: IpAddr) -> u16 {
    if let Some(port) = service.ports().first() {
        return *port;
    }
    let services = &topology.services;
    // They are sorted by VIP.
    let first = services.partition_point(|other| other.vip_address() < Some(vip));
    let of_vip = services[first..].iter().take_while(|other| other.vip_address() == Some(vip));
    let taken: BTreeSet<u16> = of_vip.flat_map(Service::ports).collect();
    (ANY..u16::MAX).find(|port| !taken.contains(port)).unwrap_or(ANY)
}

fn request<'a>(
    service: &'a Service,
    (vip, port): (IpAddr, u16),
    client: &'a Host,
    real_server: &'a RealServer,
) -> WalkRequest<'a> {
    WalkRequest {
        client: &client.name,
        vip,
        protocol: protocols(service).next().unwrap_or(Protocol::Tcp),
        port,
        director: &service.director,
        real_server: &real_server.host,
        destination: DestinationKey::new(real_server.rip, director::port(service, real_server)),
    }
}
