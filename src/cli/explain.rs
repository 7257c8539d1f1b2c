//! `explain`: the way of each request through the cluster that a file describes, or the page of a rule.

use std::path::{Path, PathBuf};

use clap::Args;

use super::arguments::{
    CommonArguments, HostArguments, OutputFormat, ReachArguments, RequestChoice,
};
use super::cluster::{ObservedCluster, read_unchecked, run_on_hosts};
use super::format;
use super::output::{self, CommandResult, Exit};
use super::rules;
use crate::apply::holders::VipProbing;
use crate::apply::unanswered::world_as_observed;
use crate::desired::{ExpectedRequest, expected_requests, requests_through, world};
use crate::finding::rules::{Rule, UnknownRule, find, looks_like_code, nearest};
use crate::names::HostName;
use crate::report::page::WalkedHosts;
use crate::report::walk::{self, WalkView};
use crate::report::{markdown, page};
use crate::topology::{PaceOverride, Topology};
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
    /// Which requests.
    #[command(flatten)]
    pub choice: RequestChoice,
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
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
pub(super) enum NothingToWalk {
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
    let chooses = arguments.choice.chooses() || arguments.live;
    let has_page = matches!(subject, ExplainSubject::File(_));
    if common.format == OutputFormat::Html && !has_page {
        output::print_error_message(&format::NoSuchFormat(common.format));
        return Ok(Exit::Usage);
    }
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
    let Some(topology) = read_unchecked(file, common.format)? else { return Ok(Exit::Findings) };
    if arguments.live {
        let hosts = HostArguments { file: file.to_owned(), reach: arguments.reach.clone() };
        let pace = PaceOverride::default();
        return run_on_hosts(topology, &hosts, pace, VipProbing::Off, common, async |cluster| {
            let ObservedCluster { session, observed, .. } = cluster;
            let topology = session.topology;
            let world = world_as_observed(topology, &session.desired, observed);
            let seen = |name: &&HostName| matches!(observed.get(*name), Some(Ok(_)));
            let not_seen = topology.hosts.keys().filter(|name| !seen(name)).cloned().collect();
            let walked = WalkedWorld { world: &world, hosts: WalkedHosts::AsSeen, not_seen };
            report_all(file, topology, &walked, arguments, common)
        });
    }
    let world = world(&topology);
    let hosts = WalkedHosts::AsTheFileSays;
    let walked = WalkedWorld { world: &world, hosts, not_seen: Vec::new() };
    report_all(file, &topology, &walked, arguments, common)
}

/// The hosts through which requests are followed.
struct WalkedWorld<'a> {
    world: &'a World,
    hosts: WalkedHosts,
    /// Those that are as the file says, though the others were seen.
    not_seen: Vec<HostName>,
}

fn report_all(
    file: &Path,
    topology: &Topology,
    walked: &WalkedWorld<'_>,
    arguments: &ExplainArguments,
    common: &CommonArguments,
) -> CommandResult {
    let all = match common.format {
        OutputFormat::Html => page::requests(topology),
        _ => requests_through(topology, walked.world),
    };
    let found = match walk_all(topology, walked.world, &all, arguments) {
        Ok(found) => found,
        Err(error) => return usage(&error, common),
    };
    let dead = found.iter().any(|walk| walk.is_dead() || walk.hangs());
    let (file, not_seen) = (file.display().to_string(), &walked.not_seen);
    match common.format {
        OutputFormat::Text => output::print(&walk::text(&file, &found, not_seen))?,
        OutputFormat::Json => output::print_json(&walk::json(&file, &found, not_seen))?,
        OutputFormat::Markdown => {
            output::print(&markdown::walk::markdown(&file, &found, not_seen))?;
        }
        OutputFormat::Html => {
            output::print(&page::explain(&file, topology, found, walked.hosts, not_seen)?)?;
        }
    }
    Ok(if dead { Exit::Findings } else { Exit::Ok })
}

fn walk_all(
    topology: &Topology,
    world: &World,
    all: &[ExpectedRequest<'_>],
    arguments: &ExplainArguments,
) -> Result<Vec<WalkView>, NothingToWalk> {
    let wanted = all.iter().filter(|it| arguments.choice.fits(it));
    let found: Vec<WalkView> = wanted.map(|it| view(topology, world, it)).collect();
    if found.is_empty() { Err(NothingToWalk::of(topology)) } else { Ok(found) }
}

impl NothingToWalk {
    /// Where none of the requests of `topology` is chosen.
    pub(super) fn of(topology: &Topology) -> Self {
        let known: Vec<String> = expected_requests(topology).map(|it| name_of(&it)).collect();
        if known.is_empty() { Self::None } else { Self::NoneFits { known } }
    }
}

pub(super) fn view(topology: &Topology, world: &World, expected: &ExpectedRequest<'_>) -> WalkView {
    let (walk, large) = (world.walk(&expected.request), world.large(&expected.request));
    WalkView::new(topology, expected, walk, large.as_ref())
}

fn name_of(expected: &ExpectedRequest<'_>) -> String {
    let ExpectedRequest { client, service, real_server, .. } = expected;
    format!("{} -> {} -> {}", client.name, service.display_name(), real_server.host)
}
