//! What a plan was made from: a host that differs is not changed by it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::journal::TransactionId;
use super::{HostState, Observation, Owned, Receipt};
use crate::names::TopologyName;

/// What a plan was made from. A host that is no longer like this is not changed by that plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The receipt on the host, if there was one.
    pub receipt: Option<Receipt>,
    /// The open transaction on the host, if there was one: it is taken over.
    pub open_transaction: Option<TransactionId>,
    /// The items that the steps touch.
    pub items: Owned,
    /// How those were.
    pub state: HostState,
    /// Which other topologies own which of the items that this one takes or gives up
    /// ([`crate::plan::other_topologies::owners`]).
    #[serde(default)]
    pub owners: BTreeMap<TopologyName, Owned>,
}

impl Expected {
    /// What differs on the host from what was expected, one line each; none if nothing does.
    pub fn differences(&self, observed: &Observation) -> Vec<String> {
        let Self { receipt, open_transaction, items, state, owners: _ } = self;
        let mut all = Vec::new();
        let open = observed.open_transaction.as_ref().map(|open| &open.journal.transaction);
        if open != open_transaction.as_ref() {
            let text = |id: Option<&TransactionId>| {
                id.map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            all.push(format!(
                "open transaction: {} -> {}",
                text(open_transaction.as_ref()),
                text(open)
            ));
        }
        if *receipt != observed.receipt {
            all.push("the receipt: lvsprov has changed this host meanwhile".to_owned());
        }
        for item in items.iter().filter(|item| state.differs(&observed.state, item)) {
            all.push(format!(
                "{item}: {} -> {}",
                state.describe(item),
                observed.state.describe(item)
            ));
        }
        all
    }

    /// What differs in what other topologies own, as [`Expected::differences`]; `now`: read again.
    pub fn other_owners(&self, now: &BTreeMap<TopologyName, Owned>) -> Vec<String> {
        let names: BTreeSet<&TopologyName> = self.owners.keys().chain(now.keys()).collect();
        let differing = names.into_iter().filter(|name| self.owners.get(*name) != now.get(*name));
        differing
            .map(|name| format!("what the topology {name} has in common with this one here"))
            .collect()
    }
}
