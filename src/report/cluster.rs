//! Plans and their results.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::{plural, transaction};
use crate::apply::outcome::{Action, RollbackEnd, TransactionEnd};
use crate::apply::verify::Verification;
use crate::apply::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
use crate::state::{Edit, EditVerb};

/// As JSON, schema `lvsprov/plan/1` or `lvsprov/result/1`.
pub fn json(report: &ClusterReport) -> serde_json::Value {
    let kind = match report.action {
        Action::Plan | Action::PlanDestroy | Action::PlanRollback => "plan",
        Action::Apply | Action::Destroy | Action::Rollback | Action::Confirm => "result",
    };
    super::with_schema(kind, report)
}

/// As text: host by host, each step with before, after and why; then a line that sums up.
pub fn text(report: &ClusterReport) -> String {
    let mut text = String::new();
    for (name, host) in &report.hosts {
        let _ = writeln!(text, "{}  {}", name.bold(), status(host, report));
        let mut stage = None;
        for step in &host.steps {
            if stage != Some(step.stage) {
                stage = Some(step.stage);
                let _ = writeln!(text, "  {}", step.stage.describe().dimmed());
            }
            let _ = writeln!(text, "    {} {}{}", mark(&step.edit), step.text, done(step));
            let cost = super::costs::of(step);
            if !cost.is_empty() {
                let _ = writeln!(text, "        {}", cost.yellow());
            }
            let _ = writeln!(text, "        {}", step.why.dimmed());
        }
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
    }
    let _ = writeln!(text, "\n{}", summary(report));
    text.push_str(&super::costs::summary(report));
    text.push_str(&super::verify::summary(&report.verifications));
    let closes = matches!(report.action, Action::Rollback | Action::Confirm);
    if !closes || report.has_failures() {
        text.push_str(&transaction::open_transactions(&report.open_transactions));
    }
    if let Some(fingerprint) = &report.fingerprint {
        let short: String = fingerprint.chars().take(12).collect();
        let _ = writeln!(text, "fingerprint of this plan: {short}");
    }
    text.push_str(&what_next(report));
    text
}

/// After an apply or destroy that failed: the state of the hosts, and what to do. Empty after a success.
fn what_next(report: &ClusterReport) -> String {
    let (again, back) = match report.action {
        Action::Plan
        | Action::PlanDestroy
        | Action::PlanRollback
        | Action::Rollback
        | Action::Confirm => return String::new(),
        Action::Apply => {
            ("apply", "`lvsprov destroy` puts back what was found before the first apply")
        }
        Action::Destroy => ("destroy", "`lvsprov apply` brings them to what the file says"),
    };
    if !report.has_failures() {
        return String::new();
    }
    let mut text = String::new();
    let mut back = back;
    if let Some(of) = &report.transaction {
        let because = of.because.as_deref().unwrap_or_default();
        match of.ended {
            TransactionEnd::Committed => {}
            TransactionEnd::Aborted => {
                let any = report.count(StepState::Undone) > 0;
                let done = if any { "undone" } else { "nothing was done" };
                let _ = writeln!(
                    text,
                    "{}, because {because}: every host that took part is as it was before",
                    done.yellow()
                );
                back = "nothing is to be done for that";
            }
            TransactionEnd::Open => {
                let open: Vec<&str> = transaction::open_hosts(report);
                let _ = writeln!(
                    text,
                    "{} unfinished on {}, because {because}; `lvsprov plan` says how each stands",
                    "left".red(),
                    open.join(", ")
                );
                back = "`lvsprov rollback` undoes what this did, on every host that it reaches";
            }
        }
    }
    if report.verifications.iter().any(Verification::requires_abort) {
        text.push_str("to keep it: `lvsprov apply --verify state` sends no requests\n");
    }
    let _ = writeln!(
        text,
        "to finish:  mend what is shown above, then `lvsprov {again}` again: it goes on from the present \
         state\nto go back: {back}"
    );
    text
}

fn status(host: &HostReport, report: &ClusterReport) -> String {
    let action = report.action;
    let steps = host.steps.len();
    let back = matches!(action, Action::Destroy | Action::PlanDestroy);
    if let Some(status) = transaction::status(host, action) {
        return status;
    }
    match &host.status {
        HostStatus::Unchanged if back => "nothing to take back".green().to_string(),
        HostStatus::Unchanged => "as it should be".green().to_string(),
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
        HostStatus::Unreachable => "not touched: it could not be reached".red().to_string(),
        HostStatus::Refused => "not touched: it refused".red().to_string(),
        HostStatus::Obstructed => "not touched: something stands in the way".red().to_string(),
        HostStatus::NotAttempted { because } => match count(host, StepState::Done) {
            0 => format!("not attempted, because {because}").red().to_string(),
            done => {
                format!("{done} of {steps} steps done, the rest not attempted, because {because}")
                    .red()
                    .to_string()
            }
        },
        HostStatus::Unmanaged => {
            "not touched: the file does not say how it is reached".dimmed().to_string()
        }
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

pub(super) fn mark(edit: &Edit) -> String {
    match edit.verb() {
        EditVerb::Add => "+".green().to_string(),
        EditVerb::Change => "~".yellow().to_string(),
        EditVerb::Remove => "-".red().to_string(),
    }
}

pub(super) fn done(step: &StepReport) -> String {
    match step.state {
        StepState::Planned => String::new(),
        StepState::Done => format!("  {}", "done".green()),
        StepState::Undone => format!("  {}", "done, and undone again".yellow()),
        StepState::Failed => format!("  {}", "FAILED".red().bold()),
        StepState::NotDone => format!("  {}", "not done".yellow()),
        StepState::Unknown => format!("  {}", "NOT KNOWN whether done".red().bold()),
    }
}

fn plural_is(count: usize, noun: &str) -> String {
    format!("{} {}", plural(count, noun), if count == 1 { "is" } else { "are" })
}

fn summary(report: &ClusterReport) -> String {
    let name = &report.topology;
    let failed = match report.action {
        // Their summary counts failures itself.
        Action::Rollback | Action::PlanRollback | Action::Confirm => 0,
        Action::Plan | Action::PlanDestroy | Action::Apply | Action::Destroy => {
            report.hosts.values().filter(|host| host.status.is_failure()).count()
        }
    };
    let changed = report.count(StepState::Done);
    let planned = report.count(StepState::Planned);
    let left = [StepState::NotDone, StepState::Failed, StepState::Unknown, StepState::Undone]
        .map(|state| report.count(state))
        .iter()
        .sum::<usize>();
    let outcome = match report.action {
        Action::Plan | Action::PlanDestroy if planned == 0 && failed > 0 => {
            format!("{name}: nothing to do elsewhere")
        }
        Action::Plan | Action::PlanDestroy if planned == 0 => format!("{name}: nothing to do"),
        Action::Plan => format!("{name}: {planned} {} to do", plural(planned, "change")),
        Action::PlanDestroy => {
            format!("{name}: {planned} {} to take back", plural(planned, "change"))
        }
        Action::Apply => format!("{name}: {changed} {} made", plural(changed, "change")),
        Action::Destroy => format!("{name}: {changed} {} taken back", plural(changed, "change")),
        Action::Rollback | Action::PlanRollback | Action::Confirm => transaction::summary(report),
    };
    match (failed, left) {
        (0, 0) => outcome,
        (0, left) => format!("{outcome}, {left} not"),
        (failed, 0) => format!("{outcome}, {failed} {} failed", plural(failed, "host")),
        (failed, left) => {
            format!("{outcome}, {left} not; {failed} {} failed", plural(failed, "host"))
        }
    }
}
