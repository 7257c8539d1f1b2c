//! The results of `lab chaos`: what each death cost, and which promises of the file hold.

mod text;

use serde::Serialize;

use super::lab::CaseResult;
use crate::names::HostName;

pub use text::{markdown, progress, text};

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChaosReport {
    /// The file's name without its ending.
    pub playbook: String,
    /// The topology's name.
    pub topology: String,
    /// The faults, in the order in which they were tried.
    pub faults: Vec<FaultResult>,
    /// Every promise of the file.
    pub promises: Vec<PromiseResult>,
    /// Services to which no requests were sent, each with the reason.
    pub not_asked: Vec<String>,
    /// Why no fault could be tried.
    pub failure: Option<String>,
}

/// One fault. Times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultResult {
    /// What died.
    pub fault: String,
    /// `host`, `process`, `daemon`, `link` or `pair`.
    pub kind: &'static str,
    /// The hosts that died, or that had the dead part.
    pub hosts: Vec<HostName>,
    /// How long it was dead, until its return began.
    pub dead_s: f64,
    /// From the beginning of its return until nothing failed any more.
    pub return_s: f64,
    /// Length of this row's measurement.
    pub seconds: f64,
    /// Requests of each client to each service; empty: nothing was measured.
    pub requests: Vec<StreamResult>,
    /// Connections that were open before.
    pub connections: ConnectionResult,
    /// The promises that are about it.
    pub promises: Vec<PromiseVerdict>,
    /// What an operator should know about the figures.
    pub notes: Vec<String>,
    /// Why it could not be made, measured or brought back.
    pub error: Option<String>,
}

/// The requests of one client to one service. Times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamResult {
    /// The service's name.
    pub service: String,
    /// The client.
    pub client: HostName,
    /// The longest time without an answered request, from the fault to the end of the measurement.
    pub outage_s: f64,
    /// Those that were under way at the death, or whose whole time until they count as failed lay before the return.
    pub dead: RequestCount,
    /// Those that began later, until everything was answered again.
    pub returning: RequestCount,
    /// Afterwards.
    pub after: RequestCount,
    /// From the fault to the begin of the last request that failed and began before the return.
    pub failing_s: Option<f64>,
    /// Whether requests failed until the part came back: there is no bound.
    pub until_return: bool,
    /// From the beginning of the return to the begin of the last request that failed and began after it.
    pub failing_return_s: Option<f64>,
}

/// Requests that were sent, and how many of them got no answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestCount {
    /// All.
    pub sent: u64,
    /// Those without an answer.
    pub failed: u64,
}

impl std::ops::Add for RequestCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (sent, failed) = (self.sent + other.sent, self.failed + other.failed);
        Self { sent, failed }
    }
}

/// Connections that were open before a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionResult {
    /// All.
    pub opened: u64,
    /// Those that end in the dead part: they cannot survive.
    pub ended_with_it: u64,
    /// Of the others those that still work after the part came back.
    pub kept: u64,
}

impl ConnectionResult {
    /// Connections that could have survived, and did not.
    pub fn lost(self) -> u64 {
        self.opened.saturating_sub(self.ended_with_it).saturating_sub(self.kept)
    }
}

/// A promise of the file, and what one fault says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromiseVerdict {
    /// As in the file: `director: 3s`.
    pub promise: String,
    /// Whether it holds here.
    pub kept: bool,
    /// The observation.
    pub because: String,
}

/// What a run says about a promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromiseResult {
    /// As in the file.
    pub promise: String,
    /// Over all faults.
    pub verdict: PromiseState,
}

/// What a run says about a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromiseState {
    /// It holds in every fault that it is about.
    Kept,
    /// It does not hold in one of them.
    Refuted,
    /// No fault that it is about was measured.
    NotTried,
}

impl FaultResult {
    /// Whether it was measured, and refutes no promise.
    pub fn is_good(&self) -> bool {
        self.error.is_none() && self.promises.iter().all(|verdict| verdict.kept)
    }

    /// The longest time without an answer, of all clients and services; `None`: nothing was measured.
    pub fn outage_s(&self) -> Option<f64> {
        self.requests.iter().map(|stream| stream.outage_s).reduce(f64::max)
    }

    /// The requests while the part was dead, of all clients and services.
    pub fn dead_requests(&self) -> RequestCount {
        self.requests.iter().map(|it| it.dead).fold(RequestCount::default(), |a, b| a + b)
    }

    /// The requests during the return.
    pub fn returning_requests(&self) -> RequestCount {
        self.requests.iter().map(|it| it.returning).fold(RequestCount::default(), |a, b| a + b)
    }
}

impl ChaosReport {
    /// Whether every fault was measured, and no promise is refuted.
    pub fn is_good(&self) -> bool {
        self.failure.is_none()
            && !self.faults.is_empty()
            && self.faults.iter().all(FaultResult::is_good)
    }
}

/// As JSON, schema `lvsprov/chaos/1`: one file is the document itself, several are its `files`.
pub fn json(reports: &[ChaosReport]) -> serde_json::Value {
    let of = |report: &ChaosReport| {
        let mut value = serde_json::to_value(report).unwrap_or_default();
        if let Some(members) = value.as_object_mut() {
            members.insert("ok".to_owned(), report.is_good().into());
        }
        value
    };
    match reports {
        [one] => super::with_schema("chaos", &of(one)),
        several => {
            let ok = !several.is_empty() && several.iter().all(ChaosReport::is_good);
            let files: Vec<_> = several.iter().map(of).collect();
            super::with_schema("chaos", &serde_json::json!({ "ok": ok, "files": files }))
        }
    }
}

/// For JUnit: one case for each fault, and one for a run that could not begin.
pub fn cases(report: &ChaosReport) -> Vec<CaseResult> {
    let playbook = format!("{} (chaos)", report.playbook);
    let case = |name: &str, ok, seconds, detail| CaseResult {
        playbook: playbook.clone(),
        name: name.to_owned(),
        ok,
        seconds,
        detail,
    };
    let failure = report.failure.iter();
    let failure = failure.map(|why| case("the cluster comes up", false, 0.0, why.clone()));
    let faults = report.faults.iter().map(|fault| {
        case(&fault.fault, fault.is_good(), fault.seconds, text::plain_lines(fault).join("\n"))
    });
    failure.chain(faults).collect()
}
