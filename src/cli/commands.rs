//! One function a subcommand; those that change hosts are in [`super::changing`].

use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::{Adoption, Common, Format, Target};
use super::exit::{self, Exit};
use super::file::{self, Loaded};
use super::output;
use super::saved;
use super::survey::{with_hosts, with_topology};
pub use crate::apply::operator::now;
use crate::apply::saved::Content;
use crate::apply::{proving, unfinished};
use crate::check;
use crate::finding::{Finding, Severity};
use crate::report;
use crate::topology::{self, PaceOverride};

/// How a command ends.
pub(super) type Outcome = Result<Exit, Box<dyn std::error::Error>>;

/// `check`. A file that cannot be read does not keep the others from being checked.
pub fn check(files: &[PathBuf], common: &Common) -> Outcome {
    let mut worst = Exit::Ok;
    let mut documents = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let text = match topology::read_file(path) {
            Ok(text) => text,
            // The only one: the command has failed, and that is its one document.
            Err(error) if files.len() == 1 => return Err(error.into()),
            Err(error) => {
                exit::say(&error);
                documents.push(exit::json(&error));
                worst = Exit::Error;
                continue;
            }
        };
        let findings = check::examine(&name, &text).findings;
        let is_error = |finding: &Finding| finding.severity == Severity::Error;
        if findings.iter().any(is_error) && worst == Exit::Ok {
            worst = Exit::Findings;
        }
        match common.format {
            Format::Json => documents.push(report::findings::json(&name, &findings)),
            Format::Text if findings.is_empty() => {
                output::say(&format!("{name}: nothing found\n"))?;
            }
            Format::Text => {
                output::say(&report::findings::text(&name, &text, &findings, true))?;
            }
        }
    }
    match (common.format, documents.as_slice()) {
        (Format::Text, _) => {}
        (Format::Json, [only]) => output::document(only)?,
        (Format::Json, all) => {
            output::document(&report::with_schema("check", &json!({ "files": all })))?;
        }
    }
    Ok(worst)
}

/// `plan`; `out`: where to save it, and whether to replace what is there.
pub fn plan(
    target: &Target,
    adoption: Adoption,
    pace: PaceOverride,
    out: Option<(&Path, bool)>,
    common: &Common,
) -> Outcome {
    if let Some((path, force)) = out {
        saved::is_free(path, force)?;
    }
    let text = topology::read_file(&target.file)?;
    let Loaded::Good(topology) = file::examine(&target.file, &text, common.format)? else {
        return Ok(Exit::Findings);
    };
    with_topology(*topology, target, pace, common, async |survey| {
        survey.agree(adoption);
        let mut report = survey.plan.report(survey.session.topology);
        unfinished::tell(&mut report, &survey.plan, &survey.seen);
        let content = saved::content(survey, target, text, adoption, pace);
        report.fingerprint = content.as_ref().map(Content::fingerprint);
        output::show(common, || report::cluster::json(&report), || report::cluster::text(&report))?;
        let pending = report.has_pending() || !report.unfinished.is_empty();
        let exit = match (report.has_failures(), pending) {
            (true, _) => Exit::HostFailed,
            (false, true) => Exit::Pending,
            (false, false) => Exit::Ok,
        };
        let Some((path, force)) = out else { return Ok(exit) };
        // The plan is the one document; what came of saving it is said beside it.
        Ok(saved::keep(path, force, content, &report).unwrap_or(exit))
    })
}

/// `verify`.
pub fn verify(target: &Target, common: &Common) -> Outcome {
    with_hosts(target, PaceOverride::default(), common, async |survey| {
        let report = proving::verify(&mut survey.session, &survey.plan, &survey.seen).await;
        output::show(
            common,
            || report::proofs::verify_json(&report),
            || report::proofs::verify_text(&report),
        )?;
        Ok(if report.has_failures() { Exit::NotProven } else { Exit::Ok })
    })
}

/// `status`.
pub fn status(target: &Target, common: &Common) -> Outcome {
    with_hosts(target, PaceOverride::default(), common, async |survey| {
        let report = proving::status(survey.session.topology, &survey.plan, &survey.seen);
        output::show(
            common,
            || report::proofs::status_json(&report),
            || report::proofs::status_text(&report),
        )?;
        let failed = report.hosts.values().any(|host| host.status.is_failure());
        let differs = report.hosts.values().any(|host| !host.drift.is_empty())
            || !report.unfinished.is_empty();
        Ok(match (failed, differs) {
            (true, _) => Exit::HostFailed,
            (false, true) => Exit::Pending,
            (false, false) => Exit::Ok,
        })
    })
}
