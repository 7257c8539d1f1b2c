//! What a change of a cluster (a *transaction*) writes on each of its hosts before anything is touched:
//! what will be done there, and what was there before.
//!
//! The journal is what undoing relies on, whoever does it: the controller that began, another one, or the
//! host's own revert timer. It says nothing of how far the steps came: undoing looks at the host and plans
//! the way back from there ([`Goal::undo`]), so a step that was cut off half-way is no special case.
//!
//! A transaction goes through these phases on every host:
//!
//! 1. *begun*: the journal is on the disk, the receipt says what may be changed, the timer (if any) runs;
//! 2. steps are done, stage by stage;
//! 3. *agreed*: every host was reached and all is verified; the timer is disarmed;
//! 4. *settled*: the receipt says what is ours now, and the journal is gone.
//!
//! Nobody settles before all have agreed. So a transaction that is not agreed everywhere can be undone
//! everywhere, and one that is agreed anywhere was right everywhere.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::ownership::{Goal, shadows_of};
use crate::names::IfName;
use crate::state::{
    Address, AddressKey, Change, ConfDev, HostState, Item, Link, Observation, Owned,
    RECEIPT_VERSION, Receipt, Scope, Step, Sysctl, Unfinished,
};

/// What the steps touch, and what moves along when they write `forwarding`, goes with a device that they
/// remove, or is lost for a moment: until the agent puts it back, which may be killed before.
pub fn touched_by<'a>(steps: impl IntoIterator<Item = &'a Step>, seen: &HostState) -> Owned {
    touched_by_changes(steps.into_iter().map(|step| &step.change), seen)
}

/// The same for what they change.
pub fn touched_by_changes<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
    seen: &HostState,
) -> Owned {
    let mut touched = Owned::new();
    for change in changes {
        match change {
            Change::RemoveTunnel { dev, .. } => {
                touched.extend(seen.items().into_iter().filter(|item| stands_on(item, dev, seen)));
            }
            Change::RemoveAddress { key, .. } => touched.extend(lost_with_address(key, seen)),
            Change::SetLink { dev, after: Link::Down, .. } => {
                touched.extend(lost_as_it_goes_down(dev, seen));
            }
            _ => {}
        }
        touched.insert(change.item());
    }
    let written: Vec<_> = touched
        .iter()
        .filter_map(|item| match item {
            Item::Sysctl(key) => Some(key.clone()),
            _ => None,
        })
        .collect();
    for key in written {
        touched.extend(shadows_of(&key, seen).into_keys().map(Item::Sysctl));
    }
    touched
}

/// The other IPv4 addresses of its subnet on its interface: with the first of them the kernel removes the
/// others, unless `promote_secondaries` is set (net/ipv4/devinet.c, `__inet_del_ifa`).
fn lost_with_address<'a>(
    removed: &'a AddressKey,
    seen: &'a HostState,
) -> impl Iterator<Item = Item> + 'a {
    let along = |key: &&AddressKey| {
        key.net.addr().is_ipv4() && key.dev == removed.dev && key.net.trunc() == removed.net.trunc()
    };
    seen.addresses.keys().filter(along).cloned().map(Item::Address)
}

/// The IPv6 addresses of an interface that goes down, unless `keep_addr_on_down` is set
/// (net/ipv6/addrconf.c, `addrconf_ifdown`). Not those that come back by themselves as it comes up: of the
/// link, and what sit0 makes of each IPv4 address (`sit_add_v4_addrs`).
fn lost_as_it_goes_down<'a>(
    dev: &'a IfName,
    seen: &'a HostState,
) -> impl Iterator<Item = Item> + 'a {
    let comes_with_sit0 = |net: &IpNet| match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.prefix_len() == 96 && net.addr().octets().starts_with(&[0; 12]),
    };
    let lost = move |(key, address): &(&AddressKey, &Address)| {
        key.dev == *dev
            && key.net.addr().is_ipv6()
            && address.scope != Scope::Link
            && !comes_with_sit0(&key.net)
    };
    seen.addresses.iter().filter(lost).map(|(key, _)| Item::Address(key.clone()))
}

/// Whether `item` goes away with the device `dev`.
fn stands_on(item: &Item, dev: &IfName, state: &HostState) -> bool {
    match item {
        Item::Link(link) => link == dev,
        Item::Address(key) => key.dev == *dev,
        Item::Route(key) => {
            state.routes.get(key).is_some_and(|route| route.dev.as_ref() == Some(dev))
        }
        Item::Sysctl(Sysctl::Conf(ConfDev::Dev(of), _) | Sysctl::Conf6(ConfDev::Dev(of), _)) => {
            of == dev
        }
        Item::Sysctl(_)
        | Item::Module(_)
        | Item::Service(_)
        | Item::Timeouts
        | Item::Daemon(_)
        | Item::Table(_)
        | Item::Tunnel(_)
        | Item::GuePort(_) => false,
    }
}

impl Unfinished {
    /// What undoing it puts back, and how that was before; `None` if the host was restarted since.
    ///
    /// Nothing of ours survives a restart. So what is there now is neither what the transaction made nor
    /// what it had found, and what was touched is only a part of what belongs together: a VIP that came
    /// back without the ARP settings of an earlier transaction would be answered for in front of the
    /// director. The next `apply` makes all of it.
    pub fn to_put_back(&self) -> Option<(&Owned, &HostState)> {
        (!self.restarted).then_some((&self.journal.touched, &self.journal.before))
    }
}

impl Goal {
    /// The same goal where it takes over what is unfinished on the host: what that touched and this
    /// does not name goes back to how it was before.
    #[must_use]
    pub fn taking_over(mut self, unfinished: &Unfinished, seen: &Observation) -> Self {
        let Some((touched, before)) = unfinished.to_put_back() else { return self };
        // What moves along with a value that is still ours is as that value wants it.
        let along: Owned = self
            .owned
            .iter()
            .filter_map(|item| match item {
                Item::Sysctl(key) => Some(shadows_of(key, &seen.state)),
                _ => None,
            })
            .flat_map(|along| along.into_keys().map(Item::Sysctl))
            .collect();
        for item in touched {
            if !self.owned.contains(item) && !along.contains(item) {
                self.wanted.copy_item(item, before);
                self.owned.insert(item.clone());
            }
        }
        self
    }

    /// The goal of undoing what `unfinished` says: all that was touched is as it was before, and the
    /// receipt too. On a host that was restarted since, only the receipt: see
    /// [`Unfinished::to_put_back`].
    pub fn undo(unfinished: &Unfinished, seen: &Observation) -> Self {
        let Unfinished { journal, receipt_before, .. } = unfinished;
        let receipt = seen.receipt.clone().unwrap_or_else(|| Receipt {
            version: RECEIPT_VERSION,
            topology: journal.topology.clone(),
            since: journal.since,
            owned: Owned::new(),
            found: HostState::default(),
        });
        let wanted = match unfinished.to_put_back() {
            Some((_, before)) => before.clone(),
            None => seen.state.restricted_to(&journal.touched),
        };
        Self {
            wanted,
            owned: journal.touched.clone(),
            receipt,
            settled: receipt_before.clone(),
            left: BTreeSet::new(),
            contested: BTreeMap::new(),
            displaced: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
