//! What needs neither root nor a virtual machine: the checker, plans, imports, the command line and the documents, each
//! from whole files to the text that comes out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod accepted;
mod boot_unit;
mod check;
mod cli;
mod docs;
mod documents;
mod host_files;
mod house;
mod import;
mod large;
mod plans;
mod random;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod walk;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        accepted::cases(),
        boot_unit::cases(),
        check::cases(),
        cli::cases(),
        docs::cases(),
        documents::cases(),
        host_files::cases(),
        house::cases(),
        import::cases(),
        large::cases(),
        plans::cases(),
        random::cases(),
        rules::cases(),
        walk::cases(),
    ];
    support::cases::run(&cases.concat(), None)
}
