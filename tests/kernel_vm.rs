//! The kernel edge against a kernel with IPVS and IPIP: a program of its own, for inside a VM.
//!
//! It loads modules, so it boots the lab's virtual machine and runs itself there, unless the
//! environment variable `LVSPROV_IN_VM` says that it is in one. There a missing capability is a
//! failure. It needs root, modprobe with the modules of the running kernel, ipvsadm, iproute2, nft and
//! tcpdump; the modules ip_vs (with its schedulers), ipip, sit, ip6_tunnel, ip_gre, ip6_gre, fou, fou6,
//! nf_tables (with nft_ct, nft_chain_nat, nft_masq), ip_vs_ftp, 8021q and nlmon.
//!
//! `cargo test --test kernel_vm -- [PART OF A NAME]` runs the cases whose name has that part.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "kernel/agents.rs"]
#[allow(dead_code)] // kernel.rs uses the rest
mod agents;
#[path = "support/beat.rs"]
mod beat;
#[path = "kernel_vm/bytes.rs"]
mod bytes;
#[path = "kernel_vm/control.rs"]
mod control;
#[path = "kernel/ground.rs"]
#[allow(dead_code)] // kernel.rs uses the rest
mod ground;
#[path = "kernel_vm/modules.rs"]
mod modules;
#[path = "kernel_vm/nft.rs"]
mod nft;
#[path = "kernel_vm/services.rs"]
mod services;
#[path = "kernel_vm/steps.rs"]
mod steps;
#[path = "kernel/tables.rs"]
#[allow(dead_code)] // kernel.rs uses the rest
mod tables;
#[path = "kernel_vm/transactions.rs"]
mod transactions;
#[path = "kernel_vm/tunnels.rs"]
mod tunnels;
#[path = "support/vm.rs"]
mod vm;

use std::process::ExitCode;

type Case = (&'static str, fn());

/// In this order: the first ones need a kernel into which nothing was loaded yet.
const CASES: &[Case] = &[
    ("looking_loads_nothing", modules::looking_loads_nothing),
    ("a_missing_module_is_explained", modules::a_missing_module_is_explained),
    ("ip_vs_is_loaded", modules::ip_vs_is_loaded),
    ("ipip_is_loaded_and_brings_tunl0", modules::ipip_is_loaded_and_brings_tunl0),
    ("asking_netfilter_loads_it", nft::asking_netfilter_loads_it),
    ("every_module_is_loaded", tunnels::every_module_is_loaded),
    ("every_packet_rule", nft::every_packet_rule),
    ("a_vip_on_tunl0", modules::a_vip_on_tunl0),
    ("a_vlan_has_its_settings", modules::a_vlan_has_its_settings),
    ("a_process_enters_a_namespace", modules::a_process_enters_a_namespace),
    ("only_root_acts", modules::only_root_acts),
    ("every_scheduler", services::every_scheduler),
    ("an_unknown_scheduler", services::an_unknown_scheduler),
    ("services_as_ipvsadm_shows_them", services::as_ipvsadm_shows_them),
    ("services_as_ipvsadm_makes_them", services::as_ipvsadm_makes_them),
    ("weights_and_thresholds", services::weights_and_thresholds),
    ("a_real_server_on_the_director", services::a_real_server_on_the_director),
    ("a_bare_namespace", services::a_bare_namespace),
    ("counters", services::counters),
    ("many_services", services::many_services),
    ("the_kernels_errors", services::the_kernels_errors),
    ("two_dumps_at_once", services::two_dumps_at_once),
    ("fullnat_needs_no_way_back", nft::fullnat_needs_no_way_back),
    (
        "without_conntrack_the_source_stays_the_clients",
        nft::without_conntrack_the_source_stays_the_clients,
    ),
    ("fullnat_is_for_its_own_vip", nft::fullnat_is_for_its_own_vip),
    (
        "fullnat_loses_the_answers_of_one_packet_services",
        nft::fullnat_loses_the_answers_of_one_packet_services,
    ),
    ("marks_choose_a_service", nft::marks_choose_a_service),
    ("strict_before", steps::strict_before),
    ("a_failure_in_the_middle_of_a_batch", steps::a_failure_in_the_middle_of_a_batch),
    ("an_unknown_scheduler_among_steps", steps::an_unknown_scheduler_among_steps),
    ("a_plan_and_its_inverse", steps::a_plan_and_its_inverse),
    ("killed_after_each_step_of_a_run", transactions::killed_after_each_step_of_a_run),
    ("the_timer_is_killed_after_each_step", transactions::the_timer_is_killed_after_each_step),
    ("the_timer_puts_a_table_back", transactions::the_timer_puts_a_table_back),
    ("timeouts", control::timeouts),
    ("daemons", control::daemons),
    ("daemons_over_ipv6", control::daemons_over_ipv6),
    ("the_kernels_own_lengths", control::the_kernels_own_lengths),
    ("daemons_that_cannot_run", control::daemons_that_cannot_run),
    ("settings", control::settings),
    ("gre_devices", tunnels::gre_devices),
    ("gre_devices_of_others", tunnels::gre_devices_of_others),
    ("gre_is_unwrapped", tunnels::gre_is_unwrapped),
    ("gue_is_unwrapped", tunnels::gue_is_unwrapped),
    ("gue_ports", tunnels::gue_ports),
    ("the_same_bytes_as_ipvsadm", bytes::the_same_bytes_as_ipvsadm),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Parts of this program that a case starts as a process of its own.
    if let [role, rest @ ..] = args.as_slice()
        && let Some(role) = role.strip_prefix("child:")
    {
        return modules::child(role, rest);
    }
    vm::run(1500, || CASES.iter().map(|(name, case)| vm::case(name, *case)).collect())
}
