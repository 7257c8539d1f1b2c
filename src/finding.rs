//! What a rule has to say: what is wrong, where, why it matters, and what to do.

use serde::{Deserialize, Serialize};

/// A place in the topology file. Lines and columns count from 1; 0 where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// How many characters what stands there is long; 0 where that is not known.
    pub length: u32,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The cluster would not work, or it is not clear what is meant: nothing is done.
    Error,
    /// It works, and is perhaps not what was meant: does not block.
    Warning,
    /// It works as meant, and its user should know what comes with it: does not block.
    Note,
}

/// One thing found in a topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule's stable name, in kebab-case.
    pub rule: &'static str,
    /// Where.
    pub at: Position,
    /// What is wrong, in one line.
    pub message: String,
    /// Why it matters: what a person would see.
    pub why: String,
    /// What to do.
    pub cure: String,
}

impl Finding {
    /// A finding that blocks.
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

    /// A finding that does not block.
    pub fn warning(
        rule: &'static str,
        at: Position,
        message: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(rule, at, message, why, cure) }
    }

    /// A finding with nothing to mend in the file.
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
