//! One change of what is in maintenance: a transaction on the directors that changes weights and receipts, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::obstacles::HostObstacles;
use super::outcome::{HostMaintenance, MaintenanceAction, MaintenanceEnd, MaintenanceReport};
use super::versions::TopologyVersions;
use crate::apply::cluster_plan::{self, ClusterPlan, Direction, HostPlanResult};
use crate::apply::health;
use crate::apply::operator::now;
use crate::apply::outcome::{ClusterReport, HostStatus};
use crate::apply::session::{Observations, Session};
use crate::apply::transaction::{self, RetryReason, TransactionPolicy, VerifyBy};
use crate::desired::{destination_key, service_key};
use crate::failure::Failure;
use crate::names::HostName;
use crate::state::{DestinationKey, Maintenance, Operator, ServiceKey};

/// Between two attempts while another transaction holds a director.
const AGAIN: Duration = Duration::from_secs(1);
/// How often directors that change meanwhile are planned anew.
const PLANS: u32 = 5;

/// How it is to go.
#[derive(Debug, Clone)]
pub struct MaintenanceOptions {
    /// Go on although requests fail meanwhile.
    pub allow_outage: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// How long to wait while another transaction holds a director.
    pub wait: Duration,
    /// What must be right before a host that is returned stays in service.
    pub verify: VerifyBy,
    /// Reboot a host although connections to it are left.
    pub cut_connections: bool,
    /// How long a host may take to come back from its reboot.
    pub back_within: Duration,
    /// Who runs it.
    pub by: Operator,
}

/// What is to change.
#[derive(Debug, Clone, Copy)]
pub(super) enum MaintenanceChange<'h> {
    /// These hosts are taken out.
    Out(&'h BTreeSet<HostName>),
    /// These hosts are returned.
    Back(&'h BTreeSet<HostName>),
}

impl MaintenanceChange<'_> {
    pub fn hosts(&self) -> &BTreeSet<HostName> {
        match self {
            Self::Out(hosts) | Self::Back(hosts) => hosts,
        }
    }

    fn applied_to(&self, before: Maintenance, now: u64) -> Maintenance {
        match self {
            Self::Out(hosts) => before.with(hosts, now),
            Self::Back(hosts) => before.without(hosts),
        }
    }
}

/// What a change came to.
#[derive(Debug)]
pub(super) enum ChangeEnd {
    /// Something stands in the way: nothing was changed.
    Refused(HostObstacles),
    /// It would be done (`--dry-run`).
    Planned,
    /// It was so already.
    Nothing,
    /// It is done.
    Done,
    /// It failed; the directors are as the report of the transaction says.
    Failed(Failure),
}

/// One run of a command.
pub(super) struct MaintenanceRun<'a, 's> {
    pub session: &'s mut Session<'a>,
    pub versions: &'a TopologyVersions,
    pub options: &'s MaintenanceOptions,
    pub report: MaintenanceReport,
}

impl<'a, 's> MaintenanceRun<'a, 's> {
    pub fn new(
        session: &'s mut Session<'a>,
        versions: &'a TopologyVersions,
        options: &'s MaintenanceOptions,
        (action, hosts): (MaintenanceAction, &[HostName]),
    ) -> Self {
        let mut report = MaintenanceReport {
            action,
            topology: versions.file().name.to_string(),
            hosts: Vec::new(),
            changes: Vec::new(),
            verifications: Vec::new(),
        };
        for host in hosts {
            if report.host_mut(host).is_none() {
                report.hosts.push(HostMaintenance::of(host.clone()));
            }
        }
        Self { session, versions, options, report }
    }

    /// The hosts of the command.
    pub fn hosts(&self) -> BTreeSet<HostName> {
        self.report.hosts.iter().map(|entry| entry.host.clone()).collect()
    }

    /// Reconnects to lost hosts, and observes all of them.
    pub async fn observe(&mut self) -> Observations {
        let all = self.versions.file().hosts.keys().cloned().collect();
        let lost = self.session.lost(&all);
        if !lost.is_empty() {
            self.session.reconnect(&lost, false).await;
        }
        let observed = self.session.observe(true).await;
        let maintenance = self.versions.observed(&observed);
        for entry in &mut self.report.hosts {
            entry.since = maintenance.since(&entry.host);
        }
        observed
    }

    /// Writes obstacles into the report. A command goes on with all of its hosts or with none.
    pub fn refuse(&mut self, obstacles: HostObstacles) {
        for (host, obstacle) in obstacles {
            if let Some(entry) = self.report.host_mut(&host) {
                entry.end = MaintenanceEnd::Refused;
                if !entry.obstacles.contains(&obstacle) {
                    entry.obstacles.push(obstacle);
                }
            }
        }
    }

    /// Writes an end into the report.
    pub fn end(&mut self, host: &HostName, end: MaintenanceEnd, failure: Option<Failure>) {
        if let Some(entry) = self.report.host_mut(host) {
            entry.end = end;
            entry.failure = failure;
        }
    }

    /// The same end for several hosts.
    pub fn end_all(
        &mut self,
        hosts: &BTreeSet<HostName>,
        end: MaintenanceEnd,
        failure: Option<&Failure>,
    ) {
        for host in hosts {
            self.end(host, end, failure.cloned());
        }
    }

    /// The directors that have any of `hosts`.
    pub fn directors_of(&self, hosts: &BTreeSet<HostName>) -> BTreeSet<HostName> {
        hosts.iter().flat_map(|host| self.versions.file().directors_of(host)).collect()
    }

    /// Where directors have `host`: the director, the service and the place in it.
    pub fn destinations_of(
        &self,
        host: &HostName,
    ) -> BTreeSet<(HostName, ServiceKey, DestinationKey)> {
        let mut all = BTreeSet::new();
        for service in &self.versions.file().services {
            for server in service.real_servers.iter().filter(|server| server.host == *host) {
                let at = destination_key(service, server);
                all.insert((service.director.clone(), service_key(service), at));
            }
        }
        all
    }

    /// Changes what is in maintenance. While another transaction holds a director it waits, observes and plans anew.
    pub async fn change(&mut self, change: MaintenanceChange<'_>) -> ChangeEnd {
        let until = Instant::now() + self.options.wait;
        let mut plans = 1;
        loop {
            let observed = self.observe().await;
            let before = self.versions.follow(self.session, &observed);
            let held = self.held_by_another(change, &observed);
            let waits = Instant::now() < until && !self.session.console().stop_requested();
            if let (Some(who), true) = (&held, waits) {
                self.session.console().show_wait(Some(&format!("waiting: {who}")));
                sleep(AGAIN).await;
                continue;
            }
            self.session.console().show_wait(None);
            let obstacles = self.obstacles(change, &before, &observed);
            if !obstacles.is_empty() {
                return ChangeEnd::Refused(obstacles);
            }
            let direction = Direction::Apply { now: now() };
            self.versions.aim(self.session, &change.applied_to(before, now()));
            let plan = self.plan_of_directors(change, &observed, direction);
            if self.options.dry_run {
                self.report.changes.push(named_alone(plan.report(self.session.topology)));
                return ChangeEnd::Planned;
            }
            if is_idle(&plan, &observed) {
                self.note_time(change);
                return ChangeEnd::Nothing;
            }
            let policy = self.policy(change);
            let outcome =
                transaction::run(self.session, &plan, &observed, direction, &policy).await;
            let again = match &outcome.retry {
                Some(RetryReason::Busy { .. }) => Instant::now() < until,
                Some(RetryReason::Changed { .. }) => plans < PLANS,
                None => false,
            };
            if again && !self.session.console().stop_requested() {
                plans += 1;
                sleep(AGAIN).await;
                continue;
            }
            let failure = why_failed(&outcome.report);
            self.report.changes.push(named_alone(outcome.report));
            if let Some(failure) = failure {
                return ChangeEnd::Failed(failure);
            }
            self.note_time(change);
            return ChangeEnd::Done;
        }
    }

    /// Writes the time of a change that is done into the report, and which programs may work against it.
    fn note_time(&mut self, change: MaintenanceChange<'_>) {
        let maintenance = self.session.topology.maintenance.clone();
        for host in change.hosts() {
            let notes = health::maintenance_cautions(self.session.topology, host);
            if let Some(entry) = self.report.host_mut(host) {
                entry.since = maintenance.since(host);
                if matches!(change, MaintenanceChange::Out(_)) {
                    entry.notes.extend(notes);
                }
            }
        }
    }

    /// A host that is taken out may be so because requests fail: they are no condition then.
    fn policy(&self, change: MaintenanceChange<'_>) -> TransactionPolicy {
        let verify = match change {
            MaintenanceChange::Out(_) => VerifyBy::State,
            MaintenanceChange::Back(_) => self.options.verify,
        };
        TransactionPolicy { verify, ..TransactionPolicy::plain(self.options.by.clone(), now()) }
    }

    /// The plan with the directors of the change alone. Of the other hosts those that are as the file says stay in it: they
    /// send the requests that verify it.
    fn plan_of_directors(
        &self,
        change: MaintenanceChange<'_>,
        observed: &Observations,
        direction: Direction,
    ) -> ClusterPlan {
        let directors = self.directors_of(change.hosts());
        let mut plan = self.plan(observed, direction);
        for (name, result) in &mut plan.hosts {
            let stays = match result {
                HostPlanResult::Plan(plan) => plan.is_idle(receipt(observed, name)),
                HostPlanResult::Absent(_) => true,
                HostPlanResult::Obstructed(_) | HostPlanResult::Failed(..) => false,
            };
            if !stays && !directors.contains(name) {
                *result = HostPlanResult::Absent(HostStatus::Pending);
            }
        }
        plan
    }

    /// The plan of all hosts towards the present version of the topology.
    pub fn plan(&self, observed: &Observations, direction: Direction) -> ClusterPlan {
        let (topology, desired) = (self.session.topology, &self.session.desired);
        cluster_plan::plan(topology, desired, observed, self.session.absent(), direction)
    }
}

fn receipt<'o>(observed: &'o Observations, name: &HostName) -> Option<&'o crate::state::Receipt> {
    observed.get(name)?.as_ref().ok()?.receipt.as_ref()
}

fn is_idle(plan: &ClusterPlan, observed: &Observations) -> bool {
    plan.hosts.iter().all(|(name, result)| match result {
        HostPlanResult::Plan(plan) => plan.is_idle(receipt(observed, name)),
        _ => true,
    })
}

/// The report with the hosts that take part alone.
fn named_alone(mut report: ClusterReport) -> ClusterReport {
    let takes_part = |status: &HostStatus, steps: usize| match status {
        HostStatus::Pending => steps > 0,
        HostStatus::Unchanged | HostStatus::Unmanaged | HostStatus::LeftOut => false,
        _ => true,
    };
    report.hosts.retain(|_, host| takes_part(&host.status, host.steps.len()));
    report
}

/// Why a transaction did not come to its end.
fn why_failed(report: &ClusterReport) -> Option<Failure> {
    if !report.has_failures() {
        return None;
    }
    let of_host = report.hosts.iter().find_map(|(name, host)| {
        let failure = host.failure.clone()?;
        Some(Failure { message: format!("{name}: {}", failure.message), ..failure })
    });
    let because = report.transaction.as_ref().and_then(|it| it.because.clone());
    of_host.or_else(|| {
        Some(Failure {
            message: because.unwrap_or_else(|| "the directors could not be changed".to_owned()),
            causes: Vec::new(),
            cure: Some("`lvsprov status FILE` shows how the hosts stand".to_owned()),
        })
    })
}
