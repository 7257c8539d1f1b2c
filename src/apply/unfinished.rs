//! What is told of transactions that are not finished: on each host, and over all of them, with what
//! each command would do. Pure.

use super::asking::describe_holder;
use super::outcome::{Action, Found, HostReport, UnfinishedView};
use super::planning::{ClusterPlan, Prospect};
use super::transaction::{Recovery, Seen, Standing, as_wanted, standings};
use crate::names::HostName;
use crate::state::{HostState, Intent, Observation, OpenTransaction};

/// So shortly before a host undoes it by itself nothing is confirmed any more: on some hosts it would come
/// too late.
const TOO_LATE_MS: u64 = 2000;

/// What one host has of an unfinished transaction; `None` if there is none.
pub fn view(seen: &Observation) -> Option<UnfinishedView> {
    let unfinished = seen.unfinished.as_deref()?;
    let OpenTransaction {
        journal,
        receipt_before: _,
        voted,
        holder,
        reverts_in_ms,
        restarted,
        notes,
    } = unfinished;
    let (done, steps) = as_wanted(journal.steps(), seen);
    let now = seen.state.restricted_to(&journal.touched);
    let differs = journal.touched.iter().filter(|item| {
        // What a module brings was not there before and stays.
        let (mut then, mut here) = (HostState::default(), HostState::default());
        then.copy_item(item, &journal.before);
        here.copy_item(item, &now);
        !matches!(item, crate::state::Item::Module(_)) && then != here
    });
    Some(UnfinishedView {
        id: journal.transaction.clone(),
        steps,
        as_wanted: done,
        differs: differs.count(),
        agreed: *voted,
        holder: holder.clone(),
        reverts_in_s: reverts_in_ms.map(|ms| ms / 1000),
        restarted: *restarted,
        told: notes.clone(),
    })
}

/// Every unfinished transaction of the topology, with what can be done.
pub fn found(plan: &ClusterPlan, seen: &Seen) -> Vec<Found> {
    let all = standings(seen);
    let found = all.iter().filter_map(|(id, standing)| {
        let journal = &standing.there.values().next()?.journal;
        let recovery = recovery(plan, seen, standing);
        Some(Found {
            id: id.clone(),
            intent: journal.intent,
            by: journal.by.to_string(),
            since: journal.since,
            hosts: standing.there.keys().cloned().collect(),
            elsewhere: standing.elsewhere.clone(),
            unknown: standing.unknown.clone(),
            apply: apply(standing, journal.intent),
            rollback: rollback(standing, &recovery),
            confirm: confirm(seen, standing),
        })
    });
    found.collect()
}

/// What leads out of a transaction, by what the file says of the hosts that no longer know of it.
pub fn recovery(plan: &ClusterPlan, seen: &Seen, standing: &Standing<'_>) -> Recovery {
    let intents = standing.there.values().map(|there| there.journal.intent);
    let towards = intents.into_iter().next().unwrap_or(Intent::Apply);
    standing.recovery(|host| is_right(plan, seen, host, towards))
}

/// Whether a host is as a transaction was to make it: as the file says, or with nothing of ours.
fn is_right(plan: &ClusterPlan, seen: &Seen, host: &HostName, towards: Intent) -> bool {
    let Some(Ok(sighting)) = seen.get(host) else { return false };
    match (towards, plan.action) {
        (Intent::Destroy, _) => sighting.receipt.is_none(),
        (Intent::Apply, Action::Destroy) => false,
        (Intent::Apply, _) => match plan.hosts.get(host) {
            Some(Prospect::Plan(plan)) => plan.is_idle(sighting.receipt.as_ref()),
            _ => false,
        },
    }
}

/// Who is in the way of working at it, in words; `None`: nobody.
fn in_the_way(standing: &Standing<'_>) -> Option<String> {
    let held = standing.there.iter().find_map(|(name, there)| {
        there
            .holder
            .as_ref()
            .map(|holder| format!("{} is at work on {name}", describe_holder(holder)))
    });
    held.or_else(|| {
        let times = standing.there.values().filter_map(|there| there.reverts_in_ms);
        times.max().map(|ms| format!("it waits to be confirmed, for {} s more", ms / 1000))
    })
}

fn apply(standing: &Standing<'_>, intent: Intent) -> String {
    let does = match intent {
        Intent::Apply => "finishes it: takes it over and goes on to what the file says".to_owned(),
        Intent::Destroy => {
            "takes it over and goes to what the file says; `destroy` finishes it".to_owned()
        }
    };
    match in_the_way(standing) {
        Some(who) => format!("waits (`--wait`), because {who}; then {does}"),
        None => does,
    }
}

fn rollback(standing: &Standing<'_>, recovery: &Recovery) -> String {
    let held = standing.there.values().any(|there| there.holder.is_some());
    let force = if held { " with `--force` only, as somebody is at work: " } else { "" };
    match recovery {
        Recovery::Undo => {
            let mut text = format!("{force}undoes it: every host as it was before");
            if let Some(unknown) = standing.unknown.first() {
                text.extend(["; ", unknown.as_str(), " when it can be reached"]);
            }
            text
        }
        Recovery::Settle => {
            "closes it as done: every host has agreed to it, and it is not undone any more"
                .to_owned()
        }
        Recovery::Neither(why) => {
            format!("refuses (`--force` undoes what is left of it): {why}; `apply` is safe")
        }
    }
}

/// Why a transaction cannot be confirmed as it is; `None`: it can.
pub fn not_to_confirm(seen: &Seen, standing: &Standing<'_>) -> Option<String> {
    if let Some(unknown) = standing.unknown.first() {
        return Some(format!("{unknown} cannot be asked"));
    }
    let all_agreed = standing.there.values().all(|there| there.voted);
    let soon = |there: &&OpenTransaction| there.reverts_in_ms.is_some_and(|ms| ms < TOO_LATE_MS);
    if let Some((name, _)) = standing.there.iter().find(|(_, there)| soon(there)) {
        return Some(format!("{name} is about to undo it by itself"));
    }
    if let Some(elsewhere) = standing.elsewhere.first().filter(|_| !all_agreed) {
        return Some(format!("{elsewhere} has not begun it, or has undone it"));
    }
    standing.there.keys().find_map(|name| {
        let view = seen.get(name).and_then(|seen| view(seen.as_ref().ok()?))?;
        (view.as_wanted < view.steps)
            .then(|| format!("on {name} only {} of {} steps are done", view.as_wanted, view.steps))
    })
}

fn confirm(seen: &Seen, standing: &Standing<'_>) -> String {
    match not_to_confirm(seen, standing) {
        Some(why) => format!("refuses: {why}"),
        None => "keeps it as it is now, and closes it".to_owned(),
    }
}

/// Writes into a plan's report what was found unfinished.
pub fn tell(report: &mut super::ClusterReport, plan: &ClusterPlan, seen: &Seen) {
    report.unfinished = found(plan, seen);
    for (name, host) in &mut report.hosts {
        let sighting = seen.get(name).and_then(|seen| seen.as_ref().ok());
        tell_host(host, sighting);
    }
}

/// Writes into a host's report what was found on it.
pub fn tell_host(host: &mut HostReport, seen: Option<&Observation>) {
    host.unfinished = seen.and_then(view);
    host.reverted = seen.and_then(|seen| seen.reverted.clone());
}
