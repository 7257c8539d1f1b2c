//! The controller's half: one change of all hosts of a topology.
//!
//! | module | what |
//! | --- | --- |
//! | [`session`] | the connections to all hosts; asks and observes them |
//! | [`requests`] | the requests of a transaction and what their answers mean |
//! | [`cluster_plan`] | observed hosts -> the steps of each host, in stages |
//! | [`holders`] | whether another machine has a VIP that the plan adds |
//! | [`saved_plan`] | a plan in a file, with the state it was made from |
//! | [`transaction`] | the two-phase commit over all hosts, phase after phase: |
//! | [`prepare`] | who takes part, what goes into each journal |
//! | `execute` | the stages ([`stage_work`], [`drain`]), then the state of each host |
//! | `confirm` | the network answers, or the operator says yes ([`traffic`], [`verify`]) |
//! | `commit` | the votes and the one decision; abort is a [`rollback`] of every host |
//! | [`health`] | what a health checker has made of weights: in words, and what requests expect |
//! | [`maintenance`] | hosts are taken out without a lost request, rebooted, and returned |
//! | [`open_transactions`], [`recover`] | transactions of earlier runs: what each is, `rollback` and `confirm` |
//! | [`doctor`] | why requests are not answered: walk, real requests, and what the kernels say |
//! | [`operator`] | who runs this controller, and their console |
//! | [`outcome`], [`status`] | results as plain types, which [`crate::report`] renders |

pub mod cluster_plan;
mod commit;
mod confirm;
pub mod doctor;
pub mod drain;
mod execute;
pub mod health;
pub mod holders;
pub mod maintenance;
mod moments;
pub mod open_transactions;
pub mod operator;
pub mod outcome;
pub mod prepare;
pub mod recover;
pub mod requests;
pub mod rollback;
pub mod saved_plan;
pub mod session;
pub mod stage_work;
pub mod status;
pub mod traffic;
pub mod transaction;
pub mod unanswered;
pub mod verify;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

pub use outcome::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
pub use session::{ConnectionSettings, Session};
