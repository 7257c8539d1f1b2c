//! What needs a kernel with IPVS. Started by cargo, the program boots the lab's virtual machine for each of its groups,
//! some side by side, and runs itself in it.
//!
//! `cargo test --test vm -- [PART OF A NAME]` runs the cases whose name has that part. `LVSPROV_TEST_MACHINES=1` runs one
//! machine at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod booted;
mod chaos;
mod crash_recovery;
mod doctor;
mod drift;
mod end_to_end;
mod host_files;
mod hosts;
mod import;
mod ipvs_round_trip;
mod kernel;
#[path = "../host/lab/mod.rs"]
mod lab;
mod live_changes;
mod machine;
mod maintenance;
mod playbooks;
mod random;
mod reboot;
mod rules;
mod shares;
#[path = "../support/mod.rs"]
mod support;
mod walk;

use std::process::ExitCode;

use support::cases::Case;
use support::vm::{self, Group, Place};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Parts of this program that a case starts as a process of its own.
    if let [role, rest @ ..] = arguments.as_slice()
        && let Some(role) = role.strip_prefix("child:")
    {
        return kernel::child(role, rest);
    }
    vm::run(groups())
}

/// Cases that want a kernel into which nothing was loaded have a machine of their own, and so have those that take long.
fn groups() -> Vec<Group> {
    let mut all = vec![
        group("kernel", 130, Place::machine(1500), kernel::cases()),
        group("end_to_end", 300, Place::machine(1500), end_to_end::cases()),
        group("doctor", 155, Place::machine(1500), doctor::cases()),
        group("live_changes", 340, Place::machine(1500), live_changes::cases()),
        within(
            "live_changes",
            "health_checks",
            200,
            Place::machine(1500),
            live_changes::health::cases(),
        ),
        within(
            "live_changes",
            "health_daemon",
            200,
            Place::machine(1500),
            live_changes::instance::cases(),
        ),
        within("checks", "checks", 300, Place::machine(1500), live_changes::checks::cases()),
        group(
            "ipvs_round_trip",
            110,
            Place::Machine { limit_s: 900, prepare: ipvs_round_trip::prepare, at_once: 1 },
            ipvs_round_trip::cases(),
        ),
        group("reboot", 65, Place::machine(900), [reboot::cases(), drift::cases()].concat()),
        group("maintenance", 300, Place::machine(3600), maintenance::cases()),
        group("booted", 170, Place::machine(1500), booted::cases()),
        group("chaos", 150, Place::machine(7200), chaos::cases()),
        group("rules", 80, Place::machine(900), rules::cases()),
        group("shares", 50, Place::machine(900), shares::cases()),
        group("import", 80, Place::machine(900), import::cases()),
        group("host_files", 110, Place::machine(900), host_files::cases()),
        group("lab", 65, Place::machine(900), [lab::cases(), lab::needs_ipvs()].concat()),
        group(
            "random",
            70,
            Place::Machine { limit_s: 20_000, prepare: random::prepare, at_once: 1 },
            random::cases(),
        ),
        group("machine", 145, Place::Here, machine::cases()),
    ];
    all.extend(crash_recovery_groups());
    all.extend(playbook_groups());
    for (part, name) in ["walk_1", "walk_2"].into_iter().enumerate() {
        let cases = walk::cases().into_iter().skip(part).step_by(2).collect();
        let place = Place::Machine { limit_s: 7200, prepare: walk::prepare, at_once: 1 };
        all.push(within("walk", name, 200, place, cases));
    }
    all
}

/// A scene each, and the rest: none of them shares anything with another.
fn crash_recovery_groups() -> Vec<Group> {
    let place = Place::Machine { limit_s: 7200, prepare: crash_recovery::prepare, at_once: 2 };
    let (scenes, rest): (Vec<Case>, Vec<Case>) = crash_recovery::cases()
        .into_iter()
        .partition(|case| case.name().ends_with("left_half_way"));
    assert_eq!(scenes.len(), 3, "each scene has a machine of its own");
    let names = ["crash_recovery_dr", "crash_recovery_nat", "crash_recovery_tun"];
    let mut all = vec![within("crash_recovery", "crash_recovery", 450, place, rest)];
    for (name, scene) in names.into_iter().zip(scenes) {
        all.push(within("crash_recovery", name, 250, place, vec![scene]));
    }
    all
}

fn playbook_groups() -> Vec<Group> {
    let local = ["playbooks_1", "playbooks_2"];
    let over_ssh = ["playbooks_over_ssh_1", "playbooks_over_ssh_2"];
    let of = |name, expected_s, cases| within("playbooks", name, expected_s, Place::Here, cases);
    let mut all = Vec::new();
    for (part, name) in local.into_iter().enumerate() {
        all.push(of(name, 150, playbooks::local(part, local.len())));
    }
    for (part, name) in over_ssh.into_iter().enumerate() {
        all.push(of(name, 240, playbooks::over_ssh(part, over_ssh.len())));
    }
    all
}

/// All cases of the module `name`.
fn group(name: &'static str, expected_s: u32, place: Place, cases: Vec<Case>) -> Group {
    within(name, name, expected_s, place, cases)
}

/// Some cases of `module`.
fn within(
    module: &str,
    name: &'static str,
    expected_s: u32,
    place: Place,
    cases: Vec<Case>,
) -> Group {
    let in_module = |case: Case| {
        if case.name().contains("::") { case } else { case.within(module) }
    };
    Group { name, expected_s, place, cases: cases.into_iter().map(in_module).collect() }
}
