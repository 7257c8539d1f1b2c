//! IPVS and tunnels on one host: the service of a packet, the source that FULLNAT gives it, the device that unwraps it.

use std::net::IpAddr;

use super::death::Cause;
use super::filter::UNTRACKED;
use super::hooks::Tracking;
use super::machine::{DeviceKind, Machine, Wrapping};
use super::packet::Packet;
use super::request::WalkRequest;
use crate::names::IfName;
use crate::state::routing::RouteEntry;
use crate::state::{PacketRule, Protocol, ServiceKey, Tunnel, VirtualService, VsItem};

impl Machine {
    /// The service that a packet belongs to (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_service_find`): by its mark,
    /// by address and port, by address with every port.
    pub(super) fn service(&self, packet: &Packet, protocol: Protocol) -> Option<&VirtualService> {
        let v6 = packet.target.is_ipv6();
        let marked = ServiceKey::Fwmark { v6, mark: packet.mark };
        let at = |port| ServiceKey::Address(protocol, (packet.target, port).into());
        let by_mark = (packet.mark != 0).then(|| self.services.get(&marked)).flatten();
        by_mark
            .or_else(|| self.services.get(&at(packet.port)))
            .or_else(|| self.services.get(&at(0)))
    }

    /// Whether this host is a real server of `service` and listens on `port`, which its client asks.
    pub(super) fn serves(&self, service: &VirtualService, port: u16) -> bool {
        let mut servers = service.destinations.keys().map(|key| key.0);
        servers.any(|at| self.has(at.ip()) && (at.port() == 0 || at.port() == port))
    }

    /// FULLNAT: the address that a packet of IPVS to a real server gets as its source.
    pub(super) fn masquerades(
        &self,
        packet: &Packet,
        request: &WalkRequest<'_>,
        route: &RouteEntry,
    ) -> Option<IpAddr> {
        let hides = self.packet_rules.iter().any(|rule| {
            matches!(rule, PacketRule::Masquerade { vip, rip, protocol, port }
                if vip.is_none_or(|vip| vip == request.vip)
                    && *rip == packet.target
                    && *protocol == request.protocol
                    && (*port == 0 || *port == packet.port))
        });
        // A rule of another program may have taken the packet out of connection tracking (nf_nat_core.c, `nf_nat_inet_fn`).
        let is_tracked = packet.tracking != Tracking::Is(Some(UNTRACKED));
        (hides && is_tracked && self.ipvs_setting(VsItem::Conntrack))
            .then(|| self.source_for(route, packet.target))
            .flatten()
    }

    /// The device out of which a packet comes that was wrapped in `tunnel` and sent to `target`.
    pub(super) fn unwraps(
        &self,
        target: IpAddr,
        tunnel: Tunnel,
        inside_v6: bool,
    ) -> Option<&IfName> {
        let wrapping = match tunnel {
            Tunnel::Ipip => Wrapping::Bare,
            Tunnel::Gue { port, .. } => {
                if !self.gue_ports.contains(&(target.is_ipv6(), port)) {
                    return None;
                }
                Wrapping::Bare
            }
            Tunnel::Gre { flags } => Wrapping::Gre { checksum: flags & 1 != 0 },
        };
        let fits = |kind: &DeviceKind| match kind {
            DeviceKind::Tunnel(it) => {
                it.wrapping == wrapping
                    && it.outside_v6 == target.is_ipv6()
                    && it.inside_v6.is_none_or(|ipv6| ipv6 == inside_v6)
                    && it.local.is_none_or(|local| local == target)
            }
            DeviceKind::Loopback | DeviceKind::Wire(_) | DeviceKind::Elsewhere => false,
        };
        let mut all = self.devices.iter().filter(|(_, device)| device.up && fits(&device.kind));
        all.next().map(|(dev, _)| dev)
    }

    /// A rule of lvsprov's own drops a wrapped packet that comes in on `dev`: another host than a director has wrapped it.
    pub(super) fn guards(&self, dev: &IfName, packet: &Packet) -> Option<Cause> {
        let (inside, tunnel) = packet.inside.as_ref()?;
        let (source, vip) = (packet.source, inside.target);
        let drops = |rule: &PacketRule| match rule {
            PacketRule::Guard(guard) => guard.drops((source, dev), *tunnel, vip),
            _ => false,
        };
        let is_dropped = self.packet_rules.iter().any(drops);
        is_dropped.then_some(Cause::WrappedByStranger { source, vip })
    }

    /// Whether the tunnel device `dev` takes no packet that `source` has wrapped, as the host has that address itself
    /// (net/ipv6/ip6_tunnel.c, `ip6_tnl_rcv_ctl`). GRE does not ask; over IPv4 source validation does.
    pub(super) fn refuses_outer_source(&self, dev: &IfName, source: IpAddr) -> bool {
        let is_ip6tnl = self.devices.get(dev).is_some_and(|device| match &device.kind {
            DeviceKind::Tunnel(it) => it.outside_v6 && it.wrapping == Wrapping::Bare,
            DeviceKind::Loopback | DeviceKind::Wire(_) | DeviceKind::Elsewhere => false,
        });
        is_ip6tnl && self.has(source)
    }
}
