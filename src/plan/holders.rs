//! Whether another machine has an address that a host is about to get: which addresses to ask for, and what the answers
//! mean.
//!
//! A host asks before it gets an address, never while it has it. An answer from a host of the file is no obstacle where
//! that host gives the address up in the same change, or answers only until its ARP settings are made. Two kinds of
//! answers prove nothing: the asking host's own (another interface on the same segment, ARP flux), and those of a proxy,
//! which answers for every address. A proxy shows itself by answering for an address that no machine has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::preflight::Obstacle;
use crate::names::{HostName, IfName};
use crate::state::announcement::is_announced;
use crate::state::{AddressKey, HostState, Link};
use crate::topology::model::host_prefix;

/// An address for benchmarks between isolated networks (RFC 2544), which no machine on a segment has.
const UNUSED: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 251);
/// An interface identifier that no machine has: 64 bits that nothing assigns.
const UNUSED_IDENTIFIER: [u16; 4] = [0x6c76, 0x7370, 0x726f, 0x7600];

/// Those of `added` that a host in the state `seen` can ask for: where it has neighbours, on an interface that is up and
/// does not have the address.
pub fn to_ask<'a>(
    added: impl IntoIterator<Item = &'a AddressKey>,
    seen: &HostState,
) -> BTreeSet<AddressKey> {
    let has = |key: &AddressKey| {
        seen.addresses.keys().any(|own| own.dev == key.dev && own.net.addr() == key.net.addr())
    };
    let is_up = |key: &AddressKey| seen.links.get(&key.dev) == Some(&Link::Up);
    let asked = added.into_iter().filter(|key| is_announced(key) && is_up(key) && !has(key));
    asked.cloned().collect()
}

/// Addresses on the interface of `key` that no machine has. The host that asks for them is in the state `seen`.
pub fn controls(key: &AddressKey, seen: &HostState) -> BTreeSet<AddressKey> {
    let addresses: Vec<IpAddr> = match key.net.addr() {
        IpAddr::V4(_) => {
            let on_dev = seen.addresses.keys().filter(|own| own.dev == key.dev);
            let subnets = on_dev.map(|own| own.net.trunc());
            // A subnet's first address names the subnet (RFC 1122, 3.2.1.3), but for /31 and /32.
            let first = subnets
                .filter(|net| matches!(net, IpNet::V4(net) if net.prefix_len() < 31))
                .filter(|net| net.contains(&key.net.addr()))
                .map(|net| net.addr());
            first.chain([UNUSED.into()]).collect()
        }
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].copy_from_slice(&UNUSED_IDENTIFIER);
            vec![Ipv6Addr::from(segments).into()]
        }
    };
    let others = addresses.into_iter().filter(|address| *address != key.net.addr());
    others
        .filter_map(|address| IpNet::new(address, host_prefix(address)).ok())
        .map(|net| AddressKey { dev: key.dev.clone(), net })
        .collect()
}

/// The hardware addresses among `macs` that are another machine's, for a host that knows no other host of the file: neither
/// one of its own (`hardware`) nor a proxy's, which answers for [`controls`] too.
pub fn strangers(
    macs: &BTreeSet<String>,
    hardware: &BTreeMap<IfName, String>,
    proxies: &BTreeSet<String>,
) -> BTreeSet<String> {
    let is_own = |mac: &String| hardware.values().any(|own| own == mac);
    macs.difference(proxies).filter(|mac| !is_own(mac)).cloned().collect()
}

/// A host of the file that was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHost {
    /// Its hardware addresses.
    pub hardware: BTreeSet<String>,
    /// The addresses that it has after the change on interfaces with neighbours.
    pub keeps: BTreeMap<IpAddr, AddressKey>,
}

impl SegmentHost {
    /// A host with these hardware addresses that is in the state `after` once the change is made.
    pub fn new(hardware: impl IntoIterator<Item = String>, after: &HostState) -> Self {
        let kept = after.addresses.keys().filter(|key| is_announced(key));
        Self {
            hardware: hardware.into_iter().collect(),
            keeps: kept.map(|key| (key.net.addr(), key.clone())).collect(),
        }
    }
}

/// The hosts of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentHosts {
    /// Those that were observed.
    pub observed: BTreeMap<HostName, SegmentHost>,
    /// The others: their hardware addresses are unknown.
    pub unknown: BTreeSet<HostName>,
}

impl SegmentHosts {
    /// The host that has this hardware address.
    pub fn owner(&self, mac: &str) -> Option<(&HostName, &SegmentHost)> {
        self.observed.iter().find(|(_, host)| host.hardware.contains(mac))
    }
}

/// The answers for one address.
#[derive(Debug, Clone, Copy)]
pub struct HolderAnswers<'a> {
    /// The address, and the interface on which the host asked.
    pub key: &'a AddressKey,
    /// The hardware addresses that answered.
    pub macs: &'a BTreeSet<String>,
    /// The hardware addresses that answered for [`controls`].
    pub proxies: &'a BTreeSet<String>,
}

impl HolderAnswers<'_> {
    /// What keeps `asker` from getting the address.
    pub fn obstacles(&self, asker: &HostName, hosts: &SegmentHosts) -> Vec<Obstacle> {
        let trusted = self.macs.difference(self.proxies);
        trusted.filter_map(|mac| self.obstacle(mac, asker, hosts)).collect()
    }

    fn obstacle(&self, mac: &str, asker: &HostName, hosts: &SegmentHosts) -> Option<Obstacle> {
        let AddressKey { dev, net } = self.key;
        let address = net.addr();
        let Some((name, host)) = hosts.owner(mac) else {
            return Some(Obstacle {
                message: format!("another machine has {address}: {mac} answers for it on {dev}"),
                why: format!(
                    "{}: with two machines that answer for the VIP, clients reach either",
                    unknown_owner(hosts)
                ),
                cure: "take the address away from that machine, or choose another VIP; \
                       `--no-vip-probe` goes on without asking"
                    .to_owned(),
            });
        };
        let kept = host.keeps.get(&address).filter(|_| name != asker)?;
        Some(Obstacle {
            message: format!("{name} has {address} too: {mac} answers for it on {dev}"),
            why: format!(
                "no step of this plan removes {kept} there: with two hosts that answer for the VIP, \
                 clients reach either"
            ),
            cure: format!(
                "remove it on {name}: `ip address del {} dev {}`, and in its network configuration",
                kept.net, kept.dev
            ),
        })
    }

    /// A caution where the answers prove nothing.
    pub fn caution(&self) -> Option<String> {
        let AddressKey { dev, net } = self.key;
        let proxies: Vec<&str> = self.macs.intersection(self.proxies).map(String::as_str).collect();
        (!proxies.is_empty()).then(|| {
            format!(
                "whether another machine has {} is unknown: {} answers on {dev} for addresses that no \
                 machine has (proxy ARP)",
                net.addr(),
                proxies.join(", ")
            )
        })
    }
}

/// What is known of a hardware address that no observed host has.
fn unknown_owner(hosts: &SegmentHosts) -> String {
    if hosts.unknown.is_empty() {
        return "no host of the file has this hardware address".to_owned();
    }
    let unknown: Vec<&str> = hosts.unknown.iter().map(HostName::as_str).collect();
    format!(
        "no host that was observed has this hardware address (not observed: {})",
        unknown.join(", ")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{Address, Scope};

    const VIP: &str = "192.0.2.80/32@eth0";
    const STRANGER: &str = "02:00:00:00:00:99";

    fn key(text: &str) -> AddressKey {
        text.parse().unwrap()
    }

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn state(addresses: &[&str]) -> HostState {
        let plain = |text: &&str| (key(text), Address::plain(Scope::Global));
        HostState {
            links: [("eth0".parse().unwrap(), Link::Up), ("eth1".parse().unwrap(), Link::Down)]
                .into(),
            addresses: addresses.iter().map(plain).collect(),
            ..HostState::default()
        }
    }

    fn keys(texts: &[&str]) -> BTreeSet<AddressKey> {
        texts.iter().map(|text| key(text)).collect()
    }

    #[test]
    fn a_host_alone_trusts_neither_its_own_interfaces_nor_a_proxy() {
        let macs = |all: &[&str]| all.iter().map(|mac| (*mac).to_owned()).collect::<BTreeSet<_>>();
        let own = [("eth1".parse().unwrap(), "02:00:00:00:00:01".to_owned())].into();
        let all = macs(&["02:00:00:00:00:01", "02:00:00:00:00:02", STRANGER]);
        let proxies = macs(&["02:00:00:00:00:02"]);
        assert_eq!(strangers(&all, &own, &proxies), macs(&[STRANGER]));
        assert_eq!(strangers(&BTreeSet::new(), &own, &proxies), BTreeSet::new());
    }

    #[test]
    fn a_host_asks_for_what_it_adds_on_an_interface_that_is_up() {
        let added = keys(&[VIP, "192.0.2.81/32@lo", "192.0.2.82/32@eth1", "2001:db8::80/128@eth0"]);
        assert_eq!(to_ask(&added, &state(&[])), keys(&[VIP, "2001:db8::80/128@eth0"]));
        // It has the address already, with another prefix length: it would ask itself.
        let has = state(&["192.0.2.80/24@eth0", "2001:db8::80/64@eth0"]);
        assert_eq!(to_ask(&added, &has), keys(&[]));
        // On lo no neighbour gets an answer from it.
        assert_eq!(to_ask(&keys(&[VIP]), &state(&["192.0.2.80/32@lo"])), keys(&[VIP]));
    }

    #[test]
    fn a_control_is_an_address_that_no_machine_has() {
        let seen = state(&["192.0.2.1/24@eth0", "10.0.0.1/8@eth0", "192.0.2.9/32@eth0"]);
        assert_eq!(
            controls(&key(VIP), &seen),
            keys(&["192.0.2.0/32@eth0", "198.19.255.251/32@eth0"])
        );
        assert_eq!(controls(&key(VIP), &state(&[])), keys(&["198.19.255.251/32@eth0"]));
        assert_eq!(
            controls(&key("2001:db8:0:7::80/64@eth0"), &seen),
            keys(&["2001:db8:0:7:6c76:7370:726f:7600/128@eth0"])
        );
        // A VIP that is such an address is no control of itself.
        assert_eq!(controls(&key("192.0.2.0/32@eth0"), &seen), keys(&["198.19.255.251/32@eth0"]));
    }

    /// What the hosts of a file say to an answer for the VIP by `mac`, where lvs1 is to get it.
    fn obstacles(mac: &str, lvs2_keeps: &[&str]) -> Vec<String> {
        let host = |mac: &str, keeps: &[&str]| SegmentHost::new([mac.to_owned()], &state(keeps));
        let hosts = SegmentHosts {
            observed: [
                (name("lvs1"), host("02:00:00:00:00:01", &[VIP])),
                (name("lvs2"), host("02:00:00:00:00:02", lvs2_keeps)),
            ]
            .into(),
            unknown: [name("router")].into(),
        };
        let (macs, proxies) = ([mac.to_owned()].into(), BTreeSet::new());
        let key = key(VIP);
        let answers = HolderAnswers { key: &key, macs: &macs, proxies: &proxies };
        assert_eq!(answers.caution(), None);
        let all = answers.obstacles(&name("lvs1"), &hosts);
        all.into_iter().map(|obstacle| obstacle.to_string()).collect()
    }

    #[test]
    fn a_machine_that_is_not_in_the_file_is_an_obstacle() {
        let found = obstacles(STRANGER, &[]).remove(0);
        for part in ["192.0.2.80", STRANGER, "eth0", "not observed: router", "--no-vip-probe"] {
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn a_host_of_the_file_is_one_only_where_it_keeps_the_address() {
        assert_eq!(obstacles("02:00:00:00:00:01", &[]), [""; 0], "its own other interface");
        assert_eq!(obstacles("02:00:00:00:00:02", &[]), [""; 0], "it gives the address up");
        assert_eq!(obstacles("02:00:00:00:00:02", &["192.0.2.80/32@lo"]), [""; 0]);
        let kept = obstacles("02:00:00:00:00:02", &["192.0.2.80/24@eth1"]).remove(0);
        assert!(kept.starts_with("lvs2 has 192.0.2.80 too"), "{kept}");
        assert!(kept.contains("`ip address del 192.0.2.80/24 dev eth1`"), "{kept}");
    }

    #[test]
    fn the_answer_of_a_proxy_proves_nothing() {
        let macs: BTreeSet<String> = [STRANGER.to_owned()].into();
        let key = key(VIP);
        let answers = HolderAnswers { key: &key, macs: &macs, proxies: &macs };
        assert_eq!(answers.obstacles(&name("lvs1"), &SegmentHosts::default()), []);
        let caution = answers.caution().unwrap();
        assert!(caution.contains(STRANGER) && caution.contains("proxy ARP"), "{caution}");
    }
}
