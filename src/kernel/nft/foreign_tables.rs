//! Reads what decides in tables of other programs whether routed packets pass.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{self, message};
use super::filter::{self, ForeignFilterRule};
use super::foreign::{self, ForeignRule};
use super::socket::{NftObservation, NftReadError, NftSocket};
use super::table;
use crate::state::firewall::{FilterChain, FilterFamily, FilterOp, FilterSet, FilterTable};

/// Rules of one table that are followed at most: a controller gets them with each observation.
const MOST_RULES: usize = 4000;
/// Elements of all sets of one table, likewise.
const MOST_ELEMENTS: usize = 20_000;

impl NftSocket {
    /// What decides in a table of another program whether routed packets pass. Its rules are read only if one of its chains is
    /// on their way.
    pub(super) fn read_foreign(
        &mut self,
        (family, routed): (u8, FilterFamily),
        named: &str,
        table: &[u8],
        observation: &mut NftObservation,
    ) -> std::result::Result<(), NftReadError> {
        let mut chains = self.dump(message::GETCHAIN, family, &[], |_, body| codec::chain(body))?;
        chains.retain(|chain| chain.table == table);
        if !chains.iter().any(|chain| filter::base(chain).is_some()) {
            return Ok(());
        }
        let printable = table::printable(table);
        let mut found = FilterTable {
            family: routed,
            name: printable,
            chains: chains.iter().map(empty_chain).collect(),
            sets: BTreeMap::new(),
            unread: None,
        };
        let Ok(name) = std::str::from_utf8(table) else {
            found.unread = Some("its name is not UTF-8".to_owned());
            observation.filters.push(found);
            return Ok(());
        };
        let of_table = codec::of_table(name).into_bytes();
        let rules: Vec<(ForeignRule, ForeignFilterRule)> =
            self.dump(message::GETRULE, family, &of_table, |_, body| {
                Ok((foreign::rule(body)?, filter::rule(body)?))
            })?;
        let (invalid, mut rules): (Vec<_>, Vec<_>) =
            rules.into_iter().filter(|(_, rule)| rule.table == table).unzip();
        observation.stateful_drops.extend(foreign::drops(named, &chains, &invalid));
        rules.retain(|found| filter::does_something(&found.rule));
        if rules.len() > MOST_RULES {
            found.unread = Some(format!("{} rules are too many", rules.len()));
        } else {
            found.sets = self.filter_sets(family, name, &rules)?;
            for ForeignFilterRule { chain, rule, .. } in rules {
                let chain = table::printable(&chain);
                if let Some(of) = found.chains.iter_mut().find(|it| it.name == chain) {
                    of.rules.push(rule);
                }
            }
        }
        observation.filters.push(found);
        Ok(())
    }

    /// The sets that these rules of a table ask.
    fn filter_sets(
        &mut self,
        family: u8,
        table: &str,
        rules: &[ForeignFilterRule],
    ) -> std::result::Result<BTreeMap<String, FilterSet>, NftReadError> {
        let ops = rules.iter().flat_map(|found| &found.rule.ops);
        let asked: BTreeSet<&str> = ops
            .filter_map(|op| match op {
                FilterOp::Lookup { set, .. } => Some(set.as_str()),
                _ => None,
            })
            .collect();
        let mut sets = BTreeMap::new();
        if asked.is_empty() {
            return Ok(sets);
        }
        let of_table = codec::of_table(table).into_bytes();
        let found = self.dump(message::GETSET, family, &of_table, |_, body| filter::set(body))?;
        let mut room = MOST_ELEMENTS;
        for found in found.into_iter().filter(|set| set.table == table.as_bytes()) {
            let (Ok(name), mut set) = (String::from_utf8(found.name), found.set) else { continue };
            if !asked.contains(name.as_str()) {
                continue;
            }
            if set.unread.is_none() {
                let request = codec::of_set(table, &name).into_bytes();
                let elements = self.dump(message::GETSETELEM, family, &request, |_, body| {
                    filter::elements(body)
                })?;
                set.elements = elements.into_iter().flatten().collect();
                let count = set.elements.len();
                if let Some(left) = room.checked_sub(count) {
                    room = left;
                } else {
                    set.unread = Some(format!("{count} elements are too many"));
                    set.elements.clear();
                }
            }
            sets.insert(name, set);
        }
        Ok(sets)
    }
}

fn empty_chain(chain: &codec::ObservedChain) -> FilterChain {
    FilterChain {
        name: table::printable(&chain.name),
        base: filter::base(chain),
        rules: Vec::new(),
    }
}
