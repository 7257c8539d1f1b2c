//! Observing a host: everything that a plan needs. Changes nothing, loads no module.

use std::collections::{BTreeMap, BTreeSet};

use super::actor::Actor;
use super::store::Store;
use super::{drift, journal, others, receipt, records};
use crate::failure::Failure;
use crate::kernel::error::{Error, Result};
use crate::kernel::observe::KernelState;
use crate::names::{IfName, TopologyName};
use crate::plan::drift::UnitNeeds;
use crate::protocol::Execution;
use crate::state::{Item, Link, Observation, Owned, Receipt, Sysctl, effects};

/// How often a host is observed again whose receipt or journal was written meanwhile.
const ATTEMPTS: u32 = 5;

/// Reads the host.
///
/// Receipt and host belong together: without the receipt, a change that another run has just made would
/// be taken for the state before any. So the host is read again if the receipt or the journal was
/// written meanwhile, or the transaction's phase changed.
pub(super) async fn observe(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
) -> Result<Observation> {
    attempt(store, actor, topology, asked, counters, Others::Read).await
}

/// The same without other topologies' files: undoing this topology needs none of them.
pub(super) async fn observe_own(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
) -> Result<Observation> {
    attempt(store, actor, topology, asked, false, Others::LeftOut).await
}

/// Whether other topologies' receipts and journals are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Read,
    LeftOut,
}

async fn attempt(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
    others: Others,
) -> Result<Observation> {
    for _ in 0..ATTEMPTS {
        let before = journal::marks(store, topology);
        let observation = read_once(store, actor, topology, asked, counters, others).await;
        // A file that cannot be read may have been removed meanwhile.
        if journal::marks(store, topology) == before {
            return observation;
        }
    }
    Err(Error::new(format!("the receipt of {topology} changes faster than this host can be read"))
        .cure("another lvsprov is at work here: wait for it"))
}

async fn read_once(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
    others: Others,
) -> Result<Observation> {
    let mut receipt = receipt::read(store, topology)?;
    let others = match others {
        Others::Read => others::read(store, topology)?,
        Others::LeftOut => others::OtherEntries::default(),
    };
    let files = journal::read(store, topology)?;
    let open = files.map(|files| files.into_open_transaction(actor)).transpose()?.map(Box::new);
    let reverted = records::reverted(store, &store.root().join(topology.as_str()));
    let touched = open.as_ref().map(|open| &open.journal.touched);
    let sysctls = |links: &BTreeMap<IfName, Link>| {
        wanted_sysctls(asked, receipt.as_ref(), touched, links.keys())
    };
    let KernelState { facts, state, counters } = actor.observe(Box::new(sysctls), counters).await?;
    let receipts = receipt.iter().chain(others.receipts.values());
    let boot_unit = actor.boot_unit(&UnitNeeds::of(receipts, &state));
    if let Some(receipt) = receipt.as_mut().filter(|_| boot_unit.is_lacking()) {
        // The next transaction installs what is missing.
        receipt.settled = None;
    }
    let drift = receipt.as_ref().and_then(|receipt| receipt.drift);
    let drift = drift.and_then(|_| drift::record(store, topology));
    Ok(Observation {
        facts,
        state,
        receipt,
        run: actor.run().ok(),
        boot_unit,
        managers: actor.link_managers(),
        others: others.receipts,
        unreadable: others.unreadable,
        strays: others.strays,
        open_transaction: open,
        reverted,
        drift,
        open_elsewhere: others.open,
        counters,
    })
}

/// Observes a host that was changed: a failure to read it is part of the result.
pub(super) async fn after_execution(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    sysctls: &BTreeSet<Sysctl>,
    done: usize,
    failure: Option<Failure>,
) -> Execution {
    match observe(store, actor, topology, sysctls, false).await {
        Ok(after) => Execution { done, failure, after, warnings: Vec::new() },
        Err(error) => {
            // The steps were executed: the caller must not take the empty state for the host's.
            let blind = Error::new("the host was changed, but cannot be read again").because(error);
            let failure = failure.or_else(|| Some(blind.to_failure()));
            Execution { done, failure, after: Observation::default(), warnings: Vec::new() }
        }
    }
}

/// The settings that were asked for, those that the receipt names, those that undoing puts back with what a
/// device inherits that undoing makes again, and those that move along with any of them ([`effects`]).
fn wanted_sysctls<'a>(
    asked: &BTreeSet<Sysctl>,
    receipt: Option<&Receipt>,
    touched: Option<&Owned>,
    links: impl Iterator<Item = &'a IfName>,
) -> BTreeSet<Sysctl> {
    let sysctls = |items: &Owned| -> Vec<Sysctl> { items.iter().filter_map(sysctl).collect() };
    let touched = touched.map(sysctls).unwrap_or_default();
    let mut wanted = asked.clone();
    wanted.extend(touched.iter().filter_map(effects::inherited_from));
    wanted.extend(touched);
    if let Some(Receipt { owned, found, .. }) = receipt {
        wanted.extend(found.sysctls.keys().cloned());
        wanted.extend(sysctls(owned));
    }
    let led = effects::led_on(&wanted, links);
    wanted.extend(led);
    wanted
}

fn sysctl(item: &Item) -> Option<Sysctl> {
    if let Item::Sysctl(key) = item { Some(key.clone()) } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{Conf6Item, ConfDev, ConfItem, HostState, Module, RECEIPT_VERSION};

    #[test]
    fn who_asks_for_ip_forward_gets_what_it_writes_as_well() {
        let dev: IfName = "eth0.100".parse().unwrap();
        let asked = BTreeSet::from([Sysctl::IpForward]);
        let wanted = wanted_sysctls(&asked, None, None, [&dev].into_iter());
        for key in [
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.accept_redirects",
            "net.ipv4.conf.all.forwarding",
            "net.ipv4.conf.default.forwarding",
            "net/ipv4/conf/eth0.100/forwarding",
        ] {
            assert!(wanted.contains(&key.parse().unwrap()), "{key} is missing");
        }
        assert_eq!(wanted.len(), 5);
        assert!(wanted_sysctls(&BTreeSet::new(), None, None, [&dev].into_iter()).is_empty());
    }

    #[test]
    fn who_asks_for_ipv6_forwarding_gets_every_interfaces_as_well() {
        let dev: IfName = "eth0.100".parse().unwrap();
        let asked = BTreeSet::from([Sysctl::Ip6Forward]);
        let expected = [
            "net.ipv6.conf.all.forwarding",
            "net.ipv6.conf.default.forwarding",
            "net/ipv6/conf/eth0.100/forwarding",
        ];
        let expected = expected.iter().map(|key| key.parse().unwrap()).collect();
        assert_eq!(wanted_sysctls(&asked, None, None, [&dev].into_iter()), expected);
    }

    /// A tunnel device is made again, and starts with the values of `default`: those that it had otherwise
    /// are set before it is up.
    #[test]
    fn undoing_the_removal_of_a_device_knows_what_a_new_one_starts_with() {
        use crate::desired::Reasons;
        use crate::plan::order::steps_between;
        use crate::state::{Edit, Link, Step, TunnelDevice, TunnelKind};

        let dev: IfName = "gre1".parse().unwrap();
        let (v4, v6) = (
            Sysctl::dev(&dev, ConfItem::RpFilter),
            Sysctl::Conf6(ConfDev::Dev(dev.clone()), Conf6Item::Forwarding),
        );
        let touched: Owned = [v4.clone(), v6.clone()].map(Item::Sysctl).into();
        let read = wanted_sysctls(&BTreeSet::new(), None, Some(&touched), std::iter::empty());
        let defaults = BTreeSet::from([
            Sysctl::Conf(ConfDev::Default, ConfItem::RpFilter),
            Sysctl::Conf6(ConfDev::Default, Conf6Item::Forwarding),
        ]);
        assert_eq!(read, defaults.union(&[v4.clone(), v6].into()).cloned().collect());

        // What is read of the two is all that is known of a host without the device.
        let values = [(Sysctl::Conf(ConfDev::Default, ConfItem::RpFilter), "1".to_owned())];
        let sysctls = values.into_iter().filter(|(key, _)| read.contains(key)).collect();
        let seen = HostState { sysctls, ..HostState::default() };
        let mut before = HostState::default();
        before.links.insert(dev.clone(), Link::Up);
        before.sysctls.insert(v4, "0".to_owned());
        let local = "192.0.2.1".parse().unwrap();
        let device = TunnelDevice { kind: TunnelKind::Gre, local, checksum: false };
        before.tunnels.insert(dev, device);
        let steps = steps_between(&seen, &before, &before.items(), &Reasons::default()).unwrap();
        let steps: Vec<Edit> =
            steps.into_all().into_iter().map(|Step { edit, why: _ }| edit).collect();
        let at = |is: &dyn Fn(&Edit) -> bool| steps.iter().position(is);
        let set = at(&|change| change.changed::<Sysctl>().is_some());
        let up = at(&|change| change.changed::<Link>().is_some());
        assert!(set.is_some() && set < up, "{steps:?}");
    }

    #[test]
    fn the_receipt_adds_what_it_owns_and_what_it_found() {
        let owned: Sysctl = "net.ipv4.conf.lo.arp_ignore".parse().unwrap();
        let found: Sysctl = "net.ipv4.conf.all.arp_ignore".parse().unwrap();
        let receipt = Receipt {
            version: RECEIPT_VERSION,
            topology: "t".parse().unwrap(),
            since: 0,
            run: None,
            settled: None,
            maintenance: crate::state::Maintenance::default(),
            drift: None,
            external: crate::state::ExternalWeights::default(),
            owned: [Item::Sysctl(owned.clone()), Item::Module(Module::IpVs)].into(),
            found: HostState {
                sysctls: [(found.clone(), "0".to_owned())].into(),
                ..HostState::default()
            },
        };
        let wanted = wanted_sysctls(&BTreeSet::new(), Some(&receipt), None, std::iter::empty());
        assert_eq!(wanted, BTreeSet::from([owned, found]));
    }
}
