//! Other topologies on the same host: what they own, and what their open transactions touch, is not touched.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;

use super::journal::touched_by_edits;
use super::ownership::Goal;
use super::preflight::Obstacle;
use crate::names::TopologyName;
use crate::state::{Edit, Item, Observation, OtherTransaction, Owned, Receipt};

/// What this topology gives up on this host and another has too: it stays as it is, and the other receipt
/// says what was here before both ([`Goal`]).
pub fn left(working: &Receipt, receipt_after: Option<&Receipt>, seen: &Observation) -> Owned {
    let stays = |item: &Item| seen.others.values().any(|theirs| theirs.owned.contains(item));
    given_up(working, receipt_after).into_iter().filter(stays).collect()
}

/// What the receipt speaks of and will speak of no more after the commit, modules apart: those stay anyway.
fn given_up(working: &Receipt, receipt_after: Option<&Receipt>) -> Owned {
    let items = |receipt: &Receipt| &receipt.owned | &receipt.found.items();
    let kept = receipt_after.map(items).unwrap_or_default();
    let gone = items(working).into_iter().filter(|item| !is_module(item) && !kept.contains(item));
    gone.collect()
}

/// Which other topologies have what of what will be ours, or no longer ours. What is left to another, or
/// found by its word, is so only as long as this stays true.
pub fn owners(
    working: &Receipt,
    receipt_after: Option<&Receipt>,
    seen: &Observation,
) -> BTreeMap<TopologyName, Owned> {
    let mut ours = given_up(working, receipt_after);
    ours.extend(
        receipt_after.into_iter().flat_map(|receipt_after| receipt_after.owned.iter().cloned()),
    );
    ours.retain(|item| !is_module(item));
    let common =
        |theirs: &Receipt| -> Owned { theirs.owned.intersection(&ours).cloned().collect() };
    let all = seen.others.iter().map(|(name, theirs)| (name.clone(), common(theirs)));
    all.filter(|(_, common)| !common.is_empty()).collect()
}

fn is_module(item: &Item) -> bool {
    matches!(item, Item::Module(_))
}

/// What another topology owns on this host too is not taken over from it, and not given back while it
/// relies on it. Putting back what was changed by oneself is fine, as both want the same.
pub fn shared<'a>(
    steps: impl IntoIterator<Item = &'a Edit>,
    goal: &Goal,
    seen: &Observation,
    all: &mut Vec<Obstacle>,
) {
    let left = left(&goal.receipt, goal.receipt_after.as_ref(), seen);
    let mut reported = BTreeSet::new();
    for item in steps.into_iter().map(Edit::item) {
        // One that is left has a step only where it would move along with another.
        if is_module(&item) || left.contains(&item) || !reported.insert(item.clone()) {
            continue;
        }
        let having = |(_, theirs): &(_, &Receipt)| theirs.owned.contains(&item);
        let Some((other, _)) = seen.others.iter().find(having) else { continue };
        match kept(&item, goal, seen) {
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
                    "its receipt was written by an earlier lvsprov, and does not say how it was before {}",
                    goal.receipt.topology
                ),
                cure: format!(
                    "`lvsprov apply` with the file of {other} first: that writes it into its receipt"
                ),
            }),
        }
    }
}

/// Whether an item was ours before, and whether it will be.
fn kept(item: &Item, goal: &Goal, seen: &Observation) -> (bool, bool) {
    let ours = |receipt: Option<&Receipt>| receipt.is_some_and(|r| r.owned.contains(item));
    (ours(seen.receipt.as_ref()), ours(goal.receipt_after.as_ref()))
}

/// What a topology owns whose receipt or journal cannot be read is not known. What is here and is neither
/// ours nor stays so may be its own: that is neither changed, given back nor taken for what was found.
/// An item that does not exist here yet has no owner.
pub fn unreadable<'a>(
    steps: impl IntoIterator<Item = &'a Edit>,
    goal: &Goal,
    seen: &Observation,
    all: &mut Vec<Obstacle>,
) {
    if seen.unreadable.is_empty() {
        return;
    }
    let mut items: Owned = steps.into_iter().map(Edit::item).collect();
    items.extend(
        goal.receipt_after.iter().flat_map(|receipt_after| receipt_after.owned.iter().cloned()),
    );
    items.extend(goal.kept_settings.iter().cloned().map(Item::Sysctl));
    let here = seen.state.items();
    items.retain(|item| {
        !is_module(item) && here.contains(item) && kept(item, goal, seen) != (true, true)
    });
    if items.is_empty() {
        return;
    }
    let items = few(&items);
    for (other, failure) in &seen.unreadable {
        all.push(Obstacle {
            message: format!(
                "what the topology {other} owns on this host cannot be read, and it may be {items}"
            ),
            why: failure.to_string(),
            cure: failure.cure.clone().unwrap_or_else(|| "mend what it says".to_owned()),
        });
    }
}

/// The first of `items`, and how many more.
fn few(items: &Owned) -> String {
    const MOST: usize = 3;
    let mut names: Vec<String> = items.iter().take(MOST).map(ToString::to_string).collect();
    if items.len() > MOST {
        names.push(format!("{} more", items.len() - MOST));
    }
    names.join(", ")
}

/// What a person should know of other topologies where nothing of theirs is in the way.
pub fn cautions(goal: &Goal, seen: &Observation) -> Vec<String> {
    let mut all: Vec<String> = seen
        .unreadable
        .iter()
        .map(|(other, failure)| {
            format!(
                "what the topology {other} owns on this host cannot be read, and nothing that may be its own \
                 is changed: {failure}"
            )
        })
        .collect();
    if !seen.strays.is_empty() {
        let strays = seen.strays.join(", ");
        all.push(format!(
            "passed over in the state folder of this host, as no topology's: {strays}"
        ));
    }
    let left = left(&goal.receipt, goal.receipt_after.as_ref(), seen);
    for (other, theirs) in &seen.others {
        let both: Owned = theirs.owned.intersection(&left).cloned().collect();
        if !both.is_empty() {
            all.push(format!(
                "stays as it is, because the topology {other} has it too: {}; when the last of them goes, \
                 what was here before them comes back",
                few(&both)
            ));
        }
    }
    all
}

/// What another topology has in an open transaction on this host may still be put back there: it is neither touched
/// meanwhile nor relied on. A host that has nothing to do and whose receipt is right goes on as it is.
pub fn open_elsewhere<'a>(
    steps: impl IntoIterator<Item = &'a Edit>,
    goal: &Goal,
    seen: &Observation,
    all: &mut Vec<Obstacle>,
) {
    let mut touched = touched_by_edits(steps, &seen.state);
    let idle =
        touched.is_empty() && seen.open_transaction.is_none() && goal.receipt_after == seen.receipt;
    if idle {
        return;
    }
    if let Some((taken, _)) = seen.open_transaction.as_ref().and_then(|there| there.to_put_back()) {
        touched.extend(taken.iter().cloned());
    }
    for (other, theirs) in &seen.open_elsewhere {
        let mut both = overlap(theirs, &touched, goal.receipt_after.as_ref());
        both.extend(left_to(other, &goal.receipt, goal.receipt_after.as_ref(), seen));
        if !both.is_empty() {
            all.push(overlaps(other, theirs, &goal.receipt.topology, &both));
        }
    }
}

/// What a transaction that touches `touched`, and leaves `receipt_after` behind, has in common with `theirs`:
/// undoing that of the other topology would put it back under the feet of this one. An item that already matches,
/// wanted, without a step, counts too. Modules do not: they are never unloaded.
pub fn overlap(
    theirs: &OtherTransaction,
    touched: &Owned,
    receipt_after: Option<&Receipt>,
) -> BTreeSet<Item> {
    let ours = |item: &&Item| {
        touched.contains(item) || receipt_after.is_some_and(|s| s.owned.contains(item))
    };
    theirs.touched.iter().filter(|item| !is_module(item)).filter(ours).cloned().collect()
}

/// What this topology gives up and `other` has. While that one has a transaction unfinished, this is not to be
/// left to it: once that is undone it may have it no longer, and no receipt would have the value before.
pub fn left_to(
    other: &TopologyName,
    working: &Receipt,
    receipt_after: Option<&Receipt>,
    seen: &Observation,
) -> Owned {
    let theirs = seen.others.get(other).map(|receipt| &receipt.owned);
    theirs.map(|owned| &given_up(working, receipt_after) & owned).unwrap_or_default()
}

/// That `mine` and the topology `other` have `both` in common, and what to do.
pub fn overlaps(
    other: &TopologyName,
    theirs: &OtherTransaction,
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
        why: format!("undoing that of {other} would put back what {mine} relies on"),
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
