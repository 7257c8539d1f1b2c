//! The difference between two states as ordered steps: edits, each with its reason.
//!
//! - [`order`]: from what is seen to what is wanted, in an order that is safe at every point.
//! - [`ownership`]: what is ours, its values before, and the goal of an apply or a destroy.
//! - `accepted`: settings whose value on the host serves.
//! - [`unmanaged`]: settings that lvsprov did not make, and how far an apply may go with them.
//! - [`other_topologies`]: what another topology owns on the same host.
//! - [`journal`]: what lies on a host while it is changed, and how that is undone.
//! - [`boot`]: what a host makes again by itself after a restart.
//! - [`mod@simulate`]: steps applied in memory, as strictly as the kernel does it.
//! - [`link_managers`]: programs on the host that work against lvsprov's settings.
//! - [`stages`]: the order across hosts.
//! - [`drift`]: what a host mends by itself while it runs.
//! - [`drain`], [`ramp`], [`pacing`]: real servers are taken out and in without a refused client.
//! - [`external`]: weights that a health checker sets, which are health and no drift.
//! - [`maintenance`]: hosts that are taken out for a while, and what stands in the way.
//! - [`scheduler_swap`]: no connection is refused while a service has no scheduler.
//! - [`preflight`]: what must be true of a host before anything is touched.
//! - [`holders`]: whether another machine has an address that a host is about to get.
//!
//! All of it is pure: nothing here looks at a host.

mod accepted;
pub mod boot;
pub mod drain;
pub mod drift;
pub mod external;
pub mod holders;
pub mod instances;
pub mod journal;
pub mod link_managers;
pub mod maintenance;
pub mod order;
pub mod other_topologies;
pub mod ownership;
pub mod pacing;
pub mod preflight;
pub mod ramp;
pub mod scheduler_swap;
pub mod simulate;
pub mod stages;
pub mod unmanaged;

#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod laws;

pub use order::steps_between;
pub use ownership::Goal;
pub use simulate::{SimulateError, simulate};
pub use unmanaged::{AdoptPolicy, UnmanagedItem};
