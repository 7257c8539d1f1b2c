//! A cluster is never left half-way: whatever is killed or cut off, at whatever point, the next plan
//! tells the truth, and one more command reaches the goal or gives back what was there.
//!
//! Needs a kernel with IPVS. Started by cargo it boots the lab's virtual machine and runs itself in it.
//! It tries each kind of point on each kind of host; `LVSPROV_HALFWAY=all` tries every point in every
//! way, which takes hours, and `LVSPROV_HALFWAY=2/8` the second eighth of that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "support/beat.rs"]
mod beat;
#[path = "halfway/cluster.rs"]
mod cluster;
#[path = "halfway/found.rs"]
mod found;
#[path = "halfway/gateway.rs"]
mod gateway;
#[path = "halfway/points.rs"]
mod points;
#[path = "halfway/scenes.rs"]
mod scenes;
#[path = "halfway/stage.rs"]
mod stage;
#[path = "halfway/tries.rs"]
mod tries;
#[path = "halfway/trouble.rs"]
mod trouble;
#[path = "halfway/truth.rs"]
mod truth;
#[path = "halfway/two.rs"]
mod two;
#[path = "support/vm.rs"]
mod vm;

use std::process::{Command, ExitCode};

use libtest_mimic::Arguments;

/// For all of it, in seconds.
const LIMIT_S: u32 = 7200;

fn main() -> ExitCode {
    if let Some(code) = vm::boot(LIMIT_S) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Each has a lab of its own, and waits for much.
    arguments.test_threads.get_or_insert(3);
    modules();
    cluster::keep_the_program();
    let tests = vec![
        vm::case("direct_routing_is_never_left_half_way", || halfway(scenes::dr)),
        vm::case("nat_is_never_left_half_way", || halfway(scenes::nat)),
        vm::case("tunnels_are_never_left_half_way", || halfway(scenes::tun)),
        vm::case("a_gateway_that_cuts_the_operator_off_is_undone", gateway::cuts_the_operator_off),
        vm::case("a_gateway_with_a_way_back_is_confirmed", gateway::with_a_way_back_is_confirmed),
        vm::case("the_operator_is_asked", gateway::the_operator_is_asked),
        vm::case("full_and_read_only_disks", trouble::disks),
        vm::case("a_missing_module", trouble::modules),
        vm::case("a_host_that_dies_between_stages", trouble::a_host_dies),
        vm::case("clocks_that_jump", trouble::clocks),
        vm::case("two_applies_at_once", two::at_once),
        vm::case("an_apply_that_does_not_wait", two::without_waiting),
    ];
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// They appear in every namespace: all of them are there before the first look.
fn modules() {
    for module in ["ip_vs", "ip_vs_rr", "ip_vs_wrr", "ipip"] {
        let status = Command::new("/sbin/modprobe").arg(module).status().unwrap();
        assert!(status.success(), "modprobe {module}: {status}");
    }
}

fn halfway(scene: fn() -> scenes::Scene) {
    let (tried, wrong) = tries::play(scene, points::Share::wanted());
    assert!(tried > 0, "nothing was tried");
    assert!(wrong.is_empty(), "{} of {tried} tries:\n{}", wrong.len(), wrong.join("\n\n"));
}
