//! A finding: what is wrong, where, why it matters, and what to do.

use serde::{Deserialize, Serialize};

/// A place in the topology file. Lines and columns count from 1; 0 where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Length of the marked text in characters; 0 where it is not known.
    pub length: u32,
}

/// Whether a finding blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The cluster would not work, or the file is ambiguous. Blocks plan and apply.
    Error,
    /// The cluster works, but perhaps not as the author meant it. Does not block.
    Warning,
    /// The cluster works as meant; the operator should know a consequence. Does not block.
    Note,
}

/// One problem, or one consequence worth knowing, in a topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it blocks.
    pub severity: Severity,
    /// The rule's stable name, in kebab-case.
    pub rule: &'static str,
    /// The place in the file that the report marks.
    pub at: Position,
    /// What is wrong, in one line.
    pub message: String,
    /// Why it matters: the effect that an operator or client would see.
    pub why: String,
    /// What to do.
    pub cure: String,
}

impl Finding {
    /// An error: blocks plan and apply.
    pub fn error(
        rule: &'static str,
        at: Position,
        message: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (message, why, cure) = (message.into(), why.into(), cure.into());
        Self { severity: Severity::Error, rule, at, message, why, cure }
    }

    /// A warning: does not block.
    pub fn warning(
        rule: &'static str,
        at: Position,
        message: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(rule, at, message, why, cure) }
    }

    /// A note: does not block, and the file needs no change.
    pub fn note(
        rule: &'static str,
        at: Position,
        message: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Note, ..Self::error(rule, at, message, why, cure) }
    }
}
