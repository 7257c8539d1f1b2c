//! ICMP through the rules of other programs: neighbour discovery of IPv6, without which a firewall makes a host unreachable
//! that answers everything else, and messages about packets that are too large, without which transfers hang. (ARP passes no
//! hooks of IP.)
//!
//! A host asks the solicited-node multicast group of the address, and the answer goes to whom it named as its sender (RFC 4861,
//! 7.2.2 and 7.2.4). Both pass output and postrouting, and prerouting and input (net/ipv6/ndisc.c, `ndisc_send_skb`).
//! Connection tracking leaves both alone (net/netfilter/nf_conntrack_proto_icmpv6.c, `noct_valid_new`). To it messages about
//! other packets are `related` where it knows the connection of these, else `invalid`: rules that ask for that are taken as not
//! known.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::death::Cause;
use super::filter::{FilterEnd, UNTRACKED};
use super::hooked_packet::{HookedPacket, PacketDevice};
use super::hooks::{ALL, Hook};
use super::machine::Machine;
use super::packet::Packet;
use super::walker::{Onward, Walker, dead};
use crate::names::IfName;

/// The protocols' numbers (RFC 792, RFC 8200, 4).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageKind {
    /// RFC 4861, 4.3.
    Solicitation,
    /// RFC 4861, 4.4.
    Advertisement,
    /// RFC 792, "fragmentation needed and DF set", and RFC 4443, 3.2.
    TooBig,
}

/// A message.
#[derive(Debug, Clone, Copy)]
struct IcmpMessage {
    kind: MessageKind,
    /// Unspecified: a link-local address, of which the file says nothing.
    source: IpAddr,
    target: IpAddr,
}

impl IcmpMessage {
    /// Type and code.
    fn header(&self) -> [u8; 2] {
        match self.kind {
            MessageKind::Solicitation => [135, 0],
            MessageKind::Advertisement => [136, 0],
            MessageKind::TooBig if self.target.is_ipv6() => [2, 0],
            MessageKind::TooBig => [3, 4],
        }
    }
}

/// As rules of nftables call it.
impl fmt::Display for IcmpMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            MessageKind::Solicitation => "icmpv6 type nd-neighbor-solicit",
            MessageKind::Advertisement => "icmpv6 type nd-neighbor-advert",
            MessageKind::TooBig if self.target.is_ipv6() => "icmpv6 type packet-too-big",
            MessageKind::TooBig => "icmp type destination-unreachable code frag-needed",
        })?;
        let Self { source, target, .. } = self;
        if source.is_unspecified() {
            f.write_str(" from any link-local address")?;
        } else {
            write!(f, " from {source}")?;
        }
        if target.is_unspecified() {
            f.write_str(" to any link-local address")
        } else {
            write!(f, " to {target}")
        }
    }
}

/// What rules see of a message beside its bytes.
#[derive(Debug, Clone, Copy)]
struct Tags {
    mark: Option<u32>,
    state: Option<u32>,
    is_fresh: bool,
}

/// The multicast group that an address makes its host listen to (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

impl<'a> Walker<'a> {
    /// `asker` asks on its device who has `address`, and `holder` answers.
    pub(super) fn discover(
        &mut self,
        asker: (&'a Machine, &IfName),
        holder: (&'a Machine, &IfName),
        (asks_as, address): (Option<IpAddr>, Ipv6Addr),
    ) -> Onward<()> {
        let asks_as = asks_as.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let question = IcmpMessage {
            kind: MessageKind::Solicitation,
            source: asks_as,
            target: solicited_node(address).into(),
        };
        self.tell_neighbour(asker, holder, &question)?;
        let kind = MessageKind::Advertisement;
        let answer = IcmpMessage { kind, source: address.into(), target: asks_as };
        self.tell_neighbour(holder, asker, &answer)
    }

    fn tell_neighbour(
        &mut self,
        (from, out): (&'a Machine, &IfName),
        (to, dev): (&'a Machine, &IfName),
        message: &IcmpMessage,
    ) -> Onward<()> {
        let out = PacketDevice::Is(out);
        let sent = [Hook::output(out, ALL), Hook::postrouting(out, ALL)];
        let taken = [Hook::prerouting(dev, ALL), Hook::input(dev, ALL)];
        for (machine, hooks) in [(from, sent), (to, taken)] {
            let mut tags = Tags { mark: Some(0), state: Some(UNTRACKED), is_fresh: true };
            for hook in &hooks {
                tags = self.meet(machine, hook, message, tags)?;
            }
        }
        Ok(())
    }

    /// A message about a packet that is too large meets the rules at a hook.
    pub(super) fn pass_message(
        &mut self,
        machine: &'a Machine,
        hook: &Hook<'_>,
        packet: &mut Packet,
    ) -> Onward<()> {
        let Packet { source, target, mark, mark_is_known, .. } = *packet;
        let message = IcmpMessage { kind: MessageKind::TooBig, source, target };
        let mark = mark_is_known.then_some(mark);
        let tags = Tags { mark, state: None, is_fresh: false };
        let Tags { mark, .. } = self.meet(machine, hook, &message, tags)?;
        packet.mark_is_known = mark.is_some();
        packet.mark = mark.unwrap_or(packet.mark);
        Ok(())
    }

    fn meet(
        &mut self,
        machine: &'a Machine,
        hook: &Hook<'_>,
        message: &IcmpMessage,
        tags: Tags,
    ) -> Onward<Tags> {
        if machine.firewall.is_empty() {
            return Ok(tags);
        }
        let Tags { mark, state, is_fresh } = tags;
        let seen = HookedPacket {
            incoming: hook.incoming,
            outgoing: hook.outgoing,
            source: message.source,
            target: message.target,
            protocol: if message.target.is_ipv6() { ICMPV6 } else { ICMP },
            ports: None,
            tcp_flags: None,
            icmp: Some(message.header()),
            mark,
            state,
            is_fresh,
        };
        let judged = machine.firewall.judge(hook.point, &hook.priorities, &seen);
        let unclear = match judged.end {
            FilterEnd::Drops(by) => {
                let (by, hook, packet) = (Box::new(by), hook.point, message.to_string());
                let (state, is_untracked_nat) = (None, false);
                let cause = Cause::Filtered { by, hook, packet, state, is_untracked_nat };
                return Err(dead(machine, cause));
            }
            FilterEnd::Unclear(why) => Some(why),
            FilterEnd::Passes => judged.altered.map(|by| format!("{by} rewrites packets, or may")),
        };
        self.unclear.extend(unclear.map(|why| (machine.name.clone(), why)));
        Ok(Tags { mark: judged.mark, state: judged.state, is_fresh: false })
    }
}
