//! Looking at a host: everything a plan needs, and nothing is changed by it, no module loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{journal, others, receipt, records};
use crate::failure::Failure;
use crate::kernel::error::{Error, Result};
use crate::kernel::observe::{self, KernelState};
use crate::names::{IfName, TopologyName};
use crate::protocol::Execution;
use crate::state::{Item, Link, Observation, Owned, Receipt, Sysctl, effects};

/// How often a host is looked at again whose receipt or journal was written meanwhile.
const LOOKS: u32 = 5;

/// Reads the host, in the network namespace of the calling thread.
///
/// Receipt and host belong together: without the receipt, what another run has just changed would be
/// taken for what was there before any. So it is looked again if the receipt was written meanwhile, or
/// the journal, or that was brought to another phase.
pub async fn look(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
) -> Result<Observation> {
    look_as(state_dir, topology, asked, counters, Others::Read).await
}

/// The same without what other topologies have on this host: undoing what is ours asks nothing of them.
pub(super) async fn look_at_own(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
) -> Result<Observation> {
    look_as(state_dir, topology, asked, false, Others::LeftOut).await
}

/// Whether other topologies' receipts and journals are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Read,
    LeftOut,
}

async fn look_as(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
    others: Others,
) -> Result<Observation> {
    for _ in 0..LOOKS {
        let before = journal::marks(state_dir, topology);
        let seen = look_once(state_dir, topology, asked, counters, others).await;
        // What cannot be read may have been taken away meanwhile.
        if journal::marks(state_dir, topology) == before {
            return seen;
        }
    }
    Err(Error::new(format!("the receipt of {topology} changes faster than this host can be read"))
        .cure("another lvsprov is at work here: wait for it"))
}

async fn look_once(
    state_dir: &Path,
    topology: &TopologyName,
    asked: &BTreeSet<Sysctl>,
    counters: bool,
    others: Others,
) -> Result<Observation> {
    let receipt = receipt::read(state_dir, topology)?;
    let others = match others {
        Others::Read => others::read(state_dir, topology)?,
        Others::LeftOut => others::Others::default(),
    };
    let open = journal::read(state_dir, topology)?;
    let unfinished =
        open.map(journal::Transaction::into_open_transaction).transpose()?.map(Box::new);
    let reverted = records::reverted(&state_dir.join(topology.as_str()));
    let touched = unfinished.as_ref().map(|there| &there.journal.touched);
    let sysctls = |links: &BTreeMap<IfName, Link>| {
        wanted_sysctls(asked, receipt.as_ref(), touched, links.keys())
    };
    let KernelState { facts, state, counters } = observe::read(sysctls, counters).await?;
    Ok(Observation {
        facts,
        state,
        receipt,
        others: others.receipts,
        unreadable: others.unreadable,
        strays: others.strays,
        unfinished,
        reverted,
        unfinished_elsewhere: others.unfinished,
        counters,
    })
}

/// Looks at a host that was changed: an error of that is part of the outcome.
pub(super) async fn look_again(
    state_dir: &Path,
    topology: &TopologyName,
    sysctls: &BTreeSet<Sysctl>,
    done: usize,
    failure: Option<Failure>,
) -> Execution {
    match look(state_dir, topology, sysctls, false).await {
        Ok(after) => Execution { done, failure, after },
        Err(error) => {
            // What was done stays done: the caller must not take the empty state for the host's.
            let blind = Error::new("the host was changed, but cannot be read again").because(error);
            let failure = failure.or_else(|| Some(blind.to_failure()));
            Execution { done, failure, after: Observation::default() }
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
    if let Some(Receipt { version: _, topology: _, since: _, owned, found }) = receipt {
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
    use crate::state::{Conf6Item, ConfDev, ConfItem, HostState, Module};

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
            steps.into_all().into_iter().map(|Step { change, why: _ }| change).collect();
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
            version: 1,
            topology: "t".parse().unwrap(),
            since: 0,
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
