//! The scripts of `render host` on bare hosts: afterwards a plan finds nothing to do.

use std::collections::BTreeSet;
use std::process::Command;

use lvsprov::apply::cluster_plan::{self, Direction, HostPlanResult};
use lvsprov::desired::desired_for;
use lvsprov::plan::ownership::sysctls_to_read;
use lvsprov::render::host::{HostForm, InitSystem, files};
use lvsprov::state::{Item, PacketRule};
use lvsprov::topology::{Host, Topology};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::NetnsHost;
use crate::support::playbooks::{load, playbooks};

pub fn cases() -> Vec<Case> {
    cases![a_host_that_ran_its_script_is_as_apply_makes_it]
}

/// A namespace with the interfaces and addresses that the file says.
fn bare(host: &Host) -> NetnsHost {
    let netns = NetnsHost::with_lo();
    netns.set_sysctl("conf/all/rp_filter", "1");
    for (name, interface) in &host.interfaces {
        if name.as_str() == "lo" || interface.network.is_none() {
            continue;
        }
        netns.ip(&format!("link add {name} type dummy"));
        netns.ip(&format!("link set {name} up"));
        for net in &interface.addresses {
            let nodad = if net.addr().is_ipv6() { " nodad" } else { "" };
            netns.ip(&format!("address add {net} dev {name}{nodad}"));
        }
    }
    netns
}

/// What a plan still has to do, without the rules that no script has words for.
fn differences(topology: &Topology, host: &Host, netns: &NetnsHost) -> Vec<String> {
    let desired = desired_for(topology, host);
    let sysctls: Vec<String> =
        sysctls_to_read(&desired.state).iter().map(ToString::to_string).collect();
    let sysctls: Vec<&str> = sysctls.iter().map(String::as_str).collect();
    let mut seen = netns.look(&sysctls);
    let mut desired = desired;
    for (name, rules) in &mut desired.state.tables {
        rules.rules.retain(|rule| !matches!(rule, PacketRule::Guard(_) | PacketRule::Fragments(_)));
        let nothing = rules.rules.is_empty();
        assert!(!nothing || !seen.state.tables.contains_key(name));
    }
    desired.state.tables.retain(|_, rules| !rules.rules.is_empty());
    seen.receipt = None;
    let direction = Direction::Adopt { now: 0 };
    match cluster_plan::plan_host(topology, host, &desired, &seen, direction) {
        HostPlanResult::Plan(plan) => {
            let steps = plan.stages.iter().flat_map(|(_, steps)| steps);
            steps
                .filter(|step| !matches!(step.edit.item(), Item::Module(_)))
                .map(|step| step.edit.to_string())
                .collect()
        }
        other => vec![format!("{other:?}")],
    }
}

fn a_host_that_ran_its_script_is_as_apply_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut scripts = 0;
    for path in playbooks() {
        let topology = load(&path);
        // Of hosts with the same roles the first: an emulated machine takes seconds for each.
        let mut roles = BTreeSet::new();
        for host in topology.hosts.values().filter(|host| roles.insert(host.roles.clone())) {
            let place = format!("{}: {}", path.display(), host.name);
            let desired = desired_for(&topology, host);
            if desired.state.items().is_empty() {
                continue;
            }
            let form = HostForm::Script(InitSystem::Lsb);
            let file = files(form, &topology, host, &desired).unwrap().files.remove(0);
            let script = folder.path().join("script");
            std::fs::write(&script, &file.text).unwrap();
            let netns = bare(host);
            let before = differences(&topology, host, &netns);
            assert!(!before.is_empty(), "{place}: there is nothing to do");
            // The second time everything is there already.
            for verb in ["start", "restart"] {
                let output = netns.run(|| {
                    Command::new("sh").arg(&script).arg(verb).env_remove("PATH").output().unwrap()
                });
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{place}: {verb}: {said}\n{}", file.text);
                let left = differences(&topology, host, &netns);
                assert!(left.is_empty(), "{place}: {verb}: {left:?}\n{said}\n{}", file.text);
            }
            let vips = netns.ip("-o address show");
            netns.run(|| {
                assert!(Command::new("sh").arg(&script).arg("stop").status().unwrap().success());
            });
            let own = desired.state.addresses.keys().map(|key| key.net.to_string());
            for net in own.filter(|net| vips.contains(net.as_str())) {
                let left = netns.ip("-o address show");
                assert!(!left.contains(&format!("{net} ")), "{place}: {net} is left");
            }
            assert!(netns.look(&[]).state.services.is_empty(), "{place}: services are left");
            scripts += 1;
        }
    }
    assert!(scripts > 30, "only {scripts} scripts ran");
}
