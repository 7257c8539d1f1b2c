//! A table of ours as [`PacketRules`]: what is to be sent for it, and what was read of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{self, Base, ObservedChain, ObservedRule, ObservedSet, message};
use super::expr::Expr;
use super::rule::{self, Chain, RuleError, SetName};
use crate::kernel::wire::AttributeList;
use crate::state::{PacketRule, PacketRules, TableName};

/// NLM_F_CREATE, NLM_F_EXCL, NLM_F_APPEND (include/uapi/linux/netlink.h).
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;

/// One message of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMessage {
    /// Of [`message`].
    pub message: u8,
    /// NLM_F_*, beyond NLM_F_REQUEST.
    pub flags: u16,
    /// Its attributes.
    pub body: AttributeList,
    /// What it is about, for a person.
    pub what: String,
}

/// What makes a table be as `after` says: the old one, if there is one, goes, and the new one comes.
pub fn transaction(
    name: &TableName,
    there: bool,
    after: Option<&PacketRules>,
) -> Result<Vec<BatchMessage>, RuleError> {
    let table = name.to_string();
    let mut all = Vec::new();
    let mut add = |message, flags, body, what: &str| {
        all.push(BatchMessage { message, flags, body, what: what.to_owned() });
    };
    if there {
        add(message::DELTABLE, 0, codec::of_table(&table), "the removal of the old table");
    }
    let Some(PacketRules { rules }) = after else { return Ok(all) };
    add(message::NEWTABLE, CREATE | EXCLUSIVE, codec::of_table(&table), "the table");
    let wanted: BTreeSet<Chain> = rules.iter().filter_map(Chain::of).collect();
    for chain in wanted {
        let (kind, hook, priority) = (chain.kind(), chain.hook(), chain.priority());
        let body = codec::new_chain(&table, chain.name(), kind, hook, priority);
        add(message::NEWCHAIN, CREATE | EXCLUSIVE, body, &format!("the chain {}", chain.name()));
    }
    for (id, rule) in (1..).zip(rules) {
        let set = SetName { name: "__set%d".to_owned(), id };
        let what = rule.to_string();
        let chain = Chain::of(rule).ok_or_else(|| RuleError::Unknown(what.clone()))?;
        if let Some(ports) = rule::set_of(rule) {
            let body = codec::new_set(&table, &set.name, id, ports.len());
            add(message::NEWSET, CREATE | EXCLUSIVE, body, &what);
            for body in codec::new_elements(&table, &set.name, id, ports) {
                add(message::NEWSETELEM, CREATE, body, &what);
            }
        }
        let body = codec::new_rule(&table, chain.name(), &rule::expressions(rule, &set)?);
        add(message::NEWRULE, CREATE | APPEND, body, &what);
    }
    Ok(all)
}

/// Everything that was read of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableContents {
    /// The table itself.
    pub table: codec::ObservedTable,
    /// Its chains.
    pub chains: Vec<ObservedChain>,
    /// Its rules, those of a chain in their order.
    pub rules: Vec<ObservedRule>,
    /// Its sets; with their elements if those are ports.
    pub sets: Vec<(ObservedSet, Option<BTreeSet<u16>>)>,
}

/// What a table does. What is not exactly ours is [`PacketRule::Unknown`], and everything is told of:
/// rules, chains, sets, and by their number the parts that were not read (counters, flowtables).
pub fn rules_of(parts: &TableContents) -> PacketRules {
    let mut all = BTreeSet::new();
    let mut unknown = unknown_around(parts);
    let known: BTreeMap<&[u8], Chain> = parts
        .chains
        .iter()
        .filter_map(|seen| Some((seen.name.as_slice(), as_ours(seen)?)))
        .collect();
    let with_ports = parts.sets.iter().filter_map(|(seen, elements)| {
        let name = String::from_utf8(seen.name.clone()).ok()?;
        Some((name, elements.clone()?))
    });
    let sets: BTreeMap<String, BTreeSet<u16>> = with_ports.collect();
    let mut last: BTreeMap<Chain, PacketRule> = BTreeMap::new();
    for seen in &parts.rules {
        let chain = known.get(seen.chain.as_slice()).copied();
        let ours = chain.zip(seen.expressions.as_deref()).and_then(|(chain, expressions)| {
            let rule = rule::recognise(chain, expressions, &sets)?;
            // Twice, or not in our order: of marks the last one wins, so the order counts.
            if last.get(&chain).is_some_and(|before| *before >= rule) {
                return None;
            }
            last.insert(chain, rule.clone());
            if let Some(set) = set_in(expressions) {
                unknown.remove(&in_words("set", set.as_bytes()));
            }
            Some(rule)
        });
        all.insert(ours.unwrap_or_else(|| {
            let chain = in_words("chain", &seen.chain);
            PacketRule::Unknown(format!("{chain} handle {}", seen.handle))
        }));
    }
    all.extend(unknown.into_iter().map(PacketRule::Unknown));
    PacketRules { rules: all }
}

/// What is wrong with a table around its rules. Sets are all told of: those that belong to a rule of
/// ours are taken out again.
fn unknown_around(parts: &TableContents) -> BTreeSet<String> {
    let TableContents { table, chains, rules, sets } = parts;
    let mut unknown = BTreeSet::new();
    if table.flags != 0 {
        unknown.insert(format!("the table has the flags {:#x}", table.flags));
    }
    for seen in chains {
        let name = in_words("chain", &seen.name);
        if as_ours(seen).is_none() {
            unknown.insert(name);
        } else if rules.iter().all(|rule| rule.chain != seen.name) {
            unknown.insert(format!("{name} without rules"));
        }
    }
    unknown.extend(sets.iter().map(|(seen, _)| in_words("set", &seen.name)));
    let named = sets.iter().filter(|(set, _)| !set.anonymous).count();
    let read = u32::try_from(chains.len() + named).unwrap_or(u32::MAX);
    if table.parts != read {
        let more = table.parts.abs_diff(read);
        unknown.insert(format!("{more} more parts (counters, flowtables and the like)"));
    }
    unknown
}

fn in_words(what: &str, name: &[u8]) -> String {
    format!("{what} {}", printable(name))
}

/// Which chain of ours it is, if it is one in every respect.
fn as_ours(seen: &ObservedChain) -> Option<Chain> {
    let ObservedChain { table: _, name, base, extras } = seen;
    let Base { kind, hook, priority, accepts } = base.as_ref()?;
    Chain::ALL.into_iter().find(|chain| {
        chain.name().as_bytes() == name.as_slice()
            && chain.kind().as_bytes() == kind.as_slice()
            && chain.hook() == *hook
            && chain.priority() == *priority
            && *accepts
            && !extras
    })
}

fn set_in(expressions: &[Expr]) -> Option<&str> {
    expressions.iter().find_map(|expr| match expr {
        Expr::InSet { set, id: _ } => Some(set.as_str()),
        _ => None,
    })
}

/// Somebody else chose these bytes: nothing in them may move a terminal's cursor.
pub fn printable(name: &[u8]) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(name).chars().map(visible).collect()
}

/// The table's family by its number, as `nft` names it (include/uapi/linux/netfilter.h).
pub fn family(number: u8) -> String {
    match number {
        1 => "inet".to_owned(),
        2 => "ip".to_owned(),
        3 => "arp".to_owned(),
        5 => "netdev".to_owned(),
        7 => "bridge".to_owned(),
        10 => "ip6".to_owned(),
        other => format!("family-{other}"),
    }
}
