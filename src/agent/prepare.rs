//! Beginning a transaction: whether it may, and everything on the disk before anything is touched.

use std::collections::BTreeSet;
use std::path::Path;

use super::journal::{self, Transaction};
use super::phase::Phase;
use super::preparation::{self, Preparation};
use super::records::Timer;
use super::transaction::{
    BEGIN_PATIENCE, HeldTransaction, busy, busy_now, check_idle_limit, check_operator, holder, root,
};
use super::{Host, lock, look, process, receipt, revert};
use crate::kernel::error::{Error, Result};
use crate::kernel::fault;
use crate::plan::neighbours;
use crate::plan::preflight::Obstacle;
use crate::protocol::{Busy, Prepare, Reply, RevertAfter};
use crate::state::{Item, JOURNAL_VERSION, Observation, RECEIPT_VERSION, Receipt, Sysctl};

/// See [`crate::protocol::Request::Prepare`].
pub(super) async fn prepare(host: &mut Host, begin: &Prepare) -> Result<Reply> {
    root()?;
    check(begin)?;
    let (state_dir, topology) = (host.state_dir.clone(), &begin.journal.topology);
    let _lock = match lock::wait(&state_dir, topology, BEGIN_PATIENCE).await? {
        Ok(lock) => lock,
        Err(held) => return Ok(busy_now(&state_dir, topology, held)),
    };
    let old = journal::read(&state_dir, topology)?;
    if let Some(busy) = old.as_ref().and_then(|old| busy(old, host.held.as_ref(), false)) {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let seen = look::look(&state_dir, topology, &to_read(begin), false).await?;
    let differences = begin.expected.differences(&seen);
    if !differences.is_empty() {
        return Ok(Reply::Changed(differences));
    }
    if let Some(busy) = overlap(&state_dir, begin, &seen)? {
        return Ok(Reply::Busy(Box::new(busy)));
    }
    let owners = neighbours::owners(&begin.receipt, begin.settled.as_ref(), &seen);
    let differences = begin.expected.other_owners(&owners);
    if !differences.is_empty() {
        return Ok(Reply::Changed(differences));
    }
    check_before(begin, old.as_ref(), seen.receipt.as_ref())?;
    fault::at("prepare");

    let order = begin.revert.map(|after| due(begin, after));
    let armed =
        order.as_ref().map(|order| revert::arm(&host.program, &state_dir, order)).transpose()?;
    let timer = match (order, &armed) {
        (Some(revert::RevertOrder { withdraw_at_ms, build_at_ms, .. }), Some(armed)) => {
            Some(Timer { process: armed.process()?, withdraw_at_ms, build_at_ms })
        }
        _ => None,
    };
    let holder = holder(&begin.journal.by, begin.idle_limit_s)?;
    let receipt = seen.receipt.as_ref();
    let opening = Preparation { begin, receipt, old: old.as_ref(), timer, holder: &holder };
    if let Err(failed) = preparation::prepare(&state_dir, &opening)?.commit() {
        if failed.is_there {
            // Whoever began it may close it; its timer ends here, as there is nothing to undo.
            host.held = Some(HeldTransaction::new(&begin.journal, &holder, Phase::Prepared, None));
        }
        return Err(failed.error);
    }
    if let Some(timer) = old.as_ref().and_then(|old| old.begun.timer.as_ref()) {
        // It would see at its next try that there is nothing left for it, and end by itself.
        let _ = timer.process.end();
    }
    let timer = armed.and_then(revert::Armed::release);
    host.held = Some(HeldTransaction::new(&begin.journal, &holder, Phase::Prepared, timer));
    fault::at("prepared");
    Ok(Reply::Prepared)
}

/// Another topology that may still put back what is to be touched, or relied on. Where nobody works at
/// that and nothing undoes it, waiting helps nobody: an error says what does.
fn overlap(state_dir: &Path, begin: &Prepare, seen: &Observation) -> Result<Option<Busy>> {
    let Prepare { journal, receipt, settled, .. } = begin;
    for (topology, theirs) in &seen.unfinished_elsewhere {
        let (touched, settled) = (&journal.touched, settled.as_ref());
        let mut both = neighbours::overlap(theirs, touched, settled);
        both.extend(neighbours::left_to(topology, receipt, settled, seen));
        if both.is_empty() {
            continue;
        }
        let open = journal::read(state_dir, topology)?;
        let holder = open.as_ref().and_then(Transaction::holder);
        let reverts_in_ms = open.as_ref().and_then(Transaction::reverts_in_ms);
        if holder.is_none() && reverts_in_ms.is_none() {
            let Obstacle { message, why, cure } =
                neighbours::overlaps(topology, theirs, &journal.topology, &both);
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
fn due(begin: &Prepare, after: RevertAfter) -> revert::RevertOrder {
    let now = process::boottime_ms();
    let RevertAfter { withdraw_ms, build_ms } = after;
    revert::RevertOrder {
        topology: begin.journal.topology.clone(),
        transaction: begin.journal.transaction.clone(),
        withdraw_at_ms: withdraw_ms.map(|after| now.saturating_add(after.into())),
        build_at_ms: now.saturating_add(build_ms.into()),
    }
}

/// What must be read to compare the host with what the plan saw, and to undo later.
fn to_read(begin: &Prepare) -> BTreeSet<Sysctl> {
    let named = begin.expected.items.iter().chain(&begin.journal.touched);
    let named = named.filter_map(|item| match item {
        Item::Sysctl(key) => Some(key.clone()),
        _ => None,
    });
    begin.sysctls.iter().cloned().chain(named).collect()
}

/// Whether what was asked for fits together.
fn check(begin: &Prepare) -> Result<()> {
    let Prepare {
        journal,
        expected,
        receipt_before,
        receipt: working,
        settled,
        revert,
        idle_limit_s,
        sysctls: _,
    } = begin;
    if journal.version != JOURNAL_VERSION {
        return Err(Error::new(format!(
            "a journal of format {} cannot be written: this lvsprov knows format {JOURNAL_VERSION}",
            journal.version
        )));
    }
    check_operator(&journal.by)?;
    check_idle_limit(*idle_limit_s)?;
    let receipts = [receipt_before.as_ref(), Some(working), settled.as_ref()];
    for named in receipts.into_iter().flatten() {
        if named.topology != journal.topology {
            return Err(Error::new(format!(
                "the receipt of {} was sent with a transaction of {}",
                named.topology, journal.topology
            )));
        }
        if !receipt::is_known(named.version) {
            return Err(Error::new(format!(
                "a receipt of format {} cannot be written: this lvsprov knows formats up to {}",
                named.version, RECEIPT_VERSION
            )));
        }
    }
    if let Some(step) = journal.steps().find(|s| !journal.touched.contains(&s.change.item())) {
        return Err(Error::new(format!(
            "{}: the journal does not say what was there before: it could not be undone",
            step.change
        )));
    }
    if let Some(step) = journal.steps().find(|s| !expected.items.contains(&s.change.item())) {
        return Err(Error::new(format!(
            "{}: the plan does not say what it saw there: whether that is still so cannot be told",
            step.change
        )));
    }
    if let Some(RevertAfter { withdraw_ms, build_ms }) = revert {
        for after in withdraw_ms.iter().chain([build_ms]) {
            super::in_range("the time to revert in milliseconds", *after, 1000, 86_400_000)?;
        }
    }
    Ok(())
}

/// What undoing puts back must be what is there: the receipt now, or the one before what is taken over.
fn check_before(begin: &Prepare, old: Option<&Transaction>, there: Option<&Receipt>) -> Result<()> {
    let before = old.map_or(there, |old| old.receipt_before.as_ref());
    if begin.receipt_before.as_ref() == before {
        return Ok(());
    }
    Err(Error::new("the receipt to which undoing leads back is not the one on this host")
        .cure("this is a fault of lvsprov: please report it"))
}
