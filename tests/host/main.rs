//! What needs root, and this machine's kernel is enough for: network namespaces, agents, a real sshd, traffic in a lab
//! without IPVS. What it proves of the lab's hosts, `vm` proves again on a kernel with IPVS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod booted;
mod cluster;
mod host_files;
mod keepalived;
mod kernel;
mod lab;
mod lab_traffic;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod transport;

use std::process::ExitCode;

use support::cases::Case;

/// Most of them wait: for a timer, a process, a login.
const AT_ONCE: usize = 6;

fn main() -> ExitCode {
    let mut all = [
        booted::cases(),
        cluster::cases(),
        host_files::cases(),
        keepalived::cases(),
        kernel::cases(),
        lab::cases(),
        lab_traffic::cases(),
        rules::cases(),
        transport::cases(),
    ]
    .concat();
    // `vm` has them; here they are listed and left out.
    all.extend(lab::needs_ipvs().into_iter().map(Case::ignored));
    support::cases::run(&all, Some(AT_ONCE))
}
