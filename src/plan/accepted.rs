//! Settings that a host has already with a value that serves. They are not wanted: not owned, not written, not given back.
//!
//! The choice is one of the file and of what the host had before any lvsprov, which receipts remember. So it is the same
//! at a second apply, after an abort, and in a destroy. What an operator changes since counts too, if it serves: it is no
//! drift. What an earlier apply wrote over a value that serves goes back to that value.

use std::collections::{BTreeMap, BTreeSet};

use super::ownership::found_before;
use crate::state::accepted::{Surroundings, is_default6};
use crate::state::{
    AcceptedValues, ConfItem, HostState, Item, Observation, Receipt, Route, Sysctl,
};

/// Takes the settings out of `wanted` whose value serves as it is, and returns them. `here`: the host, with the modules that
/// are wanted; `receipt`: its receipt, of this run of the host.
pub(super) fn keep(
    accepted: &BTreeMap<Sysctl, AcceptedValues>,
    wanted: &mut HostState,
    here: &HostState,
    (seen, receipt): (&Observation, Option<&Receipt>),
) -> BTreeSet<Sysctl> {
    let mut kept = BTreeSet::new();
    if accepted.is_empty() {
        return kept;
    }
    let rp_filter = rp_filter_of_all(wanted, here, (seen, receipt));
    let around = Surroundings {
        rp_filter_of_all: rp_filter.as_deref(),
        default6: default6_before(here, (seen, receipt)),
    };
    for (key, accepted) in accepted {
        let item = Item::Sysctl(key.clone());
        let present = here.sysctls.get(key);
        let serves_now = present.is_some_and(|value| accepted.serves(key, value, around));
        let ours = receipt.filter(|receipt| receipt.owned.contains(&item));
        let before = ours.map_or_else(|| found_before(&item, here, seen), |it| &it.found);
        // A device that lvsprov makes had none: it is as the file wants it.
        let Some(first) = before.sysctls.get(key) else { continue };
        let stays = if ours.is_none() {
            serves_now && accepted.serves(key, first, around)
        } else {
            // Once it is ours, only the value itself counts: what was around it then is not remembered.
            let shared = || seen.others.values().any(|theirs| theirs.owned.contains(&item));
            accepted.serves_anywhere(first) && (serves_now || !shared())
        };
        if stays {
            wanted.sysctls.remove(key);
            if ours.is_none() {
                kept.insert(key.clone());
            }
        } else if let Some(value) = present.filter(|_| serves_now) {
            wanted.sysctls.insert(key.clone(), value.clone());
        }
    }
    kept
}

/// `rp_filter` of `all` after the apply; `None` where another topology may change it.
fn rp_filter_of_all(
    wanted: &HostState,
    here: &HostState,
    (seen, receipt): (&Observation, Option<&Receipt>),
) -> Option<String> {
    let key = Sysctl::all(ConfItem::RpFilter);
    let item = Item::Sysctl(key.clone());
    if let Some(value) = wanted.sysctls.get(&key) {
        return Some(value.clone());
    }
    if seen.others.values().any(|theirs| theirs.owned.contains(&item)) {
        return None;
    }
    let ours = receipt.filter(|receipt| receipt.owned.contains(&item));
    ours.map_or(here, |receipt| &receipt.found).sysctls.get(&key).cloned()
}

/// The default route of IPv6, as it was before any lvsprov.
fn default6_before<'a>(
    here: &'a HostState,
    (seen, receipt): (&'a Observation, Option<&'a Receipt>),
) -> Option<&'a Route> {
    let known = here.routes.keys().chain(receipt.iter().flat_map(|it| it.found.routes.keys()));
    let known = known.chain(seen.others.values().flat_map(|it| it.found.routes.keys()));
    let key = known.into_iter().find(|key| is_default6(key))?;
    let item = Item::Route(key.clone());
    let ours = receipt.filter(|receipt| receipt.owned.contains(&item));
    let before = ours.map_or_else(|| found_before(&item, here, seen), |receipt| &receipt.found);
    before.routes.get(key)
}

#[cfg(test)]
#[path = "accepted_tests.rs"]
mod tests;
