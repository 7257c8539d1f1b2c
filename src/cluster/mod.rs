//! All hosts of a topology through the story in parallel: connect, look, plan, act, verify.
//!
//! [`session`] holds the connections and asks; [`planning`] decides (pure); [`acting`] goes through
//! the stages, in which [`turns`] decides who acts and [`recording`] says what came of it (both pure);
//! in [`waiting`] connections may come to their end meanwhile;
//! [`proving`] asks the network itself. What comes of it are the plain types of
//! [`outcome`], which [`crate::report`] renders.

pub mod acting;
pub mod outcome;
pub mod planning;
pub mod proving;
pub mod recording;
pub mod session;
pub mod turns;
pub mod waiting;

#[cfg(test)]
mod tests;

pub use outcome::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
pub use session::{Session, Settings};
