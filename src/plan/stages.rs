//! The order across hosts: who may act only after whom.
//!
//! 1. Directors send no new connection to real servers that are to go, and wait for those that are there.
//! 2. Directors withdraw: no request is sent to what is about to go.
//! 3. Everybody else does all of its steps: real servers are ready, routers know the way.
//! 4. Directors build up: rules first, the VIP last of all, and the service is live.
//! 5. Real servers that are to take up their load slowly get more and more of it.

use crate::topology::{Host, Role};

/// A turn in which hosts act in parallel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Directors give no new connection to what is to go.
    Drain,
    /// Directors take back what is to go.
    Withdraw,
    /// Real servers, routers and clients.
    Ground,
    /// Directors go live.
    Live,
    /// Directors raise weights step by step.
    Ramp,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 5] = [Self::Drain, Self::Withdraw, Self::Ground, Self::Live, Self::Ramp];

    /// What happens in it, for a person.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Drain => "the director gives no new connection to what is to go, and waits",
            Self::Withdraw => "the director stops taking what is to go",
            Self::Ground => "real servers, routers and clients get ready",
            Self::Live => "the director goes live, the VIP last",
            Self::Ramp => "new real servers get more and more of their share",
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
