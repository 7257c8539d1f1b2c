//! What each host does about drift: its own `drift`, else the file's.

use crate::finding::{Finding, Position};
use crate::state::DriftPolicy;
use crate::topology::document::{Document, DriftDoc, Field, HostDoc};

/// `own` instead of `file`, as a whole.
pub(super) fn policy(file: &Field<DriftDoc>, own: &Field<DriftDoc>) -> Option<DriftPolicy> {
    let DriftDoc { action, every_s } = own.or(file).value()?.value;
    Some(DriftPolicy { action: action?, every_s: every_s.unwrap_or(DriftPolicy::USUAL) })
}

/// Where `field` has a host look for drift.
fn asked(field: &Field<DriftDoc>) -> Option<Position> {
    field.value().filter(|doc| doc.value.action.is_some()).map(|doc| doc.at)
}

/// `persist: false` leaves nothing on the hosts to compare them with.
pub(super) fn without_persist(document: &Document) -> Option<Finding> {
    if document.persist.value().is_none_or(|persist| persist.value) {
        return None;
    }
    let own = document.hosts.iter().filter_map(|host| asked(&host.drift));
    let at = asked(&document.drift).into_iter().chain(own).next()?;
    Some(Finding::error(
        "drift-without-state",
        at,
        "`drift` together with `persist: false`",
        "a host compares itself with what the last apply left in its state folder: with `persist: false` nothing is left there",
        "remove `drift`, or `persist: false`",
    ))
}

/// A host that lvsprov does not reach has nothing to look at.
pub(super) fn on_unmanaged(doc: &HostDoc) -> Option<Finding> {
    let at = asked(&doc.drift).filter(|_| doc.reach == Field::Missing && !doc.unclear)?;
    let name = &doc.name.value;
    Some(Finding::error(
        "drift-without-state",
        at,
        format!("{name} has `drift`, but the file does not say how to reach it"),
        "nothing of lvsprov is on a host that it does not reach: the key would have no effect",
        format!("add `ssh:` to {name}, or remove `drift` there"),
    ))
}
