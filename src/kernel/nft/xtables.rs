//! Matches and targets of xtables, as iptables-nft stores them in rules of nftables, and iptables-legacy in its tables. Pure.
//!
//! Structures are those of include/uapi/linux/netfilter/xt_NAME.h, in the byte order of the host.

use super::filter::{Found, number};
use crate::state::firewall::{Comparison, FilterField, FilterOp, Octets, RuleVerdict};

/// Bits of [`FilterField::State`] that xt_conntrack numbers otherwise: XT_CONNTRACK_STATE_UNTRACKED, and that of nf_tables.
const XT_UNTRACKED: u16 = 256;
const UNTRACKED: u32 = 64;
/// XT_CONNTRACK_STATE_SNAT and _DNAT: whether the packet was rewritten.
const XT_REWRITTEN: u16 = 64 | 128;
/// A register that iptables-nft does not use.
const SPARE: u8 = 15;

/// What a structure holds.
struct Info<'a>(&'a [u8]);

impl Info<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn short(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.0.get(at..)?.first_chunk().copied()?))
    }

    fn long(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(at..)?.first_chunk().copied()?))
    }
}

/// The name, the revision and the structure of a match or a target. (NFTA_MATCH_* and NFTA_TARGET_* are numbered alike.)
fn parts<'a>(found: &Found<'a>) -> Option<(String, u32, Info<'a>)> {
    let name = crate::kernel::wire::read_text(found.get(&1)?, "a name").ok()?;
    let info = found.get(&3).copied().unwrap_or_default();
    Some((name, number(found, 2).unwrap_or(0), Info(info)))
}

/// What a match asks.
pub(super) fn matching(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    let (name, revision, Info(info)) = parts(found)?;
    Some(matching_of(&name, revision, info))
}

/// What the match of this name and revision asks, by its structure.
pub(in crate::kernel) fn matching_of(name: &str, revision: u32, info: &[u8]) -> Vec<FilterOp> {
    known_match(name, revision, &Info(info)).unwrap_or_else(|| vec![unread("match", name)])
}

fn known_match(name: &str, revision: u32, info: &Info<'_>) -> Option<Vec<FilterOp>> {
    match (name, revision) {
        ("comment", _) => Some(Vec::new()),
        ("tcp", 0) => tcp(info),
        ("udp", 0) => ports(info, info.byte(8)?),
        ("icmp", 0) => icmp(info, Some(255)),
        ("icmp6", 0) => icmp(info, None),
        ("conntrack", 3) => connection(info),
        ("state", 0) => states(u16::try_from(info.long(0)?).ok()?, false),
        ("multiport", 1) => multiport(info),
        ("mark", 1) => mark(info),
        _ => None,
    }
}

fn unread(what: &str, name: &str) -> FilterOp {
    FilterOp::Unread(format!("{what} {}", super::table::printable(name.as_bytes())))
}

/// `struct xt_tcp`: ports, an option, flags, and what is negated (XT_TCP_INV_*).
fn tcp(info: &Info<'_>) -> Option<Vec<FilterOp>> {
    let (option, mask, value, negated) =
        (info.byte(8)?, info.byte(9)?, info.byte(10)?, info.byte(11)?);
    let mut all = ports(info, negated)?;
    if mask != 0 || negated & 4 != 0 {
        all.push(FilterOp::TcpFlags { mask, value, negated: negated & 4 != 0 });
    }
    if option != 0 {
        all.push(unread("match", "tcp option"));
    }
    Some(all)
}

/// `struct ipt_icmp` and `ip6t_icmp`: a type, the codes from and to, and whether both are negated. `any`: the type that stands for
/// all of them.
fn icmp(info: &Info<'_>, any: Option<u8>) -> Option<Vec<FilterOp>> {
    const ALL_CODES: (u8, u8) = (0, 255);
    let (kind, codes, negated) =
        (info.byte(0)?, (info.byte(1)?, info.byte(2)?), info.byte(3)? & 1 != 0);
    if codes != ALL_CODES {
        return None;
    }
    if Some(kind) == any {
        return (!negated).then(Vec::new);
    }
    let how = if negated { Comparison::NotEqual } else { Comparison::Equal };
    Some(vec![
        FilterOp::Load { field: FilterField::Transport { offset: 0, length: 1 }, to: SPARE },
        FilterOp::Compare { at: SPARE, how, with: Octets(vec![kind]) },
    ])
}

/// `spts` and `dpts` at the start of `struct xt_tcp` and `xt_udp`; bits 1 and 2 of `negated`.
fn ports(info: &Info<'_>, negated: u8) -> Option<Vec<FilterOp>> {
    let mut all = Vec::new();
    for (at, source, bit) in [(0, true, 1), (4, false, 2)] {
        let (range, negated) = ((info.short(at)?, info.short(at + 2)?), negated & bit != 0);
        if range != (0, u16::MAX) || negated {
            all.push(FilterOp::Ports { source, target: !source, ranges: vec![range], negated });
        }
    }
    Some(all)
}

/// `struct xt_conntrack_mtinfo3`: `match_flags`, `invert_flags` and `state_mask`.
fn connection(info: &Info<'_>) -> Option<Vec<FilterOp>> {
    const AT: usize = 146;
    /// XT_CONNTRACK_STATE.
    const STATE: u16 = 1;
    let (asked, negated) = (info.short(AT)?, info.short(AT + 2)?);
    if asked != STATE {
        return None;
    }
    states(info.short(AT + 4)?, negated & STATE != 0)
}

fn states(mask: u16, negated: bool) -> Option<Vec<FilterOp>> {
    if mask & XT_REWRITTEN != 0 {
        return None;
    }
    let untracked = if mask & XT_UNTRACKED != 0 { UNTRACKED } else { 0 };
    let bits = u32::from(mask & !XT_UNTRACKED) | untracked;
    Some(vec![FilterOp::States { bits, negated }])
}

/// `struct xt_multiport_v1`: which ports, how many, 15 numbers, 15 flags "a range begins", and whether it is negated.
fn multiport(info: &Info<'_>) -> Option<Vec<FilterOp>> {
    let (which, count, negated) = (info.byte(0)?, usize::from(info.byte(1)?), info.byte(47)? != 0);
    let (source, target) = match which {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return None,
    };
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < count.min(15) {
        let first = info.short(2 + 2 * at)?;
        let is_range = info.byte(32 + at)? != 0;
        at += usize::from(is_range);
        ranges.push((first, info.short(2 + 2 * at)?));
        at += 1;
    }
    Some(vec![FilterOp::Ports { source, target, ranges, negated }])
}

/// `struct xt_mark_mtinfo1`: value, mask, and whether it is negated.
fn mark(info: &Info<'_>) -> Option<Vec<FilterOp>> {
    let (value, mask, negated) = (info.long(0)?, info.long(4)?, info.byte(8)? != 0);
    let how = if negated { Comparison::NotEqual } else { Comparison::Equal };
    let bytes = |number: u32| Octets(number.to_ne_bytes().to_vec());
    Some(vec![
        FilterOp::Load { field: FilterField::Mark, to: SPARE },
        FilterOp::Mask { from: SPARE, to: SPARE, mask: bytes(mask), xor: bytes(0) },
        FilterOp::Compare { at: SPARE, how, with: bytes(value) },
    ])
}

/// What a target does.
pub(super) fn target(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    let (name, revision, Info(info)) = parts(found)?;
    Some(target_of(&name, revision, info))
}

/// What the target of this name and revision does, by its structure.
pub(in crate::kernel) fn target_of(name: &str, revision: u32, info: &[u8]) -> Vec<FilterOp> {
    known_target(name, revision, &Info(info)).unwrap_or_else(|| vec![unread("target", name)])
}

fn known_target(name: &str, revision: u32, info: &Info<'_>) -> Option<Vec<FilterOp>> {
    let one = |op| Some(vec![op]);
    match name {
        "REJECT" => one(FilterOp::Verdict(RuleVerdict::Drop)),
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "CHECKSUM" | "CLASSIFY" | "TCPMSS" | "TCPOPTSTRIP"
        | "DSCP" | "TOS" | "TEE" | "AUDIT" | "SECMARK" | "CONNSECMARK" | "TTL" | "HL" => {
            Some(Vec::new())
        }
        // `struct xt_mark_tginfo2`: the new mark is (mark & ~mask) ^ value.
        "MARK" if revision == 2 => {
            let bytes = |number: u32| Octets(number.to_ne_bytes().to_vec());
            let (mask, xor) = (bytes(!info.long(4)?), bytes(info.long(0)?));
            Some(vec![
                FilterOp::Load { field: FilterField::Mark, to: SPARE },
                FilterOp::Mask { from: SPARE, to: SPARE, mask, xor },
                FilterOp::SetMark { from: Some(SPARE) },
            ])
        }
        "MARK" | "CONNMARK" => one(FilterOp::SetMark { from: None }),
        "NOTRACK" => one(FilterOp::Untrack),
        // `struct xt_ct_target_info`: XT_CT_NOTRACK.
        "CT" => Some((info.short(0)? & 1 != 0).then_some(FilterOp::Untrack).into_iter().collect()),
        "NFQUEUE" => one(FilterOp::Verdict(RuleVerdict::Other(name.to_owned()))),
        // Addresses are rewritten, or it is not known what happens.
        _ => one(FilterOp::Alter(super::table::printable(name.as_bytes()))),
    }
}
