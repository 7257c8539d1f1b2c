//! Commands that change no host: `check`, `plan`, `verify`, `status`. One function each.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::{CommonArguments, HostArguments, OutputFormat, PlanArguments};
use super::cluster::{examine, load, run_on_hosts};
use super::output::{self, CommandResult, Exit};
use super::plan_file;
use super::rules::DenyArgument;
use super::watch::WatchArguments;
use crate::apply::holders::VipProbing;
use crate::apply::saved_plan::SavedContent;
use crate::apply::{open_transactions, status, verify};
use crate::finding::{Finding, Severity};
use crate::topology::{self, PaceOverride};
use crate::{check, report};

/// `check`. The other files are checked even where one cannot be read.
pub fn check(files: &[PathBuf], deny: &DenyArgument, common: &CommonArguments) -> CommandResult {
    let mut worst = Exit::Ok;
    let mut documents = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let text = match topology::read_file(path) {
            Ok(text) => text,
            // With one file the command has failed: the error is its one document.
            Err(error) if files.len() == 1 => return Err(error.into()),
            Err(error) => {
                output::print_error_message(&error);
                documents.push(output::error_json(&error));
                worst = Exit::Error;
                continue;
            }
        };
        let examined = check::examine(&name, &text).denying(&deny.findings);
        let (findings, silenced) = (examined.findings, examined.silenced);
        let is_error = |finding: &Finding| finding.severity == Severity::Error;
        if findings.iter().any(is_error) && worst == Exit::Ok {
            worst = Exit::Findings;
        }
        match common.format {
            OutputFormat::Json => {
                documents.push(report::findings::json(&name, &findings, &silenced));
            }
            OutputFormat::Markdown | OutputFormat::Html => output::print(
                &report::markdown::findings::markdown(&name, &text, &findings, &silenced),
            )?,
            OutputFormat::Text if findings.is_empty() && silenced.is_empty() => {
                output::print(&format!("{name}: nothing found\n"))?;
            }
            OutputFormat::Text => {
                output::print(&report::findings::text(&name, &text, &findings, &silenced, true))?;
            }
        }
    }
    match (common.format, documents.as_slice()) {
        (OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html, _) => {}
        (OutputFormat::Json, [only]) => output::print_json(only)?,
        (OutputFormat::Json, all) => {
            output::print_json(&report::with_schema("check", &json!({ "files": all })))?;
        }
    }
    Ok(worst)
}

/// `plan`; `out`: the file to save it to, and whether to replace an existing one.
pub fn plan(
    hosts: &HostArguments,
    deny: &DenyArgument,
    plan: PlanArguments,
    pace: PaceOverride,
    out: Option<(&Path, bool)>,
    common: &CommonArguments,
) -> CommandResult {
    if let Some((path, force)) = out {
        plan_file::check_free(path, force)?;
    }
    let text = topology::read_file(&hosts.file)?;
    let Some(topology) = examine(&hosts.file, &text, &deny.findings, common.format)? else {
        return Ok(Exit::Findings);
    };
    let PlanArguments { adopt, allow, probe, reasons } = plan;
    run_on_hosts(topology, hosts, pace, probe.to_probing(), common, async |cluster| {
        cluster.adopt_if(adopt.adopt);
        // Before the plan is refused for a request that dies: the page shows where.
        let walked = (common.format == OutputFormat::Html).then(|| cluster.walk_after_plan());
        cluster.refuse_unanswered(allow.allow_unanswered);
        let mut report = cluster.plan.report(cluster.session.topology);
        open_transactions::add_to_report(&mut report, &cluster.plan, &cluster.observed);
        let content = plan_file::content(cluster, hosts, text, adopt, pace);
        report.fingerprint = content.as_ref().map(SavedContent::fingerprint);
        match walked {
            Some((walks, hosts)) => output::print(&report::page::plan(
                cluster.session.topology,
                &report,
                walks,
                hosts,
            )?)?,
            None => output::print_report(
                common,
                || report::cluster::json(&report),
                || report::cluster::text_with(&report, reasons.detail()),
                || report::markdown::cluster::markdown(&report),
            )?,
        }
        let pending = report.has_pending() || !report.open_transactions.is_empty();
        let exit = match (report.has_failures(), pending) {
            (true, _) => Exit::HostFailed,
            (false, true) => Exit::Pending,
            (false, false) => Exit::Ok,
        };
        let Some((path, force)) = out else { return Ok(exit) };
        // The plan is the one document; errors of saving it go to standard error.
        Ok(plan_file::save(path, force, content, &report).unwrap_or(exit))
    })
}

/// `verify`.
pub fn verify(hosts: &HostArguments, common: &CommonArguments) -> CommandResult {
    let Some(topology) = load(&hosts.file, common.format)? else { return Ok(Exit::Findings) };
    let pace = PaceOverride::default();
    run_on_hosts(topology, hosts, pace, VipProbing::Off, common, async |cluster| {
        let report = verify::verify(cluster.session, &cluster.plan, &cluster.observed).await;
        output::print_result(
            common,
            || report::verify::json(&report),
            || report::verify::text(&report),
        )?;
        Ok(if report.has_failures() { Exit::NotProven } else { Exit::Ok })
    })
}

/// `status`, once or again and again.
pub fn status(
    hosts: &HostArguments,
    watch: WatchArguments,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(&hosts.file, common.format)? else { return Ok(Exit::Findings) };
    let pace = PaceOverride::default();
    run_on_hosts(topology, hosts, pace, VipProbing::Off, common, async |cluster| {
        if watch.watch {
            return super::watch::run(cluster, watch.interval, common).await;
        }
        let report = status::status(cluster.session.topology, &cluster.plan, &cluster.observed);
        output::print_result(
            common,
            || report::status::json(&report),
            || report::status::text(&report),
        )?;
        let failed = report.hosts.values().any(|host| host.status.is_failure());
        let differs = report.hosts.values().any(|host| !host.drift.is_empty())
            || !report.open_transactions.is_empty();
        Ok(match (failed, differs) {
            (true, _) => Exit::HostFailed,
            (false, true) => Exit::Pending,
            (false, false) => Exit::Ok,
        })
    })
}
