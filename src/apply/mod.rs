//! All hosts of a topology through the story in parallel: connect, look, plan, act, verify.
//!
//! [`session`] holds the connections and asks; [`planning`] decides what each host must do, and
//! [`transaction`] how that becomes one change of all (both pure); [`acting`] goes through the stages,
//! in which [`turns`] decides who acts and [`recording`] says what came of it (both pure), and [`waiting`] lets connections end;
//! [`confirming`] sees whether it may stay, [`undoing`] takes it back, [`recovering`] does either with
//! what somebody else left; [`proving`] asks the network itself, by ARP and by [`requests`]. What comes of it are the plain types of
//! [`outcome`], which [`crate::report`] renders.

pub mod acting;
pub mod asking;
mod beginning;
mod closing;
mod confirming;
mod judging;
pub mod operator;
pub mod outcome;
pub mod planning;
pub mod proving;
pub mod recording;
pub mod recovering;
pub mod requests;
pub mod saved;
pub mod session;
pub mod transaction;
pub mod turns;
pub mod undoing;
pub mod unfinished;
pub mod views;
pub mod waiting;
pub mod watch;
mod working;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

pub use outcome::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
pub use session::{Session, Settings};
