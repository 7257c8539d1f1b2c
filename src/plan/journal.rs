//! What a change of a cluster (a *transaction*) writes on each of its hosts before anything is touched: its
//! steps there, and the values before.
//!
//! The journal is what undoing relies on: by the controller that began, by another one, or by the
//! host's own revert timer. It says nothing of how far the steps came: undoing looks at the host and plans
//! the way back from there ([`Goal::undo`]), so a step that was cut off half-way is no special case.
//!
//! A transaction goes through these phases on every host:
//!
//! 1. *prepared*: the journal is on the disk, the receipt says what may be changed, the timer (if any) runs;
//! 2. steps are executed, stage by stage;
//! 3. *voted*: every host was reached and all is verified; the timer is disarmed;
//! 4. *closed*: the receipt says what is ours now, and the journal is gone.
//!
//! No host is closed as committed before all have voted. So a transaction without every vote can be aborted
//! everywhere, and one with a decision to commit was right everywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::external;
use super::ownership::Goal;
use crate::state::{
    Edit, HostState, Item, Observation, OpenTransaction, Owned, RECEIPT_VERSION, Receipt, Step,
    effects,
};

/// What the steps touch, and what the kernel changes along with them or loses for a moment: until the agent
/// puts it back, which may be killed before.
pub fn touched_by<'a>(steps: impl IntoIterator<Item = &'a Step>, seen: &HostState) -> Owned {
    touched_by_edits(steps.into_iter().map(|step| &step.edit), seen)
}

/// The same for their edits.
pub fn touched_by_edits<'a>(edits: impl IntoIterator<Item = &'a Edit>, seen: &HostState) -> Owned {
    let mut touched = Owned::new();
    for edit in edits {
        touched.extend(effects::moved_by(edit, seen));
        touched.insert(edit.item());
    }
    touched
}

impl OpenTransaction {
    /// What undoing it puts back, and how that was before; `None` if the host was restarted since.
    ///
    /// Nothing of ours survives a restart. So the present values are neither those that the transaction made nor
    /// those that it had found, and what was touched is only a part of what belongs together: a VIP that came
    /// back without the ARP settings of an earlier transaction would be answered for in front of the
    /// director. The next `apply` makes all of it.
    pub fn to_put_back(&self) -> Option<(&Owned, &HostState)> {
        (!self.restarted).then_some((&self.journal.touched, &self.journal.before))
    }
}

impl Goal {
    /// The same goal where it takes over what is unfinished on the host: what that touched and this
    /// does not name goes back to how it was before.
    #[must_use]
    pub fn taking_over(mut self, unfinished: &OpenTransaction, seen: &Observation) -> Self {
        let Some((touched, before)) = unfinished.to_put_back() else { return self };
        // What moves along with a value that is still ours is as that value wants it.
        let along: Owned = self
            .owned
            .iter()
            .filter_map(|item| match item {
                Item::Sysctl(key) => Some(effects::led_by(key, &seen.state)),
                _ => None,
            })
            .flat_map(|along| along.into_keys().map(Item::Sysctl))
            .collect();
        for item in touched {
            if !self.owned.contains(item) && !along.contains(item) {
                self.wanted.copy_item(item, before);
                self.owned.insert(item.clone());
            }
        }
        self
    }

    /// The goal of undoing what `unfinished` says: all that was touched is as it was before, and the
    /// receipt too. On a host that was restarted since, only the receipt: see
    /// [`OpenTransaction::to_put_back`].
    pub fn undo(unfinished: &OpenTransaction, seen: &Observation) -> Self {
        let OpenTransaction { journal, receipt_before, .. } = unfinished;
        let receipt = seen.receipt.clone().unwrap_or_else(|| Receipt {
            version: RECEIPT_VERSION,
            topology: journal.topology.clone(),
            since: journal.since,
            owned: Owned::new(),
            found: HostState::default(),
            run: None,
            settled: None,
            maintenance: crate::state::Maintenance::default(),
            drift: None,
            external: crate::state::ExternalWeights::default(),
        });
        let wanted = match unfinished.to_put_back() {
            Some((_, before)) => {
                let mut wanted = before.clone();
                external::spare_in_undo(unfinished, &mut wanted, &seen.state);
                wanted
            }
            None => seen.state.restricted_to(&journal.touched),
        };
        Self {
            wanted,
            owned: journal.touched.clone(),
            receipt,
            receipt_after: receipt_before.clone(),
            settled: None,
            left: BTreeSet::new(),
            contested: BTreeMap::new(),
            displaced: BTreeSet::new(),
            kept_settings: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
