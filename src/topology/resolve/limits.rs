//! Limits on the size of a topology.
//!
//! A few MiB of text can describe millions of paths: each port of `ports` is one service with every real
//! server of the entry, and rules walk from every client to every real server. A topology that would take
//! minutes or gigabytes is refused before it is resolved. Clusters in production are far below: 1,000
//! services with 10 real servers and 100 clients use between a hundredth and a half of each limit.

use crate::finding::{Finding, Position};
use crate::topology::document::{Document, Field, HostDoc, ServiceDoc};
use crate::topology::model::Role;

/// Hosts.
const HOSTS: usize = 20_000;
/// Addresses of one host.
const ADDRESSES_OF_ONE: usize = 512;
/// Addresses of all hosts.
const ADDRESSES: usize = 50_000;
/// Static routes of one host.
const ROUTES_OF_ONE: usize = 512;
/// Static routes of all hosts.
const ROUTES: usize = 50_000;
/// Subnets of all networks.
const SUBNETS: usize = 4_096;
/// IPVS services.
const SERVICES: usize = 20_000;
/// Real servers of all services; with a mark, each counts once for each of its ports.
const DESTINATIONS: usize = 100_000;
/// Clients times (services and real servers) times hosts that forward.
const WAYS: usize = 20_000_000;
/// Static routes times clients.
const ROUTES_TO_CLIENTS: usize = 20_000_000;
/// Services with a mark times services.
const MARKS: usize = 4_000_000;

/// A count, and the position where it reached that number.
struct LimitCount {
    at: Position,
    what: &'static str,
    number: usize,
    most: usize,
}

/// The first limit that the file exceeds.
pub(super) fn exceeded(document: &Document) -> Option<Finding> {
    let counts = [subnets(document), hosts(document), services(document)].into_iter().flatten();
    let LimitCount { at, what, number, most } = counts.into_iter().find(|c| c.number > c.most)?;
    Some(Finding::error(
        "too-large",
        at,
        format!("the file has {number} {what} up to here; the limit is {most}"),
        "checks and plans take time and memory for each of them: such a file is an accident or an attack",
        "split the cluster into several files; for many ports of one address write `port: any`, or mark the packets",
    ))
}

fn count(at: Position, what: &'static str, number: usize, most: usize) -> LimitCount {
    LimitCount { at, what, number, most }
}

/// The position where the sum over `all` first exceeds `most`, or the last one.
fn sum(
    what: &'static str,
    most: usize,
    all: impl Iterator<Item = (Position, usize)>,
) -> Option<LimitCount> {
    let mut last = None;
    let mut number = 0_usize;
    for (at, more) in all {
        number = number.saturating_add(more);
        last = Some(count(at, what, number, most));
        if number > most {
            break;
        }
    }
    last
}

fn subnets(document: &Document) -> Vec<LimitCount> {
    let all = document.networks.iter().map(|network| (network.name.at, network.subnets.len()));
    sum("subnets", SUBNETS, all).into_iter().collect()
}

fn hosts(document: &Document) -> Vec<LimitCount> {
    let of = |host: &HostDoc| host.interfaces.iter().map(|i| i.addresses.len().max(1)).sum();
    let all = || document.hosts.iter().map(|host| (host.name.at, of(host)));
    let mut counts: Vec<LimitCount> =
        all().map(|(at, n)| count(at, "addresses of one host", n, ADDRESSES_OF_ONE)).collect();
    counts.extend(sum("addresses", ADDRESSES, all()));
    let routes = || document.hosts.iter().map(|host| (host.name.at, host.routes.valid.len()));
    counts.extend(routes().map(|(at, n)| count(at, "routes of one host", n, ROUTES_OF_ONE)));
    counts.extend(sum("routes", ROUTES, routes()));
    let is_client = |host: &&HostDoc| host.roles.iter().any(|role| role.value == Role::Client);
    let clients = document.hosts.iter().filter(is_client).count();
    let pairs = routes().map(|(at, n)| (at, n.saturating_mul(clients)));
    counts.extend(sum("pairs of a route and a client", ROUTES_TO_CLIENTS, pairs));
    counts.extend(sum("hosts", HOSTS, document.hosts.iter().map(|host| (host.name.at, 1))));
    counts
}

/// Number of ports of an entry; 1 for `any` or a default.
fn ports(doc: &ServiceDoc) -> usize {
    doc.ports.value().map_or(1, |ports| ports.value.len().max(1))
}

fn services(document: &Document) -> Vec<LimitCount> {
    let has =
        |role: Role| document.hosts.iter().filter(move |h| h.roles.iter().any(|r| r.value == role));
    let has_mark = |doc: &&ServiceDoc| doc.mark != Field::Missing;
    let made = |doc: &ServiceDoc| if has_mark(&doc) { 1 } else { ports(doc) };
    let destinations = |doc: &ServiceDoc| ports(doc).saturating_mul(doc.real_servers.len());
    let all = || document.services.iter();
    let clients = has(Role::Client).count();
    let forwarding = 1 + has(Role::Router).count() + has(Role::Director).count();
    let ways = |doc: &ServiceDoc| {
        let ends = made(doc).saturating_add(destinations(doc));
        (clients + 1).saturating_mul(ends).saturating_mul(forwarding)
    };
    let marks = all().filter(has_mark).count();
    let counts = [
        sum("services", SERVICES, all().map(|doc| (doc.at, made(doc)))),
        sum("real servers of services", DESTINATIONS, all().map(|doc| (doc.at, destinations(doc)))),
        sum(
            "paths (clients times services and real servers times hosts that forward)",
            WAYS,
            all().map(|doc| (doc.at, ways(doc))),
        ),
        sum(
            "pairs of a mark and a service",
            MARKS,
            all().map(|doc| (doc.at, marks.saturating_mul(made(doc)))),
        ),
    ];
    counts.into_iter().flatten().collect()
}
