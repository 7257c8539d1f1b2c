//! Who answers when a host asks on a network who has an address.
//!
//! IPv4: an ARP request is routed like a packet, source validation included, and answered where that ends
//! here and `arp_ignore` lets it (net/ipv4/arp.c, `arp_process`, `arp_ignore`). IPv6: a solicitation is
//! answered for an address of the very device (net/ipv6/ndisc.c, `ndisc_recv_ns`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::World;
use super::death::{Cause, Death};
use super::input::{Addresses, Input, NotTaken};
use super::machine::Machine;
use crate::names::{HostName, IfName, NetworkName};
use crate::state::Scope;
use crate::state::routing::RouteEntry;

impl World {
    /// The hosts that answer on `network` for `target`, each with its device.
    pub fn answers<'a>(
        &'a self,
        network: &NetworkName,
        asker: (&HostName, Option<IpAddr>),
        target: IpAddr,
    ) -> Vec<(&'a Machine, &'a IfName)> {
        let (name, source) = asker;
        let mut hosts: Vec<&HostName> = self.holders(target).filter(|host| *host != name).collect();
        hosts.dedup();
        hosts
            .into_iter()
            .filter_map(|host| self.machines.get(host))
            .flat_map(|machine| machine.devices_on(network).map(move |dev| (machine, dev)))
            .filter(|(machine, dev)| machine.answers_for(dev, source, target))
            .collect()
    }

    /// A host on `network` that has `target` and does not answer for it, and why.
    pub fn silent_holder(
        &self,
        network: &NetworkName,
        asker: &HostName,
        source: Option<IpAddr>,
        target: IpAddr,
    ) -> Option<Death> {
        let source = source?;
        self.holders(target).filter(|host| *host != asker).find_map(|host| {
            let machine = self.machines.get(host)?;
            let dev = machine.devices_on(network).next()?;
            let asks = Addresses { source, target, mark: 0 };
            let arp_ignore = if target.is_ipv4() { machine.arp_ignore(dev) } else { 0 };
            let cause = match machine.input(dev, asks) {
                Err(NotTaken::Dies(cause)) if target.is_ipv4() => cause,
                _ => Cause::Silent { dev: dev.clone(), target, arp_ignore },
            };
            Some(Death { host: host.clone(), cause })
        })
    }
}

impl World {
    /// A host on `network` that has `target`, and of which it is not known whether it answers for it.
    pub fn unclear_holder(
        &self,
        network: &NetworkName,
        asker: &HostName,
        source: Option<IpAddr>,
        target: IpAddr,
    ) -> Option<&HostName> {
        let asks = Addresses { source: source?, target, mark: 0 };
        self.holders(target).filter(|host| *host != asker).find(|host| {
            let machine = self.machines.get(*host);
            machine.is_some_and(|machine| {
                let mut devices = machine.devices_on(network);
                devices.any(|dev| matches!(machine.input(dev, asks), Err(NotTaken::Unclear)))
            })
        })
    }
}

impl Machine {
    /// Whether it answers a request on `dev` for `target` that names `source` as its sender.
    pub fn answers_for(&self, dev: &IfName, source: Option<IpAddr>, target: IpAddr) -> bool {
        let Some(device) = self.devices.get(dev).filter(|device| device.up) else { return false };
        let on_device = |most: Scope| {
            device
                .addresses
                .iter()
                .any(|own| own.net.addr() == target && own.scope.number() <= most.number())
        };
        if target.is_ipv6() {
            return on_device(Scope::Nowhere);
        }
        let source = source.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let asks = Addresses { source, target, mark: 0 };
        let is_local = source.is_unspecified() && self.has(target)
            || matches!(self.input(dev, asks), Ok(Input::Local));
        is_local
            && match self.arp_ignore(dev) {
                1 => on_device(Scope::Host),
                // A subnet of the device has both (net/ipv4/devinet.c, `confirm_addr_indev`).
                2 => {
                    let has_both = |net: &IpNet| net.contains(&target) && net.contains(&source);
                    on_device(Scope::Host) && device.addresses.iter().any(|own| has_both(&own.net))
                }
                3 => self.devices.values().flat_map(|device| &device.addresses).any(|own| {
                    own.net.addr() == target && own.scope.number() <= Scope::Link.number()
                }),
                8 => false,
                _ => true,
            }
    }

    /// The sender that its request for `target` names, before it sends a packet from `source` (net/ipv4/arp.c,
    /// `arp_solicit`).
    pub fn asks_as(&self, route: &RouteEntry, source: IpAddr, target: IpAddr) -> Option<IpAddr> {
        let dev = route.dev.as_ref()?;
        if target.is_ipv6() {
            // Else the device's link-local address, of which the file says nothing (net/ipv6/ndisc.c, `ndisc_solicit`).
            let own = self.devices.get(dev)?.addresses.iter();
            return own.map(|own| own.net.addr()).find(|own| *own == source);
        }
        let fits = || {
            self.devices.get(dev).is_some_and(|device| {
                device
                    .addresses
                    .iter()
                    .any(|own| own.net.contains(&target) && own.net.contains(&source))
            })
        };
        let names_source = self.has(source)
            && match self.arp_announce(dev) {
                1 => fits(),
                2 => false,
                // The kernel takes 3 and more as 0.
                _ => true,
            };
        if names_source {
            return Some(source);
        }
        let plain = RouteEntry { source: None, gateway: None, ..route.clone() };
        self.source_for(&plain, target)
    }
}
