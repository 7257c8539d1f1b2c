//! Announces addresses of this host to its neighbours: sends what [`crate::state::announcement`] decides.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde::{Deserialize, Serialize};

use super::arp::{self, Mac};
use super::error::{Error, Result};
use super::{ndp, sysctls};
use crate::names::IfName;
use crate::state::announcement::{ANNOUNCEMENT_INTERVAL, ANNOUNCEMENTS};
use crate::state::{AddressKey, Conf6Item, ConfDev, Sysctl};

/// How long an IPv6 address may take until it can be used, where no duplicates are looked for: the kernel marks it
/// in a work queue (net/ipv6/addrconf.c, `addrconf_dad_start`).
const USABLE_WITHIN: Duration = Duration::from_millis(100);
/// Rounds in which an address is announced [`ANNOUNCEMENTS`] times; the first ones miss where duplicates are looked for.
const ROUNDS: u32 = ANNOUNCEMENTS + 2;

/// The announcements that are left to send, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PendingAnnouncements(BTreeMap<AddressKey, u32>);

impl PendingAnnouncements {
    /// Sends the first announcement of each address. What is left to send, and what failed.
    pub fn begin(addresses: &BTreeSet<AddressKey>) -> (Self, Vec<Error>) {
        let mut pending = Self(addresses.iter().map(|key| (key.clone(), ANNOUNCEMENTS)).collect());
        let failed = pending.send();
        (pending, failed)
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends what is left, with a pause before each round. An address that has gone meanwhile is not announced any more:
    /// another host may have it.
    pub fn finish(mut self) {
        for _ in 1..ROUNDS {
            if self.is_empty() {
                return;
            }
            thread::sleep(ANNOUNCEMENT_INTERVAL);
            // There is no report any more that could name a failure.
            let _ = self.send();
        }
    }

    /// One round. Returns what failed, which is not tried again.
    fn send(&mut self) -> Vec<Error> {
        let interfaces = match interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                self.0.clear();
                return vec![error];
            }
        };
        let mut failed = Vec::new();
        let devs: BTreeSet<IfName> = self.0.keys().map(|key| key.dev.clone()).collect();
        for dev in devs {
            let interface = interfaces.get(dev.as_str());
            let has = |key: &AddressKey| {
                interface.is_some_and(|it| it.addresses.contains(&key.net.addr()))
            };
            let gone = self.0.extract_if(.., |key, _| key.dev == dev && !has(key));
            let gone: Vec<String> = gone.map(|(key, _)| key.net.addr().to_string()).collect();
            if !gone.is_empty() {
                failed.push(not_announced(&gone, &dev).because("the interface does not have it"));
            }
            if let Some(Err(error)) = interface.map(|interface| self.send_on(&dev, interface)) {
                self.0.retain(|key, _| key.dev != dev);
                failed.push(error);
            }
        }
        self.0.retain(|_, left| *left > 0);
        failed
    }

    fn send_on(&mut self, dev: &IfName, interface: &OwnInterface) -> Result<()> {
        let of_dev: Vec<(IpAddr, &mut u32)> = self
            .0
            .iter_mut()
            .filter(|(key, _)| key.dev == *dev)
            .map(|(key, left)| (key.net.addr(), left))
            .collect();
        let Some(mac) = interface.mac.filter(|_| interface.has_neighbours()) else {
            for (_, left) in of_dev {
                *left = 0;
            }
            return Ok(());
        };
        let all: Vec<String> = of_dev.iter().map(|(address, _)| address.to_string()).collect();
        let failed = || not_announced(&all, dev);
        if of_dev.is_empty() {
            return Ok(());
        }
        if !interface.flags.contains(InterfaceFlags::IFF_UP) {
            return Err(failed().because("the interface is down"));
        }
        let v4: Vec<Ipv4Addr> = of_dev
            .iter()
            .filter_map(|(address, _)| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect();
        if !v4.is_empty() {
            arp::announce(dev, mac, v4).map_err(|error| failed().because(error))?;
        }
        let deadline = Instant::now() + USABLE_WITHIN;
        for (address, left) in of_dev {
            let sent = match address {
                IpAddr::V4(_) => true,
                IpAddr::V6(address) => {
                    let router = forwards(dev);
                    let send = || ndp::announce(dev, mac, router, address);
                    once_usable(send, deadline)
                        .map_err(|errno| failed().because(io::Error::from(errno)))?
                }
            };
            if sent {
                *left -= 1;
            }
        }
        Ok(())
    }
}

fn not_announced(addresses: &[String], dev: &IfName) -> Error {
    Error::new(format!("{} not announced on {dev}", addresses.join(", ")))
}

/// Tries until the address can be used; `false`: it cannot before the deadline.
fn once_usable(send: impl Fn() -> nix::Result<()>, deadline: Instant) -> nix::Result<bool> {
    loop {
        match send() {
            Ok(()) => return Ok(true),
            Err(Errno::EINVAL) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::EINVAL) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether the interface is one of a router, as its advertisements say (net/ipv6/ndisc.c, `ndisc_send_unsol_na`).
fn forwards(dev: &IfName) -> bool {
    let key = Sysctl::Conf6(ConfDev::Dev(dev.clone()), Conf6Item::Forwarding);
    matches!(sysctls::read(&key), Ok(Some(value)) if value != "0")
}

/// An interface of this host.
struct OwnInterface {
    flags: InterfaceFlags,
    mac: Option<Mac>,
    addresses: BTreeSet<IpAddr>,
}

impl OwnInterface {
    /// Whether hosts on its link learn hardware addresses.
    fn has_neighbours(&self) -> bool {
        !self.flags.intersects(InterfaceFlags::IFF_NOARP | InterfaceFlags::IFF_LOOPBACK)
    }
}

fn interfaces() -> Result<BTreeMap<String, OwnInterface>> {
    let all = getifaddrs().map_err(|errno| {
        Error::new("cannot read the interfaces, so that nothing is announced")
            .because(io::Error::from(errno))
    })?;
    let (mut interfaces, mut addresses) = (BTreeMap::new(), Vec::new());
    for entry in all {
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            let mac = link.addr().filter(|mac| link.halen() == 6 && *mac != [0; 6]).map(Mac);
            let interface = OwnInterface { flags: entry.flags, mac, addresses: BTreeSet::new() };
            interfaces.insert(entry.interface_name, interface);
        } else if let Some(v4) = address.as_sockaddr_in() {
            addresses.push((entry.interface_name, IpAddr::V4(v4.ip())));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push((entry.interface_name, IpAddr::V6(v6.ip())));
        }
    }
    for (name, address) in addresses {
        let dev = device_of(&name, interfaces.keys()).map(str::to_owned);
        if let Some(interface) = dev.and_then(|dev| interfaces.get_mut(&dev)) {
            interface.addresses.insert(address);
        }
    }
    Ok(interfaces)
}

/// The interface of an address: getifaddrs(3) names an IPv4 address by its label (`eth0:0`), which begins with the name of
/// its interface.
fn device_of<'n>(label: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n str> {
    let fitting = names.filter(|name| label.starts_with(name.as_str()));
    fitting.max_by_key(|name| name.len()).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_belongs_to_the_interface_whose_name_it_begins_with() {
        let names = ["eth1", "eth10", "lo"].map(str::to_owned);
        let device = |label| device_of(label, names.iter());
        assert_eq!(device("eth1"), Some("eth1"));
        assert_eq!(device("eth1:0"), Some("eth1"));
        assert_eq!(device("eth10"), Some("eth10"));
        assert_eq!(device("eth10:web"), Some("eth10"));
        assert_eq!(device("wlan0"), None);
    }
}
