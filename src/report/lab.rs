//! The results of the lab.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

/// The result of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseResult {
    /// The playbook that it belongs to: the suite.
    pub playbook: String,
    /// What it verifies.
    pub name: String,
    /// Whether it is true.
    pub ok: bool,
    /// Duration in seconds. A negative value, and one that is not a number, count as 0.
    pub seconds: f64,
    /// What was observed; the first line is the message of a failure.
    pub detail: String,
}

/// As JSON, schema `lvsprov/lab/1`.
pub fn json(cases: &[CaseResult]) -> serde_json::Value {
    let cases: Vec<_> = cases
        .iter()
        .map(|case| {
            let CaseResult { playbook, name, ok, seconds, detail } = case;
            serde_json::json!({
                "playbook": playbook, "name": name, "ok": ok, "seconds": seconds, "detail": detail,
            })
        })
        .collect();
    let ok = cases.iter().all(|case| case["ok"] == true);
    super::with_schema("lab", &serde_json::json!({ "ok": ok, "cases": cases }))
}

/// Before the first case of a playbook.
pub fn title(playbook: &str, topology: &str) -> String {
    format!("\n{}  {topology}", playbook.bold())
}

/// The most lines of a detail on a terminal.
const MOST_LINES: usize = 20;

/// One case, as it ends.
pub fn case(case: &CaseResult) -> String {
    let verdict = if case.ok { "ok    ".green().to_string() } else { "FAILED".red().to_string() };
    let mut text =
        format!("  {verdict}  {}  {}\n", case.name, format!("{:.1} s", case.seconds).dimmed());
    for line in case.detail.lines().take(MOST_LINES) {
        let _ = writeln!(text, "          {}", line.dimmed());
    }
    let left = case.detail.lines().count().saturating_sub(MOST_LINES);
    if left > 0 {
        let _ =
            writeln!(text, "          ... and {left} more lines (in --junit and --format json)");
    }
    text
}

/// The last line.
pub fn summary(cases: &[CaseResult]) -> String {
    let failed: Vec<_> = cases.iter().filter(|case| !case.ok).collect();
    let mut text = String::from("\n");
    for case in &failed {
        let _ = writeln!(text, "{} {}: {}", "FAILED".red(), case.playbook, case.name);
    }
    let _ = writeln!(text, "{} proven, {} failed", cases.len() - failed.len(), failed.len());
    text
}
