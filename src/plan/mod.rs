//! The difference between two states as ordered steps, each with what was, what will be, and why.
//!
//! [`step`] has the closed set of changes and their inverses. What decides the order is `order`;
//! `simulate` applies steps in memory as strictly as the kernel does.

pub mod step;

pub use step::{Change, Step};
