//! The order across hosts: who may act only after whom.
//!
//! 1. Directors withdraw: no request is sent to what is about to go.
//! 2. Everybody else does all of its steps: real servers are ready, routers know the way.
//! 3. Directors build up: rules first, the VIP last of all, and the service is live.

use crate::topology::{Host, Role};

/// A turn in which hosts act in parallel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Directors take back what is to go.
    Withdraw,
    /// Real servers, routers and clients.
    Ground,
    /// Directors go live.
    Live,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 3] = [Self::Withdraw, Self::Ground, Self::Live];

    /// What happens in it, for a person.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Withdraw => "the director stops taking what is to go",
            Self::Ground => "real servers, routers and clients get ready",
            Self::Live => "the director goes live, the VIP last",
        }
    }
}

/// Splits a host's steps over the stages.
pub fn stage(host: &Host, steps: super::order::Steps) -> Vec<(Stage, Vec<super::Step>)> {
    let parts = if host.roles.contains(&Role::Director) {
        vec![(Stage::Withdraw, steps.withdraw), (Stage::Live, steps.build)]
    } else {
        vec![(Stage::Ground, steps.into_all())]
    };
    parts.into_iter().filter(|(_, steps)| !steps.is_empty()).collect()
}
