//! The hosts of a lab from a controller's side: how it reaches them, apply and destroy, and what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use lvsprov::apply::cluster_plan::{self, Direction};
use lvsprov::apply::transaction::{self, TransactionPolicy, VerifyBy};
use lvsprov::apply::{ConnectionSettings, Session, operator};
use lvsprov::lab::Lab;
use lvsprov::names::HostName;
use lvsprov::state::HostState;
use lvsprov::topology::{Reach, Topology};
use lvsprov::transport::Options;
use serde_json::Value;

/// Every host by its namespace; receipts lie in `states`.
pub fn settings(lab: &Lab, topology: &Topology, states: &Path) -> ConnectionSettings {
    let transport = Options {
        state_dir: Some(states.to_owned()),
        agent_binary: Some(env!("CARGO_BIN_EXE_lvsprov").into()),
        call_timeout: Duration::from_mins(1),
        hello_timeout: Duration::from_mins(1),
        ..Options::default()
    };
    let hosts = topology.hosts.keys();
    let reach = hosts.map(|host| (host.clone(), Reach::Netns(lab.netns_path(host).unwrap())));
    ConnectionSettings { transport, reach: reach.collect(), ..ConnectionSettings::default() }
}

/// Applies the file whether `check` refuses it or not. `Err`: the report of an apply that failed.
pub async fn apply(topology: &Topology, session: &mut Session<'_>) -> Result<(), String> {
    go(topology, session, Direction::Apply { now: operator::now() }).await
}

/// Leaves the hosts as they were found. `Err` as in [`apply`].
pub async fn destroy(topology: &Topology, session: &mut Session<'_>) -> Result<(), String> {
    go(topology, session, Direction::Destroy).await
}

async fn go(
    topology: &Topology,
    session: &mut Session<'_>,
    direction: Direction,
) -> Result<(), String> {
    let observed = session.observe(false).await;
    let plan =
        cluster_plan::plan(topology, &session.desired, &observed, session.absent(), direction);
    let policy = TransactionPolicy {
        verify: VerifyBy::State,
        ..TransactionPolicy::plain(operator::here(), operator::now())
    };
    let report = transaction::run(session, &plan, &observed, direction, &policy).await.report;
    if report.has_failures() { Err(lvsprov::report::cluster::text(&report)) } else { Ok(()) }
}

/// What each host has.
pub async fn seen(session: &mut Session<'_>) -> BTreeMap<HostName, HostState> {
    let observed = session.observe(false).await;
    observed.into_iter().map(|(host, observation)| (host, observation.unwrap().state)).collect()
}

/// The steps that an apply would have to do.
pub async fn steps_left(topology: &Topology, session: &mut Session<'_>) -> Vec<String> {
    let direction = Direction::Apply { now: operator::now() };
    let observed = session.observe(false).await;
    let plan =
        cluster_plan::plan(topology, &session.desired, &observed, session.absent(), direction);
    let report = plan.report(topology);
    let steps = report.hosts.into_iter().flat_map(|(host, report)| {
        report.steps.into_iter().map(move |step| format!("{host}: {}", step.text))
    });
    steps.collect()
}

/// Panics with what is in one state of a host only.
pub fn same(
    one: &BTreeMap<HostName, HostState>,
    other: &BTreeMap<HostName, HostState>,
    what: &str,
) {
    let lines = |states: &BTreeMap<HostName, HostState>| {
        let mut all = BTreeSet::new();
        flatten("", &serde_json::to_value(states).unwrap(), &mut all);
        all
    };
    let (ours, theirs) = (lines(one), lines(other));
    let differ: Vec<&String> = ours.symmetric_difference(&theirs).collect();
    assert!(differ.is_empty() && one == other, "{what}: {differ:#?}");
}

/// A line for each value, with its path.
fn flatten(path: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                flatten(&format!("{path} {key}"), value, into);
            }
        }
        Value::Array(items) => {
            for item in items {
                flatten(&format!("{path} []"), item, into);
            }
        }
        other => drop(into.insert(format!("{path}: {other}"))),
    }
}

/// Modules stay.
pub fn without_modules(mut states: BTreeMap<HostName, HostState>) -> BTreeMap<HostName, HostState> {
    for state in states.values_mut() {
        state.modules.clear();
    }
    states
}
