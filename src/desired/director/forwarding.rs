//! What passing requests on needs on the director beside the rules of IPVS: for NAT the settings of a
//! router, for FULLNAT source NAT too, for a director that serves itself as little as possible.
//!
//! Not set in IPv6, as nothing there is like it: `send_redirects`. A one-armed director does send
//! ICMPv6 redirects (net/ipv6/ip6_output.c, `ip6_forward`), but from its link-local address, and
//! a real server takes a redirect only from the address that its route names (net/ipv6/route.c,
//! `ip6_redirect_nh_match`; RFC 4861, 8.1), which is one of the file's.

use crate::desired::Desired;
use crate::names::IfName;
use crate::state::{
    AcceptedValues, Conf6Item, ConfDev, ConfItem, Module, PacketRule, Sysctl, VsItem,
};
use crate::topology::{Host, RealServer, Service, Topology};

use super::{protocols, speaks_ftp};

/// Adds what the forwarding methods of `service` need on its director `host`.
pub(super) fn settle(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    if others(service).any(|rs| rs.forward.needs_director_as_gateway()) {
        let why = format!(
            "NAT: the real servers' replies for {} pass through the director, which must forward them",
            service.display_name()
        );
        forward(host, service, &why, desired);
        redirects(host, service, desired);
    }
    if others(service).any(|rs| rs.forward.hides_client()) {
        fullnat(topology, host, service, desired);
    }
    let serves_itself = service.real_servers.iter().find(|rs| rs.host == host.name);
    if serves_itself.is_some_and(|rs| rs.forward.encapsulates()) {
        let why = format!(
            "{} is director and real server of {}: a request that another director wrapped for it \
             must not be scheduled once more",
            host.name,
            service.display_name()
        );
        desired.ipvs_setting_unless_said(VsItem::IgnoreTunneled, "1", why);
    }
}

/// Real servers that packets are sent to: all but the director itself.
fn others(service: &Service) -> impl Iterator<Item = &RealServer> {
    service.real_servers.iter().filter(|rs| rs.host != service.director)
}

/// NAT and FULLNAT: requests and replies pass through the director. Not so for DR and TUN, which send
/// from the input path (net/netfilter/ipvs/ip_vs_xmit.c) and need no forwarding, whatever recipes say.
fn forward(host: &Host, service: &Service, why: &str, desired: &mut Desired) {
    if service.ipv6 {
        forward6(host, why, desired);
    } else {
        desired.sysctl(Sysctl::IpForward, "1", why);
    }
}

/// Forwarding of IPv6. Turning it on drops default routes that came by router advertisement, unless
/// `accept_ra` is 2 (net/ipv6/route.c, `rt6_purge_dflt_routers`). A host whose gateway is in the file
/// needs no such route. 2 lets any machine of the segment give routes, so it is set only where 1 did already, and a default
/// route came by it.
pub(in crate::desired) fn forward6(host: &Host, why: &str, desired: &mut Desired) {
    desired.sysctl(Sysctl::Ip6Forward, "1", why);
    if host.gateways.iter().any(|gateway| gateway.address.is_ipv6()) {
        return;
    }
    for interface in host.interfaces.values().filter(|interface| interface.network.is_some()) {
        if interface.addresses.iter().any(|net| net.addr().is_ipv6()) {
            desired.sysctl_of(
                Sysctl::Conf6(ConfDev::Dev(interface.name.clone()), Conf6Item::AcceptRa),
                "2",
                AcceptedValues::KeepsAdvertisedRoute,
                format!(
                    "the default route came by a router advertisement on {}: a host that forwards IPv6 drops it and ignores \
                     advertisements, unless this is 2; the file names no IPv6 gateway for {}",
                    interface.name, host.name
                ),
            );
        }
    }
}

fn redirects(host: &Host, service: &Service, desired: &mut Desired) {
    if service.ipv6 {
        return;
    }
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
    let outside = &service.vip.as_ref()?.interface;
    others(service)
        .filter(|rs| rs.forward.needs_director_as_gateway())
        .filter_map(|rs| host.on_link(rs.rip))
        .map(|(dev, _)| &dev.name)
        .find(|dev| *dev == outside)
        .cloned()
}

/// FULLNAT: NAT by IPVS, and source NAT by nftables, which sees packets of IPVS only while their
/// connections are tracked. Redirects do no harm here: real servers answer the director itself.
///
/// `conn_reuse_mode` stays as it is: the second's delay that it caused together with connection
/// tracking is gone since Linux 5.9 (ip_vs_core.c, `ip_vs_conn_uses_old_conntrack`).
fn fullnat(topology: &Topology, host: &Host, service: &Service, desired: &mut Desired) {
    let spoken = service.display_name();
    let why = format!(
        "FULLNAT: the real servers' replies for {spoken} come back to the director, which must \
         forward them to the clients"
    );
    forward(host, service, &why, desired);
    desired.sysctl(
        Sysctl::Vs(VsItem::Conntrack),
        "1",
        format!(
            "FULLNAT: without it, packets of IPVS pass by nftables untracked, and the source address \
             of requests for {spoken} is never rewritten"
        ),
    );
    let why = format!(
        "FULLNAT: real servers of {spoken} see the director's own address as the source and answer \
         it, wherever they are; they do not see the client's, and each connection takes a source port \
         of the director"
    );
    for rs in others(service).filter(|rs| rs.forward.hides_client()) {
        for protocol in protocols(service) {
            for port in hidden_ports(service, rs) {
                let vip = service.vip_address();
                let rule = PacketRule::Masquerade { vip, rip: rs.rip, protocol, port };
                desired.packet_rule(topology, rule, &why);
            }
        }
    }
    desired.module(Module::NfTables, "FULLNAT rewrites the source address with nftables");
}

/// The real server's ports to which requests of clients go; 0: every port. A mark keeps the port that the client asked: a wider rule
/// would hide the clients of a NAT service of the same VIP and real server too.
fn hidden_ports(service: &Service, rs: &RealServer) -> Vec<u16> {
    let of_mark = service.ports();
    match () {
        // Data connections of FTP go to other ports.
        () if speaks_ftp(service) => vec![0],
        () if rs.port == 0 && !of_mark.is_empty() => of_mark.into_iter().collect(),
        () => vec![rs.port],
    }
}
