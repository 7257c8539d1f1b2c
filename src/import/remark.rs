//! Remarks: guesses of an import, and parts of the source that are not in the result.

use std::fmt;

use serde::Serialize;

use crate::visible::visible;

/// The kind of a remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemarkKind {
    /// It is in the result, but not in the source: the operator should check it.
    Guessed,
    /// It is not in the result: import cannot parse it or its value is not valid.
    NotUnderstood,
    /// It is not in the result: a topology file has no key for it.
    NotExpressible,
}

impl fmt::Display for RemarkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Guessed => "guessed",
            Self::NotUnderstood => "not understood",
            Self::NotExpressible => "cannot be expressed",
        })
    }
}

/// A guess, or a part of the source that is not in the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The line of the source, from 1; `None` if not about a single line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The host, for an import from hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The kind of a remark.
    pub kind: RemarkKind,
    /// The subject.
    pub what: String,
    /// The reason, and the consequence or cure.
    pub why: String,
}

impl Remark {
    /// A remark about no single line. Hidden characters in both texts are escaped for the terminal.
    pub fn general(kind: RemarkKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        let [what, why] = [what.into(), why.into()].map(|text| visible(&text).into_owned());
        Self { line: None, host: None, kind, what, why }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, host, kind, what, why } = self;
        if let Some(line) = line {
            write!(f, "line {line}: ")?;
        }
        if let Some(host) = host {
            write!(f, "{host}: ")?;
        }
        write!(f, "{kind}: {what}: {why}")
    }
}

/// Collects remarks, each with the current line.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// The remarks so far.
    pub all: Vec<Remark>,
    /// The current line.
    pub line: Option<u32>,
}

impl Remarks {
    fn push(&mut self, kind: RemarkKind, what: impl Into<String>, why: impl Into<String>) {
        self.all.push(Remark { line: self.line, ..Remark::general(kind, what, why) });
    }

    pub fn guessed(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.push(RemarkKind::Guessed, what, why);
    }

    pub fn not_understood(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.push(RemarkKind::NotUnderstood, what, why);
    }

    pub fn not_expressible(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.push(RemarkKind::NotExpressible, what, why);
    }
}

/// Foreign text in quotes, at most 60 characters of it, safe on a terminal.
pub(super) fn quote(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start:?}...")
}
