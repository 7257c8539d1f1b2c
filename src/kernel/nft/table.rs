//! [`PacketRules`] to a transaction, and a dumped table to [`PacketRules`]. Pure.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{
    NLM_F_APPEND as APPEND, NLM_F_CREATE as CREATE, NLM_F_EXCL as EXCLUSIVE,
};

use super::codec::{self, Base, ObservedChain, ObservedRule, ObservedSet, SetKeys, message};
use super::expr::Expr;
use super::rule::{self, Chain, KernelRule, RuleError};
use crate::kernel::wire::AttributeList;
use crate::state::{PacketRule, PacketRules, TableName};

/// The name of an anonymous set in a transaction: the kernel puts a number there.
const SET_NAME: &str = "__set%d";

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
    let mut number = 0;
    for rule in rules {
        let what = rule.to_string();
        let chain = Chain::of(rule).ok_or_else(|| RuleError::Unknown(what.clone()))?;
        for rule in rule::kernel_rules(rule)? {
            number += 1;
            if let Some(keys) = &rule.set {
                let body = codec::new_set(&table, SET_NAME, number, keys);
                add(message::NEWSET, CREATE | EXCLUSIVE, body, &what);
                for body in codec::new_elements(&table, SET_NAME, number, keys) {
                    add(message::NEWSETELEM, CREATE, body, &what);
                }
            }
            let expressions = rule.naming(SET_NAME, number);
            let body = codec::new_rule(&table, chain.name(), &expressions);
            add(message::NEWRULE, CREATE | APPEND, body, &what);
        }
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
    /// Its sets; with the elements if all are plain keys.
    pub sets: Vec<(ObservedSet, Option<SetKeys>)>,
}

/// The rules of a table. Each rule, chain or set that lvsprov would not write is a [`PacketRule::Unknown`];
/// objects that were not read (counters, flowtables) are one, with their number.
pub fn rules_of(parts: &TableContents) -> PacketRules {
    let mut all = BTreeSet::new();
    let mut unknown = unknown_beside_rules(parts);
    let with_keys = parts.sets.iter().filter_map(|(found, elements)| {
        let name = String::from_utf8(found.name.clone()).ok()?;
        Some((name, elements.clone()?))
    });
    let sets: BTreeMap<String, SetKeys> = with_keys.collect();
    let mut of_chains: BTreeMap<&[u8], Vec<&ObservedRule>> = BTreeMap::new();
    for found in &parts.rules {
        of_chains.entry(&found.chain).or_default().push(found);
    }
    for (name, rules) in of_chains {
        let mut chains = parts.chains.iter().filter(|found| found.name == name);
        let chain = chains.next().and_then(known_chain);
        let mut left = rules.as_slice();
        let mut last = None;
        while let [first, ..] = left {
            let known = chain.and_then(|chain| first_known(chain, left, &sets));
            // Twice, or not in the order of `PacketRules`: of marks the last one wins, so the order counts.
            let known = known.filter(|(rule, _)| last.as_ref().is_none_or(|before| before < rule));
            let Some((rule, count)) = known else {
                let chain = described("chain", name);
                all.insert(PacketRule::Unknown(format!("{chain} handle {}", first.handle)));
                left = &left[1..];
                continue;
            };
            let (its, behind) = left.split_at(count);
            let expressions = its.iter().flat_map(|found| found.expressions.iter().flatten());
            for set in expressions.filter_map(set_in) {
                unknown.remove(&described("set", set.as_bytes()));
            }
            all.insert(rule.clone());
            (left, last) = (behind, Some(rule));
        }
    }
    all.extend(unknown.into_iter().map(PacketRule::Unknown));
    PacketRules { rules: all }
}

/// The rule that the first of `found` encode, and how many.
fn first_known(
    chain: Chain,
    found: &[&ObservedRule],
    sets: &BTreeMap<String, SetKeys>,
) -> Option<(PacketRule, usize)> {
    let readable = found
        .iter()
        .map_while(|found| KernelRule::found(found.expressions.as_deref()?, sets))
        .take(if chain == Chain::Wrapped { usize::MAX } else { 1 });
    rule::recognise(chain, &readable.collect::<Vec<_>>())
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

fn set_in(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::InSet { set, id: _ } => Some(set.as_str()),
        _ => None,
    }
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
