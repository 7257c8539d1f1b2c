//! Waits within a transaction: until the connections to real servers that are removed have drained, and
//! between the weight raises of real servers that are added.
//!
//! [`crate::plan::drain`] and [`crate::plan::ramp`] decide how long each wait is at most. Here the directors'
//! counters are read repeatedly, and the results go into the report. Every wait is bounded, and ends early
//! when the operator wants to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::cluster_plan::{ClusterPlan, HostPlan, HostPlanResult};
use super::outcome::{ClusterReport, HostReport};
use super::session::Session;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::{Leaving, Pacing};
use crate::state::{Counters, DestinationKey, ServiceKey, Stage, Step};

/// Between two readings of the counters.
const BEAT: Duration = Duration::from_millis(500);
/// A connection that is being established counts as inactive, and becomes active a moment later. So two
/// readings this far apart must find none.
const STILL: Duration = Duration::from_secs(1);

/// The connection counters of a director.
type DirectorCounters = BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>;

/// How long all waits of `plan` may take together.
pub fn longest(plan: &ClusterPlan) -> Duration {
    let pacings = || plans(plan).map(|(_, plan)| &plan.pacing);
    // The hosts of a stage wait at the same time, one stage after another.
    let drain = pacings().map(Pacing::longest_drain_ms).max().unwrap_or(0);
    let ramp = pacings().map(Pacing::longest_ramp_ms).max().unwrap_or(0);
    Duration::from_millis(drain.saturating_add(ramp))
}

fn plans(plan: &ClusterPlan) -> impl Iterator<Item = (&HostName, &HostPlan)> {
    plan.hosts.iter().filter_map(|(name, result)| match result {
        HostPlanResult::Plan(plan) => Some((name, &**plan)),
        HostPlanResult::Obstructed(_) | HostPlanResult::Failed(..) | HostPlanResult::Absent(_) => {
            None
        }
    })
}

/// A part of a stage that all hosts execute at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePart {
    /// When, from the start of the stage.
    pub after: Duration,
    /// Each host's first step in this part, and its number of steps; `None`: all steps of every host.
    ranges: Option<BTreeMap<HostName, (usize, usize)>>,
}

impl StagePart {
    /// Those of the `steps` of `host` that belong to this part.
    pub fn steps(&self, host: &HostName, steps: &[Step]) -> Vec<Step> {
        let Some(ranges) = &self.ranges else { return steps.to_vec() };
        let (first, count) = ranges.get(host).copied().unwrap_or_default();
        steps.iter().skip(first).take(count).cloned().collect()
    }
}

/// The parts of a stage; only [`Stage::Ramp`] has several.
pub fn parts(stage: Stage, plan: &ClusterPlan) -> Vec<StagePart> {
    if stage != Stage::Ramp {
        return vec![StagePart { after: Duration::ZERO, ranges: None }];
    }
    let mut parts: BTreeMap<u64, BTreeMap<HostName, (usize, usize)>> = BTreeMap::new();
    for (name, plan) in plans(plan) {
        let mut first = 0;
        for raise in &plan.pacing.raises {
            let part = parts.entry(raise.after_ms).or_default();
            part.insert(name.clone(), (first, raise.steps));
            first += raise.steps;
        }
    }
    let part = |(after_ms, ranges)| StagePart {
        after: Duration::from_millis(after_ms),
        ranges: Some(ranges),
    };
    parts.into_iter().map(part).collect()
}

/// Waits until `part` is due in a stage that began at `started`.
pub async fn wait_for_part(session: &Session<'_>, started: Instant, part: &StagePart) {
    let time = started + part.after;
    let console = session.console();
    while !console.stop_requested() {
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        console.show_wait(Some(&format!("raising weights: the next in {} s", left.as_secs() + 1)));
        sleep(left.min(BEAT)).await;
    }
    console.show_wait(None);
}

/// After [`Stage::Drain`] on `hosts`: waits until their connections have ended or the time is over, and
/// records the result in `report`. Returns the directors that were lost meanwhile.
pub async fn after(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    stage: Stage,
    hosts: &BTreeSet<HostName>,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, Failure> {
    if stage != Stage::Drain {
        return BTreeMap::new();
    }
    let mut waits: BTreeMap<HostName, DirectorDrain> = plans(plan)
        .filter(|(name, plan)| hosts.contains(*name) && !plan.pacing.leaving.is_empty())
        .map(|(name, plan)| (name.clone(), DirectorDrain::of(&plan.pacing.leaving)))
        .collect();
    let failures = read_until_over(session, &mut waits).await;
    for (name, wait) in waits {
        if let Some(host) = report.hosts.get_mut(&name) {
            wait.record(host);
        }
    }
    failures
}

/// What draining one real server of weight 0 came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedServer {
    /// The director that counts the connections.
    pub director: HostName,
    /// The service.
    pub service: ServiceKey,
    /// The real server's place in it.
    pub destination: DestinationKey,
    /// The most connections of any reading.
    pub most: u64,
    /// The connections of the last reading.
    pub left: u64,
    /// How long they had at most, in seconds.
    pub seconds: u32,
}

/// Waits until the connections to real servers that have the weight 0 and stay have ended, or their time is over. Also the
/// directors that were lost meanwhile.
pub async fn until_drained(
    session: &mut Session<'_>,
    leaving: &BTreeMap<HostName, Vec<Leaving>>,
) -> (Vec<DrainedServer>, BTreeMap<HostName, Failure>) {
    let waits = leaving.iter().filter(|(_, all)| !all.is_empty());
    let mut waits: BTreeMap<HostName, DirectorDrain> =
        waits.map(|(name, all)| (name.clone(), DirectorDrain::of(all))).collect();
    let failures = read_until_over(session, &mut waits).await;
    let mut all = Vec::new();
    for (director, wait) in waits {
        all.extend(wait.all.into_iter().map(|one| DrainedServer {
            director: director.clone(),
            service: one.leaving.service,
            destination: one.leaving.destination,
            most: one.most,
            left: one.left.or(one.leaving.connections).unwrap_or(0),
            seconds: one.leaving.seconds,
        }));
    }
    (all, failures)
}

/// Reads the counters until no drain waits any more, or the operator wants to stop. Directors that are lost leave `waits`, and
/// are returned.
async fn read_until_over(
    session: &mut Session<'_>,
    waits: &mut BTreeMap<HostName, DirectorDrain>,
) -> BTreeMap<HostName, Failure> {
    let mut failures = BTreeMap::new();
    let started = Instant::now();
    loop {
        let waiting = |(_, wait): &(&HostName, &DirectorDrain)| !wait.is_over();
        let names: BTreeSet<HostName> =
            waits.iter().filter(waiting).map(|(name, _)| name.clone()).collect();
        if names.is_empty() || session.console().stop_requested() {
            break;
        }
        let asked = started.elapsed();
        let mut observed = session.observe_hosts(&names, true).await;
        let answered = started.elapsed();
        for name in names {
            let Some(wait) = waits.get_mut(&name) else { continue };
            match observed.remove(&name) {
                Some(Ok(observation)) => wait.count(asked, answered, &observation.counters),
                Some(Err(failure)) => drop((waits.remove(&name), failures.insert(name, failure))),
                None => {
                    waits.remove(&name);
                    failures.insert(name.clone(), session.why_absent(&name));
                }
            }
        }
        let lines: Vec<String> =
            waits.values().filter_map(|wait| wait.describe(answered)).collect();
        if !lines.is_empty() {
            session.console().show_wait(Some(&lines.join("; ")));
            sleep(BEAT).await;
        }
    }
    session.console().show_wait(None);
    failures
}

/// The draining real servers of one director.
#[derive(Debug)]
struct DirectorDrain {
    all: Vec<ServerDrain>,
}

/// One draining real server.
#[derive(Debug)]
struct ServerDrain {
    leaving: Leaving,
    /// The most connections of any reading.
    most: u64,
    /// The connections of the last reading; `None`: none was taken yet.
    left: Option<u64>,
    /// Since when, from the start, every reading found none.
    clear_since: Option<Duration>,
    end: Option<DrainEnd>,
}

/// How the drain of one real server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainEnd {
    /// The last connection had ended by then, from the start.
    Clear(Duration),
    /// The time is over.
    Over,
}

impl DirectorDrain {
    fn of(leaving: &[Leaving]) -> Self {
        let one = |leaving: &Leaving| ServerDrain {
            leaving: leaving.clone(),
            most: leaving.connections.unwrap_or(0),
            left: None,
            clear_since: None,
            end: None,
        };
        Self { all: leaving.iter().map(one).collect() }
    }

    fn is_over(&self) -> bool {
        self.all.iter().all(|one| one.end.is_some())
    }

    /// Takes counters that were asked for and arrived at these times, from the start.
    fn count(&mut self, asked: Duration, answered: Duration, counters: &DirectorCounters) {
        for one in &mut self.all {
            // A real server that another program removed has none; the step that removes it fails then.
            let count = one.leaving.count(counters).unwrap_or(0);
            if one.end.is_none() {
                one.count(asked, answered, count);
            } else {
                // Other real servers still drain; its own connections are cut after that.
                one.left = Some(count);
            }
        }
    }

    /// The real servers that still drain, in one line; `None`: none does.
    fn describe(&self, now: Duration) -> Option<String> {
        let mut awaited = self.all.iter().filter(|one| one.end.is_none());
        let first = awaited.next()?;
        let rest = awaited.count();
        let left = first.left.unwrap_or(0);
        let time = Duration::from_secs(first.leaving.seconds.into()).saturating_sub(now);
        let more =
            if rest == 0 { String::new() } else { format!(", and {rest} more real servers") };
        Some(format!(
            "draining {}: {left} {} left, at most {} s{more}",
            first.leaving.destination,
            noun(left),
            time.as_secs()
        ))
    }

    fn record(self, host: &mut HostReport) {
        for one in self.all {
            if let Some(note) = one.note() {
                host.notes.push(note);
            }
            let steps = host.steps.iter_mut();
            for step in steps.filter(|step| one.leaving.is_removed_by(&step.edit)) {
                step.cost.connections_cut = one.left;
            }
        }
    }
}

impl ServerDrain {
    fn count(&mut self, asked: Duration, answered: Duration, count: u64) {
        self.left = Some(count);
        self.most = self.most.max(count);
        if self.leaving.seconds == 0 {
            self.end = Some(DrainEnd::Over);
            return;
        }
        if count > 0 {
            self.clear_since = None;
        } else {
            let since = *self.clear_since.get_or_insert(answered);
            if asked.saturating_sub(since) >= STILL {
                self.end = Some(DrainEnd::Clear(since));
                return;
            }
        }
        if answered >= Duration::from_secs(self.leaving.seconds.into()) {
            self.end = Some(DrainEnd::Over);
        }
    }

    /// The result; `None`: it needed no drain.
    fn note(&self) -> Option<String> {
        let Leaving { service, destination, seconds, .. } = &self.leaving;
        let what = format!("{destination} of {service}");
        match (self.end?, self.left.unwrap_or(0)) {
            (DrainEnd::Over, _) if *seconds == 0 => None,
            (DrainEnd::Clear(after), _) if self.most > 0 => Some(format!(
                "drained {what}: all of its {} {} were over after {} s",
                self.most,
                noun(self.most),
                after.as_secs_f64().ceil()
            )),
            (_, 0) => Some(format!("drained {what}: it had no connections")),
            (_, left) => Some(format!(
                "drained {what} for {seconds} s: {left} {} left, and cut when it is removed",
                noun(left)
            )),
        }
    }
}

fn noun(count: u64) -> &'static str {
    if count == 1 { "connection" } else { "connections" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leaving(seconds: u32) -> Leaving {
        Leaving {
            service: "tcp 192.0.2.1:80".parse().unwrap(),
            destination: "10.0.0.1:80".parse().unwrap(),
            seconds,
            counted: crate::plan::drain::CountedConnections::Active,
            connections: Some(3),
        }
    }

    /// What comes of these counts, one each half second.
    fn after(seconds: u32, counts: &[u32]) -> DirectorDrain {
        let mut wait = DirectorDrain::of(&[leaving(seconds)]);
        let one = leaving(0);
        for (at, active) in (0u64..).zip(counts) {
            let counters = Counters { active: *active, inactive: 9, ..Counters::default() };
            let all = BTreeMap::from([(one.destination, counters)]);
            let (asked, answered) = (at * 500, at * 500 + 10);
            let (asked, answered) = (Duration::from_millis(asked), Duration::from_millis(answered));
            wait.count(asked, answered, &BTreeMap::from([(one.service.clone(), all)]));
        }
        wait
    }

    #[test]
    fn there_must_be_no_connection_for_a_second() {
        // The second look a second after the first came in a little less than that.
        for counts in [&[0][..], &[0, 0, 0], &[3, 0, 0, 1], &[0, 0, 1, 0, 0, 0]] {
            assert!(!after(30, counts).is_over(), "{counts:?}");
        }
        let wait = after(30, &[3, 2, 1, 1, 0, 0, 0, 0]);
        assert!(wait.is_over());
        assert_eq!(
            wait.all[0].note().unwrap(),
            "drained 10.0.0.1:80 of tcp 192.0.2.1:80: all of its 3 connections were over after 3 s"
        );
    }

    #[test]
    fn when_the_time_is_over_what_is_left_is_counted() {
        let wait = after(2, &[3, 3, 2, 2, 2]);
        assert!(wait.is_over());
        assert_eq!(wait.all[0].left, Some(2));
        let note = wait.all[0].note().unwrap();
        assert!(
            note.ends_with("for 2 s: 2 connections left, and cut when it is removed"),
            "{note}"
        );
        // A look that comes late is still one.
        assert!(!after(2, &[3, 3, 2, 2]).is_over());
    }

    #[test]
    fn without_time_it_is_only_counted() {
        let wait = after(0, &[3]);
        assert!(wait.is_over());
        assert_eq!((wait.all[0].left, wait.all[0].note()), (Some(3), None));
    }

    #[test]
    fn the_operator_sees_how_many_are_left_and_for_how_long() {
        let wait = after(30, &[3, 2]);
        assert_eq!(
            wait.describe(Duration::from_millis(2500)).unwrap(),
            "draining 10.0.0.1:80: 2 connections left, at most 27 s"
        );
        assert_eq!(after(1, &[2, 2, 2]).describe(Duration::ZERO), None);
    }
}
