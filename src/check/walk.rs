//! The rule that walks: a request that is not answered, whatever the reason.

use std::collections::BTreeMap;

use super::{MAX_FINDINGS, Subject};
use crate::desired::{ExpectedRequest, desired, expected_requests};
use crate::finding::{Finding, Position};
use crate::walk::{Death, HostStates, WalkVerdict, World};

/// Requests that would not be answered after an apply.
pub(super) fn unanswered(subject: &Subject<'_>) -> Vec<Finding> {
    let states: HostStates =
        desired(subject.topology).into_iter().map(|(name, it)| (name, it.state)).collect();
    let world = World::of_file(subject.topology, &states);
    // What dies at one place for one reason is one finding.
    let mut dead: BTreeMap<(Death, bool), Vec<ExpectedRequest<'_>>> = BTreeMap::new();
    for expected in expected_requests(subject.topology) {
        if let WalkVerdict::Dead { death, in_reply } = world.walk(&expected.request).end {
            dead.entry((death, in_reply)).or_default().push(expected);
        }
    }
    dead.into_iter()
        .take(MAX_FINDINGS)
        .filter_map(|((death, in_reply), requests)| {
            let first = requests.first()?;
            Some(finding(&death, in_reply, first, requests.len() - 1, position(subject, &death)?))
        })
        .collect()
}

/// Where the host stands that drops the packet.
fn position(subject: &Subject<'_>, death: &Death) -> Option<Position> {
    Some(subject.topology.hosts.get(&death.host)?.at)
}

fn finding(
    death: &Death,
    in_reply: bool,
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
    let what = if in_reply { "the reply" } else { "the request" };
    Finding::error(
        "no-answer",
        at,
        format!(
            "{} gets no answer from {} by {}: {death}{more}",
            client.name,
            service.display_name(),
            real_server.host
        ),
        format!("{what} is lost on its way, and no host logs it"),
        death.cause.cure(&death.host),
    )
}
