//! What somebody undoes by hand is mended, and only that: every single step of the apply is undone by
//! itself on its host, the plan must then name just what is missing, and apply must bring it back.

use super::chapters::{Seen, succeeded, towards};
use super::{Proof, Stage};
use crate::apply::outcome::{ClusterReport, StepState};
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

/// Undoes one thing after the other and has it mended.
pub(super) async fn mended(stage: &Stage<'_>) -> Proof {
    let mut session = Session::open(stage.topology, &stage.settings).await;
    let proof = mend_all(&stage.lab, &mut session).await;
    session.close().await;
    proof
}

async fn mend_all(lab: &Lab, session: &mut Session<'_>) -> Proof {
    let right = session.observe(false).await;
    let damages = damages(&right)?;
    for (host, damage) in &damages {
        break_it(lab, host, damage)?;
        let seen = session.observe(false).await;
        let plan = cluster_plan::plan(
            session.topology,
            &session.desired,
            &seen,
            session.absent(),
            towards(),
        );
        // What requests show was proven before: here it is the steps that count.
        let conduct = TransactionPolicy {
            verify: VerifyBy::State,
            ..TransactionPolicy::plain(operator::here(), operator::now())
        };
        let report = transaction::run(session, &plan, &seen, towards(), &conduct).await.report;
        succeeded(&report)?;
        let only_this: Vec<_> =
            damage.inverse().into_iter().map(|change| (host.clone(), change)).collect();
        let mut done = done(&report);
        if let Some(Ok(before)) = right.get(host) {
            done.retain(|(at, edit)| at != host || !goes_along(damage, edit, &before.state));
        }
        if done != only_this {
            return Err(format!("after `{damage}` on {host}, apply did {done:?}"));
        }
    }
    if damages.is_empty() {
        return Err("there was nothing to undo".to_owned());
    }
    Ok(format!("{} things undone one by one, each mended by itself", damages.len()))
}

/// Whether `edit` mends what went away with `damage` in `before`: with a device all that is on it.
fn goes_along(damage: &Edit, edit: &Edit, before: &HostState) -> bool {
    damage.removed::<TunnelDevice>().is_some()
        && effects::moved_by(damage, before).contains(&edit.item())
}

/// What was done, on which host.
fn done(report: &ClusterReport) -> Vec<(HostName, Edit)> {
    let all = report.hosts.iter().flat_map(|(host, of_host)| {
        of_host
            .steps
            .iter()
            .filter(|step| step.state == StepState::Done)
            .map(|step| (host.clone(), step.change.clone()))
    });
    all.collect()
}

/// For everything that is ours, the change that takes just it away or alters it.
fn damages(seen: &Seen) -> Result<Vec<(HostName, Edit)>, String> {
    let mut all = Vec::new();
    for (host, sighting) in seen {
        let sighting = sighting.as_ref().map_err(|failure| format!("{host}: {failure}"))?;
        let Some(receipt) = &sighting.receipt else { continue };
        for item in &receipt.owned {
            for damage in damage(item, &sighting.state, &receipt.found) {
                if simulate(&sighting.state, [&damage]).is_ok() {
                    all.push((host.clone(), damage));
                }
            }
        }
    }
    Ok(all)
}

/// The edits that remove `item`; of what cannot be removed, the one that gives it the value found before.
fn damage(item: &Item, now: &HostState, found: &HostState) -> Vec<Edit> {
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

/// Does `damage` on `host`, as somebody would who has never heard of lvsprov: the receipt stays as it is.
fn break_it(lab: &Lab, host: &HostName, damage: &Edit) -> Result<(), String> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(act::alone(damage)).map_err(|error| error.to_failure().to_string())
    };
    let done = lab.run_in(host, work).map_err(|error| error.to_string());
    done.flatten().map_err(|error| format!("{damage} on {host}: {error}"))
}
