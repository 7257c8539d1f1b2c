//! What rules of other programs do with a service's packets where the file has no client: on the director and the real server,
//! from whatever address requests come. Pure.
//!
//! No route to a client is known then, so routes are asked only from the director to the real server.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::World;
use super::death::{Cause, Death};
use super::hooked_packet::PacketDevice;
use super::hooks::{self, Hook, Tracking};
use super::machine::Machine;
use super::packet::{Connection, Packet, PacketStage, Sizes};
use super::request::WalkRequest;
use super::routes::Flow;
use super::walker::{Onward, Stop, Walker, dead};
use crate::names::HostName;
use crate::state::firewall::HookPoint;
use crate::state::routing::RouteKind;
use crate::state::{Destination, ForwardingMethod, Protocol};

/// What rules do with the packets of any client.
#[derive(Debug, Default)]
pub struct AnyClient {
    /// Where and why they die, and whether it is the replies.
    pub death: Option<(Death, bool)>,
    /// Rules whose verdict is not known, by host: it may depend on the client.
    pub unclear: BTreeSet<(HostName, String)>,
}

impl World {
    /// The packets of any client to a real server and back; the client of `request` does not count.
    pub fn any_client(&self, request: &WalkRequest<'_>) -> AnyClient {
        let mut walker = Walker::new(self, Sizes::default(), false);
        let mut found = AnyClient::default();
        let stages: &[PacketStage] = match request.protocol {
            Protocol::Udp => &[PacketStage::First],
            Protocol::Tcp | Protocol::Sctp => &[PacketStage::First, PacketStage::Later],
        };
        for stage in stages.iter().copied() {
            (walker.stage, walker.reply_from, walker.connection) = (stage, None, None);
            if let Err(Stop::Dead(death)) = walker.meet_rules(request)
                && matches!(death.cause, Cause::Filtered { .. })
            {
                found.death = Some((death, walker.reply_from.is_some()));
                break;
            }
        }
        found.unclear = walker.unclear;
        found
    }
}

const NO_DEVICE: PacketDevice<'_> = PacketDevice::None;
const SOME_DEVICE: PacketDevice<'_> = PacketDevice::Unclear;

impl<'a> Walker<'a> {
    fn meet_rules(&mut self, request: &WalkRequest<'a>) -> Onward<()> {
        (self.director, self.protocol) = (Some(request.director), request.protocol);
        let director = self.machine(request.director)?;
        let server = self.machine(request.real_server)?;
        // Its bytes are not known to any rule.
        let client = match request.vip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut packet = Packet::small(client, request.vip, request.port);
        self.come_in(director, SOME_DEVICE, &mut packet)?;
        let input = Hook::at(HookPoint::Input, (SOME_DEVICE, NO_DEVICE), hooks::BEFORE_IPVS);
        self.pass(director, &input, &mut packet)?;
        let found = director.service(&packet, request.protocol);
        let destination = found.and_then(|it| it.destinations.get(&request.destination));
        let Some(Destination { method, tunnel, .. }) = destination else { return Ok(()) };
        let rip = request.destination.0.ip();
        let flow = Flow { source: None, target: rip, iif: None, oif: None, mark: packet.mark };
        let route = director.route(&flow);
        let Some(route) = route.filter(|it| it.kind == RouteKind::Unicast) else { return Ok(()) };
        self.taken_by_ipvs(director, &mut packet);
        let mut connection = Connection {
            director: &director.name,
            client,
            vip: request.vip,
            port: packet.port,
            rip,
            rewrites: *method == ForwardingMethod::Masquerade,
            hides_behind: None,
        };
        match method {
            ForwardingMethod::Masquerade => {
                packet.target = rip;
                if request.destination.0.port() != 0 {
                    packet.port = request.destination.0.port();
                }
                self.leave(director, route, &mut packet)?;
                connection.hides_behind = director.masquerades(&packet, request, route);
                packet.source = connection.hides_behind.unwrap_or(client);
            }
            ForwardingMethod::DirectRoute => self.leave(director, route, &mut packet)?,
            ForwardingMethod::Tunnel => {
                let Some(source) = director.source_for(route, rip) else { return Ok(()) };
                packet = packet.wrapped(director, (source, rip), *tunnel);
                self.leave(director, route, &mut packet)?;
            }
            ForwardingMethod::Local | ForwardingMethod::Bypass => return Ok(()),
        }
        self.connection = Some(connection);
        let packet = self.arrive(server, rip, packet)?;
        self.reply_from = Some(0);
        let (mark, tracking) = (0, Tracking::Fresh);
        let (source, target) = (packet.target, packet.source);
        let mut reply = Packet { source, target, mark, tracking, ..packet };
        for point in [HookPoint::Output, HookPoint::Postrouting] {
            let hook = Hook::at(point, (NO_DEVICE, SOME_DEVICE), hooks::ALL);
            self.pass(server, &hook, &mut reply)?;
        }
        if *method == ForwardingMethod::Masquerade {
            self.pass_back(director, reply)
        } else {
            Ok(())
        }
    }

    fn come_in(
        &mut self,
        machine: &'a Machine,
        dev: PacketDevice<'_>,
        packet: &mut Packet,
    ) -> Onward<()> {
        (packet.mark, packet.mark_is_known, packet.tracking) = (0, true, Tracking::Fresh);
        let at = |chains| Hook::at(HookPoint::Prerouting, (dev, NO_DEVICE), chains);
        self.pass(machine, &at(hooks::BEFORE_NAT_DST), packet)?;
        self.before_routing(machine, packet);
        self.pass(machine, &at(hooks::AFTER_NAT_DST), packet)
    }

    /// The real server takes it, and what is in it.
    fn arrive(&mut self, server: &'a Machine, rip: IpAddr, packet: Packet) -> Onward<Packet> {
        let has =
            |(_, it): &(_, &super::Device)| it.addresses.iter().any(|own| own.net.addr() == rip);
        let mut dev =
            server.devices.iter().find(has).map_or(SOME_DEVICE, |(dev, _)| PacketDevice::Is(dev));
        let mut packet = packet;
        loop {
            self.come_in(server, dev, &mut packet)?;
            let input = Hook::at(HookPoint::Input, (dev, NO_DEVICE), hooks::ALL);
            self.pass(server, &input, &mut packet)?;
            let Some((inner, tunnel)) = packet.inside.take() else { return Ok(packet) };
            let cause = Cause::NotUnwrapped { rip };
            let unwrapped = server.unwraps(packet.target, tunnel, inner.target.is_ipv6());
            dev = PacketDevice::Is(unwrapped.ok_or_else(|| dead(server, cause))?);
            packet = *inner;
        }
    }

    /// A reply of NAT passes the director.
    fn pass_back(&mut self, director: &'a Machine, reply: Packet) -> Onward<()> {
        let mut reply = reply;
        self.come_in(director, SOME_DEVICE, &mut reply)?;
        let forward = |chains| Hook::at(HookPoint::Forward, (SOME_DEVICE, SOME_DEVICE), chains);
        self.pass(director, &forward(hooks::BEFORE_VIP), &mut reply)?;
        if let Some(Connection { vip, port, .. }) = self.connection {
            (reply.source, reply.port) = (vip, port);
        }
        self.taken_by_ipvs(director, &mut reply);
        self.pass(director, &forward(hooks::AFTER_VIP), &mut reply)?;
        self.pass(director, &Hook::postrouting(SOME_DEVICE, hooks::ALL), &mut reply)
    }
}
