//! Packets as large as TCP makes them: do they fit everywhere, and if not, does their sender learn it?
//!
//! Each end of a connection names the largest segment that it takes, which follows from the MTU of its own route
//! (net/ipv4/route.c, `ipv4_default_advmss`) and from lvsprov's rule that clamps it. On the way a host that forwards asks
//! the MTU of the next route (net/ipv4/ip_forward.c, `ip_exceeds_mtu`; net/ipv6/ip6_output.c, `ip6_forward`), IPVS that of
//! the route to the real server less what it wraps around the packet (net/netfilter/ipvs/ip_vs_xmit.c,
//! `__ip_vs_get_out_rt`, `ensure_mtu_is_adequate`). Either sends an ICMP message, which is followed like any packet: about a
//! request to the client, about a reply to the VIP or the real server, about a wrapped request to the director, which
//! passes it on (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_in_icmp`, `handle_response_icmp`). A device that gets a larger packet
//! than its own MTU sends no message.
//!
//! Segments that a network card joined (GRO) are not followed: IPVS lets them through (`skb_is_gso`).

use std::net::IpAddr;

use super::World;
use super::death::{Cause, Death};
use super::hooks::Tracking;
use super::machine::Machine;
use super::packet::{Arrival, Ends, Packet, Sizes, TooBig};
use super::request::WalkRequest;
use super::routes::Flow;
use super::walker::{Onward, Stop, Walker, dead, unclear};
use crate::names::HostName;
use crate::state::routing::{RouteEntry, RouteKind};
use crate::state::{ForwardingMethod, PacketRule, Protocol, Tunnel, VsItem};

/// What becomes of large packets where small ones are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LargeVerdict {
    /// They pass.
    Pass,
    /// They pass once their sender makes smaller ones, after this host's ICMP message.
    Shrunk {
        /// Whose.
        by: HostName,
        /// Bytes that fit.
        mtu: u32,
    },
    /// They are lost: the connection hangs.
    Lost {
        /// Where and why.
        death: Death,
        /// Replies are: downloads hang. Else uploads do.
        in_reply: bool,
    },
    /// This is missing.
    Unknown(String),
}

/// The smallest packet that a host sends because a message asks for it: `ip_rt_min_pmtu` (net/ipv4/route.c), and
/// `IPV6_MIN_MTU` (RFC 8200, 5).
fn smallest(target: IpAddr) -> u32 {
    if target.is_ipv6() { 1280 } else { 552 }
}

/// Bytes of the headers of IP and TCP, without options.
fn headers(target: IpAddr) -> u32 {
    if target.is_ipv6() { 60 } else { 40 }
}

/// Bytes that IPVS puts around a packet (net/netfilter/ipvs/ip_vs_xmit.c, `__ip_vs_get_out_rt`): the outer IP header, and what
/// comes between.
pub fn wrapping_bytes(tunnel: Tunnel, outside_v6: bool) -> u32 {
    /// `IP_VS_TUNNEL_ENCAP_FLAG_CSUM` (include/uapi/linux/ip_vs.h), of GUE and GRE.
    const CHECKSUM: u16 = 1;
    /// `IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM`, of GUE.
    const REMOTE_CHECKSUM: u16 = 2;
    let between = match tunnel {
        Tunnel::Ipip => 0,
        // UDP and GUE; a remote checksum is an option of 4 bytes behind 4 of private flags.
        Tunnel::Gue { flags, .. } if flags & REMOTE_CHECKSUM != 0 => 8 + 4 + 8,
        Tunnel::Gue { .. } => 8 + 4,
        Tunnel::Gre { flags } if flags & CHECKSUM != 0 => 4 + 4,
        Tunnel::Gre { .. } => 4,
    };
    between + if outside_v6 { 40 } else { 20 }
}

impl World {
    /// What becomes of large packets of a TCP connection, from the client and to it; `None`: it is no TCP, or small packets are
    /// not answered either. Where several devices of a host answer ARP, both ends of them are tried.
    pub fn large(&self, request: &WalkRequest<'_>) -> Option<(LargeVerdict, LargeVerdict)> {
        if request.protocol != Protocol::Tcp {
            return None;
        }
        let (first, has_choice) = self.large_by(request, false)?;
        if !has_choice {
            return Some(first);
        }
        let (last, _) = self.large_by(request, true)?;
        let same = |one: LargeVerdict, other: LargeVerdict| {
            let chance =
                || LargeVerdict::Unknown("which interface of a host answers ARP first".to_owned());
            if one == other { one } else { chance() }
        };
        Some((same(first.0, last.0), same(first.1, last.1)))
    }

    /// `last`: of several devices that answer, the last is taken. Also whether several did.
    fn large_by(
        &self,
        request: &WalkRequest<'_>,
        last: bool,
    ) -> Option<((LargeVerdict, LargeVerdict), bool)> {
        let mut small = Walker::new(self, Sizes::default(), last);
        small.run_twice(request, &mut false).ok()?;
        let has_choice = small.has_choice;
        let Some(Ends { client, server, clamped }) = small.ends else {
            return Some(((LargeVerdict::Pass, LargeVerdict::Pass), has_choice));
        };
        let taken = clamped.map_or(server, |clamped| clamped.min(server));
        let up = self.one_way(request, client.min(taken), (false, last));
        let down = self.one_way(request, client.min(server), (true, last));
        Some(((up, down), has_choice))
    }

    /// Packets of `size` bytes, as replies or as requests.
    fn one_way(
        &self,
        request: &WalkRequest<'_>,
        size: u32,
        (in_reply, last): (bool, bool),
    ) -> LargeVerdict {
        let (mut size, mut verdict) = (size, LargeVerdict::Pass);
        // Each round makes it smaller; a way has few narrow places.
        for _ in 0..8 {
            let (request_size, reply_size) = if in_reply { (0, size) } else { (size, 0) };
            let sizes = Sizes { request: request_size, reply: reply_size };
            let mut walker = Walker::new(self, sizes, last);
            let stop = match walker.run(request, &mut false) {
                Ok(()) => return verdict,
                Err(stop) => stop,
            };
            let too_big = match (stop, walker.too_big.take()) {
                (Stop::TooBig, Some(too_big)) => too_big,
                (Stop::Dead(death), _) => return LargeVerdict::Lost { death, in_reply },
                (Stop::Unknown(missing), _) => return LargeVerdict::Unknown(missing),
                (Stop::TooBig, None) => return unknown(),
            };
            size = match walker.tell(&too_big, request, in_reply) {
                Ok(fits) => fits,
                Err(Stop::Dead(message)) => {
                    let death = too_big.untold(message);
                    return LargeVerdict::Lost { death, in_reply };
                }
                Err(Stop::Unknown(missing)) => return LargeVerdict::Unknown(missing),
                Err(Stop::TooBig) => return unknown(),
            };
            verdict = LargeVerdict::Shrunk { by: too_big.at.name.clone(), mtu: size };
        }
        unknown()
    }
}

fn unknown() -> LargeVerdict {
    LargeVerdict::Unknown("what fits on the way".to_owned())
}

impl TooBig<'_> {
    /// The packet is lost, for its sender does not get the message.
    fn untold(&self, message: Death) -> Death {
        let (dev, mtu, size) = (self.dev.clone(), self.mtu, self.packet.size);
        let cause = Cause::TooBig { dev, mtu, size, message: Box::new(message) };
        Death { host: self.at.name.clone(), cause }
    }
}

impl<'a> Walker<'a> {
    /// The packet must fit `route`, or may be sent in fragments.
    pub(super) fn fit(
        &mut self,
        machine: &'a Machine,
        route: &RouteEntry,
        packet: &mut Packet,
    ) -> Onward<()> {
        let mtu = machine.mtu_of(route);
        if packet.size <= mtu {
            return Ok(());
        }
        if packet.may_fragment {
            packet.size = mtu;
            return Ok(());
        }
        self.does_not_fit(machine, route, (mtu, false), packet.clone())
    }

    fn does_not_fit(
        &mut self,
        at: &'a Machine,
        route: &RouteEntry,
        (mtu, by_ipvs): (u32, bool),
        packet: Packet,
    ) -> Onward<()> {
        let Some(dev) = route.dev.clone() else {
            return Err(Stop::Unknown(format!("by which device {} sends it", at.name)));
        };
        self.too_big = Some(TooBig { at, dev, mtu, packet, by_ipvs });
        Err(Stop::TooBig)
    }

    /// The packet must fit the route to the real server, with what IPVS wraps around it (`ensure_mtu_is_adequate`,
    /// `__mtu_check_toobig_v6`: `pmtu_disc` 0 has IPv4 packets wrapped and sent in fragments).
    pub(super) fn fit_real_server(
        &mut self,
        director: &'a Machine,
        route: &RouteEntry,
        packet: &Packet,
        (method, tunnel): (ForwardingMethod, Tunnel),
    ) -> Onward<()> {
        let wraps = method == ForwardingMethod::Tunnel;
        let (inside_v6, outside_v6) = (packet.target.is_ipv6(), route.destination.addr().is_ipv6());
        let around = if wraps { wrapping_bytes(tunnel, outside_v6) } else { 0 };
        let mtu = director.mtu_of(route).saturating_sub(around);
        let in_fragments = wraps && !inside_v6 && !director.ipvs_setting(VsItem::PmtuDisc);
        if packet.size <= mtu || in_fragments || packet.is_error {
            return Ok(());
        }
        self.does_not_fit(director, route, (mtu, true), packet.clone())
    }

    /// The ICMP message about `too_big`, from host to host. What the sender of the packet makes of it: so many bytes fit.
    fn tell(
        &mut self,
        too_big: &TooBig<'a>,
        request: &WalkRequest<'a>,
        in_reply: bool,
    ) -> Onward<u32> {
        let TooBig { at, mtu, packet, by_ipvs, dev: _ } = too_big;
        let client = self.machine(request.client)?;
        let director = self.machine(request.director)?;
        let (sender, fits) = if in_reply {
            let server = self.machine(request.real_server)?;
            let mut arrival = self.message(at, None, (packet.source, request.port))?;
            if arrival.machine.name == director.name && packet.source == request.vip {
                arrival = self.direct(director, arrival.packet, request)?;
            }
            (is_at(&arrival, server)?, *mtu)
        } else if let Some((inside, tunnel)) = &packet.inside {
            let arrival = self.message(at, None, (packet.source, 0))?;
            is_at(&arrival, director)?;
            if packet.source.is_ipv6() {
                return Err(dead(director, Cause::AboutWrapped { rip: packet.target }));
            }
            if takes_for_another(director, packet.target) {
                return Err(Stop::Unknown(format!(
                    "whether IPVS of {} takes the ICMP message: {} is its real server by ipip and by gre",
                    director.name, packet.target
                )));
            }
            let arrival = self.message(director, Some(request.vip), (inside.source, 0))?;
            let around = wrapping_bytes(*tunnel, packet.target.is_ipv6());
            (is_at(&arrival, client)?, mtu.saturating_sub(around))
        } else {
            let source = by_ipvs.then_some(request.vip);
            let arrival = self.message(at, source, (packet.source, 0))?;
            let rewritten = self.connection.as_ref().filter(|it| it.rewrites).map(|it| it.rip);
            if let Some(rip) = rewritten.filter(|rip| *rip == packet.target)
                && !self.passed_director
            {
                return Err(dead(arrival.machine, Cause::AboutRealServer { rip }));
            }
            (is_at(&arrival, client)?, *mtu)
        };
        let size = smallest(request.vip);
        if fits < size {
            return Err(dead(sender, Cause::Smallest { size }));
        }
        Ok(fits)
    }

    /// A message that `from` sends to `target`, a port of which it is about.
    fn message(
        &mut self,
        from: &'a Machine,
        source: Option<IpAddr>,
        (target, port): (IpAddr, u16),
    ) -> Onward<Arrival<'a>> {
        self.left = super::walker::MOST_HOPS;
        let flow = Flow { source, target, iif: None, oif: None, mark: 0 };
        let route = from.route(&flow).ok_or_else(|| dead(from, Cause::NoRoute { target }))?;
        if route.kind == RouteKind::Unclear {
            return Err(unclear(from, target));
        }
        let source = source.or_else(|| from.source_for(route, target));
        let source = source.ok_or_else(|| dead(from, Cause::NoSource { target }))?;
        let packet = Packet { is_error: true, ..Packet::small(source, target, port) };
        self.send(from, packet)
    }
}

fn is_at<'a>(arrival: &Arrival<'a>, wanted: &'a Machine) -> Onward<&'a Machine> {
    if arrival.machine.name == wanted.name {
        return Ok(wanted);
    }
    Err(dead(arrival.machine, Cause::WrongHost { target: arrival.packet.target }))
}

impl Packet {
    /// One that fits everywhere.
    pub(super) fn small(source: IpAddr, target: IpAddr, port: u16) -> Self {
        let (mark, size) = (0, 0);
        Self {
            source,
            target,
            port,
            mark,
            mark_is_known: true,
            tracking: Tracking::Fresh,
            size,
            may_fragment: false,
            is_error: false,
            inside: None,
        }
    }

    /// Wrapped by IPVS for `ends`, source and target: the DF bit is that of an IPv4 packet inside, unless `pmtu_disc` is 0
    /// (net/netfilter/ipvs/ip_vs_xmit.c, `ip_vs_prepare_tunneled_skb`); in IPv6 no host on the way makes fragments.
    pub(super) fn wrapped(
        self,
        director: &Machine,
        (source, target): (IpAddr, IpAddr),
        tunnel: Tunnel,
    ) -> Self {
        let has_df = self.target.is_ipv4() && director.ipvs_setting(VsItem::PmtuDisc);
        let size = match self.size {
            0 => 0,
            size => size + wrapping_bytes(tunnel, target.is_ipv6()),
        };
        Self {
            size,
            may_fragment: !(has_df || target.is_ipv6()),
            inside: Some((Box::new(self), tunnel)),
            ..Self::small(source, target, 0)
        }
    }
}

/// IPVS looks for a real server with the address that a wrapped packet was sent to, and gives up where the first that it
/// finds is wrapped in another way: GRE and IPIP have no port that tells them apart (net/netfilter/ipvs/ip_vs_ctl.c,
/// `ip_vs_find_tunnel`; ip_vs_core.c, `ip_vs_in_icmp`).
fn takes_for_another(director: &Machine, rip: IpAddr) -> bool {
    let all = director.services.values().flat_map(|service| &service.destinations);
    let of_rip = all.filter(|(key, it)| key.0.ip() == rip && it.method == ForwardingMethod::Tunnel);
    let (mut bare, mut gre) = (false, false);
    for (_, destination) in of_rip {
        match destination.tunnel {
            Tunnel::Ipip => bare = true,
            Tunnel::Gre { .. } => gre = true,
            Tunnel::Gue { .. } => {}
        }
    }
    bare && gre
}

/// What both ends tell each other: the client, and `server`, which sends `reply`.
pub(super) fn ends(client: u32, server: &Machine, reply: &Packet) -> Ends {
    let (source, target) = (reply.source, reply.target);
    let flow = Flow { source: Some(source), target, iif: None, oif: None, mark: 0 };
    let of_route = server.route(&flow).map(|route| server.mtu_of(route));
    let clamps = server.packet_rules.iter().filter_map(|rule| match rule {
        PacketRule::ClampMss { source: of, mss } if *of == source => Some(u32::from(*mss)),
        _ => None,
    });
    let clamped = clamps.min().map(|mss| mss + headers(target));
    Ends { client, server: of_route.unwrap_or(client), clamped }
}

#[cfg(test)]
#[path = "large_tests.rs"]
mod tests;
