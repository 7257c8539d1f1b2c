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
    CheckTarget, Host, Interface, NextHop, RealServer, Role, Scheduler, Service, Topology,
};

/// The first of 65536 marks that checks use: "LV" in ASCII, and 0.
const FIRST: u32 = 0x4c56_0000;

/// Where the checks of one director go, and from where.
#[derive(Debug)]
pub struct CheckAims<'a> {
    host: Option<&'a Host>,
    vips: BTreeSet<IpAddr>,
    /// A mark follows from the names of topology and real server, so it stays when others come and go, and another topology
    /// on the same director has others.
    marks: BTreeMap<CheckTarget, u32>,
}

impl<'a> CheckAims<'a> {
    /// Those of `director`.
    pub fn of(topology: &'a Topology, director: &HostName) -> Self {
        let services = topology.services.iter().filter(|service| service.director == *director);
        let mut vips = BTreeSet::new();
        let mut targets = BTreeSet::new();
        for service in services {
            vips.extend(service.vip_address());
            targets.extend(service.real_servers.iter().filter_map(|rs| service.check_target(rs)));
        }
        let mut marks = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for target in targets {
            let start = fnv1a(&name(topology, &target)) & 0xffff;
            // A cluster has far fewer real servers than there are marks.
            let free = (0..=0xffff).map(|step| FIRST + ((start + step) & 0xffff));
            if let Some(mark) = free.into_iter().find(|mark| taken.insert(*mark)) {
                marks.insert(target, mark);
            }
        }
        Self { host: topology.hosts.get(director), vips, marks }
    }

    /// The firewall mark of each real server that the director checks through a VIP.
    pub fn marks(&self) -> &BTreeMap<CheckTarget, u32> {
        &self.marks
    }

    /// The mark of `real_server`; `None`: it is not checked, or not through the VIP.
    pub fn mark(&self, service: &Service, real_server: &RealServer) -> Option<u32> {
        self.marks.get(&service.check_target(real_server)?).copied()
    }

    /// The address from which the director checks `real_server` through the VIP of `service`, and its interface, where the
    /// answer comes in. `None`: it has none of the VIP's family.
    ///
    /// To a VIP of its own the kernel would send from that VIP, and the real server would answer itself.
    pub fn source(
        &self,
        service: &Service,
        real_server: &RealServer,
    ) -> Option<(IpAddr, &'a Interface)> {
        let host = self.host?;
        let towards = match host.next_hop(real_server.rip) {
            Some(NextHop::OnLink(interface, net)) => Some((interface, net.addr())),
            Some(NextHop::Via(gateway)) => {
                host.on_link(gateway.address).map(|(interface, net)| (interface, net.addr()))
            }
            None => None,
        };
        let plugged = host.interfaces.values().filter(|interface| interface.network.is_some());
        let all = plugged.flat_map(|it| it.addresses.iter().map(move |net| (net.addr(), it)));
        let usable = all.filter(|(address, _)| {
            address.is_ipv6() == service.ipv6 && !self.vips.contains(address)
        });
        // The address that the real server has a route to, else another one of that interface, else any.
        usable.min_by_key(|(address, interface)| {
            let is_exact = towards.is_some_and(|(_, best)| best == *address);
            let is_near = towards.is_some_and(|(near, _)| near.name == interface.name);
            (!is_exact, !is_near)
        })
    }
}

/// What a mark is derived from.
fn name(topology: &Topology, target: &CheckTarget) -> String {
    let CheckTarget { ipv6, rip, forward, tunnel } = target;
    let family = if *ipv6 { 6 } else { 4 };
    format!("{} {family} {rip} {forward} {tunnel:?}", topology.name)
}

/// FNV-1a with 32 bits (draft-eastlake-fnv): the same on every machine and with every compiler.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Adds what the checks of `host` need, if it is a director with any.
pub(in crate::desired) fn settle(topology: &Topology, host: &Host, desired: &mut Desired) {
    if !host.roles.contains(&Role::Director) {
        return;
    }
    let aims = CheckAims::of(topology, &host.name);
    for (target, mark) in &aims.marks {
        service(target, *mark, desired);
    }
    for service in topology.services.iter().filter(|service| service.director == host.name) {
        for real_server in &service.real_servers {
            if service.check_target(real_server).is_some() {
                answers(&aims, service, real_server, desired);
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
fn answers(
    aims: &CheckAims<'_>,
    service: &Service,
    real_server: &RealServer,
    desired: &mut Desired,
) {
    let Some((vip, (source, dev))) = service.vip.as_ref().zip(aims.source(service, real_server))
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
