//! Findings, plans and outcomes as text and JSON; output only, decides nothing.

pub mod findings;
