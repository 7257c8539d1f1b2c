//! Source validation that lets the cluster's packets pass: loose where strict would drop a request or a reply, and
//! `accept_local` where a director passes on replies that have its own VIP as their source.
//!
//! The parts of [`super`] set it where a forwarding method makes ways differ. This looks at what is left: it walks every
//! request, and where a setting lets a walk on that ends there, wants it and walks again.

use std::collections::BTreeMap;

use super::{Desired, ExpectedRequest, expected_requests};
use crate::names::{HostName, IfName};
use crate::topology::Topology;
use crate::walk::{Cause, Death, HostStates, WalkVerdict, World};

/// A setting that lets packets pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Passage {
    /// Loose source validation where packets come in.
    Loose(HostName, IfName),
    /// `accept_local` where packets come in.
    OwnSource(HostName, IfName),
}

/// Adds to `all` what lets requests and replies pass.
pub(super) fn settle(topology: &Topology, all: &mut BTreeMap<HostName, Desired>) {
    // Each round finds the next place on a way; a way has no more places than the file has interfaces, and each of
    // them has two settings.
    let most: usize = topology.hosts.values().map(|host| 2 * (host.interfaces.len() + 1)).sum();
    for _ in 0..=most {
        let missing = missing(topology, all);
        if missing.is_empty() {
            return;
        }
        for (passage, why) in missing {
            let (Passage::Loose(host, dev) | Passage::OwnSource(host, dev)) = &passage;
            let Some(desired) = all.get_mut(host) else { continue };
            match passage {
                Passage::Loose(..) => desired.loose_source_validation(dev, why),
                Passage::OwnSource(..) => desired.accept_local(dev, why),
            }
        }
    }
}

fn missing(topology: &Topology, all: &BTreeMap<HostName, Desired>) -> BTreeMap<Passage, String> {
    let states: HostStates =
        all.iter().map(|(name, desired)| (name.clone(), desired.state.clone())).collect();
    let world = World::of_file(topology, &states);
    let mut missing = BTreeMap::new();
    for expected in expected_requests(topology) {
        if let WalkVerdict::Dead { death, in_reply } = world.walk(&expected.request).end
            && let Some((passage, why)) = passage(death, in_reply, &expected)
        {
            missing.entry(passage).or_insert(why);
        }
    }
    missing
}

/// What lets the packet pass that died so, and why it is needed.
fn passage(
    death: Death,
    in_reply: bool,
    expected: &ExpectedRequest<'_>,
) -> Option<(Passage, String)> {
    let Death { host, cause } = death;
    match cause {
        Cause::SourceInvalid { dev, towards: Some(towards), loose_passes: true, .. } => {
            let what = if in_reply { "replies to" } else { "requests of" };
            let why = format!(
                "{what} {} come in on {dev}, but the route back leaves by {towards}: a strict source check would drop them",
                expected.client.name
            );
            Some((Passage::Loose(host, dev), why))
        }
        Cause::OwnSource { dev, source }
            if in_reply
                && source.is_ipv4()
                && source == expected.request.vip
                && host == *expected.request.director
                // What it asks itself is no reason to let its addresses come in from outside.
                && host != expected.client.name =>
        {
            let why = super::why_accept_local(source, &dev, &expected.real_server.host);
            Some((Passage::OwnSource(host, dev), why))
        }
        _ => None,
    }
}
