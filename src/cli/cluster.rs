//! How every command that reaches hosts starts: it reads the file, observes the hosts, and plans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::arguments::{CommonArguments, HostArguments, OutputFormat};
use super::console::Console;
use super::output::{self, CommandResult, Exit};
use crate::apply::cluster_plan::{self, ClusterPlan, Direction};
use crate::apply::holders::{self, VipHolders, VipProbing};
use crate::apply::maintenance::TopologyVersions;
use crate::apply::operator::now;
use crate::apply::session::Observations;
use crate::apply::{ConnectionSettings, Session};
use crate::desired::{self, ExpectedRequest};
use crate::finding::{DeniedFindings, Finding, Severity, SilencedFinding};
use crate::names::HostName;
use crate::report::page::WalkedHosts;
use crate::report::walk::WalkView;
use crate::topology::{PaceOverride, Topology};
use crate::{check, report, topology, transport};

/// The command line names a host that the file lacks.
#[derive(Debug, thiserror::Error)]
#[error("{option}{name}: there is no such host in the file; it has {}", .known.join(", "))]
pub(super) struct UnknownHost {
    option: &'static str,
    name: HostName,
    known: Vec<String>,
}

impl UnknownHost {
    /// Named without an option.
    pub fn named(name: &HostName, topology: &Topology) -> Self {
        let known = topology.hosts.keys().map(ToString::to_string).collect();
        Self { option: "", name: name.clone(), known }
    }
}

/// The file says of no host how to reach it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{file} says of no host how it is reached, so there is nothing to look at; say `ssh: USER@HOST`, \
     `local: true` or `netns: NAME` for those that are yours, or try the file with `lvsprov lab run`"
)]
struct NoHostReached {
    file: String,
}

/// Reads and checks the file at `path`, as [`examine`] does.
pub(super) fn load(
    path: &Path,
    format: OutputFormat,
) -> Result<Option<Topology>, Box<dyn std::error::Error>> {
    examine(path, &topology::read_file(path)?, &[], format)
}

/// Checks `text`, which was read from `path`; `None`: it has errors, or findings that `denied` has, which are printed.
/// Findings go to standard error, but for notes, which only `check` prints; in other formats than text errors also make
/// the document on standard output.
///
/// A caller that needs the text too reads it once and calls this: a pipe yields its text only once, and a
/// second reading of a file may yield another text.
pub(super) fn examine(
    path: &Path,
    text: &str,
    denied: &[DeniedFindings],
    format: OutputFormat,
) -> Result<Option<Topology>, Box<dyn std::error::Error>> {
    let name = path.display().to_string();
    let mut examined = check::examine(&name, text).denying(denied);
    examined.findings.retain(|finding| finding.severity != Severity::Note);
    examined.silenced.retain(|silenced| silenced.finding.severity != Severity::Note);
    let bad = show_findings(&name, text, &examined.findings, &examined.silenced, format)?;
    Ok(examined.topology.filter(|_| !bad))
}

/// Reads the file at `path` without checking it: for commands that look into what `check` refuses. `None`: it cannot be read as
/// a topology, and its errors are printed.
pub(super) fn read_unchecked(
    path: &Path,
    format: OutputFormat,
) -> Result<Option<Topology>, Box<dyn std::error::Error>> {
    let name = path.display().to_string();
    let text = topology::read_file(path)?;
    let parsed = topology::read(&name, &text);
    let wrong = show_findings(&name, &text, &parsed.findings, &[], format)?;
    Ok(parsed.topology.filter(|_| !wrong))
}

/// Prints findings as [`examine`] does, and says whether an error is among them.
pub(super) fn show_findings(
    name: &str,
    text: &str,
    findings: &[Finding],
    silenced: &[SilencedFinding],
    format: OutputFormat,
) -> Result<bool, Box<dyn std::error::Error>> {
    let bad = findings.iter().any(|finding| finding.severity == Severity::Error);
    output::print_message(&report::findings::text(name, text, findings, silenced, true));
    match format {
        _ if !bad => {}
        OutputFormat::Text => {}
        OutputFormat::Json => {
            output::print_json(&report::findings::json(name, findings, silenced))?;
        }
        OutputFormat::Markdown => {
            output::print(&report::markdown::findings::markdown(name, text, findings, silenced))?;
        }
        OutputFormat::Html => output::print(&report::page::findings(name, findings)?)?,
    }
    Ok(bad)
}

/// The hosts as observed, and the plan made from that.
pub(super) struct ObservedCluster<'a, 's> {
    pub session: &'s mut Session<'a>,
    versions: &'a TopologyVersions,
    pub observed: Observations,
    pub plan: ClusterPlan,
    pub direction: Direction,
    /// A plan after which a request gets no answer is refused.
    refuses_unanswered: bool,
    pub console: &'a Console,
    probing: VipProbing,
    holders: VipHolders,
}

impl ObservedCluster<'_, '_> {
    /// Plans anew where items that lvsprov did not make are to become its own (`--adopt`).
    pub fn adopt_if(&mut self, adopt: bool) {
        if adopt {
            self.plan_towards(Direction::Adopt { now: now() });
        }
    }

    /// From now on a plan after which a request gets no answer is refused, unless `allowed`.
    pub fn refuse_unanswered(&mut self, allowed: bool) {
        self.refuses_unanswered = !allowed;
        self.judge();
    }

    /// The requests of the file through the hosts with this plan done; through those of the file where a host has no plan.
    pub fn walk_after_plan(&self) -> (Vec<WalkView>, WalkedHosts) {
        let Self { session, observed, plan, .. } = self;
        let topology = session.topology;
        let after = plan.world_after(topology, &session.desired, observed);
        let hosts = match &after {
            Some(_) => WalkedHosts::AfterThePlan,
            None => WalkedHosts::AsTheFileSays,
        };
        let world = after.unwrap_or_else(|| desired::world(topology));
        let walk = |it: ExpectedRequest<'_>| super::explain::view(topology, &world, &it);
        (report::page::requests(topology).into_iter().map(walk).collect(), hosts)
    }

    fn judge(&mut self) {
        let Self { session, observed, plan, direction, refuses_unanswered, .. } = self;
        if *refuses_unanswered && *direction != Direction::Destroy {
            plan.refuse_unanswered(session.topology, &session.desired, observed);
        }
    }

    /// Plans anew towards another state.
    pub fn plan_towards(&mut self, direction: Direction) {
        self.direction = direction;
        let Self { session, versions, observed, plan, holders, .. } = self;
        versions.follow(session, observed);
        let (topology, desired) = (session.topology, &session.desired);
        *plan = cluster_plan::plan(topology, desired, observed, session.absent(), direction);
        holders::add_to_plan(plan, desired, observed, holders);
        self.judge();
    }

    /// Reconnects to lost hosts, observes all hosts, and plans anew.
    pub async fn refresh(&mut self) {
        let all = self.session.topology.hosts.keys().cloned().collect();
        let lost = self.session.lost(&all);
        self.session.reconnect(&lost, false).await;
        self.observed = self.session.observe(true).await;
        self.holders = VipHolders::default();
        self.plan_towards(self.direction);
        self.find_holders().await;
    }

    /// Observes all hosts over the connections that there are, and plans anew; `reconnect`: tries lost hosts first.
    pub async fn look_again(&mut self, reconnect: bool) {
        if reconnect {
            let all = self.session.topology.hosts.keys().cloned().collect();
            let lost = self.session.lost(&all);
            self.session.reconnect(&lost, false).await;
        }
        self.observed = self.session.observe(true).await;
        self.plan_towards(self.direction);
    }

    /// Asks whether another machine has a VIP that the plan adds.
    async fn find_holders(&mut self) {
        if self.probing == VipProbing::On {
            let Self { session, observed, plan, holders, .. } = self;
            *holders = holders::find(session, plan, observed).await;
            holders::add_to_plan(plan, &session.desired, observed, holders);
        }
    }
}

/// Connects to the hosts of a topology, and runs `command`.
pub(super) fn run_with_session(
    mut topology: Topology,
    hosts: &HostArguments,
    pace: PaceOverride,
    common: &CommonArguments,
    command: impl for<'a, 's> AsyncFnOnce(
        &'s mut Session<'a>,
        &'a TopologyVersions,
        &'a Console,
    ) -> CommandResult,
) -> CommandResult {
    topology.pace = pace;
    let settings = match settings(hosts, &topology) {
        Ok(settings) => settings,
        Err(error) => {
            output::print_error(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    if topology.hosts.values().all(|host| host.reach.is_none()) {
        return Err(NoHostReached { file: hosts.file.display().to_string() }.into());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let console = Console::new(common.format);
    let versions = TopologyVersions::of(topology);
    let result = runtime.block_on(async {
        let mut session = Session::open_with_console(versions.file(), &settings, &console).await;
        let result = command(&mut session, &versions, &console).await;
        session.close().await;
        result
    });
    // A thread may still read the operator's answer from standard input.
    runtime.shutdown_background();
    result
}

/// Observes the hosts of a topology, plans towards it with those in maintenance out of service, and runs `command`.
pub(super) fn run_on_hosts(
    topology: Topology,
    hosts: &HostArguments,
    pace: PaceOverride,
    probing: VipProbing,
    common: &CommonArguments,
    command: impl AsyncFnOnce(&mut ObservedCluster<'_, '_>) -> CommandResult,
) -> CommandResult {
    run_with_session(topology, hosts, pace, common, async |session, versions, console| {
        let observed = session.observe(true).await;
        versions.follow(session, &observed);
        let direction = Direction::Apply { now: now() };
        let (desired, absent) = (&session.desired, session.absent());
        let plan = cluster_plan::plan(session.topology, desired, &observed, absent, direction);
        let mut cluster = ObservedCluster {
            session,
            versions,
            observed,
            plan,
            direction,
            refuses_unanswered: false,
            console,
            probing,
            holders: VipHolders::default(),
        };
        cluster.find_holders().await;
        command(&mut cluster).await
    })
}

fn settings(hosts: &HostArguments, topology: &Topology) -> Result<ConnectionSettings, UnknownHost> {
    let limit: BTreeSet<HostName> = hosts.reach.limit.iter().cloned().collect();
    if let Some(name) = limit.iter().find(|name| !topology.hosts.contains_key(name)) {
        return Err(UnknownHost { option: "--limit ", ..UnknownHost::named(name, topology) });
    }
    let transport = transport::Options {
        connect_timeout: Duration::from_secs(hosts.reach.connect_timeout),
        call_timeout: Duration::from_secs(hosts.reach.call_timeout),
        ssh_config: hosts.reach.ssh_config.clone(),
        ..transport::Options::default()
    };
    Ok(ConnectionSettings { transport, reach: BTreeMap::new(), limit })
}
