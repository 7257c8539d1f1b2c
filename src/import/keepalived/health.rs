//! Health checks of a virtual server: which real server has which, quorum and sorry server; or all of them stay with
//! keepalived, where a topology has no words for one of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::checks as written;
use super::super::remark::{Remark, RemarkKind, Remarks, quote};
use super::super::rules::ServiceHealth;
use super::super::words;
use super::KeepalivedReader;
use super::checks::{ALPHA, CheckPlace, CheckSettings, read, remark};
use super::groups::GroupMember;
use super::methods::ForwardMethod;
use super::servers::{RealServerBlock, VirtualServerBlock};
use super::tree::Statement;
use crate::state::{
    Destination, DestinationKey, ForwardingMethod, Protocol, ServiceKey, Tunnel, VirtualService,
};
use crate::topology::{Check, CheckQuestion, CheckWay};

/// What a virtual server says about health checks of all its real servers.
#[derive(Debug, Default)]
pub(super) struct HealthBlock {
    /// What its checks inherit.
    pub settings: CheckSettings,
    /// `quorum`, with its line.
    pub quorum: Option<(u32, u32)>,
    pub sorry: Option<SorryServer>,
    /// A topology has no words for one of its checks: keepalived goes on with all of them.
    pub external: bool,
}

/// `sorry_server`.
#[derive(Debug)]
pub(super) struct SorryServer {
    line: u32,
    address: IpAddr,
    port: u16,
    pub method: Option<ForwardMethod>,
}

impl KeepalivedReader {
    /// A statement of a virtual server about health checks; `false` if it is about something else.
    pub(super) fn health_statement(
        &mut self,
        health: &mut HealthBlock,
        statement: &Statement,
    ) -> bool {
        let note = |why: &str| {
            remark(RemarkKind::NotExpressible, statement.line, statement.keyword(), why)
        };
        match statement.keyword() {
            _ if health.settings.take(statement) => {}
            "quorum" => {
                let quorum = self.number(statement, i32::MAX.cast_unsigned());
                health.quorum = Some((quorum.unwrap_or(1).max(1), statement.line));
            }
            "sorry_server" => {
                let address = statement.word(1).and_then(words::address);
                let port = words::port(statement.word(2).unwrap_or("0"));
                match (address, port) {
                    (Some(address), Some(port)) => {
                        let (line, method) = (statement.line, None);
                        health.sorry = Some(SorryServer { line, address, port, method });
                    }
                    _ => self.remarks.not_understood(
                        quote(&statement.words.join(" ")),
                        "it is not an address with a port; left out",
                    ),
                }
            }
            "sorry_server_lvs_method" => {
                let method = self.method(statement);
                if let Some(sorry) = &mut health.sorry {
                    sorry.method = method;
                }
            }
            "alpha" => self.check_remarks.push(note(ALPHA)),
            "inhibit_on_failure" => self.check_remarks.push(note(INHIBIT)),
            "sorry_server_inhibit" => self.check_remarks.push(note(
                "the sorry server is in the table only while it is needed, and not with weight 0 before",
            )),
            "hysteresis" => self.check_remarks.push(note(
                "the quorum is lost and regained at the same sum of weights",
            )),
            "omega" => self.check_remarks.push(note(
                "it decides which scripts run when keepalived stops, and a topology has none",
            )),
            "ha_suspend" => self.check_remarks.push(note(
                "checks run whether or not the director has the VIP",
            )),
            _ => return false,
        }
        true
    }

    /// A statement of a real server about health checks; `false` if it is about something else.
    pub(super) fn real_health_statement(
        &mut self,
        real: &mut RealServerBlock,
        statement: &Statement,
    ) -> bool {
        let keyword = statement.keyword();
        match keyword {
            _ if real.settings.take(statement) => {}
            _ if is_check(keyword) => real.checks.push(statement.clone()),
            "alpha" | "inhibit_on_failure" => {
                if !matches!(statement.word(1), Some("false" | "off" | "no")) {
                    let why = if keyword == "alpha" { ALPHA } else { INHIBIT };
                    let line = statement.line;
                    let note = remark(RemarkKind::NotExpressible, line, keyword, why);
                    self.check_remarks.push(note);
                }
            }
            _ => return false,
        }
        true
    }

    /// Reads the checks of all real servers. What keepalived keeps, or what has no effect, gets a remark.
    pub(super) fn read_checks(
        &mut self,
        block: &mut VirtualServerBlock,
        members: &[GroupMember],
        name: &str,
    ) {
        let checks: usize = block.reals.iter().map(|real| real.checks.len()).sum();
        if checks == 0 {
            self.idle(&block.health, &block.reals);
            return;
        }
        let vip = match members {
            [GroupMember::Address(address, _)] => Some(*address),
            _ => None,
        };
        let mut remarks = Vec::new();
        let mut refused = Vec::new();
        for real in &mut block.reals {
            match self.check_of(real, &block.health.settings, vip) {
                Ok(Some((check, more))) => {
                    real.check = Some(check);
                    remarks.extend(more);
                }
                Ok(None) => {}
                Err(why) => refused.push(why),
            }
        }
        if refused.is_empty() {
            self.check_remarks.extend(remarks);
            self.shared_by_members(block, members, name);
            return;
        }
        block.health.external = true;
        self.check_remarks.extend(refused);
        self.kept_by_keepalived(block, name);
    }

    /// The check of a real server, if it has one.
    fn check_of(
        &mut self,
        real: &RealServerBlock,
        of_service: &CheckSettings,
        vip: Option<IpAddr>,
    ) -> Result<Option<(Check, Vec<Remark>)>, Remark> {
        let [block] = real.checks.as_slice() else {
            let Some(second) = real.checks.get(1) else { return Ok(None) };
            let what = format!("{} as a second check", second.keyword());
            let why = "a real server has one check in a topology";
            return Err(remark(RemarkKind::NotExpressible, second.line, what, why));
        };
        let place = CheckPlace {
            block,
            rip: real.address,
            port: real.port,
            vip,
            real_server: &real.settings,
            virtual_server: of_service,
            script_user: &self.script_user,
        };
        let (check, remarks) = read(&place)?;
        let text = written::value(&check, false);
        let known = self.judged_checks.entry(text);
        let refused = known.or_insert_with_key(|text| written::why_refused(text));
        match refused {
            None => Ok(Some((check, remarks))),
            Some(why) => {
                Err(remark(RemarkKind::NotExpressible, block.line, block.keyword(), why.clone()))
            }
        }
    }

    /// Without a check, keepalived never takes a real server out.
    fn idle(&mut self, health: &HealthBlock, reals: &[RealServerBlock]) {
        let settings = health.settings.statements().map(|it| (it.keyword().to_owned(), it.line));
        let quorum = health.quorum.map(|(_, line)| ("quorum".to_owned(), line));
        let sorry = health.sorry.as_ref().map(|sorry| ("sorry_server".to_owned(), sorry.line));
        let of_reals = reals.iter().flat_map(|real| real.settings.statements());
        let of_reals = of_reals.map(|it| (it.keyword().to_owned(), it.line));
        for (what, line) in settings.chain(quorum).chain(sorry).chain(of_reals) {
            let why = "no real server of this virtual_server has a check, so it has no effect";
            self.check_remarks.push(remark(RemarkKind::NotExpressible, line, what, why));
        }
    }

    /// keepalived asks once for all addresses of a group.
    fn shared_by_members(
        &mut self,
        block: &VirtualServerBlock,
        members: &[GroupMember],
        name: &str,
    ) {
        if members.len() > 1 {
            let line = block.line;
            self.check_remarks.push(remark(
                RemarkKind::Guessed,
                line,
                format!("checks of virtual_server {name}"),
                format!(
                    "one for each of its {} services: keepalived asks once for the whole group",
                    members.len()
                ),
            ));
        }
        let real = block.reals.iter().find(|real| {
            let way = real.check.as_ref().map(|check| check.way);
            let rewrites = real.method(block).0 == ForwardingMethod::Masquerade;
            way == Some(CheckWay::Rip) && !rewrites
        });
        if real.is_some() && !self.said_via_rip {
            self.said_via_rip = true;
            self.check_remarks.push(Remark::general(
                RemarkKind::Guessed,
                "via: rip",
                "the source checks the RIP. Without it checks go to the VIP as requests of clients do, and find a real server \
                 without VIP too",
            ));
        }
    }

    /// One remark with everything that stays in the configuration of keepalived.
    fn kept_by_keepalived(&mut self, block: &VirtualServerBlock, name: &str) {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        let mut add = |keyword: &str| *count.entry(keyword.to_owned()).or_default() += 1;
        for real in &block.reals {
            real.checks.iter().for_each(|check| add(check.keyword()));
            real.settings.statements().for_each(|it| add(it.keyword()));
        }
        block.health.settings.statements().for_each(|it| add(it.keyword()));
        block.health.quorum.iter().for_each(|_| add("quorum"));
        block.health.sorry.iter().for_each(|_| add("sorry_server"));
        let names: Vec<_> = count
            .into_iter()
            .map(|(name, count)| if count == 1 { name } else { format!("{name} ({count} times)") })
            .collect();
        self.check_remarks.push(remark(
            RemarkKind::NotExpressible,
            block.line,
            format!("{} of virtual_server {name}", names.join(", ")),
            "a topology has no words for one of its checks, so all stay in keepalived's own configuration: `weights: external`",
        ));
    }

    /// What the file says about the health of one service.
    pub(super) fn health_of(
        &mut self,
        key: &ServiceKey,
        service: &VirtualService,
        block: &VirtualServerBlock,
        places: &BTreeMap<DestinationKey, usize>,
    ) -> Option<ServiceHealth> {
        let mut health = ServiceHealth::default();
        for (place, real) in places {
            let Some(check) = block.reals.get(*real).and_then(|real| real.check.as_ref()) else {
                continue;
            };
            let port = check.port.filter(|port| Some(*port) != usual_port(key, place, check));
            health.checks.insert(*place, Check { port, ..check.clone() });
        }
        if health.checks.is_empty() {
            return None;
        }
        health.quorum = self.quorum(service, block);
        let line = self.remarks.line;
        health.sorry_server = self.sorry_server(key, block);
        self.remarks.line = line;
        Some(health)
    }

    /// Above the sum of the weights keepalived lowers it (`validate_check_config`).
    fn quorum(&mut self, service: &VirtualService, block: &VirtualServerBlock) -> Option<u32> {
        let (quorum, line) = block.health.quorum?;
        // A real server on the director itself is left out later.
        let kept = service.destinations.iter().filter(|(at, _)| !is_local(at.0.ip()));
        let sum: u64 = kept.map(|(_, it)| u64::from(it.weight)).sum();
        let most = u32::try_from(sum).unwrap_or(u32::MAX);
        if quorum > most {
            let why = format!("{most}: the sum of the weights, as keepalived lowers it");
            let what = format!("quorum {quorum}");
            self.check_remarks.push(remark(RemarkKind::Guessed, line, what, why));
        }
        Some(quorum.min(most)).filter(|quorum| *quorum > 1)
    }

    fn sorry_server(
        &mut self,
        key: &ServiceKey,
        block: &VirtualServerBlock,
    ) -> Option<(DestinationKey, Destination)> {
        let sorry = block.health.sorry.as_ref()?;
        self.remarks.line = Some(sorry.line);
        let what = format!("sorry_server {}", SocketAddr::new(sorry.address, sorry.port));
        let (method, tunnel) =
            sorry.method.or(block.method).unwrap_or((ForwardingMethod::Masquerade, Tunnel::Ipip));
        let why = if is_local(sorry.address) {
            "it is a local address of the director; to use the director, give it the role real_server and name it"
        } else if sorry.address.is_ipv6() != key.is_ipv6() && method != ForwardingMethod::Tunnel {
            "a sorry server of another address family needs a tunnel"
        } else if block.reals.iter().any(|real| real.address == sorry.address) {
            "it is a real server of the same virtual_server, which may be dead where it is needed"
        } else {
            let port = port_of(key, method, sorry.port);
            let destination = Destination { tunnel, ..Destination::plain(method, 1) };
            return Some((DestinationKey::new(sorry.address, port), destination));
        };
        self.remarks.not_expressible(what, why);
        None
    }
}

/// Why `inhibit_on_failure` is left out.
const INHIBIT: &str =
    "a real server whose check fails is removed from the table, and gets no weight 0";

fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// The port of a destination: only NAT maps ports.
pub(super) fn port_of(key: &ServiceKey, method: ForwardingMethod, port: u16) -> u16 {
    let own = match key {
        ServiceKey::Address(_, vip) => vip.port(),
        ServiceKey::Fwmark { .. } => 0,
    };
    if method == ForwardingMethod::Masquerade && port != 0 { port } else { own }
}

/// The port that a check without `port` asks in a topology; `None`: it needs one.
fn usual_port(key: &ServiceKey, place: &DestinationKey, check: &Check) -> Option<u16> {
    let ServiceKey::Address(protocol, vip) = key else { return None };
    let asks = match &check.question {
        CheckQuestion::Tcp | CheckQuestion::Http(_) => Protocol::Tcp,
        CheckQuestion::Dns { .. } => Protocol::Udp,
        CheckQuestion::Script { .. } => return None,
    };
    let port = if check.way == CheckWay::Vip { vip.port() } else { place.0.port() };
    (*protocol == asks && vip.port() != 0).then_some(port)
}

/// Whether a keyword of a real server is a check by which keepalived takes it out.
fn is_check(keyword: &str) -> bool {
    keyword.ends_with("_CHECK") || matches!(keyword, "HTTP_GET" | "SSL_GET")
}

/// Remarks of equal text as one, with the first line and how often.
pub(super) fn add_together(all: Vec<Remark>, remarks: &mut Remarks) {
    let mut count: BTreeMap<(RemarkKind, String, String), (Option<u32>, usize)> = BTreeMap::new();
    for Remark { line, host: _, kind, what, why } in all {
        let (first, times) = count.entry((kind, what, why)).or_insert((line, 0));
        *first = line.min(*first);
        *times += 1;
    }
    for ((kind, what, why), (line, times)) in count {
        let what = if times > 1 { format!("{what} ({times} times)") } else { what };
        remarks.all.push(Remark { line, host: None, kind, what, why });
    }
}
