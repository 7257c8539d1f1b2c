//! What a setup promises beyond shares: who a client stays with, which ports belong together, whom a
//! real server sees, what gets through whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::lab::clients::{Answer, Transfer, Way};

/// One request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The client's address.
    pub source: IpAddr,
    /// The port of the VIP.
    pub port: u16,
    /// Who answered, or why nobody did.
    pub result: Result<Answer, String>,
}

/// What was seen, or how that differs from what was promised.
type Verdict = Result<String, String>;

/// Persistence: all requests of one client, whatever port they come from and go to, are answered by
/// one real server of `open`. One client is to IPVS whoever has the same address under `mask` (an
/// address of ones and zeroes, of the clients' family). At least `apart` real servers are used by all
/// of them together: it is not simply one for everybody.
pub fn sticks(asked: &[Asked], open: &BTreeSet<String>, mask: IpAddr, apart: usize) -> Verdict {
    let mut clients: BTreeMap<IpAddr, BTreeMap<&str, BTreeSet<u16>>> = BTreeMap::new();
    for Asked { source, port, result } in asked {
        let server = answered(*source, *port, result)?.server.as_str();
        if !open.contains(server) {
            return Err(format!("{source} was answered by {server}, which takes no new clients"));
        }
        let servers = clients.entry(under(*source, mask)).or_default();
        servers.entry(server).or_default().insert(*port);
    }
    if clients.is_empty() {
        return Err("nothing was asked".to_owned());
    }
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut told = Vec::new();
    for (client, servers) in &clients {
        let listed: Vec<String> =
            servers.iter().map(|(server, ports)| format!("{server} ({})", on(ports))).collect();
        if servers.len() > 1 {
            return Err(format!(
                "{client} was answered by {}: it did not stay",
                listed.join(" and ")
            ));
        }
        used.extend(servers.keys().copied());
        let requests = asked.iter().filter(|one| under(one.source, mask) == *client).count();
        told.push(format!("{client} {requests} times by {}", listed.join("")));
    }
    if used.len() < apart {
        return Err(format!("{}: expected {apart} real servers for all of them", told.join(", ")));
    }
    Ok(told.join(", "))
}

fn answered(source: IpAddr, port: u16, result: &Result<Answer, String>) -> Result<&Answer, String> {
    result.as_ref().map_err(|why| format!("{source} to port {port}: {why}"))
}

fn on(ports: &BTreeSet<u16>) -> String {
    let listed: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("port{} {}", if listed.len() == 1 { "" } else { "s" }, listed.join(", "))
}

/// Who that is to IPVS. An address and a mask of different families have nothing in common.
pub fn under(address: IpAddr, mask: IpAddr) -> IpAddr {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => (address & mask).into(),
        (IpAddr::V6(address), IpAddr::V6(mask)) => (address & mask).into(),
        (address, _) => address,
    }
}

/// Each of `ports` was asked, and each request answered.
pub fn answers_on_every_port(asked: &[Asked], ports: &BTreeSet<u16>) -> Verdict {
    let mut counts: BTreeMap<u16, u32> = ports.iter().map(|port| (*port, 0)).collect();
    for Asked { source, port, result } in asked {
        answered(*source, *port, result)?;
        *counts.entry(*port).or_default() += 1;
    }
    if let Some((port, _)) = counts.iter().find(|(_, count)| **count == 0) {
        return Err(format!("nothing was asked on port {port}"));
    }
    let told: Vec<String> =
        counts.iter().map(|(port, count)| format!("{count} on port {port}")).collect();
    Ok(format!("answered {}", told.join(", ")))
}

/// Nobody answers: a port that is not marked is not passed on, although real servers listen there.
pub fn is_not_passed_on(asked: &[Asked]) -> Verdict {
    let mut reasons = BTreeSet::new();
    for Asked { source, port, result } in asked {
        match result {
            Ok(answer) => {
                return Err(format!("{source} to port {port} was answered by {}", answer.server));
            }
            Err(why) => reasons.insert(format!("port {port}: {why}")),
        };
    }
    if reasons.is_empty() {
        return Err("nothing was asked".to_owned());
    }
    Ok(reasons.into_iter().collect::<Vec<_>>().join(", "))
}

/// Each real server saw an address that it may see as the client: under FULLNAT one of the director's,
/// under everything else one of the client's own. `may_see` is by the server's name.
pub fn sees(asked: &[Asked], may_see: &BTreeMap<String, BTreeSet<IpAddr>>) -> Verdict {
    let mut seen = BTreeSet::new();
    for Asked { source, port, result } in asked {
        let Answer { server, saw } = answered(*source, *port, result)?;
        let saw = saw.ok_or_else(|| format!("{server} does not say whom it saw"))?;
        match may_see.get(server) {
            Some(may) if may.contains(&saw) => seen.insert((server.as_str(), saw)),
            Some(may) => {
                let may: Vec<String> = may.iter().map(ToString::to_string).collect();
                return Err(format!("{server} saw {saw} and not {}", may.join(" or ")));
            }
            None => return Err(format!("{server} is no real server of it")),
        };
    }
    if seen.is_empty() {
        return Err("nothing was asked".to_owned());
    }
    let told: Vec<String> =
        seen.iter().map(|(server, saw)| format!("{server} saw {saw}")).collect();
    Ok(told.join(", "))
}

/// Whoever takes no new clients (weight 0) answered nobody, everybody else who should did.
pub fn is_drained(
    asked: &[Asked],
    shut: &BTreeSet<String>,
    everybody: &BTreeSet<String>,
) -> Verdict {
    let mut by: BTreeMap<&str, u32> = BTreeMap::new();
    for Asked { source, port, result } in asked {
        let server = answered(*source, *port, result)?.server.as_str();
        if shut.contains(server) {
            return Err(format!("{server} has weight 0 and answered {source}"));
        }
        *by.entry(server).or_default() += 1;
    }
    if let Some(idle) = everybody.iter().find(|name| !by.contains_key(name.as_str())) {
        return Err(format!("{idle} answered nobody"));
    }
    let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let told: Vec<String> = by.iter().map(|(server, n)| format!("{server} {n}")).collect();
    Ok(format!("{} 0, {}", names(shut), told.join(", ")))
}

/// One-packet scheduling: datagrams from one port go to more than one real server. Without it they
/// are one connection and go to one.
pub fn is_spread(results: &[Result<Answer, String>], least: usize) -> Verdict {
    let mut by: BTreeMap<&str, u32> = BTreeMap::new();
    for result in results {
        let answer =
            result.as_ref().map_err(|why| format!("a datagram was not answered: {why}"))?;
        *by.entry(answer.server.as_str()).or_default() += 1;
    }
    let told: Vec<String> = by.iter().map(|(server, n)| format!("{server} {n}")).collect();
    if by.len() < least {
        return Err(format!("{}: from one port, expected {least} real servers", told.join(", ")));
    }
    Ok(format!("{} from one port", told.join(", ")))
}

/// Large bodies came through whole, each way, and nobody had to be told by ICMP that a packet was too
/// large: firewalls drop that, and then the transfer stalls.
pub fn came_through(transfers: &[(Way, Result<Transfer, String>)], bytes: u64) -> Verdict {
    let mut by: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (way, result) in transfers {
        let Transfer { server, too_large } =
            result.as_ref().map_err(|why| format!("{bytes} bytes {way}: {why}"))?;
        if *too_large > 0 {
            return Err(format!(
                "{bytes} bytes {way} to {server} took {too_large} ICMP messages \"too large\": where \
                 those are filtered it would have stalled"
            ));
        }
        by.entry(way.to_string()).or_default().insert(server);
    }
    for way in [Way::Up, Way::Down] {
        if !by.contains_key(&way.to_string()) {
            return Err(format!("nothing was sent {way}"));
        }
    }
    let told: Vec<String> = by
        .iter()
        .map(|(way, servers)| {
            format!("{way} {}", servers.iter().copied().collect::<Vec<_>>().join(", "))
        })
        .collect();
    Ok(format!("{bytes} bytes {}; no ICMP was needed", told.join("; ")))
}

#[cfg(test)]
#[path = "setups_tests.rs"]
mod tests;
