//! [`TunnelGuard`] to the kernel's rules and back. Pure.
//!
//! The hook input is the first where IPv4 packets are whole (net/ipv4/ip_input.c, `ip_local_deliver`), and the last before a
//! tunnel takes the header outside away. Where the packet inside begins follows from the protocol and from what stands in
//! between; each form that the receiver would take is a rule:
//!
//! * IPIP: behind the header outside.
//! * GRE (net/ipv4/gre_demux.c, `gre_parse_header`): a checksum and a sequence number take 4 bytes each. A device without a key
//!   takes no packet with one, and one with or without a checksum only that kind; it takes a sequence number that it does
//!   not ask for. WCCP (protocol 0x883e) is taken as the family outside, with 4 bytes more unless IPv4 follows at once.
//! * GUE (net/ipv4/fou_core.c, `gue_udp_recv`): version 1 is the packet itself behind UDP; of version 0 a director sends headers
//!   of 4 and of 12 bytes (net/netfilter/ipvs/ip_vs_xmit.c, `ipvs_gue_encap`). Longer ones and other protocols inside are
//!   taken too, and what is inside cannot be found by a rule: from strangers they are dropped whatever they hold.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::codec::SetKeys;
use super::expr::{Expr, NETWORK, TRANSPORT};
use super::rule::{
    DESTINATION_PORT, IPV4, IPV6, KernelRule, address, in_set, number, octets, port_is,
};
use crate::names::IfName;
use crate::state::{TunnelGuard, TunnelHeader};

/// IPPROTO_IPIP, IPPROTO_UDP, IPPROTO_IPV6, IPPROTO_GRE.
pub(super) const IPIP: u8 = 4;
pub(super) const UDP: u8 = 17;
pub(super) const IPV6_INSIDE: u8 = 41;
pub(super) const GRE: u8 = 47;
/// Of GRE's first byte the bits for a checksum, a key and a sequence number (include/uapi/linux/if_tunnel.h).
const GRE_CHECKSUM: u8 = 0x80;
const GRE_SEQUENCE: u8 = 0x10;
const GRE_FORM: u8 = 0xb0;
/// ETH_P_WCCP.
const WCCP: [u8; 2] = [0x88, 0x3e];
/// Bytes of a UDP header.
const UDP_BYTES: u32 = 8;
/// Of GUE's first byte: version and control bit; the length of what follows the first 4 bytes, in words.
const GUE_KIND: u8 = 0xe0;
/// Lengths that a director sends.
const GUE_LENGTHS: [u8; 2] = [0, 2];
/// IFNAMSIZ.
const NAME_BYTES: usize = 16;

/// A form in which a packet may be wrapped: what to ask, and where the packet inside begins behind the header outside.
/// Without such a place the packet is dropped, whatever it carries.
struct WrappedForm {
    asks: Vec<Expr>,
    inside: Option<u32>,
}

/// The rules of `guard`: for strangers, and then for each device, one for each form.
///
/// `nft` 1.0.6 ends with a failed assertion (`payload_expr_complete`) where bytes behind a protocol that it has no words for are
/// asked after the protocol: here the protocol comes last.
pub(super) fn kernel_rules(guard: &TunnelGuard) -> Vec<KernelRule> {
    let TunnelGuard { outside_v6, header, sources, devices, .. } = guard;
    let mut all = Vec::new();
    for condition in conditions(*outside_v6, sources, devices) {
        for WrappedForm { asks, inside } in forms(*header, guard) {
            let mut looks = asks;
            let mut set = None;
            if let Some(inside) = inside {
                set = destination_is(&mut looks, inside, &guard.vips);
            }
            let protocol = protocol_is(*header, guard.inside_v6());
            let mut parts = [looks, protocol];
            if matches!(header, TunnelHeader::Gue { .. }) {
                parts.reverse();
            }
            let mut expressions = family_is(*outside_v6);
            expressions.extend(condition.iter().cloned());
            expressions.extend(parts.into_iter().flatten());
            expressions.extend([Expr::Counter, Expr::Drop]);
            all.push(KernelRule { expressions, set });
        }
    }
    all
}

/// Of whom packets are dropped: of strangers, and of each device whatever its source.
pub(super) fn conditions(
    ipv6: bool,
    sources: &BTreeSet<IpNet>,
    devices: &BTreeSet<IfName>,
) -> Vec<Vec<Expr>> {
    let devices = devices.iter().map(came_in_on);
    std::iter::once(from_strangers(ipv6, sources)).chain(devices).collect()
}

pub(super) fn family_is(ipv6: bool) -> Vec<Expr> {
    vec![Expr::LoadFamily, Expr::Equal(vec![if ipv6 { IPV6 } else { IPV4 }])]
}

/// The source is in none of `sources`. Each is loaded anew, as `nft` does it.
fn from_strangers(ipv6: bool, sources: &BTreeSet<IpNet>) -> Vec<Expr> {
    let source = || source_of(ipv6);
    let mut all = Vec::new();
    for net in sources {
        all.push(source());
        if net.prefix_len() < net.max_prefix_len() {
            all.push(Expr::Keep(octets(net.netmask())));
        }
        all.push(Expr::NotEqual(octets(net.network())));
    }
    all
}

fn source_of(ipv6: bool) -> Expr {
    let (offset, length) = if ipv6 { (8, 16) } else { (12, 4) };
    Expr::LoadPacket { base: NETWORK, offset, length }
}

fn came_in_on(dev: &IfName) -> Vec<Expr> {
    let mut name = dev.as_str().as_bytes().to_vec();
    name.resize(NAME_BYTES, 0);
    vec![Expr::LoadInName, Expr::Equal(name)]
}

fn protocol_is(header: TunnelHeader, inside_v6: bool) -> Vec<Expr> {
    let protocol = match header {
        TunnelHeader::None => protocol_inside(inside_v6),
        TunnelHeader::Gre { .. } => GRE,
        TunnelHeader::Gue { .. } => UDP,
    };
    let mut all = vec![Expr::LoadProtocol, Expr::Equal(vec![protocol])];
    if let TunnelHeader::Gue { port } = header {
        port_is(&mut all, port);
    }
    all
}

fn protocol_inside(ipv6: bool) -> u8 {
    if ipv6 { IPV6_INSIDE } else { IPIP }
}

fn forms(header: TunnelHeader, guard: &TunnelGuard) -> Vec<WrappedForm> {
    match header {
        TunnelHeader::None => vec![WrappedForm { asks: Vec::new(), inside: Some(0) }],
        TunnelHeader::Gre { checksum } => gre_forms(checksum, guard),
        TunnelHeader::Gue { .. } => gue_forms(guard.inside_v6()),
    }
}

fn load(offset: u32, length: u32) -> Expr {
    Expr::LoadPacket { base: TRANSPORT, offset, length }
}

fn gre_forms(checksum: bool, guard: &TunnelGuard) -> Vec<WrappedForm> {
    let ipv6 = guard.inside_v6();
    // Flags, 2 bytes, and the protocol inside, an ETH_P_*.
    let form = |flags: u8, [high, low]: [u8; 2], inside| WrappedForm {
        asks: vec![
            load(0, 4),
            Expr::Keep(vec![GRE_FORM, 0, 0xff, 0xff]),
            Expr::Equal(vec![flags, 0, high, low]),
        ],
        inside: Some(inside),
    };
    // No flag at all.
    let wccp = |inside| WrappedForm {
        asks: vec![load(0, 4), Expr::Equal([[0, 0], WCCP].concat())],
        inside: Some(inside),
    };
    let ether_type = if ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let (flags, bytes) = if checksum { (GRE_CHECKSUM, 8) } else { (0, 4) };
    let mut all =
        vec![form(flags, ether_type, bytes), form(flags | GRE_SEQUENCE, ether_type, bytes + 4)];
    if !checksum && guard.outside_v6 == ipv6 {
        all.push(wccp(8));
        if !ipv6 {
            all.push(wccp(4));
        }
    }
    all
}

fn gue_forms(ipv6: bool) -> Vec<WrappedForm> {
    let first = || load(UDP_BYTES, 1);
    let inside = || load(UDP_BYTES + 1, 1);
    let is_data = || [first(), Expr::Keep(vec![GUE_KIND]), Expr::Equal(vec![0])];
    let whole = |words: u8| WrappedForm {
        asks: vec![load(UDP_BYTES, 2), Expr::Equal(vec![words, protocol_inside(ipv6)])],
        inside: Some(UDP_BYTES + 4 + 4 * u32::from(words)),
    };
    let mut all: Vec<WrappedForm> = GUE_LENGTHS.into_iter().map(whole).collect();
    all.push(WrappedForm {
        asks: vec![
            first(),
            Expr::Keep(vec![0xf0]),
            Expr::Equal(vec![if ipv6 { 0x60 } else { 0x40 }]),
        ],
        inside: Some(UDP_BYTES),
    });
    let mut other_length: Vec<Expr> = is_data().into();
    let others = GUE_LENGTHS.into_iter().flat_map(|it| [first(), Expr::NotEqual(vec![it])]);
    other_length.extend(others);
    let mut other_protocol: Vec<Expr> = is_data().into();
    let others =
        [IPIP, IPV6_INSIDE].into_iter().flat_map(|it| [inside(), Expr::NotEqual(vec![it])]);
    other_protocol.extend(others);
    all.push(WrappedForm { asks: other_length, inside: None });
    all.push(WrappedForm { asks: other_protocol, inside: None });
    all
}

/// The destination of the packet inside, which begins at `inside`, is one of `vips`. The set that it asks, if any.
fn destination_is(all: &mut Vec<Expr>, inside: u32, vips: &BTreeSet<IpAddr>) -> Option<SetKeys> {
    let ipv6 = vips.first().is_some_and(IpAddr::is_ipv6);
    let (offset, length) = if ipv6 { (24, 16) } else { (16, 4) };
    all.push(load(inside + offset, length));
    let keys: SetKeys = vips.iter().copied().map(octets).collect();
    in_set(all, keys)
}

/// The guard whose rules begin with `first`, with `devices` of the rules behind it. The caller compares everything.
pub(super) fn candidate(found: &[KernelRule]) -> Option<TunnelGuard> {
    let [_, Expr::Equal(family), rest @ ..] = found.first()?.expressions.as_slice() else {
        return None;
    };
    let outside_v6 = *family == [IPV6];
    let (sources, rest) = sources_of(outside_v6, rest)?;
    let (header, looks) = match rest {
        [Expr::LoadProtocol, _, load, Expr::Equal(port), looks @ .., Expr::Counter, Expr::Drop]
            if *load == DESTINATION_PORT =>
        {
            (TunnelHeader::Gue { port: number(port)? }, looks)
        }
        [looks @ .., Expr::LoadProtocol, _, Expr::Counter, Expr::Drop] => match looks {
            [_, _, Expr::Equal(form), _, _] => {
                let checksum = form.first()? & GRE_CHECKSUM != 0;
                (TunnelHeader::Gre { checksum }, looks)
            }
            _ => (TunnelHeader::None, looks),
        },
        _ => return None,
    };
    let vips: BTreeSet<IpAddr> = match (looks.last()?, &found.first()?.set) {
        (Expr::Equal(vip), _) => BTreeSet::from([address(vip)?]),
        (Expr::InSet { .. }, Some(keys)) => {
            keys.iter().map(|key| address(key)).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let mut guard = TunnelGuard { outside_v6, header, vips, sources, devices: BTreeSet::new() };
    let of_each = forms(header, &guard).len();
    // The next guard begins with a rule for strangers.
    let devices = found.chunks(of_each).skip(1).map_while(|rules| device_of(rules.first()?));
    guard.devices = devices.collect();
    Some(guard)
}

/// The sources in the first of `found`, and what is behind them.
pub(super) fn sources_of(ipv6: bool, mut found: &[Expr]) -> Option<(BTreeSet<IpNet>, &[Expr])> {
    let (mut all, load) = (BTreeSet::new(), source_of(ipv6));
    while let [first, rest @ ..] = found
        && *first == load
    {
        let (mask, rest) = match rest {
            [Expr::Keep(mask), rest @ ..] => (Some(mask), rest),
            rest => (None, rest),
        };
        let [Expr::NotEqual(net), rest @ ..] = rest else { return None };
        let net = address(net)?;
        all.insert(match mask {
            Some(mask) => IpNet::with_netmask(net, address(mask)?).ok()?,
            None => IpNet::from(net),
        });
        found = rest;
    }
    Some((all, found))
}

fn device_of(rule: &KernelRule) -> Option<IfName> {
    device_in(rule.expressions.get(2..)?)
}

/// The device that the first of these expressions ask for.
pub(super) fn device_in(found: &[Expr]) -> Option<IfName> {
    let [Expr::LoadInName, Expr::Equal(name), ..] = found else { return None };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    std::str::from_utf8(name.get(..length)?).ok()?.parse().ok()
}
