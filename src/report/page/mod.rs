//! A plan or the walks of `explain` as one HTML page: no script, nothing from elsewhere.
//!
//! The template (templates/report.html.j2) escapes every text; what it shows is decided here. The topology is a picture
//! ([`picture`]), with the ways of the packets of one service at a time.

pub mod picture;
pub mod shares;

use serde::Serialize;

use self::picture::{Cross, Picture, Way};
use self::shares::ServiceShares;
use super::cluster::{remarks, summary};
use super::findings;
use super::steps::{self, SameSteps, StageSteps};
use super::walk::{self, WalkRemark, WalkView};
use super::{costs, hosts};
use crate::apply::outcome::Action;
use crate::apply::{ClusterReport, StepReport};
use crate::desired::{ExpectedRequest, every_request, expected_requests};
use crate::finding::{Finding, Severity};
use crate::names::HostName;
use crate::state::EditVerb;
use crate::topology::Topology;

const TEMPLATE: &str = include_str!("../../../templates/report.html.j2");
/// Ways that are drawn of one service; those of dead requests first.
const DRAWN: usize = 40;
/// Requests that are listed; dead ones first.
const WALKS: usize = 400;

/// More requests than this share their ways.
const REQUESTS: usize = 2000;

/// The requests of `topology` that a page shows: all, so that each service has its ways; of very many those whose ways
/// differ.
pub fn requests(topology: &Topology) -> Vec<ExpectedRequest<'_>> {
    if every_request(topology).nth(REQUESTS).is_some() {
        expected_requests(topology).collect()
    } else {
        every_request(topology).collect()
    }
}

/// Which hosts the walks go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkedHosts {
    /// As the file says.
    AsTheFileSays,
    /// As they were seen.
    AsSeen,
    /// As they were seen, with the steps of the plan done.
    AfterThePlan,
}

impl WalkedHosts {
    fn describe(self) -> &'static str {
        match self {
            Self::AsTheFileSays => "through the hosts as the file describes them",
            Self::AsSeen => "through the hosts as they are",
            Self::AfterThePlan => "through the hosts as they will be after this plan",
        }
    }
}

/// What a page shows.
#[derive(Debug, Default, Serialize)]
struct Page {
    title: String,
    summary: String,
    /// `good`, `open` or `bad`.
    state: &'static str,
    picture: Option<Picture>,
    services: Vec<ServiceWays>,
    felt: Vec<FeltView>,
    problems: Vec<ProblemView>,
    stages: Vec<StageView>,
    hosts: String,
    remarks: String,
    walked: &'static str,
    walks: Vec<WalkOnPage>,
    walks_left_out: usize,
    shares: Vec<ServiceShares>,
}

/// A request, hop by hop.
#[derive(Debug, Serialize)]
struct WalkOnPage {
    #[serde(flatten)]
    walk: WalkView,
    /// `answered`, `unknown` or `dead`.
    state: &'static str,
    verdict_text: &'static str,
    remarks: Vec<WalkRemark>,
}

impl WalkOnPage {
    fn new(walk: WalkView) -> Self {
        let state = match walk.verdict {
            "answered" if !walk.hangs() => "answered",
            "unknown" => "unknown",
            _ => "dead",
        };
        Self { state, verdict_text: walk.verdict_text(), remarks: walk.remarks(), walk }
    }
}

/// The ways of one service.
#[derive(Debug, Serialize)]
struct ServiceWays {
    name: String,
    verdict: String,
    dead: bool,
    ways: Vec<Way>,
    crosses: Vec<Cross>,
    not_drawn: usize,
}

#[derive(Debug, Serialize)]
struct FeltView {
    host: String,
    text: String,
    cost: String,
}

#[derive(Debug, Serialize)]
struct ProblemView {
    place: String,
    message: String,
    why: String,
    cure: String,
}

#[derive(Debug, Serialize)]
struct StageView {
    title: &'static str,
    groups: Vec<GroupView>,
}

#[derive(Debug, Serialize)]
struct GroupView {
    hosts: String,
    several: bool,
    steps: Vec<StepView>,
}

#[derive(Debug, Serialize)]
struct StepView {
    /// `add`, `change` or `remove`.
    verb: &'static str,
    mark: char,
    text: String,
    cost: String,
    reasons: Vec<String>,
}

/// The page of a plan.
pub fn plan(
    topology: &Topology,
    report: &ClusterReport,
    walks: Vec<WalkView>,
    walked: WalkedHosts,
) -> Result<String, minijinja::Error> {
    let state = match (report.has_failures(), report.has_pending()) {
        (true, _) => "bad",
        (false, true) => "open",
        (false, false) => "good",
    };
    let what = if report.action == Action::Plan { "Plan" } else { "Report" };
    let felt = steps::felt(report).into_iter().map(|(host, step)| FeltView {
        host: host.to_string(),
        text: step.text.clone(),
        cost: costs::of(step),
    });
    let page = Page {
        title: format!("{what} for {}", report.topology),
        summary: summary(report),
        state,
        felt: felt.collect(),
        problems: problems(report),
        stages: steps::by_stage(report).iter().map(stage).collect(),
        hosts: plain(&hosts::text(report)),
        remarks: plain(&remarks(report)),
        ..of_walks(topology, walks, walked)
    };
    render(&page)
}

/// The page of `explain`.
pub fn explain(
    file: &str,
    topology: &Topology,
    walks: Vec<WalkView>,
    walked: WalkedHosts,
    not_seen: &[HostName],
) -> Result<String, minijinja::Error> {
    let dead = walks.iter().any(|walk| walk.is_dead() || walk.hangs());
    let names: Vec<&str> = not_seen.iter().map(HostName::as_str).collect();
    let remarks = if names.is_empty() {
        String::new()
    } else {
        format!("not seen, and taken to be as the file says: {}", names.join(", "))
    };
    let page = Page {
        title: format!("Ways of packets in {file}"),
        summary: walk::summary(walks.iter()),
        state: if dead { "bad" } else { "good" },
        remarks,
        ..of_walks(topology, walks, walked)
    };
    render(&page)
}

/// The page of a file that has errors: there is no plan.
pub fn findings(name: &str, all: &[Finding]) -> Result<String, minijinja::Error> {
    let problem = |finding: &Finding| {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        ProblemView {
            place: format!("line {}, {severity}", finding.at.line),
            message: finding.message.clone(),
            why: finding.why.clone(),
            cure: finding.cure.clone(),
        }
    };
    let page = Page {
        title: format!("Findings in {name}"),
        summary: findings::summary(all, &[]).unwrap_or_else(|| "nothing found".to_owned()),
        state: "bad",
        problems: findings::shown(all).into_iter().map(problem).collect(),
        ..Page::default()
    };
    render(&page)
}

fn render(page: &Page) -> Result<String, minijinja::Error> {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
    // The end of the name turns on the escaping of HTML.
    let html =
        environment.render_named_str("report.html", TEMPLATE, minijinja::value::Serde(page))?;
    // Lines of the template that only have its own words.
    let lines = html.lines().filter(|line| !line.trim().is_empty());
    Ok(lines.flat_map(|line| [line, "\n"]).collect())
}

fn plain(terminal_text: &str) -> String {
    anstream::adapter::strip_str(terminal_text).to_string()
}

/// The picture, the ways of each service, the walks and the shares.
fn of_walks(topology: &Topology, mut walks: Vec<WalkView>, walked: WalkedHosts) -> Page {
    walks.sort_by_key(|walk| (!walk.is_dead(), !walk.hangs()));
    let picture = Picture::new(topology);
    let mut services: Vec<ServiceWays> = Vec::new();
    for walk in &walks {
        if !services.iter().any(|service| service.name == walk.service) {
            services.push(service(&walk.service, &walks, &picture));
        }
    }
    let walks_left_out = walks.len().saturating_sub(WALKS);
    walks.truncate(WALKS);
    let shares = topology.services.iter().map(|service| {
        let drain = topology.pace.drain.unwrap_or(service.pace.drain);
        let ramp = topology.pace.ramp.unwrap_or(service.pace.ramp);
        ServiceShares::new(service, drain, ramp)
    });
    Page {
        picture: Some(picture),
        services,
        walked: walked.describe(),
        walks: walks.into_iter().map(WalkOnPage::new).collect(),
        walks_left_out,
        shares: shares.collect(),
        ..Page::default()
    }
}

fn service(name: &str, walks: &[WalkView], picture: &Picture) -> ServiceWays {
    let of_it: Vec<&WalkView> = walks.iter().filter(|walk| walk.service == name).collect();
    let dead = of_it.iter().any(|walk| walk.is_dead());
    let mut ways: Vec<Way> = of_it.iter().take(DRAWN).flat_map(|walk| picture.ways(walk)).collect();
    // Drawn first, and broader than the others, which may take the same way for a part.
    ways.sort_by(|one, other| (!one.dead, &one.path).cmp(&(!other.dead, &other.path)));
    ways.dedup_by(|one, other| one.path == other.path && one.dead == other.dead);
    let mut crosses: Vec<Cross> = of_it.iter().filter_map(|walk| picture.cross(walk)).collect();
    crosses.sort_by(|one, other| one.host.cmp(&other.host));
    crosses.dedup_by(|one, other| one.host == other.host);
    ServiceWays {
        name: name.to_owned(),
        verdict: walk::summary(of_it.iter().copied()),
        dead,
        ways,
        crosses,
        not_drawn: of_it.len().saturating_sub(DRAWN),
    }
}

fn problems(report: &ClusterReport) -> Vec<ProblemView> {
    let mut all = Vec::new();
    for (name, host) in &report.hosts {
        for obstacle in &host.obstacles {
            all.push(ProblemView {
                place: name.to_string(),
                message: obstacle.message.clone(),
                why: obstacle.why.clone(),
                cure: obstacle.cure.clone(),
            });
        }
        if let Some(failure) = &host.failure {
            all.push(ProblemView {
                place: name.to_string(),
                message: failure.message.clone(),
                why: failure.causes.join(": "),
                cure: failure.cure.clone().unwrap_or_default(),
            });
        }
    }
    all
}

fn stage(StageSteps { stage, groups }: &StageSteps<'_>) -> StageView {
    StageView { title: stage.describe(), groups: groups.iter().map(group).collect() }
}

fn group(SameSteps { hosts, steps }: &SameSteps<'_>) -> GroupView {
    let names: Vec<&str> = hosts.iter().map(|name| name.as_str()).collect();
    GroupView {
        hosts: names.join(", "),
        several: names.len() > 1,
        steps: steps.iter().map(|step| step_view(step)).collect(),
    }
}

fn step_view(step: &StepReport) -> StepView {
    let (verb, mark) = match step.edit.verb() {
        EditVerb::Add => ("add", '+'),
        EditVerb::Change => ("change", '~'),
        EditVerb::Remove => ("remove", '\u{2212}'),
    };
    StepView {
        verb,
        mark,
        text: step.text.clone(),
        cost: costs::of(step),
        reasons: step.why.split("; ").map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests;
