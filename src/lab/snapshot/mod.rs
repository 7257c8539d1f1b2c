//! Everything about a host's network that the lab promises to put back, as text, to compare before
//! with after.
//!
//! It reads with its own eyes, not with those of [`crate::kernel`], so that a fault there is not
//! repeated here, and it is not limited to what a topology owns. Left out is what moves by itself:
//! counters, lifetimes, interface indexes, neighbours, whether a cable is plugged in, and the
//! link-local IPv6 addresses and routes, which the kernel adds on its own in its own time. Secret
//! keys among the settings are left out because a difference is shown.
//!
//! A module that is loaded between two snapshots shows: `tunl0` and `net/ipv4/vs` appear in every
//! namespace with `ipip` and `ip_vs`. Whoever compares loads them before.

mod control;
mod files;
mod netlink;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::LabError;
use crate::kernel::namespace;

/// What there is, by name: `link eth0`, `address 192.0.2.1/24 on eth0`, `route main default`,
/// `rule ipv4 32766`, `ipvs TCP C0000201:0050`, `ipvs timeouts`, `nftables inet filter`,
/// `fou ipv4 port 6080`, `net/ipv4/ip_forward`.
pub type Snapshot = BTreeMap<String, String>;

/// Looks at all of a namespace.
///
/// # Errors
/// If it cannot be entered or the kernel does not answer.
pub fn snapshot(namespace: BorrowedFd<'_>) -> Result<Snapshot, LabError> {
    let look = || {
        let mut seen = netlink::look()?;
        files::settings(&mut seen);
        files::ipvs(&mut seen);
        control::look(&mut seen).map_err(LabError::io("ask netfilter, fou and IPVS"))?;
        Ok(seen)
    };
    namespace::run_in(namespace, look).map_err(LabError::io("enter a network namespace"))?
}

/// Adds `value` under `name`. What has one name several times (routes to one destination) is told in
/// one line, in an order of its own.
fn add(seen: &mut Snapshot, name: String, value: String) {
    match seen.entry(name) {
        std::collections::btree_map::Entry::Vacant(empty) => {
            empty.insert(value);
        }
        std::collections::btree_map::Entry::Occupied(mut present) => {
            let mut all: Vec<String> =
                present.get().split(SEVERAL).map(str::to_owned).chain([value]).collect();
            all.sort();
            present.insert(all.join(SEVERAL));
        }
    }
}

const SEVERAL: &str = " and ";

/// What is not as it was, one line each, in the order of names: `changed net/ipv4/ip_forward: 0 -> 1`,
/// `added ...`, `removed ...`. Empty if all is.
pub fn difference(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let line = |name: &String| match (before.get(name), after.get(name)) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("changed {name}: {old} -> {new}")),
        (None, Some(new)) => Some(format!("added {name}: {new}")),
        (Some(old), None) => Some(format!("removed {name}: {old}")),
        (None, None) => None,
    };
    names.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot_of(entries: &[(&str, &str)]) -> Snapshot {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_difference_has_a_line_for_each_thing() {
        let before = snapshot_of(&[("a", "1"), ("b", "2"), ("d", "4")]);
        let after = snapshot_of(&[("a", "1"), ("b", "3"), ("c", "5")]);
        let expected = ["changed b: 2 -> 3", "added c: 5", "removed d: 4"];
        assert_eq!(difference(&before, &after), expected);
        assert!(difference(&before, &before).is_empty());
    }

    #[test]
    fn several_of_one_name_are_told_in_one_order() {
        let (mut one, mut other) = (Snapshot::new(), Snapshot::new());
        for value in ["via b", "via a", "via b"] {
            add(&mut one, "route".into(), value.into());
        }
        for value in ["via a", "via b", "via b"] {
            add(&mut other, "route".into(), value.into());
        }
        assert_eq!(one, other);
        assert_eq!(one["route"], "via a and via b and via b");
    }
}
