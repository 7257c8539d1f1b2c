//! The difference between two states as ordered steps, each with what was, what will be, and why.
//!
//! - [`order`]: from what is seen to what is wanted, in an order that is safe at every point.
//! - [`ownership`]: what is ours, what was there before, and what the goal of an apply or a destroy is.
//! - [`foreign`]: what others made on a host, and how far an apply may go with it.
//! - [`journal`]: what lies on a host while it is changed, and how that is undone.
//! - [`mod@simulate`]: steps applied in memory, as strictly as the kernel does it.
//! - [`stages`]: the order across hosts.
//! - [`drain`], [`ramp`]: how real servers are taken out and in without anybody noticing.
//! - [`silence`]: new connections are not refused while a service has no scheduler.
//! - [`preflight`]: what must be true of a host before anything is touched.
//!
//! All of it is pure: nothing here looks at a host.

pub mod drain;
pub mod foreign;
pub mod journal;
pub mod neighbours;
pub mod order;
pub mod ownership;
pub mod preflight;
pub mod ramp;
pub mod silence;
pub mod simulate;
pub mod stages;
pub mod terms;

#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod laws;

pub use foreign::{Foreign, Terms};
pub use order::steps_between;
pub use ownership::Goal;
pub use simulate::{SimulateError, simulate};
