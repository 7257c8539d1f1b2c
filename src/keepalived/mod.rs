//! The configuration of keepalived on a director: the checks of the file, carried out by keepalived 2.2.7 and later.
//!
//! Pure: a [`Topology`] in, text out. How the text comes onto a director is left to [`crate::apply`] and [`crate::agent`];
//! the IPVS services by mark that checks go through, and the settings that they need, are in [`crate::desired`].

mod instance;

pub use instance::desired_with_checks;

use crate::names::HostName;
use crate::topology::Topology;

/// The configuration of keepalived on `director`. `None`: the file has no checks there, so the director needs no keepalived.
pub fn configuration(_topology: &Topology, _director: &HostName) -> Option<String> {
    None
}
