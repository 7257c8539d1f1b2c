//! Rules of other programs that drop what connection tracking calls invalid. Pure.
//!
//! Only these are looked for, as they alone stop a NAT service without a rule about it: with `net.ipv4.vs.conntrack=0`
//! (the default) IPVS takes requests out of connection tracking, so the reply of a real server is of no connection
//! that is known (net/netfilter/ipvs/ip_vs_xmit.c, `ip_vs_notrack`). firewalld, ufw and most rulesets drop such packets.
//!
//! Read are nftables' own `ct state invalid drop`, and iptables' match `conntrack`, as iptables-nft stores it.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{ObservedChain, name};
use super::expr::value_in;
use super::filter::{self, Found};
use crate::kernel::wire::{self, WireError};
use crate::state::StatefulDrop;

/// NFT_CT_STATE, and the bit of an invalid packet (include/uapi/linux/netfilter/nf_conntrack_common.h,
/// `NF_CT_STATE_INVALID_BIT`).
const CT_STATE: u32 = 0;
const INVALID: u32 = 1;
/// NFT_CMP_NEQ.
const NOT_EQUAL: u32 = 1;
/// NF_DROP, NFT_JUMP, NFT_GOTO as the kernel dumps them.
const DROP: u32 = 0;
const JUMP: u32 = (-3_i32).cast_unsigned();
const GOTO: u32 = (-4_i32).cast_unsigned();
/// `struct xt_conntrack_mtinfo3` (include/uapi/linux/netfilter/xt_conntrack.h): offsets of `match_flags`,
/// `invert_flags` and `state_mask`; XT_CONNTRACK_STATE, XT_CONNTRACK_STATE_INVALID.
const XT_MATCH_FLAGS: usize = 146;
const XT_STATE: u16 = 1;
const XT_INVALID: u16 = 1;
/// NF_INET_PRE_ROUTING, NF_INET_FORWARD.
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
/// NF_IP_PRI_CONNTRACK: before that, no packet has a state.
const CONNTRACK_PRIORITY: i32 = -200;

/// What is asked of a rule of another program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignRule {
    /// The table's name.
    pub table: Vec<u8>,
    /// The chain's name.
    pub chain: Vec<u8>,
    /// It asks whether the packet is invalid.
    pub asks_invalid: bool,
    /// It asks for something else too: an interface, an address.
    pub asks_more: bool,
    /// It drops or rejects.
    pub drops: bool,
    /// The chain to which it leads.
    pub leads_to: Option<Vec<u8>>,
}

/// Reads a rule.
pub fn rule(body: &[u8]) -> Result<ForeignRule, WireError> {
    let mut rule = ForeignRule::default();
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => rule.table = name(value),
            (2, value) => rule.chain = name(value),
            (4, value) => read_expressions(value, &mut rule)?,
            _ => {}
        }
    }
    Ok(rule)
}

fn read_expressions(list: &[u8], rule: &mut ForeignRule) -> Result<(), WireError> {
    // Whether the register holds the packet's state, and then the bit of invalid packets of it.
    let (mut has_state, mut has_bit) = (false, false);
    for (kind, found) in filter::named_expressions(list)? {
        let number = |of| filter::number(&found, of);
        match kind.as_str() {
            "ct" if number(2) == Some(CT_STATE) => has_state = true,
            "bitwise" if has_state => {
                let mask = found.get(&4).and_then(|it| value_in(it));
                has_bit = mask.and_then(host_order) == Some(INVALID);
                rule.asks_more |= !has_bit;
                has_state = false;
            }
            "cmp" if has_bit && number(2) == Some(NOT_EQUAL) => {
                rule.asks_invalid = true;
                has_bit = false;
            }
            "match" if is_invalid_match(&found) => rule.asks_invalid = true,
            "immediate" => read_verdict(&found, rule)?,
            "reject" => rule.drops = true,
            // They ask nothing of the packet.
            "counter" | "log" => {}
            "target" => rule.drops |= found.get(&1).is_some_and(|it| name(it) == b"REJECT"),
            _ => rule.asks_more = true,
        }
    }
    Ok(())
}

/// Register contents are in the byte order of the host.
fn host_order(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// iptables' `-m conntrack --ctstate INVALID`.
fn is_invalid_match(found: &Found<'_>) -> bool {
    let is_conntrack = found.get(&1).is_some_and(|it| name(it) == b"conntrack");
    let Some(info) = found.get(&3).filter(|_| is_conntrack) else { return false };
    let word = |at: usize| {
        let bytes = info.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_ne_bytes(bytes))
    };
    let words = (word(XT_MATCH_FLAGS), word(XT_MATCH_FLAGS + 2), word(XT_MATCH_FLAGS + 4));
    words == (Some(XT_STATE), Some(0), Some(XT_INVALID))
}

/// NFTA_IMMEDIATE_DATA, in it NFTA_DATA_VERDICT with NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
fn read_verdict(found: &Found<'_>, rule: &mut ForeignRule) -> Result<(), WireError> {
    let Some(data) = found.get(&2) else { return Ok(()) };
    for attribute in wire::attributes(data) {
        let (2, verdict) = attribute? else { continue };
        let (mut code, mut chain) = (None, None);
        for attribute in wire::attributes(verdict) {
            match attribute? {
                (1, value) => code = Some(wire::read_be32(value, "a verdict")?),
                (2, value) => chain = Some(name(value)),
                _ => {}
            }
        }
        match code {
            Some(DROP) => rule.drops = true,
            Some(JUMP | GOTO) => rule.leads_to = chain,
            _ => {}
        }
    }
    Ok(())
}

/// Whether a chain is asked of packets that pass through, once their state is known.
pub fn is_on_the_way(chain: &ObservedChain) -> bool {
    chain.base.as_ref().is_some_and(|base| {
        base.hook == FORWARD || base.hook == PREROUTING && base.priority > CONNTRACK_PRIORITY
    })
}

/// The rules of a table, `named` like `inet filter`, by which packets that pass through and are invalid are dropped.
pub fn drops(named: &str, chains: &[ObservedChain], rules: &[ForeignRule]) -> Vec<StatefulDrop> {
    // The chains that such packets come to, and whether something else is asked of them on the way there.
    let mut reached: BTreeMap<&[u8], bool> = BTreeMap::new();
    let mut next: Vec<(&[u8], bool)> = chains
        .iter()
        .filter(|chain| is_on_the_way(chain))
        .map(|chain| (chain.name.as_slice(), false))
        .collect();
    while let Some((chain, asked)) = next.pop() {
        if reached.get(chain).is_some_and(|before| !before || asked) {
            continue;
        }
        reached.insert(chain, asked);
        let from_here = rules.iter().filter(|rule| rule.chain == chain);
        next.extend(from_here.filter_map(|rule| {
            Some((rule.leads_to.as_deref()?, asked || rule.asks_more || rule.asks_invalid))
        }));
    }
    let found: BTreeSet<StatefulDrop> = rules
        .iter()
        .filter(|rule| rule.asks_invalid && rule.drops)
        .filter_map(|rule| {
            let asked = reached.get(rule.chain.as_slice())?;
            let chain = format!("{named} {}", super::table::printable(&rule.chain));
            Some(StatefulDrop { chain, always: !asked && !rule.asks_more })
        })
        .collect();
    found.into_iter().collect()
}
