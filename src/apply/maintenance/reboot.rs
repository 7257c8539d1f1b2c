//! `reboot`: one host after the other is taken out, rebooted, verified and returned. The first that does not come back right
//! ends the command, and stays out.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::change::{ChangeEnd, MaintenanceChange, MaintenanceOptions, MaintenanceRun};
use super::obstacles::HostObstacles;
use super::outcome::{MaintenanceAction, MaintenanceEnd, MaintenanceReport};
use super::versions::TopologyVersions;
use crate::apply::cluster_plan::{Direction, HostPlanResult};
use crate::apply::health;
use crate::apply::operator::now;
use crate::apply::requests::{RequestError, unexpected};
use crate::apply::session::{Observations, Session};
use crate::apply::traffic::TrafficOptions;
use crate::apply::verify::{self, Verdict};
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::maintenance::{self, Withdrawal};
use crate::plan::preflight::Obstacle;
use crate::protocol::{Reply, Request};
use crate::state::{BootUnit, HostRun, Observation};

/// Between two attempts to reach a host that reboots.
const BEAT: Duration = Duration::from_secs(1);
/// How long a host that is reached again may take to make its settled state: its boot may wait for the network.
const SETTLED_WITHIN: Duration = Duration::from_mins(2);
/// How long its applications may take to start.
const APPLICATION_WITHIN: Duration = Duration::from_mins(2);
/// For how long a request that fails after a reboot is sent again.
const TRAFFIC_SETTLES: Duration = Duration::from_secs(10);

/// Reboots `hosts` in their order.
pub async fn reboot<'a>(
    session: &mut Session<'a>,
    versions: &'a TopologyVersions,
    hosts: &[HostName],
    options: &MaintenanceOptions,
) -> MaintenanceReport {
    let mut run =
        MaintenanceRun::new(session, versions, options, (MaintenanceAction::Reboot, hosts));
    let observed = run.observe().await;
    let obstacles = run.obstacles_of_reboot(&observed);
    if !obstacles.is_empty() {
        run.refuse(obstacles);
        return run.report;
    }
    let order: Vec<HostName> = run.report.hosts.iter().map(|entry| entry.host.clone()).collect();
    for host in order {
        if run.session.console().stop_requested() {
            break;
        }
        if options.dry_run {
            run.show(&host).await;
            continue;
        }
        match run.reboot_one(&host).await {
            Ok(()) => run.end(&host, MaintenanceEnd::Rebooted, None),
            Err(failure) => {
                // What is in maintenance now is in the receipts.
                run.observe().await;
                run.end(&host, MaintenanceEnd::Failed, Some(failure));
                break;
            }
        }
    }
    run.report
}

impl MaintenanceRun<'_, '_> {
    /// What stands in the way before any host is touched.
    fn obstacles_of_reboot(&mut self, observed: &Observations) -> HostObstacles {
        let before = self.versions.follow(self.session, observed);
        let hosts = self.hosts();
        let how = (Withdrawal::Reboot, self.options.allow_outage);
        let file = health::present_weights(self.versions.file(), observed);
        let mut all = maintenance::obstacles(&file, &before, &hosts, how);
        let plan = self.plan(observed, Direction::Apply { now: now() });
        for host in hosts {
            let mut involved = self.versions.file().directors_of(&host);
            // Without a way to it there is an obstacle already.
            if self.versions.file().hosts.get(&host).is_some_and(|it| it.reach.is_some()) {
                involved.insert(host.clone());
            }
            for name in involved {
                let obstacle = self.obstacle_on(&name, &plan, observed);
                all.extend(obstacle.map(|obstacle| (host.clone(), obstacle)));
            }
            let seen = observed.get(&host).and_then(|seen| seen.as_ref().ok());
            let persist = self.versions.file().persist;
            let bare = seen.and_then(|seen| not_made_again(&host, seen, persist));
            all.extend(bare.map(|it| (host, it)));
        }
        all
    }

    /// What the reboot of `host` would do.
    async fn show(&mut self, host: &HostName) {
        let all = BTreeSet::from([host.clone()]);
        let mut steps = Vec::new();
        let serves = self.versions.file().real_servers().contains(host);
        let is_out = self.report.host_mut(host).is_some_and(|entry| entry.since.is_some());
        if serves && !is_out {
            match self.change(MaintenanceChange::Out(&all)).await {
                ChangeEnd::Refused(obstacles) => return self.refuse(obstacles),
                ChangeEnd::Failed(failure) => {
                    return self.end(host, MaintenanceEnd::Failed, Some(failure));
                }
                ChangeEnd::Planned | ChangeEnd::Nothing | ChangeEnd::Done => {}
            }
            steps.push("take it out of service, and let its connections end");
        }
        steps.push("reboot it, and wait until it is back as the last apply left it");
        steps.push("verify ARP and requests");
        if serves && !is_out {
            steps.push("return it");
        }
        if let Some(entry) = self.report.host_mut(host) {
            entry.notes.extend(steps.into_iter().map(str::to_owned));
        }
        self.end(host, MaintenanceEnd::Planned, None);
    }

    async fn reboot_one(&mut self, host: &HostName) -> Result<(), Failure> {
        let all = BTreeSet::from([host.clone()]);
        let observed = self.observe().await;
        let before = self.versions.follow(self.session, &observed);
        let serves = self.versions.file().real_servers().contains(host);
        let takes_out = serves && !before.contains(host);
        let applications = self.ask_applications(&all).await;
        if takes_out {
            self.take_out(host, &all).await?;
        }
        if serves {
            self.let_connections_end(host, &all).await?;
        }
        let seen = observed.get(host).and_then(|seen| seen.as_ref().ok());
        let run = seen.and_then(|seen| seen.run.clone());
        let run =
            run.ok_or_else(|| failure(format!("{host} does not say which boot it runs"), None))?;
        self.ask_to_reboot(host).await?;
        let started = Instant::now();
        self.wait_until_back(host, &run).await?;
        self.wait_until_settled(host).await?;
        self.note(host, format!("back and as settled after {} s", started.elapsed().as_secs()));
        self.wait_for_applications(&all, &applications, APPLICATION_WITHIN)
            .await
            .map_err(|(_, failure)| failure)?;
        if takes_out {
            // Requests come to it only once it is returned: that change verifies them, and undoes itself.
            self.verify_arp_alone().await?;
            self.put_back(host, &all).await?;
        } else {
            self.verify_network().await?;
        }
        Ok(())
    }

    async fn take_out(&mut self, host: &HostName, all: &BTreeSet<HostName>) -> Result<(), Failure> {
        match self.change(MaintenanceChange::Out(all)).await {
            ChangeEnd::Refused(obstacles) => Err(of_obstacles(host, obstacles)),
            ChangeEnd::Failed(failure) => Err(failure),
            ChangeEnd::Done | ChangeEnd::Nothing | ChangeEnd::Planned => Ok(()),
        }
    }

    async fn let_connections_end(
        &mut self,
        host: &HostName,
        all: &BTreeSet<HostName>,
    ) -> Result<(), Failure> {
        self.drain(all).await?;
        let left = self.report.host_mut(host).map_or(0, |entry| entry.connections_left());
        if left > 0 && !self.options.cut_connections {
            return Err(failure(
                format!("{left} connections to {host} are left, and its reboot would cut them"),
                Some(format!(
                    "run it again with a longer `--drain SECONDS`, or with `--cut-connections`; or put {host} back: \
                     `lvsprov return FILE {host}`"
                )),
            ));
        }
        Ok(())
    }

    async fn put_back(&mut self, host: &HostName, all: &BTreeSet<HostName>) -> Result<(), Failure> {
        match self.change(MaintenanceChange::Back(all)).await {
            ChangeEnd::Refused(obstacles) => Err(of_obstacles(host, obstacles)),
            ChangeEnd::Failed(failure) => Err(failure),
            ChangeEnd::Done | ChangeEnd::Nothing | ChangeEnd::Planned => Ok(()),
        }
    }

    async fn ask_to_reboot(&mut self, host: &HostName) -> Result<(), Failure> {
        let request = [(host.clone(), Request::Reboot)].into();
        match self.session.ask(request).await.remove(host) {
            // The connection may end before the answer has come.
            Some(Ok(Reply::Rebooting) | Err(RequestError::Lost(_))) => Ok(()),
            Some(Ok(other)) => Err(unexpected(&other)),
            Some(Err(error)) => Err(error.into_failure()),
            None => Err(self.session.why_absent(host)),
        }
    }

    /// Until `host` answers from another boot than `before`.
    async fn wait_until_back(&mut self, host: &HostName, before: &HostRun) -> Result<(), Failure> {
        let within = self.options.back_within;
        let deadline = Instant::now() + within;
        let alone = BTreeSet::from([host.clone()]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = format!("{host} reboots: at most {} s more", left.as_secs());
            self.session.console().show_wait(Some(&wait));
            sleep(BEAT).await;
            self.session.reconnect(&alone, true).await;
            let seen = self.session.observe_hosts(&alone, false).await.remove(host);
            let run = seen.as_ref().and_then(|seen| seen.as_ref().ok()?.run.as_ref());
            if run.is_some_and(|run| run.lost_state_of(before)) {
                self.session.console().show_wait(None);
                return Ok(());
            }
            let stopped = self.session.console().stop_requested();
            if Instant::now() < deadline && !stopped {
                continue;
            }
            self.session.console().show_wait(None);
            let message = match (&seen, stopped) {
                (_, true) => format!("interrupted while {host} rebooted"),
                (Some(Ok(_)), _) => {
                    format!(
                        "{host} was asked to reboot and still runs the same boot after {} s",
                        within.as_secs()
                    )
                }
                _ => format!("{host} is not back after {} s", within.as_secs()),
            };
            let mut failure = failure(message, Some(self.cure(host)));
            if !self.session.lost(&alone).is_empty() {
                failure.causes.push(self.session.why_absent(host).to_string());
            }
            return Err(failure);
        }
    }

    /// Until nothing on `host` differs from what the last apply left.
    async fn wait_until_settled(&mut self, host: &HostName) -> Result<(), Failure> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let observed = self.observe().await;
            self.versions.follow(self.session, &observed);
            let plan = self.plan(&observed, Direction::Apply { now: now() });
            let differs: Vec<String> = match plan.hosts.get(host) {
                Some(HostPlanResult::Plan(plan)) => plan.edits().map(ToString::to_string).collect(),
                Some(result) => result.report().problems(),
                None => vec!["it is not in the plan".to_owned()],
            };
            let is_absent = !observed.contains_key(host);
            if differs.is_empty() && !is_absent {
                self.session.console().show_wait(None);
                return Ok(());
            }
            if Instant::now() >= deadline || self.session.console().stop_requested() {
                self.session.console().show_wait(None);
                let message = format!(
                    "{host} came back otherwise than it was: {} differences",
                    differs.len()
                );
                let cure =
                    format!("on {host}: `journalctl -u lvsprov-boot.service`; {}", self.cure(host));
                return Err(Failure { causes: differs, ..failure(message, Some(cure)) });
            }
            let wait = format!("{host} is back: {} differences to what it was", differs.len());
            self.session.console().show_wait(Some(&wait));
            sleep(BEAT).await;
        }
    }

    /// Exactly the directors answer for their VIPs.
    async fn verify_arp_alone(&mut self) -> Result<(), Failure> {
        let observed = self.observe().await;
        let mut all = Vec::new();
        for (vip, service) in verify::vips(self.session.topology) {
            all.push(verify::verify_arp(self.session, (vip, service), &observed).await);
        }
        self.judge(all)
    }

    /// ARP, and requests through every service.
    async fn verify_network(&mut self) -> Result<(), Failure> {
        let observed = self.observe().await;
        let options = TrafficOptions { settle: TRAFFIC_SETTLES, ..TrafficOptions::default() };
        let all = verify::verify_network(self.session, &observed, &options).await;
        self.judge(all)
    }

    fn judge(&mut self, all: Vec<verify::Verification>) -> Result<(), Failure> {
        let fails = all.iter().find(|it| it.verdict == Verdict::Fails && it.excuse.is_none());
        let fails = fails.map(|it| format!("it is not true that {}: {}", it.claim, it.evidence));
        self.report.verifications.extend(all);
        match fails {
            None => Ok(()),
            Some(message) => {
                Err(failure(message, Some("`lvsprov doctor FILE` finds the cause".to_owned())))
            }
        }
    }

    fn note(&mut self, host: &HostName, note: String) {
        if let Some(entry) = self.report.host_mut(host) {
            entry.notes.push(note);
        }
    }

    /// What to do with a host that did not come back right.
    fn cure(&self, host: &HostName) -> String {
        if self.versions.file().real_servers().contains(host) {
            format!(
                "it is out of service meanwhile; once it is right: `lvsprov return FILE {host}`"
            )
        } else {
            "look at its console; `lvsprov doctor FILE` says what clients get".to_owned()
        }
    }
}

fn failure(message: String, cure: Option<String>) -> Failure {
    Failure { message, causes: Vec::new(), cure }
}

fn of_obstacles(host: &HostName, obstacles: HostObstacles) -> Failure {
    let first = obstacles.into_iter().next().map(|(_, obstacle)| obstacle);
    match first {
        Some(Obstacle { message, why, cure }) => {
            Failure { message, causes: vec![why], cure: Some(cure) }
        }
        None => failure(format!("something stands in the way of {host}"), None),
    }
}

/// Why a host that has settings of lvsprov would come up without them; `None`: it makes them again, or has none.
fn not_made_again(host: &HostName, seen: &Observation, persist: bool) -> Option<Obstacle> {
    let receipt = seen.receipt.as_ref()?;
    let cure_by_hand = format!(
        "`lvsprov maintain FILE {host}`, reboot it, `lvsprov apply FILE`, `lvsprov return FILE {host}`"
    );
    let (message, cure) = match &seen.boot_unit {
        BootUnit::Impossible(why) => {
            (format!("{host} starts no `lvsprov agent --boot` at boot: {why}"), cure_by_hand)
        }
        _ if !persist => (
            format!("{host} makes nothing again at boot: the file says `persist: false`"),
            format!("`persist: true` and `lvsprov apply FILE`; or {cure_by_hand}"),
        ),
        unit if !unit.is_enabled() => (
            format!("lvsprov-boot.service is not installed on {host}"),
            "`lvsprov apply FILE` installs it".to_owned(),
        ),
        _ if receipt.settled.is_none() => (
            format!("{host} has no settled state that it could make again at boot"),
            "`lvsprov apply FILE` writes it".to_owned(),
        ),
        _ => return None,
    };
    let why = "it would come up without its settings: no VIP, no ARP settings, no rules".to_owned();
    Some(Obstacle { message, why, cure })
}
