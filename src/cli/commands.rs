//! One function a subcommand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::arguments::{Adoption, Common, Format, Target};
use super::exit::{self, Exit};
use super::file::{self, Loaded};
use super::output;
use super::progress::Progress;
use crate::check::{self, Severity};
use crate::cluster::planning::{self, ClusterPlan, Direction};
use crate::cluster::{Session, Settings, acting, proving};
use crate::protocol::{Failure, Sighting};
use crate::topology::{self, HostName, PaceOverride, Topology};
use crate::{report, transport};

/// How a command ends.
pub(super) type Outcome = Result<Exit, Box<dyn std::error::Error>>;

/// A host that `--limit` names and the file does not.
#[derive(Debug, thiserror::Error)]
#[error("--limit {name}: there is no such host in the file; it has {}", .known.join(", "))]
struct UnknownHost {
    name: HostName,
    known: Vec<String>,
}

/// A file that says of no host how it is reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "{file} says of no host how it is reached, so there is nothing to look at; say `ssh: USER@HOST`, \
     `local: true` or `netns: NAME` for those that are yours, or try the file with `lvsprov lab run`"
)]
struct NobodyReached {
    file: String,
}

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
        let is_error = |finding: &check::Finding| finding.severity == Severity::Error;
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

/// `plan`.
pub fn plan(target: &Target, adoption: Adoption, pace: PaceOverride, common: &Common) -> Outcome {
    with_hosts(target, pace, common, async |survey| {
        survey.agree(adoption);
        let report = survey.plan.report(survey.session.topology);
        output::show(common, || report::cluster::json(&report), || report::cluster::text(&report))?;
        Ok(match (report.has_failures(), report.has_pending()) {
            (true, _) => Exit::HostFailed,
            (false, true) => Exit::Pending,
            (false, false) => Exit::Ok,
        })
    })
}

/// `apply`.
pub fn apply(target: &Target, adoption: Adoption, pace: PaceOverride, common: &Common) -> Outcome {
    with_hosts(target, pace, common, async |survey| {
        survey.agree(adoption);
        act(survey, common).await
    })
}

/// `destroy`.
pub fn destroy(target: &Target, dry_run: bool, pace: PaceOverride, common: &Common) -> Outcome {
    with_hosts(target, pace, common, async |survey| {
        survey.turn(Direction::Destroy);
        if dry_run {
            let report = survey.plan.report(survey.session.topology);
            output::show(
                common,
                || report::cluster::json(&report),
                || report::cluster::text(&report),
            )?;
            return Ok(if report.has_failures() { Exit::HostFailed } else { Exit::Ok });
        }
        act(survey, common).await
    })
}

async fn act(survey: &mut Survey<'_>, common: &Common) -> Outcome {
    let Survey { session, plan, seen, direction } = survey;
    let report = acting::act(session, plan, seen, *direction).await;
    output::show(common, || report::cluster::json(&report), || report::cluster::text(&report))?;
    Ok(if report.has_failures() { Exit::HostFailed } else { Exit::Ok })
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
        let differs = report.hosts.values().any(|host| !host.drift.is_empty());
        Ok(match (failed, differs) {
            (true, _) => Exit::HostFailed,
            (false, true) => Exit::Pending,
            (false, false) => Exit::Ok,
        })
    })
}

/// All hosts as they are, and what is to be done.
struct Survey<'a> {
    session: Session<'a>,
    seen: BTreeMap<HostName, Result<Sighting, Failure>>,
    plan: ClusterPlan,
    direction: Direction,
}

impl Survey<'_> {
    /// Plans anew if more may be taken over.
    fn agree(&mut self, adoption: Adoption) {
        if adoption.adopt {
            self.turn(Direction::Adopt { now: now() });
        }
    }

    /// Plans the other way.
    fn turn(&mut self, direction: Direction) {
        self.direction = direction;
        let Self { session, seen, plan, .. } = self;
        *plan =
            planning::plan(session.topology, &session.desired, seen, session.absent(), direction);
    }
}

/// Loads the file, looks at its hosts, plans towards it, and goes on with `command`.
fn with_hosts(
    target: &Target,
    pace: PaceOverride,
    common: &Common,
    command: impl AsyncFnOnce(&mut Survey<'_>) -> Outcome,
) -> Outcome {
    let Loaded::Good(mut topology) = file::load(&target.file, common.format)? else {
        return Ok(Exit::Findings);
    };
    topology.pace = pace;
    let settings = match settings(target, &topology) {
        Ok(settings) => settings,
        Err(error) => {
            exit::report(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    if topology.hosts.values().all(|host| host.reach.is_none()) {
        return Err(NobodyReached { file: target.file.display().to_string() }.into());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let progress = Progress::new(common.format);
    runtime.block_on(async {
        let mut survey = survey(&topology, &settings, &progress).await;
        let outcome = command(&mut survey).await;
        survey.session.close().await;
        outcome
    })
}

async fn survey<'a>(
    topology: &'a Topology,
    settings: &'a Settings,
    progress: &'a Progress,
) -> Survey<'a> {
    let mut session = Session::watched(topology, settings, progress).await;
    let seen = session.look(true).await;
    let direction = Direction::Apply { now: now() };
    let plan = planning::plan(topology, &session.desired, &seen, session.absent(), direction);
    Survey { session, seen, plan, direction }
}

fn settings(target: &Target, topology: &Topology) -> Result<Settings, UnknownHost> {
    let limit: BTreeSet<HostName> = target.limit.iter().cloned().collect();
    if let Some(name) = limit.iter().find(|name| !topology.hosts.contains_key(name)) {
        let known = topology.hosts.keys().map(ToString::to_string).collect();
        return Err(UnknownHost { name: name.clone(), known });
    }
    let transport = transport::Options {
        connect_timeout: Duration::from_secs(target.connect_timeout),
        call_timeout: Duration::from_secs(target.call_timeout),
        ssh_config: target.ssh_config.clone(),
        ..transport::Options::default()
    };
    Ok(Settings { transport, reach: BTreeMap::new(), limit })
}

/// Seconds since 1970; 0 with a clock before that.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
