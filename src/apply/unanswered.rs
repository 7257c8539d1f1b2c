//! Requests that no client gets an answer to after a plan, by the packet walk through the hosts as they were observed, with the
//! plan's steps done. Pure.
//!
//! [`crate::check`] walks what the file says. Here is what only the hosts show: policy rules, other tables, a more
//! specific route, a setting that another program made stricter.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::session::Observations;
use crate::check::cure_of_death;
use crate::desired::{
    Desired, ExpectedRequest, large_requests, requests_of_any_client, requests_through,
};
use crate::names::HostName;
use crate::plan::preflight::Obstacle;
use crate::plan::simulate;
use crate::state::{
    AddressKey, Edit, ForwardingMethod, HostFacts, HostState, Route, RouteKey, Scope, StatefulDrop,
    Sysctl, VsItem,
};
use crate::topology::Topology;
use crate::walk::{
    AnyClient, Cause, Death, HostStates, LargeVerdict, SeenHost, WalkVerdict, World,
};

/// The hosts as they were observed; hosts that were not as the file has them.
pub fn world_as_observed(
    topology: &Topology,
    desired: &BTreeMap<HostName, Desired>,
    observed: &Observations,
) -> World {
    let seen = observed.iter().filter_map(|(name, observation)| {
        let observation = observation.as_ref().ok()?;
        Some((name.clone(), seen_host(&observation.state, &observation.facts)))
    });
    World::of_hosts(topology, &seen.collect(), &as_the_file_has_them(desired))
}

/// Hosts with these states, and what else was observed of them.
pub(super) fn world_of(
    topology: &Topology,
    as_file: &HostStates,
    observed: &Observations,
    states: &HostStates,
) -> World {
    let seen = states.iter().filter_map(|(name, state)| {
        let observation = observed.get(name)?.as_ref().ok()?;
        Some((name.clone(), seen_host(state, &observation.facts)))
    });
    World::of_hosts(topology, &seen.collect(), as_file)
}

fn seen_host<'a>(state: &'a HostState, facts: &'a HostFacts) -> SeenHost<'a> {
    let HostFacts { routing, mtus, firewall, .. } = facts;
    SeenHost { state, routing, mtus, firewall: Some(firewall) }
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
        let as_file = as_the_file_has_them(desired);
        let world = world_of(topology, &as_file, observed, &after);
        let Judged { obstacles: mut all, unclear, passed_rules } = judge(topology, &world, &after);
        for (name, _) in after.iter().filter(|(_, state)| drops_replies_of_nat(state)) {
            let Some(Ok(observation)) = observed.get(name) else { continue };
            if passed_rules.contains(name) {
                continue;
            }
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
        self.add_unclear_rules(unclear);
        self.obstruct(all);
        self.add_large_cautions(topology, &world);
        self.add_moments_without_service(topology, observed, &as_file);
    }

    /// Names rules of other programs whose verdict is not known.
    fn add_unclear_rules(&mut self, unclear: BTreeSet<(HostName, String)>) {
        for (host, why) in unclear {
            if let Some(HostPlanResult::Plan(plan)) = self.hosts.get_mut(&host) {
                plan.cautions
                    .push(format!("not known whether packets of the services pass {host}: {why}"));
            }
        }
    }

    /// Says of which requests large packets would be lost.
    fn add_large_cautions(&mut self, topology: &Topology, world: &World) {
        for (death, in_reply, requests) in lost_large(topology, world) {
            let Some(ExpectedRequest { client, service, real_server, .. }) = requests.first()
            else {
                continue;
            };
            let name = [&death.host, &service.director]
                .into_iter()
                .find(|name| matches!(self.hosts.get(*name), Some(HostPlanResult::Plan(_))));
            let Some(HostPlanResult::Plan(plan)) = name.and_then(|name| self.hosts.get_mut(name))
            else {
                continue;
            };
            let what = if in_reply { "downloads" } else { "uploads" };
            plan.cautions.push(format!(
                "{what} of {} from {} by {} hang after the first kilobytes: {death}{}; {}",
                client.name,
                service.display_name(),
                real_server.host,
                more_pairs(requests.len() - 1),
                cure_of_death(topology, &death)
            ));
        }
    }

    /// The hosts with the steps of this plan done; `None`: a host has no plan.
    pub fn world_after(
        &self,
        topology: &Topology,
        desired: &BTreeMap<HostName, Desired>,
        observed: &Observations,
    ) -> Option<World> {
        let after = self.states_after(observed)?;
        Some(world_of(topology, &as_the_file_has_them(desired), observed, &after))
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
                    after.insert(name.clone(), state_after(before, plan.edits())?);
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
pub(super) fn drops_replies_of_nat(state: &HostState) -> bool {
    let conntrack = state.sysctls.get(&Sysctl::Vs(VsItem::Conntrack)).map(String::as_str);
    let mut destinations =
        state.services.values().flat_map(|service| service.destinations.values());
    conntrack != Some("1")
        && destinations.any(|destination| destination.method == ForwardingMethod::Masquerade)
}

pub(super) fn stateful_drop(found: &StatefulDrop) -> Obstacle {
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

/// A host after these edits, with what the kernel does along with them; `None`: they contradict its state.
pub(super) fn state_after<'e>(
    before: &HostState,
    edits: impl IntoIterator<Item = &'e Edit>,
) -> Option<HostState> {
    let mut state = simulate(before, edits).ok()?;
    route_subnets(before, &mut state);
    Some(state)
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

/// Requests whose large packets are lost, by where and why.
fn lost_large<'a>(
    topology: &'a Topology,
    world: &World,
) -> Vec<(Death, bool, Vec<ExpectedRequest<'a>>)> {
    let mut lost: BTreeMap<(Death, bool), Vec<ExpectedRequest<'_>>> = BTreeMap::new();
    for expected in large_requests(topology) {
        let Some((up, down)) = world.large(&expected.request) else { continue };
        for verdict in [up, down] {
            if let LargeVerdict::Lost { death, in_reply } = verdict {
                lost.entry((death, in_reply)).or_default().push(expected);
            }
        }
    }
    lost.into_iter().map(|((death, in_reply), requests)| (death, in_reply, requests)).collect()
}

/// ` (and 2 more pairs …)`.
pub(super) fn more_pairs(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (and 1 more pair of client and real server)".to_owned(),
        count => format!(" (and {count} more pairs of client and real server)"),
    }
}

/// What the walk says of the hosts after a plan.
struct Judged {
    /// By the host that gets them: the one that drops the packet, or the director where that one takes no part.
    obstacles: BTreeMap<HostName, Vec<Obstacle>>,
    /// Rules of other programs whose verdict is not known, by host.
    unclear: BTreeSet<(HostName, String)>,
    /// Directors of whose rules the walk knows what they do with replies of NAT.
    passed_rules: BTreeSet<HostName>,
}

fn judge(topology: &Topology, world: &World, after: &HostStates) -> Judged {
    let mut dead: BTreeMap<(HostName, Death, bool), Vec<String>> = BTreeMap::new();
    let (mut unclear, mut passed_rules) = (BTreeSet::new(), BTreeSet::new());
    for expected in requests_through(topology, world) {
        let walk = world.walk(&expected.request);
        let director = &expected.service.director;
        if world.is_filtered()
            && expected.real_server.forward.rewrites()
            && is_known_to_the_end(&walk.end)
            && !walk.unclear.iter().any(|(host, _)| host == director)
        {
            passed_rules.insert(director.clone());
        }
        unclear.extend(walk.unclear);
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
    for (service, real_server, request) in requests_of_any_client(topology) {
        let AnyClient { death, unclear: of_request } = world.any_client(&request);
        unclear.extend(of_request);
        let Some((death, in_reply)) = death.filter(|(death, _)| after.contains_key(&death.host))
        else {
            continue;
        };
        let (service, by) = (service.display_name(), &real_server.host);
        let who = format!("no client gets an answer from {service} by {by}");
        dead.entry((death.host.clone(), death, in_reply)).or_default().push(who);
    }
    let mut all: BTreeMap<HostName, Vec<Obstacle>> = BTreeMap::new();
    for ((at, death, in_reply), requests) in dead {
        let more = more_pairs(requests.len() - 1);
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
    Judged { obstacles: all, unclear, passed_rules }
}

/// Whether the packet came to its end, or to a rule that drops it.
fn is_known_to_the_end(end: &WalkVerdict) -> bool {
    match end {
        WalkVerdict::Answered => true,
        WalkVerdict::Dead { death, .. } => matches!(death.cause, Cause::Filtered { .. }),
        WalkVerdict::Unknown(_) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
#[path = "unanswered_tests.rs"]
pub(super) mod tests;
