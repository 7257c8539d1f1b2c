//! A step of a plan: an edit and its reason.

use serde::{Deserialize, Serialize};

use super::Edit;

/// An edit with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is done.
    pub edit: Edit,
    /// Why, for a person: which forwarding method needs it, and what would happen without.
    pub why: String,
}
