//! What the director gets: IPVS and its rules, and the VIP. What forwarding needs beside them is in
//! [`forwarding`], what health checks need in [`checks`], firewall marks in [`marks`], what the file itself sets of IPVS in [`settings`].

mod checks;
mod forwarding;
mod marks;
mod settings;

pub use checks::CheckAims;
pub(super) use checks::settle as settle_checks;
pub(super) use forwarding::forward6;

use std::net::{IpAddr, Ipv4Addr};

use super::{Desired, label};
use crate::state::{
    Address, AddressKey, Destination, DestinationKey, Module, Protocol, Scope, ServiceFlags,
    ServiceKey, VirtualService, VsItem,
};
use crate::topology::{
    Forward, Host, RealServer, Role, Scheduler, Service, Topology, WeightSource,
};

use ipnet::IpNet;

/// Adds what the file says of IPVS on `host`, if it is a director: a standby that directs no
/// service yet has its sync daemon too.
pub(super) fn settle_host(host: &Host, desired: &mut Desired) {
    if host.roles.contains(&Role::Director) {
        settings::settle(&host.ipvs, desired);
    }
}

/// Adds what `service` needs on its director `host`.
pub(super) fn settle(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    desired.module(Module::IpVs, "the director passes requests on with IPVS");
    let servers = service.real_servers.iter().map(|server| server.host.clone()).collect();
    let out = topology.maintenance.clone().among(&servers);
    desired.maintenance = std::mem::take(&mut desired.maintenance).union(&out);
    vip(host, service, desired);
    marks::settle(topology, service, desired);
    forwarding::settle(topology, host, service, desired);
    ftp(service, desired);
    draining(service, desired);
    removing(service, desired);
    rules(topology, service, desired);
}

/// The VIP on the interface where requests come in: as a host address unless the file gives a
/// prefix. A shorter prefix would add a connected route, which only the file can say is right.
///
/// A service by firewall mark needs it as well: what is not for the host itself never passes its
/// input path, where IPVS is.
///
/// In IPv6 without looking for duplicates: that would keep the VIP away for a second, and for ever
/// if the director before had not let go of it yet. Real servers do not speak of it. And deprecated,
/// or the director would send from it: its /128 matches a neighbour's address better than the
/// director's own /64 does (net/ipv6/addrconf.c, `ipv6_get_saddr_eval`, rule 8), and real servers
/// drop what is wrapped by one of their own addresses (ip6_tunnel.c, `ip6_tnl_rcv_ctl`).
fn vip(host: &Host, service: &Service, desired: &mut Desired) {
    let Some(vip) = &service.vip else { return };
    if host.interface_with(vip.address).is_some() {
        return;
    }
    let Ok(net) = IpNet::new(vip.address, vip.prefix_on_director()) else { return };
    let key = AddressKey { dev: vip.interface.clone(), net };
    let ipv6 = vip.address.is_ipv6();
    let address = Address {
        scope: Scope::Global,
        label: if ipv6 { None } else { label(&vip.interface) },
        broadcast: None,
        nodad: ipv6,
        deprecated: ipv6,
    };
    let asked = if ipv6 { "neighbour solicitations" } else { "ARP" };
    let why = format!(
        "requests for {} are sent to {}: the director takes them on {}, and only it answers {asked} for it",
        service.display_name(),
        vip.address,
        vip.interface
    );
    desired.address(key, address, why);
}

/// FTP says in its own words which address the next connection goes to.
fn ftp(service: &Service, desired: &mut Desired) {
    if speaks_ftp(service) && service.uses(Forward::rewrites) {
        desired.module(
            Module::IpVsFtp,
            format!(
                "{} is FTP: the addresses inside its replies must be rewritten too, or passive \
                 transfers go to the real server's own",
                service.display_name()
            ),
        );
    }
}

/// Port 21, which `ip_vs_ftp` looks at (net/netfilter/ipvs/ip_vs_ftp.c, `ports`).
fn speaks_ftp(service: &Service) -> bool {
    protocols(service).any(|protocol| protocol == Protocol::Tcp) && service.ports().contains(&21)
}

/// A weight of 0 alone does not empty a real server: clients that persistence holds there come back.
fn draining(service: &Service, desired: &mut Desired) {
    let Some(drained) = service.serving().find(|rs| rs.weight == 0) else { return };
    if service.persistence.is_some() {
        let why = format!(
            "{} has weight 0, but {} is persistent: without this, clients that were there before are \
             still sent there",
            drained.host,
            service.display_name()
        );
        desired.ipvs_setting_unless_said(VsItem::ExpireQuiescentTemplate, "1", why);
    }
}

/// IPVS remembers a connection for two minutes after its end where it sees one direction only (DR, TUN: it
/// stays in FIN_WAIT). As long, a client that comes again from the same port is sent where it was before;
/// if that real server is gone, its packets are dropped without a word. At a few hundred requests a second
/// a client has gone through all of its ports by then. With this the entry is forgotten instead: what
/// begins is scheduled anew, what was cut is reset (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_in_hook`).
fn removing(service: &Service, desired: &mut Desired) {
    let why = format!(
        "connections of {} to a real server that was removed would hang, and so would new ones from the \
         same client port within two minutes: IPVS drops their packets silently",
        service.display_name()
    );
    desired.ipvs_setting_unless_said(VsItem::ExpireNodestConn, "1", why);
}

fn rules(topology: &Topology, service: &Service, desired: &mut Desired) {
    let key = service_key(service);
    if service.weights == WeightSource::External {
        desired.external.insert(key.clone());
    }
    let stays = service.persistence.map_or_else(String::new, |persistence| {
        format!(", and a client stays with it for {} s", persistence.timeout)
    });
    let each = if service.one_packet { "datagram" } else { "connection" };
    let why = format!(
        "service {}: {} decides which real server gets a new {each}{stays}",
        service.display_name(),
        service.scheduler
    );
    desired.service(key.clone(), virtual_service(&key, service), why);
    for rs in service.serving().filter(|rs| !is_left_out(topology, service, rs)) {
        let destination = Destination {
            method: rs.forward.in_ipvs(),
            weight: rs.weight,
            upper_threshold: rs.upper_threshold,
            lower_threshold: rs.lower_threshold,
            tunnel: rs.tunnel,
        };
        let at = destination_key(service, rs);
        desired.destination(&key, at, destination, why_destination(topology, service, rs));
    }
}

/// `dh` goes on choosing a real server of weight 0 and refuses its clients for as long as the maintenance lasts (ip_vs_dh.c,
/// `is_unavailable`; it has no flag for falling back): only a destination that is gone is not chosen.
fn is_left_out(topology: &Topology, service: &Service, rs: &RealServer) -> bool {
    service.scheduler == Scheduler::Dh && topology.maintenance.contains(&rs.host)
}

fn why_destination(topology: &Topology, service: &Service, rs: &RealServer) -> String {
    let mut why = format!("{} is a real server of {}", rs.host, service.display_name());
    if rs.forward.rewrites() && rs.port != service.port {
        why = format!("{why} and listens on port {} there: NAT rewrites the port", rs.port);
    }
    if rs.host == service.director {
        why = format!("{why}; it is the director itself: requests are handed over right there");
    } else if rs.forward.hides_client() {
        why = format!(
            "{why}; FULLNAT is NAT in the table of IPVS: the source address is rewritten by nftables"
        );
    }
    if topology.maintenance.contains(&rs.host) {
        why = format!(
            "{why}; it is in maintenance: it gets no new connections until `lvsprov return`"
        );
    } else if rs.weight == 0 {
        why = format!("{why}; weight 0: it gets no new connections");
    }
    if rs.upper_threshold != 0 {
        why = format!("{why}; with {} connections it gets no more", rs.upper_threshold);
    }
    if !topology.hosts.contains_key(&rs.host) {
        why = format!("{why} (not a host of this file)");
    }
    why
}

fn virtual_service(key: &ServiceKey, service: &Service) -> VirtualService {
    let plain = VirtualService::plain(key, service.scheduler.as_str());
    let mut bits = service.scheduler_flags.iter().fold(0, |bits, flag| bits | flag.bit());
    if service.one_packet {
        bits |= ServiceFlags::ONE_PACKET;
    }
    let Some(persistence) = service.persistence else {
        return VirtualService { flags: ServiceFlags::new(bits), ..plain };
    };
    VirtualService {
        flags: ServiceFlags::new(bits | ServiceFlags::PERSISTENT),
        timeout: persistence.timeout,
        netmask: persistence.netmask,
        engine: persistence.engine.map(|engine| engine.as_str().to_owned()),
        ..plain
    }
}

/// The port of a destination. DR and TUN do not rewrite it: the kernel ignores another one than the
/// service's. 0 (a firewall mark, every port) keeps the one that the client used.
pub(super) fn port(service: &Service, rs: &RealServer) -> u16 {
    if rs.forward.rewrites() { rs.port } else { service.port }
}

/// The protocols of a service: one, unless a mark stands for several.
pub(super) fn protocols(service: &Service) -> impl Iterator<Item = Protocol> {
    let marked = service.mark.iter().flat_map(|mark| mark.protocols.iter().copied());
    let own = service.mark.is_none().then_some(service.protocol);
    marked.chain(own)
}

/// The place of `rs` in the IPVS table of the director of `service`.
pub fn destination_key(service: &Service, rs: &RealServer) -> DestinationKey {
    DestinationKey::new(rs.rip, port(service, rs))
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
