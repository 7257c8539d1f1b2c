//! A host as its kernel sees it, as far as a packet is concerned: devices, addresses, routes and settings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::routes::Routes;
use crate::names::{HostName, IfName, NetworkName};
use crate::state::firewall::Firewall;
use crate::state::routing::{PolicyRule, RouteEntry, RouteKind};
use crate::state::{
    Conf6Item, ConfDev, ConfItem, PacketRule, Scope, ServiceKey, Sysctl, VirtualService, VsItem,
};
use crate::topology::ETHERNET_MTU;

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name in the file.
    pub name: HostName,
    /// Its devices.
    pub devices: BTreeMap<IfName, Device>,
    /// Values under /proc/sys. What is missing is as the kernel compiles it in.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// All tables, the local one included.
    pub routes: Routes,
    /// Policy rules, the lowest priority number first.
    pub rules: Vec<PolicyRule>,
    /// Whether there are policy rules of IPv4 beside the kernel's own (`fib4_has_custom_rules`).
    pub custom_rules: bool,
    /// The IPVS table.
    pub services: BTreeMap<ServiceKey, VirtualService>,
    /// The rules of lvsprov's own nftables tables.
    pub packet_rules: Vec<PacketRule>,
    /// UDP ports where GUE packets are unwrapped: whether over IPv6, and the port.
    pub gue_ports: Vec<(bool, u16)>,
    /// nftables rules of other programs.
    pub firewall: Arc<Firewall>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where it leads.
    pub kind: DeviceKind,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<DeviceAddress>,
    /// The largest IP packet that it sends, and that is sure to be taken, in bytes.
    pub mtu: u32,
}

/// The MTU of lo (drivers/net/loopback.c, `gen_lo_setup`).
pub const LOOPBACK_MTU: u32 = 65_536;

/// Where a device leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// lo: what leaves by it comes in again.
    Loopback,
    /// On a network of the file.
    Wire(NetworkName),
    /// It unwraps packets.
    Tunnel(Unwraps),
    /// On none that the file has.
    Elsewhere,
}

/// What a tunnel device unwraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwraps {
    /// How the packet is wrapped.
    pub wrapping: Wrapping,
    /// Family of the packet outside: IPv6?
    pub outside_v6: bool,
    /// Family of the packet inside; `None`: both.
    pub inside_v6: Option<bool>,
    /// The address that wrapped packets must be sent to; `None`: any of the host's.
    pub local: Option<IpAddr>,
}

/// How a packet is wrapped, as the receiver sees it. GUE is taken off before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// IP in IP.
    Bare,
    /// GRE.
    Gre {
        /// With a checksum.
        checksum: bool,
    },
}

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceAddress {
    /// Address and prefix length.
    pub net: IpNet,
    /// Its scope.
    pub scope: Scope,
    /// IPv6: not chosen as a source.
    pub deprecated: bool,
}

impl Machine {
    fn number(&self, key: &Sysctl) -> Option<u32> {
        self.sysctls.get(key)?.trim().parse().ok()
    }

    fn of_all(&self, item: ConfItem) -> u32 {
        self.number(&Sysctl::all(item)).unwrap_or(0)
    }

    fn of_device(&self, dev: &IfName, item: ConfItem) -> u32 {
        self.number(&Sysctl::dev(dev, item)).unwrap_or(0)
    }

    /// Source validation on `dev`: 0 none, 1 strict, 2 loose. The larger of `all` and the device's own
    /// (include/linux/inetdevice.h, `IN_DEV_RPFILTER`).
    pub fn rp_filter(&self, dev: &IfName) -> u32 {
        self.of_all(ConfItem::RpFilter).max(self.of_device(dev, ConfItem::RpFilter))
    }

    /// Whether `all` alone makes source validation what it is.
    pub fn rp_filter_is_of_all(&self, dev: &IfName) -> bool {
        self.of_all(ConfItem::RpFilter) > self.of_device(dev, ConfItem::RpFilter)
    }

    /// Which ARP requests are answered on `dev` (`IN_DEV_ARP_IGNORE`: the larger of both).
    pub fn arp_ignore(&self, dev: &IfName) -> u32 {
        self.of_all(ConfItem::ArpIgnore).max(self.of_device(dev, ConfItem::ArpIgnore))
    }

    /// Which address an ARP request names as its sender (`IN_DEV_ARP_ANNOUNCE`: the larger of both).
    pub fn arp_announce(&self, dev: &IfName) -> u32 {
        self.of_all(ConfItem::ArpAnnounce).max(self.of_device(dev, ConfItem::ArpAnnounce))
    }

    /// Whether packets with an own source are taken on `dev` (`IN_DEV_ACCEPT_LOCAL`: OR).
    pub fn accept_local(&self, dev: &IfName) -> bool {
        self.of_all(ConfItem::AcceptLocal) != 0 || self.of_device(dev, ConfItem::AcceptLocal) != 0
    }

    /// Whether packets that come in on `dev` are forwarded (`IN_DEV_FORWARD`: the device's own, which follows
    /// `ip_forward` when that is written; IPv6: net/ipv6/ip6_output.c, `ip6_forward`, asks `all`).
    pub fn forwards(&self, dev: &IfName, ipv6: bool) -> bool {
        let whole = if ipv6 { Sysctl::Ip6Forward } else { Sysctl::IpForward };
        let whole = self.number(&whole).unwrap_or(0);
        if ipv6 {
            let own = Sysctl::Conf6(ConfDev::Dev(dev.clone()), Conf6Item::Forwarding);
            return whole != 0 || self.number(&own).unwrap_or(0) != 0;
        }
        self.number(&Sysctl::dev(dev, ConfItem::Forwarding)).unwrap_or(whole) != 0
    }

    /// A setting of IPVS that is 0 or 1.
    pub fn ipvs_setting(&self, item: VsItem) -> bool {
        self.sysctls.get(&Sysctl::Vs(item)).map(String::as_str).or(item.default_value())
            == Some("1")
    }

    /// The largest packet that leaves by `route` (include/net/ip.h, `ip_dst_mtu_maybe_forward`).
    pub fn mtu_of(&self, route: &RouteEntry) -> u32 {
        if route.kind == RouteKind::Local {
            return LOOPBACK_MTU;
        }
        let of_device = || route.dev.as_ref().and_then(|dev| self.devices.get(dev));
        route.mtu.or_else(|| of_device().map(|device| device.mtu)).unwrap_or(ETHERNET_MTU)
    }

    /// Whether `address` is one of its own.
    pub fn has(&self, address: IpAddr) -> bool {
        self.routes.has_local(address)
    }

    /// Its devices on `network` that are up.
    pub fn devices_on(&self, network: &NetworkName) -> impl Iterator<Item = &IfName> {
        let is_there = move |device: &Device| {
            device.up && matches!(&device.kind, DeviceKind::Wire(its) if its == network)
        };
        self.devices.iter().filter(move |(_, device)| is_there(device)).map(|(dev, _)| dev)
    }
}

impl Device {
    /// Its addresses of a family.
    pub fn of_family(&self, ipv6: bool) -> impl Iterator<Item = &DeviceAddress> {
        self.addresses.iter().filter(move |own| own.net.addr().is_ipv6() == ipv6)
    }
}
