//! The rule that walks: a request that is not answered, whatever the reason.

use std::collections::BTreeMap;

use super::{MAX_FINDINGS, Subject, cure};
use crate::desired::{ExpectedRequest, expected_requests, world};
use crate::finding::{Finding, Position};
use crate::walk::{Death, WalkVerdict};

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
    let more = match more {
        0 => String::new(),
        1 => " (and 1 more pair of client and real server)".to_owned(),
        more => format!(" (and {more} more pairs of client and real server)"),
    };
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
