//! The messages of nf_tables that lvsprov uses (include/uapi/linux/netfilter/nf_tables.h): requests, and
//! the tables, chains, rules and sets in the kernel's answers. Pure.
//!
//! Numbers in the attributes are in network order, unlike in most of netlink.

use std::collections::BTreeSet;

use super::expr::{self, Expr};
use crate::kernel::wire::{self, AttributeList, WireError};

/// `NFT_MSG_*`: the low byte of a message's type.
pub mod message {
    #![allow(missing_docs)] // the kernel's own names
    pub const NEWTABLE: u8 = 0;
    pub const GETTABLE: u8 = 1;
    pub const DELTABLE: u8 = 2;
    pub const NEWCHAIN: u8 = 3;
    pub const GETCHAIN: u8 = 4;
    pub const NEWRULE: u8 = 6;
    pub const GETRULE: u8 = 7;
    pub const NEWSET: u8 = 9;
    pub const GETSET: u8 = 10;
    pub const NEWSETELEM: u8 = 12;
    pub const GETSETELEM: u8 = 13;
    pub const GETGEN: u8 = 16;
}

/// NFNL_SUBSYS_NFTABLES: the high byte of a message's type.
pub const SUBSYSTEM: u8 = 10;
/// NFPROTO_UNSPEC.
pub const ANY: u8 = 0;
/// NFPROTO_INET.
pub const INET: u8 = 1;

/// NF_ACCEPT.
const ACCEPT: u32 = 1;
/// NFT_SET_ANONYMOUS; and with NFT_SET_CONSTANT.
const SET_ANONYMOUS: u32 = 0x1;
const SET_FLAGS: u32 = 0x3;
/// `nft`'s types inet_service and integer; the kernel only stores it.
const TYPE_PORT: u32 = 13;
const TYPE_INTEGER: u32 = 4;
/// Set elements in one message: at most 28 bytes each, together below the 64 KiB of an attribute.
const ELEMENTS: usize = 1000;

/// `nlmsg_type` of a message.
pub fn kind(message: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM, message])
}

/// Attributes that name the table of a request. (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE,
/// NFTA_SET_TABLE and NFTA_SET_ELEM_LIST_TABLE are all 1.)
pub fn of_table(table: &str) -> AttributeList {
    let mut body = AttributeList::default();
    body.put_text(1, table);
    body
}

/// A new base chain with policy accept.
pub fn new_chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> AttributeList {
    let mut hooked = AttributeList::default();
    hooked.put_be32(1, hook);
    hooked.put(2, &priority.to_be_bytes());
    let mut body = of_table(table);
    body.put_text(3, name);
    body.put_nested(4, &hooked);
    body.put_be32(5, ACCEPT);
    body.put_text(7, kind);
    body
}

/// A new rule after those of the chain.
pub fn new_rule(table: &str, chain: &str, expressions: &[Expr]) -> AttributeList {
    let mut list = AttributeList::default();
    for expr in expressions {
        expr.encode(&mut list);
    }
    let mut body = of_table(table);
    body.put_text(2, chain);
    body.put_nested(4, &list);
    body
}

/// Elements of a set: bytes as a register has them, all of one length. Ports have 2.
pub type SetKeys = BTreeSet<Vec<u8>>;

/// A new set for `keys`. The kernel replaces `%d` in an anonymous set's name by a number.
pub fn new_set(table: &str, name: &str, id: u32, keys: &SetKeys) -> AttributeList {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let length = keys.first().map_or(0, Vec::len);
    let mut description = AttributeList::default();
    description.put_be32(1, number(keys.len()));
    let mut body = of_table(table);
    body.put_text(2, name);
    body.put_be32(3, SET_FLAGS);
    body.put_be32(4, if length == 2 { TYPE_PORT } else { TYPE_INTEGER });
    body.put_be32(5, number(length));
    body.put_nested(9, &description);
    body.put_be32(10, id);
    body
}

/// The elements of a set, in as many messages as they need.
pub fn new_elements(table: &str, set: &str, id: u32, keys: &SetKeys) -> Vec<AttributeList> {
    let keys: Vec<_> = keys.iter().collect();
    let message = |keys: &[&Vec<u8>]| {
        let mut list = AttributeList::default();
        for key in keys {
            let mut element = AttributeList::default();
            element.put(1 | wire::NESTED, &expr::data(key));
            list.put_nested(expr::LIST_ELEMENT, &element);
        }
        let mut body = of_table(table);
        body.put_text(2, set);
        body.put_nested(3, &list);
        body.put_be32(4, id);
        body
    };
    keys.chunks(ELEMENTS).map(message).collect()
}

/// Attributes that name a set.
pub fn of_set(table: &str, set: &str) -> AttributeList {
    let mut body = of_table(table);
    body.put_text(2, set);
    body
}

/// The start of a batch that the kernel refuses (ERESTART) if the ruleset's generation is no longer
/// `generation` (NFNL_BATCH_GENID).
pub fn batch_of(generation: u32) -> AttributeList {
    let mut body = AttributeList::default();
    body.put_be32(1, generation);
    body
}

/// A table in the kernel's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Any bytes but NUL, up to 255.
    pub name: Vec<u8>,
    /// `NFT_TABLE_F_*`. 1: dormant, its chains are not in use; 2: a process owns it.
    pub flags: u32,
    /// Number of chains, sets, stateful objects and flowtables in it. Anonymous sets do not count once
    /// their rule is committed (nf_tables_api.c, `nf_tables_commit`).
    pub parts: u32,
}

/// Reads a table.
pub fn table(body: &[u8]) -> Result<ObservedTable, WireError> {
    let mut table = ObservedTable::default();
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => table.name = name(value),
            (2, value) => table.flags = wire::read_be32(value, "a table's flags")?,
            (3, value) => table.parts = wire::read_be32(value, "a table's use")?,
            _ => {}
        }
    }
    Ok(table)
}

/// A chain in the kernel's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// The table's name.
    pub table: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Present if it is a base chain.
    pub base: Option<Base>,
    /// It counts packets, is bound to devices or is offloaded: lvsprov makes no such chain.
    pub extras: bool,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// filter, nat, route.
    pub kind: Vec<u8>,
    /// NF_INET_*.
    pub hook: u32,
    /// Lower is earlier.
    pub priority: i32,
    /// Whether its policy is accept.
    pub accepts: bool,
}

/// Reads a chain.
pub fn chain(body: &[u8]) -> Result<ObservedChain, WireError> {
    let mut chain = ObservedChain::default();
    let mut base = Base::default();
    let mut is_base = false;
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => chain.table = name(value),
            (3, value) => chain.name = name(value),
            (4, value) => {
                is_base = true;
                for attribute in wire::attributes(value) {
                    match attribute? {
                        (1, value) => base.hook = wire::read_be32(value, "a hook's number")?,
                        (2, value) => {
                            base.priority = i32::from_be_bytes(wire::array(value, "a priority")?);
                        }
                        // NFTA_HOOK_DEV, NFTA_HOOK_DEVS
                        _ => chain.extras = true,
                    }
                }
            }
            (5, value) => base.accepts = wire::read_be32(value, "a policy")? == ACCEPT,
            (7, value) => base.kind = name(value),
            // NFTA_CHAIN_COUNTERS
            (8, _) => chain.extras = true,
            // NFTA_CHAIN_FLAGS: NFT_CHAIN_BASE is redundant.
            (10, value) => chain.extras |= wire::read_be32(value, "a chain's flags")? & !1 != 0,
            _ => {}
        }
    }
    chain.base = is_base.then_some(base);
    Ok(chain)
}

/// A rule in the kernel's answer. Its comment is ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedRule {
    /// The table's name.
    pub table: Vec<u8>,
    /// The chain's name.
    pub chain: Vec<u8>,
    /// Unique within the table.
    pub handle: u64,
    /// `None` if iptables made it.
    pub expressions: Option<Vec<Expr>>,
}

/// Reads a rule.
pub fn rule(body: &[u8]) -> Result<ObservedRule, WireError> {
    let (mut rule, mut all, mut compat) = (ObservedRule::default(), Vec::new(), false);
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => rule.table = name(value),
            (2, value) => rule.chain = name(value),
            (3, value) => rule.handle = wire::read_be64(value, "a rule's handle")?,
            (4, value) => {
                for element in wire::attributes(value) {
                    all.push(Expr::decode(element?.1)?);
                }
            }
            (5, _) => compat = true,
            _ => {}
        }
    }
    rule.expressions = (!compat).then_some(all);
    Ok(rule)
}

/// A set in the kernel's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSet {
    /// The table's name.
    pub table: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Whether it has the properties that [`new_set`] gives: anonymous, constant, keys of a port, an address of IPv4 or one of IPv6.
    pub plain: bool,
    /// Whether it belongs to a rule.
    pub anonymous: bool,
}

/// Reads a set.
pub fn set(body: &[u8]) -> Result<ObservedSet, WireError> {
    let (mut set, mut flags, mut length) = (ObservedSet::default(), 0, 0);
    for attribute in wire::attributes(body) {
        match attribute? {
            (1, value) => set.table = name(value),
            (2, value) => set.name = name(value),
            (3, value) => flags = wire::read_be32(value, "a set's flags")?,
            (5, value) => length = wire::read_be32(value, "the length of a set's key")?,
            _ => {}
        }
    }
    set.anonymous = flags & SET_ANONYMOUS != 0;
    set.plain = flags == SET_FLAGS && matches!(length, 2 | 4 | 16);
    Ok(set)
}

/// Reads elements of a set into `keys`. `false`: an element is more than a key.
pub fn elements(body: &[u8], keys: &mut SetKeys) -> Result<bool, WireError> {
    let mut plain = true;
    for attribute in wire::attributes(body) {
        let (3, list) = attribute? else { continue };
        for element in wire::attributes(list) {
            let mut key = None;
            for attribute in wire::attributes(element?.1) {
                let (kind, value) = attribute?;
                // NFTA_SET_ELEM_KEY, and NFTA_SET_ELEM_FLAGS, which may be zero.
                match kind {
                    1 => key = expr::value_in(value).map(<[u8]>::to_vec),
                    3 => plain &= value.iter().all(|byte| *byte == 0),
                    _ => {}
                }
            }
            match key {
                Some(key) => plain &= keys.insert(key),
                None => plain = false,
            }
        }
    }
    Ok(plain)
}

/// Reads the generation of the namespace's ruleset.
pub fn generation(body: &[u8]) -> Result<Option<u32>, WireError> {
    for attribute in wire::attributes(body) {
        if let (1, value) = attribute? {
            return wire::read_be32(value, "a generation's number").map(Some);
        }
    }
    Ok(None)
}

/// A name without its NUL. The process that made the object chose the bytes: they need not be UTF-8.
pub(in crate::kernel) fn name(value: &[u8]) -> Vec<u8> {
    value.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
