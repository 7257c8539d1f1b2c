//! The lab: the cluster of a topology file on one machine, and proof that it does what the file says.
//!
//! * [`network`] builds bare hosts as anonymous network namespaces, joined by bridges.
//! * [`targets`] says what can be tried: [`responders`] answer there on the real servers, [`clients`]
//!   ask and count who answered, [`expect`] says what must come of it.
//! * [`watch`] hears every ARP frame of the lab and what [`neighbour`] is in IPv6, [`snapshot`] compares hosts before and after.
//! * [`sshd`] runs a real sshd in each host, for the way that production goes.
//! * [`junit`] writes results for CI.
//! * [`vm`] does all that on another kernel, where the running one lacks IPVS or IPIP.
//!
//! It obeys and decides nothing about the cluster: what a host should look like comes from the core.
//! Nothing it makes has a name outside its own process: namespaces are file descriptors, so they
//! vanish with it, however it ends.

pub mod bulk;
pub mod child;
pub mod clients;
pub mod error;
pub mod expect;
pub mod junit;
pub mod neighbour;
pub mod network;
mod programs;
pub mod responders;
pub mod snapshot;
pub mod sshd;
pub mod story;
pub mod targets;
pub mod vm;
pub mod watch;

pub use error::LabError;
pub use network::{Lab, isolate};
