//! Plans and what came of them.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use crate::cluster::outcome::Action;
use crate::cluster::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
use crate::plan::Change;

/// As JSON, schema `lvsprov/plan/1` or `lvsprov/result/1`.
pub fn json(report: &ClusterReport) -> serde_json::Value {
    let kind = match report.action {
        Action::Plan | Action::PlanDestroy => "plan",
        Action::Apply | Action::Destroy => "result",
    };
    super::with_schema(kind, report)
}

/// As text: host by host, each step with before, after and why; then a line that sums up.
pub fn text(report: &ClusterReport) -> String {
    let mut text = String::new();
    for (name, host) in &report.hosts {
        let _ = writeln!(text, "{}  {}", name.bold(), status(host));
        let mut stage = None;
        for step in &host.steps {
            if stage != Some(step.stage) {
                stage = Some(step.stage);
                let _ = writeln!(text, "  {}", step.stage.describe().dimmed());
            }
            let _ = writeln!(text, "    {} {}{}", mark(&step.change), step.text, done(step));
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
    }
    let _ = writeln!(text, "\n{}", summary(report));
    text
}

fn status(host: &HostReport) -> String {
    let steps = host.steps.len();
    match &host.status {
        HostStatus::Unchanged => "as it should be".green().to_string(),
        HostStatus::Pending => format!("{steps} {}", plural(steps, "step")).yellow().to_string(),
        HostStatus::Changed => {
            format!("{steps} {} done, verified", plural(steps, "step")).green().to_string()
        }
        HostStatus::Unverified => "done, but not as wanted afterwards".red().to_string(),
        HostStatus::Failed => "failed".red().to_string(),
        HostStatus::Unreachable => "not reached".red().to_string(),
        HostStatus::Obstructed => "not touched: something stands in the way".red().to_string(),
        HostStatus::NotAttempted { because } => {
            format!("not attempted, because {because}").red().to_string()
        }
        HostStatus::Unmanaged => {
            "not touched: the file does not say how it is reached".dimmed().to_string()
        }
        HostStatus::LeftOut => "left out by --limit".dimmed().to_string(),
    }
}

fn mark(change: &Change) -> String {
    match change {
        Change::LoadModule { .. }
        | Change::AddAddress { .. }
        | Change::AddRoute { .. }
        | Change::AddService { .. }
        | Change::AddDestination { .. } => "+".green().to_string(),
        Change::SetSysctl { .. }
        | Change::SetLink { .. }
        | Change::ReplaceRoute { .. }
        | Change::EditService { .. }
        | Change::EditDestination { .. } => "~".yellow().to_string(),
        Change::RemoveAddress { .. }
        | Change::RemoveRoute { .. }
        | Change::RemoveService { .. }
        | Change::RemoveDestination { .. } => "-".red().to_string(),
    }
}

fn done(step: &StepReport) -> String {
    match step.state {
        StepState::Planned => String::new(),
        StepState::Done => format!("  {}", "done".green()),
        StepState::Failed => format!("  {}", "FAILED".red().bold()),
        StepState::NotDone => format!("  {}", "not done".yellow()),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn summary(report: &ClusterReport) -> String {
    let name = &report.topology;
    let failed = report.hosts.values().filter(|host| host.status.is_failure()).count();
    let changed = report.count(StepState::Done);
    let planned = report.count(StepState::Planned);
    let left = report.count(StepState::NotDone) + report.count(StepState::Failed);
    let outcome = match report.action {
        Action::Plan | Action::PlanDestroy if planned == 0 => format!("{name}: nothing to do"),
        Action::Plan => format!("{name}: {planned} {} to do", plural(planned, "change")),
        Action::PlanDestroy => {
            format!("{name}: {planned} {} to take back", plural(planned, "change"))
        }
        Action::Apply => format!("{name}: {changed} {} made", plural(changed, "change")),
        Action::Destroy => format!("{name}: {changed} {} taken back", plural(changed, "change")),
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
