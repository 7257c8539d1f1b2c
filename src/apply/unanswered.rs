//! Requests that no client gets an answer to after a plan, by the packet walk through the hosts as they were observed, with the
//! plan's steps done. Pure.
//!
//! [`crate::check`] walks what the file says. Here is what only the hosts show: policy rules, other tables, a more
//! specific route, a setting that another program made stricter.

use std::collections::BTreeMap;

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::session::Observations;
use crate::check::cure_of_death;
use crate::desired::{Desired, expected_requests};
use crate::names::HostName;
use crate::plan::preflight::Obstacle;
use crate::plan::simulate;
use crate::state::{
    AddressKey, ForwardingMethod, HostState, Route, RouteKey, Scope, StatefulDrop, Sysctl, VsItem,
};
use crate::topology::Topology;
use crate::walk::{Death, HostStates, SeenHost, WalkVerdict, World};

/// The hosts as they were observed; hosts that were not as the file has them.
pub fn world_as_observed(
    topology: &Topology,
    desired: &BTreeMap<HostName, Desired>,
    observed: &Observations,
) -> World {
    let seen = observed.iter().filter_map(|(name, observation)| {
        let observation = observation.as_ref().ok()?;
        let seen = SeenHost { state: &observation.state, routing: &observation.facts.routing };
        Some((name.clone(), seen))
    });
    World::of_hosts(topology, &seen.collect(), &as_the_file_has_them(desired))
}

fn as_the_file_has_them(desired: &BTreeMap<HostName, Desired>) -> HostStates {
    desired.iter().map(|(name, desired)| (name.clone(), desired.state.clone())).collect()
}

impl ClusterPlan {
    /// Makes an obstacle of every request that is not answered after this plan. Where a host has obstacles already, or could
    /// not be observed, there is no plan to judge.
    pub fn refuse_unanswered(
        &mut self,
        topology: &Topology,
        desired: &BTreeMap<HostName, Desired>,
        observed: &Observations,
    ) {
        let Some(after) = self.states_after(observed) else { return };
        let seen = after.iter().filter_map(|(name, state)| {
            let observation = observed.get(name)?.as_ref().ok()?;
            Some((name.clone(), SeenHost { state, routing: &observation.facts.routing }))
        });
        let world = World::of_hosts(topology, &seen.collect(), &as_the_file_has_them(desired));
        let mut all = obstacles(topology, &world, &after);
        for (name, _) in after.iter().filter(|(_, state)| drops_replies_of_nat(state)) {
            let Some(Ok(observation)) = observed.get(name) else { continue };
            for found in &observation.facts.stateful_drops {
                if found.always {
                    all.entry(name.clone()).or_default().push(stateful_drop(found));
                } else if let Some(HostPlanResult::Plan(plan)) = self.hosts.get_mut(name) {
                    plan.cautions.push(format!(
                        "{}: it does so under further conditions, which are not read",
                        stateful_drop(found)
                    ));
                }
            }
        }
        self.obstruct(all);
    }

    /// Each host gets its obstacles; the others that would be changed wait for them, for a service is the work of all.
    fn obstruct(&mut self, obstacles: BTreeMap<HostName, Vec<Obstacle>>) {
        if obstacles.is_empty() {
            return;
        }
        let names: Vec<String> = obstacles.keys().map(ToString::to_string).collect();
        for result in self.hosts.values_mut() {
            let HostPlanResult::Plan(plan) = result else { continue };
            if !plan.stages.is_empty() {
                *result = HostPlanResult::Obstructed(vec![Obstacle {
                    message: "nothing is changed here either".to_owned(),
                    why: "a request would get no answer all the same".to_owned(),
                    cure: format!("first mend what stands at {}", names.join(", ")),
                }]);
            }
        }
        for (host, obstacles) in obstacles {
            self.hosts.insert(host, HostPlanResult::Obstructed(obstacles));
        }
    }

    /// The state of each observed host after its steps; `None`: one has no plan.
    fn states_after(&self, observed: &Observations) -> Option<HostStates> {
        let mut after = HostStates::new();
        for (name, result) in &self.hosts {
            let before = observed.get(name).and_then(|it| it.as_ref().ok()).map(|it| &it.state);
            match (result, before) {
                (HostPlanResult::Plan(plan), Some(before)) => {
                    let mut state = simulate(before, plan.edits()).ok()?;
                    route_subnets(before, &mut state);
                    after.insert(name.clone(), state);
                }
                (HostPlanResult::Absent(_), _) => {}
                _ => return None,
            }
        }
        Some(after)
    }
}

/// Whether replies pass this director that connection tracking does not know: IPVS took their requests out of it
/// (net/netfilter/ipvs/ip_vs_xmit.c, `ip_vs_notrack`).
fn drops_replies_of_nat(state: &HostState) -> bool {
    let conntrack = state.sysctls.get(&Sysctl::Vs(VsItem::Conntrack)).map(String::as_str);
    let mut destinations =
        state.services.values().flat_map(|service| service.destinations.values());
    conntrack != Some("1")
        && destinations.any(|destination| destination.method == ForwardingMethod::Masquerade)
}

fn stateful_drop(found: &StatefulDrop) -> Obstacle {
    Obstacle {
        message: format!(
            "the nftables chain {} drops packets that connection tracking calls invalid",
            found.chain
        ),
        why: "replies of real servers under nat are invalid to it while net.ipv4.vs.conntrack is 0: no client \
              gets an answer"
            .to_owned(),
        cure: "say `ipvs: {settings: {conntrack: 1}}` on this host in the file, or take the rule out; \
               --allow-unanswered applies it all the same"
            .to_owned(),
    }
}

/// The routes to the subnets of addresses that the steps add or remove: the kernel makes them (net/ipv4/fib_frontend.c,
/// `fib_add_ifaddr`), and they are no steps.
fn route_subnets(before: &HostState, after: &mut HostState) {
    let is_subnet = |key: &&AddressKey| key.net.prefix_len() < key.net.max_prefix_len();
    let HostState { addresses, routes, .. } = after;
    let gone = before.addresses.keys().filter(is_subnet).filter(|it| !addresses.contains_key(it));
    for AddressKey { dev, net } in gone {
        let of_it = |route: &Route| {
            route.gateway.is_none()
                && route.dev.as_ref() == Some(dev)
                && route.source.is_none_or(|source| source == net.addr())
        };
        let key = RouteKey(net.trunc());
        if routes.get(&key).is_some_and(of_it) {
            routes.remove(&key);
        }
    }
    let added = addresses.keys().filter(is_subnet).filter(|it| !before.addresses.contains_key(it));
    for AddressKey { dev, net } in added.filter(|it| it.dev.as_str() != "lo") {
        routes.entry(RouteKey(net.trunc())).or_insert_with(|| Route {
            gateway: None,
            dev: Some(dev.clone()),
            scope: Scope::Link,
            metric: 0,
            protocol: 2,
            source: net.addr().is_ipv4().then(|| net.addr()),
            onlink: false,
            unsupported: Vec::new(),
        });
    }
}

/// By the host that gets them: the one that drops the packet, or the director where that one takes no part.
fn obstacles(
    topology: &Topology,
    world: &World,
    after: &HostStates,
) -> BTreeMap<HostName, Vec<Obstacle>> {
    let mut dead: BTreeMap<(HostName, Death, bool), Vec<String>> = BTreeMap::new();
    for expected in expected_requests(topology) {
        let walk = world.walk(&expected.request);
        // What is chance is for verification to find.
        let WalkVerdict::Dead { death, in_reply } = walk.end else { continue };
        if walk.by_chance {
            continue;
        }
        let takes_part = after.contains_key(&death.host);
        let at = if takes_part { death.host.clone() } else { expected.service.director.clone() };
        if !after.contains_key(&at) {
            continue;
        }
        let (client, service) = (&expected.client.name, expected.service.display_name());
        let who =
            format!("{client} gets no answer from {service} by {}", expected.real_server.host);
        dead.entry((at, death, in_reply)).or_default().push(who);
    }
    let mut all: BTreeMap<HostName, Vec<Obstacle>> = BTreeMap::new();
    for ((at, death, in_reply), requests) in dead {
        let more = match requests.len() {
            0 | 1 => String::new(),
            2 => " (and 1 more pair of client and real server)".to_owned(),
            count => format!(" (and {} more pairs of client and real server)", count - 1),
        };
        let first = requests.into_iter().next().unwrap_or_default();
        let what = if in_reply { "the reply" } else { "the request" };
        all.entry(at).or_default().push(Obstacle {
            message: format!("after this plan {first}: {death}{more}"),
            why: format!("{what} is lost on its way, and no host logs it"),
            cure: format!(
                "{}; `lvsprov explain FILE --live` shows the whole way; --allow-unanswered applies it all the same",
                cure_of_death(topology, &death)
            ),
        });
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
#[path = "unanswered_tests.rs"]
mod tests;
