//! What health checks through the VIP need on the director. keepalived, which asks, is left to [`crate::keepalived`].
//!
//! A check goes the way of a client's packets: keepalived sends it to the VIP with a mark, from an address of the director
//! that is no VIP, and IPVS forwards what has that mark to one real server only, by the service's method. This catches what
//! a check of the RIP does not: the VIP or the ARP settings missing there, a tunnel that does not unwrap, a program that
//! listens on the RIP only. IPVS sees what the director itself sends in its hook on the output path
//! (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_ops4`, NF_INET_LOCAL_OUT).
//!
//! A real server needs one mark, whatever VIPs and ports are checked there: a destination of port 0 keeps the port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::desired::Desired;
use crate::names::HostName;
use crate::state::{Destination, DestinationKey, Module, ServiceFlags, ServiceKey, VirtualService};
use crate::topology::{
    CheckTarget, Host, Interface, NextHop, RealServer, Scheduler, Service, Topology,
};

/// The first of 65536 marks that checks use: "LV" in ASCII, and 0.
const FIRST: u32 = 0x4c56_0000;

/// The firewall mark of each real server that `director` checks through a VIP.
///
/// A mark follows from the names of topology and real server, so it stays when others come and go, and another topology on
/// the same director has others.
pub fn check_marks(topology: &Topology, director: &HostName) -> BTreeMap<CheckTarget, u32> {
    let services = topology.services.iter().filter(|service| service.director == *director);
    let targets: BTreeSet<CheckTarget> = services
        .flat_map(|service| service.real_servers.iter().filter_map(|rs| service.check_target(rs)))
        .collect();
    let mut marks = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for target in targets {
        let family = if target.ipv6 { 6 } else { 4 };
        let CheckTarget { rip, forward, tunnel, .. } = target;
        let key = format!("{} {family} {rip} {forward} {tunnel:?}", topology.name);
        let start = fnv1a(&key) & 0xffff;
        // A cluster has far fewer real servers than there are marks.
        let free = (0..=0xffff).map(|step| FIRST + ((start + step) & 0xffff));
        if let Some(mark) = free.into_iter().find(|mark| taken.insert(*mark)) {
            marks.insert(target, mark);
        }
    }
    marks
}

/// FNV-1a with 32 bits (draft-eastlake-fnv): the same on every machine and with every compiler.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The address from which the director checks `real_server` through the VIP of `service`, and its interface, where the
/// answer comes in. `None`: it has none of the VIP's family.
///
/// To a VIP of its own the kernel would send from that VIP, and the real server would answer itself.
pub fn check_source<'a>(
    topology: &'a Topology,
    service: &Service,
    real_server: &RealServer,
) -> Option<(IpAddr, &'a Interface)> {
    let host = topology.hosts.get(&service.director)?;
    let vips: BTreeSet<IpAddr> =
        topology.services.iter().filter_map(Service::vip_address).collect();
    let towards = match host.next_hop(real_server.rip) {
        Some(NextHop::OnLink(interface, net)) => Some((interface, net.addr())),
        Some(NextHop::Via(gateway)) => {
            host.on_link(gateway.address).map(|(interface, net)| (interface, net.addr()))
        }
        None => None,
    };
    let near = towards.map(|(interface, _)| interface.name.clone());
    let plugged = host.interfaces.values().filter(|interface| interface.network.is_some());
    let all = plugged.flat_map(|it| it.addresses.iter().map(move |net| (net.addr(), it)));
    let mut usable: Vec<(IpAddr, &Interface)> = all
        .filter(|(address, _)| address.is_ipv6() == service.ipv6 && !vips.contains(address))
        .collect();
    let rank = |(address, interface): &(IpAddr, &Interface)| {
        let exact = towards.is_some_and(|(_, best)| best == *address);
        (!exact, Some(&interface.name) != near.as_ref())
    };
    usable.sort_by_key(rank);
    usable.first().copied()
}

/// Adds what the checks of `host` need, if it is a director with any.
pub(in crate::desired) fn settle(topology: &Topology, host: &Host, desired: &mut Desired) {
    let marks = check_marks(topology, &host.name);
    for (target, mark) in &marks {
        service(target, *mark, desired);
    }
    for service in topology.services.iter().filter(|service| service.director == host.name) {
        for real_server in &service.real_servers {
            if service.check_target(real_server).is_some() {
                replies(topology, service, real_server, desired);
            }
        }
    }
}

fn service(target: &CheckTarget, mark: u32, desired: &mut Desired) {
    let key = ServiceKey::Fwmark { v6: target.ipv6, mark };
    let rip = target.rip;
    let why = format!(
        "health checks of {rip} go to the VIP with the mark {mark:#x}, as the packets of clients go: this service forwards them \
         to {rip} only"
    );
    // Each datagram by itself: a connection that IPVS remembers would take a check from the same port to where another went.
    let plain = VirtualService::plain(&key, Scheduler::Rr.as_str());
    let wanted = VirtualService { flags: ServiceFlags::new(ServiceFlags::ONE_PACKET), ..plain };
    desired.module(Module::IpVs, "the director passes requests on with IPVS");
    desired.service(key.clone(), wanted, why.clone());
    let destination = Destination {
        method: target.forward.in_ipvs(),
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        tunnel: target.tunnel,
    };
    desired.destination(&key, DestinationKey::new(rip, 0), destination, why);
}

/// The answer has the VIP as its source, which the director has itself. IPv6 does not ask whose a source is
/// (net/ipv6/ip6_input.c).
fn replies(
    topology: &Topology,
    service: &Service,
    real_server: &RealServer,
    desired: &mut Desired,
) {
    let Some((vip, (source, dev))) =
        service.vip.as_ref().zip(check_source(topology, service, real_server))
    else {
        return;
    };
    if service.ipv6 || real_server.host == service.director {
        return;
    }
    desired.accept_local(
        &dev.name,
        format!(
            "answers to health checks of {} come in on {} from {} to {source}, and the director has {} itself: without this \
             it drops them, and every real server seems dead; any host on {} can then use the director's addresses as a source",
            real_server.host, dev.name, vip.address, vip.address, dev.name
        ),
    );
    if dev.name != vip.interface {
        desired.loose_source_validation(
            &dev.name,
            format!(
                "answers to health checks come in on {} from {}, which is on {}: a strict source check would drop them",
                dev.name, vip.address, vip.interface
            ),
        );
    }
}
