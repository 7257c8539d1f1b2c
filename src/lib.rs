//! `lvsprov`: one YAML topology brings the hosts of a Linux Virtual Server cluster to a working state.
//!
//! The story, one function each, in this order:
//!
//! ```text
//! topology::load -> topology::resolve -> check -> desired::desired_for(host) -> transport::connect(host)
//!   -> kernel::observe -> plan::plan -> plan::stages -> kernel::act -> kernel::observe -> verify -> report
//! ```
//!
//! The core (`topology`, `check`, `state`, `desired`, `plan`) decides and does no I/O. The edges
//! (`kernel`, `transport`, `lab`) obey and decide nothing. `cluster` walks all hosts of a topology
//! through the story in parallel; `report` turns what came of it into text and JSON; `cli` is the
//! command line.

pub mod check;
pub mod cli;
pub mod cluster;
pub mod desired;
pub mod import;
pub mod kernel;
pub mod lab;
pub mod plan;
pub mod protocol;
pub mod render;
pub mod report;
pub mod state;
#[cfg(test)]
mod support;
pub mod topology;
pub mod transport;
pub mod visible;
