//! A plan or its result as Markdown.

use std::fmt::Write as _;

use super::{block_of, fenced, folded, table, text};
use crate::apply::outcome::Action;
use crate::apply::verify::Verdict;
use crate::apply::{ClusterReport, StepReport, StepState};
use crate::report::cluster::{remarks, summary, what_next};
use crate::report::steps::{self, SameSteps, StageSteps};
use crate::report::{costs, hosts, plural};
use crate::state::EditVerb;

/// A heading with the summary; what clients may feel; what stands in the way, with its cure; a diff a stage, with the
/// reasons folded; the hosts; what the network answered.
pub fn markdown(report: &ClusterReport) -> String {
    let mut out = format!("### {} {}\n\n", title(report.action), text(&report.topology));
    let _ = writeln!(out, "**Summary**: {}\n", text(&summary(report)));
    out.push_str(&felt(report));
    out.push_str(&problems(report));
    for stage in steps::by_stage(report) {
        out.push_str(&stage_part(&stage));
    }
    let hosts = block_of(&hosts::text(report));
    if !hosts.is_empty() {
        let _ = writeln!(out, "{}", folded("Hosts", &hosts));
    }
    out.push_str(&verifications(report));
    let remarks = block_of(&(remarks(report) + &what_next(report)));
    if !remarks.is_empty() {
        let _ = writeln!(out, "{remarks}");
    }
    out
}

fn title(action: Action) -> &'static str {
    match action {
        Action::Plan => "lvsprov plan",
        Action::Apply => "lvsprov apply",
        Action::Destroy => "lvsprov destroy",
        Action::PlanDestroy => "lvsprov destroy --dry-run",
        Action::Rollback => "lvsprov rollback",
        Action::PlanRollback => "lvsprov rollback --dry-run",
        Action::Confirm => "lvsprov confirm",
    }
}

fn felt(report: &ClusterReport) -> String {
    let felt = steps::felt(report);
    if felt.is_empty() || report.action != Action::Plan {
        return String::new();
    }
    let rows: Vec<Vec<String>> = felt
        .iter()
        .map(|(host, step)| vec![host.to_string(), step.text.clone(), costs::of(step)])
        .collect();
    format!("#### Clients may feel\n\n{}\n", table(&["host", "step", "connections"], &rows))
}

/// Obstacles and failures of all hosts, each with its cure.
fn problems(report: &ClusterReport) -> String {
    let mut rows = Vec::new();
    for (name, host) in &report.hosts {
        for obstacle in &host.obstacles {
            let cells = [&obstacle.message, &obstacle.why, &obstacle.cure];
            rows.push([name.to_string()].into_iter().chain(cells.map(Clone::clone)).collect());
        }
        if let Some(failure) = &host.failure {
            let why = failure.causes.join(": ");
            let cure = failure.cure.clone().unwrap_or_default();
            rows.push(vec![name.to_string(), failure.message.clone(), why, cure]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let table = table(&["host", "what is wrong", "why", "what to do"], &rows);
    format!("#### What stands in the way\n\n{table}\n")
}

fn stage_part(StageSteps { stage, groups }: &StageSteps<'_>) -> String {
    let mut out = format!("#### {}\n\n", first_letter_large(stage.describe()));
    let mut reasons = Vec::new();
    for SameSteps { hosts, steps } in groups {
        let names: Vec<String> = hosts.iter().map(|name| text(name.as_str())).collect();
        let each = if names.len() > 1 { " (the same on each)" } else { "" };
        let _ = writeln!(out, "**{}**{each}\n", names.join(", "));
        let lines: Vec<String> = steps.iter().map(|step| diff_line(step)).collect();
        let _ = writeln!(out, "{}", fenced("diff", lines.iter().map(String::as_str)));
        for step in steps {
            let row = vec![step.text.clone(), step.why.clone()];
            if !reasons.contains(&row) {
                reasons.push(row);
            }
        }
    }
    let count = reasons.len();
    let title = format!("{count} {}", plural(count, "reason"));
    let _ = writeln!(out, "{}", folded(&title, &table(&["step", "why"], &reasons)));
    out
}

/// GitHub colours `+`, `-` and `!`.
fn diff_line(step: &StepReport) -> String {
    let mark = match step.edit.verb() {
        EditVerb::Add => '+',
        EditVerb::Change => '!',
        EditVerb::Remove => '-',
    };
    let mut line = format!("{mark} {}", step.text);
    let state = match step.state {
        StepState::Planned | StepState::Done => None,
        StepState::Undone => Some("done, and undone again"),
        StepState::Failed => Some("FAILED"),
        StepState::NotDone => Some("not done"),
        StepState::Unknown => Some("NOT KNOWN whether done"),
    };
    for more in state.map(str::to_owned).into_iter().chain([costs::of(step)]) {
        if !more.is_empty() {
            let _ = write!(line, "  # {more}");
        }
    }
    line
}

fn verifications(report: &ClusterReport) -> String {
    let rows: Vec<Vec<String>> = report
        .verifications
        .iter()
        .map(|it| {
            let verdict = match it.verdict {
                Verdict::Holds => "holds",
                Verdict::Fails => "FAILS",
                Verdict::NotChecked => "not checked",
            };
            vec![verdict.to_owned(), it.claim.clone(), it.evidence.clone()]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let failed = report.verifications.iter().filter(|it| it.verdict == Verdict::Fails).count();
    let title = format!(
        "{} verified, {failed} of them {}",
        rows.len(),
        if failed == 1 { "fails" } else { "fail" }
    );
    format!("{}\n", folded(&title, &table(&["verdict", "claim", "evidence"], &rows)))
}

fn first_letter_large(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pulldown_cmark::{Event, Options, Parser, Tag};

    use super::super::APART;
    use super::super::tests::HOSTILE;
    use super::*;
    use crate::apply::outcome::Cost;
    use crate::apply::verify::Verification;
    use crate::apply::{HostReport, HostStatus};
    use crate::failure::Failure;
    use crate::plan::UnmanagedItem;
    use crate::plan::preflight::Obstacle;
    use crate::state::{Edit, Module, Present, Stage};

    /// Everything that a host, an operator or a file may have put into a report.
    fn report(words: &str) -> ClusterReport {
        let words = || words.to_owned();
        let step = StepReport {
            stage: Stage::Ready,
            text: words(),
            edit: Edit::add::<Module>(Module::IpVs, Present),
            why: words(),
            state: StepState::Planned,
            cost: Cost { connections: Some(3), ..Cost::default() },
        };
        let obstacle = Obstacle { message: words(), why: words(), cure: words() };
        let failure = Failure { message: words(), causes: vec![words()], cure: Some(words()) };
        let host = HostReport {
            steps: vec![step],
            obstacles: vec![obstacle],
            failure: Some(failure),
            notes: vec![words()],
            foreign: vec![UnmanagedItem { kind: words(), name: words(), what: words() }],
            ..HostReport::bare(HostStatus::Obstructed)
        };
        let verification = Verification {
            claim: words(),
            verdict: Verdict::Fails,
            evidence: words(),
            service: Some(words()),
            excuse: None,
        };
        ClusterReport {
            action: Action::Plan,
            topology: words(),
            hosts: [("lvs".parse().unwrap(), host)].into(),
            transaction: None,
            open_transactions: Vec::new(),
            verifications: vec![verification],
            fingerprint: Some(words()),
        }
    }

    /// What the reader of a page sees: headings, tables, blocks and HTML, in order.
    fn shape(markdown: &str) -> Vec<String> {
        let mut shape = Vec::new();
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_MATH;
        for event in Parser::new_ext(markdown, options) {
            match event {
                Event::Start(Tag::Paragraph | Tag::TableRow | Tag::TableCell | Tag::HtmlBlock)
                | Event::Text(_)
                | Event::End(_)
                | Event::SoftBreak => {}
                Event::Start(tag) => shape.push(format!("{tag:?}")),
                Event::InlineHtml(html) if &*html == APART => {}
                Event::Html(html) | Event::InlineHtml(html) => shape.push(html.trim().to_owned()),
                other => shape.push(format!("{other:?}")),
            }
        }
        shape
    }

    #[test]
    fn hostile_text_leaves_the_document_in_its_shape() {
        let plain = shape(&markdown(&report("plain")));
        assert!(plain.iter().any(|part| part.contains("summary")), "{plain:?}");
        for words in HOSTILE {
            let document = markdown(&report(words));
            // A fence is longer where a block has backticks.
            assert_eq!(shape(&document), plain, "{words:?}:\n{document}");
        }
    }

    #[test]
    fn a_plan_has_its_summary_a_diff_and_the_cure() {
        let mut report = report("words");
        report.hosts.values_mut().next().unwrap().obstacles[0].cure = "bring it up".to_owned();
        let document = markdown(&report);
        for part in [
            "### lvsprov plan words\n",
            "**Summary**: words: 1 change to do on 1 host",
            "#### Clients may feel\n\n| host | step | connections |\n| --- | --- | --- |\n| lvs | words | cuts 3 connections |\n",
            "| lvs | words | words | bring it up |\n",
            "```diff\n+ words  # cuts 3 connections\n```\n",
            "<summary>1 reason</summary>",
        ] {
            assert!(document.contains(part), "{part:?} is not in:\n{document}");
        }
    }
}
