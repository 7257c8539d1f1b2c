//! Findings of `check` as Markdown.

use std::fmt::Write as _;

use super::{block_of, folded, table, text};
use crate::finding::{Finding, Severity, SilencedFinding};
use crate::report::findings;

/// One file: a heading with the summary, a row a finding, and the places in the file, folded.
pub fn markdown(name: &str, source: &str, all: &[Finding], silenced: &[SilencedFinding]) -> String {
    let summary = findings::summary(all, silenced);
    let summary = summary.as_deref().unwrap_or("nothing found");
    let mut out = format!("### lvsprov check {}\n\n**Summary**: {}\n\n", text(name), text(summary));
    let rows: Vec<Vec<String>> = findings::shown(all).into_iter().map(row).collect();
    if rows.is_empty() {
        return out;
    }
    let head = ["severity", "line", "finding", "why", "what to do"];
    let _ = writeln!(out, "{}", table(&head, &rows));
    let places = block_of(&findings::text(name, source, all, silenced, false));
    let _ = writeln!(out, "{}", folded("Places in the file", &places));
    out
}

fn row(finding: &Finding) -> Vec<String> {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let code = finding.of_rule().map_or(finding.rule, |rule| rule.code);
    vec![
        format!("{severity} {code}"),
        finding.at.line.to_string(),
        finding.message.clone(),
        finding.why.clone(),
        finding.cure.clone(),
    ]
}
