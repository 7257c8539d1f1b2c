//! What several test programs share.
#![allow(dead_code, reason = "each program uses some of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod agents;
pub mod any_tables;
pub mod booted_host;
pub mod cases;
pub mod foreign_routing;
pub mod ipvsadm;
pub mod netns_host;
pub mod nft_tables;
pub mod playbooks;
pub mod prediction;
pub mod processes;
pub mod random_clusters;
pub mod random_rules;
pub mod random_verdict;
pub mod speed;
pub mod vm;
pub mod wrapped;
