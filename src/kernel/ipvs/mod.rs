//! IPVS over generic netlink, with lvsprov's own codec: no published crate encodes all of it correctly
//! (docs/libraries.md).
//!
//! [`codec`] and [`decode`] are pure, [`wire`] is the framing below them; [`socket`] sends and receives, and
//! [`mod@explain`] gives the meaning of error numbers. [`table`] checks a change strictly, in memory, against
//! the table that was read, and [`run`] carries out changes that fit.

pub mod codec;
pub mod control;
pub mod decode;
pub mod explain;
pub mod run;
pub mod socket;
pub mod table;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use explain::explain;

pub use codec::{IpvsInfo, IpvsRequest};
pub use socket::{IpvsObservation, IpvsSocket};
pub use table::Table;

pub use super::wire;

/// Whether ip_vs is loaded or built in: it makes a file in each network namespace. A request for the family
/// would load the module, and observing must not change a host.
pub fn is_loaded() -> bool {
    Path::new("/proc/thread-self/net/ip_vs").exists()
}
