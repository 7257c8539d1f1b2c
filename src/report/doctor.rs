//! What `doctor` found.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::plural;
use crate::apply::doctor::diagnosis::{Diagnosis, DoctorReport, RequestReport};

/// Requests of one cause that are named.
const NAMED: usize = 4;

/// As JSON, schema `lvsprov/doctor/1`.
pub fn json(report: &DoctorReport) -> serde_json::Value {
    super::with_schema("doctor", report)
}

/// As text: a paragraph for each cause, then what was asked.
pub fn text(report: &DoctorReport, file: &str) -> String {
    let mut text = String::new();
    for cause in &report.causes {
        text.push_str(&paragraph(cause, file));
        text.push('\n');
    }
    for request in &report.requests {
        let _ = writeln!(text, "{}", line(request));
    }
    if !report.not_seen.is_empty() {
        text.push('\n');
    }
    for (host, why) in &report.not_seen {
        let _ = writeln!(text, "{host} was not seen, and is taken to be as the file says: {why}");
    }
    let count = report.causes.len();
    let found = match count {
        0 if report.is_well() => "every request is answered".green().to_string(),
        0 => "no request could be sent, and the walk finds nothing".to_owned(),
        _ => format!("{count} {}", plural(count, "cause")).red().bold().to_string(),
    };
    let _ = writeln!(text, "\n{}: {found}", report.topology);
    let differing: Vec<&str> =
        report.differences.keys().map(crate::names::HostName::as_str).collect();
    if !differing.is_empty() {
        let _ = writeln!(
            text,
            "not as the file says: {} (lvsprov plan {file} shows the differences)",
            differing.join(", ")
        );
    }
    text
}

fn paragraph(found: &Diagnosis, file: &str) -> String {
    let Diagnosis { kind: _, host: _, cause, requests, evidence, cure } = found;
    let mut text = format!("{} {cause}\n", "cause:".red().bold());
    let mut named: Vec<String> = requests.iter().take(NAMED).cloned().collect();
    if requests.len() > NAMED {
        named.push(format!("{} more", requests.len() - NAMED));
    }
    let _ = writeln!(text, "  {}  {}", "requests".bold(), named.join("; "));
    for (nth, line) in evidence.iter().enumerate() {
        let label = if nth == 0 { "evidence".bold().to_string() } else { " ".repeat(8) };
        let _ = writeln!(text, "  {label}  {line}");
    }
    let _ = writeln!(
        text,
        "  {}  {}",
        "mend    ".bold(),
        cure.replace("apply FILE", &format!("apply {file}"))
    );
    text
}

fn line(request: &RequestReport) -> String {
    let RequestReport { client, service, answered, failures, undecided, not_sent } = request;
    let failed: u32 = failures.values().sum();
    let what = match not_sent {
        Some(why) => format!("{}: {why}", "not sent".yellow()),
        None if *undecided => format!(
            "{}: {failed} datagrams without an answer; an application need not answer what it does not understand",
            "not known".yellow()
        ),
        None if failed == 0 && *answered > 0 => {
            format!("{} ({answered} of {answered})", "answered".green())
        }
        None => {
            let reasons: Vec<String> =
                failures.iter().map(|(why, count)| format!("{count} {why}")).collect();
            let all = answered + failed;
            format!(
                "{}: {answered} of {all} answered; {}",
                "NO ANSWER".red().bold(),
                reasons.join(", ")
            )
        }
    };
    format!("{client} -> {service}: {what}")
}
