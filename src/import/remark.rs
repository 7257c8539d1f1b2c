//! What an import has to say besides its result.

use std::fmt;

use serde::Serialize;

use crate::visible::visible;

/// What kind of thing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemarkKind {
    /// It is in the result, and was not in the source: to be checked by a person.
    Guessed,
    /// It is not in the result, because it could not be made out.
    NotUnderstood,
    /// It is not in the result, because a topology file has no word for it.
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

/// One thing that a person must know about an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The line of the source, from 1; `None` where it is about no single line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The host it is about, where hosts were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What kind of thing is said.
    pub kind: RemarkKind,
    /// What it is about.
    pub what: String,
    /// Why it is so, and what follows.
    pub why: String,
}

impl Remark {
    /// About no single line. What was read may be quoted in both texts: they are made fit for a terminal.
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

/// Collects remarks about one line after the other.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// So far.
    pub all: Vec<Remark>,
    /// The line that is being read.
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
