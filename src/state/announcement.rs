//! Addresses that a host announces once it has them, so that neighbours forget the machine that had them before.
//!
//! A neighbour keeps the hardware address of a VIP for minutes, and goes on sending to it: after a VIP moved, to the wrong
//! machine. An announcement corrects its entry at once: for IPv4 an ARP request for the sender's own address
//! (RFC 5227, 3; keepalived and VRRP do the same), for IPv6 an unsolicited neighbour advertisement (RFC 4861, 7.2.6).
//!
//! A real server must never do it: it would take the clients from the director. So an address on a device without
//! neighbours is never announced ([`is_silent`]).

use std::collections::BTreeSet;
use std::time::Duration;

use super::silent::is_silent;
use super::{Address, AddressKey, Edit};

/// How often an address is announced: a frame can get lost. RFC 5227 asks for 2 (ANNOUNCE_NUM), RFC 4861 for 3 at most
/// (MAX_NEIGHBOR_ADVERTISEMENT).
pub const ANNOUNCEMENTS: u32 = 3;

/// Between two announcements: RFC 4861 asks for RetransTimer at least. A neighbour that changed its entry within
/// the last second may ignore the first (`locktime`, arp(7)).
pub const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);

/// Whether a host that gets this address announces it.
pub fn is_announced(key: &AddressKey) -> bool {
    !is_silent(&key.dev)
}

/// The addresses to announce once `edits` were applied in this order: those that were added and not removed again.
pub fn announced_by<'a>(edits: impl IntoIterator<Item = &'a Edit>) -> BTreeSet<AddressKey> {
    let mut announced = BTreeSet::new();
    for edit in edits {
        if let Some((key, _)) = edit.added::<Address>().filter(|(key, _)| is_announced(key)) {
            announced.insert(key.clone());
        } else if let Some((key, _)) = edit.removed::<Address>() {
            announced.remove(key);
        }
    }
    announced
}

/// How a host announces this address, for the reason of the step that adds it; `None`: it does not.
pub fn describe(edit: &Edit) -> Option<String> {
    let (AddressKey { dev, net }, _) =
        edit.added::<Address>().filter(|(key, _)| is_announced(key))?;
    let how = if net.addr().is_ipv4() { "gratuitous ARP" } else { "neighbour advertisements" };
    Some(format!("announced on {dev} by {how}: a neighbour may remember another machine for it"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{ConfItem, Scope, Sysctl};

    fn key(text: &str) -> AddressKey {
        text.parse().unwrap()
    }

    fn add(text: &str) -> Edit {
        Edit::add::<Address>(key(text), Address::plain(Scope::Global))
    }

    fn remove(text: &str) -> Edit {
        Edit::remove::<Address>(key(text), Address::plain(Scope::Global))
    }

    #[test]
    fn an_address_that_is_added_where_neighbours_ask_is_announced() {
        let arp = Sysctl::all(ConfItem::ArpIgnore);
        let edits = [
            Edit::change::<Sysctl>(arp, "0".to_owned(), "1".to_owned()),
            remove("192.0.2.9/32@eth0"),
            add("192.0.2.80/32@eth0"),
            add("192.0.2.81/24@bond0.7"),
            add("2001:db8::80/128@eth0"),
        ];
        let expected = ["192.0.2.80/32@eth0", "192.0.2.81/24@bond0.7", "2001:db8::80/128@eth0"];
        assert_eq!(announced_by(&edits), expected.map(key).into());
    }

    #[test]
    fn an_address_without_neighbours_is_never_announced() {
        for dev in ["lo", "tunl0", "dummy0", "sit0", "ip6tnl0", "gre1", "lvsgre1", "lvstnl1"] {
            for net in ["192.0.2.80/32", "2001:db8::80/128"] {
                let edit = add(&format!("{net}@{dev}"));
                assert_eq!(announced_by([&edit]), BTreeSet::new(), "{edit}");
                assert_eq!(describe(&edit), None, "{edit}");
            }
        }
    }

    #[test]
    fn an_address_that_goes_again_is_not_announced() {
        let edits = [add("192.0.2.80/32@eth0"), remove("192.0.2.80/32@eth0")];
        assert_eq!(announced_by(&edits), BTreeSet::new());
        let back = [&edits[1], &edits[0]];
        assert_eq!(announced_by(back), [key("192.0.2.80/32@eth0")].into());
    }
}
