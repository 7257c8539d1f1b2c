//! A finding: what is wrong, where, why it matters, and what to do.

pub mod rules;

use serde::{Deserialize, Serialize};

use rules::Rule;

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
    /// The rule's stable name, in kebab-case; [`rules`] has its code.
    pub rule: &'static str,
    /// The place in the file that the report marks.
    pub at: Position,
    /// What is wrong, in one line.
    pub message: String,
    /// Why it matters: the effect that an operator or client would see.
    pub why: String,
    /// What to do.
    pub cure: String,
    /// It is an error only because the operator wants it so (`--deny`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// A finding that a comment in the file silences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SilencedFinding {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// Why the author of the file accepts it.
    pub reason: String,
}

/// Findings that count as errors on the operator's demand: `--deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedFindings {
    /// All warnings.
    Warnings,
    /// Every finding of one rule.
    OfRule(&'static Rule),
}

impl std::str::FromStr for DeniedFindings {
    type Err = rules::UnknownRule;

    /// `warnings`, or a rule's code or name.
    fn from_str(word: &str) -> Result<Self, rules::UnknownRule> {
        if word == "warnings" { Ok(Self::Warnings) } else { word.parse().map(Self::OfRule) }
    }
}

impl DeniedFindings {
    /// Whether `finding` is among them.
    pub fn has(self, finding: &Finding) -> bool {
        match self {
            Self::Warnings => finding.severity == Severity::Warning,
            Self::OfRule(rule) => finding.rule == rule.name,
        }
    }
}

impl Finding {
    /// The rule's row in the table of rules.
    pub fn of_rule(&self) -> Option<&'static Rule> {
        rules::find(self.rule)
    }

    /// An error: blocks plan and apply.
    pub fn error(
        rule: &'static str,
        at: Position,
        message: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        debug_assert!(rules::find(rule).is_some(), "src/finding/rules.rs lacks {rule:?}");
        let (message, why, cure) = (message.into(), why.into(), cure.into());
        Self { severity: Severity::Error, rule, at, message, why, cure, denied: false }
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
