//! The kernel edge against the running kernel, each test in a network namespace of its own. What was
//! done is looked at with `ip -j` and /proc, and not only with our own reader.
//!
//! Needs root. What needs IPVS or IPIP is in kernel_vm.rs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "kernel/agents.rs"]
mod agents;
#[path = "support/beat.rs"]
mod beat;
#[path = "kernel/cgroups.rs"]
mod cgroups;
#[path = "kernel/disk.rs"]
mod disk;
#[path = "kernel/faults.rs"]
mod faults;
#[path = "kernel/ground.rs"]
mod ground;
#[path = "kernel/ipv6.rs"]
mod ipv6;
#[path = "kernel/keeping.rs"]
mod keeping;
#[path = "kernel/life.rs"]
mod life;
#[path = "kernel/network.rs"]
mod network;
#[path = "kernel/nft.rs"]
mod nft;
#[path = "kernel/renewed.rs"]
mod renewed;
#[path = "kernel/retries.rs"]
mod retries;
#[path = "kernel/tables.rs"]
mod tables;
#[path = "kernel/timer.rs"]
mod timer;
#[path = "kernel/values.rs"]
mod values;
#[path = "kernel/wire.rs"]
mod wire;
