//! The hooks of netfilter on the way: the rules of other programs that a packet meets there.
//!
//! IPVS takes requests at the end of input, and what it sends passes output and postrouting; replies of NAT get the VIP back in
//! forward, at priority 100 (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_ops4`; ip_vs_xmit.c, `ip_vs_send_or_cont`,
//! `ip_vs_nat_send_or_cont`, `ip_vs_tunnel_xmit`).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::conntrack::TrackedPacket;
use super::death::Cause;
use super::filter::{ESTABLISHED, FilterEnd, INVALID, Judgement, NEW, UNTRACKED};
use super::hooked_packet::{HookedPacket, PacketDevice};
use super::machine::{DeviceKind, Machine};
use super::packet::{Packet, PacketStage};
use super::walker::{Onward, Walker, dead};
use crate::names::IfName;
use crate::state::firewall::HookPoint;
use crate::state::routing::RouteEntry;
use crate::state::{PacketRule, Protocol, Tunnel, VsItem};

/// Flags of TCP: SYN; SYN and ACK; ACK and PSH.
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const DATA: u8 = 0x18;

/// All chains of a hook.
pub(super) const ALL: RangeInclusive<i32> = i32::MIN..=i32::MAX;
/// Chains of input before IPVS takes a request: `NF_IP_PRI_NAT_SRC` - 2.
pub(super) const BEFORE_IPVS: RangeInclusive<i32> = i32::MIN..=97;
/// Chains of output before IPVS takes what the director itself asks: `NF_IP_PRI_NAT_DST` + 1.
pub(super) const BEFORE_OWN_IPVS: RangeInclusive<i32> = i32::MIN..=-100;
/// Chains of forward before IPVS puts the VIP back, and after that.
pub(super) const BEFORE_VIP: RangeInclusive<i32> = i32::MIN..=99;
pub(super) const AFTER_VIP: RangeInclusive<i32> = 101..=i32::MAX;
/// Chains before addresses are rewritten in prerouting (`NF_IP_PRI_NAT_DST`), and after that.
pub(super) const BEFORE_NAT_DST: RangeInclusive<i32> = i32::MIN..=-101;
pub(super) const AFTER_NAT_DST: RangeInclusive<i32> = -100..=i32::MAX;
/// Chains before addresses are rewritten in postrouting (`NF_IP_PRI_NAT_SRC`), and after that.
pub(super) const BEFORE_NAT_SRC: RangeInclusive<i32> = i32::MIN..=100;
pub(super) const AFTER_NAT_SRC: RangeInclusive<i32> = 101..=i32::MAX;

/// What connection tracking of the present host thinks of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    /// It has not seen it.
    Fresh,
    /// A state; `None`: it is not known.
    Is(Option<u32>),
}

/// A hook that a packet passes.
#[derive(Debug)]
pub(super) struct Hook<'a> {
    pub(super) point: HookPoint,
    pub(super) incoming: PacketDevice<'a>,
    pub(super) outgoing: PacketDevice<'a>,
    pub(super) priorities: RangeInclusive<i32>,
}

impl<'a> Hook<'a> {
    /// By which devices the packet comes in and leaves, and which chains it meets.
    pub(super) fn at(
        point: HookPoint,
        (incoming, outgoing): (PacketDevice<'a>, PacketDevice<'a>),
        priorities: RangeInclusive<i32>,
    ) -> Self {
        Self { point, incoming, outgoing, priorities }
    }

    pub(super) fn prerouting(dev: &'a IfName, priorities: RangeInclusive<i32>) -> Self {
        let (incoming, outgoing) = (PacketDevice::Is(dev), PacketDevice::None);
        Self { point: HookPoint::Prerouting, incoming, outgoing, priorities }
    }

    pub(super) fn input(dev: &'a IfName, priorities: RangeInclusive<i32>) -> Self {
        Self { point: HookPoint::Input, ..Self::prerouting(dev, priorities) }
    }

    pub(super) fn forward(
        dev: &'a IfName,
        route: &'a RouteEntry,
        priorities: RangeInclusive<i32>,
    ) -> Self {
        let outgoing = outgoing(route);
        Self { point: HookPoint::Forward, outgoing, ..Self::prerouting(dev, priorities) }
    }

    pub(super) fn output(outgoing: PacketDevice<'a>, priorities: RangeInclusive<i32>) -> Self {
        Self { point: HookPoint::Output, incoming: PacketDevice::None, outgoing, priorities }
    }

    /// Whether rules see there where the packet came in depends on the kernel (net/ipv4/ip_output.c, `ip_output`).
    pub(super) fn postrouting(outgoing: PacketDevice<'a>, priorities: RangeInclusive<i32>) -> Self {
        Self {
            point: HookPoint::Postrouting,
            incoming: PacketDevice::Unclear,
            outgoing,
            priorities,
        }
    }
}

pub(super) fn outgoing(route: &RouteEntry) -> PacketDevice<'_> {
    route.dev.as_ref().map_or(PacketDevice::Unclear, PacketDevice::Is)
}

impl<'a> Walker<'a> {
    /// The packet meets the rules at a hook.
    pub(super) fn pass(
        &mut self,
        machine: &'a Machine,
        hook: &Hook<'_>,
        packet: &mut Packet,
    ) -> Onward<()> {
        // What another program has rewritten is another packet.
        if machine.firewall.is_empty() || self.altered_by.is_some() {
            return Ok(());
        }
        if packet.is_error {
            return self.pass_message(machine, hook, packet);
        }
        let is_fresh = packet.tracking == Tracking::Fresh;
        let state = match packet.tracking {
            Tracking::Is(state) => state,
            Tracking::Fresh => self.track(machine, packet),
        };
        let seen = self.hooked(hook, packet, (state, is_fresh));
        let Judgement { end, mark, state: after, altered } =
            machine.firewall.judge(hook.point, &hook.priorities, &seen);
        packet.tracking = Tracking::Is(after);
        if after != state {
            let tracked = self.tracked(packet);
            self.tracks.forget(&machine.name, &tracked);
        }
        packet.mark_is_known &= mark.is_some();
        packet.mark = mark.unwrap_or(packet.mark);
        if let Some(by) = altered {
            let why = format!("{by} rewrites packets, or may: rules behind that are not followed");
            self.unclear.insert((machine.name.clone(), why));
            self.altered_by = Some(by);
        }
        match end {
            FilterEnd::Passes => Ok(()),
            FilterEnd::Unclear(why) => {
                self.unclear.insert((machine.name.clone(), why));
                Ok(())
            }
            FilterEnd::Drops(by) => {
                let is_untracked_nat = self.is_reply_of_nat(machine, packet)
                    && state == Some(INVALID)
                    && !machine.ipvs_setting(VsItem::Conntrack);
                let state = state.and_then(state_name);
                let packet = self.described(packet);
                let hook = hook.point;
                let by = Box::new(by);
                Err(dead(machine, Cause::Filtered { by, hook, packet, state, is_untracked_nat }))
            }
        }
    }

    /// A packet for the host itself goes out by lo and comes in there. What the director itself asks, IPVS takes on its way out.
    pub(super) fn pass_by_lo(&mut self, from: &'a Machine, packet: &mut Packet) -> Onward<()> {
        let lo = from.devices.iter().find(|(_, it)| it.kind == DeviceKind::Loopback);
        let Some((lo, _)) = lo else {
            self.before_routing(from, packet);
            return Ok(());
        };
        let out = PacketDevice::Is(lo);
        if self.connection.is_none() && self.director == Some(&from.name) {
            self.pass(from, &Hook::output(out, BEFORE_OWN_IPVS), packet)?;
            self.before_routing(from, packet);
            return Ok(());
        }
        self.pass(from, &Hook::output(out, ALL), packet)?;
        self.pass(from, &Hook::postrouting(out, ALL), packet)?;
        self.pass(from, &Hook::prerouting(lo, ALL), packet)?;
        self.before_routing(from, packet);
        self.pass(from, &Hook::input(lo, ALL), packet)
    }

    /// A packet that the host makes leaves by `route`.
    pub(super) fn leave(
        &mut self,
        from: &'a Machine,
        route: &'a RouteEntry,
        packet: &mut Packet,
    ) -> Onward<()> {
        self.pass(from, &Hook::output(outgoing(route), ALL), packet)?;
        self.pass(from, &Hook::postrouting(outgoing(route), ALL), packet)
    }

    /// Hook forward. On the director replies of NAT get the VIP back in its midst.
    pub(super) fn forward(
        &mut self,
        machine: &'a Machine,
        (dev, route): (&'a IfName, &'a RouteEntry),
        packet: &mut Packet,
    ) -> Onward<&'a RouteEntry> {
        if !self.is_reply_of_nat(machine, packet) {
            self.pass(machine, &Hook::forward(dev, route, ALL), packet)?;
            return Ok(route);
        }
        self.pass(machine, &Hook::forward(dev, route, BEFORE_VIP), packet)?;
        let onward = self.while_forwarding(machine, route, packet)?;
        self.pass(machine, &Hook::forward(dev, route, AFTER_VIP), packet)?;
        Ok(onward)
    }

    /// Hook prerouting on the director: firewall marks, and connection tracking, which knows whom FULLNAT hid.
    pub(super) fn before_routing(&self, machine: &Machine, packet: &mut Packet) {
        for rule in &machine.packet_rules {
            if let PacketRule::Mark { vip, protocol: _, ports, mark } = rule
                && *vip == packet.target
                && (ports.is_empty() || ports.contains(&packet.port))
            {
                packet.mark = *mark;
            }
        }
        if let Some(connection) = &self.connection
            && *connection.director == machine.name
            && connection.hides_behind == Some(packet.target)
            && (connection.rip == packet.source || packet.is_error)
        {
            packet.target = connection.client;
        }
    }

    /// A reply that IPVS of this host will rewrite.
    pub(super) fn is_reply_of_nat(&self, machine: &Machine, packet: &Packet) -> bool {
        self.connection.as_ref().is_some_and(|it| {
            it.rewrites
                && *it.director == machine.name
                && (it.rip == packet.source || packet.is_error)
        })
    }

    fn tracked(&self, packet: &Packet) -> TrackedPacket {
        let is_reply = self.reply_from.is_some();
        let (client, server) =
            if is_reply { (packet.target, packet.source) } else { (packet.source, packet.target) };
        let (port, protocol) = (packet.port, self.protocol);
        let is_later = self.stage == PacketStage::Later;
        TrackedPacket { client, server, port, protocol, is_reply, is_later }
    }

    fn track(&mut self, machine: &'a Machine, packet: &Packet) -> Option<u32> {
        // Nothing is ever answered to what is wrapped.
        if packet.inside.is_some() {
            return Some(NEW);
        }
        let mut tracked = self.tracked(packet);
        if self.reply_from.is_some()
            && self.is_reply_of_nat(machine, packet)
            && let Some(connection) = &self.connection
        {
            if !machine.ipvs_setting(VsItem::Conntrack) {
                return super::conntrack::alone(self.protocol, tracked.is_later);
            }
            tracked.client = connection.client;
            tracked.server = connection.vip;
            tracked.port = connection.port;
        }
        self.tracks.state(&machine.name, &tracked)
    }

    /// IPVS has taken the packet, and without `conntrack` connection tracking forgets it (ip_vs_xmit.c, `ip_vs_notrack`).
    pub(super) fn taken_by_ipvs(&mut self, director: &'a Machine, packet: &mut Packet) {
        if !director.ipvs_setting(VsItem::Conntrack) {
            let tracked = self.tracked(packet);
            self.tracks.forget(&director.name, &tracked);
            packet.tracking = Tracking::Is(Some(UNTRACKED));
        }
    }

    fn hooked<'h>(
        &self,
        hook: &Hook<'h>,
        packet: &Packet,
        (state, is_fresh): (Option<u32>, bool),
    ) -> HookedPacket<'h> {
        let is_reply = self.reply_from.is_some();
        let (protocol, ports) = match &packet.inside {
            None if is_reply => (self.protocol_number(), Some([Some(packet.port), None])),
            None => (self.protocol_number(), Some([None, Some(packet.port)])),
            Some((inside, tunnel)) => outer(inside, *tunnel),
        };
        let is_tcp = packet.inside.is_none() && self.protocol == Protocol::Tcp;
        let flags = match (self.stage, is_reply) {
            (PacketStage::Later, _) => DATA,
            (PacketStage::First, true) => SYN_ACK,
            (PacketStage::First, false) => SYN,
        };
        HookedPacket {
            incoming: hook.incoming,
            outgoing: hook.outgoing,
            source: packet.source,
            target: packet.target,
            protocol,
            ports,
            tcp_flags: is_tcp.then_some(flags),
            icmp: None,
            mark: packet.mark_is_known.then_some(packet.mark),
            state,
            is_fresh,
        }
    }

    fn protocol_number(&self) -> u8 {
        u8::try_from(self.protocol.number()).unwrap_or_default()
    }

    /// The packet, as one would accept it: `tcp to 192.0.2.80 port 80`.
    fn described(&self, packet: &Packet) -> String {
        let any = || "any client".to_owned();
        let name = |it: IpAddr| if it.is_unspecified() { any() } else { it.to_string() };
        let (source, target, port) = (name(packet.source), name(packet.target), packet.port);
        let protocol = self.protocol;
        match &packet.inside {
            Some((_, Tunnel::Gue { port, .. })) => {
                format!("udp to {target} port {port} from {source}")
            }
            Some((inside, tunnel)) => {
                let (number, _) = outer(inside, *tunnel);
                format!("IP protocol {number} to {target} from {source}")
            }
            None if self.reply_from.is_some() => {
                format!("{protocol} from {source} port {port} to {target}")
            }
            None => format!("{protocol} to {target} port {port} from {source}"),
        }
    }
}

/// Protocol and ports of the packet outside (include/uapi/linux/in.h). GUE chooses a source port by the connection.
fn outer(inside: &Packet, tunnel: Tunnel) -> (u8, Option<[Option<u16>; 2]>) {
    match tunnel {
        Tunnel::Ipip => (if inside.target.is_ipv6() { 41 } else { 4 }, None),
        Tunnel::Gre { .. } => (47, None),
        Tunnel::Gue { port, .. } => (17, Some([None, Some(port)])),
    }
}

fn state_name(state: u32) -> Option<&'static str> {
    match state {
        INVALID => Some("invalid"),
        ESTABLISHED => Some("established"),
        NEW => Some("new"),
        UNTRACKED => Some("untracked"),
        _ => None,
    }
}
