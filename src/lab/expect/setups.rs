//! Expectations besides shares: persistence, ports of one service, the client's address as real servers
//! see it, large transfers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::lab::clients::{Response, Transfer, TransferDirection};

/// One request with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestResult {
    /// The client's address.
    pub source: IpAddr,
    /// The port of the VIP.
    pub port: u16,
    /// The response, or the reason of the failure.
    pub result: Result<Response, String>,
}

/// The result of a case: what was observed, or how it differs from the expectation.
pub type CaseOutcome = Result<String, String>;

/// Persistence: one real server of `open` answers all requests of a client, from and to every port. A
/// client is all addresses that are equal under `mask` (of the clients' address family). All clients
/// together use at least `apart` real servers: not simply one for all.
pub fn sticks(
    results: &[RequestResult],
    open: &BTreeSet<String>,
    mask: IpAddr,
    apart: usize,
) -> CaseOutcome {
    let mut clients: BTreeMap<IpAddr, BTreeMap<&str, BTreeSet<u16>>> = BTreeMap::new();
    for RequestResult { source, port, result } in results {
        let server = answered(*source, *port, result)?.server.as_str();
        if !open.contains(server) {
            return Err(format!("{source} was answered by {server}, which has weight 0"));
        }
        let servers = clients.entry(under(*source, mask)).or_default();
        servers.entry(server).or_default().insert(*port);
    }
    if clients.is_empty() {
        return Err("no request was sent".to_owned());
    }
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut observed = Vec::new();
    for (client, servers) in &clients {
        let listed: Vec<String> =
            servers.iter().map(|(server, ports)| format!("{server} ({})", on(ports))).collect();
        if servers.len() > 1 {
            return Err(format!(
                "{client} was answered by {}: persistence failed",
                listed.join(" and ")
            ));
        }
        used.extend(servers.keys().copied());
        let requests = results.iter().filter(|one| under(one.source, mask) == *client).count();
        observed.push(format!("{client} {requests} times by {}", listed.join("")));
    }
    if used.len() < apart {
        return Err(format!(
            "{}: expected {apart} real servers for all clients",
            observed.join(", ")
        ));
    }
    Ok(observed.join(", "))
}

fn answered(
    source: IpAddr,
    port: u16,
    result: &Result<Response, String>,
) -> Result<&Response, String> {
    result.as_ref().map_err(|why| format!("{source} to port {port}: {why}"))
}

fn on(ports: &BTreeSet<u16>) -> String {
    let listed: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("port{} {}", if listed.len() == 1 { "" } else { "s" }, listed.join(", "))
}

/// The client of an address: the address under the mask. A mask of another family changes nothing.
pub fn under(address: IpAddr, mask: IpAddr) -> IpAddr {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => (address & mask).into(),
        (IpAddr::V6(address), IpAddr::V6(mask)) => (address & mask).into(),
        (address, _) => address,
    }
}

/// Each of `ports` got a request, and each request a response.
pub fn answers_on_every_port(results: &[RequestResult], ports: &BTreeSet<u16>) -> CaseOutcome {
    let mut counts: BTreeMap<u16, u32> = ports.iter().map(|port| (*port, 0)).collect();
    for RequestResult { source, port, result } in results {
        answered(*source, *port, result)?;
        *counts.entry(*port).or_default() += 1;
    }
    if let Some((port, _)) = counts.iter().find(|(_, count)| **count == 0) {
        return Err(format!("no request was sent to port {port}"));
    }
    let observed: Vec<String> =
        counts.iter().map(|(port, count)| format!("{count} on port {port}")).collect();
    Ok(format!("answered {}", observed.join(", ")))
}

/// No response: IPVS does not forward an unmarked port, although real servers listen on it.
pub fn is_not_passed_on(results: &[RequestResult]) -> CaseOutcome {
    let mut reasons = BTreeSet::new();
    for RequestResult { source, port, result } in results {
        match result {
            Ok(answer) => {
                return Err(format!("{source} to port {port} was answered by {}", answer.server));
            }
            Err(why) => reasons.insert(format!("port {port}: {why}")),
        };
    }
    if reasons.is_empty() {
        return Err("no request was sent".to_owned());
    }
    Ok(reasons.into_iter().collect::<Vec<_>>().join(", "))
}

/// Each real server saw an expected client address: under FULLNAT one of the director's, otherwise one of
/// the client's. `may_see` is by real server.
pub fn sees(
    results: &[RequestResult],
    may_see: &BTreeMap<String, BTreeSet<IpAddr>>,
) -> CaseOutcome {
    let mut seen = BTreeSet::new();
    for RequestResult { source, port, result } in results {
        let Response { server, saw } = answered(*source, *port, result)?;
        let saw = saw.ok_or_else(|| format!("the response of {server} has no client address"))?;
        match may_see.get(server) {
            Some(may) if may.contains(&saw) => seen.insert((server.as_str(), saw)),
            Some(may) => {
                let may: Vec<String> = may.iter().map(ToString::to_string).collect();
                return Err(format!("{server} saw {saw}, not {}", may.join(" or ")));
            }
            None => return Err(format!("{server} is not a real server of this service")),
        };
    }
    if seen.is_empty() {
        return Err("no request was sent".to_owned());
    }
    let observed: Vec<String> =
        seen.iter().map(|(server, saw)| format!("{server} saw {saw}")).collect();
    Ok(observed.join(", "))
}

/// Real servers in `drained` (weight 0) got no requests, each one in `expected` got some.
pub fn is_drained(
    results: &[RequestResult],
    drained: &BTreeSet<String>,
    expected: &BTreeSet<String>,
) -> CaseOutcome {
    let mut by: BTreeMap<&str, u32> = BTreeMap::new();
    for RequestResult { source, port, result } in results {
        let server = answered(*source, *port, result)?.server.as_str();
        if drained.contains(server) {
            return Err(format!("{server} has weight 0, but answered {source}"));
        }
        *by.entry(server).or_default() += 1;
    }
    if let Some(idle) = expected.iter().find(|name| !by.contains_key(name.as_str())) {
        return Err(format!("{idle} answered no request"));
    }
    let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let observed: Vec<String> = by.iter().map(|(server, n)| format!("{server} {n}")).collect();
    Ok(format!("{} 0, {}", names(drained), observed.join(", ")))
}

/// One-packet scheduling: datagrams from one source port go to at least `least` real servers. Otherwise
/// they are one connection to one real server.
pub fn is_spread(results: &[Result<Response, String>], least: usize) -> CaseOutcome {
    let mut by: BTreeMap<&str, u32> = BTreeMap::new();
    for result in results {
        let answer = result.as_ref().map_err(|why| format!("a datagram got no response: {why}"))?;
        *by.entry(answer.server.as_str()).or_default() += 1;
    }
    let observed: Vec<String> = by.iter().map(|(server, n)| format!("{server} {n}")).collect();
    if by.len() < least {
        return Err(format!(
            "{}: from one source port, expected {least} real servers",
            observed.join(", ")
        ));
    }
    Ok(format!("{} from one source port", observed.join(", ")))
}

/// Large bodies arrived complete in both directions, without ICMP messages about too large packets:
/// firewalls often drop these, and then the transfer stalls.
pub fn arrived_complete(
    transfers: &[(TransferDirection, Result<Transfer, String>)],
    bytes: u64,
) -> CaseOutcome {
    let mut by: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (way, result) in transfers {
        let Transfer { server, too_large } =
            result.as_ref().map_err(|why| format!("{bytes} bytes {way}: {why}"))?;
        if *too_large > 0 {
            return Err(format!(
                "{bytes} bytes {way} to {server} needed {too_large} ICMP messages \"packet too large\": behind a \
                 firewall that drops them the transfer would stall"
            ));
        }
        by.entry(way.to_string()).or_default().insert(server);
    }
    for way in [TransferDirection::Up, TransferDirection::Down] {
        if !by.contains_key(&way.to_string()) {
            return Err(format!("no transfer {way}"));
        }
    }
    let observed: Vec<String> = by
        .iter()
        .map(|(way, servers)| {
            format!("{way} {}", servers.iter().copied().collect::<Vec<_>>().join(", "))
        })
        .collect();
    Ok(format!("{bytes} bytes {}; no ICMP needed", observed.join("; ")))
}

#[cfg(test)]
#[path = "setups_tests.rs"]
mod tests;
