//! Files with saved plans: `plan --out FILE` writes one, `apply FILE` reads it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::arguments::{
    AdoptArgument, CommonArguments, HostArguments, OutputFormat, PlanArguments,
};
use super::cluster::{ObservedCluster, examine, run_on_hosts};
use super::output::{self, CommandResult, Exit};
use super::rules::DenyArgument;
use crate::apply::cluster_plan::Direction;
use crate::apply::saved_plan::{SavedContent, SavedPlan, short};
use crate::apply::{ClusterReport, operator};
use crate::check;
use crate::names::HostName;
use crate::topology::PaceOverride;
use crate::whole_file;

/// In bytes; more than any plan needs: 100,000 destinations are about 60 MB.
const LIMIT: u64 = 512 << 20;
/// Bytes read to recognise a saved plan.
const HEAD: usize = 256;

/// Why a plan was not saved, or cannot be applied.
#[derive(Debug, thiserror::Error)]
enum PlanFileError {
    #[error("{} exists already; `--force` replaces it", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write the plan to {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "the plan is not saved, as it is not whole: {} could not be planned; mend what the plan says there, or leave {} out \
         with --limit",
        .hosts.join(", "),
        if .hosts.len() == 1 { "it" } else { "them" }
    )]
    NotWhole { hosts: Vec<String> },
    #[error("{option} is in the saved plan already, and cannot be given again")]
    GivenAgain { option: &'static str },
    #[error("the topology in {} has errors for this lvsprov", path.display())]
    Topology { path: PathBuf },
    #[error(
        "the saved plan {fingerprint} is refused, nothing was touched: the hosts have changed since it was \
         made; look at `lvsprov plan` again"
    )]
    Changed { fingerprint: String },
}

/// The plan of `cluster` as it is saved; `None`: some host could not be planned.
pub(super) fn content(
    cluster: &ObservedCluster<'_, '_>,
    hosts: &HostArguments,
    text: String,
    adopt: AdoptArgument,
    pace: PaceOverride,
) -> Option<SavedContent> {
    let PaceOverride { drain, ramp } = pace;
    Some(SavedContent {
        file: hosts.file.display().to_string(),
        topology: text,
        adopt: adopt.adopt,
        limit: hosts.reach.limit.iter().cloned().collect(),
        drain,
        ramp,
        hosts: SavedContent::hosts(&cluster.plan, &cluster.observed)?,
    })
}

/// Refuses to replace an existing file; called before any host is observed.
pub(super) fn check_free(path: &Path, force: bool) -> Result<(), Box<dyn std::error::Error>> {
    if !force && fs::symlink_metadata(path).is_ok() {
        return Err(PlanFileError::Exists { path: path.to_owned() }.into());
    }
    Ok(())
}

/// Saves the plan that `report` has shown. Errors go to standard error only; the exit code where it differs
/// from that of the plan.
pub(super) fn save(
    path: &Path,
    force: bool,
    content: Option<SavedContent>,
    report: &ClusterReport,
) -> Option<Exit> {
    let Some(content) = content else {
        let hosts = report.hosts.iter().filter(|(_, host)| host.status.is_failure());
        output::print_error_message(&PlanFileError::NotWhole {
            hosts: hosts.map(|(name, _)| name.to_string()).collect(),
        });
        return None;
    };
    match write(path, force, content) {
        Ok(()) => None,
        Err(error) => {
            output::print_error_message(error.as_ref());
            Some(Exit::Error)
        }
    }
}

/// Writes a plan to `path`: whole or not at all, for its owner only.
fn write(
    path: &Path,
    force: bool,
    content: SavedContent,
) -> Result<(), Box<dyn std::error::Error>> {
    let plan = SavedPlan::of(content, operator::here().to_string(), operator::now());
    let failed = |source| PlanFileError::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(&plan)?;
    whole_file::write(path, &text, 0o600, force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => PlanFileError::Exists { path: path.to_owned() }.into(),
        _ => failed(error).into(),
    })
}

/// The text of a file that is a saved plan; `None`: it is something else, or cannot be read, which reading it
/// as a topology reports.
pub(super) fn text_of(path: &Path) -> Result<Option<String>, io::Error> {
    if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    let Ok(file) = File::open(path) else { return Ok(None) };
    let mut file = file.take(LIMIT);
    let mut bytes = vec![0; HEAD];
    let mut read = 0;
    while read < HEAD {
        match file.read(&mut bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    bytes.truncate(read);
    if !SavedPlan::is_one(&String::from_utf8_lossy(&bytes)) {
        return Ok(None);
    }
    file.read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Runs `command` as a saved plan says: its topology, its hosts, its options.
pub(super) fn run_saved(
    saved: SavedPlan,
    hosts: &HostArguments,
    deny: &DenyArgument,
    plan: PlanArguments,
    pace: PaceOverride,
    common: &CommonArguments,
    command: impl AsyncFnOnce(&mut ObservedCluster<'_, '_>, &SavedContent) -> CommandResult,
) -> CommandResult {
    let PaceOverride { drain, ramp } = pace;
    let again = [
        (plan.adopt.adopt, "--adopt"),
        (!hosts.reach.limit.is_empty(), "--limit"),
        (drain.is_some(), "--drain"),
        (ramp.is_some(), "--ramp"),
    ];
    if let Some((_, option)) = again.into_iter().find(|(given, _)| *given) {
        output::print_error(&PlanFileError::GivenAgain { option }, common)?;
        return Ok(Exit::Usage);
    }
    let content = saved.plan;
    let Some(topology) = check::examine(&content.file, &content.topology).topology else {
        return Err(PlanFileError::Topology { path: hosts.file.clone() }.into());
    };
    // `plan` has printed the findings; only what this command line denies is new.
    let (file, text) = (Path::new(&content.file), &content.topology);
    if !deny.findings.is_empty() && examine(file, text, &deny.findings, common.format)?.is_none() {
        return Ok(Exit::Findings);
    }
    let mut hosts = hosts.clone();
    hosts.reach.limit = content.limit.iter().cloned().collect();
    let pace = PaceOverride { drain: content.drain, ramp: content.ramp };
    let probing = plan.probe.to_probing();
    run_on_hosts(topology, &hosts, pace, probing, common, async |cluster| {
        if content.adopt {
            cluster.plan_towards(Direction::Adopt { now: operator::now() });
        }
        command(cluster, &content).await
    })
}

/// Refuses a saved plan that differs from the plan made now.
pub(super) fn refuse_if_changed(
    cluster: &ObservedCluster<'_, '_>,
    saved: Option<&SavedContent>,
    common: &CommonArguments,
) -> Result<Option<Exit>, Box<dyn std::error::Error>> {
    let Some(saved) = saved else { return Ok(None) };
    let differences = saved.differences(&cluster.plan, &cluster.observed);
    if differences.is_empty() {
        return Ok(None);
    }
    let error = PlanFileError::Changed { fingerprint: short(&saved.fingerprint()) };
    output::print_error_message(&error);
    match common.format {
        OutputFormat::Json => {
            let mut document = output::error_json(&error);
            if let Some(members) = document.as_object_mut() {
                members.insert("differences".to_owned(), serde_json::to_value(&differences)?);
            }
            output::print_json(&document)?;
        }
        OutputFormat::Text | OutputFormat::Markdown | OutputFormat::Html => {
            output::print(&text(&differences))?;
        }
    }
    Ok(Some(Exit::HostFailed))
}

fn text(differences: &BTreeMap<HostName, Vec<String>>) -> String {
    let mut text = String::new();
    for (host, lines) in differences {
        text.extend([host.as_str(), "\n"]);
        for line in lines {
            text.extend(["    ", line, "\n"]);
        }
    }
    text
}
