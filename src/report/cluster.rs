//! Plans and their results.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use super::steps::{self, SameSteps, StageSteps, StepCounts, short_reason};
use super::{hosts, plural, transaction};
use crate::apply::outcome::{Action, TransactionEnd};
use crate::apply::verify::Verification;
use crate::apply::{ClusterReport, HostReport, HostStatus, StepReport, StepState};
use crate::names::HostName;
use crate::state::{Edit, EditVerb};

/// As JSON, schema `lvsprov/plan/1` or `lvsprov/result/1`.
pub fn json(report: &ClusterReport) -> serde_json::Value {
    let kind = match report.action {
        Action::Plan | Action::PlanDestroy | Action::PlanRollback => "plan",
        Action::Apply | Action::Destroy | Action::Rollback | Action::Confirm => "result",
    };
    super::with_schema(kind, report)
}

/// As text: what clients may feel, the steps by stage and host, each with before, after and the first of its reasons, then
/// what else is to know of hosts; and last a line that sums up.
pub fn text(report: &ClusterReport) -> String {
    text_with(report, ReasonDetail::Short)
}

/// How much of a step's reasons is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonDetail {
    /// The first one, cut to a line.
    Short,
    /// All of them, a line each.
    Full,
}

/// As text, with the reasons as `detail` says.
pub fn text_with(report: &ClusterReport, detail: ReasonDetail) -> String {
    let mut text = felt_text(report);
    let mut is_cut = false;
    for StageSteps { stage, groups } in steps::by_stage(report) {
        let _ = writeln!(text, "{}", stage.describe().bold());
        for SameSteps { hosts, steps } in groups {
            let each = if hosts.len() > 1 { "  the same on each" } else { "" };
            let _ = writeln!(text, "{}{}", listed(&hosts, 2), each.dimmed());
            for step in steps {
                is_cut |= write_step(&mut text, step, detail);
            }
        }
        text.push('\n');
    }
    let hosts = hosts::text(report);
    if !hosts.is_empty() {
        text.push_str(&hosts);
        text.push('\n');
    }
    if is_cut {
        text.push_str("reasons are cut (...): `--explain` shows all of them\n");
    }
    text.push_str(&remarks(report));
    let _ = writeln!(text, "{}", summary(report).bold());
    text.push_str(&what_next(report));
    text
}

/// Live connections, requests, open transactions, the fingerprint: a line each, as far as there are any.
pub(super) fn remarks(report: &ClusterReport) -> String {
    let mut text = super::costs::summary(report);
    text.push_str(&super::verify::summary(&report.verifications));
    let closes = matches!(report.action, Action::Rollback | Action::Confirm);
    if !closes || report.has_failures() {
        text.push_str(&transaction::open_transactions(&report.open_transactions));
    }
    if let Some(fingerprint) = &report.fingerprint {
        let short: String = fingerprint.chars().take(12).collect();
        let _ = writeln!(text, "fingerprint of this plan: {short}");
    }
    text
}

/// Columns of a line.
const WIDTH: usize = 100;
/// Steps that are listed first; the rest are counted.
const FELT: usize = 12;

/// The planned steps that clients may feel, before all others. Empty where there are none, and for a destroy, where it
/// would be all of them.
fn felt_text(report: &ClusterReport) -> String {
    let felt = steps::felt(report);
    if felt.is_empty() || report.action != Action::Plan {
        return String::new();
    }
    let mut text = format!("{}\n", "clients may feel".red().bold());
    for (host, step) in felt.iter().take(FELT) {
        let cost = super::costs::of(step);
        let cost = if cost.is_empty() { cost } else { format!("  {}", cost.yellow()) };
        let _ = writeln!(text, "  {} {} {}{cost}", host.bold(), mark(&step.edit), step.text);
    }
    match felt.len().saturating_sub(FELT) {
        0 => {}
        more => {
            let _ = writeln!(text, "  and {more} {} more, below", plural(more, "step"));
        }
    }
    text.push('\n');
    text
}

/// Writes a step, and says whether its reasons are cut.
fn write_step(text: &mut String, step: &StepReport, detail: ReasonDetail) -> bool {
    let _ = write!(text, "    {} {}{}", mark(&step.edit), step.text, done(step));
    let cost = super::costs::of(step);
    let room = if cost.is_empty() { WIDTH.saturating_sub(6 + width_of(step)) } else { 0 };
    if detail == ReasonDetail::Short && step.why.chars().count() + 4 <= room {
        let _ = writeln!(text, "  {}", format_args!("# {}", step.why).dimmed());
        return false;
    }
    text.push('\n');
    if !cost.is_empty() {
        let _ = writeln!(text, "        {}", cost.yellow());
    }
    if detail == ReasonDetail::Full {
        for reason in step.why.split("; ") {
            let _ = writeln!(text, "        {}", format_args!("# {reason}").dimmed());
        }
        return false;
    }
    let reason = short_reason(&step.why, WIDTH - 10);
    let _ = writeln!(text, "        {}", format_args!("# {reason}").dimmed());
    reason != step.why
}

/// Columns of a step's line without its mark and its reason.
fn width_of(step: &StepReport) -> usize {
    let done = anstream::adapter::strip_str(&done(step)).to_string();
    step.text.chars().count() + done.chars().count()
}

/// Names, in lines of at most [`WIDTH`] columns; without a line end.
pub(super) fn listed(names: &[&HostName], indent: usize) -> String {
    let indent = " ".repeat(indent);
    let mut text = indent.clone();
    let mut column = indent.len();
    for (at, name) in names.iter().enumerate() {
        let comma = if at + 1 < names.len() { "," } else { "" };
        let width = name.as_str().len() + comma.len();
        if at > 0 && column + 1 + width > WIDTH {
            let _ = write!(text, "\n{indent}");
            column = indent.len();
        } else if at > 0 {
            text.push(' ');
            column += 1;
        }
        let _ = write!(text, "{}{comma}", name.bold());
        column += width;
    }
    text
}

/// After an apply or destroy that failed: the state of the hosts, and what to do. Empty after a success.
pub(super) fn what_next(report: &ClusterReport) -> String {
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

/// One line: how many changes on how many hosts, what was not done, and how many hosts have nothing to change.
pub(super) fn summary(report: &ClusterReport) -> String {
    let name = &report.topology;
    let failed = match report.action {
        // Their summary counts failures itself.
        Action::Rollback | Action::PlanRollback | Action::Confirm => 0,
        Action::Plan | Action::PlanDestroy | Action::Apply | Action::Destroy => {
            report.hosts.values().filter(|host| host.status.is_failure()).count()
        }
    };
    let planned = StepCounts::of(report, StepState::Planned);
    let done = StepCounts::of(report, StepState::Done);
    let left = [StepState::NotDone, StepState::Failed, StepState::Unknown, StepState::Undone]
        .map(|state| report.count(state))
        .iter()
        .sum::<usize>();
    let outcome = match report.action {
        Action::Plan | Action::PlanDestroy if planned.all() == 0 && failed > 0 => {
            format!("{name}: nothing to do elsewhere")
        }
        Action::Plan | Action::PlanDestroy if planned.all() == 0 => {
            format!("{name}: nothing to do")
        }
        Action::Plan => {
            format!("{name}: {} ({})", on_hosts(planned, "to do"), planned.describe())
        }
        Action::PlanDestroy => format!("{name}: {}", on_hosts(planned, "to take back")),
        Action::Apply => format!("{name}: {}", on_hosts(done, "made")),
        Action::Destroy => format!("{name}: {}", on_hosts(done, "taken back")),
        Action::Rollback | Action::PlanRollback | Action::Confirm => {
            return transaction::summary(report);
        }
    };
    let is_unchanged = |host: &&HostReport| host.status == HostStatus::Unchanged;
    let unchanged = report.hosts.values().filter(is_unchanged).count();
    let mut text = outcome;
    if left > 0 {
        let _ = write!(text, ", {left} not");
    }
    if unchanged > 0 {
        let _ = write!(text, ", {unchanged} {} unchanged", plural(unchanged, "host"));
    }
    if failed > 0 {
        let mark = if left > 0 { ";" } else { "," };
        let _ = write!(text, "{mark} {failed} {} failed", plural(failed, "host"));
    }
    text
}

/// `18 changes to do on 5 hosts`.
fn on_hosts(counts: StepCounts, what: &str) -> String {
    let (all, hosts) = (counts.all(), counts.hosts);
    let on =
        if hosts == 0 { String::new() } else { format!(" on {hosts} {}", plural(hosts, "host")) };
    format!("{all} {} {what}{on}", plural(all, "change"))
}
