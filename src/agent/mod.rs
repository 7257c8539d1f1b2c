//! The agent: what runs on a host. It answers requests, and holds the host's half of a transaction.
//!
//! [`serve`] reads requests and writes replies. [`transaction`] is the machine that answers them, over a
//! store and an actor: [`disk`] and [`host`] are the real ones. [`revert`] is the process of the revert
//! timer, [`announcer`] the one that repeats announcements, `boot` the one that makes the settled state again after a
//! restart, and after changes of the network (`network_changes`), `drift` the one that looks for drift. The files of its
//! units are those of `unit_files`. The kernel's edge is [`crate::kernel`]: everything there works in the network namespace of the
//! thread that calls it.

pub mod announcer;
mod boot;
pub mod boot_unit;
mod cgroups;
pub mod disk;
mod drift;
pub mod drift_timer;
mod file_tree;
pub mod host;
mod link_managers;
mod network_changes;
pub mod process;
pub mod revert;
pub mod serve;
pub mod transaction;
mod unit_files;

pub use disk::Disk;
pub use host::LocalHost;
pub use transaction::Agent;
pub use transaction::{journal, lock, receipt};
