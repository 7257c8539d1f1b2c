//! The network state of a host as text, for comparison before apply and after destroy.
//!
//! It does not use [`crate::kernel`], so that a bug there does not hide here, and it is not limited to
//! what a topology owns. It leaves out state that changes by itself: counters, lifetimes, interface
//! indexes, neighbours, carriers, and link-local IPv6 addresses and routes, which the kernel adds later.
//! It leaves out secret keys, because differences are printed.
//!
//! Loading a module between two snapshots shows as a difference: `tunl0` and `net/ipv4/vs` appear in every
//! namespace with `ipip` and `ip_vs`. Load them before the first snapshot.

mod control;
mod files;
mod netlink;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::LabError;
use crate::kernel::namespace;

/// State by name: `link eth0`, `address 192.0.2.1/24 on eth0`, `route main default`,
/// `rule ipv4 32766`, `ipvs TCP C0000201:0050`, `ipvs timeouts`, `nftables inet filter`,
/// `fou ipv4 port 6080`, `net/ipv4/ip_forward`.
pub type Snapshot = BTreeMap<String, String>;

/// Takes a snapshot of a namespace.
///
/// # Errors
/// If it cannot be entered or the kernel does not answer.
pub fn snapshot(namespace: BorrowedFd<'_>) -> Result<Snapshot, LabError> {
    let look = || {
        let mut snapshot = netlink::read()?;
        files::settings(&mut snapshot);
        files::ipvs(&mut snapshot);
        control::read(&mut snapshot).map_err(LabError::io("read netfilter, fou and IPVS"))?;
        Ok(snapshot)
    };
    namespace::run_in(namespace, look).map_err(LabError::io("enter a network namespace"))?
}

/// Adds `value` under `name`. Several values of one name (routes to one destination) are sorted into one
/// line.
fn add(snapshot: &mut Snapshot, name: String, value: String) {
    match snapshot.entry(name) {
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

/// The differences, one on each line, sorted by name: `changed net/ipv4/ip_forward: 0 -> 1`,
/// `added ...`, `removed ...`.
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
    fn a_difference_has_a_line_for_each_item() {
        let before = snapshot_of(&[("a", "1"), ("b", "2"), ("d", "4")]);
        let after = snapshot_of(&[("a", "1"), ("b", "3"), ("c", "5")]);
        let expected = ["changed b: 2 -> 3", "added c: 5", "removed d: 4"];
        assert_eq!(difference(&before, &after), expected);
        assert!(difference(&before, &before).is_empty());
    }

    #[test]
    fn several_values_of_one_name_are_sorted() {
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
