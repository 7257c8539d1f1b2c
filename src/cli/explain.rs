//! `explain`: the way of each request through the cluster that a file describes.

use std::path::{Path, PathBuf};

use clap::Args;

use super::arguments::{CommonArguments, OutputFormat};
use super::cluster::show_findings;
use super::output::{self, CommandResult, Exit};
use crate::desired::{ExpectedRequest, expected_requests, world};
use crate::names::HostName;
use crate::report::walk::{self, WalkView};
use crate::topology::{self, Topology};

const EXAMPLES: &str = "Examples:
  lvsprov explain topology.yaml
  lvsprov explain topology.yaml --service web --via web2 --from client";

/// Which requests `explain` follows.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArguments {
    /// The topology file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
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
    let name = arguments.file.display().to_string();
    let text = topology::read_file(&arguments.file)?;
    let parsed = topology::read(&name, &text);
    let wrong = show_findings(&name, &text, &parsed.findings, common.format)?;
    let Some(topology) = parsed.topology.filter(|_| !wrong) else { return Ok(Exit::Findings) };
    let found = match walk_all(&topology, arguments) {
        Ok(found) => found,
        Err(error) => {
            output::print_error(&error, common)?;
            return Ok(Exit::Usage);
        }
    };
    show(&arguments.file, &found, common)?;
    Ok(if found.iter().any(WalkView::is_dead) { Exit::Findings } else { Exit::Ok })
}

fn walk_all(
    topology: &Topology,
    arguments: &ExplainArguments,
) -> Result<Vec<WalkView>, NothingToWalk> {
    let world = world(topology);
    let all: Vec<ExpectedRequest<'_>> = expected_requests(topology).collect();
    let wanted = all.iter().filter(|it| arguments.fits(it));
    let found: Vec<WalkView> =
        wanted.map(|it| WalkView::new(topology, it, world.walk(&it.request))).collect();
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
    common: &CommonArguments,
) -> Result<(), Box<dyn std::error::Error>> {
    let file = file.display().to_string();
    match common.format {
        OutputFormat::Text => output::print(&walk::text(&file, found))?,
        OutputFormat::Json => output::print_json(&walk::json(&file, found))?,
    }
    Ok(())
}
