//! Findings as a person reads them, with the offending line, and as JSON.

use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, renderer::DecorStyle,
};
use serde_json::{Value, json};

use crate::finding::{Finding, Position, Severity, SilencedFinding};
use crate::visible::is_hidden;

/// Columns that a finding may take.
const WIDTH: usize = 140;
/// Findings that are shown of one file; the rest are counted.
const SHOWN: usize = 100;
/// Characters shown of the source line before and behind the place in question. The renderer cuts to
/// [`WIDTH`], but looks at the whole line for it: some hundred times too slow for a file of one line.
const AROUND: usize = 200;
/// Characters shown of one message, reason or cure: each may quote the file.
const QUOTED: usize = 600;

/// At most [`SHOWN`] findings with file, line, column, the line itself, the reason and the cure; then
/// the command that says more, and how many there are, are not shown, and are silenced by comments. Empty if there are none.
pub fn text(
    name: &str,
    text: &str,
    findings: &[Finding],
    silenced: &[SilencedFinding],
    colour: bool,
) -> String {
    let Some(summary) = summary(findings, silenced) else { return String::new() };
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(WIDTH).decor_style(DecorStyle::Ascii);
    let text = visible(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let name = visible(name).replace('\n', " ");
    let mut out = String::new();
    let shown = shown(findings);
    for finding in &shown {
        out.push_str(&rendered(&renderer, &name, &lines, &short(finding)));
        out.push_str("\n\n");
    }
    if let Some(rule) = shown.iter().min_by_key(|it| it.severity).and_then(|it| it.of_rule()) {
        let _ = writeln!(out, "more about a finding: lvsprov explain {}", rule.code);
    }
    out.extend([name.as_str(), ": ", &summary]);
    if shown.len() < findings.len() {
        let rest = findings.len() - shown.len();
        let _ = write!(out, "; {} findings shown, {rest} not shown", shown.len());
    }
    out.push('\n');
    out
}

/// Schema `lvsprov/check/1`: `{"file": ..., "errors": n, "warnings": n, "notes": n, "silenced": n, "not_shown": n,
/// "findings": [...], "silenced_findings": [...]}`, each finding with its fields and its rule's code; at most
/// [`SHOWN`] of each. The other numbers count all findings.
pub fn json(name: &str, findings: &[Finding], silenced: &[SilencedFinding]) -> Value {
    let [errors, warnings, notes] = counts(findings);
    let shown: Vec<Value> =
        shown(findings).into_iter().map(|finding| with_code(finding, &short(finding))).collect();
    let silenced_findings: Vec<Value> = silenced
        .iter()
        .take(SHOWN)
        .map(|SilencedFinding { finding, reason }| {
            let reason = cut(reason);
            with_code(finding, &SilencedFinding { finding: short(finding), reason })
        })
        .collect();
    super::with_schema(
        "check",
        &json!({
            "file": name,
            "errors": errors,
            "warnings": warnings,
            "notes": notes,
            "silenced": silenced.len(),
            "not_shown": findings.len() - shown.len(),
            "findings": shown,
            "silenced_findings": silenced_findings,
        }),
    )
}

/// `value`, which is made of `finding`, with the code of its rule.
fn with_code(finding: &Finding, value: &impl serde::Serialize) -> Value {
    let mut value = json!(value);
    if let (Some(members), Some(rule)) = (value.as_object_mut(), finding.of_rule()) {
        members.insert("code".to_owned(), rule.code.into());
    }
    value
}

/// The worst findings, in the order in which they stand.
pub(super) fn shown(findings: &[Finding]) -> Vec<&Finding> {
    let mut worst: Vec<(usize, &Finding)> = findings.iter().enumerate().collect();
    worst.sort_by_key(|(_, finding)| finding.severity);
    worst.truncate(SHOWN);
    worst.sort_by_key(|(turn, _)| *turn);
    worst.into_iter().map(|(_, finding)| finding).collect()
}

/// The finding, with what it says cut to [`QUOTED`].
fn short(finding: &Finding) -> Finding {
    let Finding { severity, rule, at, message, why, cure, denied } = finding;
    let [message, why, cure] = [message, why, cure].map(|text| cut(text));
    Finding { severity: *severity, rule, at: *at, message, why, cure, denied: *denied }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn rendered(renderer: &Renderer, name: &str, lines: &[&str], finding: &Finding) -> String {
    let Finding { severity, rule, at, message, why, cure, denied } = finding;
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::INFO,
    };
    let id = finding.of_rule().map_or_else(|| (*rule).to_owned(), ToString::to_string);
    let title = level.primary_title(message).id(id);
    let line = usize::try_from(at.line).unwrap_or(usize::MAX);
    let column = usize::try_from(at.column).unwrap_or(usize::MAX).max(1);
    let source = line.checked_sub(1).and_then(|index| lines.get(index));
    let cut;
    let group: Group<'_> = match source {
        Some(source) => {
            let SourceRange { before, marked, behind } = place(source, *at);
            let whole = before.start == 0 && behind.end == source.len();
            let snippet = Snippet::source(if whole {
                *source
            } else {
                let dots = |cut: bool| if cut { "..." } else { "" };
                let (left, right) = (dots(before.start > 0), dots(behind.end < source.len()));
                cut = format!("{left}{}{right}", &source[before.start..behind.end]);
                cut.as_str()
            });
            let shift = if before.start > 0 { "...".len() } else { 0 };
            let start = marked.start - before.start + shift;
            let mark = AnnotationKind::Primary.span(start..start + marked.len());
            let snippet = snippet.line_start(line).annotation(mark);
            // The renderer counts the column in what it is given.
            if before.start > 0 {
                let origin = Origin::path(name).line(line).char_column(column);
                title.element(origin).element(snippet)
            } else {
                title.element(snippet.path(name))
            }
        }
        // The end of the file, or a place that is not known.
        None => title.element(Origin::path(name).line(line.max(1)).char_column(1)),
    };
    let mut group = group.element(Level::NOTE.message(why)).element(Level::HELP.message(cure));
    if *denied {
        group = group.element(Level::NOTE.message("it counts as an error because of --deny"));
    }
    renderer.render(&[group])
}

/// Bytes of a line: what a position means, and as much around it as is shown.
struct SourceRange {
    before: Range<usize>,
    marked: Range<usize>,
    behind: Range<usize>,
}

/// Never splits a character.
fn place(line: &str, at: Position) -> SourceRange {
    let from = |start: usize, chars: usize| {
        let rest = &line[start..];
        rest.char_indices().nth(chars).map_or(line.len(), |(byte, _)| start + byte)
    };
    let column = usize::try_from(at.column).unwrap_or(usize::MAX).saturating_sub(1);
    let length = usize::try_from(at.length).unwrap_or(usize::MAX).clamp(1, AROUND);
    let start = from(0, column);
    let end = from(start, length);
    let left = line[..start].char_indices().nth_back(AROUND - 1).map_or(0, |(byte, _)| byte);
    SourceRange { before: left..start, marked: start..end, behind: end..from(end, AROUND) }
}

fn counts(findings: &[Finding]) -> [usize; 3] {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    [Severity::Error, Severity::Warning, Severity::Note].map(count)
}

/// How many there are; `None`: none.
pub(super) fn summary(findings: &[Finding], silenced: &[SilencedFinding]) -> Option<String> {
    let many = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{n} {what}s")),
    };
    let [errors, warnings, notes] = counts(findings);
    let parts = [many(errors, "error"), many(warnings, "warning"), many(notes, "note")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let silenced = match silenced.len() {
        0 => String::new(),
        count => format!("; {count} silenced"),
    };
    match (parts.is_empty(), silenced.is_empty()) {
        (true, true) => None,
        (true, false) => Some(format!("nothing found{silenced}")),
        (false, _) => Some(parts.join(", ") + &silenced),
    }
}

/// A file, and its name too, may hold anything: commands for the terminal, or characters that
/// turn the direction of writing around. Each becomes one other character, so columns stay.
fn visible(text: &str) -> String {
    let hidden = |c: char| c != '\n' && is_hidden(c);
    // YAML ends a line at any of \r\n, \r and \n.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}
