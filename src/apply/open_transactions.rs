//! Open transactions that were found: how far each is, which decision leads out of it, and what each
//! command would do. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster_plan::{ClusterPlan, HostPlanResult};
use super::outcome::{
    Action, ClusterReport, HostReport, HostTransactionReport, OpenTransactionReport,
};
use super::requests::describe_holder;
use super::session::Observations;
use crate::names::HostName;
use crate::state::{HostState, Intent, Item, Observation, OpenTransaction, Step, TransactionId};

/// A host that reverts within this time, in milliseconds, is not confirmed: other hosts might get the
/// decision after their timers ended.
const TOO_LATE_MS: u64 = 2000;

/// The decision that leads out of an open transaction without applying the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Roll back: no host can have committed it.
    Abort,
    /// Close it as done: all hosts have voted.
    Commit,
    /// In doubt; why.
    InDoubt(String),
}

/// An open transaction over all hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionView<'a> {
    /// Hosts with its journal.
    pub open: BTreeMap<HostName, &'a OpenTransaction>,
    /// Participants without its journal.
    pub closed: BTreeSet<HostName>,
    /// Participants that could not be observed.
    pub unknown: BTreeSet<HostName>,
}

/// All open transactions of this topology.
pub fn open_transactions(observed: &Observations) -> BTreeMap<TransactionId, TransactionView<'_>> {
    let mut all: BTreeMap<TransactionId, TransactionView<'_>> = BTreeMap::new();
    for (name, observation) in observed {
        let Some(open) = observation.as_ref().ok().and_then(|o| o.open_transaction.as_deref())
        else {
            continue;
        };
        let view = all.entry(open.journal.transaction.clone()).or_insert(TransactionView {
            open: BTreeMap::new(),
            closed: BTreeSet::new(),
            unknown: BTreeSet::new(),
        });
        view.open.insert(name.clone(), open);
    }
    for view in all.values_mut() {
        let hosts: BTreeSet<HostName> =
            view.open.values().flat_map(|open| open.journal.hosts.iter().cloned()).collect();
        for name in hosts {
            if view.open.contains_key(&name) {
                continue;
            }
            match observed.get(&name) {
                Some(Ok(_)) => view.closed.insert(name),
                Some(Err(_)) | None => view.unknown.insert(name),
            };
        }
    }
    all
}

impl TransactionView<'_> {
    /// The decision that leads out of it. `right`: whether a host is as this transaction was to make it, by
    /// what the file says.
    ///
    /// No host commits before all have voted, and a rollback closes those that have voted first. So as
    /// long as one host has not voted, no host has committed.
    pub fn recovery(&self, right: impl Fn(&HostName) -> bool) -> Recovery {
        let Self { open, closed, unknown } = self;
        if open.values().any(|host| !host.voted) {
            return Recovery::Abort;
        }
        if let Some(host) = unknown.first() {
            return Recovery::InDoubt(format!(
                "it was agreed wherever it can be seen, but {host} cannot be asked: if {host} has agreed \
                 too it is done, else {host} has it undone"
            ));
        }
        match closed.iter().find(|host| !right(host)) {
            None => Recovery::Commit,
            Some(host) => Recovery::InDoubt(format!(
                "it was agreed wherever it can be seen, but {host} no longer knows of it and is not as \
                 it was to be: it was undone there, or {host} or the file was changed since"
            )),
        }
    }

    /// The transaction on every host with its journal.
    pub fn ids(&self, id: &TransactionId) -> BTreeMap<HostName, TransactionId> {
        self.open.keys().map(|name| (name.clone(), id.clone())).collect()
    }

    /// Apply or destroy.
    fn intent(&self) -> Intent {
        self.open.values().next().map_or(Intent::Apply, |open| open.journal.intent)
    }

    /// The controller that works at it, or the revert timer that runs; `None`: neither.
    fn in_the_way(&self) -> Option<String> {
        let held = self.open.iter().find_map(|(name, open)| {
            let holder = open.holder.as_ref()?;
            Some(format!("{} is at work on {name}", describe_holder(holder)))
        });
        held.or_else(|| {
            let times = self.open.values().filter_map(|open| open.reverts_in_ms);
            times.max().map(|ms| format!("it waits to be confirmed, for {} s more", ms / 1000))
        })
    }
}

/// How many of `steps` match the host now, and how many there are. Of several steps on one item the last
/// decides for all.
pub fn as_wanted<'a>(
    steps: impl Iterator<Item = &'a Step>,
    observed: &Observation,
) -> (usize, usize) {
    let steps: Vec<&Step> = steps.collect();
    let mut right: BTreeMap<String, bool> = BTreeMap::new();
    for step in steps.iter().rev() {
        let thing = step.edit.precise_name();
        right.entry(thing).or_insert_with(|| step.edit.is_done(&observed.state));
    }
    let count =
        steps.iter().filter(|step| right.get(&step.edit.precise_name()) == Some(&true)).count();
    (count, steps.len())
}

/// The open transaction on one host; `None`: it has none.
pub fn host_transaction(observed: &Observation) -> Option<HostTransactionReport> {
    let open = observed.open_transaction.as_deref()?;
    let OpenTransaction {
        journal,
        receipt_before: _,
        voted,
        holder,
        reverts_in_ms,
        restarted,
        notes,
    } = open;
    let (done, steps) = as_wanted(journal.steps(), observed);
    let now = observed.state.restricted_to(&journal.touched);
    let differs = journal.touched.iter().filter(|item| {
        let (mut then, mut here) = (HostState::default(), HostState::default());
        then.copy_item(item, &journal.before);
        here.copy_item(item, &now);
        // Modules stay loaded.
        !matches!(item, Item::Module(_)) && then != here
    });
    Some(HostTransactionReport {
        id: journal.transaction.clone(),
        steps,
        as_wanted: done,
        differs: differs.count(),
        voted: *voted,
        holder: holder.clone(),
        reverts_in_s: reverts_in_ms.map(|ms| ms / 1000),
        restarted: *restarted,
        timer_log: notes.clone(),
    })
}

/// Every open transaction of the topology, with what each command would do.
pub fn reports(plan: &ClusterPlan, observed: &Observations) -> Vec<OpenTransactionReport> {
    let all = open_transactions(observed);
    let reports = all.iter().filter_map(|(id, view)| {
        let journal = &view.open.values().next()?.journal;
        let recovery = recovery(plan, observed, view);
        Some(OpenTransactionReport {
            id: id.clone(),
            intent: journal.intent,
            by: journal.by.to_string(),
            since: journal.since,
            hosts: view.open.keys().cloned().collect(),
            elsewhere: view.closed.clone(),
            unknown: view.unknown.clone(),
            apply: apply(view),
            rollback: rollback(view, &recovery),
            confirm: match why_unconfirmable(observed, view) {
                Some(why) => format!("refuses: {why}"),
                None => "keeps it as it is now, and closes it".to_owned(),
            },
        })
    });
    reports.collect()
}

/// The decision that leads out of a transaction. Hosts without its journal are judged by the file.
pub fn recovery(
    plan: &ClusterPlan,
    observed: &Observations,
    view: &TransactionView<'_>,
) -> Recovery {
    let intent = view.intent();
    view.recovery(|host| is_as_intended(plan, observed, host, intent))
}

/// Whether a host is as a transaction was to make it: as the file says, or with nothing of lvsprov's.
fn is_as_intended(
    plan: &ClusterPlan,
    observed: &Observations,
    host: &HostName,
    intent: Intent,
) -> bool {
    let Some(Ok(observation)) = observed.get(host) else { return false };
    match (intent, plan.action) {
        (Intent::Destroy, _) => observation.receipt.is_none(),
        (Intent::Apply, Action::Destroy) => false,
        (Intent::Apply, _) => match plan.hosts.get(host) {
            Some(HostPlanResult::Plan(plan)) => plan.is_idle(observation.receipt.as_ref()),
            _ => false,
        },
    }
}

fn apply(view: &TransactionView<'_>) -> String {
    let does = match view.intent() {
        Intent::Apply => "finishes it: takes it over and goes on to what the file says",
        Intent::Destroy => "takes it over and goes to what the file says; `destroy` finishes it",
    };
    match view.in_the_way() {
        Some(who) => format!("waits (`--wait`), because {who}; then {does}"),
        None => does.to_owned(),
    }
}

fn rollback(view: &TransactionView<'_>, recovery: &Recovery) -> String {
    let held = view.open.values().any(|open| open.holder.is_some());
    match recovery {
        Recovery::Abort => {
            let force = if held { "with `--force` only, as a controller is at work: " } else { "" };
            let mut text = format!("{force}undoes it: every host as it was before");
            if let Some(unknown) = view.unknown.first() {
                text.extend(["; ", unknown.as_str(), " when it can be reached"]);
            }
            text
        }
        Recovery::Commit => {
            "closes it as done: every host has agreed to it, and it is not undone any more"
                .to_owned()
        }
        Recovery::InDoubt(why) => {
            format!("refuses (`--force` undoes what is left of it): {why}; `apply` is safe")
        }
    }
}

/// Why a transaction cannot be confirmed as it is; `None`: it can.
pub fn why_unconfirmable(observed: &Observations, view: &TransactionView<'_>) -> Option<String> {
    if let Some(unknown) = view.unknown.first() {
        return Some(format!("{unknown} cannot be asked"));
    }
    let all_voted = view.open.values().all(|open| open.voted);
    let soon = |open: &&OpenTransaction| open.reverts_in_ms.is_some_and(|ms| ms < TOO_LATE_MS);
    if let Some((name, _)) = view.open.iter().find(|(_, open)| soon(open)) {
        return Some(format!("{name} is about to undo it by itself"));
    }
    if let Some(closed) = view.closed.first().filter(|_| !all_voted) {
        return Some(format!("{closed} has not begun it, or has undone it"));
    }
    view.open.keys().find_map(|name| {
        let host = observed.get(name).and_then(|host| host_transaction(host.as_ref().ok()?))?;
        (host.as_wanted < host.steps)
            .then(|| format!("on {name} only {} of {} steps are done", host.as_wanted, host.steps))
    })
}

/// Adds the open transactions to the report of a plan.
pub fn add_to_report(report: &mut ClusterReport, plan: &ClusterPlan, observed: &Observations) {
    report.open_transactions = reports(plan, observed);
    for (name, host) in &mut report.hosts {
        let observation = observed.get(name).and_then(|host| host.as_ref().ok());
        add_to_host(host, observation);
    }
}

/// Adds a host's open transaction, and what the host reverted by itself, to its report.
pub fn add_to_host(host: &mut HostReport, observed: Option<&Observation>) {
    host.open_transaction = observed.and_then(host_transaction);
    host.reverted = observed.and_then(|observed| observed.reverted.clone());
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
