//! Waiting in the course of a change: until connections to real servers that are to go have come to their
//! end, and between the raises of those that were added.
//!
//! What is waited for, and for how long at most, was decided by [`crate::plan::drain`] and
//! [`crate::plan::ramp`]. Here the directors' counters are read again and again, and what came of it goes
//! into the report. Every wait is bounded, and ends early when the person wants to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::outcome::{ClusterReport, HostReport};
use super::planning::{ClusterPlan, HostPlan, Prospect};
use super::session::Session;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::drain::{Leaving, Pacing};
use crate::state::{Counters, DestinationKey, ServiceKey, Stage, Step};

/// From one look at the counters to the next.
const BEAT: Duration = Duration::from_millis(500);
/// A connection that is being made counts as inactive, and is active a moment later. So there must be
/// none in two looks that lie this far apart.
const STILL: Duration = Duration::from_secs(1);

/// Connection counters of a director.
type Counted = BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>;

/// How long all waits of `plan` may take together.
pub fn longest(plan: &ClusterPlan) -> Duration {
    let pacings = || plans(plan).map(|(_, plan)| &plan.pacing);
    // The hosts of a stage wait at the same time, one stage after another.
    let drain = pacings().map(Pacing::longest_drain_ms).max().unwrap_or(0);
    let ramp = pacings().map(Pacing::longest_ramp_ms).max().unwrap_or(0);
    Duration::from_millis(drain.saturating_add(ramp))
}

fn plans(plan: &ClusterPlan) -> impl Iterator<Item = (&HostName, &HostPlan)> {
    plan.hosts.iter().filter_map(|(name, prospect)| match prospect {
        Prospect::Plan(plan) => Some((name, &**plan)),
        Prospect::Obstructed(_) | Prospect::Failed(..) | Prospect::Absent(_) => None,
    })
}

/// A part of a stage that is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Go {
    /// When, from the beginning of the stage.
    pub after: Duration,
    /// How many steps each host has done before, and does now; `None`: all of them, on every host.
    part: Option<BTreeMap<HostName, (usize, usize)>>,
}

impl Go {
    /// Those of the `steps` of `host` in this stage that are done now.
    pub fn steps(&self, host: &HostName, steps: &[Step]) -> Vec<Step> {
        let Some(part) = &self.part else { return steps.to_vec() };
        let (first, count) = part.get(host).copied().unwrap_or_default();
        steps.iter().skip(first).take(count).cloned().collect()
    }
}

/// How a stage goes: all of it at once, but for [`Stage::Ramp`].
pub fn goes(stage: Stage, plan: &ClusterPlan) -> Vec<Go> {
    if stage != Stage::Ramp {
        return vec![Go { after: Duration::ZERO, part: None }];
    }
    let mut goes: BTreeMap<u64, BTreeMap<HostName, (usize, usize)>> = BTreeMap::new();
    for (name, plan) in plans(plan) {
        let mut first = 0;
        for raise in &plan.pacing.raises {
            let go = goes.entry(raise.after_ms).or_default();
            go.insert(name.clone(), (first, raise.steps));
            first += raise.steps;
        }
    }
    let go = |(after_ms, part)| Go { after: Duration::from_millis(after_ms), part: Some(part) };
    goes.into_iter().map(go).collect()
}

/// Waits until it is time for `go` in a stage that began at `started`.
pub async fn until(session: &Session<'_>, started: Instant, go: &Go) {
    let time = started + go.after;
    let watch = session.watch();
    while !watch.wants_to_stop() {
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        watch.pending(Some(&format!("raising weights: the next in {} s", left.as_secs() + 1)));
        sleep(left.min(BEAT)).await;
    }
    watch.pending(None);
}

/// After `stage` is done on `hosts`: waits for what the next one must not cut. Directors that went away
/// meanwhile, and why. What was waited for, and what is left, goes into `report`.
pub async fn after(
    session: &mut Session<'_>,
    plan: &ClusterPlan,
    stage: Stage,
    hosts: &BTreeSet<HostName>,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, Failure> {
    let mut failures = BTreeMap::new();
    if stage != Stage::Drain {
        return failures;
    }
    let mut waits: BTreeMap<HostName, Wait> = plans(plan)
        .filter(|(name, plan)| hosts.contains(*name) && !plan.pacing.leaving.is_empty())
        .map(|(name, plan)| (name.clone(), Wait::of(&plan.pacing.leaving)))
        .collect();
    let started = Instant::now();
    loop {
        let waiting = |(_, wait): &(&HostName, &Wait)| !wait.is_over();
        let names: BTreeSet<HostName> =
            waits.iter().filter(waiting).map(|(name, _)| name.clone()).collect();
        if names.is_empty() || session.watch().wants_to_stop() {
            break;
        }
        let asked = started.elapsed();
        let mut seen = session.look_at(&names, true).await;
        let answered = started.elapsed();
        for name in names {
            let Some(wait) = waits.get_mut(&name) else { continue };
            match seen.remove(&name) {
                Some(Ok(sighting)) => wait.saw(asked, answered, &sighting.counters),
                Some(Err(failure)) => drop((waits.remove(&name), failures.insert(name, failure))),
                None => {
                    waits.remove(&name);
                    failures.insert(name.clone(), session.why_absent(&name));
                }
            }
        }
        let told: Vec<String> = waits.values().filter_map(|wait| wait.told(answered)).collect();
        if !told.is_empty() {
            session.watch().pending(Some(&told.join("; ")));
            sleep(BEAT).await;
        }
    }
    session.watch().pending(None);
    for (name, wait) in waits {
        if let Some(host) = report.hosts.get_mut(&name) {
            wait.record(host);
        }
    }
    failures
}

/// What is waited for on one director.
#[derive(Debug)]
struct Wait {
    all: Vec<One>,
}

/// One real server that is to go.
#[derive(Debug)]
struct One {
    leaving: Leaving,
    /// The most connections that were seen.
    most: u64,
    /// As they were counted last; `None`: not yet.
    left: Option<u64>,
    /// Since when, from the beginning, there was none in any look.
    clear_since: Option<Duration>,
    end: Option<End>,
}

/// How waiting for one real server has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The last connection was gone by then.
    Clear(Duration),
    /// The time is over; nothing was waited for where that was 0.
    Over,
}

impl Wait {
    fn of(leaving: &[Leaving]) -> Self {
        let one = |leaving: &Leaving| One {
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

    /// Counters that were asked for and came at these times, from the beginning.
    fn saw(&mut self, asked: Duration, answered: Duration, counters: &Counted) {
        for one in &mut self.all {
            // Removed by somebody else: the step that removes it will say so.
            let count = one.leaving.count(counters).unwrap_or(0);
            if one.end.is_none() {
                one.saw(asked, answered, count);
            } else {
                // Others are still waited for; what is cut is counted when it is cut.
                one.left = Some(count);
            }
        }
    }

    /// Who is awaited, for a person; `None`: nobody.
    fn told(&self, now: Duration) -> Option<String> {
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
            for step in steps.filter(|step| one.leaving.is_removed_by(&step.change)) {
                step.cost.connections_cut = one.left;
            }
        }
    }
}

impl One {
    fn saw(&mut self, asked: Duration, answered: Duration, count: u64) {
        self.left = Some(count);
        self.most = self.most.max(count);
        if self.leaving.seconds == 0 {
            self.end = Some(End::Over);
            return;
        }
        if count > 0 {
            self.clear_since = None;
        } else {
            let since = *self.clear_since.get_or_insert(answered);
            if asked.saturating_sub(since) >= STILL {
                self.end = Some(End::Clear(since));
                return;
            }
        }
        if answered >= Duration::from_secs(self.leaving.seconds.into()) {
            self.end = Some(End::Over);
        }
    }

    /// What came of waiting for it.
    fn note(&self) -> Option<String> {
        let Leaving { service, destination, seconds, .. } = &self.leaving;
        let what = format!("{destination} of {service}");
        match (self.end?, self.left.unwrap_or(0)) {
            (End::Over, _) if *seconds == 0 => None,
            (End::Clear(after), _) if self.most > 0 => Some(format!(
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
            counted: crate::plan::drain::Counted::Active,
            connections: Some(3),
        }
    }

    /// What comes of these counts, one each half second.
    fn after(seconds: u32, counts: &[u32]) -> Wait {
        let mut wait = Wait::of(&[leaving(seconds)]);
        let one = leaving(0);
        for (at, active) in (0u64..).zip(counts) {
            let counters = Counters { active: *active, inactive: 9, ..Counters::default() };
            let all = BTreeMap::from([(one.destination, counters)]);
            let (asked, answered) = (at * 500, at * 500 + 10);
            let (asked, answered) = (Duration::from_millis(asked), Duration::from_millis(answered));
            wait.saw(asked, answered, &BTreeMap::from([(one.service.clone(), all)]));
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
    fn a_person_is_told_how_many_are_left_and_for_how_long() {
        let wait = after(30, &[3, 2]);
        assert_eq!(
            wait.told(Duration::from_millis(2500)).unwrap(),
            "draining 10.0.0.1:80: 2 connections left, at most 27 s"
        );
        assert_eq!(after(1, &[2, 2, 2]).told(Duration::ZERO), None);
    }
}
