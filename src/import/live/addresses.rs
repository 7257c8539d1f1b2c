//! The addresses of observed hosts that belong into the topology, and their networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::draft::DraftInterface;
use super::super::remark::{Remark, RemarkKind};
use super::ObservedHost;
use crate::names::{HostName, IfName, NameError, NetworkName};
use crate::state::silent::is_silent;

/// A host's own address.
struct HostAddress {
    host: HostName,
    dev: IfName,
    net: IpNet,
}

/// The own addresses and VIPs of all hosts.
pub(super) struct AddressMap {
    own: Vec<HostAddress>,
    /// VIPs on directors, with interface and prefix length.
    vips: BTreeMap<(HostName, IpAddr), (IfName, Option<u8>)>,
    /// Hosts with a VIP on lo or a tunnel device.
    silent_vips: BTreeSet<HostName>,
    /// RIPs of hosts that were not observed.
    unobserved: BTreeSet<IpAddr>,
}

/// lo, tunnel and dummy devices.
fn is_virtual_device(dev: &IfName) -> bool {
    let of_layer_2 = |kind: &str| {
        let rest = dev.as_str().strip_prefix(kind);
        rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    };
    is_silent(dev) || of_layer_2("gretap") || of_layer_2("erspan")
}

fn is_loopback_or_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

impl AddressMap {
    pub fn of(
        observed: &[ObservedHost],
        vips: &BTreeSet<IpAddr>,
        rips: &BTreeMap<IpAddr, HostName>,
        remarks: &mut Vec<Remark>,
    ) -> Self {
        let mut addresses = Self {
            own: Vec::new(),
            vips: BTreeMap::new(),
            silent_vips: BTreeSet::new(),
            unobserved: BTreeSet::new(),
        };
        for host in observed {
            addresses.add(host, vips, remarks);
        }
        let is_observed = |name: &HostName| observed.iter().any(|host| host.name == *name);
        addresses.unobserved =
            rips.iter().filter(|(_, name)| !is_observed(name)).map(|(rip, _)| *rip).collect();
        addresses.drop_isolated(observed, vips, remarks);
        addresses
    }

    fn add(&mut self, host: &ObservedHost, vips: &BTreeSet<IpAddr>, remarks: &mut Vec<Remark>) {
        let state = &host.observation.state;
        for key in state.addresses.keys() {
            let (dev, net) = (&key.dev, key.net);
            let host_wide = net.prefix_len() == net.max_prefix_len();
            if vips.contains(&net.addr()) {
                let alone = !state.addresses.keys().any(|other| {
                    other.dev == *dev
                        && !vips.contains(&other.net.addr())
                        && !is_loopback_or_link_local(other.net.addr())
                        && other.net.addr().is_ipv4() == net.addr().is_ipv4()
                });
                let serves_it = state.services.keys().any(|service| match service {
                    crate::state::ServiceKey::Address(_, vip) => vip.ip() == net.addr(),
                    crate::state::ServiceKey::Fwmark { .. } => false,
                });
                if serves_it {
                    let bits = Some(net.prefix_len()).filter(|_| !host_wide && !alone);
                    self.vips.insert((host.name.clone(), net.addr()), (dev.clone(), bits));
                    // The interface's only address: it is the host's own, as under NAT.
                    if alone && !host_wide && !is_virtual_device(dev) {
                        self.own.push(HostAddress {
                            host: host.name.clone(),
                            dev: dev.clone(),
                            net,
                        });
                    }
                } else if is_virtual_device(dev) {
                    self.silent_vips.insert(host.name.clone());
                } else {
                    let mut remark = Remark::general(
                        RemarkKind::NotExpressible,
                        format!("{net} on {dev}"),
                        "it is a VIP, and this host answers ARP for it as well as the director; remove it from this interface",
                    );
                    remark.host = Some(host.name.to_string());
                    remarks.push(remark);
                }
                continue;
            }
            if !is_virtual_device(dev) && !is_loopback_or_link_local(net.addr()) {
                self.own.push(HostAddress { host: host.name.clone(), dev: dev.clone(), net });
            }
        }
    }

    /// Removes addresses without a peer in the import, such as those of container bridges.
    fn drop_isolated(
        &mut self,
        observed: &[ObservedHost],
        vips: &BTreeSet<IpAddr>,
        remarks: &mut Vec<Remark>,
    ) {
        let gateways: BTreeSet<IpAddr> = observed
            .iter()
            .flat_map(|host| {
                host.observation.state.routes.values().filter_map(|route| route.gateway)
            })
            .collect();
        let leads = |entry: &HostAddress| {
            let near = |address: &IpAddr| entry.net.contains(address);
            let to_host = self.own.iter().any(|other| {
                other.host != entry.host
                    && near(&other.net.addr())
                    && other.net.addr() != entry.net.addr()
            });
            let wanted = vips.iter().chain(&gateways).chain(&self.unobserved);
            to_host || wanted.into_iter().any(near)
        };
        let keep: Vec<bool> = self.own.iter().map(leads).collect();
        let mut kept = Vec::new();
        let mut known = BTreeSet::new();
        for (entry, leads) in std::mem::take(&mut self.own).into_iter().zip(keep) {
            if leads && known.insert(entry.net.addr()) {
                kept.push(entry);
                continue;
            }
            let why = if leads {
                "another host has the same address"
            } else {
                "no other host of this import, no VIP and no gateway is in its subnet"
            };
            let what = format!("{} on {}", entry.net, entry.dev);
            let mut remark = Remark::general(RemarkKind::NotExpressible, what, why);
            remark.host = Some(entry.host.to_string());
            remarks.push(remark);
        }
        self.own = kept;
    }

    /// Networks: subnets of one interface, and subnets that overlap, are on one network.
    pub fn networks(&self) -> Result<BTreeMap<NetworkName, BTreeSet<IpNet>>, NameError> {
        let mut segments: Vec<Segment> = Vec::new();
        let own =
            self.own.iter().map(|entry| (Some((entry.host.clone(), entry.dev.clone())), entry.net));
        let unobserved = self.unobserved.iter().map(|rip| (None, self.guessed_net(*rip)));
        for (plug, net) in own.chain(unobserved) {
            let net = net.trunc();
            let (joined, apart): (Vec<_>, Vec<_>) =
                std::mem::take(&mut segments).into_iter().partition(|(plugs, nets)| {
                    plug.as_ref().is_some_and(|plug| plugs.contains(plug))
                        || nets.iter().any(|other| other.contains(&net) || net.contains(other))
                });
            segments = apart;
            let mut plugs: BTreeSet<_> = plug.into_iter().collect();
            let mut nets = BTreeSet::from([net]);
            for (more_plugs, more_nets) in joined {
                plugs.extend(more_plugs);
                nets.extend(more_nets);
            }
            segments.push((plugs, nets));
        }
        segments.sort_by(|(_, a), (_, b)| a.cmp(b));
        let mut networks = BTreeMap::new();
        let only = segments.len() == 1;
        for (number, (_, nets)) in (1..).zip(segments) {
            let name = if only { "lan".to_owned() } else { format!("net{number}") };
            // The widest of overlapping subnets.
            let widest =
                |net: &&IpNet| !nets.iter().any(|other| other != *net && other.contains(*net));
            networks.insert(name.parse()?, nets.iter().filter(widest).copied().collect());
        }
        Ok(networks)
    }

    /// The interfaces of `host` on a network.
    pub fn interfaces(&self, host: &HostName) -> BTreeMap<IfName, DraftInterface> {
        let mut interfaces: BTreeMap<IfName, DraftInterface> = BTreeMap::new();
        for entry in self.own.iter().filter(|entry| entry.host == *host) {
            interfaces.entry(entry.dev.clone()).or_default().addresses.push(entry.net);
        }
        interfaces
    }

    /// Whether `address` is on a subnet of `host`.
    pub fn reaches(&self, host: &HostName, address: IpAddr) -> bool {
        self.own.iter().any(|entry| entry.host == *host && entry.net.contains(&address))
    }

    /// The host with `address` as its own address.
    pub fn owner(&self, address: IpAddr) -> Option<&HostName> {
        self.own.iter().find(|entry| entry.net.addr() == address).map(|entry| &entry.host)
    }

    /// The director's interface with a VIP, and the prefix length if not 32 or 128.
    pub fn vip_on(&self, director: &HostName, vip: IpAddr) -> Option<(IfName, Option<u8>)> {
        self.vips.get(&(director.clone(), vip)).cloned()
    }

    /// Whether `host` has a VIP on lo or a tunnel device.
    pub fn has_silent_vip(&self, host: &HostName) -> bool {
        self.silent_vips.contains(host)
    }

    /// The RIP with the longest prefix of an observed subnet that contains it, else /24 or /64.
    pub fn guessed_net(&self, rip: IpAddr) -> IpNet {
        let near = self.own.iter().filter(|entry| entry.net.contains(&rip));
        let bits = near.map(|entry| entry.net.prefix_len()).max();
        let bits = bits.unwrap_or(if rip.is_ipv4() { 24 } else { 64 });
        IpNet::new(rip, bits).unwrap_or_else(|_| IpNet::from(rip))
    }
}

/// The interfaces on an L2 segment, and its subnets.
type Segment = (BTreeSet<(HostName, IfName)>, BTreeSet<IpNet>);
