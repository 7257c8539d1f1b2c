//! Requests through the services, from the clients of the file: which client sends them where, what the
//! answers verify, and when they are sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::health;
use super::requests::unexpected;
use super::session::{HostAbsence, Observations, Session};
use super::verify::{Excuse, Verdict, Verification};
use crate::desired::service_key;
use crate::names::{HostName, ServiceName};
use crate::protocol::{Fetched, Reply, Request};
use crate::state::Protocol;
use crate::topology::{Host, Role, Service, Topology};

/// How long one request may take, in milliseconds: TCP has sent its first packet twice by then.
const FETCH_TIMEOUT_MS: u32 = 3000;
/// Between an unanswered request and the next one.
const AGAIN: Duration = Duration::from_millis(500);
/// How many requests are sent at once at most: the controller cannot call them back.
const AT_ONCE: u32 = 8;

/// How the network is verified.
#[derive(Debug, Clone, Default)]
pub struct TrafficOptions {
    /// Hosts that are not as the file says, and why: such a director or client verifies nothing.
    pub unfit: BTreeMap<HostName, String>,
    /// Services that answered clients shortly before the change: there a refusal is no excuse.
    pub in_use: BTreeSet<ServiceName>,
    /// For how long failing requests are sent again: a moved VIP is still in other_topologies' caches, a switch
    /// learns, a server warms up.
    pub settle: Duration,
    /// After this time no further service is tried; `None`: all are.
    pub limit: Option<Duration>,
    /// Whether to stop at the first claim that requires an abort.
    pub stops: bool,
}

/// Requests of one client to one address of a service.
struct Probe<'a> {
    client: &'a HostName,
    service: &'a Service,
    protocol: Protocol,
    at: SocketAddr,
}

/// Every able client sends requests to every service.
pub async fn verify(
    session: &mut Session<'_>,
    observed: &Observations,
    options: &TrafficOptions,
) -> Vec<Verification> {
    // No request is expected at a real server that a health checker has out.
    let topology = &*health::present_weights(session.topology, observed);
    let absent = session.absent().clone();
    let started = Instant::now();
    let mut verifications = Vec::new();
    for service in &topology.services {
        let clients = match clients(topology, service, &absent, &options.unfit) {
            Ok(clients) => clients,
            Err(why) => {
                verifications.push(not_tried(service, &why));
                continue;
            }
        };
        let targets = targets(service);
        let pairs = clients.iter().flat_map(|client| targets.iter().map(move |at| (client, at)));
        for (client, (protocol, at)) in pairs {
            if session.console().stop_requested() {
                return verifications;
            }
            if let Some(limit) = options.limit.filter(|limit| started.elapsed() >= *limit) {
                let seconds = limit.as_secs();
                verifications
                    .push(not_tried(service, &format!("the {seconds} s for it were over")));
                break;
            }
            let probe = Probe { client, service, protocol: *protocol, at: *at };
            let verification = probe.run(session, options, started + options.settle).await;
            let last = options.stops && verification.requires_abort();
            verifications.push(verification);
            if last {
                return verifications;
            }
        }
    }
    verifications
}

/// Every service, with the reason why no request is sent.
pub fn not_sent(topology: &Topology, why: &str) -> Vec<Verification> {
    topology.services.iter().map(|service| not_tried(service, why)).collect()
}

fn not_tried(service: &Service, why: &str) -> Verification {
    Verification {
        claim: format!("a client is answered by {}", precise_name(service)),
        verdict: Verdict::NotChecked,
        evidence: why.to_owned(),
        service: Some(service.display_name()),
        excuse: None,
    }
}

/// The clients that send requests to `service`.
///
/// # Errors
/// There is none; why.
pub(super) fn clients<'t>(
    topology: &'t Topology,
    service: &Service,
    absent: &BTreeMap<HostName, HostAbsence>,
    unfit: &BTreeMap<HostName, String>,
) -> Result<Vec<&'t HostName>, String> {
    if targets(service).is_empty() {
        return Err(no_target(service).to_owned());
    }
    if active(service) == 0 {
        return Err("all of its real servers have weight 0".to_owned());
    }
    if let Some(why) = unfit.get(&service.director) {
        return Err(format!("{} {why}", service.director));
    }
    let mut able = Vec::new();
    let mut unable = Vec::new();
    for client in topology.with_role(Role::Client) {
        match why_unable(client, service, absent, unfit) {
            None => able.push(&client.name),
            Some(why) => unable.push(format!("{} {why}", client.name)),
        }
    }
    if !able.is_empty() {
        return Ok(able);
    }
    if unable.is_empty() {
        return Err("the file has no client to send requests from".to_owned());
    }
    let more = unable.len().saturating_sub(3);
    unable.truncate(3);
    let more = if more > 0 { format!(", and so on for {more} more") } else { String::new() };
    Err(format!("no client can send requests: {}{more}", unable.join(", ")))
}

/// Why `client` sends no requests to `service`; `None`: it can.
fn why_unable(
    client: &Host,
    service: &Service,
    absent: &BTreeMap<HostName, HostAbsence>,
    unfit: &BTreeMap<HostName, String>,
) -> Option<String> {
    match absent.get(&client.name) {
        Some(HostAbsence::Unmanaged) => {
            return Some("has no `ssh`, `local` or `netns` in the file".to_owned());
        }
        Some(HostAbsence::LeftOut) => return Some("is left out by --limit".to_owned()),
        Some(HostAbsence::Unreachable(_)) => return Some("could not be reached".to_owned()),
        None => {}
    }
    if let Some(why) = unfit.get(&client.name) {
        return Some(why.clone());
    }
    // Its packets take another way than a client's: on a real server the VIP is local, and under DR and TUN
    // a director drops replies from its own address.
    if client.name == service.director {
        return Some("is its director".to_owned());
    }
    if service.real_servers.iter().any(|server| server.host == client.name) {
        return Some("is one of its real servers".to_owned());
    }
    let vip = service.vip_address()?;
    let mut addresses = client.interfaces.values().flat_map(|i| &i.addresses).peekable();
    let unknown = addresses.peek().is_none();
    let has = addresses.any(|net| net.addr().is_ipv6() == vip.is_ipv6());
    let family = if vip.is_ipv6() { "IPv6" } else { "IPv4" };
    (!unknown && !has).then(|| format!("has no {family} address"))
}

/// Where requests can be sent for `service`: every port that the file names, over TCP and UDP. Empty where
/// the file names no VIP or no port: it does not say which of all ports answers.
pub(crate) fn targets(service: &Service) -> Vec<(Protocol, SocketAddr)> {
    let Some(vip) = service.vip_address() else { return Vec::new() };
    let known = service.protocols().into_iter().filter(|protocol| *protocol != Protocol::Sctp);
    let ports = service.ports();
    known
        .flat_map(|protocol| ports.iter().map(move |port| (protocol, SocketAddr::new(vip, *port))))
        .collect()
}

fn no_target(service: &Service) -> &'static str {
    if service.vip.is_none() {
        "the file does not say to which address requests go: others' rules set the mark"
    } else if service.ports().is_empty() {
        "the file does not say which of all ports answers"
    } else {
        "lvsprov sends TCP and UDP requests only"
    }
}

/// `web (tcp 192.0.2.1:80)`, or only the latter where the file gives no name.
fn precise_name(service: &Service) -> String {
    let (name, key) = (service.display_name(), service_key(service).to_string());
    if name == key { key } else { format!("{name} ({key})") }
}

/// How many real servers get new connections.
fn active(service: &Service) -> u32 {
    let active = service.real_servers.iter().filter(|server| server.weight > 0).count();
    u32::try_from(active).unwrap_or(u32::MAX)
}

/// Twice as many as real servers, so that round robin reaches each twice; 2 to 50.
pub(super) fn requests_for(service: &Service) -> u32 {
    active(service).saturating_mul(2).clamp(2, 50)
}

/// Whether more requests may show more: requests that fail slowly are not repeated.
fn goes_on(all: &Fetched, sent: u32, service: &Service) -> bool {
    all.failures.keys().all(|reason| match reason.as_str() {
        Fetched::REFUSED | Fetched::RESET => true,
        // Each takes its whole timeout: once for a few real servers.
        Fetched::SILENT => sent < active(service).min(AT_ONCE),
        _ => false,
    })
}

impl Probe<'_> {
    /// Sends requests again until the claim holds, the client is lost, or `until`.
    async fn run(
        &self,
        session: &mut Session<'_>,
        options: &TrafficOptions,
        until: Instant,
    ) -> Verification {
        loop {
            let answer = self.ask(session).await;
            let gone = answer.is_err();
            let verification = self.judge(answer, options);
            let stop = session.console().stop_requested();
            if !verification.requires_abort() || gone || stop || Instant::now() + AGAIN >= until {
                return verification;
            }
            sleep(AGAIN).await;
        }
    }

    /// Sends requests, few at first.
    async fn ask(&self, session: &mut Session<'_>) -> Result<Fetched, String> {
        let count = requests_for(self.service);
        let mut all = Fetched::default();
        let (mut sent, mut next) = (0, 1);
        while sent < count && goes_on(&all, sent, self.service) {
            let part = next.min(count - sent);
            let request = Request::Fetch {
                target: self.at,
                protocol: self.protocol,
                count: part,
                timeout_ms: FETCH_TIMEOUT_MS,
            };
            let asked = BTreeMap::from([(self.client.clone(), request)]);
            let fetched = match session.ask(asked).await.remove(self.client) {
                Some(Ok(Reply::Fetched(fetched))) => fetched,
                Some(Ok(other)) => return Err(unexpected(&other).to_string()),
                Some(Err(error)) => return Err(error.into_failure().to_string()),
                None => return Err(session.why_absent(self.client).to_string()),
            };
            for (of, from) in
                [(&mut all.answers, fetched.answers), (&mut all.failures, fetched.failures)]
            {
                for (what, times) in from {
                    let count: &mut u32 = of.entry(what).or_default();
                    *count = count.saturating_add(times);
                }
            }
            sent += part;
            next = (next * 2).min(AT_ONCE);
            if session.console().stop_requested() {
                break;
            }
        }
        Ok(all)
    }

    fn judge(&self, answer: Result<Fetched, String>, options: &TrafficOptions) -> Verification {
        let Self { client, service, protocol, at } = self;
        let mut claim = format!("{client} is answered by {}", precise_name(service));
        // A service with several ports has a claim for each.
        if service.mark.is_some() {
            let _ = write!(claim, " on {protocol} {at}");
        }
        let service_name = Some(service.display_name());
        let fetched = match answer {
            Ok(fetched) => fetched,
            Err(why) => {
                let (verdict, evidence) = (Verdict::Fails, format!("{client}: {why}"));
                return Verification {
                    claim,
                    verdict,
                    evidence,
                    service: service_name,
                    excuse: None,
                };
            }
        };
        let answered: u32 = fetched.answers.values().sum();
        let failed: u32 = fetched.failures.values().sum();
        let mut evidence = format!("{answered} of {} requests answered", answered + failed);
        for (reason, count) in &fetched.failures {
            let _ = write!(evidence, "; {count} failed: {reason}");
            if let Some(meaning) = meaning(reason, *protocol) {
                let _ = write!(evidence, " ({meaning})");
            }
        }
        if failed == 0 && answered > 0 {
            let verdict = Verdict::Holds;
            return Verification { claim, verdict, evidence, service: service_name, excuse: None };
        }
        let used = options.in_use.contains(&service.name);
        let excuse = excuse(service, *protocol, &fetched);
        if used && excuse == Some(Excuse::Replied) {
            evidence.push_str("; clients were answered shortly before this change");
        }
        let excuse = excuse.filter(|excuse| !(used && *excuse == Excuse::Replied));
        Verification { claim, verdict: Verdict::Fails, evidence, service: service_name, excuse }
    }
}

/// The excuse for requests none of which was answered. Where some were, every real server must answer.
///
/// A real server refuses from the VIP (`tcp_v4_send_reset` and `icmp_send` answer from the address that was
/// asked), under NAT after the director has rewritten it: a refusal has gone the whole way. The director
/// itself refuses packets that IPVS does not take. It takes all packets to an address and port of its table,
/// but rules outside lvsprov may fail to set a mark.
fn excuse(service: &Service, protocol: Protocol, fetched: &Fetched) -> Option<Excuse> {
    let reasons = || fetched.failures.keys().map(String::as_str);
    if fetched.answers.values().sum::<u32>() > 0 || fetched.failures.is_empty() {
        return None;
    }
    let replied =
        |reason: &str| matches!(reason, Fetched::REFUSED | Fetched::RESET | Fetched::SILENT);
    let certain = service.mark.as_ref().is_none_or(|mark| mark.ours);
    if certain && reasons().all(replied) {
        return Some(Excuse::Replied);
    }
    let datagrams = protocol == Protocol::Udp && reasons().all(|r| r == Fetched::TIMED_OUT);
    datagrams.then_some(Excuse::Datagrams)
}

/// What a reason says about the way; `None`: it is clear by itself.
fn meaning(reason: &str, protocol: Protocol) -> Option<&'static str> {
    Some(match reason {
        Fetched::TIMED_OUT if protocol == Protocol::Udp => {
            "nothing came back; an application need not answer what it does not understand"
        }
        Fetched::TIMED_OUT => "nothing came back: packets are dropped on the way there or back",
        Fetched::SILENT => "the way works; the application did not answer in time",
        Fetched::REFUSED => "the way works; nothing listens there on the real server",
        Fetched::RESET => "the way works; the application ended the connection",
        Fetched::NO_ROUTE => "the client has no route to the VIP",
        Fetched::UNREACHABLE => "the next hop does not answer ARP, or a router has no route",
        // IPVS rejects where no real server takes a connection (`ip_vs_leave`); most firewalls reject too.
        _ if reason.starts_with(Fetched::REJECTED_BY) => {
            "ICMP: a firewall rejects it, or IPVS has no real server to give it to"
        }
        _ => return None,
    })
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
