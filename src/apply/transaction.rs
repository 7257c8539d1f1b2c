//! A transaction as the controller decides it: who takes part, what each host is asked to begin, when a
//! host undoes everything by itself, and which way leads out of one that was cut off. Pure.
//!
//! The phases and what lies on a host in each are in [`crate::plan::journal`]; who is asked, and when,
//! is in [`super::acting`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::outcome::{Action, ClusterReport, HostStatus};
use super::planning::{ClusterPlan, HostPlan, Prospect};
use super::recording;
use super::turns;
use crate::desired::Desired;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::SimulateError;
use crate::plan::journal::touched_by;
use crate::plan::neighbours;
use crate::plan::ownership::{sysctls_to_read, with_modules_of};
use crate::protocol::{Prepare, RevertAfter};
use crate::state::{
    Expected, Intent, Item, JOURNAL_VERSION, Journal, Observation, OpenTransaction, Operator,
    Receipt, Stage, Step, Sysctl, TransactionId,
};
use crate::topology::{Role, Topology};

/// Between the parts of an undoing that every host does by itself: directors withdraw, then the others
/// give back what they took, then directors go live with what was there before.
pub const BETWEEN_PARTS: Duration = Duration::from_secs(2);

/// What comes on top of the time that a transaction plans to say nothing to a host, before that host
/// takes its controller for lost.
const IDLE: Duration = Duration::from_mins(2);

/// What is done when a step fails, a host is lost, or verification fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// Undo all of it, on every host.
    #[default]
    Undo,
    /// Leave everything as it is, journals included, for somebody to look at.
    Keep,
}

/// When hosts undo a transaction by themselves that nobody confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfirmWithin {
    /// After so long, if the way back to the controller changes on any host, or may change where that is not
    /// known; else never.
    WhereNeeded(Duration),
    /// After so long.
    Always(Duration),
    /// Never.
    Never,
}

/// Who says that a transaction is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConfirmBy {
    /// What is read and tried afterwards.
    #[default]
    Verification,
    /// The operator, after that.
    Operator,
}

/// What verification looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerifyBy {
    /// The state of each host.
    State,
    /// That, who answers ARP for the VIPs, and requests through every service.
    #[default]
    Traffic,
}

/// How a transaction is to go.
#[derive(Debug, Clone)]
pub struct Conduct {
    /// When something fails.
    pub on_error: OnError,
    /// When nobody confirms.
    pub within: ConfirmWithin,
    /// Who confirms.
    pub confirm: ConfirmBy,
    /// What verification looks at; a destroy has its state only.
    pub verify: VerifyBy,
    /// Who does it.
    pub by: Operator,
    /// Seconds since 1970, only ever shown to people.
    pub now: u64,
}

/// How long hosts wait to be confirmed, unless it is said.
pub const CONFIRM_WITHIN: Duration = Duration::from_mins(1);

/// How long they wait at most. What comes on top of it (the longest draining and the longest ramping,
/// [`BETWEEN_PARTS`], and for an agent's patience [`IDLE`] and the waits once more) still fits into what a
/// host takes.
pub const CONFIRM_LONGEST: Duration = Duration::from_hours(19);

/// What a host takes at most, for its timer and for its patience.
const LONGEST: Duration = Duration::from_hours(24);

impl Conduct {
    /// Undoes on error, and is confirmed by what is read and tried afterwards.
    pub fn plain(by: Operator, now: u64) -> Self {
        Self {
            on_error: OnError::Undo,
            within: ConfirmWithin::Never,
            confirm: ConfirmBy::Verification,
            verify: VerifyBy::Traffic,
            by,
            now,
        }
    }

    /// How long the hosts wait to be confirmed; `None`: nothing is undone by itself.
    pub fn time_to_confirm(&self, plan: &ClusterPlan) -> Option<Duration> {
        let moves = |prospect: &Prospect| matches!(prospect, Prospect::Plan(p) if p.moves_way_back);
        match (self.within, self.confirm) {
            (ConfirmWithin::Never, _) => None,
            (ConfirmWithin::Always(time), _)
            | (ConfirmWithin::WhereNeeded(time), ConfirmBy::Operator) => Some(time),
            (ConfirmWithin::WhereNeeded(time), ConfirmBy::Verification) => {
                plan.hosts.values().any(moves).then_some(time)
            }
        }
    }
}

/// A host that takes part, with what it was planned from.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// What it does.
    pub plan: &'a HostPlan,
    /// How it was seen.
    pub seen: &'a Observation,
}

/// What was seen of every host.
pub type Seen = BTreeMap<HostName, Result<Observation, Failure>>;

/// The hosts that take part: those that have something to do, that have their receipt to bring up to
/// date, or on which a transaction is unfinished. One that could not come to its end, because a host
/// that it depends on is in no state to be changed, does not take part at all; that is written down in
/// `report`.
pub fn members<'a>(
    topology: &Topology,
    plan: &'a ClusterPlan,
    seen: &'a Seen,
    report: &mut ClusterReport,
) -> BTreeMap<HostName, Member<'a>> {
    let receipts = receipts(seen);
    loop {
        // Everything as if all went well: who would have to wait then waits for ever.
        let mut rehearsal = report.clone();
        for stage in Stage::ALL {
            turns::due(topology, plan, &receipts, stage, &mut rehearsal);
        }
        let mut stopped = false;
        for (name, host) in rehearsal.hosts {
            let Some(real) = report.hosts.get_mut(&name) else { continue };
            if let HostStatus::NotAttempted { because } = host.status
                && !real.status.is_failure()
            {
                recording::not_attempted(real, because);
                stopped = true;
            }
        }
        if !stopped {
            break;
        }
    }
    let willing = |name: &HostName| report.hosts.get(name).is_some_and(|h| !h.status.is_failure());
    let members = plan.hosts.iter().filter(|(name, _)| willing(name)).filter_map(|(name, p)| {
        let Prospect::Plan(plan) = p else { return None };
        let seen = seen.get(name)?.as_ref().ok()?;
        let idle = plan.is_idle(seen.receipt.as_ref()) && seen.unfinished.is_none();
        (!idle).then_some((name.clone(), Member { plan, seen }))
    });
    members.collect()
}

/// The receipts that were seen.
pub fn receipts(seen: &Seen) -> BTreeMap<HostName, Receipt> {
    let with_receipt = seen.iter().filter_map(|(name, sighting)| {
        let receipt = sighting.as_ref().ok()?.receipt.clone()?;
        Some((name.clone(), receipt))
    });
    with_receipt.collect()
}

/// What is the same for all hosts of one transaction.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// Its name.
    pub id: &'a TransactionId,
    /// Which way it goes.
    pub action: Action,
    /// How.
    pub conduct: &'a Conduct,
    /// Every host that takes part.
    pub hosts: &'a BTreeSet<HostName>,
    /// When hosts undo it by themselves, from when it is begun; see [`revert_after`].
    pub time: Option<Duration>,
    /// For how long nothing may be said to a host while others are waited for.
    pub silence: Duration,
}

/// What `name` is asked to begin.
///
/// # Errors
/// The steps contradict each other: a fault of the planner.
pub fn begin(
    beginning: &Beginning<'_>,
    name: &HostName,
    member: Member<'_>,
    desired: Option<&Desired>,
) -> Result<Prepare, SimulateError> {
    let Beginning { topology, id, action, conduct, hosts, time, silence } = beginning;
    let Member { plan, seen } = member;
    let steps = || plan.stages.iter().flat_map(|(_, steps)| steps);
    let expected = expected_of(plan, seen);
    let mut touched = expected.items.clone();
    // Nobody else may give it up too meanwhile: each would leave it to the other.
    touched.extend(neighbours::left(&plan.goal.receipt, plan.goal.settled.as_ref(), seen));
    let mut before = with_modules_of(steps(), &seen.state)?.restricted_to(&touched);
    // What a module brings is as it starts; the module itself was not there, and undoing loads none.
    before.modules.retain(|module| seen.state.modules.contains(module));
    let mut receipt_before = seen.receipt.clone();
    if let Some(taken) = seen.unfinished.as_deref() {
        // Undoing always leads back to the last settled state; after a restart of the host, to what that
        // left, with the receipt of then.
        if let Some((first, was)) = taken.to_put_back() {
            for item in first {
                before.copy_item(item, was);
            }
            touched.extend(first.iter().cloned());
        }
        receipt_before.clone_from(&taken.receipt_before);
    }
    let directs = topology.hosts.get(name).is_some_and(|h| h.roles.contains(&Role::Director));
    let journal = Journal {
        version: JOURNAL_VERSION,
        topology: topology.name.clone(),
        transaction: (*id).clone(),
        intent: if *action == Action::Destroy { Intent::Destroy } else { Intent::Apply },
        by: conduct.by.clone(),
        since: conduct.now,
        hosts: (*hosts).clone(),
        stages: plan.stages.clone(),
        touched,
        before,
    };
    Ok(Prepare {
        journal,
        expected,
        receipt_before,
        receipt: plan.goal.receipt.clone(),
        settled: plan.goal.settled.clone(),
        revert: time.map(|time| revert_after(time, directs)),
        idle_limit_s: seconds(IDLE + *silence + time.unwrap_or_default()),
        sysctls: sysctls(plan, desired),
    })
}

/// What a host's steps were made from.
pub fn expected_of(plan: &HostPlan, seen: &Observation) -> Expected {
    let items = touched_by(plan.stages.iter().flat_map(|(_, steps)| steps), &seen.state);
    Expected {
        receipt: seen.receipt.clone(),
        unfinished: seen.unfinished.as_ref().map(|there| there.journal.transaction.clone()),
        state: seen.state.restricted_to(&items),
        items,
        owners: neighbours::owners(&plan.goal.receipt, plan.goal.settled.as_ref(), seen),
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.min(LONGEST).as_secs()).unwrap_or(u32::MAX).max(1)
}

/// How long an agent that has taken up a transaction hears nothing before it takes its controller for
/// lost, in seconds.
pub fn idle_limit_s() -> u32 {
    seconds(IDLE)
}

/// When a host undoes by itself what nobody confirmed within `time` from when it is begun. The parts lie
/// [`BETWEEN_PARTS`] apart whatever the time is; where it is out of what a host takes (1 s to a day, all
/// parts included), which [`CONFIRM_LONGEST`] never leads to, it is the nearest.
pub fn revert_after(time: Duration, directs: bool) -> RevertAfter {
    let time = time.clamp(Duration::from_secs(1), LONGEST.saturating_sub(BETWEEN_PARTS * 2));
    let ms = |parts: u32| {
        let after = time.saturating_add(BETWEEN_PARTS * parts).as_millis();
        u32::try_from(after).unwrap_or(u32::MAX)
    };
    if directs {
        RevertAfter { withdraw_ms: Some(ms(0)), build_ms: ms(2) }
    } else {
        RevertAfter { withdraw_ms: None, build_ms: ms(1) }
    }
}

/// What to read of a host when it is looked at again.
pub fn sysctls(plan: &HostPlan, desired: Option<&Desired>) -> BTreeSet<Sysctl> {
    let mut sysctls = desired.map(|d| sysctls_to_read(&d.state)).unwrap_or_default();
    // The receipt may be gone when the host is looked at again: ask for what was ours by name.
    sysctls.extend(plan.goal.owned.iter().filter_map(|item| match item {
        Item::Sysctl(key) => Some(key.clone()),
        _ => None,
    }));
    sysctls
}

/// What leads out of an unfinished transaction without the file being applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Nobody can have settled it: it can be undone wherever it is.
    Undo,
    /// All hosts have agreed to it: it was found right, and is only to be settled.
    Settle,
    /// It cannot be known which of both; why.
    Neither(String),
}

/// An unfinished transaction over all hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Where it is unfinished, and how.
    pub there: BTreeMap<HostName, &'a OpenTransaction>,
    /// Hosts that take part in it and have no journal of it.
    pub elsewhere: BTreeSet<HostName>,
    /// Hosts that take part in it and could not be asked.
    pub unknown: BTreeSet<HostName>,
}

/// All unfinished transactions of this topology that were seen.
pub fn standings(seen: &Seen) -> BTreeMap<TransactionId, Standing<'_>> {
    let mut all: BTreeMap<TransactionId, Standing<'_>> = BTreeMap::new();
    for (name, sighting) in seen {
        let Some(unfinished) = sighting.as_ref().ok().and_then(|s| s.unfinished.as_deref()) else {
            continue;
        };
        let standing = all.entry(unfinished.journal.transaction.clone()).or_insert(Standing {
            there: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            unknown: BTreeSet::new(),
        });
        standing.there.insert(name.clone(), unfinished);
    }
    for standing in all.values_mut() {
        let hosts: BTreeSet<HostName> =
            standing.there.values().flat_map(|there| there.journal.hosts.iter().cloned()).collect();
        for name in hosts {
            if standing.there.contains_key(&name) {
                continue;
            }
            match seen.get(&name) {
                Some(Ok(_)) => standing.elsewhere.insert(name),
                Some(Err(_)) | None => standing.unknown.insert(name),
            };
        }
    }
    all
}

impl Standing<'_> {
    /// What leads out of it. `right`: whether a host is as this transaction was to make it, as far as
    /// the file says.
    ///
    /// Nobody settles before all have agreed, and undoing settles those that have agreed first. So
    /// where anyone has not agreed, nobody has settled it as done.
    pub fn recovery(&self, right: impl Fn(&HostName) -> bool) -> Recovery {
        let Self { there, elsewhere, unknown } = self;
        if there.values().any(|there| !there.voted) {
            return Recovery::Undo;
        }
        if let Some(host) = unknown.first() {
            return Recovery::Neither(format!(
                "it was agreed wherever it can be seen, but {host} cannot be asked: if {host} has agreed \
                 too it is done, else {host} has it undone"
            ));
        }
        match elsewhere.iter().find(|host| !right(host)) {
            None => Recovery::Settle,
            Some(host) => Recovery::Neither(format!(
                "it was agreed wherever it can be seen, but {host} no longer knows of it and is not as \
                 it was to be: it was undone there, or {host} or the file was changed since"
            )),
        }
    }
}

/// How many of `steps` are done in what is there now: a thing that several steps change counts by what
/// the last of them leaves.
pub fn as_wanted<'a>(steps: impl Iterator<Item = &'a Step>, seen: &Observation) -> (usize, usize) {
    let steps: Vec<&Step> = steps.collect();
    let mut right: BTreeMap<String, bool> = BTreeMap::new();
    for step in steps.iter().rev() {
        let thing = step.change.precise_name();
        right.entry(thing).or_insert_with(|| step.change.is_done(&seen.state));
    }
    let count =
        steps.iter().filter(|step| right.get(&step.change.precise_name()) == Some(&true)).count();
    (count, steps.len())
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
