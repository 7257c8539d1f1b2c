//! Apply repairs drift, and changes nothing else: each step of the apply is undone separately on its host;
//! the next apply must redo exactly this step. A real server that a health checker may have taken out must stay out.

use super::phases::{apply_direction, succeeded};
use super::{CaseOutcome, Scenario};
use crate::apply::outcome::{ClusterReport, StepState};
use crate::apply::session::Observations;
use crate::apply::transaction;
use crate::apply::transaction::{TransactionPolicy, VerifyBy};
use crate::apply::{Session, cluster_plan, operator};
use crate::kernel::act;
use crate::lab::Lab;
use crate::names::HostName;
use crate::plan::simulate;
use crate::state::{
    Destination, DestinationId, Edit, EditVerb, HostState, Item, SettingKind, TunnelDevice, effects,
};

/// Undoes one step after the other, each followed by an apply.
pub(super) async fn repaired(scenario: &Scenario<'_>) -> CaseOutcome {
    let mut session = Session::open(scenario.topology, &scenario.settings).await;
    let outcome = repair_each(&scenario.lab, &mut session).await;
    session.close().await;
    outcome
}

async fn repair_each(lab: &Lab, session: &mut Session<'_>) -> CaseOutcome {
    let right = session.observe(false).await;
    let all_drift = all_drift(&right)?;
    let mut left = 0_usize;
    for (host, damage) in &all_drift {
        inflict(lab, host, damage)?;
        let observed = session.observe(false).await;
        let plan = cluster_plan::plan(
            session.topology,
            &session.desired,
            &observed,
            session.absent(),
            apply_direction(),
        );
        // Traffic was tested before: here only the steps matter.
        let conduct = TransactionPolicy {
            verify: VerifyBy::State,
            ..TransactionPolicy::plain(operator::here(), operator::now())
        };
        let report =
            transaction::run(session, &plan, &observed, apply_direction(), &conduct).await.report;
        succeeded(&report)?;
        let repair: Vec<_> =
            damage.inverse().into_iter().map(|change| (host.clone(), change)).collect();
        let is_health = is_health(session, host, damage);
        let only_this = if is_health { Vec::new() } else { repair.clone() };
        let mut done = done(&report);
        if let Some(Ok(before)) = right.get(host) {
            done.retain(|(at, edit)| at != host || !is_consequence(damage, edit, &before.state));
        }
        if done != only_this {
            return Err(format!("after `{damage}` on {host}, apply did {done:?}"));
        }
        if is_health {
            // As the health checker that finds the real server alive again.
            repair.iter().try_for_each(|(host, edit)| inflict(lab, host, edit))?;
            left += 1;
        }
    }
    if all_drift.is_empty() {
        return Err("no step can be undone".to_owned());
    }
    let repaired = all_drift.len() - left;
    let health = match left {
        0 => String::new(),
        _ => format!("; {left} real servers taken out as a health checker does, and left out"),
    };
    Ok(format!("{repaired} drifts inflicted one by one, each repaired separately{health}"))
}

/// Whether `damage` takes a real server out of a service whose weights a health checker sets.
fn is_health(session: &Session<'_>, host: &HostName, damage: &Edit) -> bool {
    let service = damage.of::<Destination>().map(|edit| &edit.key.service);
    let desired = session.desired.get(host);
    service.zip(desired).is_some_and(|(service, desired)| desired.external.contains(service))
}

/// Whether `edit` restores state that the kernel removed together with `damage`: everything on a device.
fn is_consequence(damage: &Edit, edit: &Edit, before: &HostState) -> bool {
    damage.removed::<TunnelDevice>().is_some()
        && effects::moved_by(damage, before).contains(&edit.item())
}

/// The applied edits with their hosts.
fn done(report: &ClusterReport) -> Vec<(HostName, Edit)> {
    let all = report.hosts.iter().flat_map(|(host, of_host)| {
        of_host
            .steps
            .iter()
            .filter(|step| step.state == StepState::Done)
            .map(|step| (host.clone(), step.edit.clone()))
    });
    all.collect()
}

/// For each owned item, the edit that removes it or resets its value.
fn all_drift(observed: &Observations) -> Result<Vec<(HostName, Edit)>, String> {
    let mut all = Vec::new();
    for (host, observation) in observed {
        let observation = observation.as_ref().map_err(|failure| format!("{host}: {failure}"))?;
        let Some(receipt) = &observation.receipt else { continue };
        for item in &receipt.owned {
            for damage in damage(item, &observation.state, &receipt.found) {
                if simulate(&observation.state, [&damage]).is_ok() {
                    all.push((host.clone(), damage));
                }
            }
        }
    }
    Ok(all)
}

/// The edits that remove `item`; if it cannot be removed, the edit that resets its value.
pub fn damage(item: &Item, now: &HostState, found: &HostState) -> Vec<Edit> {
    if let Item::Service(key) = item {
        let ids = Destination::keys(now).into_iter().filter(|id| id.service == *key);
        let remove = |id: DestinationId| {
            let present = Destination::get(now, &id)?;
            Some(Edit::remove::<Destination>(id, present))
        };
        return ids.filter_map(remove).collect();
    }
    let (nothing, removable) = (HostState::default(), item.verbs().remove.is_some());
    let back = if removable { &nothing } else { found };
    let edit = Edit::of_item(item, now, back);
    edit.filter(|edit| removable || edit.verb() == EditVerb::Change).into_iter().collect()
}

/// Executes `damage` on `host` without lvsprov: the receipt does not change.
///
/// # Errors
/// If the kernel refuses it, with the reason.
pub fn inflict(lab: &Lab, host: &HostName, damage: &Edit) -> Result<(), String> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(act::alone(damage)).map_err(|error| error.to_failure().to_string())
    };
    let done = lab.run_in(host, work).map_err(|error| error.to_string());
    done.flatten().map_err(|error| format!("{damage} on {host}: {error}"))
}
