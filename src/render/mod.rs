//! Renders the desired state of a host in the format of another program.
//!
//! Pure: a [`crate::state::HostState`] in, text out, with a list of the settings that the format does not
//! support: a rules file alone is not a complete director.

pub mod host;
mod interfaces;
pub mod ipvsadm;
pub mod keepalived;
mod nft;
pub mod shell;

use serde::Serialize;

/// A text for another program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The settings that it leaves out; `unheld` in JSON.
    #[serde(rename = "unheld")]
    pub unsupported: Vec<Unsupported>,
}

/// A setting that a format does not support.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// The setting.
    pub what: String,
    /// The reason, and how to set it otherwise.
    pub why: String,
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}
