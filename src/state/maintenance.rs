//! Which hosts are in maintenance: they get no new connections until the operator returns them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::names::HostName;

/// Hosts in maintenance, each with the time since when, in seconds since 1970 by the clock of the controller that took it
/// out. A director's receipt has those of its real servers, written by the transaction that gives them the weight 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Maintenance(BTreeMap<HostName, u64>);

impl Maintenance {
    /// Whether no host is in maintenance.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `host` is in maintenance.
    pub fn contains(&self, host: &HostName) -> bool {
        self.0.contains_key(host)
    }

    /// Since when `host` is in maintenance, in seconds since 1970; `None`: it is not.
    pub fn since(&self, host: &HostName) -> Option<u64> {
        self.0.get(host).copied()
    }

    /// The hosts, by name, each with its time.
    pub fn iter(&self) -> impl Iterator<Item = (&HostName, u64)> {
        self.0.iter().map(|(host, since)| (host, *since))
    }

    /// Both together; of two times the earlier one counts.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (host, since) in other.iter() {
            let earliest = self.0.entry(host.clone()).or_insert(since);
            *earliest = since.min(*earliest);
        }
        self
    }

    /// With `hosts`, from `now` on; one that is in maintenance already keeps its time.
    #[must_use]
    pub fn with(mut self, hosts: &BTreeSet<HostName>, now: u64) -> Self {
        for host in hosts {
            self.0.entry(host.clone()).or_insert(now);
        }
        self
    }

    /// Without `hosts`.
    #[must_use]
    pub fn without(mut self, hosts: &BTreeSet<HostName>) -> Self {
        self.0.retain(|host, _| !hosts.contains(host));
        self
    }

    /// Those of `hosts` alone.
    #[must_use]
    pub fn among(mut self, hosts: &BTreeSet<HostName>) -> Self {
        self.0.retain(|host, _| hosts.contains(host));
        self
    }
}

impl FromIterator<(HostName, u64)> for Maintenance {
    fn from_iter<I: IntoIterator<Item = (HostName, u64)>>(hosts: I) -> Self {
        Self(hosts.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(hosts: &[(&str, u64)]) -> Maintenance {
        hosts.iter().map(|(host, since)| (host.parse().unwrap(), *since)).collect()
    }

    #[test]
    fn the_earlier_time_counts() {
        assert_eq!(
            of(&[("a", 5), ("b", 2)]).union(&of(&[("a", 3), ("c", 9)])),
            of(&[("a", 3), ("b", 2), ("c", 9)])
        );
        let hosts = ["a", "b"].map(|host| host.parse().unwrap()).into();
        assert_eq!(of(&[("a", 5)]).with(&hosts, 7), of(&[("a", 5), ("b", 7)]));
        assert_eq!(of(&[("a", 5), ("c", 7)]).without(&hosts), of(&[("c", 7)]));
        assert_eq!(of(&[("a", 5), ("c", 7)]).among(&hosts), of(&[("a", 5)]));
    }
}
