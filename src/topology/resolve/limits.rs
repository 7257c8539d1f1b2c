//! How much one file may describe.
//!
//! A text of a few MiB can multiply: each port of `ports` is a service of its own with every real server
//! of the entry, and rules look at ways from every client to every one of them. What would take minutes or
//! gigabytes is refused before it is made. Clusters that are run are far below: 1,000 services of 10 real
//! servers, asked by 100 clients, take a hundredth to a half of each limit.

use crate::finding::{Finding, Position};
use crate::topology::document::{Document, HostDoc, Said, ServiceDoc};
use crate::topology::model::Role;

/// Hosts.
const HOSTS: usize = 20_000;
/// Addresses of one host.
const ADDRESSES_OF_ONE: usize = 512;
/// Addresses of all hosts.
const ADDRESSES: usize = 50_000;
/// Subnets of all networks.
const SUBNETS: usize = 4_096;
/// Services of IPVS.
const SERVICES: usize = 20_000;
/// Real servers of all services together; those of a mark count once for each of its ports.
const DESTINATIONS: usize = 100_000;
/// Clients, times services and their real servers, times machines that forward.
const WAYS: usize = 20_000_000;
/// Services with a mark, times services.
const MARKS: usize = 4_000_000;

/// What is counted, and where the count stands.
struct Count {
    at: Position,
    what: &'static str,
    number: usize,
    most: usize,
}

/// The first limit that the file breaks.
pub(super) fn broken(document: &Document) -> Option<Finding> {
    let counts = [subnets(document), hosts(document), services(document)].into_iter().flatten();
    let Count { at, what, number, most } = counts.into_iter().find(|c| c.number > c.most)?;
    Some(Finding::error(
        "too-large",
        at,
        format!("the file describes {number} {what} up to here; {most} is the most"),
        "reading hosts, planning and checking take time and memory for each of them: a file like that is an accident or an attack",
        "split the cluster into several files; for many ports of one address write `port: any`, or mark the packets",
    ))
}

fn count(at: Position, what: &'static str, number: usize, most: usize) -> Count {
    Count { at, what, number, most }
}

/// Where the sum of what `all` hold first passes `most`, or where it ends.
fn sum(
    what: &'static str,
    most: usize,
    all: impl Iterator<Item = (Position, usize)>,
) -> Option<Count> {
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

fn subnets(document: &Document) -> Vec<Count> {
    let all = document.networks.iter().map(|network| (network.name.at, network.subnets.len()));
    sum("subnets", SUBNETS, all).into_iter().collect()
}

fn hosts(document: &Document) -> Vec<Count> {
    let of = |host: &HostDoc| host.interfaces.iter().map(|i| i.addresses.len().max(1)).sum();
    let all = || document.hosts.iter().map(|host| (host.name.at, of(host)));
    let mut counts: Vec<Count> =
        all().map(|(at, n)| count(at, "addresses of one host", n, ADDRESSES_OF_ONE)).collect();
    counts.extend(sum("addresses", ADDRESSES, all()));
    counts.extend(sum("hosts", HOSTS, document.hosts.iter().map(|host| (host.name.at, 1))));
    counts
}

/// How many ports an entry names.
fn ports(doc: &ServiceDoc) -> usize {
    doc.ports.value().map_or(1, |ports| ports.value.len().max(1))
}

fn services(document: &Document) -> Vec<Count> {
    let has =
        |role: Role| document.hosts.iter().filter(move |h| h.roles.iter().any(|r| r.value == role));
    let has_mark = |doc: &&ServiceDoc| doc.mark != Said::Nothing;
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
            "ways (clients, times services and real servers, times hosts that forward)",
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
