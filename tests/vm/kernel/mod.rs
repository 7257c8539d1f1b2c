//! The kernel edge against a kernel with IPVS and tunnels.
//!
//! It loads modules, and the first cases need a kernel into which nothing was loaded yet. It needs modprobe with the
//! modules of the running kernel, ipvsadm, iproute2, nft and tcpdump; the modules ip_vs (with its schedulers), ipip, sit,
//! ip6_tunnel, ip_gre, ip6_gre, fou, fou6, nf_tables (with nft_ct, nft_chain_nat, nft_masq), ip_vs_ftp, 8021q, bonding, nlmon and drop_monitor.

mod bytes;
mod control;
mod drops;
mod guard;
mod modules;
mod nft;
mod services;
mod steps;
mod transactions;
mod tunnels;

pub use modules::child;

use crate::support::cases::Case;

/// In this order: the first ones need a kernel into which nothing was loaded yet.
const CASES: &[(&str, fn())] = &[
    ("looking_loads_nothing", modules::looking_loads_nothing),
    ("a_missing_module_is_explained", modules::a_missing_module_is_explained),
    ("ip_vs_is_loaded", modules::ip_vs_is_loaded),
    ("ipip_is_loaded_and_brings_tunl0", modules::ipip_is_loaded_and_brings_tunl0),
    ("asking_netfilter_loads_it", nft::asking_netfilter_loads_it),
    ("every_module_is_loaded", tunnels::every_module_is_loaded),
    ("every_packet_rule", nft::every_packet_rule),
    ("a_vip_on_tunl0", modules::a_vip_on_tunl0),
    ("forwarding_switches_lro_off_for_good", modules::forwarding_switches_lro_off_for_good),
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
    ("a_drop_is_named", drops::a_drop_is_named),
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
    ("only_directors_may_wrap", guard::only_directors_may_wrap),
    ("other_destinations_are_not_asked", guard::other_destinations_are_not_asked),
    ("the_same_bytes_as_ipvsadm", bytes::the_same_bytes_as_ipvsadm),
];

pub fn cases() -> Vec<Case> {
    CASES.iter().map(|(name, case)| Case::new(*name, case)).collect()
}
