//! `explain`: the way of each request through the cluster that a file describes.

use std::path::Path;

use clap::Args;

use super::arguments::{CommonArguments, HostArguments, OutputFormat};
use super::cluster::{ObservedCluster, run_on_hosts, show_findings};
use super::output::{self, CommandResult, Exit};
use crate::apply::unanswered::world_as_observed;
use crate::desired::{ExpectedRequest, expected_requests, world};
use crate::names::HostName;
use crate::report::walk::{self, WalkView};
use crate::topology::{self, PaceOverride, Topology};
use crate::walk::World;

const EXAMPLES: &str = "Examples:
  lvsprov explain topology.yaml
  lvsprov explain topology.yaml --service web --via web2 --from client
  lvsprov explain topology.yaml --live      # the hosts as they are, not as the file says";

/// Which requests `explain` follows.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArguments {
    /// The file; with --live how its hosts are reached.
    #[command(flatten)]
    pub hosts: HostArguments,
    /// Walk through the hosts as they are now, instead of as the file says: connects to them, changes nothing
    ///
    /// Routes, policy rules, settings, addresses and IPVS are read. A host that is not reached is as the file
    /// says, and named.
    #[arg(long)]
    pub live: bool,
    /// Only requests of this client
    #[arg(long, value_name = "HOST")]
    pub from: Option<HostName>,
    /// Only requests to this service: its name, or PROTOCOL ADDRESS:PORT
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only requests that this real server answers
    #[arg(long, value_name = "HOST")]
    pub via: Option<HostName>,
}

impl ExplainArguments {
    /// Whether `expected` is to be followed.
    pub fn fits(&self, expected: &ExpectedRequest<'_>) -> bool {
        let ExpectedRequest { client, service, real_server, .. } = expected;
        self.from.as_ref().is_none_or(|name| *name == client.name)
            && self.via.as_ref().is_none_or(|name| *name == real_server.host)
            && self
                .service
                .as_ref()
                .is_none_or(|name| service.name.as_str() == name || service.display_name() == *name)
    }
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
enum NothingToWalk {
    #[error("no request fits: the file has these, as CLIENT -> SERVICE -> REAL SERVER: {}", .known.join("; "))]
    NoneFits { known: Vec<String> },
    #[error(
        "the file has no request to follow: it needs a host with the role client, and a service with a VIP and a real server that is a host of the file"
    )]
    None,
}

/// `explain`. A file that `check` refuses for what its packets meet is explained all the same.
pub fn explain(arguments: &ExplainArguments, common: &CommonArguments) -> CommandResult {
    let file = &arguments.hosts.file;
    let name = file.display().to_string();
    let text = topology::read_file(file)?;
    let parsed = topology::read(&name, &text);
    let wrong = show_findings(&name, &text, &parsed.findings, common.format)?;
    let Some(topology) = parsed.topology.filter(|_| !wrong) else { return Ok(Exit::Findings) };
    if arguments.live {
        return run_on_hosts(
            topology,
            &arguments.hosts,
            PaceOverride::default(),
            common,
            async |cluster| {
                let ObservedCluster { session, observed, .. } = cluster;
                let topology = session.topology;
                let world = world_as_observed(topology, &session.desired, observed);
                let not_seen = topology
                    .hosts
                    .keys()
                    .filter(|name| !matches!(observed.get(*name), Some(Ok(_))));
                report_all(topology, &world, not_seen.cloned().collect(), arguments, common)
            },
        );
    }
    report_all(&topology, &world(&topology), Vec::new(), arguments, common)
}

fn report_all(
    topology: &Topology,
    world: &World,
    not_seen: Vec<HostName>,
    arguments: &ExplainArguments,
    common: &CommonArguments,
) -> CommandResult {
    let found = match walk_all(topology, world, arguments) {
        Ok(found) => found,
        Err(error) => {
            output::print_error(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    show(&arguments.hosts.file, &found, &not_seen, common)?;
    Ok(if found.iter().any(WalkView::is_dead) { Exit::Findings } else { Exit::Ok })
}

fn walk_all(
    topology: &Topology,
    world: &World,
    arguments: &ExplainArguments,
) -> Result<Vec<WalkView>, NothingToWalk> {
    let all: Vec<ExpectedRequest<'_>> = expected_requests(topology).collect();
    let wanted = all.iter().filter(|it| arguments.fits(it));
    let found: Vec<WalkView> =
        wanted.map(|it| WalkView::new(it, world.walk(&it.request))).collect();
    match (found.is_empty(), all.is_empty()) {
        (false, _) => Ok(found),
        (true, true) => Err(NothingToWalk::None),
        (true, false) => Err(NothingToWalk::NoneFits { known: all.iter().map(name_of).collect() }),
    }
}

fn name_of(expected: &ExpectedRequest<'_>) -> String {
    let ExpectedRequest { client, service, real_server, .. } = expected;
    format!("{} -> {} -> {}", client.name, service.display_name(), real_server.host)
}

fn show(
    file: &Path,
    found: &[WalkView],
    not_seen: &[HostName],
    common: &CommonArguments,
) -> Result<(), Box<dyn std::error::Error>> {
    let file = file.display().to_string();
    match common.format {
        OutputFormat::Text => output::print(&walk::text(&file, found, not_seen))?,
        OutputFormat::Json => output::print_json(&walk::json(&file, found, not_seen))?,
    }
    Ok(())
}
