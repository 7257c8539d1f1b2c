//! Any IPVS table that the vocabulary allows, through a kernel that has IPVS.
//!
//! It needs root, ipvsadm and iproute2; the modules
//! ip_vs with its schedulers, ip_vs_pe_sip and veth. Each case has a network namespace of its own.

mod bulk;
mod facts;
mod laws;
mod raw;
mod transfer;

use crate::support::cases::Case;

const CASES: &[(&str, fn())] = &[
    ("the_kernel_does_with_odd_values_what_the_docs_say", facts::as_the_docs_say),
    ("the_tables_are_not_dull", laws::the_tables_are_not_dull),
    ("any_table_arrives", laws::any_table_arrives),
    ("any_table_becomes_any_other", laws::any_table_becomes_any_other),
    ("a_transfer_lives_through_changes_elsewhere", transfer::lives_through_changes_elsewhere),
    ("large_tables", bulk::large_tables),
];

pub fn cases() -> Vec<Case> {
    CASES.iter().map(|(name, case)| Case::new(*name, case)).collect()
}

/// Loads the modules as production does: the kernel's own loading of them, below the lock of the table, can wait for ever
/// for a namespace that goes away at the same time.
pub fn prepare() {
    for scheduler in lvsprov::topology::Scheduler::ALL {
        lvsprov::kernel::modules::load_part(scheduler.as_str());
    }
    lvsprov::kernel::modules::load_part("pe_sip");
}
