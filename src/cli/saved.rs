//! Saved plans as files: `plan --out FILE`, and `apply FILE` that finds one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::arguments::{Adoption, Common, Format, Target};
use super::commands::Outcome;
use super::exit::{self, Exit};
use super::output;
use super::survey::{Survey, with_topology};
use crate::apply::planning::Direction;
use crate::apply::saved::{Content, SavedPlan, short};
use crate::apply::{ClusterReport, operator};
use crate::check;
use crate::names::HostName;
use crate::topology::PaceOverride;

/// More than any plan needs: 100,000 destinations are about 60 MB.
const LIMIT: u64 = 512 << 20;
/// Of a file that is no saved plan no more is read than shows that.
const HEAD: usize = 256;

/// Why a plan was not saved, or cannot be applied.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{} is there already; `--force` replaces it", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write the plan to {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "the plan is not saved, as it is not whole: {} could not be planned; mend what is said there, or leave {} out \
         with --limit",
        .hosts.join(", "),
        if .hosts.len() == 1 { "it" } else { "them" }
    )]
    NotWhole { hosts: Vec<String> },
    #[error("{option} is in the saved plan already, and cannot be said again")]
    SaidAgain { option: &'static str },
    #[error("the topology in {} has errors for this lvsprov", path.display())]
    Topology { path: PathBuf },
    #[error(
        "the saved plan {fingerprint} is refused, nothing was touched: the hosts are no longer as it was \
         made from; look at `lvsprov plan` again"
    )]
    MovedOn { fingerprint: String },
}

/// What the plan of `survey` says, for a fingerprint; `None` if not every host can be planned.
pub(super) fn content(
    survey: &Survey<'_>,
    target: &Target,
    text: String,
    adoption: Adoption,
    pace: PaceOverride,
) -> Option<Content> {
    let PaceOverride { drain, ramp } = pace;
    Some(Content {
        file: target.file.display().to_string(),
        topology: text,
        adopt: adoption.adopt,
        limit: target.limit.iter().cloned().collect(),
        drain,
        ramp,
        hosts: Content::hosts(&survey.plan, &survey.seen)?,
    })
}

/// Refuses to save a plan where something is already; asked before any host is.
pub(super) fn is_free(path: &Path, force: bool) -> Result<(), Box<dyn std::error::Error>> {
    if !force && fs::symlink_metadata(path).is_ok() {
        return Err(Error::Exists { path: path.to_owned() }.into());
    }
    Ok(())
}

/// Saves the plan that `report` has shown. What is wrong with that goes to standard error only: how to
/// exit where that says more than the plan itself.
pub(super) fn keep(
    path: &Path,
    force: bool,
    content: Option<Content>,
    report: &ClusterReport,
) -> Option<Exit> {
    let Some(content) = content else {
        let hosts = report.hosts.iter().filter(|(_, host)| host.status.is_failure());
        exit::say(&Error::NotWhole { hosts: hosts.map(|(name, _)| name.to_string()).collect() });
        return None;
    };
    match write(path, force, content) {
        Ok(()) => None,
        Err(error) => {
            exit::say(error.as_ref());
            Some(Exit::Error)
        }
    }
}

/// Writes a plan to `path`: whole or not at all, for its owner only.
fn write(path: &Path, force: bool, content: Content) -> Result<(), Box<dyn std::error::Error>> {
    let plan = SavedPlan::of(content, operator::here().to_string(), operator::now());
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(&plan)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".lvsprov-plan-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let kept = if force { file.persist(path) } else { file.persist_noclobber(path) };
    match kept {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::Exists { path: path.to_owned() }.into())
        }
        Err(error) => Err(failed(error.error).into()),
    }
}

/// The text of a file that is a saved plan; `None` if it is something else, or cannot be read: then
/// whoever reads a topology says so.
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

/// Goes on with `command` as a saved plan says: its topology, its hosts, its options.
pub(super) fn with_plan(
    saved: SavedPlan,
    target: &Target,
    adoption: Adoption,
    pace: PaceOverride,
    common: &Common,
    command: impl AsyncFnOnce(&mut Survey<'_>, &Content) -> Outcome,
) -> Outcome {
    let PaceOverride { drain, ramp } = pace;
    let again = [
        (adoption.adopt, "--adopt"),
        (!target.limit.is_empty(), "--limit"),
        (drain.is_some(), "--drain"),
        (ramp.is_some(), "--ramp"),
    ];
    if let Some((_, option)) = again.into_iter().find(|(said, _)| *said) {
        exit::report(&Error::SaidAgain { option }, common)?;
        return Ok(Exit::Usage);
    }
    let content = saved.plan;
    let Some(topology) = check::examine(&content.file, &content.topology).topology else {
        return Err(Error::Topology { path: target.file.clone() }.into());
    };
    let target = Target { limit: content.limit.iter().cloned().collect(), ..target.clone() };
    let pace = PaceOverride { drain: content.drain, ramp: content.ramp };
    with_topology(topology, &target, pace, common, async |survey| {
        if content.adopt {
            survey.turn(Direction::Adopt { now: operator::now() });
        }
        command(survey, &content).await
    })
}

/// Refuses a saved plan that is not what would be planned now.
pub(super) fn refused(
    survey: &Survey<'_>,
    saved: Option<&Content>,
    common: &Common,
) -> Result<Option<Exit>, Box<dyn std::error::Error>> {
    let Some(saved) = saved else { return Ok(None) };
    let differences = saved.differences(&survey.plan, &survey.seen);
    if differences.is_empty() {
        return Ok(None);
    }
    let error = Error::MovedOn { fingerprint: short(&saved.fingerprint()) };
    exit::say(&error);
    match common.format {
        Format::Json => {
            let mut document = exit::json(&error);
            if let Some(members) = document.as_object_mut() {
                members.insert("differences".to_owned(), serde_json::to_value(&differences)?);
            }
            output::document(&document)?;
        }
        Format::Text => output::say(&text(&differences))?,
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
