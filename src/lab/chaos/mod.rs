//! `lab chaos`: kills each part of a cluster in turn under constant requests, measures what clients notice, and brings it back.
//!
//! * [`fault`] has what can die, and the order; [`pairs`] the worst pairs. [`figures`] makes figures of the record of
//!   requests, [`verdict`] judges promises. All of these are pure.
//! * `cluster` kills and revives, `load` sends requests and keeps connections open.
//!
//! A host that dies loses its power: all that its kernel has is gone. It comes back by what its boot unit does.

mod cluster;
pub mod fault;
pub mod figures;
mod load;
pub mod pairs;
#[cfg(test)]
mod schedule_tests;
pub mod verdict;

use std::time::{Duration, Instant};

use self::cluster::{ChaosCluster, ChaosResult, failed};
use self::fault::{ClusterPart, Fault};
use self::figures::FaultMoments;
use self::load::{AskedService, Load, OpenTalks};
use crate::lab::checks;
use crate::report::chaos::{ChaosReport, ConnectionResult, FaultResult, StreamResult, progress};
use crate::topology::Topology;

/// Interval of polls.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long an open connection may take to answer after everything else does: TCP may wait for a retransmission.
const TALK_PATIENCE: Duration = Duration::from_secs(10);

/// Times of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChaosOptions {
    /// How long requests are sent before each fault, and after everything is answered again.
    pub around: Duration,
    /// How long a part stays dead; longer where a promise is longer.
    pub dead: Duration,
    /// After this time a request counts as failed.
    pub patience: Duration,
    /// How long it may take until everything is answered again.
    pub recovery: Duration,
    /// No fault begins later than that after the start.
    pub time_limit: Duration,
}

impl ChaosOptions {
    /// The longest time that `faults` can take, the start of the cluster aside.
    pub fn longest(&self, topology: &Topology, faults: &[Fault]) -> Duration {
        let one =
            |fault: &Fault| 2 * self.around + self.time_dead(topology, fault) + 2 * self.recovery;
        let last = faults.iter().map(one).max().unwrap_or_default();
        faults.iter().map(one).sum::<Duration>().min(self.time_limit + last)
    }

    fn time_dead(&self, topology: &Topology, fault: &Fault) -> Duration {
        let promised = fault.promised(topology, &topology.promise);
        figures::time_dead(self.dead, self.patience, promised.into_iter().map(|(_, within)| within))
    }
}

/// Brings the cluster of `topology` up and tries `faults`, one after the other. Each prints a line when it ends. Errors become
/// those of a row, or of the report where nothing could be tried.
pub async fn run(
    playbook: &str,
    topology: &Topology,
    faults: &[Fault],
    options: &ChaosOptions,
    print: &dyn Fn(&str),
) -> ChaosReport {
    let mut report = ChaosReport {
        playbook: playbook.to_owned(),
        topology: topology.name.to_string(),
        faults: Vec::new(),
        promises: Vec::new(),
        not_asked: Vec::new(),
        failure: None,
    };
    let started = Instant::now();
    let (topology, notes) = checks::answerable(topology);
    let topology = &topology;
    for note in notes {
        print(&format!("note: {note}"));
    }
    let mut cluster = match bring_up(topology).await {
        Ok(cluster) => cluster,
        Err(failure) => return ChaosReport { failure: Some(failure), ..report },
    };
    let asked = load::asked(topology, cluster.has_sctp());
    report.not_asked = load::not_asked(topology, &asked);
    let every = match pace(&cluster, &asked, options).await {
        Ok(every) => every,
        Err(failure) => return ChaosReport { failure: Some(failure), ..report },
    };
    let mut trial = Trial { topology, cluster: &mut cluster, asked: &asked, every, options };
    // Why the rest cannot be tried.
    let mut over: Option<String> = None;
    for (nth, fault) in faults.iter().enumerate() {
        let late = started.elapsed() >= options.time_limit;
        let limit = options.time_limit.as_secs();
        let late = late.then(|| format!("the time limit of {limit} s is over (--time-limit)"));
        let mut result = result_of(fault);
        if let Some(why) = over.clone().or(late) {
            result.error = Some(format!("not tried: {why}"));
        } else {
            trial.run(fault, &mut result).await;
            if result.error.is_some() {
                let why = trial.repair().await.err();
                over = why.map(|why| format!("the cluster did not come back before: {why}"));
            }
        }
        print(&progress(nth + 1, faults.len(), &result));
        report.faults.push(result);
    }
    report.promises = verdict::over_all(&topology.promise, &report.faults);
    report
}

async fn bring_up(topology: &Topology) -> ChaosResult<ChaosCluster<'_>> {
    let cluster = ChaosCluster::build(topology).await?;
    cluster.apply().await?;
    Ok(cluster)
}

/// The interval of requests, once every one is answered.
async fn pace(
    cluster: &ChaosCluster<'_>,
    asked: &[AskedService<'_>],
    options: &ChaosOptions,
) -> ChaosResult<Duration> {
    if asked.is_empty() {
        return Err("no client of the file can ask a service: nothing can be measured".to_owned());
    }
    let deadline = Instant::now() + options.recovery;
    loop {
        let measured = load::pace(&cluster.lab, asked, TALK_PATIENCE).await;
        match measured.map_err(|error| failed(&error))? {
            Ok(every) => return Ok(every),
            Err(why) if Instant::now() >= deadline => {
                return Err(format!("the cluster is not answered before any death: {why}"));
            }
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

fn result_of(fault: &Fault) -> FaultResult {
    FaultResult {
        fault: fault.to_string(),
        kind: fault.kind().as_str(),
        hosts: fault.parts.iter().map(|part| part.host().clone()).collect(),
        dead_s: 0.0,
        return_s: 0.0,
        seconds: 0.0,
        requests: Vec::new(),
        connections: ConnectionResult::default(),
        promises: Vec::new(),
        notes: Vec::new(),
        error: None,
    }
}

/// Tries faults on one cluster.
struct Trial<'c, 't> {
    topology: &'t Topology,
    cluster: &'c mut ChaosCluster<'t>,
    asked: &'c [AskedService<'t>],
    /// From one request of a stream to the next.
    every: Duration,
    options: &'c ChaosOptions,
}

impl<'t> Trial<'_, 't> {
    async fn run(&mut self, fault: &Fault, result: &mut FaultResult) {
        let started = Instant::now();
        if let Err(error) = self.measure(fault, result).await {
            result.error = Some(error);
        }
        result.seconds = started.elapsed().as_secs_f64();
    }

    async fn measure(&mut self, fault: &Fault, result: &mut FaultResult) -> ChaosResult<()> {
        let ChaosOptions { around, patience, .. } = *self.options;
        let talks = OpenTalks::open(&self.cluster.lab, self.asked, TALK_PATIENCE).await;
        let talks = talks.map_err(|error| failed(&error))??;
        let load = Load::start(&self.cluster.lab, self.asked, self.every, patience).await;
        let mut load = load.map_err(|error| failed(&error))?;
        self.wait_until_answered(&load).await.map_err(|late| format!("before its death {late}"))?;
        tokio::time::sleep(around).await;

        let began = Instant::now();
        for part in &fault.parts {
            if let ClusterPart::Host(host) = part {
                load.cut(host);
            }
            self.cluster.kill(part).await?;
        }
        let dead = self.options.time_dead(self.topology, fault);
        tokio::time::sleep_until((began + dead).into()).await;

        let returning = Instant::now();
        let revived = self.cluster.revive().await;
        for part in &fault.parts {
            load.resume(&self.cluster.lab, part.host()).await.map_err(|error| failed(&error))?;
        }
        let again = self.wait_until_answered(&load).await;
        let answered = Instant::now();
        if again.is_ok() {
            tokio::time::sleep(around).await;
        }
        let moments = FaultMoments { began, returning, answered, ended: Instant::now() };
        result.dead_s = (returning - began).as_secs_f64();
        self.record(&moments, load, result).await;
        result.connections = talks.survived(fault, TALK_PATIENCE).await;
        result.promises =
            verdict::verdicts(self.topology, fault, &result.requests, result.connections);
        result.notes = verdict::notes(self.topology, fault, &result.requests);
        revived?;
        again.map_err(|late| format!("after its return {late}"))?;
        let failed: u64 = result.requests.iter().map(|stream| stream.after.failed).sum();
        if failed > 0 {
            return Err(format!("{failed} requests failed after everything was answered again"));
        }
        Ok(())
    }

    /// Makes the figures of what `load` recorded.
    async fn record(&self, moments: &FaultMoments, load: Load<'t>, result: &mut FaultResult) {
        for (asked, attempts) in load.stop().await {
            let it = figures::figures(&attempts, moments, self.options.patience);
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
            result.requests.push(StreamResult {
                service: asked.service.name.to_string(),
                client: asked.client.clone(),
                outage_s: it.outage.as_secs_f64(),
                dead: it.dead,
                returning: it.returning,
                after: it.after,
                failing_s: seconds(it.failing),
                until_return: it.until_return,
                failing_return_s: seconds(it.failing_return),
            });
        }
        let returns = result.requests.iter().filter_map(|stream| stream.failing_return_s);
        result.return_s = returns.fold(0.0, f64::max);
    }

    /// Waits until each stream has answers in a row that began from now on. The error names those that have not.
    async fn wait_until_answered(&self, load: &Load<'_>) -> Result<(), String> {
        let since = Instant::now();
        let deadline = since + self.options.recovery;
        loop {
            let waiting = load.not_answered(since);
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "requests were not all answered within {} s: {}",
                    self.options.recovery.as_secs(),
                    waiting.join(", ")
                ));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// After an error: revives what is dead, applies the file again, and waits until everything is answered.
    async fn repair(&mut self) -> ChaosResult<()> {
        let revived = self.cluster.revive().await;
        self.cluster.apply().await?;
        revived?;
        let ChaosOptions { patience, .. } = *self.options;
        let load = Load::start(&self.cluster.lab, self.asked, self.every, patience).await;
        let load = load.map_err(|error| failed(&error))?;
        self.wait_until_answered(&load).await
    }
}
