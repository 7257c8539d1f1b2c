//! Work on a living cluster: `maintain`, `return`, `reboot`.

use std::time::Duration;

use clap::Args;

use super::arguments::{CommonArguments, HostArguments, ReachArguments};
use super::cluster::{UnknownHost, load, run_with_session};
use super::output::{self, CommandResult, Exit};
use crate::apply::maintenance::{self, MaintenanceOptions, MaintenanceReport};
use crate::apply::operator;
use crate::apply::transaction::VerifyBy;
use crate::names::HostName;
use crate::report;
use crate::topology::{Pace, PaceOverride, Topology};

pub(super) const MAINTAIN_EXAMPLES: &str = "Examples:
  lvsprov maintain cluster.yaml web1
  lvsprov maintain cluster.yaml web1 --drain 300    # its connections may take five minutes to end
  lvsprov status cluster.yaml                       # web1 is in maintenance since ...
  lvsprov return cluster.yaml web1

The directors remember it: an `apply` by any controller, and a reboot of a director, leave the host out.
Exit code 4: it is out of service, and connections to it are left.";

pub(super) const RETURN_EXAMPLES: &str = "Examples:
  lvsprov return cluster.yaml web1
  lvsprov return cluster.yaml web1 --verify state    # no question to its application, no requests

A host that is not as the file says, or whose application does not answer its director, stays out.";

pub(super) const REBOOT_EXAMPLES: &str = "Examples:
  lvsprov reboot cluster.yaml web1 web2 --dry-run
  lvsprov reboot cluster.yaml web1 web2              # web2 only once web1 serves again
  lvsprov reboot cluster.yaml web1 --drain 600 --cut-connections
  lvsprov reboot cluster.yaml lvs --allow-outage     # a director: no request is answered meanwhile

The first host that does not come back right ends the command (exit code 5) and stays out of service.";

/// Which hosts.
#[derive(Debug, Clone, Args)]
pub struct MaintainedHosts {
    /// The topology file
    #[arg(value_name = "FILE")]
    pub file: std::path::PathBuf,
    /// Hosts of the file
    #[arg(value_name = "HOST", required = true)]
    pub hosts: Vec<HostName>,
    /// Show what would be done; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait while another transaction holds a director, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub wait: u64,
    /// How they are reached.
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// `maintain`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = MAINTAIN_EXAMPLES)]
pub struct MaintainArguments {
    /// Which hosts.
    #[command(flatten)]
    pub hosts: MaintainedHosts,
    /// How long its connections may take to end, instead of each service's `drain`
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(Pace::LONGEST)))]
    pub drain: Option<u32>,
    /// Take out the last real server of a service too, and one whose connections are cut (scheduler dh)
    #[arg(long)]
    pub allow_outage: bool,
}

/// `return`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = RETURN_EXAMPLES)]
pub struct ReturnArguments {
    /// Which hosts.
    #[command(flatten)]
    pub hosts: MaintainedHosts,
    /// What must be right before it stays in service: the state of the directors, or also its application and requests
    #[arg(long, value_enum, value_name = "state|traffic", default_value = "traffic")]
    pub verify: VerifyBy,
}

/// `reboot`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = REBOOT_EXAMPLES)]
pub struct RebootArguments {
    /// Which hosts, in the order of their reboots.
    #[command(flatten)]
    pub hosts: MaintainedHosts,
    /// How long the connections to each host may take to end, instead of each service's `drain`
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(Pace::LONGEST)))]
    pub drain: Option<u32>,
    /// Reboot hosts without which requests fail: a director, a router, the last real server of a service
    #[arg(long)]
    pub allow_outage: bool,
    /// Reboot a host although connections to it are left when the time to drain is over
    #[arg(long)]
    pub cut_connections: bool,
    /// How long a host may take to come back, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub back_within: u64,
}

/// Which of the commands.
#[derive(Debug, Clone, Copy)]
enum Work {
    Maintain,
    Return,
    Reboot,
}

/// Runs `maintain`.
pub fn maintain(arguments: MaintainArguments, common: &CommonArguments) -> CommandResult {
    let MaintainArguments { hosts, drain, allow_outage } = arguments;
    let options = MaintenanceOptions { allow_outage, ..options(&hosts) };
    run(Work::Maintain, &hosts, PaceOverride { drain, ramp: None }, &options, common)
}

/// Runs `return`.
pub fn return_to_service(arguments: ReturnArguments, common: &CommonArguments) -> CommandResult {
    let ReturnArguments { hosts, verify } = arguments;
    let options = MaintenanceOptions { verify, ..options(&hosts) };
    run(Work::Return, &hosts, PaceOverride::default(), &options, common)
}

/// Runs `reboot`.
pub fn reboot(arguments: RebootArguments, common: &CommonArguments) -> CommandResult {
    let RebootArguments { hosts, drain, allow_outage, cut_connections, back_within } = arguments;
    let back_within = Duration::from_secs(back_within);
    let options =
        MaintenanceOptions { allow_outage, cut_connections, back_within, ..options(&hosts) };
    run(Work::Reboot, &hosts, PaceOverride { drain, ramp: None }, &options, common)
}

fn options(hosts: &MaintainedHosts) -> MaintenanceOptions {
    MaintenanceOptions {
        allow_outage: false,
        dry_run: hosts.dry_run,
        wait: Duration::from_secs(hosts.wait),
        verify: VerifyBy::Traffic,
        cut_connections: false,
        back_within: Duration::ZERO,
        by: operator::here(),
    }
}

fn run(
    work: Work,
    hosts: &MaintainedHosts,
    pace: PaceOverride,
    options: &MaintenanceOptions,
    common: &CommonArguments,
) -> CommandResult {
    let Some(topology) = load(&hosts.file, common.format)? else { return Ok(Exit::Findings) };
    if let Some(error) = unknown(&topology, &hosts.hosts) {
        output::print_error(&error, common)?;
        return Ok(Exit::Usage);
    }
    let reached = HostArguments { file: hosts.file.clone(), reach: hosts.reach.clone() };
    run_with_session(topology, &reached, pace, common, async |session, versions, console| {
        let _signals = (!options.dry_run).then(|| console.catch_signals());
        let hosts = &hosts.hosts;
        let report = match work {
            Work::Maintain => maintenance::maintain(session, versions, hosts, options).await,
            Work::Return => maintenance::return_to_service(session, versions, hosts, options).await,
            Work::Reboot => maintenance::reboot::reboot(session, versions, hosts, options).await,
        };
        output::print_result(
            common,
            || report::maintenance::json(&report),
            || report::maintenance::text(&report),
        )?;
        Ok(exit(&report))
    })
}

fn exit(report: &MaintenanceReport) -> Exit {
    match (report.has_failures(), report.leaves_connections()) {
        (true, _) => Exit::HostFailed,
        (false, true) => Exit::Pending,
        (false, false) => Exit::Ok,
    }
}

fn unknown(topology: &Topology, hosts: &[HostName]) -> Option<UnknownHost> {
    let name = hosts.iter().find(|name| !topology.hosts.contains_key(*name))?;
    Some(UnknownHost::named(name, topology))
}
