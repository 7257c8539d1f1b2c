//! `doctor`: why a cluster does not answer.

use clap::Args;

use super::arguments::{CommonArguments, HostArguments, RequestChoice};
use super::cluster::{ObservedCluster, read_unchecked, run_on_hosts};
use super::explain::NothingToWalk;
use super::output::{self, CommandResult, Exit};
use crate::apply::doctor::{DropWatch, examine};
use crate::apply::holders::VipProbing;
use crate::desired::every_request;
use crate::report;
use crate::topology::PaceOverride;

const EXAMPLES: &str = "Examples:
  lvsprov doctor topology.yaml
  lvsprov doctor topology.yaml --service web --from client

It sends real requests from the clients that it reaches; where they are not answered it asks each kernel on the way
what it would do with the packet, and reads its counters before and after further requests. Nothing is changed, but for a
module that --drop-monitor loads.";

/// What `doctor` looks into.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DoctorArguments {
    /// Which hosts.
    #[command(flatten)]
    pub hosts: HostArguments,
    /// Which requests.
    #[command(flatten)]
    pub choice: RequestChoice,
    /// Also have each kernel name the packets that it drops: loads its module drop_monitor
    ///
    /// Only on hosts that are whole machines, and for one program at a time. While it runs every drop of the host is looked at.
    #[arg(long)]
    pub drop_monitor: bool,
}

/// `doctor`. A file that `check` refuses for what its packets meet is looked into all the same.
pub fn doctor(arguments: &DoctorArguments, common: &CommonArguments) -> CommandResult {
    let DoctorArguments { hosts, choice, drop_monitor } = arguments;
    let drop_watch = if *drop_monitor { DropWatch::On } else { DropWatch::Off };
    let name = hosts.file.display().to_string();
    let Some(topology) = read_unchecked(&hosts.file, common.format)? else {
        return Ok(Exit::Findings);
    };
    if !every_request(&topology).any(|expected| choice.fits(&expected)) {
        output::print_error(&NothingToWalk::of(&topology), common)?;
        return Ok(Exit::Usage);
    }
    let pace = PaceOverride::default();
    run_on_hosts(topology, hosts, pace, VipProbing::Off, common, async |cluster| {
        let ObservedCluster { session, observed, plan, .. } = cluster;
        let report = examine(session, plan, observed, drop_watch, &|it| choice.fits(it)).await;
        output::print_result(
            common,
            || report::doctor::json(&report),
            || report::doctor::text(&report, &name),
        )?;
        Ok(if report.is_well() { Exit::Ok } else { Exit::NotProven })
    })
}
