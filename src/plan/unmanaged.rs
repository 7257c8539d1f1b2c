//! What lvsprov did not make on a host: IPVS services, addresses that look like VIPs, nftables tables, sync
//! daemons. It is left alone and shown, unless the file or the operator says otherwise:
//!
//! - a service that is here exactly as the file wants it is used and not owned: it stays after destroy;
//! - one that is here otherwise stands in the way ([`super::preflight`]);
//! - `--adopt` makes what the file names ours, as if lvsprov had made it: destroy removes it;
//! - `ipvs: exclusive` makes the whole IPVS table ours: what the file does not name is removed, and
//!   destroy puts it back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ownership::Goal;
use crate::state::silent::is_silent;
use crate::state::{
    DriftPolicy, HostState, Item, Observation, Owned, Receipt, ServiceKey, VirtualService,
};

/// How far an apply may go with what lvsprov did not make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdoptPolicy {
    /// What the file names becomes ours (`--adopt`).
    pub adopt: bool,
    /// The IPVS table is ours as a whole (`ipvs: exclusive`).
    pub exclusive: bool,
    /// After a restart the host makes nothing again (`persist: false`).
    pub transient: bool,
    /// What the host does about drift by itself (`drift`); nothing where it makes nothing again.
    pub drift: Option<DriftPolicy>,
}

/// One thing that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnmanagedItem {
    /// service, address, table or sync daemon.
    pub kind: String,
    /// Its name, as in a receipt: `tcp 192.0.2.1:80`.
    pub name: String,
    /// What it is, and what comes of it, in a few words.
    pub what: String,
}

/// Whether `item` is another topology's, by its receipt.
pub fn is_others(item: &Item, seen: &Observation) -> bool {
    seen.others.values().any(|theirs| theirs.owned.contains(item))
}

fn is_ours(item: &Item, receipt: Option<&Receipt>) -> bool {
    receipt.is_some_and(|receipt| receipt.owned.contains(item))
}

/// Services of the file that exist and belong to no topology, beside those of the file.
pub fn met<'a>(
    wanted: &'a HostState,
    seen: &'a Observation,
) -> Vec<(&'a ServiceKey, ExistingService)> {
    let mut found = Vec::new();
    for (key, service) in &wanted.services {
        let item = Item::Service(key.clone());
        let Some(there) = seen.state.services.get(key) else { continue };
        if is_ours(&item, seen.receipt.as_ref()) || is_others(&item, seen) {
            continue;
        }
        let meeting = if there == service {
            ExistingService::Same
        } else {
            ExistingService::Otherwise(difference(there, service))
        };
        found.push((key, meeting));
    }
    found
}

/// A service that exists and belongs to no topology, beside the one of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExistingService {
    /// They are equal.
    Same,
    /// They differ; how, in words.
    Otherwise(String),
}

/// How the service that is `there` differs from the `wanted` one; at most three things.
fn difference(there: &VirtualService, wanted: &VirtualService) -> String {
    const MOST: usize = 3;
    let mut all = Vec::new();
    if !there.same_settings(wanted) {
        all.push(format!("it is {there}, not {wanted}"));
    }
    for (key, destination) in &wanted.destinations {
        match there.destinations.get(key) {
            None => all.push(format!("{key} is missing")),
            Some(other) if other != destination => {
                all.push(format!("{key} is {other}, not {destination}"));
            }
            Some(_) => {}
        }
    }
    let extra = there.destinations.keys().filter(|key| !wanted.destinations.contains_key(key));
    all.extend(extra.map(|key| format!("{key} is too many")));
    let more = all.len().saturating_sub(MOST);
    all.truncate(MOST);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join("; ")
}

/// Services that an exclusive table has no place for: no receipt owns them.
pub fn displaced(wanted: &HostState, seen: &Observation) -> BTreeSet<ServiceKey> {
    let keys = seen.state.services.keys().filter(|key| !wanted.services.contains_key(key));
    let unowned = keys.filter(|key| {
        let item = Item::Service((*key).clone());
        !is_ours(&item, seen.receipt.as_ref()) && !is_others(&item, seen)
    });
    unowned.cloned().collect()
}

/// What `--adopt` takes over: things that lvsprov makes and removes as a whole. A value or a link has
/// always been there; a route only if it is one such as lvsprov sets, not one of DHCP.
pub fn can_be_adopted(item: &Item, seen: &HostState) -> bool {
    /// `RTPROT_STATIC` (include/uapi/linux/rtnetlink.h), which lvsprov sets.
    const STATIC: u8 = 4;
    match item {
        Item::Route(key) => seen.routes.get(key).is_some_and(|there| there.protocol == STATIC),
        _ => item.verbs().add.is_some() && item.verbs().remove.is_some(),
    }
}

/// Whether `item` is there, and is the same in both.
pub fn is_same(item: &Item, one: &HostState, other: &HostState) -> bool {
    let only: Owned = [item.clone()].into();
    let (one, other) = (one.restricted_to(&only), other.restricted_to(&only));
    one == other && one != HostState::default()
}

/// Everything that is not ours on a host, as far as it concerns a director or a VIP.
pub fn list(goal: &Goal, seen: &Observation) -> Vec<UnmanagedItem> {
    let unowned = |item: &Item| !goal.owned.contains(item) && !is_others(item, seen);
    let mut all = Vec::new();
    let mut say = |kind: &str, name: String, what: String| {
        all.push(UnmanagedItem { kind: kind.to_owned(), name, what });
    };
    for (key, service) in &seen.state.services {
        if !unowned(&Item::Service(key.clone())) {
            continue;
        }
        let count = service.destinations.len();
        let mut what =
            format!("{service}, {count} real server{}", if count == 1 { "" } else { "s" });
        if goal.left.contains(key) {
            what.push_str("; as the file wants it: used, and left as it is");
        }
        say("service", key.to_string(), what);
    }
    for key in seen.state.addresses.keys() {
        if unowned(&Item::Address(key.clone())) && looks_like_a_vip(key) {
            say("address", key.to_string(), "a single address where VIPs are put".to_owned());
        }
    }
    for (role, daemon) in &seen.state.daemons {
        if unowned(&Item::Daemon(*role)) {
            say("sync daemon", role.to_string(), daemon.to_string());
        }
    }
    for (name, rules) in &seen.state.tables {
        if unowned(&Item::Table(name.clone())) {
            say("table", format!("inet {name}"), rules.to_string());
        }
    }
    for table in &seen.facts.foreign_tables {
        say("table", table.clone(), "nftables".to_owned());
    }
    all
}

fn looks_like_a_vip(key: &crate::state::AddressKey) -> bool {
    is_silent(&key.dev)
        && key.net.prefix_len() == key.net.max_prefix_len()
        && !key.net.addr().is_loopback()
}

#[cfg(test)]
#[path = "unmanaged_tests.rs"]
mod tests;
