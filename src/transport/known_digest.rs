//! The digest of a program, kept from one run to the next: every run over ssh needs the digest of the agent, and to read
//! and digest nine megabytes takes longer than all else that a run which changes nothing does on its own machine.
//!
//! It is kept beside the sockets of ssh, in a folder that only the present user can write to
//! ([`super::ssh`]'s `control`), together with the state of the file by stat(2). A file whose bytes changed has another
//! change time: no program can set that (`st_ctim` in inode(7)). The kernel's clock for it goes in steps of up to 10 ms,
//! so a file that has just changed is not recorded.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::visible::hex;
use crate::whole_file;

/// A file that changed later than this ago may change again without another change time.
const SETTLED: Duration = Duration::from_secs(2);

/// What was found out of a program file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KnownDigest {
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// The machine it is built for, as `uname -m` says it there.
    pub machine: String,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    file: FileState,
    known: KnownDigest,
}

impl FileState {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = u64::try_from(self.changed.0).unwrap_or(u64::MAX);
        let limit = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(SETTLED);
        Duration::from_secs(changed) < limit
    }
}

/// What was recorded in `folder` of the program at `path`, if it still is the file that was read then.
pub(super) fn recall(folder: &Path, path: &Path, found: &Metadata) -> Option<KnownDigest> {
    let text = fs::read(record_of(folder, path)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    // It becomes a word of a command on the hosts.
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    (record.file == FileState::of(found) && is_digest(&record.known.digest)).then_some(record.known)
}

/// Records it. `found` is the state of the open file before it was read. A record that cannot be written costs
/// the next run its time and nothing else.
pub(super) fn record(
    folder: &Path,
    path: &Path,
    found: &Metadata,
    known: &KnownDigest,
    now: SystemTime,
) {
    let file = FileState::of(found);
    let unchanged = fs::metadata(path).is_ok_and(|now| FileState::of(&now) == file);
    if !unchanged || !file.is_settled(now) {
        return;
    }
    let at = record_of(folder, path);
    let text = serde_json::to_vec(&Record { file, known: known.clone() });
    let written = text.map_err(Into::into).and_then(|t| whole_file::write(&at, &t, 0o600, true));
    if let Err(error) = written {
        tracing::debug!("the digest of {} is not recorded: {error}", path.display());
    }
}

/// One record for a path, so that old ones do not pile up.
fn record_of(folder: &Path, path: &Path) -> PathBuf {
    let name = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
    folder.join(format!("program-{}", name.get(..16).unwrap_or(&name)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    /// When a file that has just been written counts as settled.
    fn later() -> SystemTime {
        SystemTime::now() + SETTLED + Duration::from_secs(2)
    }

    fn program() -> tempfile::TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"new").unwrap();
        file.into_temp_path()
    }

    fn known(digest: &str) -> KnownDigest {
        KnownDigest { digest: digest.to_owned(), machine: "x86_64".to_owned() }
    }

    #[test]
    fn it_is_recalled_for_the_same_file_only() {
        let (folder, path) = (tempfile::tempdir().unwrap(), program());
        let found = fs::metadata(&path).unwrap();
        assert_eq!(recall(folder.path(), &path, &found), None);
        record(folder.path(), &path, &found, &known(&"a1".repeat(32)), later());
        assert_eq!(recall(folder.path(), &path, &found), Some(known(&"a1".repeat(32))));
        let other = File::open("/proc/self/stat").unwrap().metadata().unwrap();
        assert_eq!(recall(folder.path(), &path, &other), None);
        record(folder.path(), &path, &found, &known(&"b2".repeat(32)), later());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "old records pile up");
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_recorded() {
        let (folder, path) = (tempfile::tempdir().unwrap(), program());
        let found = fs::metadata(&path).unwrap();
        record(folder.path(), &path, &found, &known(&"a1".repeat(32)), SystemTime::now());
        assert_eq!(recall(folder.path(), &path, &found), None);
        let changed = Duration::from_secs(u64::try_from(found.ctime()).unwrap());
        let later = UNIX_EPOCH + changed + SETTLED + Duration::from_secs(1);
        assert!(FileState::of(&found).is_settled(later));
    }

    #[test]
    fn what_is_no_digest_is_not_believed() {
        let (folder, path) = (tempfile::tempdir().unwrap(), program());
        let found = fs::metadata(&path).unwrap();
        for wrong in ["", "$(reboot)", &"g1".repeat(32), &"a1".repeat(31)] {
            record(folder.path(), &path, &found, &known(wrong), later());
            assert_eq!(recall(folder.path(), &path, &found), None, "{wrong:?}");
        }
        fs::write(record_of(folder.path(), &path), "{\"file\":").unwrap();
        assert_eq!(recall(folder.path(), &path, &found), None);
    }
}
