//! The order across hosts: who may act only after whom.
//!
//! 1. Directors send no new connection to real servers that are to go, and wait for those that are there.
//! 2. Directors withdraw: no request is sent to what is about to go.
//! 3. All other hosts do all of their steps: real servers get ready, routers learn the way.
//! 4. Directors build up: rules first, the VIP last of all, and the service is live.
//! 5. Real servers that are to take up their load slowly get more and more of it.

use crate::state::{Stage, Step};
use crate::topology::{Host, Role};

/// Splits a host's steps over the stages.
pub fn stage(host: &Host, steps: super::order::Steps) -> Vec<(Stage, Vec<Step>)> {
    let parts = if host.roles.contains(&Role::Director) {
        vec![(Stage::Withdraw, steps.withdraw), (Stage::Live, steps.build)]
    } else {
        vec![(Stage::Ready, steps.into_all())]
    };
    parts.into_iter().filter(|(_, steps)| !steps.is_empty()).collect()
}
