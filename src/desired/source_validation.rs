//! Loose source validation where strict would drop a request or a reply of the cluster.
//!
//! The parts of [`super`] set it where a forwarding method makes ways differ. This looks at what is left: it walks every
//! request, and where strict source validation ends a walk that loose lets on, sets loose and walks again.

use std::collections::BTreeMap;

use super::{Desired, expected_requests};
use crate::names::HostName;
use crate::state::{ConfItem, Sysctl};
use crate::topology::Topology;
use crate::walk::{Cause, Death, HostStates, WalkVerdict, World};

/// Adds loose source validation to `all`.
pub(super) fn settle(topology: &Topology, all: &mut BTreeMap<HostName, Desired>) {
    // Each round finds the next place on a way; a way has no more places than the file has interfaces.
    let most: usize = topology.hosts.values().map(|host| host.interfaces.len() + 1).sum();
    for _ in 0..=most {
        let places = dropped_by_strict(topology, all);
        if places.is_empty() {
            return;
        }
        for (Death { host, cause }, why) in places {
            if let (Cause::SourceInvalid { dev, .. }, Some(desired)) = (cause, all.get_mut(&host)) {
                desired.sysctl(Sysctl::dev(&dev, ConfItem::RpFilter), "2", why);
            }
        }
    }
}

fn dropped_by_strict(
    topology: &Topology,
    all: &BTreeMap<HostName, Desired>,
) -> BTreeMap<Death, String> {
    let states: HostStates =
        all.iter().map(|(name, desired)| (name.clone(), desired.state.clone())).collect();
    let world = World::of_file(topology, &states);
    let mut places = BTreeMap::new();
    for expected in expected_requests(topology) {
        let WalkVerdict::Dead { death, in_reply } = world.walk(&expected.request).end else {
            continue;
        };
        let Cause::SourceInvalid { dev, towards: Some(towards), loose_passes: true, .. } =
            &death.cause
        else {
            continue;
        };
        let what = if in_reply { "replies to" } else { "requests of" };
        let why = format!(
            "{what} {} come in on {dev}, but the route back leaves by {towards}: a strict source \
             check would drop them",
            expected.client.name
        );
        places.entry(death).or_insert(why);
    }
    places
}
