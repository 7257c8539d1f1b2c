//! What the director gets: IPVS and its rules, the VIP, and for NAT the settings of a router.

use std::net::{IpAddr, Ipv4Addr};

use super::{Desired, label};
use crate::state::{
    Address, AddressKey, ConfItem, Destination, DestinationKey, ForwardingMethod, Module, Scope,
    ServiceKey, Sysctl, Tunnel, VirtualService,
};
use crate::topology::{Forward, Host, IfName, Service, Topology};

use ipnet::IpNet;

/// Adds what `service` needs on its director `host`.
pub(super) fn settle(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    desired.module(Module::IpVs, "the director passes requests on with IPVS");
    vip(host, service, desired);
    if service.uses(Forward::Nat) {
        forwarding(host, service, desired);
    }
    rules(topology, service, desired);
}

/// The VIP on the interface where requests come in: as a host address unless the file gives a
/// prefix. A shorter prefix would add a connected route, which only the file can say is right.
fn vip(host: &Host, service: &Service, desired: &mut Desired) {
    let Some(vip) = &service.vip else { return };
    if host.interface_with(vip.address).is_some() {
        return;
    }
    let Ok(net) = IpNet::new(vip.address, vip.prefix_on_director()) else { return };
    let key = AddressKey { dev: vip.interface.clone(), net };
    let address = Address {
        scope: Scope::Global,
        label: label(&vip.interface),
        broadcast: None,
        nodad: false,
    };
    let why = format!(
        "requests for {} are sent to {}: the director takes them on {}, and only it answers ARP for it",
        service.spoken(),
        vip.address,
        vip.interface
    );
    desired.address(key, address, why);
}

/// NAT: requests and replies pass through the director. Not so for DR and TUN, which send from the
/// input path (net/netfilter/ipvs/ip_vs_xmit.c) and need no forwarding, whatever recipes say.
fn forwarding(host: &Host, service: &Service, desired: &mut Desired) {
    desired.sysctl(
        Sysctl::IpForward,
        "1",
        format!(
            "NAT: the real servers' replies for {} pass through the director, which must forward them",
            service.spoken()
        ),
    );
    if let Some(dev) = one_armed(host, service) {
        let why = format!(
            "NAT with one interface: replies leave by {dev}, where they came in, so the kernel would \
             send ICMP redirects and real servers would start to answer clients directly; a redirect \
             is sent if `all` OR the interface says so"
        );
        desired.sysctl(Sysctl::all(ConfItem::SendRedirects), "0", why.clone());
        desired.sysctl(Sysctl::dev(&dev, ConfItem::SendRedirects), "0", why);
    }
}

/// The VIP's interface, if real servers are reached over it as well.
fn one_armed(host: &Host, service: &Service) -> Option<IfName> {
    let to_real_servers =
        service.real_servers.iter().filter_map(|rs| host.on_link(rs.rip)).map(|(dev, _)| &dev.name);
    let outside = &service.vip.as_ref()?.interface;
    to_real_servers.into_iter().find(|dev| *dev == outside).cloned()
}

fn rules(topology: &Topology, service: &Service, desired: &mut Desired) {
    let key = service_key(service);
    let why = format!(
        "service {}: {} decides which real server gets a new connection",
        service.spoken(),
        service.scheduler
    );
    desired.service(key.clone(), VirtualService::plain(&key, service.scheduler.as_str()), why);
    for rs in &service.real_servers {
        let destination = Destination {
            method: method(rs.forward),
            weight: rs.weight,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel::Ipip,
        };
        let mut why = format!("{} is a real server of {}", rs.host, service.spoken());
        if rs.port != service.port {
            why = format!("{why} and listens on port {} there: NAT rewrites the port", rs.port);
        }
        if rs.weight == 0 {
            why = format!("{why}; weight 0: it gets no new connections");
        }
        if !topology.hosts.contains_key(&rs.host) {
            why = format!("{why} (not a host of this file)");
        }
        let at = DestinationKey::new(rs.rip, rs.port);
        desired.destination(&key, at, destination, why);
    }
}

/// The service's name in the IPVS table.
pub fn service_key(service: &Service) -> ServiceKey {
    if let Some(mark) = &service.mark {
        return ServiceKey::Fwmark { v6: service.ipv6, mark: mark.mark };
    }
    // A service without a mark has a VIP: one without either is not resolved.
    let vip = service.vip_address().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    ServiceKey::Address(service.protocol, (vip, service.port).into())
}

fn method(forward: Forward) -> ForwardingMethod {
    match forward {
        Forward::Nat | Forward::Fullnat => ForwardingMethod::Masquerade,
        Forward::Dr => ForwardingMethod::DirectRoute,
        Forward::Tun => ForwardingMethod::Tunnel,
    }
}
