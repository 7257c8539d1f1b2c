//! Taking hosts out of service without a lost request, and back: `maintain`, `return` and `reboot`.
//!
//! A real server that is taken out gets the weight 0 from every director that has it, and each of these directors writes it
//! into its receipt, in the same transaction ([`change`]). So the host stays out whatever a later `apply` of any controller
//! plans, and after a reboot of the director. What a topology is meanwhile is in [`Topology::in_maintenance`], what stands in
//! the way in [`crate::plan::maintenance`] and [`obstacles`], and a reboot with all that is verified after it in [`reboot`].
//!
//! [`Topology::in_maintenance`]: crate::topology::Topology::in_maintenance

mod application;
mod change;
mod obstacles;
mod outcome;
pub mod reboot;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use change::MaintenanceOptions;
pub use outcome::{HostMaintenance, MaintenanceAction, MaintenanceEnd, MaintenanceReport};
pub use versions::TopologyVersions;

use self::application::ApplicationState;
use self::change::{ChangeEnd, MaintenanceChange, MaintenanceRun};
use super::drain;
use super::session::Session;
use super::transaction::VerifyBy;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::Leaving;
use crate::plan::pacing::PacingOptions;

/// How long the application of a host that is returned may take to answer its director.
const APPLICATION_WITHIN: Duration = Duration::from_secs(30);

/// Takes `hosts` out of service, and waits until their connections have ended or the time for it is over.
pub async fn maintain<'a>(
    session: &mut Session<'a>,
    versions: &'a TopologyVersions,
    hosts: &[HostName],
    options: &MaintenanceOptions,
) -> MaintenanceReport {
    let mut run =
        MaintenanceRun::new(session, versions, options, (MaintenanceAction::Maintain, hosts));
    let all = run.hosts();
    match run.change(MaintenanceChange::Out(&all)).await {
        ChangeEnd::Refused(obstacles) => run.refuse(obstacles),
        ChangeEnd::Failed(failure) => run.end_all(&all, MaintenanceEnd::Failed, Some(&failure)),
        ChangeEnd::Planned => run.end_all(&all, MaintenanceEnd::Planned, None),
        ChangeEnd::Done | ChangeEnd::Nothing => {
            run.end_all(&all, MaintenanceEnd::InMaintenance, None);
            if let Err(failure) = run.drain(&all).await {
                run.end_all(&all, MaintenanceEnd::Failed, Some(&failure));
            }
        }
    }
    run.report
}

/// Returns `hosts`: each gets its weight of the file again, once it is as the file says and its application answers.
pub async fn return_to_service<'a>(
    session: &mut Session<'a>,
    versions: &'a TopologyVersions,
    hosts: &[HostName],
    options: &MaintenanceOptions,
) -> MaintenanceReport {
    let mut run =
        MaintenanceRun::new(session, versions, options, (MaintenanceAction::Return, hosts));
    let observed = run.observe().await;
    let out = versions.follow(run.session, &observed);
    // What a director that is not looked at has in maintenance is not known.
    if let Some(obstacles) = run.directors_not_observed(&observed) {
        run.refuse(obstacles);
        return run.report;
    }
    let (out, others): (BTreeSet<HostName>, BTreeSet<HostName>) =
        run.hosts().into_iter().partition(|host| out.contains(host));
    run.end_all(&others, MaintenanceEnd::Unchanged, None);
    if out.is_empty() {
        return run.report;
    }
    if let Some(obstacles) = run.obstacles_of_return(&out, &observed) {
        run.refuse(obstacles);
        return run.report;
    }
    if !options.dry_run && options.verify == VerifyBy::Traffic {
        let expected = BTreeMap::new();
        if let Err((host, failure)) =
            run.wait_for_applications(&out, &expected, APPLICATION_WITHIN).await
        {
            run.end_all(&out, MaintenanceEnd::NotAttempted, None);
            run.end(&host, MaintenanceEnd::Failed, Some(failure));
            return run.report;
        }
    }
    match run.change(MaintenanceChange::Back(&out)).await {
        ChangeEnd::Refused(obstacles) => run.refuse(obstacles),
        ChangeEnd::Failed(failure) => run.end_all(&out, MaintenanceEnd::Failed, Some(&failure)),
        ChangeEnd::Planned => run.end_all(&out, MaintenanceEnd::Planned, None),
        ChangeEnd::Done | ChangeEnd::Nothing => {
            run.end_all(&out, MaintenanceEnd::Returned, None);
        }
    }
    run.report
}

impl MaintenanceRun<'_, '_> {
    /// Waits until the connections to `hosts` have ended, and writes into the report what is left.
    ///
    /// # Errors
    /// A director was lost: what is left there is not known.
    async fn drain(&mut self, hosts: &BTreeSet<HostName>) -> Result<(), Failure> {
        let observed = self.observe().await;
        let mut leaving: BTreeMap<HostName, Vec<Leaving>> = BTreeMap::new();
        for director in self.directors_of(hosts) {
            let seen = observed.get(&director).and_then(|observation| observation.as_ref().ok());
            let host = self.versions.file().hosts.get(&director);
            let Some((seen, host)) = seen.zip(host) else { continue };
            let options = PacingOptions::of(self.session.topology, host);
            leaving.insert(director, options.draining(hosts, seen));
        }
        let (drained, mut lost) = drain::until_drained(self.session, &leaving).await;
        for host in hosts {
            let addresses = self.destinations_of(host);
            let of_host = drained.iter().filter(|it| {
                addresses.contains(&(it.director.clone(), it.service.clone(), it.destination))
            });
            let of_host = of_host.cloned().collect();
            if let Some(entry) = self.report.host_mut(host) {
                entry.drained = of_host;
            }
        }
        match lost.pop_first() {
            None => Ok(()),
            Some((director, failure)) => Err(Failure {
                message: format!(
                    "{director} was lost while connections drained: {}",
                    failure.message
                ),
                causes: failure.causes,
                cure: Some(
                    "run the same command again: what is in maintenance stays so".to_owned(),
                ),
            }),
        }
    }
}

/// Which applications must answer before their hosts are returned.
type ExpectedApplications = BTreeMap<application::ApplicationAddress, ApplicationState>;
