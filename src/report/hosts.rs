//! What is to know of hosts beside their steps: how each stands, what stands in its way, what failed, what else was found.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::cluster::listed;
use super::{plural, transaction};
use crate::apply::outcome::{Action, RollbackEnd, TransactionEnd};
use crate::apply::{ClusterReport, HostReport, HostStatus, StepState};
use crate::names::HostName;

/// Hosts of which the same is to know.
struct SameHosts<'a> {
    hosts: Vec<&'a HostName>,
    of_first: &'a HostReport,
    details: String,
}

/// Hosts that stand alike share a line; those that failed come last. A host with planned steps has no line unless there is
/// more to know of it.
pub(super) fn text(report: &ClusterReport) -> String {
    let mut groups: Vec<SameHosts<'_>> = Vec::new();
    for (name, host) in &report.hosts {
        let details = details(host, report);
        if host.status == HostStatus::Pending && details.is_empty() {
            continue;
        }
        let first = status(host, report, false);
        let is_same = |group: &&mut SameHosts<'_>| {
            group.details == details && status(group.of_first, report, false) == first
        };
        match groups.iter_mut().find(is_same) {
            Some(group) => group.hosts.push(name),
            None => groups.push(SameHosts { hosts: vec![name], of_first: host, details }),
        }
    }
    groups.sort_by_key(|it| (it.of_first.status.is_failure(), !it.details.is_empty()));
    let mut text = String::new();
    for SameHosts { hosts, of_first, details } in groups {
        let status = status(of_first, report, hosts.len() > 1);
        let _ = writeln!(text, "{}  {status}", listed(&hosts, 0));
        text.push_str(&details);
    }
    text
}

/// What is to know of a host beside its status and its steps; empty where that is all.
fn details(host: &HostReport, report: &ClusterReport) -> String {
    let mut text = String::new();
    for obstacle in &host.obstacles {
        let _ = writeln!(text, "    {} {}", "!".red(), obstacle.message);
        let _ = writeln!(text, "        why: {}", obstacle.why);
        let _ = writeln!(text, "        do:  {}", obstacle.cure);
    }
    if let Some(failure) = &host.failure {
        let _ = writeln!(text, "    {} {}", "error:".red(), failure.message);
        for cause in &failure.causes {
            let _ = writeln!(text, "        {cause}");
        }
        if let Some(cure) = &failure.cure {
            let _ = writeln!(text, "        do: {cure}");
        }
    }
    for note in &host.notes {
        let _ = writeln!(text, "    note: {note}");
    }
    let is_over = matches!(
        host.rollback.as_ref().map(|rollback| &rollback.end),
        Some(RollbackEnd::RolledBack | RollbackEnd::Committed)
    );
    if let Some(open) = host.open_transaction.as_ref().filter(|_| !is_over) {
        text.push_str(&transaction::host_transaction(open));
    }
    // Without steps it explains nothing.
    if let Some(reverted) = host.reverted.as_ref().filter(|_| !host.steps.is_empty()) {
        text.push_str(&transaction::reverted(reverted));
    }
    if let Some(rollback) = &host.rollback {
        text.push_str(&transaction::rollback(rollback, report));
    }
    text.push_str(&super::foreign(&host.foreign));
    text
}

/// How a host stands, or hosts that stand alike, in a few words.
pub(super) fn status(host: &HostReport, report: &ClusterReport, several: bool) -> String {
    let one_or_more = |one: &'static str, more: &'static str| if several { more } else { one };
    let action = report.action;
    let steps = host.steps.len();
    let back = matches!(action, Action::Destroy | Action::PlanDestroy);
    if let Some(status) = transaction::status(host, action, several) {
        return status;
    }
    match &host.status {
        HostStatus::Unchanged if back => "nothing to take back".green().to_string(),
        HostStatus::Unchanged => {
            one_or_more("as it should be", "as they should be").green().to_string()
        }
        HostStatus::Pending if steps == 0 => "no step, but see its notes".yellow().to_string(),
        HostStatus::Pending => format!("{steps} {}", plural(steps, "step")).yellow().to_string(),
        HostStatus::Changed if is_left_open(report) => {
            format!("{steps} {} done, and left open", plural(steps, "step")).yellow().to_string()
        }
        HostStatus::Changed => {
            format!("{steps} {} done, verified", plural(steps, "step")).green().to_string()
        }
        HostStatus::Unverified => "done, but not as wanted afterwards".red().to_string(),
        HostStatus::Failed => format!("failed{}", how_far(host)).red().to_string(),
        HostStatus::Undone { because } => format!("undone, because {because}").yellow().to_string(),
        HostStatus::Unreachable => one_or_more(
            "not touched: it could not be reached",
            "not touched: they could not be reached",
        )
        .red()
        .to_string(),
        HostStatus::Refused => {
            one_or_more("not touched: it refused", "not touched: they refused").red().to_string()
        }
        HostStatus::Obstructed => "not touched: something stands in the way".red().to_string(),
        HostStatus::NotAttempted { because } => match count(host, StepState::Done) {
            0 => format!("not attempted, because {because}").red().to_string(),
            done => {
                format!("{done} of {steps} steps done, the rest not attempted, because {because}")
                    .red()
                    .to_string()
            }
        },
        HostStatus::Unmanaged => one_or_more(
            "not touched: the file does not say how it is reached",
            "not touched: the file does not say how they are reached",
        )
        .dimmed()
        .to_string(),
        HostStatus::LeftOut => "left out by --limit".dimmed().to_string(),
    }
}

/// Whether the transaction is executed and neither committed nor aborted.
fn is_left_open(report: &ClusterReport) -> bool {
    report.transaction.as_ref().is_some_and(|of| of.ended == TransactionEnd::Open)
}

fn count(host: &HostReport, state: StepState) -> usize {
    host.steps.iter().filter(|step| step.state == state).count()
}

/// How far a host that failed came.
fn how_far(host: &HostReport) -> String {
    let (all, done) = (host.steps.len(), count(host, StepState::Done));
    match count(host, StepState::Undone) {
        0 => {}
        undone => {
            return format!(", and its {undone} {} undone", plural_is(undone, "step"));
        }
    }
    let failed = count(host, StepState::Failed);
    match count(host, StepState::Unknown) {
        0 if all == 0 => String::new(),
        0 if done == 0 && failed == 0 => ": nothing on it was changed".to_owned(),
        0 => format!(": {done} of {all} {} done, then it stopped", plural(all, "step")),
        unknown => format!(
            ": {done} of {all} {} done, of {unknown} more it is not known",
            plural(all, "step")
        ),
    }
}

fn plural_is(count: usize, noun: &str) -> String {
    format!("{} {}", plural(count, noun), if count == 1 { "is" } else { "are" })
}
