//! `lvsprov`: one YAML topology brings the hosts of a Linux Virtual Server cluster to a working state.
//!
//! The path of an `apply`, one function each:
//!
//! ```text
//! main -> cli::run -> cli::change::apply
//!   load (topology, check) -> open a session and observe (apply::session, transport) -> plan (apply::cluster_plan, plan)
//!   -> apply::transaction::run: prepare, execute, confirm, vote, commit or abort (apply; on each host: agent, kernel)
//!   -> report
//! ```
//!
//! A module uses only modules that stand before it in this list; a test draws the graph
//! (tests/pure/house.rs):
//!
//! 1. Leaves: [`names`], [`finding`], [`failure`], [`visible`], [`whole_file`].
//! 2. The core, which is pure: [`state`] (what a host is, wanted or seen), [`topology`] (the file),
//!    [`walk`] (a packet through the hosts), [`desired`] (the file -> each host's state), [`keepalived`] (the file -> the
//!    configuration of its health checker), [`plan`] (two states -> ordered steps), [`check`] (rules for a file).
//! 3. [`protocol`]: the messages between controller and agent.
//! 4. The host's side: [`kernel`] (netlink, /proc/sys, modules), [`agent`] (requests, journal, revert timer).
//! 5. The controller's side: [`transport`] (ssh, local, frames), [`apply`] (all hosts in one transaction),
//!    [`report`], [`render`], [`import`].
//! 6. [`lab`] (the cluster in network namespaces, or in a virtual machine), [`cli`] (one function a subcommand).

pub mod agent;
pub mod apply;
pub mod check;
pub mod cli;
pub mod desired;
pub mod failure;
pub mod finding;
pub mod import;
pub mod keepalived;
pub mod kernel;
pub mod lab;
pub mod names;
pub mod plan;
pub mod protocol;
pub mod render;
pub mod report;
pub mod state;
#[cfg(test)]
mod support;
pub mod topology;
pub mod transport;
pub mod visible;
pub mod walk;
pub mod whole_file;
