//! Who may wrap packets for a real server: the directors of the file, and what `sources` under `tunnel` adds.
//!
//! The receiving devices of [`super::tunnels`] take what any host has wrapped, and the packet inside may name any source:
//! without more, any host that reaches a real server reaches its VIPs past the director. A device with a remote address
//! would take packets of one director address only, and `tunl0` and `sit0` belong to all programs of the host. So a rule
//! looks at the packet outside, and inside it at the destination: wrapped packets to other addresses pass, as tunnels of
//! other programs need it.
//!
//! Each VIP is guarded in every way in which the host unwraps packets, as any device delivers to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Desired, Places};
use crate::names::IfName;
use crate::state::{
    FragmentGuard, Link, Module, TunnelDevice, TunnelGuard, TunnelHeader, TunnelKind,
};
use crate::topology::model::TunnelSources;
use crate::topology::{Forward, Host, Role, Service, Topology};

/// Adds the rules of `host`, whose devices are wanted already.
pub(super) fn settle(topology: &Topology, places: &Places<'_>, host: &Host, desired: &mut Desired) {
    let openings = Opening::all(desired);
    let vips = guarded_vips(places, host);
    if openings.is_empty() || vips.is_empty() {
        return;
    }
    let directors = addresses_of_directors(topology, host);
    let devices: BTreeSet<IfName> = openings.iter().filter_map(|it| it.dev.clone()).collect();
    let mut guards = BTreeSet::new();
    for Opening { outside_v6, header, inside_v6, .. } in &openings {
        let mut of_sources: BTreeMap<BTreeSet<IpNet>, BTreeSet<IpAddr>> = BTreeMap::new();
        let fitting =
            vips.iter().filter(|(vip, _)| inside_v6.is_none_or(|ipv6| ipv6 == vip.is_ipv6()));
        for (vip, further) in fitting {
            let all = directors.iter().chain(further);
            let sources = all.filter(|net| net.addr().is_ipv6() == *outside_v6).copied().collect();
            of_sources.entry(sources).or_default().insert(*vip);
        }
        for (sources, vips) in of_sources {
            for ipv6 in [false, true] {
                let vips: BTreeSet<IpAddr> =
                    vips.iter().filter(|vip| vip.is_ipv6() == ipv6).copied().collect();
                let (outside_v6, header, sources) = (*outside_v6, *header, sources.clone());
                if !vips.is_empty() {
                    let devices = devices.clone();
                    guards.insert(TunnelGuard { outside_v6, header, vips, sources, devices });
                }
            }
        }
    }
    let vips: Vec<String> = vips.keys().map(ToString::to_string).collect();
    let why = format!(
        "tunnel devices take what any host has wrapped: without this a host that is no director sends requests to {} past \
         the director, with any source",
        vips.join(", ")
    );
    if let Some(guard) = fragment_guard(&guards) {
        desired.packet_rule(topology, guard.into(), &why);
    }
    for guard in guards {
        desired.packet_rule(topology, guard.into(), &why);
    }
    desired.module(
        Module::NfTables,
        "wrapped packets of other hosts than the directors are dropped with nftables",
    );
}

/// What `guards` need beside them, if the packet outside is IPv6 for one of them.
fn fragment_guard(guards: &BTreeSet<TunnelGuard>) -> Option<FragmentGuard> {
    let of_v6 = || guards.iter().filter(|guard| guard.outside_v6);
    let devices = of_v6().next()?.devices.clone();
    let gue_port = |guard: &TunnelGuard| match guard.header {
        TunnelHeader::Gue { port } => Some(port),
        TunnelHeader::None | TunnelHeader::Gre { .. } => None,
    };
    Some(FragmentGuard {
        plain: of_v6().any(|guard| guard.header == TunnelHeader::None),
        gre: of_v6().any(|guard| matches!(guard.header, TunnelHeader::Gre { .. })),
        gue_ports: of_v6().filter_map(gue_port).collect(),
        sources: of_v6().flat_map(|guard| guard.sources.clone()).collect(),
        devices,
    })
}

/// A way in which a host unwraps packets.
struct Opening {
    outside_v6: bool,
    header: TunnelHeader,
    /// Family of the packet inside; `None`: both.
    inside_v6: Option<bool>,
    /// The device; `None` for a UDP port, whose packets a device takes.
    dev: Option<IfName>,
}

impl Opening {
    fn all(desired: &Desired) -> Vec<Self> {
        let state = &desired.state;
        let up = |dev: &IfName| state.links.get(dev) == Some(&Link::Up);
        let kernels = [(Module::Ipip, false), (Module::Sit, true)];
        let kernels = kernels.into_iter().filter_map(|(module, ipv6)| {
            let dev = module.device()?.parse().ok().filter(up)?;
            let (header, inside_v6) = (TunnelHeader::None, Some(ipv6));
            Some(Self { outside_v6: false, header, inside_v6, dev: Some(dev) })
        });
        let own = state.tunnels.iter().map(|(dev, TunnelDevice { kind, local, checksum })| {
            let header = match kind {
                TunnelKind::Gre | TunnelKind::Ip6gre => TunnelHeader::Gre { checksum: *checksum },
                TunnelKind::Ip6tnl => TunnelHeader::None,
            };
            let (outside_v6, dev) = (local.is_ipv6(), Some(dev.clone()));
            Self { outside_v6, header, inside_v6: None, dev }
        });
        let ports = state.gue_ports.iter().map(|port| {
            let header = TunnelHeader::Gue { port: port.port };
            Self { outside_v6: port.v6, header, inside_v6: None, dev: None }
        });
        kernels.chain(own).chain(ports).collect()
    }
}

/// The VIPs that `host` has as a real server, and who else than the directors may wrap packets to them. Not those that any
/// host may send to.
fn guarded_vips(places: &Places<'_>, host: &Host) -> BTreeMap<IpAddr, BTreeSet<IpNet>> {
    let mut all: BTreeMap<IpAddr, TunnelSources> = BTreeMap::new();
    for service in places.services_of(&host.name).filter(|it| it.director != host.name) {
        let Some(vip) = service.vip_address() else { continue };
        for rs in service.real_servers.iter().filter(|rs| rs.host == host.name) {
            match rs.forward {
                Forward::Tun => all.entry(vip).or_default().extend(&rs.tunnel_sources),
                Forward::Dr => drop(all.entry(vip).or_default()),
                Forward::Nat | Forward::Fullnat => {}
            }
        }
    }
    let guarded = all.into_iter().filter_map(|(vip, sources)| match sources {
        TunnelSources::Any => None,
        TunnelSources::Directors { further } => Some((vip, further)),
    });
    guarded.collect()
}

/// What IPVS may write as the source outside: addresses of the interfaces, as the route to the real server decides. A VIP is
/// one only where it stands in a subnet in which its director has no address (net/ipv4/devinet.c, `inet_select_addr`).
fn addresses_of_directors(topology: &Topology, host: &Host) -> BTreeSet<IpNet> {
    let directors = topology.with_role(Role::Director).filter(|it| it.name != host.name);
    let interfaces = directors.flat_map(|it| it.interfaces.values());
    let own = interfaces.flat_map(|it| &it.addresses).map(IpNet::addr);
    let services = topology.services.iter().filter(|it| it.director != host.name);
    let vips = services.filter_map(|service| alone_in_its_subnet(topology, service));
    own.chain(vips).filter(|address| !address.is_loopback()).map(IpNet::from).collect()
}

/// The VIP, if it has a subnet on its director and no address of an interface is in that.
fn alone_in_its_subnet(topology: &Topology, service: &Service) -> Option<IpAddr> {
    let (vip, director) = (service.vip.as_ref()?, topology.hosts.get(&service.director)?);
    let subnet = IpNet::new(vip.address, vip.prefix_on_director()).ok()?;
    let mut own = director.interfaces.values().flat_map(|it| &it.addresses);
    let is_alone = subnet.prefix_len() < subnet.max_prefix_len()
        && !own.any(|net| subnet.contains(&net.addr()));
    is_alone.then_some(vip.address)
}

#[cfg(test)]
#[path = "tunnel_guard_tests.rs"]
mod tests;
