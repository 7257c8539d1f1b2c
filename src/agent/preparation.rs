//! Writing down a transaction before anything is touched: see [`super::journal`] for what lies where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{cannot_io, make_folder, sync_folder, sync_parent, write_new};
use super::journal::{self, Transaction};
use super::phase::Phase;
use super::records::{self, HolderRecord, PreparedRecord, Timer};
use super::{process, receipt};
use crate::kernel::error::{Error, Result};
use crate::kernel::fault;
use crate::kernel::namespace::NamespaceId;
use crate::protocol::Prepare;
use crate::state::Receipt;

/// What is to be written.
#[derive(Debug)]
pub(super) struct Preparation<'a> {
    /// What was asked for.
    pub begin: &'a Prepare,
    /// The receipt that is there.
    pub receipt: Option<&'a Receipt>,
    /// What is taken over.
    pub old: Option<&'a Transaction>,
    /// Who undoes it.
    pub timer: Option<Timer>,
    /// Who works at it.
    pub holder: &'a HolderRecord,
}

/// On the disk already, but not begun: what is left to do needs no room. Dropped without
/// [`Prepared::commit`] it goes away.
#[derive(Debug)]
pub(super) struct Prepared {
    folder: PathBuf,
    temporary: PathBuf,
    target: PathBuf,
    receipt: Option<receipt::Prepared>,
    old_folder: Option<PathBuf>,
    committed: bool,
}

/// Why it could not be begun.
#[derive(Debug)]
pub(super) struct PrepareError {
    /// What went wrong.
    pub error: Error,
    /// Whether the journal lies there all the same: nothing was done, and it is to be settled as undone.
    pub is_there: bool,
}

impl Prepared {
    /// Begins it. If this fails, nothing is begun; or the journal lies there and nothing was done, where
    /// that could not be taken back: another transaction was taken over and is gone, or the receipt may
    /// speak of this one already.
    pub fn commit(mut self) -> std::result::Result<(), PrepareError> {
        let result = self.try_commit();
        let is_there = self.committed;
        result.map_err(|error| {
            let error = if is_there { error.cure(LEFT) } else { error };
            PrepareError { error, is_there }
        })
    }

    fn try_commit(&mut self) -> Result<()> {
        let failed = |error| cannot_io("write", &self.target, error);
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        // From here on the journal that was taken over is gone.
        self.committed = self.old_folder.is_some();
        sync_parent(&self.target).map_err(failed)?;
        fault::at("journal");
        // It is durable. The receipt may get its name and that not be known to be: then the journal is
        // what leads back.
        self.committed = true;
        if let Some(receipt) = self.receipt.take() {
            receipt.commit()?;
        }
        if let Some(old) = &self.old_folder {
            let _ = fs::remove_dir_all(old);
        }
        if let Some(parent) = self.folder.parent() {
            records::forget_reverted(parent);
        }
        Ok(())
    }
}

/// What to do about a journal that lies there though beginning it failed.
const LEFT: &str = "nothing was changed, but the journal is written: see what is wrong with that file \
                    system, then `lvsprov rollback` closes it, or `lvsprov apply` takes it over";

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if self.old_folder.is_none() {
            let _ = fs::remove_file(&self.target);
        }
        let _ = fs::remove_file(&self.temporary);
        let _ = fs::remove_dir_all(&self.folder);
        drop(self.receipt.take());
        // Made for this, if it is empty.
        if let Some(parent) = self.folder.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Writes everything to the disk, under names that nobody reads yet.
pub(super) fn prepare(state_dir: &Path, opening: &Preparation<'_>) -> Result<Prepared> {
    let Preparation { begin, receipt: there, old, timer: _, holder: _ } = opening;
    let id = &begin.journal.transaction;
    let topology = &begin.journal.topology;
    if old.is_some_and(|old| old.journal.transaction == *id) {
        return Err(Error::new(format!("the transaction {id} was begun here already")));
    }
    make_folder(state_dir)?;
    let parent = state_dir.join(topology.as_str());
    make_folder(&parent)?;
    journal::sweep(&parent, old.map(|old| &old.journal.transaction));
    let mut prepared = Prepared {
        folder: journal::folder(state_dir, topology, id),
        temporary: parent.join(".journal.json.new"),
        target: journal::path(state_dir, topology),
        receipt: None,
        old_folder: old.map(|old| journal::folder(state_dir, topology, &old.journal.transaction)),
        committed: false,
    };
    if *there != Some(&begin.receipt) {
        prepared.receipt = Some(receipt::prepare(state_dir, &begin.receipt, "new")?);
    }
    let failed = |error| cannot_io("write", &prepared.target, error);
    journal::make(&prepared.folder).map_err(failed)?;
    fill(state_dir, &prepared, opening)?;
    let text = serde_json::to_vec(&begin.journal).map_err(|error| failed(error.into()))?;
    write_new(&prepared.temporary, &text)
        .and_then(|()| sync_folder(&parent))
        .and_then(|()| sync_folder(state_dir))
        .map_err(failed)?;
    Ok(prepared)
}

/// All files of the transaction's own folder.
fn fill(state_dir: &Path, prepared: &Prepared, opening: &Preparation<'_>) -> Result<()> {
    let Preparation { begin, receipt: _, old, timer, holder } = opening;
    let topology = &begin.journal.topology;
    let folder = &prepared.folder;
    let current = receipt::path(state_dir, topology);
    if let Some(before) = &begin.receipt_before {
        let source = old.map_or(current.clone(), |old| {
            journal::before_path(state_dir, topology, &old.journal.transaction, old.phase)
        });
        keep(&source, &folder.join("before.json"), before)?;
    }
    if let Some(settled) = &begin.settled {
        let target = folder.join("committed.json");
        let working = prepared.receipt.as_ref().map_or(current.as_path(), receipt::Prepared::file);
        if *settled == begin.receipt {
            keep(working, &target, settled)?;
        } else {
            write(&target, &receipt::text(settled).map_err(|e| cannot_io("write", &target, e))?)?;
        }
    }
    let begun = PreparedRecord {
        boot: process::boot_id()?,
        init: process::init_start(),
        namespace: NamespaceId::current().ok(),
        has_before: begin.receipt_before.is_some(),
        has_settled: begin.settled.is_some(),
        timer: timer.clone(),
    };
    let told: Vec<String> = Vec::new();
    let text = |text: io::Result<Vec<u8>>| text.map_err(|error| cannot_io("write", folder, error));
    let files = [
        ("prepared.json", text(serde_json::to_vec(&begun).map_err(Into::into))?),
        ("holder.json", text(records::padded(holder, records::HOLDER_SIZE))?),
        ("last_request", text(records::padded(&process::boottime_ms(), records::HEARD_SIZE))?),
        ("notes.json", text(records::padded(&told, records::NOTES_SIZE))?),
        (Phase::Prepared.file(), Vec::new()),
    ];
    for (name, text) in files {
        write(&folder.join(name), &text)?;
    }
    sync_folder(folder).map_err(|error| cannot_io("write", folder, error))
}

/// A second name for a receipt that is on the disk already; where the file system has no such thing, a
/// copy.
fn keep(source: &Path, target: &Path, receipt: &Receipt) -> Result<()> {
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    let text = receipt::text(receipt).map_err(|error| cannot_io("write", target, error))?;
    write(target, &text)
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    write_new(path, text).map_err(|error| cannot_io("write", path, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::protocol::Decision;
    use crate::state::RECEIPT_VERSION;
    use crate::state::{
        Expected, HostState, Intent, JOURNAL_VERSION, Journal, Operator, Owned, TransactionId,
    };

    fn somebody() -> Operator {
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
        };
        let journal = Journal {
            version: JOURNAL_VERSION,
            topology,
            transaction: TransactionId::from_bits(number),
            intent: Intent::Apply,
            by: somebody(),
            since: 0,
            hosts: ["a".parse().unwrap()].into(),
            stages: Vec::new(),
            touched: Owned::new(),
            before: HostState::default(),
        };
        let (items, state) = (Owned::new(), HostState::default());
        Prepare {
            journal,
            expected: Expected { receipt: None, unfinished: None, items, state, owners: [].into() },
            receipt_before: None,
            settled: Some(receipt.clone()),
            receipt,
            revert: None,
            idle_limit_s: 600,
            sysctls: std::collections::BTreeSet::new(),
        }
    }

    fn prepared(state_dir: &Path, begin: &Prepare) -> Prepared {
        let old = journal::read(state_dir, &begin.journal.topology).unwrap();
        let holder = HolderRecord {
            process: process::Process::own().unwrap(),
            connection: "x".to_owned(),
            by: somebody(),
            from: None,
            since_ms: 0,
            idle_limit_s: 600,
        };
        let there = receipt::read(state_dir, &begin.journal.topology).unwrap();
        let (old, receipt) = (old.as_ref(), there.as_ref());
        prepare(state_dir, &Preparation { begin, receipt, old, timer: None, holder: &holder })
            .unwrap()
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
        let state_dir = folder.path();
        let (first, second) = (begin(1), begin(2));
        prepared(state_dir, &first).commit().unwrap();
        let prepared = prepared(state_dir, &second);
        let failed =
            with_folder_that_cannot_be_flushed(state_dir, || prepared.commit().unwrap_err());
        assert!(failed.is_there, "{:?}", failed.error);
        let open = journal::read(state_dir, &second.journal.topology).unwrap().unwrap();
        assert_eq!(open.journal, second.journal);
        assert!(failed.error.to_failure().cure.unwrap().contains("rollback"));
    }

    #[test]
    fn a_journal_that_has_taken_nothing_over_and_is_not_flushed_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (state_dir, first) = (folder.path(), begin(1));
        let prepared = prepared(state_dir, &first);
        let failed =
            with_folder_that_cannot_be_flushed(state_dir, || prepared.commit().unwrap_err());
        assert!(!failed.is_there);
        assert!(journal::read(state_dir, &first.journal.topology).unwrap().is_none());
    }

    #[test]
    fn where_the_receipt_does_not_get_its_name_the_journal_stays_and_leads_back() {
        let folder = tempfile::tempdir().unwrap();
        let (state_dir, first) = (folder.path(), begin(1));
        let topology = &first.journal.topology;
        let prepared = prepared(state_dir, &first);
        let place = receipt::path(state_dir, topology);
        fs::create_dir(&place).unwrap();
        let failed = prepared.commit().unwrap_err();
        assert!(failed.is_there, "{:?}", failed.error);
        fs::remove_dir(&place).unwrap();
        let open = journal::read(state_dir, topology).unwrap().unwrap();
        assert_eq!(open.journal, first.journal);
        journal::settle(state_dir, &open, Decision::Abort).unwrap();
        assert!(!state_dir.join("t").exists());
    }
}
