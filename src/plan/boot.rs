//! What a host makes again by itself after a restart, and what `destroy` puts back from then on. Pure.
//!
//! A restart loses all that lvsprov set: the kernel keeps none of it. The disk keeps the receipt and the *settled state*:
//! what the file of the last commit says of this host. At boot the host plans from the present state to the settled one,
//! as an apply does, and so in the same order: ARP settings before a VIP, the VIP of a director last.
//!
//! What a receipt found belongs to one run of the host. In the next run the boot sets those values anew, perhaps others:
//! another `sysctl.d`, another address by DHCP. So they are read again ([`present_receipt`]), and `destroy` never writes
//! values of an earlier run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::external::{self, ExternalServices};
use super::ownership::{self, Goal};
use super::preflight::Obstacle;
use super::simulate::SimulateError;
use super::unmanaged::{self, AdoptPolicy};
use super::{accepted, drift, link_managers, order, scheduler_swap};
use crate::desired::{Desired, Reasons};
use crate::names::{IfName, TopologyName};
use crate::state::announcement::is_announced;
use crate::state::{
    Address, AddressKey, BootUnit, HostState, Item, Observation, Owned, RECEIPT_VERSION, Receipt,
    Scope, ServiceKey, Settled, SettledDigest, Step,
};

/// How much of the settled state a host makes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayScope {
    /// All of it.
    All,
    /// What a program that configures interfaces may have dropped ([`Goal::sparing_services`]).
    Network,
    /// What the receipt owns, without what a health checker may have changed ([`Goal::sparing_health`]).
    Drift,
}

/// The settled state after an apply of `desired`. Services in `left` are none of lvsprov's: another program makes
/// them.
pub(super) fn settled(
    topology: &TopologyName,
    desired: &Desired,
    left: &BTreeSet<ServiceKey>,
    policy: AdoptPolicy,
) -> Settled {
    let mut state = desired.state.clone();
    state.services.retain(|key, _| !left.contains(key));
    let gets_address = |(dev, nets): &(&IfName, &Vec<IpNet>)| {
        !nets.is_empty() && desired.state.addresses.keys().any(|key| key.dev == **dev)
    };
    let own = |(dev, nets): (&IfName, &Vec<IpNet>)| (dev.clone(), nets.clone());
    Settled {
        version: RECEIPT_VERSION,
        topology: topology.clone(),
        state,
        accepted: desired.accepted.clone(),
        exclusive: policy.exclusive,
        external: desired.external.iter().filter(|key| !left.contains(key)).cloned().collect(),
        needs: desired.needs.iter().filter(gets_address).map(own).collect(),
    }
}

/// An interface that gets an address from `settled`, and has none of its own yet although the file says so. NetworkManager
/// takes an interface that has an address when it starts for one that another program configures, and leaves it alone: the
/// host would lose its own addresses for good (`netplan apply` restarts it without what it knew).
pub fn unconfigured(settled: &Settled, seen: &HostState) -> Option<Obstacle> {
    let ours = &settled.state.addresses;
    let gets_one =
        |dev: &IfName| ours.keys().any(|key| key.dev == *dev && !seen.addresses.contains_key(key));
    let has_own = |dev: &IfName, net: &IpNet| {
        let same_family = |key: &AddressKey| key.net.addr().is_ipv4() == net.addr().is_ipv4();
        let of_scope = |address: &Address| !matches!(address.scope, Scope::Link | Scope::Host);
        seen.addresses.iter().any(|(key, address)| {
            key.dev == *dev && same_family(key) && of_scope(address) && !ours.contains_key(key)
        })
    };
    let lacks = |(dev, nets): (&IfName, &Vec<IpNet>)| {
        let net = nets.iter().find(|net| !has_own(dev, net)).filter(|_| gets_one(dev))?;
        Some(Obstacle {
            message: format!("{dev} has no address of its own yet; the file has {net}"),
            why: "an address of lvsprov that is there first would keep NetworkManager from configuring it".to_owned(),
            cure: format!(
                "find out why the host's own network configuration does not set it: once {dev} has it, the host makes \
                 its settings again by itself"
            ),
        })
    };
    settled.needs.iter().find_map(lacks)
}

/// The digest of its file; `None` if it has no JSON form, which is a fault of lvsprov: nothing is made again then.
pub(super) fn digest(settled: &Settled) -> Option<SettledDigest> {
    settled.text().ok().map(|text| SettledDigest::of(&text))
}

/// The receipt on the host. If the host was restarted since, it owns the same items, and what it found is what the
/// boot made of them.
pub(super) fn present_receipt(seen: &Observation) -> Option<Receipt> {
    let receipt = seen.receipt.clone()?;
    if !receipt.is_stale(seen.run.as_ref()) {
        let run = receipt.run.clone().or_else(|| seen.run.clone());
        return Some(Receipt { run, ..receipt });
    }
    let owned = receipt.owned.clone();
    let mut anew = Receipt {
        owned: Owned::new(),
        found: HostState::default(),
        run: seen.run.clone(),
        ..receipt
    };
    // Loading a module that is not there cannot be refused in memory.
    let before =
        ownership::with_modules(&seen.state, &owned).unwrap_or_else(|_| seen.state.clone());
    ownership::take(&mut anew, &owned, &before, seen);
    Some(anew)
}

/// Whether the transaction to `goal` installs the boot unit, or something that belongs to it.
pub fn installs_unit(goal: &Goal, seen: &Observation) -> bool {
    let lacks = seen.boot_unit.is_lacking()
        || !link_managers::lacking(goal, seen).is_empty()
        || drift::changes_timer(goal, seen) && seen.boot_unit.is_possible();
    goal.settled.is_some() && lacks
}

/// What a person should know of the next boot of the host.
pub fn caution(goal: &Goal, seen: &Observation) -> Option<String> {
    goal.settled.as_ref()?;
    match &seen.boot_unit {
        BootUnit::Missing => Some(
            "installs the unit lvsprov-boot.service: it makes these settings again at boot, without a controller"
                .to_owned(),
        ),
        // Once is enough.
        BootUnit::Impossible(why) if seen.receipt.is_none() => Some(format!(
            "a reboot loses all of it, as {why}: start `lvsprov agent --boot` there, or run apply again"
        )),
        BootUnit::Incomplete(files) => {
            // These have a caution of their own.
            let drop_ins: BTreeSet<PathBuf> =
                link_managers::lacking(goal, seen).into_iter().map(|(_, path)| path).collect();
            let others = files.iter().filter(|file| !drop_ins.contains(Path::new(file.as_str())));
            let others: Vec<&str> = others.map(String::as_str).collect();
            (!others.is_empty()).then(|| {
                format!("writes again what belongs to lvsprov-boot.service: {}", others.join(", "))
            })
        }
        BootUnit::Impossible(_) | BootUnit::Installed | BootUnit::Unknown => None,
    }
}

impl Goal {
    /// The goal of a host that was restarted, or whose network was: the settled state that the receipt names. What the
    /// receipt owns beside it (a journal was lost) is as it was found. `None`: nothing is ours.
    ///
    /// # Errors
    /// The states contradict each other: a fault of lvsprov.
    pub fn replay(settled: &Settled, seen: &Observation) -> Result<Option<Self>, SimulateError> {
        let Some(mut receipt) = present_receipt(seen) else { return Ok(None) };
        let mut wanted = ownership::inherit(&settled.state, &seen.state);
        receipt.external = external::yield_to_checker(
            ExternalServices { keys: &settled.external, takes_over: settled.exclusive },
            &mut wanted,
            &seen.state,
            Some(&receipt),
        );
        let before = ownership::with_modules(&seen.state, &wanted.items())?;
        let kept_settings =
            accepted::keep(&settled.accepted, &mut wanted, &before, (seen, Some(&receipt)));
        let ours = wanted.items();
        ownership::take(&mut receipt, &ours, &before, seen);
        let displaced =
            if settled.exclusive { unmanaged::displaced(&wanted, seen) } else { BTreeSet::new() };
        for key in &displaced {
            if !receipt.found.services.contains_key(key) {
                receipt.found.copy_item(&Item::Service(key.clone()), &seen.state);
            }
        }
        let mut owned = receipt.owned.clone();
        for item in receipt.owned.difference(&ours) {
            wanted.copy_item(item, &receipt.found);
        }
        owned.extend(displaced.iter().cloned().map(Item::Service));
        Ok(Some(Self {
            wanted,
            owned,
            receipt_after: Some(receipt.clone()),
            receipt,
            settled: None,
            left: BTreeSet::new(),
            contested: BTreeMap::new(),
            displaced,
            kept_settings,
        }))
    }

    /// The steps of a replay from `seen` to this goal. No scheduler is exchanged in silence ([`scheduler_swap`]): no journal
    /// would put back what drops packets meanwhile, should the host be cut off once more.
    ///
    /// # Errors
    /// As [`Self::replay`].
    pub fn replay_steps(&self, seen: &HostState) -> Result<Vec<Step>, SimulateError> {
        let mut state = seen.clone();
        for key in [scheduler_swap::DROP_PACKET, scheduler_swap::AM_DROPRATE] {
            if !self.owned.contains(&Item::Sysctl(key.clone())) {
                state.sysctls.remove(&key);
            }
        }
        let steps = order::steps_between(&state, &self.wanted, &self.owned, &Reasons::default())?;
        Ok(steps.into_all())
    }

    /// The same goal after a change of the network alone: services that exist stay as they are, with their destinations,
    /// timeouts and sync daemons, as a health checker may have changed them since. Programs that configure interfaces
    /// remove none. Where one is missing, all of it is made again.
    #[must_use]
    pub fn sparing_services(mut self, seen: &HostState) -> Self {
        if self.wanted.services.keys().all(|key| seen.services.contains_key(key)) {
            let is_of_ipvs =
                |item: &Item| matches!(item, Item::Service(_) | Item::Timeouts | Item::Daemon(_));
            self.owned.retain(|item| !is_of_ipvs(item));
        }
        self
    }

    /// The same goal without the addresses that another machine has (`taken`), and without their services: clients reach
    /// that machine.
    #[must_use]
    pub fn leaving_out(mut self, taken: &BTreeSet<IpAddr>) -> Self {
        let wanted = &mut self.wanted;
        wanted.addresses.retain(|key, _| !is_announced(key) || !taken.contains(&key.net.addr()));
        wanted.services.retain(|key, _| match key {
            ServiceKey::Address(_, vip) => !taken.contains(&vip.ip()),
            ServiceKey::Fwmark { .. } => true,
        });
        self
    }

    /// The goal that leaves nothing of ours on the host, and keeps the receipt: a replay that failed half-way goes back
    /// to it.
    #[must_use]
    pub fn withdrawn(&self, seen: &HostState) -> Self {
        let found = &self.receipt.found;
        let owned: Owned = self.owned.union(&found.items()).cloned().collect();
        Self { wanted: without_loading(found, seen), owned, ..self.clone() }
    }
}

/// What was found, without the modules that a restart has unloaded: nothing of ours needs them.
pub(super) fn without_loading(found: &HostState, seen: &HostState) -> HostState {
    let modules = found.modules.intersection(&seen.modules).copied().collect();
    HostState { modules, ..found.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{
        Address, AddressKey, Destination, DestinationKey, ForwardingMethod, Scope, Sysctl,
        VirtualService,
    };

    fn goal(transient: bool, seen: &Observation) -> Goal {
        let mut desired = Desired::default();
        desired.state.sysctls.insert(Sysctl::IpForward, "1".to_owned());
        let policy = AdoptPolicy { transient, ..AdoptPolicy::default() };
        Goal::apply_on(policy, &"t".parse().unwrap(), 7, &desired, seen).unwrap()
    }

    fn host(boot_unit: BootUnit) -> Observation {
        let mut seen = Observation { boot_unit, ..Observation::default() };
        seen.state.sysctls.insert(Sysctl::IpForward, "0".to_owned());
        seen
    }

    #[test]
    fn a_cluster_that_is_not_kept_leaves_nothing_to_make_again() {
        let seen = host(BootUnit::Missing);
        let kept = goal(false, &seen);
        assert!(kept.receipt_after.as_ref().unwrap().settled.is_some());
        assert!(installs_unit(&kept, &seen) && caution(&kept, &seen).is_some());
        let transient = goal(true, &seen);
        assert_eq!(transient.settled, None);
        assert_eq!(transient.receipt_after.as_ref().unwrap().settled, None);
        assert!(!installs_unit(&transient, &seen));
        assert_eq!(caution(&transient, &seen), None);
    }

    #[test]
    fn a_host_without_systemd_is_named_once() {
        let mut seen = host(BootUnit::Impossible("systemd does not run here".to_owned()));
        let goal = goal(false, &seen);
        assert!(caution(&goal, &seen).unwrap().contains("as systemd does not run here"));
        seen.receipt = goal.receipt_after.clone();
        assert_eq!(caution(&goal, &seen), None);
    }

    /// A health checker has taken a destination out, and NetworkManager an address.
    #[test]
    fn a_change_of_the_network_touches_no_service_that_exists() {
        let key: ServiceKey = "tcp 192.0.2.80:80".parse().unwrap();
        let vip: AddressKey = "192.0.2.80/32@eth0".parse().unwrap();
        let mut desired = Desired::default();
        let mut service = VirtualService::plain(&key, "rr");
        let at = DestinationKey::new("192.0.2.7".parse().unwrap(), 80);
        service.destinations.insert(at, Destination::plain(ForwardingMethod::DirectRoute, 1));
        desired.state.services.insert(key.clone(), service.clone());
        desired.state.addresses.insert(vip.clone(), Address::plain(Scope::Global));
        let mut seen = Observation::default();
        let policy = AdoptPolicy::default();
        let topology = "t".parse().unwrap();
        let goal = Goal::apply_on(policy, &topology, 7, &desired, &seen).unwrap();
        seen.receipt = goal.receipt_after;
        service.destinations.clear();
        seen.state.services.insert(key.clone(), service);
        let steps = |scope, seen: &Observation| -> Vec<String> {
            let goal = Goal::replay(goal.settled.as_ref().unwrap(), seen).unwrap().unwrap();
            let goal = match scope {
                ReplayScope::All => goal,
                ReplayScope::Network => goal.sparing_services(&seen.state),
                ReplayScope::Drift => goal.sparing_health(&seen.state),
            };
            let steps = goal.replay_steps(&seen.state).unwrap();
            steps.iter().map(|step| step.edit.to_string()).collect()
        };
        let network = steps(ReplayScope::Network, &seen);
        assert_eq!(network.len(), 1, "{network:?}");
        assert!(network[0].contains(&vip.net.to_string()), "{network:?}");
        assert_eq!(steps(ReplayScope::All, &seen).len(), 2);
        // Without the service the address would refuse clients.
        seen.state.services.remove(&key);
        let all = steps(ReplayScope::All, &seen);
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(steps(ReplayScope::Network, &seen), all);
    }

    /// While `netplan apply` restarts NetworkManager, an interface has no address at all.
    #[test]
    fn an_interface_gets_its_own_address_before_one_of_ours() {
        let vip: AddressKey = "192.0.2.80/32@eth0".parse().unwrap();
        let on_lo: AddressKey = "192.0.2.81/32@lo".parse().unwrap();
        let plain = || Address::plain(Scope::Global);
        let mut desired = Desired::default();
        desired.state.addresses.extend([(vip.clone(), plain()), (on_lo, plain())]);
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        desired.needs.insert("eth0".parse().unwrap(), nets(&["192.0.2.2/24", "2001:db8::2/64"]));
        desired.needs.insert("eth1".parse().unwrap(), nets(&["198.51.100.2/24"]));
        let policy = AdoptPolicy::default();
        let settled = settled(&"t".parse().unwrap(), &desired, &BTreeSet::new(), policy);
        assert_eq!(settled.needs.len(), 1, "{:?}", settled.needs);

        let mut seen = HostState::default();
        let lacks = |seen: &HostState| unconfigured(&settled, seen).map(|found| found.message);
        let has = |key: &str| (key.parse().unwrap(), plain());
        let said = "eth0 has no address of its own yet; the file has ";
        assert_eq!(lacks(&seen).unwrap(), format!("{said}192.0.2.2/24"));
        // Another one than in the file, by DHCP say.
        seen.addresses.extend([has("192.0.2.3/24@eth0"), has("2001:db8::2/64@eth1")]);
        let by_itself = "fe80::1/64@eth0".parse().unwrap();
        seen.addresses.insert(by_itself, Address::plain(Scope::Link));
        assert_eq!(lacks(&seen).unwrap(), format!("{said}2001:db8::2/64"));
        seen.addresses.extend([has("2001:db8::3/64@eth0")]);
        assert_eq!(lacks(&seen), None);
        // Nothing is to be added.
        let all = HostState { addresses: [(vip, plain())].into(), ..HostState::default() };
        assert_eq!(lacks(&all), None);
    }

    #[test]
    fn what_another_machine_has_is_left_out_with_its_services() {
        let keys = ["tcp 192.0.2.80:80", "tcp 192.0.2.81:80", "fwmark4 7"];
        let keys = keys.map(|key| key.parse::<ServiceKey>().unwrap());
        let addresses = ["192.0.2.80/32@eth0", "192.0.2.80/32@lo", "192.0.2.81/32@eth0"];
        let addresses = addresses.map(|key| key.parse::<AddressKey>().unwrap());
        let mut desired = Desired::default();
        for key in &keys {
            desired.state.services.insert(key.clone(), VirtualService::plain(key, "rr"));
        }
        for key in &addresses {
            desired.state.addresses.insert(key.clone(), Address::plain(Scope::Global));
        }
        let mut seen = Observation::default();
        let policy = AdoptPolicy::default();
        let goal = Goal::apply_on(policy, &"t".parse().unwrap(), 7, &desired, &seen).unwrap();
        seen.receipt = goal.receipt_after;
        let replay = Goal::replay(goal.settled.as_ref().unwrap(), &seen).unwrap().unwrap();
        let taken = ["192.0.2.80".parse().unwrap()].into();
        let left = replay.clone().leaving_out(&taken);
        let expected: Vec<&AddressKey> = vec![&addresses[2], &addresses[1]];
        let left_addresses: BTreeSet<&AddressKey> = left.wanted.addresses.keys().collect();
        assert_eq!(left_addresses, expected.into_iter().collect(), "nothing answers for it on lo");
        let services: BTreeSet<&ServiceKey> = left.wanted.services.keys().collect();
        assert_eq!(services, keys[1..].iter().collect());
        // What the host has of it goes.
        seen.state = replay.wanted.clone();
        let steps = left.replay_steps(&seen.state).unwrap();
        assert_eq!(steps.len(), 2, "{steps:?}");
        assert_eq!(replay.clone().leaving_out(&BTreeSet::new()), replay);
    }
}
