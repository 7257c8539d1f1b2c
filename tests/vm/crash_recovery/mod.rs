//! A cluster is never left half-way: whatever is killed or cut off, at whatever point, the next plan
//! says what is true, and one more command reaches the goal or gives back what was there.
//!
//! Needs a kernel with IPVS.
//! It tries each kind of point on each kind of host, `LVSPROV_THOROUGH=1` twice; `LVSPROV_HALFWAY=all` tries every point in
//! every way, which takes hours, and `LVSPROV_HALFWAY=2/8` the second eighth of that.

mod cluster;
mod concurrent;
mod failures;
mod gateway;
mod host_view;
mod in_doubt;
mod points;
mod scene_run;
mod scenes;
mod tries;

use std::process::Command;

use crate::support::cases::Case;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("direct_routing_is_never_left_half_way", || never_left_half_way(scenes::dr)),
        Case::new("nat_is_never_left_half_way", || never_left_half_way(scenes::nat)),
        Case::new("tunnels_are_never_left_half_way", || never_left_half_way(scenes::tun)),
        Case::new("a_gateway_that_cuts_the_operator_off_is_undone", gateway::cuts_the_operator_off),
        Case::new("a_gateway_with_a_way_back_is_confirmed", gateway::with_a_way_back_is_confirmed),
        Case::new("the_operator_is_asked", gateway::the_operator_is_asked),
        Case::new("full_and_read_only_disks", failures::disks),
        Case::new("a_missing_module", failures::modules),
        Case::new("a_host_that_dies_between_stages", failures::a_host_dies),
        Case::new("clocks_that_jump", failures::clocks),
        Case::new("two_applies_at_once", concurrent::at_once),
        Case::new("an_apply_that_does_not_wait", concurrent::without_waiting),
    ]
}

/// Loads the modules: they appear in every namespace, so all of them are there before the first look.
pub fn prepare() {
    for module in ["ip_vs", "ip_vs_rr", "ip_vs_wrr", "ipip"] {
        let status = Command::new("/sbin/modprobe").arg(module).status().unwrap();
        assert!(status.success(), "modprobe {module}: {status}");
    }
    cluster::keep_the_program();
}

fn never_left_half_way(scene: fn() -> scenes::Scene) {
    let (tried, wrong) = tries::play(scene, points::Share::wanted());
    assert!(tried > 0, "nothing was tried");
    assert!(wrong.is_empty(), "{} of {tried} tries:\n{}", wrong.len(), wrong.join("\n\n"));
}
