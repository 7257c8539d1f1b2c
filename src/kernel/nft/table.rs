//! [`PacketRules`] to a transaction, and a dumped table to [`PacketRules`]. Pure.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{
    NLM_F_APPEND as APPEND, NLM_F_CREATE as CREATE, NLM_F_EXCL as EXCLUSIVE,
};

use super::codec::{self, Base, ObservedChain, ObservedRule, ObservedSet, message};
use super::expr::Expr;
use super::rule::{self, Chain, RuleError, SetName};
use crate::kernel::wire::AttributeList;
use crate::state::{PacketRule, PacketRules, TableName};

/// One message of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMessage {
    /// One of [`message`].
    pub message: u8,
    /// NLM_F_*, beyond NLM_F_REQUEST.
    pub flags: u16,
    /// Its attributes.
    pub body: AttributeList,
    /// What it makes or removes, for error messages.
    pub what: String,
}

/// The messages that replace the table `name` by `after`. `exists`: an old table has to be removed.
pub fn transaction(
    name: &TableName,
    exists: bool,
    after: Option<&PacketRules>,
) -> Result<Vec<BatchMessage>, RuleError> {
    let table = name.to_string();
    let mut all = Vec::new();
    let mut add = |message, flags, body, what: &str| {
        all.push(BatchMessage { message, flags, body, what: what.to_owned() });
    };
    if exists {
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

/// The dumps of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableContents {
    /// The table itself.
    pub table: codec::ObservedTable,
    /// Its chains.
    pub chains: Vec<ObservedChain>,
    /// Its rules; those of a chain in the order of evaluation.
    pub rules: Vec<ObservedRule>,
    /// Its sets; with the elements if all are ports.
    pub sets: Vec<(ObservedSet, Option<BTreeSet<u16>>)>,
}

/// The rules of a table. Each rule, chain or set that lvsprov would not write is a [`PacketRule::Unknown`];
/// objects that were not read (counters, flowtables) are one, with their number.
pub fn rules_of(parts: &TableContents) -> PacketRules {
    let mut all = BTreeSet::new();
    let mut unknown = unknown_beside_rules(parts);
    let known: BTreeMap<&[u8], Chain> = parts
        .chains
        .iter()
        .filter_map(|found| Some((found.name.as_slice(), known_chain(found)?)))
        .collect();
    let with_ports = parts.sets.iter().filter_map(|(found, elements)| {
        let name = String::from_utf8(found.name.clone()).ok()?;
        Some((name, elements.clone()?))
    });
    let sets: BTreeMap<String, BTreeSet<u16>> = with_ports.collect();
    let mut last: BTreeMap<Chain, PacketRule> = BTreeMap::new();
    for found in &parts.rules {
        let chain = known.get(found.chain.as_slice()).copied();
        let known_rule =
            chain.zip(found.expressions.as_deref()).and_then(|(chain, expressions)| {
                let rule = rule::recognise(chain, expressions, &sets)?;
                // Twice, or not in the order of `PacketRules`: of marks the last one wins, so the order counts.
                if last.get(&chain).is_some_and(|before| *before >= rule) {
                    return None;
                }
                last.insert(chain, rule.clone());
                if let Some(set) = set_in(expressions) {
                    unknown.remove(&described("set", set.as_bytes()));
                }
                Some(rule)
            });
        all.insert(known_rule.unwrap_or_else(|| {
            let chain = described("chain", &found.chain);
            PacketRule::Unknown(format!("{chain} handle {}", found.handle))
        }));
    }
    all.extend(unknown.into_iter().map(PacketRule::Unknown));
    PacketRules { rules: all }
}

/// What lvsprov would not write beside the rules. Names all sets: the caller removes those that a known
/// rule uses.
fn unknown_beside_rules(parts: &TableContents) -> BTreeSet<String> {
    let TableContents { table, chains, rules, sets } = parts;
    let mut unknown = BTreeSet::new();
    if table.flags != 0 {
        unknown.insert(format!("the table has the flags {:#x}", table.flags));
    }
    for found in chains {
        let name = described("chain", &found.name);
        if known_chain(found).is_none() {
            unknown.insert(name);
        } else if rules.iter().all(|rule| rule.chain != found.name) {
            unknown.insert(format!("{name} without rules"));
        }
    }
    unknown.extend(sets.iter().map(|(found, _)| described("set", &found.name)));
    let named = sets.iter().filter(|(set, _)| !set.anonymous).count();
    let read = u32::try_from(chains.len() + named).unwrap_or(u32::MAX);
    if table.parts != read {
        let more = table.parts.abs_diff(read);
        unknown.insert(format!("{more} more parts (counters, flowtables and the like)"));
    }
    unknown
}

fn described(what: &str, name: &[u8]) -> String {
    format!("{what} {}", printable(name))
}

/// The chain of lvsprov with exactly these properties.
fn known_chain(found: &ObservedChain) -> Option<Chain> {
    let ObservedChain { table: _, name, base, extras } = found;
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

/// `name` without control characters: another program chose it, and a terminal must not obey it.
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
