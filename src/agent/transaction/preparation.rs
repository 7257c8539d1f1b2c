//! Writing down a transaction before anything is changed: see [`super::journal`] for the files.

use std::io;
use std::path::{Path, PathBuf};

use super::actor::Actor;
use super::journal::{self, TransactionFiles};
use super::phase::Phase;
use super::receipt::{self, WrittenReceipt};
use super::records::{self, HolderRecord, PreparedRecord, TimerRecord};
use super::settled::{self, SettledChange};
use super::store::{Store, cannot_io, sync_parent, write_durably};
use crate::kernel::error::{Error, Result};
use crate::protocol::Prepare;
use crate::state::Receipt;

/// What is to be written.
#[derive(Debug)]
pub(super) struct Preparation<'a> {
    /// The request.
    pub request: &'a Prepare,
    /// The present receipt.
    pub receipt: Option<&'a Receipt>,
    /// The open transaction that this one takes over.
    pub old: Option<&'a TransactionFiles>,
    /// The revert timer.
    pub timer: Option<TimerRecord>,
    /// The connection that will hold it.
    pub holder: &'a HolderRecord,
}

/// On the disk already, but without the journal's name: the rest needs no room. Dropped without
/// [`WrittenPreparation::rename`] it is removed.
#[derive(Debug)]
pub(super) struct WrittenPreparation<'s> {
    store: &'s dyn Store,
    actor: &'s dyn Actor,
    folder: PathBuf,
    temporary: PathBuf,
    target: PathBuf,
    receipt: Option<WrittenReceipt<'s>>,
    old_folder: Option<PathBuf>,
    stays: bool,
}

/// Why it could not be prepared.
#[derive(Debug)]
pub(super) struct PrepareError {
    /// What went wrong.
    pub error: Error,
    /// Whether the journal stays all the same: no step was executed, and it is to be aborted.
    pub journal_stays: bool,
}

impl WrittenPreparation<'_> {
    /// Prepares the transaction. If this fails, nothing is prepared; or the journal stays although no step
    /// was executed, where it could not be taken back: another transaction was taken over and is gone, or
    /// the receipt may name the items of this one already.
    pub fn rename(mut self) -> std::result::Result<(), PrepareError> {
        let result = self.try_rename();
        let journal_stays = self.stays;
        result.map_err(|error| {
            let error = if journal_stays { error.cure(JOURNAL_STAYS) } else { error };
            PrepareError { error, journal_stays }
        })
    }

    fn try_rename(&mut self) -> Result<()> {
        let failed = |error| cannot_io("write", &self.target, error);
        self.store.rename(&self.temporary, &self.target).map_err(failed)?;
        // From here on the journal that was taken over is gone.
        self.stays = self.old_folder.is_some();
        sync_parent(self.store, &self.target).map_err(failed)?;
        self.actor.reach("journal");
        // It is durable. If the receipt gets its name and the sync fails, the journal leads back.
        self.stays = true;
        if let Some(receipt) = self.receipt.take() {
            receipt.rename()?;
        }
        if let Some(old) = &self.old_folder {
            let _ = self.store.remove_tree(old);
        }
        if let Some(parent) = self.folder.parent() {
            records::forget_reverted(self.store, parent);
        }
        Ok(())
    }
}

/// What to do about a journal that stays though preparing it failed.
const JOURNAL_STAYS: &str = "nothing was changed, but the journal is written: see what is wrong with that file \
                             system, then `lvsprov rollback` closes it, or `lvsprov apply` takes it over";

impl Drop for WrittenPreparation<'_> {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if self.old_folder.is_none() {
            let _ = self.store.remove(&self.target);
        }
        let _ = self.store.remove(&self.temporary);
        let _ = self.store.remove_tree(&self.folder);
        drop(self.receipt.take());
        // Made for this, if it is empty.
        if let Some(parent) = self.folder.parent() {
            let _ = self.store.remove_folder(parent);
        }
    }
}

/// Writes everything to the disk, under names that are not read yet.
pub(super) fn write<'s>(
    store: &'s dyn Store,
    actor: &'s dyn Actor,
    preparation: &Preparation<'_>,
) -> Result<WrittenPreparation<'s>> {
    let Preparation { request, receipt: present, old, timer: _, holder: _ } = preparation;
    let id = &request.journal.transaction;
    let topology = &request.journal.topology;
    if old.is_some_and(|old| old.journal.transaction == *id) {
        return Err(Error::new(format!("the transaction {id} was prepared here already")));
    }
    let root = store.root();
    store.make_folder(root)?;
    let parent = root.join(topology.as_str());
    store.make_folder(&parent)?;
    journal::sweep(store, &parent, old.map(|old| &old.journal.transaction));
    let mut written = WrittenPreparation {
        store,
        actor,
        folder: journal::folder(root, topology, id),
        temporary: parent.join(".journal.json.new"),
        target: journal::path(root, topology),
        receipt: None,
        old_folder: old.map(|old| journal::folder(root, topology, &old.journal.transaction)),
        stays: false,
    };
    if *present != Some(&request.receipt) {
        written.receipt = Some(receipt::write_beside(store, &request.receipt)?);
    }
    let failed = |error| cannot_io("write", &written.target, error);
    store.make_new_folder(&written.folder).map_err(failed)?;
    fill(&written, preparation)?;
    let text = serde_json::to_vec(&request.journal).map_err(|error| failed(error.into()))?;
    write_durably(store, &written.temporary, &text)
        .and_then(|()| store.sync_folder(&parent))
        .and_then(|()| store.sync_folder(root))
        .map_err(failed)?;
    Ok(written)
}

/// Writes all files of the transaction's own folder.
fn fill(written: &WrittenPreparation<'_>, preparation: &Preparation<'_>) -> Result<()> {
    let Preparation { request, receipt: _, old, timer, holder } = preparation;
    let WrittenPreparation { store, actor, folder, .. } = written;
    let (store, actor) = (*store, *actor);
    let topology = &request.journal.topology;
    let current = receipt::path(store.root(), topology);
    if let Some(before) = &request.receipt_before {
        let source = old.map_or(current.clone(), |old| {
            journal::before_path(store, topology, &old.journal.transaction, old.phase)
        });
        keep(store, &source, &folder.join("before.json"), before)?;
    }
    if let Some(receipt_after) = &request.receipt_after {
        let target = folder.join("committed.json");
        let working = written.receipt.as_ref().map_or(current.as_path(), WrittenReceipt::file);
        if *receipt_after == request.receipt {
            keep(store, working, &target, receipt_after)?;
        } else {
            let text = receipt::text(receipt_after).map_err(|e| cannot_io("write", &target, e))?;
            write_file(store, &target, &text)?;
        }
    }
    if let Some(settled) = &request.settled {
        let target = folder.join(settled::FILE);
        let text = settled.text().map_err(|e| cannot_io("write", &target, e.into()))?;
        write_file(store, &target, &text)?;
    }
    let run = actor.run()?;
    let prepared = PreparedRecord {
        boot: run.boot,
        init: run.init,
        namespace: run.namespace,
        has_before: request.receipt_before.is_some(),
        has_committed: request.receipt_after.is_some(),
        settled: SettledChange::of(request),
        timer: timer.clone(),
    };
    let notes: Vec<String> = Vec::new();
    let text = |text: io::Result<Vec<u8>>| text.map_err(|error| cannot_io("write", folder, error));
    let now = actor.boottime_ms();
    let files = [
        ("prepared.json", text(serde_json::to_vec(&prepared).map_err(Into::into))?),
        ("holder.json", text(records::padded(holder, records::HOLDER_SIZE))?),
        ("last_request", text(records::padded(&now, records::LAST_REQUEST_SIZE))?),
        ("notes.json", text(records::padded(&notes, records::NOTES_SIZE))?),
        (Phase::Prepared.file(), Vec::new()),
    ];
    for (name, text) in files {
        write_file(store, &folder.join(name), &text)?;
    }
    store.sync_folder(folder).map_err(|error| cannot_io("write", folder, error))
}

/// A second name for a receipt that is on the disk already; where the file system has no such thing, a
/// copy.
fn keep(store: &dyn Store, source: &Path, target: &Path, receipt: &Receipt) -> Result<()> {
    if store.link(source, target).is_ok() {
        return Ok(());
    }
    let text = receipt::text(receipt).map_err(|error| cannot_io("write", target, error))?;
    write_file(store, target, &text)
}

fn write_file(store: &dyn Store, path: &Path, text: &[u8]) -> Result<()> {
    write_durably(store, path, text).map_err(|error| cannot_io("write", path, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::agent::process::Process;
    use crate::agent::{Disk, LocalHost};
    use crate::protocol::Decision;
    use crate::state::RECEIPT_VERSION;
    use crate::state::{
        Expected, HostState, Intent, JOURNAL_VERSION, Journal, Operator, Owned, TransactionId,
    };

    fn operator() -> Operator {
        Operator { user: "ann".to_owned(), host: "desk".to_owned(), pid: 7 }
    }

    fn begin(number: u64) -> Prepare {
        let topology: crate::names::TopologyName = "t".parse().unwrap();
        let receipt = Receipt {
            version: RECEIPT_VERSION,
            topology: topology.clone(),
            since: number,
            owned: Owned::new(),
            found: HostState::default(),
            run: None,
            settled: None,
            maintenance: crate::state::Maintenance::default(),
            drift: None,
            external: crate::state::ExternalWeights::default(),
        };
        let journal = Journal {
            version: JOURNAL_VERSION,
            topology,
            transaction: TransactionId::from_bits(number),
            intent: Intent::Apply,
            by: operator(),
            since: 0,
            hosts: ["a".parse().unwrap()].into(),
            stages: Vec::new(),
            touched: Owned::new(),
            before: HostState::default(),
        };
        let (items, state) = (Owned::new(), HostState::default());
        Prepare {
            journal,
            expected: Expected {
                receipt: None,
                open_transaction: None,
                items,
                state,
                owners: [].into(),
            },
            receipt_before: None,
            receipt_after: Some(receipt.clone()),
            receipt,
            settled: None,
            revert: None,
            idle_limit_s: 600,
            sysctls: std::collections::BTreeSet::new(),
        }
    }

    fn prepared<'s>(
        store: &'s Disk,
        actor: &'s LocalHost,
        begin: &Prepare,
    ) -> WrittenPreparation<'s> {
        let topology = &begin.journal.topology;
        let old = journal::read(store, topology).unwrap();
        let holder = HolderRecord {
            process: Process::own().unwrap(),
            connection: "x".to_owned(),
            by: operator(),
            from: None,
            since_ms: 0,
            idle_limit_s: 600,
        };
        let present = receipt::read(store, topology).unwrap();
        let (old, receipt) = (old.as_ref(), present.as_ref());
        let preparation =
            Preparation { request: begin, receipt, old, timer: None, holder: &holder };
        write(store, actor, &preparation).unwrap()
    }

    /// Renaming goes through a symbolic link in the place of the folder, flushing the folder does not.
    fn with_folder_that_cannot_be_flushed<T>(state_dir: &Path, work: impl FnOnce() -> T) -> T {
        let (folder, away) = (state_dir.join("t"), state_dir.join(".away"));
        fs::rename(&folder, &away).unwrap();
        symlink(&away, &folder).unwrap();
        let result = work();
        fs::remove_file(&folder).unwrap();
        fs::rename(&away, &folder).unwrap();
        result
    }

    #[test]
    fn a_journal_that_has_taken_over_and_is_not_flushed_lies_there_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (store, actor) = (Disk::new(folder.path()), LocalHost::default());
        let (first, second) = (begin(1), begin(2));
        prepared(&store, &actor, &first).rename().unwrap();
        let prepared = prepared(&store, &actor, &second);
        let failed =
            with_folder_that_cannot_be_flushed(folder.path(), || prepared.rename().unwrap_err());
        assert!(failed.journal_stays, "{:?}", failed.error);
        let open = journal::read(&store, &second.journal.topology).unwrap().unwrap();
        assert_eq!(open.journal, second.journal);
        assert!(failed.error.to_failure().cure.unwrap().contains("rollback"));
    }

    #[test]
    fn a_journal_that_has_taken_nothing_over_and_is_not_flushed_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (store, actor, first) = (Disk::new(folder.path()), LocalHost::default(), begin(1));
        let prepared = prepared(&store, &actor, &first);
        let failed =
            with_folder_that_cannot_be_flushed(folder.path(), || prepared.rename().unwrap_err());
        assert!(!failed.journal_stays);
        assert!(journal::read(&store, &first.journal.topology).unwrap().is_none());
    }

    #[test]
    fn where_the_receipt_does_not_get_its_name_the_journal_stays_and_leads_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, actor, first) = (Disk::new(folder.path()), LocalHost::default(), begin(1));
        let topology = &first.journal.topology;
        let prepared = prepared(&store, &actor, &first);
        let place = receipt::path(folder.path(), topology);
        fs::create_dir(&place).unwrap();
        let failed = prepared.rename().unwrap_err();
        assert!(failed.journal_stays, "{:?}", failed.error);
        fs::remove_dir(&place).unwrap();
        let open = journal::read(&store, topology).unwrap().unwrap();
        assert_eq!(open.journal, first.journal);
        journal::close(&store, &actor, &open, Decision::Abort).unwrap();
        assert!(!folder.path().join("t").exists());
    }
}
