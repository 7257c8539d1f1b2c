//! Any IPVS table that the vocabulary allows, through a kernel that has IPVS.
//!
//! Started by cargo it boots the lab's virtual machine and runs itself in it:
//! `cargo test --test tables -- [PART OF A NAME]`. It needs root, ipvsadm and iproute2; the modules
//! ip_vs with its schedulers, ip_vs_pe_sip and veth. Each case has a network namespace of its own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tables/any.rs"]
mod any;
#[path = "support/beat.rs"]
mod beat;
#[path = "tables/bulk.rs"]
mod bulk;
#[path = "tables/facts.rs"]
mod facts;
#[path = "kernel/ground.rs"]
#[allow(dead_code)] // kernel.rs uses the rest
mod ground;
#[path = "tables/laws.rs"]
mod laws;
#[path = "tables/raw.rs"]
mod raw;
#[path = "tables/shown.rs"]
mod shown;
#[path = "tables/transfer.rs"]
mod transfer;
#[path = "support/vm.rs"]
mod vm;

use std::process::ExitCode;

/// A test's name and what it does.
type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("the_kernel_does_with_odd_values_what_the_docs_say", facts::as_the_docs_say),
    ("the_tables_are_not_dull", laws::the_tables_are_not_dull),
    ("any_table_arrives", laws::any_table_arrives),
    ("any_table_becomes_any_other", laws::any_table_becomes_any_other),
    ("a_transfer_lives_through_changes_elsewhere", transfer::lives_through_changes_elsewhere),
    ("large_tables", bulk::large_tables),
];

fn main() -> ExitCode {
    vm::run(900, || {
        // As production does: the kernel's own loading of them, below the lock of the table, can wait
        // for ever for a namespace that goes away at the same time.
        for scheduler in lvsprov::topology::Scheduler::ALL {
            lvsprov::kernel::modules::load_part(scheduler.as_str());
        }
        lvsprov::kernel::modules::load_part("pe_sip");
        CASES.iter().map(|(name, case)| vm::case(name, *case)).collect()
    })
}
