//! Preparing a transaction: whether it may start, and everything on the disk before anything is changed.

use std::collections::BTreeSet;

use super::actor::{Actor, ArmedTimer};
use super::journal::{self, TransactionFiles};
use super::lock;
use super::observe;
use super::phase::Phase;
use super::preparation::{self, Preparation};
use super::records::TimerRecord;
use super::requests::{
    HeldTransaction, PREPARE_PATIENCE, busy, busy_now, check_idle_limit, check_operator,
    check_root, holder,
};
use super::reverting::RevertOrder;
use super::store::Store;
use super::{Agent, in_range, settled};
use crate::kernel::error::{Error, Result};
use crate::plan::drift::UnitNeeds;
use crate::plan::preflight::Obstacle;
use crate::plan::{link_managers, other_topologies};
use crate::protocol::{Busy, Prepare, Reply, RevertAfter};
use crate::state::{
    DaemonConfiguration, Item, JOURNAL_VERSION, KeyedEdit, Observation, RECEIPT_VERSION, Receipt,
    Sysctl,
};

/// See [`crate::protocol::Request::Prepare`].
pub(super) async fn prepare(agent: &mut Agent, request: &Prepare) -> Result<Reply> {
    let Agent { store, actor, held } = agent;
    let (store, actor): (&dyn Store, &dyn Actor) = (store.as_ref(), actor.as_ref());
    check_root(actor)?;
    check(request)?;
    let topology = &request.journal.topology;
    let _lock = match lock::wait(store, topology, PREPARE_PATIENCE).await? {
        Ok(lock) => lock,
        Err(held_by) => return Ok(busy_now(store, actor, topology, held_by)),
    };
    let old = journal::read(store, topology)?;
    if let Some(busy) = old.as_ref().and_then(|old| busy(actor, old, held.as_ref(), false)) {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let observed =
        observe::observe(store, actor, topology, &sysctls_to_read(request), false).await?;
    let differences = request.expected.differences(&observed);
    if !differences.is_empty() {
        return Ok(Reply::Changed(differences));
    }
    if let Some(busy) = overlap(store, actor, request, &observed)? {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let owners =
        other_topologies::owners(&request.receipt, request.receipt_after.as_ref(), &observed);
    let differences = request.expected.other_owners(&owners);
    if !differences.is_empty() {
        return Ok(Reply::Changed(differences));
    }
    check_before(request, old.as_ref(), observed.receipt.as_ref())?;
    settled::check(request, observed.receipt.as_ref())?;
    try_configurations(actor, request)?;
    if settled::is_named(request) {
        install_unit(actor, request, &observed)?;
    }
    actor.reach("prepare");

    let armed = arm(store, actor, request)?;
    let (armed, timer) = armed.unzip();
    let holder = holder(actor, &request.journal.by, request.idle_limit_s)?;
    let present = observed.receipt.as_ref();
    let preparation =
        Preparation { request, receipt: present, old: old.as_ref(), timer, holder: &holder };
    let entered = HeldTransaction::new(&request.journal, &holder, Phase::Prepared);
    if let Err(failed) = preparation::write(store, actor, &preparation)?.rename() {
        if failed.journal_stays {
            // This connection may close it; its timer ends here, as there is nothing to undo.
            *held = Some(entered);
        }
        return Err(failed.error);
    }
    if let Some(timer) = old.as_ref().and_then(|old| old.prepared.timer.as_ref()) {
        // At its next attempt it would find that its transaction is gone, and end by itself.
        let _ = actor.kill(&timer.process);
    }
    if let Some(armed) = armed {
        armed.release();
    }
    *held = Some(entered);
    actor.reach("prepared");
    Ok(Reply::Prepared)
}

/// Has each program read the configuration that it is to get, so that no host votes for one that does not work.
fn try_configurations(actor: &dyn Actor, request: &Prepare) -> Result<()> {
    let edits = request.journal.steps().filter_map(|step| step.edit.of::<DaemonConfiguration>());
    for KeyedEdit { key, after, .. } in edits {
        if let Some(after) = after {
            actor.try_out(key, after)?;
        }
    }
    Ok(())
}

/// Installs the boot unit, and what belongs to it for the interfaces of all topologies, if anything of it is missing.
fn install_unit(actor: &dyn Actor, request: &Prepare, observed: &Observation) -> Result<()> {
    let state = &observed.state;
    let after =
        request.settled.as_ref().map(|settled| link_managers::carriers(&settled.state, state));
    let receipts = request.receipt_after.iter().chain(observed.others.values());
    let mut needs = UnitNeeds::of(receipts, state);
    needs.carriers.extend(after.into_iter().flatten());
    if actor.boot_unit(&needs).is_lacking() {
        actor.install_boot_unit(&needs)?;
    }
    Ok(())
}

/// Starts the revert timer, if `request` asks for one.
fn arm(
    store: &dyn Store,
    actor: &dyn Actor,
    request: &Prepare,
) -> Result<Option<(Box<dyn ArmedTimer>, TimerRecord)>> {
    let Some(after) = request.revert else { return Ok(None) };
    let order = due(actor, request, after);
    let armed = actor.arm(store.root(), &order)?;
    let RevertOrder { withdraw_at_ms, build_at_ms, .. } = order;
    let timer = TimerRecord { process: armed.process()?, withdraw_at_ms, build_at_ms };
    Ok(Some((armed, timer)))
}

/// Another topology's open transaction, an abort of which may put back an item that this one changes or
/// relies on. Where no connection holds that transaction and no timer undoes it, waiting does not help: an
/// error names the way out.
fn overlap(
    store: &dyn Store,
    actor: &dyn Actor,
    request: &Prepare,
    observed: &Observation,
) -> Result<Option<Busy>> {
    let Prepare { journal, receipt, receipt_after, .. } = request;
    for (topology, theirs) in &observed.open_elsewhere {
        let (touched, receipt_after) = (&journal.touched, receipt_after.as_ref());
        let mut both = other_topologies::overlap(theirs, touched, receipt_after);
        both.extend(other_topologies::left_to(topology, receipt, receipt_after, observed));
        if both.is_empty() {
            continue;
        }
        let open = journal::read(store, topology)?;
        let holder = open.as_ref().and_then(|open| open.holder(actor));
        let reverts_in_ms = open.as_ref().and_then(|open| open.reverts_in_ms(actor));
        if holder.is_none() && reverts_in_ms.is_none() {
            let Obstacle { message, why, cure } =
                other_topologies::overlaps(topology, theirs, &journal.topology, &both);
            return Err(Error::new(message).because(why).cure(cure));
        }
        return Ok(Some(Busy {
            topology: topology.clone(),
            transaction: Some(theirs.transaction.clone()),
            holder,
            reverts_in_ms,
        }));
    }
    Ok(None)
}

/// When the timer is due, counted from now.
fn due(actor: &dyn Actor, request: &Prepare, after: RevertAfter) -> RevertOrder {
    let now = actor.boottime_ms();
    let RevertAfter { withdraw_ms, build_ms } = after;
    RevertOrder {
        topology: request.journal.topology.clone(),
        transaction: request.journal.transaction.clone(),
        withdraw_at_ms: withdraw_ms.map(|after| now.saturating_add(after.into())),
        build_at_ms: now.saturating_add(build_ms.into()),
    }
}

/// The sysctls to read, to compare the host with the plan's observation and to undo later.
fn sysctls_to_read(request: &Prepare) -> BTreeSet<Sysctl> {
    let named = request.expected.items.iter().chain(&request.journal.touched);
    let named = named.filter_map(|item| match item {
        Item::Sysctl(key) => Some(key.clone()),
        _ => None,
    });
    request.sysctls.iter().cloned().chain(named).collect()
}

/// Whether the parts of the request fit together.
fn check(request: &Prepare) -> Result<()> {
    let Prepare {
        journal,
        expected,
        receipt_before,
        receipt: working,
        receipt_after,
        settled: _,
        revert,
        idle_limit_s,
        sysctls: _,
    } = request;
    if journal.version != JOURNAL_VERSION {
        return Err(Error::new(format!(
            "a journal of format {} cannot be written: this lvsprov knows format {JOURNAL_VERSION}",
            journal.version
        )));
    }
    check_operator(&journal.by)?;
    check_idle_limit(*idle_limit_s)?;
    let receipts = [receipt_before.as_ref(), Some(working), receipt_after.as_ref()];
    for named in receipts.into_iter().flatten() {
        if named.topology != journal.topology {
            return Err(Error::new(format!(
                "the receipt of {} was sent with a transaction of {}",
                named.topology, journal.topology
            )));
        }
        if named.version != RECEIPT_VERSION {
            return Err(Error::new(format!(
                "a receipt of format {} cannot be written: this lvsprov knows format {RECEIPT_VERSION}",
                named.version
            )));
        }
    }
    if let Some(step) = journal.steps().find(|s| !journal.touched.contains(&s.edit.item())) {
        return Err(Error::new(format!(
            "{}: the journal lacks the state before: it could not be undone",
            step.edit
        )));
    }
    if let Some(step) = journal.steps().find(|s| !expected.items.contains(&s.edit.item())) {
        return Err(Error::new(format!(
            "{}: the plan lacks the state that it expects: whether the host changed cannot be checked",
            step.edit
        )));
    }
    if let Some(RevertAfter { withdraw_ms, build_ms }) = revert {
        for after in withdraw_ms.iter().chain([build_ms]) {
            in_range("the time to revert in milliseconds", *after, 1000, 86_400_000)?;
        }
    }
    Ok(())
}

/// The receipt that an abort puts back must be the present one, or the one before the transaction that is
/// taken over.
fn check_before(
    request: &Prepare,
    old: Option<&TransactionFiles>,
    present: Option<&Receipt>,
) -> Result<()> {
    let before = old.map_or(present, |old| old.receipt_before.as_ref());
    if request.receipt_before.as_ref() == before {
        return Ok(());
    }
    Err(Error::new("the receipt to which undoing leads back is not the one on this host")
        .cure("this is a fault of lvsprov: please report it"))
}
