//! Daemons that lvsprov starts on a host: what they need there, and health checkers of the operator beside them. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::ownership::Goal;
use super::preflight::Obstacle;
use crate::desired::Desired;
use crate::state::{DaemonInstance, HealthChecker, Item, Observation, ServiceKey};

/// The instances that `goal` starts or changes.
fn changed<'a>(goal: &'a Goal, seen: &Observation) -> Vec<&'a DaemonInstance> {
    let wanted = goal.wanted.instances.keys();
    let changed = wanted.filter(|instance| {
        let item = Item::Instance((*instance).clone());
        goal.owned.contains(&item) && goal.wanted.differs(&seen.state, &item)
    });
    changed.collect()
}

/// A program that is not installed, or one that works against the instance.
pub(super) fn obstacles(goal: &Goal, seen: &Observation, all: &mut Vec<Obstacle>) {
    let changed = changed(goal, seen);
    let programs: BTreeSet<_> = changed.iter().map(|instance| instance.program).collect();
    for program in programs {
        let Some(command) = seen.facts.lacking.get(&program) else { continue };
        let install = command.as_ref().map_or_else(
            || format!("install the package {program} on this host"),
            |command| format!("`{command} {program}` on this host"),
        );
        all.push(Obstacle {
            message: format!("{program} is not installed"),
            why: "it carries out the checks of the file".to_owned(),
            cure: format!("{install}, then apply again; lvsprov starts a process of its own, the package's own service need not run"),
        });
    }
    let vips: BTreeSet<IpAddr> = goal.wanted.services.keys().filter_map(vip).collect();
    for HealthChecker { program, file, addresses } in &seen.facts.health_checkers {
        let both = listed(addresses.intersection(&vips));
        if changed.is_empty() || both.is_empty() {
            continue;
        }
        all.push(Obstacle {
            message: format!("{program} of this host has virtual servers for {both} in {file}"),
            why: "two health checkers would set the weights of the same services, and that one removes them from the table \
                  as it stops"
                .to_owned(),
            cure: format!(
                "take them out of {file}; or take `check:` out of the file and write `weights: external`: then that \
                 {program} goes on alone"
            ),
        });
    }
}

/// A health checker of the operator that sets weights which the file sets too.
pub fn cautions(desired: &Desired, goal: &Goal, seen: &Observation) -> Vec<String> {
    if goal.receipt_after.is_none() {
        return Vec::new();
    }
    let inside = desired.state.services.keys().filter(|key| !desired.external.contains(*key));
    let vips: BTreeSet<IpAddr> = inside.filter_map(vip).collect();
    let clash = |checker: &HealthChecker| {
        let both = listed(checker.addresses.intersection(&vips));
        (!both.is_empty()).then(|| {
            let HealthChecker { program, file, addresses: _ } = checker;
            format!(
                "{program} of this host has virtual servers for {both} in {file}, and sets weights that the file sets too: an \
                 apply sends clients to a real server that {program} took out; write `weights: external` for these services"
            )
        })
    };
    seen.facts.health_checkers.iter().filter_map(clash).collect()
}

fn vip(key: &ServiceKey) -> Option<IpAddr> {
    match key {
        ServiceKey::Address(_, address) => Some(address.ip()),
        ServiceKey::Fwmark { .. } => None,
    }
}

fn listed<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    addresses.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::preflight;
    use crate::state::{DaemonConfiguration, DaemonProgram, VirtualService};

    fn desired(with_checks: bool) -> Desired {
        let mut desired = Desired::default();
        let key: ServiceKey = "tcp 192.0.2.80:80".parse().unwrap();
        desired.state.services.insert(key.clone(), VirtualService::plain(&key, "rr"));
        if with_checks {
            let instance = "keepalived of t".parse().unwrap();
            desired.state.instances.insert(instance, DaemonConfiguration::of("x"));
            desired.external.insert(key);
        }
        desired
    }

    fn judged(desired: &Desired, seen: &Observation) -> (Vec<Obstacle>, Vec<String>) {
        let goal = Goal::apply(&"t".parse().unwrap(), 7, desired, seen).unwrap();
        (preflight::obstacles(desired, &goal, seen), cautions(desired, &goal, seen))
    }

    fn checker(address: &str) -> HealthChecker {
        HealthChecker {
            program: DaemonProgram::Keepalived,
            file: "/etc/keepalived/keepalived.conf".to_owned(),
            addresses: [address.parse().unwrap()].into(),
        }
    }

    #[test]
    fn a_missing_package_is_named_with_its_command_where_it_is_needed() {
        let mut seen = Observation::default();
        seen.facts.lacking.insert(DaemonProgram::Keepalived, Some("apt-get install".to_owned()));
        assert_eq!(judged(&desired(false), &seen), (Vec::new(), Vec::new()));
        let (obstacles, _) = judged(&desired(true), &seen);
        assert_eq!(obstacles.len(), 1);
        assert!(
            obstacles[0].cure.starts_with("`apt-get install keepalived` on this host"),
            "{}",
            obstacles[0]
        );
        // It runs already, and needs no change.
        seen.state.instances = desired(true).state.instances;
        assert_eq!(judged(&desired(true), &seen).0, Vec::new());
    }

    #[test]
    fn a_health_checker_of_the_operator_is_in_the_way_of_another_and_of_weights_in_the_file() {
        let mut seen = Observation::default();
        seen.facts.health_checkers.push(checker("192.0.2.80"));
        let (obstacles, cautions) = judged(&desired(true), &seen);
        assert_eq!((obstacles.len(), cautions.len()), (1, 0));
        assert!(obstacles[0].message.contains("192.0.2.80 in /etc/keepalived/keepalived.conf"));
        let (obstacles, cautions) = judged(&desired(false), &seen);
        assert_eq!((obstacles.len(), cautions.len()), (0, 1));
        assert!(cautions[0].contains("weights: external"), "{}", cautions[0]);
        // Its weights are the health checker's already.
        let mut external = desired(false);
        external.external = desired(true).external;
        assert_eq!(judged(&external, &seen), (Vec::new(), Vec::new()));
        seen.facts.health_checkers = vec![checker("192.0.2.81")];
        for with_checks in [false, true] {
            assert_eq!(judged(&desired(with_checks), &seen), (Vec::new(), Vec::new()));
        }
    }
}
