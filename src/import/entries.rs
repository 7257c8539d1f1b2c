//! A service of an IPVS table as an entry of a topology file. Properties without a key in the file become
//! remarks.

use std::net::{IpAddr, Ipv4Addr};

use super::checks;
use super::draft::{DraftService, DraftTopology};
use super::remark::{Remark, RemarkKind};
use super::rules::GivenTimeouts;
use crate::names::{HostName, IfName};
use crate::state::{
    Destination, DestinationKey, ForwardingMethod, Protocol, ServiceFlags, ServiceKey, Tunnel,
};
use crate::topology::Scheduler;

/// A service as an entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceEntry {
    pub target: EntryTarget,
    pub director: HostName,
    pub vip_prefix: Option<u8>,
    pub vip_interface: Option<IfName>,
    pub forward: &'static str,
    pub tunnel: Option<String>,
    pub scheduler: String,
    pub scheduler_flags: Vec<&'static str>,
    pub persistence: Option<PersistenceEntry>,
    pub one_packet: bool,
    pub external: bool,
    /// The value of `check`.
    pub check: Option<String>,
    pub quorum: Option<u32>,
    pub sorry_server: Option<RealServerEntry>,
    pub reals: Vec<RealServerEntry>,
}

/// The key of an entry: address and ports, or a firewall mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryTarget {
    /// Ports in the order of the table; 0 is every port.
    Address {
        vip: IpAddr,
        protocol: Protocol,
        ports: Vec<u16>,
    },
    Mark {
        mark: u32,
        v6: bool,
        udp: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PersistenceEntry {
    pub timeout: u32,
    pub mask: Option<String>,
    pub engine: Option<String>,
}

/// A real server as an entry of the file; `None` inherits the service's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RealServerEntry {
    pub host: HostName,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub weight: u32,
    pub upper: u32,
    pub lower: u32,
    pub forward: Option<&'static str>,
    pub tunnel: Option<String>,
    pub check: Option<String>,
}

/// The longest timeout of any kind in a topology, in seconds.
const LONGEST: u32 = 2_147_483;

/// Timeouts within the limits of a topology.
pub(super) fn timeouts(given: GivenTimeouts, remarks: &mut Vec<Remark>) -> GivenTimeouts {
    let mut at_most = |name: &str, value: Option<u32>| {
        let value = value?;
        if value > LONGEST {
            remarks.push(Remark::general(
                RemarkKind::Guessed,
                format!("the {name} timeout, {value} s"),
                format!("the limit of a topology is {LONGEST} s, which is written instead"),
            ));
        }
        Some(value.min(LONGEST))
    };
    let GivenTimeouts { tcp, tcp_fin, udp } = given;
    GivenTimeouts {
        tcp: at_most("tcp", tcp),
        tcp_fin: at_most("tcp-fin", tcp_fin),
        udp: at_most("udp", udp),
    }
}

/// The services of `draft`; neighbours that differ only in the port become one entry.
pub(super) fn entries(draft: &DraftTopology, remarks: &mut Vec<Remark>) -> Vec<ServiceEntry> {
    let mut entries: Vec<ServiceEntry> = Vec::new();
    for service in &draft.services {
        let Some(entry) = EntryBuilder { draft, service, remarks }.entry() else { continue };
        // Neighbours only: the table is sorted by VIP, then port.
        match entries.last_mut().filter(|last| differ_in_port_only(last, &entry)) {
            Some(last) => join(last, entry),
            None => entries.push(entry),
        }
    }
    entries
}

fn differ_in_port_only(first: &ServiceEntry, second: &ServiceEntry) -> bool {
    let without = |entry: &ServiceEntry| {
        let mut entry = entry.clone();
        if let EntryTarget::Address { ports, .. } = &mut entry.target {
            ports.clear();
        }
        entry
    };
    let has_port = |entry: &ServiceEntry| match &entry.target {
        EntryTarget::Address { ports, .. } => !ports.contains(&0),
        EntryTarget::Mark { .. } => false,
    };
    has_port(first) && has_port(second) && without(first) == without(second)
}

fn join(into: &mut ServiceEntry, other: ServiceEntry) {
    if let (EntryTarget::Address { ports, .. }, EntryTarget::Address { ports: more, .. }) =
        (&mut into.target, other.target)
    {
        ports.extend(more);
    }
}

struct EntryBuilder<'a> {
    draft: &'a DraftTopology,
    service: &'a DraftService,
    remarks: &'a mut Vec<Remark>,
}

impl EntryBuilder<'_> {
    fn remark(&mut self, kind: RemarkKind, what: impl Into<String>, why: impl Into<String>) {
        let mut remark = Remark::general(kind, what, why);
        remark.host = Some(self.service.director.to_string());
        self.remarks.push(remark);
    }

    fn entry(&mut self) -> Option<ServiceEntry> {
        let DraftService {
            director,
            key,
            service,
            vip_prefix,
            vip_interface,
            full_nat: _,
            external,
            health,
        } = self.service;
        let target = match key {
            ServiceKey::Address(protocol, address) => EntryTarget::Address {
                vip: address.ip(),
                protocol: *protocol,
                ports: vec![address.port()],
            },
            // One-packet scheduling and SIP work with UDP only.
            ServiceKey::Fwmark { v6, mark } => {
                let one_packet = service.flags.has(ServiceFlags::ONE_PACKET);
                EntryTarget::Mark {
                    mark: *mark,
                    v6: *v6,
                    udp: one_packet || service.engine.is_some(),
                }
            }
        };
        let (forward, tunnel) = self.common();
        let (mut reals, mut of_reals) = (Vec::new(), Vec::new());
        for (at, d) in &service.destinations {
            reals.extend(self.real(*at, d, forward, tunnel.as_deref()).inspect(|_| {
                let check = health.checks.get(at);
                let rewrites = d.method == ForwardingMethod::Masquerade;
                of_reals.push(check.map(|check| checks::value(check, rewrites)));
            }));
        }
        let (check, own) = checks::shared(&of_reals);
        for (real, own) in reals.iter_mut().zip(own) {
            real.check = own;
        }
        if reals.is_empty() {
            self.remark(
                RemarkKind::NotExpressible,
                key.to_string(),
                "it has no real servers; a topology needs at least one for each service",
            );
            return None;
        }
        let is_checked = of_reals.iter().any(Option::is_some);
        let sorry = health.sorry_server.as_ref().filter(|_| is_checked);
        let sorry = sorry.and_then(|(at, d)| self.real(*at, d, forward, tunnel.as_deref()));
        let sorry_server = sorry.filter(|sorry| self.is_spare(sorry, &reals));
        Some(ServiceEntry {
            target,
            director: director.clone(),
            vip_prefix: *vip_prefix,
            vip_interface: vip_interface.clone(),
            forward,
            tunnel,
            scheduler: self.scheduler(),
            scheduler_flags: self.scheduler_flags(),
            persistence: self.persistence(),
            one_packet: service.flags.has(ServiceFlags::ONE_PACKET),
            external: *external,
            check,
            quorum: health.quorum.filter(|_| is_checked),
            sorry_server,
            reals,
        })
    }

    /// Whether no real server is on the host of the sorry server.
    fn is_spare(&mut self, sorry: &RealServerEntry, reals: &[RealServerEntry]) -> bool {
        let is_spare = reals.iter().all(|real| real.host != sorry.host);
        if !is_spare {
            self.remark(
                RemarkKind::NotExpressible,
                format!("sorry_server {} of {}", sorry.host, self.service.key),
                "it is a real server of the same service, which may be dead where the sorry server is needed",
            );
        }
        is_spare
    }

    fn forward(&self, method: ForwardingMethod) -> Option<&'static str> {
        match method {
            ForwardingMethod::Masquerade if self.service.full_nat => Some("fullnat"),
            ForwardingMethod::Masquerade => Some("nat"),
            ForwardingMethod::DirectRoute => Some("dr"),
            ForwardingMethod::Tunnel => Some("tun"),
            // The kernel sets this method by itself for local addresses, whatever the requested one.
            ForwardingMethod::Local | ForwardingMethod::Bypass => None,
        }
    }

    /// The most frequent method and tunnel.
    fn common(&self) -> (&'static str, Option<String>) {
        let mut count: Vec<((&'static str, Option<String>), usize)> = Vec::new();
        for destination in self.service.service.destinations.values() {
            let Some(forward) = self.forward(destination.method) else { continue };
            let both = (forward, tunnel(destination));
            match count.iter_mut().find(|(known, _)| *known == both) {
                Some((_, times)) => *times += 1,
                None => count.push((both, 1)),
            }
        }
        let most = count.into_iter().rev().max_by_key(|(_, times)| *times);
        most.map_or(("dr", None), |(both, _)| both)
    }

    fn real(
        &mut self,
        at: DestinationKey,
        destination: &Destination,
        forward: &'static str,
        common_tunnel: Option<&str>,
    ) -> Option<RealServerEntry> {
        let rip = at.0.ip();
        let what = || format!("{at} of {}", self.service.key);
        if destination.method == ForwardingMethod::Bypass {
            let (what, why) = (what(), "only the kernel creates bypass destinations");
            self.remark(RemarkKind::NotExpressible, what, why);
            return None;
        }
        let Some(host) = self.draft.rips.get(&rip).cloned() else {
            let (what, why) = (what(), "no host of the topology has this address");
            self.remark(RemarkKind::NotExpressible, what, why);
            return None;
        };
        let own = match &self.service.key {
            ServiceKey::Address(_, vip) => vip.port(),
            ServiceKey::Fwmark { .. } => 0,
        };
        let nat = destination.method == ForwardingMethod::Masquerade;
        let every = own == 0 && self.service.service.flags.has(ServiceFlags::PERSISTENT);
        let maps = nat && !every;
        let mut port = (at.0.port() != own).then(|| at.0.port());
        if let Some(ignored) = port.filter(|_| !maps) {
            let what = what();
            let why = if nat {
                "a persistent service for every port keeps the client's destination port"
            } else {
                "only NAT maps ports"
            };
            let why = format!("{why}: the kernel ignores port {ignored}; left out");
            self.remark(RemarkKind::Guessed, what, why);
            port = None;
        }
        let this = self.forward(destination.method).unwrap_or(forward);
        let tunnel = tunnel(destination);
        let tunnelled = destination.method == ForwardingMethod::Tunnel;
        let differs = this != forward || (tunnelled && tunnel.as_deref() != common_tunnel);
        let addresses = self.draft.hosts.get(&host).map_or(0, |host| {
            host.interfaces.values().map(|interface| interface.addresses.len()).sum::<usize>()
        });
        Some(RealServerEntry {
            host,
            address: (addresses != 1).then_some(rip),
            port,
            weight: destination.weight,
            upper: destination.upper_threshold,
            lower: destination.lower_threshold,
            forward: (this != forward).then_some(this),
            tunnel: (tunnelled && differs).then(|| tunnel.unwrap_or_else(|| "ipip".to_owned())),
            check: None,
        })
    }

    fn engine(&mut self, engine: String) -> Option<String> {
        let other = match &self.service.key {
            ServiceKey::Address(protocol, _) => *protocol != Protocol::Udp,
            ServiceKey::Fwmark { .. } => false,
        };
        let why = match engine.as_str() {
            "sip" if other => "it reads UDP packets only, so it has no effect here; left out",
            "sip" => return Some(engine),
            _ => "mainline kernels have sip only",
        };
        self.remark(
            RemarkKind::NotExpressible,
            format!("persistence engine {engine:?} of {}", self.service.key),
            why,
        );
        None
    }

    fn scheduler(&mut self) -> String {
        let scheduler = &self.service.service.scheduler;
        if scheduler.parse::<Scheduler>().is_ok() {
            return scheduler.clone();
        }
        self.remark(
            RemarkKind::NotExpressible,
            format!("scheduler {scheduler} of {}", self.service.key),
            "no kernel known to lvsprov has it; wlc, the default, is written instead",
        );
        "wlc".to_owned()
    }

    fn scheduler_flags(&self) -> Vec<&'static str> {
        let service = &self.service.service;
        let names = match service.scheduler.as_str() {
            "sh" => ["sh-fallback", "sh-port", "flag-3"],
            "mh" => ["mh-fallback", "mh-port", "flag-3"],
            _ => ["flag-1", "flag-2", "flag-3"],
        };
        let bits =
            [ServiceFlags::SCHEDULER_1, ServiceFlags::SCHEDULER_2, ServiceFlags::SCHEDULER_3];
        let set = bits.into_iter().zip(names).filter(|(bit, _)| service.flags.has(*bit));
        set.map(|(_, name)| name).collect()
    }

    fn persistence(&mut self) -> Option<PersistenceEntry> {
        let service = &self.service.service;
        let mask = match (self.service.key.is_ipv6(), service.netmask) {
            (false, u32::MAX) | (true, 128) => None,
            (false, mask) => Some(Ipv4Addr::from_bits(mask).to_string()),
            (true, bits) => Some(bits.to_string()),
        };
        let engine = service.engine.clone();
        if service.flags.has(ServiceFlags::PERSISTENT) && service.timeout > 0 {
            let engine = engine.and_then(|engine| self.engine(engine));
            let mut timeout = service.timeout;
            if timeout > LONGEST {
                self.remark(
                    RemarkKind::Guessed,
                    format!("persistence {timeout} of {}", self.service.key),
                    format!("the limit of a topology is {LONGEST} s, which is written instead"),
                );
                timeout = LONGEST;
            }
            return Some(PersistenceEntry { timeout, mask, engine });
        }
        for (what, value) in [("mask", mask), ("engine", engine)] {
            if let Some(value) = value {
                self.remark(
                    RemarkKind::NotExpressible,
                    format!("persistence {what} {value:?} of {}", self.service.key),
                    "the service is not persistent, so it has no effect; left out",
                );
            }
        }
        None
    }
}

/// The value of `tunnel:`; `None` for ipip, the default.
fn tunnel(destination: &Destination) -> Option<String> {
    if destination.method != ForwardingMethod::Tunnel {
        return None;
    }
    let sum = |flags: u16| match flags {
        0 => "none",
        1 => "full",
        _ => "remote",
    };
    match destination.tunnel {
        Tunnel::Ipip => None,
        Tunnel::Gre { flags: 0 } => Some("gre".to_owned()),
        Tunnel::Gre { flags: _ } => Some("{type: gre, checksum: true}".to_owned()),
        Tunnel::Gue { port, flags: 0 } => Some(format!("{{type: gue, port: {port}}}")),
        Tunnel::Gue { port, flags } => {
            Some(format!("{{type: gue, port: {port}, checksum: {}}}", sum(flags)))
        }
    }
}
