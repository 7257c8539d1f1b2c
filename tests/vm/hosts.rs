//! The hosts of a lab from a controller's side: how it reaches them, apply and destroy.

use std::path::Path;
use std::time::Duration;

use lvsprov::apply::cluster_plan::{self, Direction};
use lvsprov::apply::transaction::{self, TransactionPolicy, VerifyBy};
use lvsprov::apply::{ConnectionSettings, Session, operator};
use lvsprov::lab::Lab;
use lvsprov::topology::{Reach, Topology};
use lvsprov::transport::Options;

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
