//! Rules and sets of other programs, decoded for [`crate::state::firewall`]. Pure.
//!
//! What an expression asks that is not decoded here makes it [`FilterOp::Unread`]: it may match or not. Expressions that only
//! count or log are left out. Of the extensions of xtables, which iptables-nft puts into rules, [`super::xtables`] knows some.

use std::collections::BTreeMap;

use super::codec::{self, ObservedChain};
use super::expr::{LIST_ELEMENT, value_in};
use super::xtables;
use crate::kernel::wire::{self, WireError};
use crate::state::firewall::{
    Comparison, FilterBase, FilterField, FilterOp, FilterRule, FilterSet, HookPoint, MapResult,
    MapValue, Octets, RuleVerdict, SetElement,
};

/// NFTA_EXPR_NAME, NFTA_EXPR_DATA.
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
/// NFTA_DATA_VERDICT; in it NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
const DATA_VERDICT: u16 = 2;

/// The attributes of an expression, by number.
pub(super) type Found<'a> = BTreeMap<u16, &'a [u8]>;

/// A rule, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFilterRule {
    /// The table's name.
    pub table: Vec<u8>,
    /// The chain's name.
    pub chain: Vec<u8>,
    /// What it does.
    pub rule: FilterRule,
}

/// Reads a rule.
pub fn rule(body: &[u8]) -> Result<ForeignFilterRule, WireError> {
    let (mut table, mut chain) = (Vec::new(), Vec::new());
    let (mut handle, mut ops) = (0, Vec::new());
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => table = codec::name(value),
            (2, value) => chain = codec::name(value),
            (3, value) => handle = wire::read_be64(value, "a rule's handle")?,
            (4, value) => ops = expressions(value)?,
            _ => {}
        }
    }
    Ok(ForeignFilterRule { table, chain, rule: FilterRule { handle, ops } })
}

/// Whether the rule may do something to a packet, or end its way through the chain.
pub fn does_something(rule: &FilterRule) -> bool {
    rule.ops.iter().any(|op| match op {
        FilterOp::Verdict(verdict) => *verdict != RuleVerdict::Continue,
        FilterOp::Lookup { gives, .. } => *gives == MapResult::Verdict,
        FilterOp::SetMark { .. } | FilterOp::Untrack | FilterOp::Alter(_) => true,
        _ => false,
    })
}

/// The expressions of a rule: what each is called, and its attributes.
pub(super) fn named_expressions(list: &[u8]) -> Result<Vec<(String, Found<'_>)>, WireError> {
    let mut all = Vec::new();
    for element in wire::attributes(list) {
        let (LIST_ELEMENT, element) = element? else { continue };
        let (mut kind, mut found) = (String::new(), Found::new());
        for attribute in wire::attributes(element) {
            match attribute? {
                (EXPR_NAME, value) => kind = wire::read_text(value, "an expression's name")?,
                (EXPR_DATA, value) => {
                    found = wire::attributes(value).collect::<Result<_, WireError>>()?;
                }
                _ => {}
            }
        }
        all.push((kind, found));
    }
    Ok(all)
}

fn expressions(list: &[u8]) -> Result<Vec<FilterOp>, WireError> {
    let mut ops = Vec::new();
    for (kind, found) in named_expressions(list)? {
        let unread = || vec![FilterOp::Unread(super::table::printable(kind.as_bytes()))];
        ops.extend(operations(&kind, &found).unwrap_or_else(unread));
    }
    Ok(ops)
}

/// The number in an attribute.
pub(super) fn number(found: &Found<'_>, of: u16) -> Option<u32> {
    wire::read_be32(found.get(&of)?, "a number").ok()
}

fn small(found: &Found<'_>, of: u16) -> Option<u8> {
    u8::try_from(number(found, of)?).ok()
}

/// The word of the register in an attribute (include/uapi/linux/netfilter/nf_tables.h, `enum nft_registers`).
fn register(found: &Found<'_>, of: u16) -> Option<u8> {
    match small(found, of)? {
        long @ 1..=4 => Some((long - 1) * 4),
        short @ 8..=23 => Some(short - 8),
        _ => None,
    }
}

fn octets(found: &Found<'_>, of: u16) -> Option<Octets> {
    value_in(found.get(&of)?).map(|value| Octets(value.to_vec()))
}

/// What an expression does; `None`: that is not known.
fn operations(kind: &str, found: &Found<'_>) -> Option<Vec<FilterOp>> {
    let one = |op| Some(vec![op]);
    match kind {
        "counter" | "log" | "last" | "dup" | "flow_offload" => Some(Vec::new()),
        "notrack" => one(FilterOp::Untrack),
        "reject" => one(FilterOp::Verdict(RuleVerdict::Drop)),
        "queue" => one(FilterOp::Verdict(RuleVerdict::Other("queue".to_owned()))),
        "nat" | "masq" | "redir" | "tproxy" | "synproxy" => one(FilterOp::Alter(kind.to_owned())),
        "meta" => meta(found),
        "payload" => payload(found),
        "ct" => connection(found),
        "cmp" => {
            let how = match number(found, 2)? {
                0 => Comparison::Equal,
                1 => Comparison::NotEqual,
                2 => Comparison::Less,
                3 => Comparison::LessOrEqual,
                4 => Comparison::Greater,
                5 => Comparison::GreaterOrEqual,
                _ => return None,
            };
            one(FilterOp::Compare { at: register(found, 1)?, how, with: octets(found, 3)? })
        }
        "range" => one(FilterOp::Range {
            at: register(found, 1)?,
            negated: number(found, 2)? == 1,
            from: octets(found, 3)?,
            to: octets(found, 4)?,
        }),
        "bitwise" => bitwise(found),
        "byteorder" => one(FilterOp::Swap {
            from: register(found, 1)?,
            to: register(found, 2)?,
            size: small(found, 5)?,
            length: small(found, 4)?,
        }),
        "immediate" => match register(found, 1) {
            Some(to) => one(FilterOp::Constant { to, value: octets(found, 2)? }),
            None => one(FilterOp::Verdict(verdict(found.get(&2)?)?)),
        },
        "lookup" => lookup(found),
        // A counter, a helper of connection tracking, a timeout or an expectation.
        "objref" if matches!(number(found, 1), Some(1 | 3 | 7 | 8 | 9)) => Some(Vec::new()),
        // An element that is added; with an expression it asks whether that matches.
        "dynset" if [7, 10].iter().all(|it| !found.contains_key(it)) && is_plain_dynset(found) => {
            Some(Vec::new())
        }
        // An option of the header is written, not read.
        "exthdr" if found.contains_key(&7) => Some(Vec::new()),
        "match" => xtables::matching(found),
        "target" => xtables::target(found),
        _ => None,
    }
}

/// Without NFT_DYNSET_F_INV.
fn is_plain_dynset(found: &Found<'_>) -> bool {
    number(found, 9).is_none_or(|flags| flags & 1 == 0)
}

fn meta(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    const MARK: u32 = 3;
    if let Some(from) = register(found, 3) {
        let sets_mark = number(found, 2)? == MARK;
        return Some(
            sets_mark.then_some(FilterOp::SetMark { from: Some(from) }).into_iter().collect(),
        );
    }
    let field = match number(found, 2)? {
        1 => FilterField::EtherType,
        MARK => FilterField::Mark,
        4 => FilterField::InNumber,
        5 => FilterField::OutNumber,
        6 => FilterField::InName,
        7 => FilterField::OutName,
        15 => FilterField::Family,
        16 => FilterField::Protocol,
        _ => return None,
    };
    Some(vec![FilterOp::Load { field, to: register(found, 1)? }])
}

fn payload(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let (base, offset, length) = (number(found, 2)?, small(found, 3)?, small(found, 4)?);
    if found.contains_key(&5) {
        // What stands before the addresses decides nothing that is followed here.
        let harmless = base == NETWORK && offset.saturating_add(length) <= 8;
        let alters = (!harmless).then(|| FilterOp::Alter("payload".to_owned()));
        return Some(alters.into_iter().collect());
    }
    let field = match base {
        NETWORK => FilterField::Network { offset, length },
        TRANSPORT => FilterField::Transport { offset, length },
        _ => return None,
    };
    Some(vec![FilterOp::Load { field, to: register(found, 1)? }])
}

fn connection(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    const STATE: u32 = 0;
    if found.contains_key(&4) {
        return Some(Vec::new());
    }
    let field = (number(found, 2)? == STATE).then_some(FilterField::State)?;
    Some(vec![FilterOp::Load { field, to: register(found, 1)? }])
}

fn bitwise(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    const MASK_AND_XOR: u32 = 0;
    if number(found, 6).unwrap_or(MASK_AND_XOR) != MASK_AND_XOR {
        return None;
    }
    let (from, to) = (register(found, 1)?, register(found, 2)?);
    let (mask, xor) = (octets(found, 4)?, octets(found, 5)?);
    Some(vec![FilterOp::Mask { from, to, mask, xor }])
}

fn lookup(found: &Found<'_>) -> Option<Vec<FilterOp>> {
    let set = wire::read_text(found.get(&1)?, "a set's name").ok()?;
    let gives = match (found.contains_key(&3), register(found, 3)) {
        (false, _) => MapResult::Nothing,
        (true, None) => MapResult::Verdict,
        (true, Some(to)) => MapResult::Value(to),
    };
    let negated = number(found, 5).is_some_and(|flags| flags & 1 != 0);
    Some(vec![FilterOp::Lookup { at: register(found, 2)?, set, negated, gives }])
}

/// A verdict in NFTA_DATA_VERDICT. Positive ones are NF_DROP and its like, negative ones `enum nft_verdicts`.
fn verdict(data: &[u8]) -> Option<RuleVerdict> {
    let attribute = |bytes, wanted: u16| {
        wire::attributes(bytes)
            .filter_map(Result::ok)
            .find(|(kind, _): &(u16, &[u8])| *kind == wanted)
            .map(|(_, value)| value)
    };
    let inside = attribute(data, DATA_VERDICT)?;
    let code = wire::read_be32(attribute(inside, 1)?, "a verdict").ok()?.cast_signed();
    let chain = || Some(super::table::printable(&codec::name(attribute(inside, 2)?)));
    Some(match code {
        0 => RuleVerdict::Drop,
        1 => RuleVerdict::Accept,
        -1 | -2 => RuleVerdict::Continue,
        -3 => RuleVerdict::Jump(chain()?),
        -4 => RuleVerdict::Goto(chain()?),
        -5 => RuleVerdict::Return,
        other => RuleVerdict::Other(format!("verdict {other}")),
    })
}

/// What makes a chain one on the way of routed packets; `None`: it is none.
pub fn base(chain: &ObservedChain) -> Option<FilterBase> {
    let base = chain.base.as_ref()?;
    Some(FilterBase {
        hook: HookPoint::from_number(base.hook)?,
        priority: base.priority,
        nat: base.kind == b"nat",
        drops: !base.accepts,
    })
}

/// A set, without its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignSet {
    /// The table's name.
    pub table: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub set: FilterSet,
}

/// Reads a set.
pub fn set(body: &[u8]) -> Result<ForeignSet, WireError> {
    /// NFT_SET_INTERVAL, NFT_SET_EVAL.
    const INTERVAL: u32 = 0x4;
    const EVAL: u32 = 0x20;
    let (mut table, mut name, mut set) = (Vec::new(), Vec::new(), FilterSet::default());
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => table = codec::name(value),
            (2, value) => name = codec::name(value),
            (3, value) => {
                let flags = wire::read_be32(value, "a set's flags")?;
                set.interval = flags & INTERVAL != 0;
                set.unread = (flags & EVAL != 0).then(|| "packets change it".to_owned());
            }
            (5, value) => {
                let length = wire::read_be32(value, "the length of a set's key")?;
                set.length = u8::try_from(length).unwrap_or(0);
            }
            (9, value) => set.fields = fields(value)?,
            _ => {}
        }
    }
    Ok(ForeignSet { table, name, set })
}

/// NFTA_SET_DESC_CONCAT of a set's description: NFTA_SET_FIELD_LEN of each field.
fn fields(description: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut lengths = Vec::new();
    for attribute in wire::attributes(description) {
        let (2, list) = attribute? else { continue };
        for element in wire::attributes(list) {
            for attribute in wire::attributes(element?.1) {
                if let (1, value) = attribute? {
                    let length = wire::read_be32(value, "the length of a field")?;
                    lengths.push(u8::try_from(length).unwrap_or(0));
                }
            }
        }
    }
    Ok(lengths)
}

/// Reads elements of a set.
pub fn elements(body: &[u8]) -> Result<Vec<SetElement>, WireError> {
    /// NFT_SET_ELEM_INTERVAL_END.
    const ENDS: u32 = 1;
    let mut all = Vec::new();
    for attribute in wire::attributes(body) {
        let (3, list) = attribute? else { continue };
        for element in wire::attributes(list) {
            let mut read = SetElement::default();
            for attribute in wire::attributes(element?.1) {
                match attribute? {
                    (1, value) => read.key = value_in(value).map(|it| Octets(it.to_vec())),
                    (2, value) => {
                        let constant =
                            value_in(value).map(|it| MapValue::Value(Octets(it.to_vec())));
                        read.value = constant.or_else(|| verdict(value).map(MapValue::Verdict));
                    }
                    (3, value) => {
                        read.ends = wire::read_be32(value, "an element's flags")? & ENDS != 0;
                    }
                    (10, value) => read.last = value_in(value).map(|it| Octets(it.to_vec())),
                    _ => {}
                }
            }
            all.push(read);
        }
    }
    Ok(all)
}
