//! Which addresses of which hosts matter, and which subnets are on one wire.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::draft::DraftInterface;
use super::super::remark::{Remark, RemarkKind};
use super::Seen;
use crate::names::{HostName, IfName, NameError, NetworkName};

/// An address that a host has for itself.
struct Place {
    host: HostName,
    dev: IfName,
    net: IpNet,
}

/// Where the hosts are.
pub(super) struct Places {
    own: Vec<Place>,
    /// VIPs on directors, and with which prefix length they were found there.
    vips: BTreeMap<(HostName, IpAddr), (IfName, Option<u8>)>,
    /// Hosts with a VIP where it does not answer.
    silent: BTreeSet<HostName>,
    /// RIPs of nobody that was looked at.
    strangers: BTreeSet<IpAddr>,
}

/// Devices inside the host.
fn is_inside(dev: &IfName) -> bool {
    let name = dev.as_str();
    name == "lo" || is_tunnel(name) || name.starts_with("dummy")
}

fn is_tunnel(name: &str) -> bool {
    ["tunl", "ip6tnl", "sit", "gre", "ip6gre", "gretap", "erspan"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn is_everybodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

impl Places {
    pub fn of(
        seen: &[Seen],
        vips: &BTreeSet<IpAddr>,
        rips: &BTreeMap<IpAddr, HostName>,
        remarks: &mut Vec<Remark>,
    ) -> Self {
        let mut places = Self {
            own: Vec::new(),
            vips: BTreeMap::new(),
            silent: BTreeSet::new(),
            strangers: BTreeSet::new(),
        };
        for host in seen {
            places.add(host, vips, remarks);
        }
        let looked_at = |name: &HostName| seen.iter().any(|host| host.name == *name);
        places.strangers =
            rips.iter().filter(|(_, name)| !looked_at(name)).map(|(rip, _)| *rip).collect();
        places.drop_what_leads_nowhere(seen, vips, remarks);
        places
    }

    fn add(&mut self, host: &Seen, vips: &BTreeSet<IpAddr>, remarks: &mut Vec<Remark>) {
        let state = &host.sighting.state;
        for key in state.addresses.keys() {
            let (dev, net) = (&key.dev, key.net);
            let host_wide = net.prefix_len() == net.max_prefix_len();
            if vips.contains(&net.addr()) {
                let alone = !state.addresses.keys().any(|other| {
                    other.dev == *dev
                        && !vips.contains(&other.net.addr())
                        && !is_everybodys(other.net.addr())
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
                    if alone && !host_wide && !is_inside(dev) {
                        self.own.push(Place { host: host.name.clone(), dev: dev.clone(), net });
                    }
                } else if is_inside(dev) {
                    self.silent.insert(host.name.clone());
                } else {
                    let mut remark = Remark::general(
                        RemarkKind::NotExpressible,
                        format!("{net} on {dev}"),
                        "it is a VIP, and answers ARP here beside the director; take it off this interface",
                    );
                    remark.host = Some(host.name.to_string());
                    remarks.push(remark);
                }
                continue;
            }
            if !is_inside(dev) && !is_everybodys(net.addr()) {
                self.own.push(Place { host: host.name.clone(), dev: dev.clone(), net });
            }
        }
    }

    /// Bridges of containers and the like: the same address everywhere, and nobody to talk to.
    fn drop_what_leads_nowhere(
        &mut self,
        seen: &[Seen],
        vips: &BTreeSet<IpAddr>,
        remarks: &mut Vec<Remark>,
    ) {
        let gateways: BTreeSet<IpAddr> = seen
            .iter()
            .flat_map(|host| host.sighting.state.routes.values().filter_map(|route| route.gateway))
            .collect();
        let leads = |place: &Place| {
            let near = |address: &IpAddr| place.net.contains(address);
            let to_host = self.own.iter().any(|other| {
                other.host != place.host
                    && near(&other.net.addr())
                    && other.net.addr() != place.net.addr()
            });
            let wanted = vips.iter().chain(&gateways).chain(&self.strangers);
            to_host || wanted.into_iter().any(near)
        };
        let keep: Vec<bool> = self.own.iter().map(leads).collect();
        let mut kept = Vec::new();
        let mut known = BTreeSet::new();
        for (place, leads) in std::mem::take(&mut self.own).into_iter().zip(keep) {
            if leads && known.insert(place.net.addr()) {
                kept.push(place);
                continue;
            }
            let why = if leads {
                "another host has the same address"
            } else {
                "it leads to no other host of this import, no VIP and no gateway"
            };
            let what = format!("{} on {}", place.net, place.dev);
            let mut remark = Remark::general(RemarkKind::NotExpressible, what, why);
            remark.host = Some(place.host.to_string());
            remarks.push(remark);
        }
        self.own = kept;
    }

    /// Subnets that hear each other: those of one interface, and those that overlap.
    pub fn networks(&self) -> Result<BTreeMap<NetworkName, BTreeSet<IpNet>>, NameError> {
        let mut wires: Vec<Wire> = Vec::new();
        let own =
            self.own.iter().map(|place| (Some((place.host.clone(), place.dev.clone())), place.net));
        let strangers = self.strangers.iter().map(|rip| (None, self.guessed_net(*rip)));
        for (plug, net) in own.chain(strangers) {
            let net = net.trunc();
            let (joined, apart): (Vec<_>, Vec<_>) =
                std::mem::take(&mut wires).into_iter().partition(|(plugs, nets)| {
                    plug.as_ref().is_some_and(|plug| plugs.contains(plug))
                        || nets.iter().any(|other| other.contains(&net) || net.contains(other))
                });
            wires = apart;
            let mut plugs: BTreeSet<_> = plug.into_iter().collect();
            let mut nets = BTreeSet::from([net]);
            for (more_plugs, more_nets) in joined {
                plugs.extend(more_plugs);
                nets.extend(more_nets);
            }
            wires.push((plugs, nets));
        }
        wires.sort_by(|(_, a), (_, b)| a.cmp(b));
        let mut networks = BTreeMap::new();
        let only = wires.len() == 1;
        for (number, (_, nets)) in (1..).zip(wires) {
            let name = if only { "lan".to_owned() } else { format!("net{number}") };
            // The widest of those that overlap.
            let widest =
                |net: &&IpNet| !nets.iter().any(|other| other != *net && other.contains(*net));
            networks.insert(name.parse()?, nets.iter().filter(widest).copied().collect());
        }
        Ok(networks)
    }

    /// What `host` is plugged into.
    pub fn interfaces(&self, host: &HostName) -> BTreeMap<IfName, DraftInterface> {
        let mut interfaces: BTreeMap<IfName, DraftInterface> = BTreeMap::new();
        for place in self.own.iter().filter(|place| place.host == *host) {
            interfaces.entry(place.dev.clone()).or_default().addresses.push(place.net);
        }
        interfaces
    }

    /// Whether `address` is on a subnet of `host`.
    pub fn reaches(&self, host: &HostName, address: IpAddr) -> bool {
        self.own.iter().any(|place| place.host == *host && place.net.contains(&address))
    }

    /// Who has `address` for itself.
    pub fn owner(&self, address: IpAddr) -> Option<&HostName> {
        self.own.iter().find(|place| place.net.addr() == address).map(|place| &place.host)
    }

    /// Where a director has a VIP, and with which prefix length if not that of a host.
    pub fn vip_on(&self, director: &HostName, vip: IpAddr) -> Option<(IfName, Option<u8>)> {
        self.vips.get(&(director.clone(), vip)).cloned()
    }

    /// Whether `host` has a VIP on lo or a tunnel device.
    pub fn has_silent_vip(&self, host: &HostName) -> bool {
        self.silent.contains(host)
    }

    /// With the prefix length of somebody's subnet that it is in, else the customary one.
    pub fn guessed_net(&self, rip: IpAddr) -> IpNet {
        let near = self.own.iter().filter(|place| place.net.contains(&rip));
        let bits = near.map(|place| place.net.prefix_len()).max();
        let bits = bits.unwrap_or(if rip.is_ipv4() { 24 } else { 64 });
        IpNet::new(rip, bits).unwrap_or_else(|_| IpNet::from(rip))
    }
}

/// What is plugged into a segment, and the subnets on it.
type Wire = (BTreeSet<(HostName, IfName)>, BTreeSet<IpNet>);
