//! `explain`: the way of each request through the cluster that a file describes, or the page of a rule.

use std::path::{Path, PathBuf};

use clap::Args;

use super::arguments::{CommonArguments, HostArguments, OutputFormat, ReachArguments};
use super::cluster::{ObservedCluster, run_on_hosts, show_findings};
use super::output::{self, CommandResult, Exit};
use super::rules;
use crate::apply::holders::VipProbing;
use crate::apply::unanswered::world_as_observed;
use crate::desired::{ExpectedRequest, expected_requests, world};
use crate::finding::rules::{Rule, UnknownRule, find, looks_like_code, nearest};
use crate::names::HostName;
use crate::report::walk::{self, WalkView};
use crate::topology::{self, PaceOverride, Topology};
use crate::walk::World;

const EXAMPLES: &str = "Examples:
  lvsprov explain topology.yaml
  lvsprov explain topology.yaml --service web --via web2 --from client
  lvsprov explain topology.yaml --live      # the hosts as they are, not as the file says
  lvsprov explain LVS001       # the page of a rule; also: lvsprov explain no-answer
  lvsprov explain --list       # all rules";

/// What `explain` explains: requests of a file, or a rule.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArguments {
    /// The topology file; or a rule of `check`, by its code or name: its page is printed
    ///
    /// A file that is named like a rule is reached as ./LVS001. Without it all rules are listed.
    #[arg(value_name = "FILE|CODE")]
    pub subject: Option<PathBuf>,
    /// List all rules with their codes
    #[arg(long, conflicts_with = "subject")]
    pub list: bool,
    /// Walk through the hosts as they are now, instead of as the file says: connects to them, changes nothing
    ///
    /// Routes, policy rules, settings, addresses and IPVS are read. A host that is not reached is as the file
    /// says, and named.
    #[arg(long)]
    pub live: bool,
    /// With --live.
    #[command(flatten)]
    pub reach: ReachArguments,
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

/// What is to be explained.
#[derive(Debug)]
enum ExplainSubject<'a> {
    AllRules,
    Rule(&'static Rule),
    UnknownRule(UnknownRule),
    File(&'a Path),
}

impl ExplainArguments {
    /// By the shape of the argument: a code or the name of a rule has neither a slash nor a dot.
    fn subject(&self) -> ExplainSubject<'_> {
        let Some(path) = &self.subject else { return ExplainSubject::AllRules };
        let Some(word) = path.to_str().filter(|word| !word.contains(['/', '.'])) else {
            return ExplainSubject::File(path);
        };
        match find(word) {
            Some(rule) => ExplainSubject::Rule(rule),
            // A rule's name that is mistyped, unless there is such a file.
            None if looks_like_code(word) || (!nearest(word).is_empty() && !path.exists()) => {
                ExplainSubject::UnknownRule(UnknownRule { word: word.to_owned() })
            }
            None => ExplainSubject::File(path),
        }
    }

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

/// Requests are chosen, and there are none.
#[derive(Debug, thiserror::Error)]
#[error(
    "--live, --from, --service and --via are about the requests of a topology file: name the file"
)]
struct NoFileGiven;

/// `explain`.
pub fn explain(arguments: &ExplainArguments, common: &CommonArguments) -> CommandResult {
    let subject = arguments.subject();
    let chooses = arguments.from.is_some()
        || arguments.service.is_some()
        || arguments.via.is_some()
        || arguments.live;
    match subject {
        ExplainSubject::File(file) => explain_file(file, arguments, common),
        ExplainSubject::UnknownRule(error) => usage(&error, common),
        _ if chooses => usage(&NoFileGiven, common),
        ExplainSubject::Rule(rule) => rules::page(rule, common),
        ExplainSubject::AllRules => rules::list(common),
    }
}

fn usage(error: &dyn std::error::Error, common: &CommonArguments) -> CommandResult {
    output::print_error(error, common)?;
    Ok(Exit::Usage)
}

/// A file that `check` refuses for what its packets meet is explained all the same.
fn explain_file(
    file: &Path,
    arguments: &ExplainArguments,
    common: &CommonArguments,
) -> CommandResult {
    let name = file.display().to_string();
    let text = topology::read_file(file)?;
    let parsed = topology::read(&name, &text);
    let wrong = show_findings(&name, &text, &parsed.findings, &[], common.format)?;
    let Some(topology) = parsed.topology.filter(|_| !wrong) else { return Ok(Exit::Findings) };
    if arguments.live {
        let hosts = HostArguments { file: file.to_owned(), reach: arguments.reach.clone() };
        let pace = PaceOverride::default();
        return run_on_hosts(topology, &hosts, pace, VipProbing::Off, common, async |cluster| {
            let ObservedCluster { session, observed, .. } = cluster;
            let topology = session.topology;
            let world = world_as_observed(topology, &session.desired, observed);
            let seen = |name: &&HostName| matches!(observed.get(*name), Some(Ok(_)));
            let not_seen = topology.hosts.keys().filter(|name| !seen(name)).cloned().collect();
            report_all(file, topology, (&world, not_seen), arguments, common)
        });
    }
    report_all(file, &topology, (&world(&topology), Vec::new()), arguments, common)
}

fn report_all(
    file: &Path,
    topology: &Topology,
    (world, not_seen): (&World, Vec<HostName>),
    arguments: &ExplainArguments,
    common: &CommonArguments,
) -> CommandResult {
    let found = match walk_all(topology, world, arguments) {
        Ok(found) => found,
        Err(error) => return usage(&error, common),
    };
    show(file, &found, &not_seen, common)?;
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
