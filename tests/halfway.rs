//! A cluster is never left half-way: whatever is killed or cut off, at whatever point, the next plan
//! tells the truth, and one more command reaches the goal or gives back what was there.
//!
//! Needs a kernel with IPVS. Started by cargo it boots the lab's virtual machine and runs itself in it.
//! `LVSPROV_HALFWAY=all` tries every point in every way, which takes long.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "halfway/cluster.rs"]
mod cluster;
#[path = "halfway/gateway.rs"]
mod gateway;
#[path = "halfway/scenes.rs"]
mod scenes;
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

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    if let Some(code) = vm::boot(1500) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    modules();
    let tests = vec![
        trial("direct_routing_is_never_left_half_way", || halfway(scenes::dr)),
        trial("nat_is_never_left_half_way", || halfway(scenes::nat)),
        trial("tunnels_are_never_left_half_way", || halfway(scenes::tun)),
        trial("a_gateway_that_cuts_the_operator_off_is_undone", gateway::cuts_the_operator_off),
        trial("a_gateway_with_a_way_back_is_confirmed", gateway::with_a_way_back_is_confirmed),
        trial("the_operator_is_asked", gateway::the_operator_is_asked),
        trial("full_and_read_only_disks", trouble::disks),
        trial("a_missing_module", trouble::modules),
        trial("a_host_that_dies_between_stages", trouble::a_host_dies),
        trial("clocks_that_jump", trouble::clocks),
        trial("two_applies_at_once", two::at_once),
        trial("an_apply_that_does_not_wait", two::without_waiting),
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
    let all = std::env::var("LVSPROV_HALFWAY").is_ok_and(|text| text == "all");
    let (tried, wrong) = tries::play(scene, if all { tries::every } else { tries::some });
    assert!(tried > 0, "nothing was tried");
    assert!(wrong.is_empty(), "{} of {tried} tries:\n{}", wrong.len(), wrong.join("\n\n"));
}
