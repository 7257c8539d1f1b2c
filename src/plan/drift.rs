//! What a host mends by itself while it runs, and what it only names. Pure.
//!
//! It plans as at boot ([`super::boot`]), with two limits. Real servers of a service that exists stay as they are: a health
//! checker may have taken one out, or given it another weight, and putting it back would send clients to a dead server.
//! And nothing is touched that the receipt does not own: services that `ipvs: exclusive` has no place for wait for the
//! next apply.

use std::collections::BTreeSet;

use super::link_managers::carriers_of;
use super::ownership::Goal;
use crate::names::IfName;
use crate::state::{DriftAction, DriftPolicy, HostState, Item, Observation, Receipt, Step};

/// What the units of lvsprov on a host have to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitNeeds {
    /// The interfaces that carry addresses or routes of lvsprov.
    pub carriers: BTreeSet<IfName>,
    /// How often the host looks for drift, in seconds; `None`: it does not.
    pub drift_every_s: Option<u32>,
}

impl UnitNeeds {
    /// What `receipts` need, all of one host that is as `seen`.
    pub fn of<'a>(
        receipts: impl IntoIterator<Item = &'a Receipt> + Clone,
        seen: &HostState,
    ) -> Self {
        Self {
            carriers: carriers_of(receipts.clone(), seen),
            drift_every_s: every_s(receipts.into_iter().filter_map(|receipt| receipt.drift)),
        }
    }
}

/// The interval of the one timer, in seconds: the shortest counts.
pub fn every_s(policies: impl IntoIterator<Item = DriftPolicy>) -> Option<u32> {
    policies.into_iter().map(|policy| policy.every_s).min()
}

/// Whether the transaction to `goal` changes what the host does about drift.
pub fn changes_timer(goal: &Goal, seen: &Observation) -> bool {
    let after = goal.receipt_after.as_ref();
    let policy = |receipt: Option<&Receipt>| receipt.and_then(|receipt| receipt.drift);
    after.is_some() && policy(after) != policy(seen.receipt.as_ref())
}

/// What a person should know of the host's next looks for drift.
pub fn caution(goal: &Goal, seen: &Observation) -> Option<String> {
    if !changes_timer(goal, seen) {
        return None;
    }
    let Some(DriftPolicy { action, every_s }) = goal.receipt_after.as_ref()?.drift else {
        return Some("the host no longer looks for drift by itself".to_owned());
    };
    if !seen.boot_unit.is_possible() {
        return Some(
            "no timer looks for drift here, as the host has no units of lvsprov: start `lvsprov agent --drift` there \
             every now and then"
                .to_owned(),
        );
    }
    let does = match action {
        DriftAction::Report => "writes down what it finds",
        DriftAction::Mend => "mends what lvsprov owns",
    };
    Some(format!("lvsprov-drift.timer looks for drift every {every_s} s, and {does}"))
}

impl Goal {
    /// The same goal for a host that mends drift: real servers of services that exist stay as they are, and so does what
    /// the receipt does not own.
    #[must_use]
    pub fn sparing_health(mut self, seen: &HostState) -> Self {
        for (key, service) in &mut self.wanted.services {
            if let Some(present) = seen.services.get(key) {
                service.destinations.clone_from(&present.destinations);
            }
        }
        let owned = &self.receipt.owned;
        self.owned.retain(|item| owned.contains(item));
        self
    }
}

/// The edits of `all` that `mended` does not have, one line each.
pub fn left(all: &[Step], mended: &[Step]) -> Vec<String> {
    let is_mended = |step: &&Step| mended.iter().any(|other| other.edit == step.edit);
    all.iter().filter(|step| !is_mended(step)).map(|step| step.edit.to_string()).collect()
}

/// Units of programs that are known to drop or change what `steps` set, as they start, reload or stop.
pub fn suspects(steps: &[Step]) -> BTreeSet<&'static str> {
    let units = steps.iter().flat_map(|step| match step.edit.item() {
        Item::Address(_) | Item::Route(_) | Item::Link(_) | Item::Tunnel(_) => {
            &["systemd-networkd.service", "NetworkManager.service", "networking.service"][..]
        }
        Item::Table(_) => &[
            "nftables.service",
            "firewalld.service",
            "ufw.service",
            "netfilter-persistent.service",
        ],
        Item::Sysctl(_) => &[
            "systemd-sysctl.service",
            "procps.service",
            "tuned.service",
            "systemd-networkd.service",
            "NetworkManager.service",
        ],
        Item::Service(_) | Item::Timeouts | Item::Daemon(_) => {
            &["ipvsadm.service", "keepalived.service", "ldirectord.service"]
        }
        Item::Module(_) | Item::GuePort(_) | Item::Instance(_) => &[],
    });
    units.copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::desired::Desired;
    use crate::plan::AdoptPolicy;
    use crate::state::{
        Address, AddressKey, BootUnit, Destination, DestinationKey, ForwardingMethod, Scope,
        ServiceKey, Sysctl, VirtualService,
    };

    const POLICY: DriftPolicy = DriftPolicy { action: DriftAction::Mend, every_s: 60 };

    fn key() -> ServiceKey {
        "tcp 192.0.2.80:80".parse().unwrap()
    }

    fn vip() -> AddressKey {
        "192.0.2.80/32@eth0".parse().unwrap()
    }

    fn rip(number: u8) -> DestinationKey {
        DestinationKey::new([192, 0, 2, number].into(), 80)
    }

    fn desired() -> Desired {
        let mut desired = Desired::default();
        let mut service = VirtualService::plain(&key(), "rr");
        for number in [7, 8] {
            let destination = Destination::plain(ForwardingMethod::DirectRoute, 1);
            service.destinations.insert(rip(number), destination);
        }
        desired.state.services.insert(key(), service);
        desired.state.addresses.insert(vip(), Address::plain(Scope::Global));
        desired.state.sysctls.insert(Sysctl::IpForward, "1".to_owned());
        desired
    }

    fn apply(policy: AdoptPolicy, seen: &Observation) -> Goal {
        Goal::apply_on(policy, &"t".parse().unwrap(), 7, &desired(), seen).unwrap()
    }

    /// A host as it was settled.
    fn settled(exclusive: bool) -> (Goal, Observation) {
        let mut seen = Observation { boot_unit: BootUnit::Installed, ..Observation::default() };
        seen.state.sysctls.insert(Sysctl::IpForward, "0".to_owned());
        let policy = AdoptPolicy { drift: Some(POLICY), exclusive, ..AdoptPolicy::default() };
        let goal = apply(policy, &seen);
        seen.state = goal.wanted.clone();
        seen.receipt.clone_from(&goal.receipt_after);
        (goal, seen)
    }

    /// The lines that are mended, and those that are left.
    fn look(goal: &Goal, seen: &Observation) -> (Vec<String>, Vec<String>) {
        let all = Goal::replay(goal.settled.as_ref().unwrap(), seen).unwrap().unwrap();
        let steps = all.replay_steps(&seen.state).unwrap();
        let mended = all.sparing_health(&seen.state).replay_steps(&seen.state).unwrap();
        let text = mended.iter().map(|step| step.edit.to_string()).collect();
        (text, left(&steps, &mended))
    }

    #[test]
    fn what_a_health_checker_changes_is_named_and_left() {
        let (goal, mut seen) = settled(false);
        assert_eq!(look(&goal, &seen), (vec![], vec![]));
        let service = seen.state.services.get_mut(&key()).unwrap();
        service.destinations.get_mut(&rip(7)).unwrap().weight = 0;
        service.destinations.remove(&rip(8));
        let (mended, left) = look(&goal, &seen);
        assert_eq!((mended, left.len()), (vec![], 2), "{left:?}");
        // The scheduler is no health checker's, and neither is the VIP.
        seen.state.services.get_mut(&key()).unwrap().scheduler = "wlc".to_owned();
        seen.state.addresses.clear();
        let (mended, left) = look(&goal, &seen);
        assert_eq!((mended.len(), left.len()), (2, 2), "{mended:?} {left:?}");
        // Without the service clients are refused: it comes back with its real servers.
        seen.state.services.clear();
        let (mended, left) = look(&goal, &seen);
        assert!(mended.len() > 3 && left.is_empty(), "{mended:?} {left:?}");
    }

    #[test]
    fn what_the_receipt_does_not_own_is_left() {
        let (goal, mut seen) = settled(true);
        let other: ServiceKey = "tcp 192.0.2.99:80".parse().unwrap();
        seen.state.services.insert(other.clone(), VirtualService::plain(&other, "rr"));
        let (mended, left) = look(&goal, &seen);
        assert_eq!(mended, Vec::<String>::new());
        assert!(left.len() == 1 && left[0].contains("192.0.2.99"), "{left:?}");
    }

    #[test]
    fn the_policy_lies_in_the_receipt_only_where_a_state_is_kept() {
        let (goal, seen) = settled(false);
        assert_eq!(goal.receipt_after.as_ref().unwrap().drift, Some(POLICY));
        assert_eq!(UnitNeeds::of(&seen.receipt, &seen.state).drift_every_s, Some(60));
        let policy = AdoptPolicy { drift: Some(POLICY), transient: true, ..AdoptPolicy::default() };
        assert_eq!(apply(policy, &seen).receipt_after.unwrap().drift, None);
        // It is turned off, and then the interval is another one.
        let off = apply(AdoptPolicy::default(), &seen);
        assert!(changes_timer(&off, &seen) && !changes_timer(&goal, &seen));
        assert!(caution(&off, &seen).unwrap().contains("no longer"));
        let other = DriftPolicy { every_s: 61, ..POLICY };
        let slower = apply(AdoptPolicy { drift: Some(other), ..AdoptPolicy::default() }, &seen);
        assert!(caution(&slower, &seen).unwrap().contains("every 61 s, and mends"));
        assert_eq!(every_s([other, POLICY]), Some(60));
    }

    #[test]
    fn only_units_that_can_have_dropped_it_are_suspected() {
        let (goal, mut seen) = settled(false);
        seen.state.addresses.clear();
        let steps = goal.replay_steps(&seen.state).unwrap();
        let units = suspects(&steps);
        assert!(units.contains("systemd-networkd.service") && !units.contains("nftables.service"));
    }
}
