//! [`FragmentGuard`] to the kernel's rules and back. Pure.
//!
//! At the hook input packets of IPv6 may still be in fragments, which a protocol handler joins behind it
//! (net/ipv6/reassembly.c). The first one has all headers, as far as they fit; [`super::guard`] finds the packet inside only
//! where they do. Of the rules here those that accept let go what is long enough, and the others drop the rest. They stand
//! last in their chain: what they accept has passed all guards.

use std::collections::BTreeSet;

use super::expr::{Expr, TRANSPORT};
use super::guard::{self, GRE, IPIP, IPV6_INSIDE, UDP};
use super::rule::{DESTINATION_PORT, KernelRule, number, port_is};
use crate::state::FragmentGuard;

/// The bits of a fragment header that hold the place of the fragment (RFC 8200, 4.5).
const PLACE: u16 = 0xfff8;

/// A protocol, and the last bytes that a guard asks for behind the header outside: their place and number.
struct DeepestLook {
    protocol: Vec<Expr>,
    place: u32,
    bytes: u32,
}

fn looks(guard: &FragmentGuard) -> Vec<DeepestLook> {
    let of = |protocol: u8, place, bytes| DeepestLook {
        protocol: vec![Expr::LoadProtocol, Expr::Equal(vec![protocol])],
        place,
        bytes,
    };
    let mut all = Vec::new();
    if guard.plain {
        all.extend([of(IPIP, 16, 4), of(IPV6_INSIDE, 24, 16)]);
    }
    if guard.gre {
        // With a checksum and a sequence number.
        all.push(of(GRE, 12 + 24, 16));
    }
    for port in &guard.gue_ports {
        let mut look = of(UDP, 8 + 12 + 24, 16);
        port_is(&mut look.protocol, *port);
        all.push(look);
    }
    all
}

/// A load that always compares as equal: the rule matches where the packet is long enough.
fn is_there(load: Expr, bytes: usize) -> [Expr; 3] {
    [load, Expr::Keep(vec![0; bytes]), Expr::Equal(vec![0; bytes])]
}

fn first_fragment() -> Vec<Expr> {
    let mut all = guard::family_is(true);
    all.push(Expr::LoadFragmentPlace);
    all.push(Expr::Keep(PLACE.to_be_bytes().to_vec()));
    all.push(Expr::Equal(vec![0; 2]));
    all
}

/// Number of expressions of [`first_fragment`].
const PREFIX: usize = 5;

pub(super) fn kernel_rules(guard: &FragmentGuard) -> Vec<KernelRule> {
    let looks = looks(guard);
    let mut all = Vec::new();
    let mut add = |parts: &[&[Expr]]| {
        let mut expressions = first_fragment();
        expressions.extend(parts.iter().flat_map(|part| part.iter().cloned()));
        all.push(KernelRule { expressions, set: None });
    };
    let drops = [Expr::Counter, Expr::Drop];
    for DeepestLook { protocol, place, bytes } in &looks {
        let load = Expr::LoadPacket { base: TRANSPORT, offset: *place, length: *bytes };
        let length = usize::try_from(*bytes).unwrap_or_default();
        add(&[&is_there(load, length), protocol, &[Expr::Accept]]);
    }
    let conditions = guard::conditions(true, &guard.sources, &guard.devices);
    for condition in &conditions {
        for DeepestLook { protocol, .. } in &looks {
            add(&[condition, protocol, &drops]);
        }
    }
    if !guard.gue_ports.is_empty() {
        // The port stands in the next fragment.
        let udp = [Expr::LoadProtocol, Expr::Equal(vec![UDP])];
        add(&[&is_there(DESTINATION_PORT, 2), &udp, &[Expr::Accept]]);
        for condition in &conditions {
            add(&[condition, &udp, &drops]);
        }
    }
    // The headers go on in the next fragment: what they lead to is not known yet.
    add(&[&is_there(Expr::LoadProtocol, 1), &[Expr::Accept]]);
    for condition in &conditions {
        add(&[condition, &drops]);
    }
    all
}

/// The guard whose rules begin with `found`. The caller compares everything.
pub(super) fn candidate(found: &[KernelRule]) -> Option<FragmentGuard> {
    let behind = |rule: &KernelRule| rule.expressions.get(PREFIX..).map(<[Expr]>::to_vec);
    let mut guard = FragmentGuard {
        plain: false,
        gre: false,
        gue_ports: BTreeSet::new(),
        sources: BTreeSet::new(),
        devices: BTreeSet::new(),
    };
    let mut count = 0;
    for rule in found {
        let rest = behind(rule)?;
        let [_, _, _, Expr::LoadProtocol, Expr::Equal(protocol), rest @ .., Expr::Accept] =
            rest.as_slice()
        else {
            break;
        };
        match (protocol.as_slice(), rest) {
            ([UDP], [load, Expr::Equal(port), ..]) if *load == DESTINATION_PORT => {
                guard.gue_ports.insert(number(port)?);
            }
            ([GRE], _) => guard.gre = true,
            _ => guard.plain = true,
        }
        count += 1;
    }
    let mut groups = found.get(count..)?.chunks(count.max(1));
    let strangers = behind(groups.next()?.first()?)?;
    (guard.sources, _) = guard::sources_of(true, &strangers)?;
    let devices = groups.map_while(|rules| guard::device_in(&behind(rules.first()?)?));
    guard.devices = devices.collect();
    Some(guard)
}
