//! The lab: builds the cluster of a topology file on one machine and tests it with real traffic.
//!
//! * [`network`] builds bare hosts as anonymous network namespaces, joined by bridges.
//! * [`targets`] lists addresses and ports to test: [`responders`] answer there on the real servers,
//!   [`clients`] send requests and count responses, [`expect`] has the expected results.
//!   [`checks`] has the file's health checks as these answers pass them.
//! * [`scenario`] runs all phases of one playbook: before apply, apply, traffic, drift, destroy.
//! * [`capture`] records every ARP and IPv6 neighbour discovery frame ([`neighbour`]), [`snapshot`] compares
//!   hosts before and after.
//! * [`sshd`] runs a real sshd in each host, for connections as in production.
//! * [`junit`] writes results for CI.
//! * [`vm`] boots another kernel if the running one lacks IPVS or IPIP.
//!
//! The lab decides nothing about the cluster: [`crate::desired`] does. Its namespaces are file
//! descriptors without names, so the kernel removes them when the process ends.

pub mod bulk;
pub mod capture;
pub mod chaos;
pub mod checks;
pub mod child;
pub mod clients;
pub mod error;
pub mod expect;
pub mod junit;
pub mod neighbour;
pub mod network;
mod programs;
pub mod responders;
pub mod scenario;
pub mod snapshot;
pub mod sshd;
pub mod targets;
pub mod vm;

pub use error::LabError;
pub use network::{Lab, isolate};
