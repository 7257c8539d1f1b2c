//! Asks hosts that are to get a VIP whether another machine has it, and keeps them from getting it if so.
//! [`crate::plan::holders`] decides.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::outcome::Action;
use super::requests::unexpected;
use super::session::{Observations, Session};
use super::verify::ARP_WAIT_MS;
use crate::desired::Desired;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::holders::{HolderAnswers, SegmentHost, SegmentHosts, controls, to_ask};
use crate::plan::simulate;
use crate::protocol::{Reply, Request, SegmentAnswers};
use crate::state::announcement::announced_by;
use crate::state::silent::is_silent;
use crate::state::{AddressKey, HostState};

/// Whether hosts are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VipProbing {
    /// Before a plan adds a VIP.
    On,
    /// Never.
    #[default]
    Off,
}

/// What the hosts of a plan found out, by host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipHolders {
    /// For the addresses that the plan adds.
    answers: BTreeMap<HostName, SegmentAnswers>,
    /// For addresses that no machine has.
    controls: BTreeMap<HostName, SegmentAnswers>,
}

/// Asks for every address that `plan` adds where neighbours are, and for those that hosts with an obstacle are to get: all
/// hosts at once. Costs nothing where there are none. A second question, for addresses that no machine has, follows only
/// where an unknown machine answers.
pub async fn find(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    observed: &Observations,
) -> VipHolders {
    if plan.action != Action::Apply {
        return VipHolders::default();
    }
    let mut asked = BTreeMap::new();
    for (name, result) in &plan.hosts {
        let Some(state) = state_of(observed, name) else { continue };
        let added: BTreeSet<AddressKey> = match result {
            HostPlanResult::Plan(plan) => announced_by(plan.edits()),
            HostPlanResult::Obstructed(_) => {
                let desired = session.desired.get(name);
                desired.into_iter().flat_map(|it| it.state.addresses.keys()).cloned().collect()
            }
            HostPlanResult::Failed(..) | HostPlanResult::Absent(_) => continue,
        };
        asked.insert(name.clone(), to_ask(&added, state));
    }
    let answers = ask(session, asked).await;
    let hardware: BTreeSet<&String> = observed
        .values()
        .flatten()
        .flat_map(|observation| observation.facts.hardware.values())
        .collect();
    let mut suspected = BTreeMap::new();
    for (name, found) in &answers {
        let Some(state) = state_of(observed, name) else { continue };
        let unknown = |macs: &BTreeSet<String>| macs.iter().any(|mac| !hardware.contains(mac));
        let keys = found.answers.iter().filter(|(_, macs)| unknown(macs));
        suspected.insert(name.clone(), keys.flat_map(|(key, _)| controls(key, state)).collect());
    }
    let controls = ask(session, suspected).await;
    VipHolders { answers, controls }
}

fn state_of<'o>(observed: &'o Observations, name: &HostName) -> Option<&'o HostState> {
    Some(&observed.get(name)?.as_ref().ok()?.state)
}

async fn ask(
    session: &mut Session<'_>,
    asked: BTreeMap<HostName, BTreeSet<AddressKey>>,
) -> BTreeMap<HostName, SegmentAnswers> {
    let asked: BTreeMap<_, _> =
        asked.into_iter().filter(|(_, addresses)| !addresses.is_empty()).collect();
    let request = |(name, addresses): (&HostName, &BTreeSet<AddressKey>)| {
        let addresses = addresses.clone();
        (name.clone(), Request::FindHolders { addresses, wait_ms: ARP_WAIT_MS })
    };
    let mut replies = session.ask(asked.iter().map(request).collect()).await;
    let mut found = BTreeMap::new();
    for (name, addresses) in asked {
        let failure = match replies.remove(&name) {
            Some(Ok(Reply::Holders(answers))) => {
                found.insert(name, answers);
                continue;
            }
            Some(Ok(other)) => unexpected(&other),
            Some(Err(error)) => error.into_failure(),
            None => session.why_absent(&name),
        };
        let failures = addresses.into_iter().map(|key| (key.dev, failure.clone())).collect();
        found.insert(name, SegmentAnswers { answers: BTreeMap::new(), failures });
    }
    found
}

/// Gives each host of `plan` the obstacles and cautions that follow from the answers.
pub fn add_to_plan(
    plan: &mut ClusterPlan,
    desired: &BTreeMap<HostName, Desired>,
    observed: &Observations,
    holders: &VipHolders,
) {
    if holders.answers.is_empty() || plan.action != Action::Apply {
        return;
    }
    let hosts = segment_hosts(plan, desired, observed);
    for (name, found) in &holders.answers {
        let (mut obstacles, mut cautions) = (Vec::new(), Vec::new());
        for (dev, failure) in &found.failures {
            cautions.push(not_asked(dev.as_str(), failure));
        }
        let none = SegmentAnswers::default();
        let controls = holders.controls.get(name).unwrap_or(&none);
        for (key, macs) in &found.answers {
            let of_dev = controls
                .answers
                .iter()
                .filter(|(control, _)| control.dev == key.dev && is_same_family(control, key));
            let proxies = of_dev.flat_map(|(_, macs)| macs.iter().cloned()).collect();
            let answers = HolderAnswers { key, macs, proxies: &proxies };
            obstacles.extend(answers.obstacles(name, &hosts));
            cautions.extend(answers.caution());
        }
        match plan.hosts.get_mut(name) {
            Some(HostPlanResult::Obstructed(others)) => others.extend(obstacles),
            Some(HostPlanResult::Plan(host)) if obstacles.is_empty() => {
                host.cautions.extend(cautions);
            }
            Some(result @ HostPlanResult::Plan(_)) => {
                *result = HostPlanResult::Obstructed(obstacles);
            }
            Some(HostPlanResult::Failed(..) | HostPlanResult::Absent(_)) | None => {}
        }
    }
}

fn is_same_family(one: &AddressKey, other: &AddressKey) -> bool {
    one.net.addr().is_ipv4() == other.net.addr().is_ipv4()
}

fn not_asked(dev: &str, failure: &Failure) -> String {
    format!("whether another machine has a VIP that is added on {dev} is unknown: {failure}")
}

/// Every host of the plan, with the addresses that it has after the change. A host with an obstacle keeps what it has; a
/// VIP that stands in its own way is named there, and counts as given up here.
fn segment_hosts(
    plan: &ClusterPlan,
    desired: &BTreeMap<HostName, Desired>,
    observed: &Observations,
) -> SegmentHosts {
    let mut hosts = SegmentHosts::default();
    for (name, result) in &plan.hosts {
        let Some(Ok(observation)) = observed.get(name) else {
            hosts.unknown.insert(name.clone());
            continue;
        };
        let mut after = observation.state.clone();
        match result {
            HostPlanResult::Plan(plan) => {
                // A plan that contradicts itself was refused when it was made.
                if let Ok(state) = simulate(&after, plan.edits()) {
                    after = state;
                }
            }
            HostPlanResult::Obstructed(_) => {
                let wanted = desired.get(name).map(|desired| &desired.state.addresses);
                let silent = |key: &AddressKey| {
                    let mut wanted = wanted.into_iter().flat_map(BTreeMap::keys);
                    wanted.any(|it| it.net.addr() == key.net.addr() && is_silent(&it.dev))
                };
                after.addresses.retain(|key, _| !silent(key));
            }
            HostPlanResult::Failed(..) | HostPlanResult::Absent(_) => {}
        }
        let hardware = observation.facts.hardware.values().cloned();
        hosts.observed.insert(name.clone(), SegmentHost::new(hardware, &after));
    }
    hosts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::cluster_plan::Direction;
    use super::super::session::HostAbsence;
    use super::super::tests::{all_bare, failure, host, mac, plan};
    use super::*;
    use crate::desired::desired;
    use crate::state::{Address, Scope};
    use crate::support::Cluster;
    use crate::topology::{Forward, Topology};

    const STRANGER: &str = "02:00:00:00:00:99";

    /// What comes of the director's plan where these machines answer, and those for a control.
    struct Case {
        topology: Topology,
        observed: Observations,
        absent: BTreeMap<HostName, HostAbsence>,
        direction: Direction,
    }

    impl Case {
        fn new() -> Self {
            let topology = Cluster::of(&[(Forward::Dr, 80, vec![1, 2])]).topology;
            let observed = all_bare(&topology);
            let direction = Direction::Apply { now: 7 };
            Self { topology, observed, absent: BTreeMap::new(), direction }
        }

        fn vip(&self) -> AddressKey {
            let desired = desired(&self.topology);
            let addresses = &desired[&host("director")].state.addresses;
            addresses.keys().next().unwrap().clone()
        }

        fn give_vip(&mut self, name: &str, dev: &str) {
            let key = AddressKey { dev: dev.parse().unwrap(), ..self.vip() };
            let observation = self.observed.get_mut(&host(name)).unwrap().as_mut().unwrap();
            observation.state.addresses.insert(key, Address::plain(Scope::Global));
        }

        fn result(&self, macs: &[&str], proxies: &[&str]) -> HostPlanResult {
            let all = |key: AddressKey, macs: &[&str]| {
                let macs = macs.iter().map(|mac| (*mac).to_owned()).collect();
                let answers = [(key, macs)].into();
                let found = SegmentAnswers { answers, ..SegmentAnswers::default() };
                BTreeMap::from([(host("director"), found)])
            };
            let control = "198.19.255.251/32@eth0".parse().unwrap();
            let found =
                VipHolders { answers: all(self.vip(), macs), controls: all(control, proxies) };
            self.with(&found)
        }

        fn with(&self, found: &VipHolders) -> HostPlanResult {
            let Self { topology, observed, absent, direction } = self;
            let mut plan = plan(topology, observed, absent, *direction);
            add_to_plan(&mut plan, &desired(topology), observed, found);
            plan.hosts.remove(&host("director")).unwrap()
        }
    }

    fn obstacles(result: HostPlanResult) -> Vec<String> {
        match result {
            HostPlanResult::Obstructed(all) => all.iter().map(ToString::to_string).collect(),
            HostPlanResult::Plan(_) => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_machine_is_an_obstacle_for_an_apply_and_none_for_a_destroy() {
        let mut case = Case::new();
        let found = obstacles(case.result(&[STRANGER], &[]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("another machine has "), "{found:?}");
        assert!(found[0].contains("no host of the file has this hardware address"), "{found:?}");
        case.observed.remove(&host("rs2"));
        case.absent.insert(host("rs2"), HostAbsence::LeftOut);
        let found = obstacles(case.result(&[STRANGER], &[]));
        assert!(found[0].contains("(not observed: rs2)"), "{found:?}");
        assert_eq!(obstacles(case.result(&[], &[])), [""; 0]);
        case.direction = Direction::Destroy;
        assert!(matches!(case.result(&[STRANGER], &[]), HostPlanResult::Absent(_)));
    }

    #[test]
    fn a_host_of_the_file_is_an_obstacle_where_it_keeps_the_address() {
        let mut case = Case::new();
        let (rs1, client) =
            (mac(&case.topology, &host("rs1")), mac(&case.topology, &host("client")));
        assert_eq!(obstacles(case.result(&[&rs1], &[])), [""; 0], "ARP settings are still to come");
        assert_eq!(obstacles(case.result(&[&client], &[])), [""; 0], "it has given it up");
        case.give_vip("client", "eth0");
        let found = obstacles(case.result(&[&client], &[]));
        assert!(found[0].starts_with("client has "), "{found:?}");
        // The real server has an obstacle of its own, which names the address.
        case.give_vip("rs1", "eth0");
        assert_eq!(obstacles(case.result(&[&rs1], &[])), [""; 0]);
    }

    #[test]
    fn a_proxy_and_a_question_that_was_not_asked_are_cautions() {
        let case = Case::new();
        let cautions = |result| match result {
            HostPlanResult::Plan(plan) => plan.cautions.join("\n"),
            other => panic!("{other:?}"),
        };
        let proxy = cautions(case.result(&[STRANGER], &[STRANGER]));
        assert!(proxy.contains("proxy ARP") && proxy.contains(STRANGER), "{proxy}");
        let failures = [("eth0".parse().unwrap(), failure("no packet socket"))].into();
        let unasked = SegmentAnswers { failures, ..SegmentAnswers::default() };
        let answers = [(host("director"), unasked)].into();
        let found = VipHolders { answers, ..VipHolders::default() };
        let unasked = cautions(case.with(&found));
        assert!(unasked.contains("eth0") && unasked.contains("no packet socket"), "{unasked}");
    }

    #[test]
    fn other_obstacles_stay() {
        let mut case = Case::new();
        let director = case.observed.get_mut(&host("director")).unwrap().as_mut().unwrap();
        director.state.links.insert("eth0".parse().unwrap(), crate::state::Link::Down);
        let found = obstacles(case.result(&[STRANGER], &[]));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
