//! What every command that reaches hosts begins with: the file, the hosts as they are, and the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::arguments::{Adoption, Common, Target};
use super::commands::Outcome;
use super::exit::{self, Exit};
use super::file::{self, Loaded};
use super::progress::Progress;
use crate::apply::operator::now;
use crate::apply::planning::{self, ClusterPlan, Direction};
use crate::apply::{Session, Settings};
use crate::failure::Failure;
use crate::names::HostName;
use crate::state::Observation;
use crate::topology::{PaceOverride, Topology};
use crate::transport;

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

/// All hosts as they are, and what is to be done.
pub(super) struct Survey<'a> {
    pub session: Session<'a>,
    pub seen: BTreeMap<HostName, Result<Observation, Failure>>,
    pub plan: ClusterPlan,
    pub direction: Direction,
    pub person: &'a Progress,
}

impl Survey<'_> {
    /// Plans anew if more may be taken over.
    pub fn agree(&mut self, adoption: Adoption) {
        if adoption.adopt {
            self.turn(Direction::Adopt { now: now() });
        }
    }

    /// Plans the other way.
    pub fn turn(&mut self, direction: Direction) {
        self.direction = direction;
        let Self { session, seen, plan, .. } = self;
        *plan =
            planning::plan(session.topology, &session.desired, seen, session.absent(), direction);
    }

    /// Looks at all hosts again, those too that went away meanwhile, and plans anew.
    pub async fn again(&mut self) {
        let all = self.session.topology.hosts.keys().cloned().collect();
        let lost = self.session.lost(&all);
        self.session.renew(&lost, false).await;
        self.seen = self.session.look(true).await;
        self.turn(self.direction);
    }
}

/// Loads the file, looks at its hosts, plans towards it, and goes on with `command`.
pub(super) fn with_hosts(
    target: &Target,
    pace: PaceOverride,
    common: &Common,
    command: impl AsyncFnOnce(&mut Survey<'_>) -> Outcome,
) -> Outcome {
    let Loaded::Good(topology) = file::load(&target.file, common.format)? else {
        return Ok(Exit::Findings);
    };
    with_topology(*topology, target, pace, common, command)
}

/// The same with a topology that was read already.
pub(super) fn with_topology(
    mut topology: Topology,
    target: &Target,
    pace: PaceOverride,
    common: &Common,
    command: impl AsyncFnOnce(&mut Survey<'_>) -> Outcome,
) -> Outcome {
    topology.pace = pace;
    let settings = match settings(target, &topology) {
        Ok(settings) => settings,
        Err(error) => {
            exit::report(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    if topology.hosts.values().all(|host| host.reach.is_none()) {
        return Err(nobody(&target.file));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let progress = Progress::new(common.format);
    let outcome = runtime.block_on(async {
        let mut survey = survey(&topology, &settings, &progress).await;
        let outcome = command(&mut survey).await;
        survey.session.close().await;
        outcome
    });
    // Somebody may still be waiting for a word on standard input.
    runtime.shutdown_background();
    outcome
}

fn nobody(file: &Path) -> Box<dyn std::error::Error> {
    NobodyReached { file: file.display().to_string() }.into()
}

async fn survey<'a>(
    topology: &'a Topology,
    settings: &'a Settings,
    person: &'a Progress,
) -> Survey<'a> {
    let mut session = Session::watched(topology, settings, person).await;
    let seen = session.look(true).await;
    let direction = Direction::Apply { now: now() };
    let plan = planning::plan(topology, &session.desired, &seen, session.absent(), direction);
    Survey { session, seen, plan, direction, person }
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
