//! What IPVS on the director does to a packet on its way: requests go to the real server, replies of NAT get the VIP back.

use super::death::Cause;
use super::hooks::{self, Hook, outgoing};
use super::machine::Machine;
use super::packet::{Arrival, Connection, Packet};
use super::request::WalkRequest;
use super::routes::Flow;
use super::walker::{Onward, Stop, Walker, dead, unclear};
use super::way::Taken;
use crate::state::routing::{RouteEntry, RouteKind};
use crate::state::{Destination, ForwardingMethod, Tunnel, VsItem};

impl<'a> Walker<'a> {
    /// IPVS on the director puts the VIP back as the source, and with `snat_reroute` the packet is routed anew,
    /// as one that the host sends (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_route_me_harder`).
    pub(super) fn while_forwarding(
        &mut self,
        machine: &'a Machine,
        route: &'a RouteEntry,
        packet: &mut Packet,
    ) -> Onward<&'a RouteEntry> {
        let Some(Connection { vip, port, .. }) = self.connection else { return Ok(route) };
        self.passed_director |= packet.is_error;
        (packet.source, packet.port) = (vip, port);
        self.taken_by_ipvs(machine, packet);
        self.note(machine, format!("puts {vip} back as the source"));
        if !machine.ipvs_setting(VsItem::SnatReroute) {
            return Ok(route);
        }
        let target = packet.target;
        let flow =
            Flow { source: Some(packet.source), target, iif: None, oif: None, mark: packet.mark };
        let Some(route) = machine.route(&flow) else {
            return Err(dead(machine, Cause::NoRoute { target }));
        };
        match route.kind {
            RouteKind::Unicast => Ok(route),
            RouteKind::Unclear => Err(unclear(machine, target)),
            RouteKind::Local | RouteKind::Refuses | RouteKind::Throw => {
                Err(dead(machine, Cause::RouteRefuses { target }))
            }
        }
    }

    /// IPVS on the director: the service, and the way to the real server.
    pub(super) fn direct(
        &mut self,
        director: &'a Machine,
        packet: Packet,
        request: &WalkRequest<'a>,
    ) -> Onward<Arrival<'a>> {
        let found = director.service(&packet, request.protocol);
        let destination = found.and_then(|it| it.destinations.get(&request.destination));
        let Some(Destination { method, tunnel, .. }) = destination else {
            return Err(dead(director, Cause::NoService { target: request.vip }));
        };
        let rip = request.destination.0.ip();
        let rewrites = *method == ForwardingMethod::Masquerade;
        let connection = Connection {
            director: &director.name,
            client: packet.source,
            vip: request.vip,
            port: packet.port,
            rip,
            rewrites,
            hides_behind: None,
        };
        let flow = Flow { source: None, target: rip, iif: None, oif: None, mark: packet.mark };
        let Some(route) = director.route(&flow) else {
            return Err(dead(director, Cause::NoRoute { target: rip }));
        };
        if route.kind == RouteKind::Local {
            self.note(director, "is the real server itself".to_owned());
            self.connection = Some(Connection { rewrites: false, ..connection });
            return Ok(Arrival { machine: director, packet });
        }
        if route.kind == RouteKind::Unclear {
            return Err(unclear(director, rip));
        }
        if route.kind != RouteKind::Unicast {
            return Err(dead(director, Cause::RouteRefuses { target: rip }));
        }
        // 0: the one that the client asked (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_schedule`).
        let port = match request.destination.0.port() {
            0 => packet.port,
            port => port,
        };
        self.fit_real_server(director, route, &packet, (*method, *tunnel))?;
        let mut packet = packet;
        self.taken_by_ipvs(director, &mut packet);
        match method {
            // It gets its mark on lo, when connection tracking has let it pass the hook postrouting once
            // (net/netfilter/nf_nat_core.c, `nf_nat_inet_fn`). Linux 6.1 answered it over TCP and IPv6, and lost it over UDP and IPv4.
            ForwardingMethod::Masquerade
                if request.client == request.director && packet.mark != 0 =>
            {
                Err(Stop::Unknown(format!(
                    "what becomes of a request that the director {} itself sends to a service by mark",
                    director.name
                )))
            }
            ForwardingMethod::Masquerade => {
                let packet = Packet { target: rip, port, ..packet };
                self.rewrite(director, route, (packet, connection), request)
            }
            ForwardingMethod::DirectRoute => self.hand_over(director, route, packet, connection),
            ForwardingMethod::Tunnel => self.wrap(director, route, (packet, *tunnel), connection),
            ForwardingMethod::Local | ForwardingMethod::Bypass => {
                Err(Stop::Unknown(format!("what IPVS does with the method {method}")))
            }
        }
    }

    /// NAT: the packet, which has the real server as its destination now, leaves; FULLNAT hides its source.
    fn rewrite(
        &mut self,
        director: &'a Machine,
        route: &'a RouteEntry,
        (mut packet, mut connection): (Packet, Connection<'a>),
        request: &WalkRequest<'a>,
    ) -> Onward<Arrival<'a>> {
        let out = outgoing(route);
        self.pass(director, &Hook::output(out, hooks::ALL), &mut packet)?;
        self.pass(director, &Hook::postrouting(out, hooks::BEFORE_NAT_SRC), &mut packet)?;
        if let Some(hidden) = director.masquerades(&packet, request, route) {
            connection.hides_behind = Some(hidden);
            packet.source = hidden;
        }
        self.pass(director, &Hook::postrouting(out, hooks::AFTER_NAT_SRC), &mut packet)?;
        self.note(director, format!("IPVS rewrites it for {} (nat)", connection.rip));
        self.connection = Some(connection);
        self.follow(director, route, packet)
    }

    /// Direct routing: the frame goes to the real server; the packet in it keeps its destination.
    fn hand_over(
        &mut self,
        director: &'a Machine,
        route: &'a RouteEntry,
        mut packet: Packet,
        connection: Connection<'a>,
    ) -> Onward<Arrival<'a>> {
        let rip = connection.rip;
        if let Some(gateway) = route.gateway {
            return Err(dead(director, Cause::DirectRouteByGateway { rip, gateway }));
        }
        self.note(director, format!("IPVS sends it in a frame to {rip} (dr)"));
        self.leave(director, route, &mut packet)?;
        self.connection = Some(connection);
        let (next, dev) = self.neighbour(director, route, packet.source, rip)?;
        match self.take(next, dev, packet)? {
            Taken::Here(packet) => Ok(Arrival { machine: next, packet }),
            Taken::Onwards(route, mut packet) => {
                let hook = Hook::postrouting(outgoing(route), hooks::ALL);
                self.pass(next, &hook, &mut packet)?;
                self.follow(next, route, packet)
            }
        }
    }

    /// A tunnel.
    fn wrap(
        &mut self,
        director: &'a Machine,
        route: &'a RouteEntry,
        (packet, tunnel): (Packet, Tunnel),
        connection: Connection<'a>,
    ) -> Onward<Arrival<'a>> {
        let rip = connection.rip;
        let source = director.source_for(route, rip);
        let source = source.ok_or_else(|| dead(director, Cause::NoSource { target: rip }))?;
        self.note(director, format!("IPVS wraps it for {rip} (tun)"));
        self.connection = Some(connection);
        let mut outer = packet.wrapped(director, (source, rip), tunnel);
        // What does not fit here and has come so far leaves in fragments (`ignore_df`).
        outer.size = outer.size.min(director.mtu_of(route));
        self.leave(director, route, &mut outer)?;
        self.follow(director, route, outer)
    }
}
