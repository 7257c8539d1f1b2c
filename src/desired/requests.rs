//! The requests that must be answered: each client, each service, each real server.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::director::{port, protocols};
use crate::state::{DestinationKey, Protocol};
use crate::topology::{Host, RealServer, Role, Service, Topology};
use crate::walk::WalkRequest;

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
        let mut found = Vec::new();
        for real_server in &service.real_servers {
            let known = topology.hosts.contains_key(&real_server.host);
            for client in clients.iter().filter(|client| known && has_family(client, vip)) {
                let request = request(service, vip, client, real_server);
                found.push(ExpectedRequest { client, service, real_server, request });
            }
        }
        found
    })
}

/// The requests of `topology`. Of several that take the same way, ports and protocols aside, the first.
pub fn expected_requests(topology: &Topology) -> impl Iterator<Item = ExpectedRequest<'_>> {
    let mut ways = BTreeSet::new();
    every_request(topology).filter(
        move |ExpectedRequest { client, service, real_server, request }| {
            let RealServer { forward, tunnel, rip, .. } = real_server;
            let tunnel = format!("{tunnel:?}");
            ways.insert((&client.name, &service.director, request.vip, *forward, *rip, tunnel))
        },
    )
}

fn has_family(client: &Host, vip: IpAddr) -> bool {
    let mut addresses = client.interfaces.values().flat_map(|interface| &interface.addresses);
    addresses.any(|net| net.addr().is_ipv4() == vip.is_ipv4())
}

fn request<'a>(
    service: &'a Service,
    vip: IpAddr,
    client: &'a Host,
    real_server: &'a RealServer,
) -> WalkRequest<'a> {
    WalkRequest {
        client: &client.name,
        vip,
        protocol: protocols(service).next().unwrap_or(Protocol::Tcp),
        port: service.ports().first().copied().unwrap_or(ANY),
        director: &service.director,
        real_server: &real_server.host,
        destination: DestinationKey::new(real_server.rip, port(service, real_server)),
    }
}
