//! What a host must look like, written for other programs.
//!
//! Pure: a [`crate::state::HostState`] in, text out, together with what the text cannot hold, so that
//! nobody takes a rules file for the whole of a director.

pub mod ipvsadm;

use serde::Serialize;

/// A text for another program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// What it leaves out.
    pub unheld: Vec<Unheld>,
}

/// Something that a format has no words for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unheld {
    /// The setting.
    pub what: String,
    /// Why it is not in the text, and where it belongs.
    pub why: String,
}

impl std::fmt::Display for Unheld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}
