//! Guesses hosts and networks around an IPVS table, which has neither. The result is a topology that
//! passes `check`; each guess is a remark.
//!
//! The guesses: one network; one host for each RIP; prefix lengths /24 and /64, or shorter if an address
//! would be the first or last of its subnet; one address of the director in each subnet with real
//! servers, which NAT and DR need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::draft::{DraftHost, DraftInterface, DraftIpvs, DraftService, DraftTopology};
use super::remark::{Remark, RemarkKind};
use super::rules::{IpvsRules, VipHint};
use crate::names::{HostName, IfName, NameError, NetworkName, TopologyName};
use crate::state::{Destination, DestinationKey, ForwardingMethod, ServiceKey};
use crate::topology::Role;

/// The director, as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenDirector {
    /// Its name in the file.
    pub name: HostName,
    /// Its addresses, with prefix lengths if known; may be empty.
    pub addresses: Vec<(IpAddr, Option<u8>)>,
}

impl std::str::FromStr for GivenDirector {
    type Err = String;

    /// `NAME`, `NAME=ADDRESS[/LENGTH][,ADDRESS[/LENGTH]...]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, addresses) = text.split_once('=').unwrap_or((text, ""));
        let name = name.parse().map_err(|error: NameError| error.to_string())?;
        let addresses = addresses.split(',').filter(|address| !address.is_empty());
        let addresses = addresses.map(|address| {
            let wrong =
                || format!("{address:?} is not an address: write ADDRESS or ADDRESS/LENGTH");
            if let Ok(net) = address.parse::<IpNet>() {
                return Ok((net.addr(), Some(net.prefix_len())));
            }
            Ok((address.parse().map_err(|_| wrong())?, None))
        });
        Ok(Self { name, addresses: addresses.collect::<Result<_, String>>()? })
    }
}

/// Name of the only network.
const NETWORK: &str = "lan";
/// The default interface name.
const INTERFACE: &str = "eth0";

/// Builds a topology around a table. `Err` only if a generated name is not valid: a bug.
pub fn draft(
    rules: &IpvsRules,
    director: Option<GivenDirector>,
    name: TopologyName,
) -> Result<(DraftTopology, Vec<Remark>), NameError> {
    let director = match director {
        Some(director) => director,
        None => GivenDirector { name: "director".parse()?, addresses: Vec::new() },
    };
    let mut guess = Guess {
        rules,
        rips: BTreeMap::new(),
        director,
        wire: NETWORK.parse()?,
        interface: INTERFACE.parse()?,
        remarks: Vec::new(),
    };
    guess.interface = guess.interface_name();
    let mut services = guess.services();
    guess.name_hosts(&services)?;
    guess.full_nat(&mut services);
    let subnets = guess.subnets();
    let hosts = guess.hosts(&subnets);
    let networks = BTreeMap::from([(guess.wire.clone(), subnets)]);
    let Guess { rips, remarks, .. } = guess;
    Ok((DraftTopology { name, networks, hosts, services, rips }, remarks))
}

struct Guess<'a> {
    rules: &'a IpvsRules,
    /// The host of each RIP.
    rips: BTreeMap<IpAddr, HostName>,
    director: GivenDirector,
    wire: NetworkName,
    interface: IfName,
    remarks: Vec<Remark>,
}

impl Guess<'_> {
    fn guessed(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.remarks.push(Remark::general(RemarkKind::Guessed, what, why));
    }

    /// The interface with the most VIPs; else the default name.
    fn interface_name(&self) -> IfName {
        let mut count: BTreeMap<&IfName, usize> = BTreeMap::new();
        for interface in self.named_interfaces() {
            *count.entry(interface).or_default() += 1;
        }
        let most = count.into_iter().max_by_key(|(name, count)| (*count, std::cmp::Reverse(*name)));
        most.map_or_else(|| self.interface.clone(), |(name, _)| name.clone())
    }

    fn named_interfaces(&self) -> impl Iterator<Item = &IfName> {
        let vips = self.rules.vips.values().filter_map(|hint| hint.interface.as_ref());
        let real = vips.filter(|name| !name.as_str().starts_with("lo"));
        real.chain(self.rules.daemons.values().map(|daemon| &daemon.interface))
    }

    /// The table, without destinations that cannot be a host.
    fn services(&mut self) -> Vec<DraftService> {
        let mut drafts = Vec::new();
        for (key, service) in &self.rules.services {
            let mut service = service.clone();
            let here = |rip: IpAddr| rip.is_loopback() || rip.is_unspecified();
            let kept = service.destinations.keys().filter(|at| !here(at.0.ip())).copied();
            let kept: BTreeSet<_> = kept.collect();
            for at in service.destinations.keys().filter(|at| !kept.contains(at)) {
                self.remarks.push(Remark::general(
                    RemarkKind::NotExpressible,
                    format!("{at} of {key}"),
                    "it is a local address of the director; to use the director as a real server, add it with its \
                     own address",
                ));
            }
            service.destinations.retain(|at, _| kept.contains(at));
            let hint = match key {
                ServiceKey::Address(_, vip) => self.rules.vips.get(&vip.ip()),
                ServiceKey::Fwmark { .. } => None,
            };
            let VipHint { prefix, interface } = hint.cloned().unwrap_or_default();
            let several = self.named_interfaces().any(|name| *name != self.interface);
            let on_wire = interface.filter(|name| !name.as_str().starts_with("lo"));
            let vip_interface = several.then(|| on_wire.unwrap_or_else(|| self.interface.clone()));
            drafts.push(DraftService {
                director: self.director.name.clone(),
                key: key.clone(),
                service,
                vip_prefix: prefix.filter(|bits| !matches!(bits, 32 | 128)),
                vip_interface: vip_interface.filter(|_| matches!(key, ServiceKey::Address(..))),
                full_nat: false,
                external: self.rules.external.contains(key),
                health: self.rules.health.get(key).cloned().unwrap_or_default(),
            });
        }
        drafts
    }

    /// One host for each RIP. The director's own addresses and the VIPs belong to the director.
    fn name_hosts(&mut self, services: &[DraftService]) -> Result<(), NameError> {
        let vips = self.vips();
        let all: BTreeSet<IpAddr> =
            services.iter().flat_map(destinations).map(|(at, _)| at.0.ip()).collect();
        for rip in all {
            let own = self.director.addresses.iter().any(|(address, _)| *address == rip);
            if own || vips.contains(&rip) {
                if !own {
                    self.director.addresses.push((rip, None));
                    self.guessed(
                        format!("{rip} is an address of the director"),
                        "it is both a VIP and a real server: the director answers these requests",
                    );
                }
                self.rips.insert(rip, self.director.name.clone());
                continue;
            }
            let mut name = host_name(rip);
            if name == self.director.name.as_str() {
                name.push_str("-rs");
            }
            self.rips.insert(rip, name.parse()?);
        }
        Ok(())
    }

    /// A DR or TUN real server must not have the director as its gateway, so NAT to the same host needs
    /// source NAT: FULLNAT.
    fn full_nat(&mut self, services: &mut [DraftService]) {
        let direct: BTreeSet<IpAddr> = services
            .iter()
            .flat_map(destinations)
            .filter(|(_, d)| {
                matches!(d.method, ForwardingMethod::DirectRoute | ForwardingMethod::Tunnel)
            })
            .map(|(at, _)| at.0.ip())
            .filter(|rip| self.rips.get(rip).is_some_and(|host| *host != self.director.name))
            .collect();
        for draft in services {
            let both = destinations(draft).find(|(at, d)| {
                d.method == ForwardingMethod::Masquerade && direct.contains(&at.0.ip())
            });
            let Some((at, _)) = both else { continue };
            let rip = at.0.ip();
            draft.full_nat = true;
            self.guessed(
                format!("forward: fullnat of {}", draft.key),
                format!(
                    "{rip} is also a dr or tun real server, so its gateway cannot be the director, which nat \
                     needs; the IPVS table is the same"
                ),
            );
        }
    }

    fn vips(&self) -> BTreeSet<IpAddr> {
        let vip = |key: &ServiceKey| match key {
            ServiceKey::Address(_, vip) => Some(vip.ip()),
            ServiceKey::Fwmark { .. } => None,
        };
        self.rules.services.keys().filter_map(vip).collect()
    }

    /// Disjoint subnets that contain every RIP and every address of the director.
    fn subnets(&mut self) -> BTreeSet<IpNet> {
        let vips = self.vips();
        let mut subnets = BTreeSet::new();
        let given = self.director.addresses.iter().filter_map(|(address, bits)| {
            IpNet::new(*address, (*bits)?)
                .ok()
                .filter(|net| net.prefix_len() < net.max_prefix_len())
        });
        let hinted = self.rules.vips.iter().filter_map(|(vip, hint)| {
            let net = IpNet::new(*vip, hint.prefix?).ok()?;
            (net.prefix_len() < net.max_prefix_len()).then_some(net)
        });
        for net in given.chain(hinted) {
            add(&mut subnets, net.trunc());
        }
        let mut known: BTreeSet<IpAddr> = self.rips.keys().copied().collect();
        known.extend(self.director.addresses.iter().map(|(address, _)| *address));
        if known.is_empty() {
            known.extend(vips.iter().take(1));
        }
        if known.is_empty() {
            // A documentation address (RFC 5737).
            known.insert(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
        }
        let mut guessed = false;
        for address in &known {
            if !subnets.iter().any(|net| net.contains(address)) {
                guessed = true;
                add(&mut subnets, customary(*address, if address.is_ipv4() { 24 } else { 64 }));
            }
        }
        if guessed {
            self.guessed(
                "prefix lengths",
                "an IPVS table has none: /24 and /64, or shorter if an address would not fit",
            );
        }
        known.extend(vips);
        widen(subnets, &known)
    }

    fn hosts(&mut self, subnets: &BTreeSet<IpNet>) -> BTreeMap<HostName, DraftHost> {
        let mut hosts = BTreeMap::new();
        for (rip, name) in self.rips.iter().filter(|(_, name)| **name != self.director.name) {
            let mut host =
                DraftHost { roles: BTreeSet::from([Role::RealServer]), ..DraftHost::default() };
            let interface = host.interfaces.entry(self.interface_of_servers()).or_default();
            interface.addresses.push(within(*rip, subnets));
            hosts.insert(name.clone(), host);
        }
        let director = self.director_host(subnets);
        hosts.insert(self.director.name.clone(), director);
        if hosts.len() > 1 {
            self.guessed(
                format!("{} real server host(s)", hosts.len() - 1),
                "one for each address; their names, interfaces and the single network are guesses. Their gateway \
                 is unknown: under nat it must be the director, under dr and tun it must not be",
            );
        }
        hosts
    }

    /// Real servers need not have the director's interface names.
    fn interface_of_servers(&self) -> IfName {
        INTERFACE.parse().unwrap_or_else(|_| self.interface.clone())
    }

    fn director_host(&mut self, subnets: &BTreeSet<IpNet>) -> DraftHost {
        let mut addresses: Vec<IpNet> = Vec::new();
        for (address, bits) in &self.director.addresses {
            let given = bits.and_then(|bits| IpNet::new(*address, bits).ok());
            addresses.push(given.unwrap_or_else(|| within(*address, subnets)));
        }
        let mut taken: BTreeSet<IpAddr> = self.rips.keys().copied().collect();
        taken.extend(self.vips());
        let mut invented = Vec::new();
        for subnet in subnets {
            let needed = addresses.is_empty() || self.rips.keys().any(|rip| subnet.contains(rip));
            if !needed || addresses.iter().any(|own| subnet.contains(&own.addr())) {
                continue;
            }
            let Some(address) = free_address(subnet, &taken) else { continue };
            invented.push(address.to_string());
            addresses.push(address);
        }
        let name = self.director.name.clone();
        if !invented.is_empty() {
            self.guessed(
                format!("{} of {name}", invented.join(", ")),
                format!(
                    "an IPVS table does not have the director's address, and it needs one in each subnet with \
                     real servers; set it with --director {name}=ADDRESS/LENGTH"
                ),
            );
        }
        let mut interfaces = BTreeMap::new();
        interfaces.insert(self.interface.clone(), DraftInterface { addresses, network: None });
        for other in self.named_interfaces().filter(|name| **name != self.interface) {
            let network = Some(self.wire.clone());
            interfaces.insert(other.clone(), DraftInterface { addresses: Vec::new(), network });
        }
        let mut roles = BTreeSet::from([Role::Director]);
        if self.rips.values().any(|host| *host == name) {
            roles.insert(Role::RealServer);
        }
        let guessed = (!invented.is_empty())
            .then(|| format!("{}, and {}", invented.join(", "), self.interface));
        let ipvs = DraftIpvs {
            timeouts: self.rules.timeouts,
            daemons: self.rules.daemons.clone(),
            settings: BTreeMap::new(),
        };
        DraftHost { roles, interfaces, ipvs, guessed, ..DraftHost::default() }
    }
}

/// The real servers of a service, and its sorry server.
fn destinations(draft: &DraftService) -> impl Iterator<Item = (&DestinationKey, &Destination)> {
    let sorry = draft.health.sorry_server.as_ref().map(|(at, destination)| (at, destination));
    draft.service.destinations.iter().chain(sorry)
}

/// `rs-10-0-0-5`.
pub(super) fn host_name(rip: IpAddr) -> String {
    format!("rs-{}", rip.to_string().replace([':', '.'], "-"))
}

/// Adds a subnet; of two that overlap, the wider one stays.
fn add(subnets: &mut BTreeSet<IpNet>, net: IpNet) {
    if subnets.iter().any(|other| other.contains(&net)) {
        return;
    }
    subnets.retain(|other| !net.contains(other));
    subnets.insert(net);
}

fn customary(address: IpAddr, bits: u8) -> IpNet {
    IpNet::new(address, bits).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

/// Shortens the prefix of subnets whose first or last address is in use: no host can have those.
fn widen(mut subnets: BTreeSet<IpNet>, used: &BTreeSet<IpAddr>) -> BTreeSet<IpNet> {
    /// The shortest prefix: the loop must end, also for 10.0.0.0.
    const WIDEST: u8 = 8;
    loop {
        let clash = subnets.iter().copied().find(|net| {
            net.prefix_len() > WIDEST
                && net.max_prefix_len() - net.prefix_len() > 1
                && (used.contains(&net.network()) || used.contains(&net.broadcast()))
        });
        let Some(wider) = clash.and_then(|net| net.supernet()) else { return subnets };
        add(&mut subnets, wider);
    }
}

/// `address` with the prefix length of its subnet.
fn within(address: IpAddr, subnets: &BTreeSet<IpNet>) -> IpNet {
    let holding = subnets.iter().find(|net| net.contains(&address));
    holding
        .and_then(|net| IpNet::new(address, net.prefix_len()).ok())
        .unwrap_or_else(|| IpNet::from(address))
}

/// A free address near the end of a subnet, a usual place for routers and directors.
fn free_address(subnet: &IpNet, taken: &BTreeSet<IpAddr>) -> Option<IpNet> {
    // More candidates than taken addresses, so one is free if the subnet is large enough.
    let tries = u32::try_from(taken.len()).unwrap_or(u32::MAX).saturating_add(2);
    let free = |address: &IpAddr| !taken.contains(address) && subnet.contains(address);
    let found = match subnet {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let candidates = (1..tries).map_while(|n| last.checked_sub(n)).filter(|n| *n > first);
            candidates.map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))).find(free)
        }
        IpNet::V6(net) => {
            let first = net.network().to_bits();
            let candidates = (1..u128::from(tries)).map(|n| first | (0xff - n % 0xff));
            candidates.map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))).find(free)
        }
    };
    found.and_then(|address| IpNet::new(address, subnet.prefix_len()).ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn no_subnet_ends_at_an_address_in_use() {
        let used = ["10.0.0.255", "10.0.1.0", "10.1.0.1"].map(|text| text.parse().unwrap());
        let start = nets(&["10.0.0.0/24", "10.0.1.0/24", "10.1.0.0/24"]);
        assert_eq!(widen(start, &BTreeSet::from(used)), nets(&["10.0.0.0/23", "10.1.0.0/24"]));
    }

    #[test]
    fn a_free_address_is_in_use_by_no_host() {
        let net: IpNet = "192.0.2.0/30".parse().unwrap();
        let taken = BTreeSet::from(["192.0.2.2".parse().unwrap()]);
        assert_eq!(free_address(&net, &taken), Some("192.0.2.1/30".parse().unwrap()));
        let taken = BTreeSet::from(["192.0.2.2", "192.0.2.1"].map(|text| text.parse().unwrap()));
        assert_eq!(free_address(&net, &taken), None);
        let net: IpNet = "2001:db8::/64".parse().unwrap();
        let taken = BTreeSet::from(["2001:db8::fe".parse().unwrap()]);
        assert_eq!(free_address(&net, &taken), Some("2001:db8::fd/64".parse().unwrap()));
    }
}
