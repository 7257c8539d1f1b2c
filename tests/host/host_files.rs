//! What `render host` writes, on hosts of the running kernel: afterwards a plan finds nothing to do. Those that need IPVS or
//! tunnels are tried in the machine (`vm`).

use std::collections::BTreeSet;
use std::process::Command;

use lvsprov::apply::cluster_plan::{self, Direction, HostPlanResult};
use lvsprov::desired::desired_for;
use lvsprov::plan::ownership::sysctls_to_read;
use lvsprov::render::host::{HostFiles, HostForm, InitSystem, files};
use lvsprov::topology::{Host, Topology};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, run};
use crate::support::playbooks::{load, playbooks};

pub fn cases() -> Vec<Case> {
    cases![
        scripts_and_stanzas_make_what_apply_makes,
        a_script_stops_at_the_first_command_that_fails
    ]
}

/// A namespace with the interfaces and addresses that the file says.
fn bare(host: &Host) -> NetnsHost {
    let netns = NetnsHost::with_lo();
    netns.set_sysctl("conf/all/rp_filter", "1");
    for (number, (name, interface)) in host.interfaces.iter().enumerate() {
        netns.ip(&format!("link add {name} type veth peer name other{number}"));
        netns.ip(&format!("link set {name} up"));
        netns.ip(&format!("link set other{number} up"));
        for net in &interface.addresses {
            let nodad = if net.addr().is_ipv6() { " nodad" } else { "" };
            netns.ip(&format!("address add {net} dev {name}{nodad}"));
        }
    }
    netns
}

/// What a plan still has to do.
fn differences(topology: &Topology, host: &Host, netns: &NetnsHost) -> Vec<String> {
    let desired = desired_for(topology, host);
    let sysctls: Vec<String> =
        sysctls_to_read(&desired.state).iter().map(ToString::to_string).collect();
    let sysctls: Vec<&str> = sysctls.iter().map(String::as_str).collect();
    let seen = netns.look(&sysctls);
    let direction = Direction::Adopt { now: 0 };
    match cluster_plan::plan_host(topology, host, &desired, &seen, direction) {
        HostPlanResult::Plan(plan) => {
            let steps = plan.stages.iter().flat_map(|(_, steps)| steps);
            steps.map(|step| step.edit.to_string()).collect()
        }
        other => vec![format!("{other:?}")],
    }
}

/// What ifupdown runs as it brings up all interfaces: lo first, and of each interface `pre-up` before `up`
/// (interfaces(5)).
fn as_ifupdown_does(text: &str) -> String {
    let mut stanzas: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("iface ") {
            let name = rest.split(' ').next().unwrap().to_owned();
            stanzas.push((name, Vec::new()));
        } else if let Some((_, lines)) = stanzas.last_mut() {
            lines.push(line.trim_start());
        }
    }
    stanzas.sort_by_key(|(name, _)| name != "lo");
    let mut script = "set -e\n".to_owned();
    for (_, lines) in &stanzas {
        for phase in ["pre-up ", "up "] {
            for command in lines.iter().filter_map(|line| line.strip_prefix(phase)) {
                script.extend([command, "\n"]);
            }
        }
    }
    script
}

fn sh(netns: &NetnsHost, script: &str) {
    netns.run(|| run(Command::new("sh").args(["-c", script])));
}

fn scripts_and_stanzas_make_what_apply_makes() {
    let mut tried = BTreeSet::new();
    for path in playbooks() {
        let topology = load(&path);
        for host in topology.hosts.values() {
            let desired = desired_for(&topology, host);
            let state = &desired.state;
            if state.items().is_empty() || !state.modules.is_empty() || !state.tables.is_empty() {
                continue;
            }
            let place = format!("{}: {}", path.display(), host.name);
            for form in [HostForm::Script(InitSystem::Lsb), HostForm::Ifupdown] {
                let netns = bare(host);
                assert!(!differences(&topology, host, &netns).is_empty(), "{place}: nothing to do");
                let HostFiles { files, unsupported } =
                    files(form, &topology, host, &desired).unwrap();
                assert_eq!(unsupported, [], "{place}");
                let text = &files[0].text;
                for _ in 0..2 {
                    match form {
                        HostForm::Ifupdown => sh(&netns, &as_ifupdown_does(text)),
                        _ => sh(&netns, &format!("set -- start\n{text}")),
                    }
                    let left = differences(&topology, host, &netns);
                    assert!(left.is_empty(), "{place}: {form:?}: {left:?}\n{text}");
                }
                tried.insert((place.clone(), format!("{form:?}")));
            }
        }
    }
    assert!(tried.len() >= 40, "only {} were tried", tried.len());
}

/// Also where a caller asks for the exit code, which would turn `set -e` off.
fn a_script_stops_at_the_first_command_that_fails() {
    let path = playbooks().into_iter().find(|path| path.ends_with("dr-one-network.yaml")).unwrap();
    let topology = load(&path);
    let host = topology.hosts.values().find(|host| host.name.as_str() == "server3").unwrap();
    let desired = desired_for(&topology, host);
    let form = HostForm::Script(InitSystem::Lsb);
    let text = files(form, &topology, host, &desired).unwrap().files.remove(0).text;
    // The setting that keeps the real server from answering for the VIP cannot be written.
    let broken = text.replace("conf/all/arp_ignore", "conf/all/no_such_setting");
    assert_ne!(broken, text);
    let netns = bare(host);
    let told = format!(
        "set -- start\n{}",
        broken
            .replace("        make\n", "        if make; then echo made; else echo stopped; fi\n")
    );
    let output = netns.run(|| Command::new("sh").args(["-c", &told]).output().unwrap());
    let words = String::from_utf8_lossy(&output.stdout);
    assert_eq!(words, "stopped\n", "{output:?}");
    assert!(!netns.ip("-o address show").contains("172.25.7.200"), "the VIP is there");
}
