//! IPVS over generic netlink, in our own words: no published crate speaks all of it correctly.
//!
//! [`codec`] and [`decode`] are the language and pure, [`wire`] the framing below it; [`socket`]
//! carries it, and [`mod@explain`] says what an error number means. [`table`] decides strictly, in
//! memory, whether a change fits what is there, and [`run`] carries out changes that do.

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

/// Whether IPVS is there now. Asking the kernel for the family instead would load the module, and
/// looking must not change a host: so this looks for the file that ip_vs makes in each namespace.
pub fn is_loaded() -> bool {
    Path::new("/proc/thread-self/net/ip_vs").exists()
}
