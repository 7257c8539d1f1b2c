//! The report of `doctor`: causes, what shows them, and what mends them. [`super::causes`] finds them. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::causes::diagnose;
use super::evidence::{Evidence, RealRequests};
use crate::apply::cluster_plan::{ClusterPlan, HostPlanResult};
use crate::apply::session::{HostAbsence, Observations};
use crate::apply::unanswered::drops_replies_of_nat;
use crate::apply::verify::Verification;
use crate::check::cure_of_death;
use crate::names::{HostName, ServiceName};
use crate::state::StatefulDrop;
use crate::topology::Topology;
use crate::walk::{Death, WalkVerdict};

/// What `doctor` found. The JSON form is stable: members are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The topology's name.
    pub topology: String,
    /// What was asked, and what came of it.
    pub requests: Vec<RequestReport>,
    /// Causes, the one that explains most requests first.
    pub causes: Vec<Diagnosis>,
    /// Hosts that are taken to be as the file says, and why.
    pub not_seen: BTreeMap<HostName, String>,
    /// Hosts that differ from the file, with the number of steps that `lvsprov apply` would take.
    pub differences: BTreeMap<HostName, usize>,
}

/// Requests of one client to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestReport {
    /// The client.
    pub client: HostName,
    /// The service.
    pub service: String,
    /// How many were answered.
    pub answered: u32,
    /// How many were not, by reason.
    pub failures: BTreeMap<String, u32>,
    /// Datagrams without an answer, which show nothing: an application need not answer what it does not understand.
    pub undecided: bool,
    /// Why none was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_sent: Option<String>,
}

/// A cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What kind.
    pub kind: DiagnosisKind,
    /// On which host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// What is wrong.
    pub cause: String,
    /// The requests that it explains.
    pub requests: Vec<String>,
    /// What shows it, and what cannot be shown.
    pub evidence: Vec<String>,
    /// What mends it.
    pub cure: String,
}

/// Kinds of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiagnosisKind {
    /// The walk says where the packet dies.
    PacketDies,
    /// A firewall drops replies of NAT, which connection tracking does not know.
    StatefulFirewall,
    /// The kernel refuses a packet that the walk lets pass.
    KernelRefuses,
    /// On a real server nothing answers.
    NoListener,
    /// Another machine answers for the VIP.
    Segment,
    /// Requests do not reach IPVS.
    LostBeforeDirector,
    /// IPVS takes them, and no answer comes.
    LostBehindDirector,
    /// Too little is known.
    NotKnown,
    /// Requests are answered that the walk has die.
    WalkIsWrong,
}

/// What is known of the cluster beside the requests.
#[derive(Debug)]
pub struct ClusterFacts<'a> {
    topology: &'a Topology,
    /// The steps of a plan, or its obstacles.
    steps: BTreeMap<HostName, Vec<String>>,
    obstacles: BTreeMap<HostName, Vec<String>>,
    /// Tables of other programs.
    pub(super) foreign_tables: BTreeMap<HostName, Vec<String>>,
    /// Rules that drop replies of NAT on a director whose IPVS takes them out of connection tracking.
    pub(super) stateful_drops: BTreeMap<HostName, Vec<StatefulDrop>>,
    not_seen: BTreeMap<HostName, String>,
    pub(super) segments: BTreeMap<ServiceName, Verification>,
}

impl<'a> ClusterFacts<'a> {
    /// From what was observed and planned; `segments`: who answers for the VIP of each service.
    pub fn new(
        topology: &'a Topology,
        plan: &ClusterPlan,
        observed: &Observations,
        absent: &BTreeMap<HostName, HostAbsence>,
        segments: BTreeMap<ServiceName, Verification>,
    ) -> Self {
        let (mut steps, mut obstacles) = (BTreeMap::new(), BTreeMap::new());
        for (name, result) in &plan.hosts {
            match result {
                HostPlanResult::Plan(plan) if !plan.stages.is_empty() => {
                    steps.insert(name.clone(), plan.edits().map(ToString::to_string).collect());
                }
                HostPlanResult::Obstructed(all) => {
                    obstacles.insert(name.clone(), all.iter().map(ToString::to_string).collect());
                }
                HostPlanResult::Plan(_)
                | HostPlanResult::Failed(..)
                | HostPlanResult::Absent(_) => {}
            }
        }
        let (mut foreign_tables, mut stateful_drops) = (BTreeMap::new(), BTreeMap::new());
        let mut not_seen: BTreeMap<HostName, String> =
            absent.iter().map(|(name, absence)| (name.clone(), why_absent(absence))).collect();
        for (name, observation) in observed {
            let observation = match observation {
                Ok(observation) => observation,
                Err(failure) => {
                    not_seen.insert(name.clone(), failure.to_string());
                    continue;
                }
            };
            let tables = observation.facts.foreign_tables.iter().cloned().collect();
            foreign_tables.insert(name.clone(), tables);
            if drops_replies_of_nat(&observation.state) {
                stateful_drops.insert(name.clone(), observation.facts.stateful_drops.clone());
            }
        }
        Self { topology, steps, obstacles, foreign_tables, stateful_drops, not_seen, segments }
    }

    /// What mends a death: a plan after which the request is answered, or what the walk says.
    pub(super) fn cure(&self, death: &Death, after_apply: Option<&WalkVerdict>) -> String {
        if after_apply == Some(&WalkVerdict::Answered) {
            let host = &death.innermost().host;
            // Where several answer, it is another than the one that asks.
            let all = || self.steps.iter().next();
            let (host, steps) = self.steps.get_key_value(host).or_else(all).unzip();
            let steps = steps.map(Vec::as_slice).unwrap_or_default();
            let mut does = steps.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
            if steps.len() > 3 {
                does.push_str("; ...");
            }
            return match host {
                Some(host) => format!("lvsprov apply FILE, which does on {host}: {does}"),
                None => "lvsprov apply FILE".to_owned(),
            };
        }
        let cure = cure_of_death(self.topology, death);
        match self.obstacles.get(&death.host).and_then(|all| all.first()) {
            Some(obstacle) => format!("{cure} (lvsprov apply does not do it: {obstacle})"),
            None => cure,
        }
    }
}

fn why_absent(absence: &HostAbsence) -> String {
    match absence {
        HostAbsence::Unmanaged => "the file does not say how it is reached".to_owned(),
        HostAbsence::LeftOut => "left out by --limit".to_owned(),
        HostAbsence::Unreachable(failure) => failure.to_string(),
    }
}

impl DoctorReport {
    /// Whether requests were sent, all of them were answered, and nothing was found.
    pub fn is_well(&self) -> bool {
        let failed =
            |it: &RequestReport| it.not_sent.is_none() && !it.undecided && !it.failures.is_empty();
        self.causes.is_empty()
            && !self.requests.iter().any(failed)
            && self.requests.iter().any(|it| it.not_sent.is_none())
    }
}

/// The report of all evidence.
pub fn report(facts: &ClusterFacts<'_>, all: &[Evidence]) -> DoctorReport {
    let mut causes: Vec<Diagnosis> = Vec::new();
    for evidence in all {
        for found in diagnose(facts, evidence) {
            let same = |it: &&mut Diagnosis| it.kind == found.kind && it.cause == found.cause;
            match causes.iter_mut().find(same) {
                Some(known) => known.add(found),
                None => causes.push(found),
            }
        }
    }
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.requests.len()));
    DoctorReport {
        topology: facts.topology.name.to_string(),
        requests: all.iter().map(request_report).collect(),
        causes,
        not_seen: facts.not_seen.clone(),
        differences: facts.steps.iter().map(|(host, all)| (host.clone(), all.len())).collect(),
    }
}

fn request_report(evidence: &Evidence) -> RequestReport {
    let (answered, _) = evidence.counts().unwrap_or_default();
    let (failures, not_sent) = match &evidence.probe {
        RealRequests::Sent(fetched) => (fetched.failures.clone(), None),
        RealRequests::NotSent(why) => (BTreeMap::new(), Some(why.clone())),
    };
    RequestReport {
        client: evidence.client.clone(),
        service: evidence.service_name.clone(),
        answered,
        failures,
        undecided: evidence.is_undecided(),
        not_sent,
    }
}

impl Diagnosis {
    /// The same cause, found for other requests.
    fn add(&mut self, other: Self) {
        for request in other.requests {
            if !self.requests.contains(&request) {
                self.requests.push(request);
            }
        }
        for line in other.evidence {
            if !self.evidence.contains(&line) {
                self.evidence.push(line);
            }
        }
    }
}
