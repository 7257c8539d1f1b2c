//! `lab chaos` as text and Markdown.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::super::{markdown as md, plural, table};
use super::{ChaosReport, FaultResult, PromiseState, RequestCount, StreamResult};

/// The columns of the table.
const HEAD: [&str; 5] =
    ["fault", "longest outage", "failed while dead", "failed at its return", "connections kept"];

/// Seconds with one decimal.
fn seconds(value: f64) -> String {
    format!("{value:.1} s")
}

fn share(count: RequestCount) -> String {
    let RequestCount { sent, failed } = count;
    if sent == 0 {
        return "0 of 0".to_owned();
    }
    // Rounded to the nearest.
    format!("{failed} of {sent} ({} %)", (failed * 100 + sent / 2) / sent)
}

/// The row of a fault; without figures where nothing was measured.
fn row(fault: &FaultResult) -> Vec<String> {
    let Some(outage) = fault.outage_s() else {
        return vec![fault.fault.clone(), "not measured".to_owned()];
    };
    let connections = fault.connections;
    let could = connections.opened.saturating_sub(connections.ended_with_it);
    let kept = if could == 0 { "-".to_owned() } else { format!("{} of {could}", connections.kept) };
    vec![
        fault.fault.clone(),
        seconds(outage),
        share(fault.dead_requests()),
        share(fault.returning_requests()),
        kept,
    ]
}

/// What does not fit into the row: clients and services that differ, verdicts, notes, the error.
pub(super) fn plain_lines(fault: &FaultResult) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    if fault.outage_s().is_some() {
        lines.push(row(fault).into_iter().skip(1).zip(HEAD.into_iter().skip(1)).fold(
            String::new(),
            |mut line, (cell, head)| {
                let _ = write!(line, "{}{head}: {cell}", if line.is_empty() { "" } else { ", " });
                line
            },
        ));
    }
    lines.extend(details(fault));
    lines
}

fn details(fault: &FaultResult) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // One stream is the row itself.
    if fault.requests.len() > 1 && fault.requests.iter().any(has_failed) {
        lines.extend(fault.requests.iter().map(stream_line));
    }
    for verdict in &fault.promises {
        let word = if verdict.kept { "kept" } else { "REFUTED" };
        lines.push(format!("{word}: {}: {}", verdict.promise, verdict.because));
    }
    lines.extend(fault.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(fault.error.iter().map(|error| format!("error: {error}")));
    lines
}

fn has_failed(stream: &StreamResult) -> bool {
    stream.dead.failed + stream.returning.failed + stream.after.failed > 0
}

fn stream_line(stream: &StreamResult) -> String {
    let StreamResult { service, client, outage_s, dead, returning, .. } = stream;
    format!(
        "{service} from {client}: outage {}, failed {}, at its return {}",
        seconds(*outage_s),
        share(*dead),
        share(*returning)
    )
}

/// One fault when it ends, as a line of progress; `nth` of `all`, from 1.
pub fn progress(nth: usize, all: usize, fault: &FaultResult) -> String {
    let what = match (&fault.error, fault.outage_s()) {
        (Some(error), _) => format!("error: {}", error.lines().next().unwrap_or_default()),
        (None, Some(outage)) => {
            let promise = if fault.is_good() { "" } else { "; a promise is refuted" };
            let failed = share(fault.dead_requests());
            format!("outage {}, failed {failed}{promise}", seconds(outage))
        }
        (None, None) => "not measured".to_owned(),
    };
    format!("[{nth}/{all}] {}: {what}\n", fault.fault)
}

/// As text: the table, what is behind each row, and the promises.
pub fn text(report: &ChaosReport) -> String {
    let mut text = format!("{}  {}\n", report.playbook.bold(), report.topology);
    if let Some(failure) = &report.failure {
        let _ = writeln!(text, "{} {failure}", "FAILED".red());
        return text;
    }
    let head = HEAD.map(ToOwned::to_owned).to_vec();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(report.faults.iter().map(row)).collect();
    let aligned = table::aligned(&rows, 2);
    let mut lines = aligned.lines();
    let _ = writeln!(text, "{}", lines.next().unwrap_or_default().dimmed());
    for (line, fault) in lines.zip(&report.faults) {
        let _ = writeln!(text, "{line}");
        for detail in details(fault) {
            let coloured = if detail.starts_with("error") || detail.starts_with("REFUTED") {
                detail.red().to_string()
            } else if detail.starts_with("kept") {
                detail.green().to_string()
            } else {
                detail.dimmed().to_string()
            };
            let _ = writeln!(text, "      {coloured}");
        }
    }
    text.push('\n');
    text.push_str(&closing(report));
    text
}

/// Promises, services without requests, and the sum.
fn closing(report: &ChaosReport) -> String {
    let mut text = String::new();
    for promise in &report.promises {
        let _ = match promise.verdict {
            PromiseState::Kept => writeln!(text, "kept: {}", promise.promise),
            PromiseState::Refuted => writeln!(text, "refuted: {}", promise.promise),
            PromiseState::NotTried => {
                writeln!(text, "not tried: {}: no fault of this run is about it", promise.promise)
            }
        };
    }
    for service in &report.not_asked {
        let _ = writeln!(text, "no requests: {service}");
    }
    let errors = report.faults.iter().filter(|fault| fault.error.is_some()).count();
    let refuted = report.promises.iter().filter(|it| it.verdict == PromiseState::Refuted).count();
    let measured = report.faults.iter().filter(|fault| fault.outage_s().is_some()).count();
    let _ = writeln!(
        text,
        "{measured} {} measured, {errors} with an error, {refuted} {} refuted",
        plural(measured, "fault"),
        plural(refuted, "promise"),
    );
    text
}

/// As Markdown.
pub fn markdown(reports: &[ChaosReport]) -> String {
    let mut out = String::new();
    for report in reports {
        let _ = writeln!(out, "### {}: what a death costs\n", md::text(&report.topology));
        if let Some(failure) = &report.failure {
            out.push_str(&md::fenced("text", failure.lines()));
            continue;
        }
        let rows: Vec<Vec<String>> = report
            .faults
            .iter()
            .map(|fault| {
                let mut row = row(fault);
                row.resize(HEAD.len(), String::new());
                row
            })
            .collect();
        out.push_str(&md::table(&HEAD, &rows));
        out.push('\n');
        let behind = report.faults.iter().flat_map(|fault| {
            let line = |detail| format!("{}: {detail}", fault.fault);
            details(fault).into_iter().map(line).collect::<Vec<_>>()
        });
        for line in behind {
            let _ = writeln!(out, "- {}", md::text(&line));
        }
        out.push('\n');
        for line in closing(report).lines() {
            let _ = writeln!(out, "{}  ", md::text(line));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
