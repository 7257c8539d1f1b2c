//! The rules that walk: a request that is not answered, whatever the reason; and large packets that are lost.

use std::collections::BTreeMap;

use super::{MAX_FINDINGS, Subject, cure};
use crate::desired::{ExpectedRequest, expected_requests, large_requests, world};
use crate::finding::{Finding, Position};
use crate::walk::{Death, LargeVerdict, WalkVerdict};

/// Requests that would not be answered after an apply.
pub(super) fn unanswered(subject: &Subject<'_>) -> Vec<Finding> {
    let world = world(subject.topology);
    // What dies at one place for one reason is one finding.
    let mut dead: BTreeMap<(Death, bool, bool), Vec<ExpectedRequest<'_>>> = BTreeMap::new();
    for expected in expected_requests(subject.topology) {
        let walk = world.walk(&expected.request);
        if let WalkVerdict::Dead { death, in_reply } = walk.end {
            dead.entry((death, in_reply, walk.by_chance)).or_default().push(expected);
        }
    }
    dead.into_iter()
        .take(MAX_FINDINGS)
        .filter_map(|((death, in_reply, by_chance), requests)| {
            let first = requests.first()?;
            let what = if in_reply { "the reply" } else { "the request" };
            let sometimes = if by_chance {
                " whenever another interface of a host answers ARP first"
            } else {
                ""
            };
            let why = format!("{what} is lost on its way{sometimes}, and no host logs it");
            let cure = cure::of_death(subject, &death);
            let at = position(subject, &death)?;
            Some(finding(&death, (why, cure), first, requests.len() - 1, at))
        })
        .collect()
}

/// Requests whose large packets would be lost after an apply, where small ones are answered.
pub(super) fn large_lost(subject: &Subject<'_>) -> Vec<Finding> {
    let world = world(subject.topology);
    let mut lost: BTreeMap<(Death, bool), Vec<ExpectedRequest<'_>>> = BTreeMap::new();
    for expected in large_requests(subject.topology) {
        let Some((up, down)) = world.large(&expected.request) else { continue };
        for verdict in [up, down] {
            if let LargeVerdict::Lost { death, in_reply } = verdict {
                lost.entry((death, in_reply)).or_default().push(expected);
            }
        }
    }
    let all = lost.into_iter().take(MAX_FINDINGS).filter_map(|((death, in_reply), requests)| {
        let ExpectedRequest { client, service, real_server, .. } = requests.first()?;
        let what = if in_reply { "downloads" } else { "uploads" };
        let message = format!(
            "{what} of {} from {} by {} hang: {death}{}",
            client.name,
            service.display_name(),
            real_server.host,
            more(requests.len() - 1)
        );
        let why =
            "small packets pass, so connections are made; full ones are lost, and no host logs it";
        let cure = cure::of_death(subject, &death);
        let at = position(subject, &death)?;
        Some(Finding::warning("large-packets-lost", at, message, why, cure))
    });
    all.collect()
}

/// ` (and 2 more pairs …)`.
fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (and 1 more pair of client and real server)".to_owned(),
        more => format!(" (and {more} more pairs of client and real server)"),
    }
}

/// Where the host stands that drops the packet.
fn position(subject: &Subject<'_>, death: &Death) -> Option<Position> {
    Some(subject.topology.hosts.get(&death.host)?.at)
}

fn finding(
    death: &Death,
    (why, cure): (String, String),
    first: &ExpectedRequest<'_>,
    more: usize,
    at: Position,
) -> Finding {
    let ExpectedRequest { client, service, real_server, .. } = first;
    let more = self::more(more);
    Finding::error(
        "no-answer",
        at,
        format!(
            "{} gets no answer from {} by {}: {death}{more}",
            client.name,
            service.display_name(),
            real_server.host
        ),
        why,
        cure,
    )
}
