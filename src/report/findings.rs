//! Findings as a person reads them, with the offending line, and as JSON.

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, renderer::DecorStyle,
};
use serde_json::{Value, json};

use crate::check::{Finding, Severity};
use crate::topology::Position;
use crate::visible::is_hidden;

/// Longer lines are cut around the place in question.
const WIDTH: usize = 140;

/// All findings with file, line, column, the line itself, the reason and the cure; then how many
/// there are. Empty if there are none.
pub fn text(name: &str, text: &str, findings: &[Finding], colour: bool) -> String {
    let Some(summary) = summary(findings) else { return String::new() };
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(WIDTH).decor_style(DecorStyle::Ascii);
    let text = visible(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let name = visible(name).replace('\n', " ");
    let mut out = String::new();
    for finding in findings {
        out.push_str(&renderer.render(&[group(&name, &lines, finding)]));
        out.push_str("\n\n");
    }
    out.extend([name.as_str(), ": ", &summary, "\n"]);
    out
}

/// Schema `lvsprov/check/1`: `{"file": ..., "errors": n, "warnings": n, "notes": n, "findings": [...]}`,
/// each finding with its fields.
pub fn json(name: &str, findings: &[Finding]) -> Value {
    let [errors, warnings, notes] = counts(findings);
    super::with_schema(
        "check",
        &json!({
            "file": name,
            "errors": errors,
            "warnings": warnings,
            "notes": notes,
            "findings": findings,
        }),
    )
}

fn group<'a>(name: &'a str, lines: &[&'a str], finding: &'a Finding) -> Group<'a> {
    let Finding { severity, rule, at, message, why, cure } = finding;
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::INFO,
    };
    let title = level.primary_title(message).id(*rule);
    let line = usize::try_from(at.line).unwrap_or(usize::MAX);
    let group = match line.checked_sub(1).and_then(|index| lines.get(index)) {
        Some(source) => title.element(
            Snippet::source(*source)
                .line_start(line)
                .path(name)
                .annotation(AnnotationKind::Primary.span(span(source, *at))),
        ),
        // The end of the file, or a place that is not known.
        None => title.element(Origin::path(name).line(line.max(1)).char_column(1)),
    };
    group.element(Level::NOTE.message(why)).element(Level::HELP.message(cure))
}

/// The bytes of `line` that a position means; never splits a character.
fn span(line: &str, at: Position) -> std::ops::Range<usize> {
    let byte = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte);
    let start = usize::try_from(at.column).unwrap_or(usize::MAX).saturating_sub(1);
    let length = usize::try_from(at.length).unwrap_or(usize::MAX).max(1);
    byte(start)..byte(start.saturating_add(length))
}

fn counts(findings: &[Finding]) -> [usize; 3] {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    [Severity::Error, Severity::Warning, Severity::Note].map(count)
}

fn summary(findings: &[Finding]) -> Option<String> {
    let many = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{n} {what}s")),
    };
    let [errors, warnings, notes] = counts(findings);
    let parts = [many(errors, "error"), many(warnings, "warning"), many(notes, "note")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { None } else { Some(parts.join(", ")) }
}

/// A file, and its name too, may hold anything: commands for the terminal, or characters that
/// turn the direction of writing around. Each becomes one other character, so columns stay.
fn visible(text: &str) -> String {
    let hidden = |c: char| c != '\n' && is_hidden(c);
    // YAML ends a line at any of \r\n, \r and \n.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}
