//! Other topologies on the same host: what they own, and what of theirs is not settled, is not touched.
//! Pure.

use std::collections::BTreeSet;

use chrono::DateTime;

use super::journal::touched_by_changes;
use super::ownership::Goal;
use super::preflight::Obstacle;
use super::step::Change;
use crate::protocol::{Receipt, Sighting, UnfinishedElsewhere};
use crate::state::{Item, Owned};
use crate::topology::TopologyName;

/// What another topology owns on this host too is not taken over from it, and not given back while it
/// relies on it. Putting back what was changed by oneself is fine, as both want the same.
pub fn shared<'a>(
    steps: impl IntoIterator<Item = &'a Change>,
    goal: &Goal,
    seen: &Sighting,
    all: &mut Vec<Obstacle>,
) {
    let mut said = BTreeSet::new();
    for item in steps.into_iter().map(Change::item) {
        if matches!(item, Item::Module(_)) || !said.insert(item.clone()) {
            continue;
        }
        let Some((other, _)) = seen.others.iter().find(|(_, owned)| owned.contains(&item)) else {
            continue;
        };
        let was_ours = seen.receipt.as_ref().is_some_and(|receipt| receipt.owned.contains(&item));
        let stays_ours = goal.settled.as_ref().is_some_and(|kept| kept.owned.contains(&item));
        match (was_ours, stays_ours) {
            (true, true) => {}
            (false, _) => all.push(Obstacle {
                message: format!("{item} belongs to the topology {other} on this host already"),
                why: format!(
                    "{} wants it otherwise, and {other} would no longer work",
                    goal.receipt.topology
                ),
                cure: format!("destroy {other} first, or say both in one file"),
            }),
            (true, false) => all.push(Obstacle {
                message: format!("the topology {other} on this host has {item} too"),
                why: format!(
                    "put back as it was before {}, it is not what {other} needs",
                    goal.receipt.topology
                ),
                cure: format!("destroy {other} first, or say both in one file"),
            }),
        }
    }
}

/// What another topology has not settled on this host may still be put back there: it is neither touched
/// meanwhile nor relied on. A host that has nothing to do and whose receipt is right goes on as it is.
pub fn unfinished_elsewhere<'a>(
    steps: impl IntoIterator<Item = &'a Change>,
    goal: &Goal,
    seen: &Sighting,
    all: &mut Vec<Obstacle>,
) {
    let mut touched = touched_by_changes(steps, &seen.state);
    let idle = touched.is_empty() && seen.unfinished.is_none() && goal.settled == seen.receipt;
    if idle {
        return;
    }
    if let Some((taken, _)) = seen.unfinished.as_ref().and_then(|there| there.to_put_back()) {
        touched.extend(taken.iter().cloned());
    }
    for (other, theirs) in &seen.unfinished_elsewhere {
        let both = overlap(theirs, &touched, goal.settled.as_ref());
        if !both.is_empty() {
            all.push(overlaps(other, theirs, &goal.receipt.topology, &both));
        }
    }
}

/// What a transaction that touches `touched`, and leaves `settled` behind, has in common with `theirs`:
/// undoing that of the other topology would put it back under the feet of this one. What only is as it is
/// wanted, without a step, counts too. Modules stay whoever loaded them.
pub fn overlap(
    theirs: &UnfinishedElsewhere,
    touched: &Owned,
    settled: Option<&Receipt>,
) -> BTreeSet<Item> {
    let ours =
        |item: &&Item| touched.contains(item) || settled.is_some_and(|s| s.owned.contains(item));
    let is_module = |item: &&Item| matches!(item, Item::Module(_));
    theirs.touched.iter().filter(|item| !is_module(item)).filter(ours).cloned().collect()
}

/// That `mine` and the topology `other` have `both` in common, and what to do.
pub fn overlaps(
    other: &TopologyName,
    theirs: &UnfinishedElsewhere,
    mine: &TopologyName,
    both: &BTreeSet<Item>,
) -> Obstacle {
    let both: Vec<String> = both.iter().map(ToString::to_string).collect();
    Obstacle {
        message: format!(
            "the topology {other} has transaction {} unfinished on this host, begun by {}, {}; it and \
             {mine} both need {}",
            theirs.transaction,
            theirs.by,
            moment(theirs.since),
            both.join(", ")
        ),
        why: format!("whoever undoes that of {other} would put back what {mine} relies on"),
        cure: format!(
            "`lvsprov apply` or `lvsprov rollback` with the file of {other} first: they finish or undo it"
        ),
    }
}

/// A moment, given in seconds since 1970, as a person reads it.
pub(super) fn moment(since: u64) -> String {
    let time = i64::try_from(since).ok().and_then(|since| DateTime::from_timestamp(since, 0));
    time.map_or_else(
        || format!("{since} s after 1970"),
        |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}
