//! `virtual_server` and `real_server`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::remark::quote;
use super::super::words::{self, PersistenceMask};
use super::KeepalivedReader;
use super::checks::CheckSettings;
use super::groups::{AddressFamily, GroupMember};
use super::health::{HealthBlock, port_of};
use super::left_out::{LeftOutTopic, is_notification};
use super::methods::ForwardMethod;
use super::tree::Statement;
use crate::state::{
    Destination, DestinationKey, ForwardingMethod, Protocol, ServiceFlags, ServiceKey, Tunnel,
    VirtualService,
};
use crate::topology::Check;

/// keepalived's default of `persistence_timeout`, in seconds (`IPVS_SVC_PERSISTENT_TIMEOUT`).
const PERSISTENCE: u32 = 360;

/// A `virtual_server` block; each of its members becomes one service.
#[derive(Debug, Default)]
pub(super) struct VirtualServerBlock {
    pub line: u32,
    scheduler: Option<String>,
    pub method: Option<ForwardMethod>,
    protocol: Option<Protocol>,
    persistence: Option<u32>,
    granularity: Option<(u32, String)>,
    engine: Option<String>,
    one_packet: bool,
    flags: Vec<(u32, String)>,
    family: Option<AddressFamily>,
    weight: Option<u32>,
    pub reals: Vec<RealServerBlock>,
    pub health: HealthBlock,
}

#[derive(Debug)]
pub(super) struct RealServerBlock {
    line: u32,
    pub address: std::net::IpAddr,
    pub port: u16,
    method: Option<ForwardMethod>,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    /// What its checks inherit.
    pub settings: CheckSettings,
    /// The blocks of its checks.
    pub checks: Vec<Statement>,
    /// The check as a topology says it.
    pub check: Option<Check>,
}

impl RealServerBlock {
    /// Its forwarding method, or that of its virtual server.
    pub fn method(&self, block: &VirtualServerBlock) -> ForwardMethod {
        self.method.or(block.method).unwrap_or((ForwardingMethod::Masquerade, Tunnel::Ipip))
    }
}

impl KeepalivedReader {
    pub(super) fn virtual_server(&mut self, statement: &Statement) {
        let name = quote(&statement.words.get(1..).unwrap_or_default().join(" "));
        self.remarks.line = Some(statement.line);
        if !self.has_room(0, &name) {
            return;
        }
        let members = self.members(statement);
        let mut block =
            VirtualServerBlock { line: statement.line, ..VirtualServerBlock::default() };
        for inner in statement.children() {
            self.remarks.line = Some(inner.line);
            self.virtual_statement(&mut block, inner);
        }
        self.remarks.line = Some(statement.line);
        if !self.has_room(members.len().saturating_mul(block.reals.len().max(1)), &name) {
            return;
        }
        if block.reals.is_empty() && !members.is_empty() {
            self.remarks.guessed(
                format!("virtual_server {name}"),
                "it has no real servers: keepalived would leave it out, import keeps the empty service",
            );
        }
        self.fill_in(&mut block, &members, &name);
        self.read_checks(&mut block, &members, &name);
        for member in &members {
            self.remarks.line = Some(statement.line);
            self.make(member, &block);
        }
        if !members.is_empty() {
            self.rules.taken += 1;
        }
    }

    fn virtual_statement(&mut self, block: &mut VirtualServerBlock, statement: &Statement) {
        let value = statement.word(1).unwrap_or_default();
        match statement.keyword() {
            "lvs_sched" | "lb_algo" => {
                if words::is_scheduler_name(value) {
                    block.scheduler = Some(value.to_owned());
                } else {
                    self.remarks.not_understood(quote(value), "it is not a scheduler");
                }
            }
            "lb_kind" | "lvs_method" => block.method = self.method(statement).or(block.method),
            "protocol" => match value.to_ascii_lowercase().parse() {
                Ok(protocol) => block.protocol = Some(protocol),
                Err(()) => {
                    self.remarks
                        .not_understood(quote(value), "the protocols are TCP, UDP and SCTP");
                }
            },
            "persistence_timeout" => block.persistence = Some(self.persistence(statement.word(1))),
            "persistence_granularity" => {
                block.granularity = Some((statement.line, value.to_owned()));
            }
            "persistence_engine" => block.engine = Some(value.to_owned()),
            "ops" => block.one_packet = true,
            "flag-1" | "flag-2" | "flag-3" | "sh-port" | "sh-fallback" | "mh-port"
            | "mh-fallback" => {
                block.flags.push((statement.line, statement.keyword().to_owned()));
            }
            // A flag that only the kernel sets.
            "hashed" => {}
            "ip_family" => match AddressFamily::named(value) {
                Some(family) => block.family = Some(family),
                None => self.remarks.not_understood(quote(value), "a family is inet or inet6"),
            },
            "weight" => {
                block.weight = self.number(statement, i32::MAX.cast_unsigned()).or(block.weight);
            }
            "real_server" => {
                block.reals.extend(self.real_server(statement));
            }
            word if is_notification(word) => {
                self.left_out.add(LeftOutTopic::Notification, statement);
            }
            _ if self.health_statement(&mut block.health, statement) => {}
            _ => self.left_out.add(LeftOutTopic::Unknown, statement),
        }
    }

    fn real_server(&mut self, block: &Statement) -> Option<RealServerBlock> {
        let text = block.words.get(1..).unwrap_or_default().join(" ");
        let address = block.word(1).and_then(words::address);
        let port = words::port(block.word(2).unwrap_or("0"));
        let (Some(address), Some(port)) = (address, port) else {
            self.remarks.not_understood(
                format!("real_server {}", quote(&text)),
                "it is not an address with a port (a number or a known name); left out",
            );
            return None;
        };
        let mut real = RealServerBlock {
            line: block.line,
            address,
            port,
            method: None,
            weight: None,
            upper: 0,
            lower: 0,
            settings: CheckSettings::default(),
            checks: Vec::new(),
            check: None,
        };
        for statement in block.children() {
            self.remarks.line = Some(statement.line);
            match statement.keyword() {
                "weight" => real.weight = self.number(statement, i32::MAX.cast_unsigned()),
                "lvs_method" | "lb_kind" => real.method = self.method(statement),
                "uthreshold" => real.upper = self.number(statement, u32::MAX).unwrap_or(0),
                "lthreshold" => real.lower = self.number(statement, u32::MAX).unwrap_or(0),
                word if is_notification(word) => {
                    self.left_out.add(LeftOutTopic::Notification, statement);
                }
                _ if self.real_health_statement(&mut real, statement) => {}
                _ => self.left_out.add(LeftOutTopic::Unknown, statement),
            }
        }
        if real.lower > real.upper {
            self.remarks.not_understood(
                format!("uthreshold {} lthreshold {}", real.upper, real.lower),
                "the lower threshold is above the upper one; the kernel refuses that (ERANGE); both left out",
            );
            (real.lower, real.upper) = (0, 0);
        }
        Some(real)
    }

    pub(super) fn number(&mut self, statement: &Statement, high: u32) -> Option<u32> {
        let text = statement.word(1).unwrap_or_default();
        let number = words::number(text, 0, high);
        if number.is_none() {
            self.remarks.guessed(
                format!("{} {}", statement.keyword(), quote(text)),
                format!("it is not a number from 0 to {high}; the default is used"),
            );
        }
        number
    }

    fn persistence(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return PERSISTENCE };
        words::number(text, 1, u32::MAX).unwrap_or_else(|| {
            self.remarks.guessed(
                format!("persistence_timeout {}", quote(text)),
                format!(
                    "it is not a number of seconds; {PERSISTENCE}, keepalived's default, is used"
                ),
            );
            PERSISTENCE
        })
    }

    /// Fills in keepalived's defaults.
    fn fill_in(&mut self, block: &mut VirtualServerBlock, members: &[GroupMember], name: &str) {
        let addresses = members.iter().any(|member| matches!(member, GroupMember::Address(..)));
        let every_port = members.iter().any(|member| matches!(member, GroupMember::Address(_, 0)));
        if addresses && block.protocol.is_none() {
            self.remarks.guessed(
                format!("virtual_server {name} without a protocol"),
                "udp, the default of keepalived 2; keepalived 1 had tcp",
            );
        }
        if every_port && block.persistence.is_none() && block.granularity.is_none() {
            self.remarks.guessed(
                format!("virtual_server {name} without a port"),
                format!("persistent for {PERSISTENCE} s, keepalived's default: a service for every port needs persistence"),
            );
            block.persistence = Some(PERSISTENCE);
        }
        if block.granularity.is_some() {
            block.persistence.get_or_insert(PERSISTENCE);
        }
        let lacks_method = block.reals.iter().any(|real| real.method.is_none());
        if lacks_method && block.method.is_none() {
            self.remarks.guessed(
                format!("virtual_server {name} without lvs_method"),
                "nat, keepalived's default",
            );
        }
    }

    fn make(&mut self, member: &GroupMember, block: &VirtualServerBlock) {
        let key = match member {
            GroupMember::Address(address, port) => ServiceKey::Address(
                block.protocol.unwrap_or(Protocol::Udp),
                SocketAddr::new(*address, *port),
            ),
            GroupMember::Mark(mark, family) => {
                ServiceKey::Fwmark { v6: is_ipv6(*family, block), mark: *mark }
            }
        };
        let line = self.remarks.line;
        let scheduler = block.scheduler.as_deref().unwrap_or("wlc");
        let mut service = VirtualService::plain(&key, scheduler);
        service.engine.clone_from(&block.engine);
        let mut flags = self.scheduler_flags(block, scheduler);
        if let Some(timeout) = block.persistence {
            flags |= ServiceFlags::PERSISTENT;
            service.timeout = timeout;
        }
        if let Some((line, text)) = &block.granularity {
            self.remarks.line = Some(*line);
            service.netmask = self.granularity(text, key.is_ipv6()).unwrap_or(service.netmask);
        }
        self.remarks.line = line;
        if block.one_packet {
            flags |= self.one_packet(&key);
        }
        service.flags = ServiceFlags::new(flags);
        let mut places = BTreeMap::new();
        for (number, real) in block.reals.iter().enumerate() {
            self.remarks.line = Some(real.line);
            let place = self.destination(&key, &mut service, real, block);
            places.extend(place.map(|place| (place, number)));
        }
        self.remarks.line = line;
        if self.rules.services.contains_key(&key) {
            self.remarks.not_understood(
                key.to_string(),
                "an earlier virtual_server has the same service; the first one is used",
            );
            return;
        }
        if block.health.external {
            self.rules.external.insert(key.clone());
        } else if let Some(health) = self.health_of(&key, &service, block, &places) {
            self.rules.health.insert(key.clone(), health);
        }
        self.rules.services.insert(key, service);
    }

    fn scheduler_flags(&mut self, block: &VirtualServerBlock, scheduler: &str) -> u32 {
        let mut flags = 0;
        for (line, name) in &block.flags {
            match words::scheduler_flag(name, scheduler) {
                Ok(bit) => flags |= bit,
                Err(error) => {
                    self.remarks.line = Some(*line);
                    self.remarks.not_understood(quote(name), error.why(scheduler));
                }
            }
        }
        flags
    }

    fn granularity(&mut self, text: &str, ipv6: bool) -> Option<u32> {
        let form = if ipv6 { "a prefix length, 1-128" } else { "a mask such as 255.255.255.0" };
        match words::mask(text, ipv6) {
            Some(PersistenceMask { value, guessed: false }) => Some(value),
            Some(PersistenceMask { value, guessed: true }) => {
                self.remarks.guessed(
                    format!("persistence_granularity {text}"),
                    "an IPv4 mask is dotted; read as a prefix length",
                );
                Some(value)
            }
            None => {
                self.remarks.guessed(
                    format!("persistence_granularity {}", quote(text)),
                    format!("it is not {form}; the default (each client separately) is used"),
                );
                None
            }
        }
    }

    fn one_packet(&mut self, key: &ServiceKey) -> u32 {
        if let ServiceKey::Address(Protocol::Tcp | Protocol::Sctp, _) = key {
            self.remarks.not_understood(
                "ops",
                "one-packet scheduling works for UDP only, and keepalived ignores it here; left out",
            );
            return 0;
        }
        ServiceFlags::ONE_PACKET
    }

    /// Adds a destination; `None`: it was left out.
    fn destination(
        &mut self,
        key: &ServiceKey,
        service: &mut VirtualService,
        real: &RealServerBlock,
        block: &VirtualServerBlock,
    ) -> Option<DestinationKey> {
        let (method, tunnel) = real.method(block);
        let what = || format!("real_server {} of {key}", SocketAddr::new(real.address, real.port));
        if real.address.is_ipv6() != key.is_ipv6() && method != ForwardingMethod::Tunnel {
            self.remarks.not_understood(
                what(),
                "a real server of another address family needs a tunnel; left out",
            );
            return None;
        }
        let own = match key {
            ServiceKey::Address(_, vip) => vip.port(),
            ServiceKey::Fwmark { .. } => 0,
        };
        let maps = method == ForwardingMethod::Masquerade;
        if !maps && real.port != 0 && real.port != own {
            self.remarks
                .guessed(what(), format!("only NAT maps ports: keepalived uses port {own}"));
        }
        let port = port_of(key, method, real.port);
        let destination = Destination {
            method,
            weight: real.weight.or(block.weight).unwrap_or(1),
            upper_threshold: real.upper,
            lower_threshold: real.lower,
            tunnel,
        };
        let place = DestinationKey::new(real.address, port);
        if service.destinations.contains_key(&place) {
            self.remarks
                .not_understood(what(), "this virtual_server has it twice; the first one is used");
            return None;
        }
        service.destinations.insert(place, destination);
        Some(place)
    }
}

/// The given family; else that of the real servers without a tunnel; else that of all of them.
fn is_ipv6(given: Option<AddressFamily>, block: &VirtualServerBlock) -> bool {
    if let Some(family) = given.or(block.family) {
        return family == AddressFamily::V6;
    }
    let method = |real: &RealServerBlock| real.method.or(block.method).map(|(method, _)| method);
    let fixed = block.reals.iter().find(|real| method(real) != Some(ForwardingMethod::Tunnel));
    match fixed {
        Some(fixed) => fixed.address.is_ipv6(),
        None => !block.reals.is_empty() && block.reals.iter().all(|real| real.address.is_ipv6()),
    }
}
