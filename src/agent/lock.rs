//! One at a time: a request that changes a host takes a lock while it is carried out, so that the steps
//! of two runs never mix.
//!
//! Between requests nothing is locked: who works at a transaction then is told by its journal
//! ([`super::journal`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;
use tokio::time::Instant;

use super::disk::{cannot_io, make_folder};
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;

/// What the holder writes into the file has this length, so that it needs no new room on the disk.
const SIGNATURE: usize = 128;

/// How often a lock that is held is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// HeldTransaction until it is dropped, at the latest until the process ends: no stale lock is left behind.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<File>);

/// Who holds it, by what is written there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldBy {
    /// The process and since when, in seconds since 1970; `None`: it has not signed yet.
    pub process: Option<(u32, u64)>,
    /// For which topology.
    pub topology: Option<TopologyName>,
}

impl HeldBy {
    /// As an error, for who cannot wait.
    pub fn into_error(self) -> Error {
        let who = match self.process {
            Some((pid, since)) => format!("process {pid}, for {} s", now().saturating_sub(since)),
            None => "a process that just started".to_owned(),
        };
        Error::new(format!("another lvsprov is changing this host: {who}")).cure(
            "wait until it is done, then plan again: it may change what this plan starts from",
        )
    }
}

/// Takes `STATE_DIR/lock` without waiting.
pub fn take(state_dir: &Path) -> Result<Lock> {
    try_take(state_dir, None)?.map_err(HeldBy::into_error)
}

/// Takes it as soon as it is free, within `patience`; `Ok(Err)`: it was held all the time.
pub async fn wait(
    state_dir: &Path,
    topology: &TopologyName,
    patience: Duration,
) -> Result<std::result::Result<Lock, HeldBy>> {
    let deadline = Instant::now() + patience;
    loop {
        match try_take(state_dir, Some(topology))? {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            other => return Ok(other),
        }
    }
}

fn try_take(
    state_dir: &Path,
    topology: Option<&TopologyName>,
) -> Result<std::result::Result<Lock, HeldBy>> {
    make_folder(state_dir)?;
    let path = state_dir.join("lock");
    let failed = |error| cannot_io("lock", &path, error);
    let file = open(&path).map_err(failed)?;
    if !file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 1) {
        return Err(Error::new(format!("{} is no plain file", path.display())));
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // Only ever read by people: a disk without room is no reason not to undo.
            let _ = sign(&mut lock, topology);
            Ok(Ok(Lock(lock)))
        }
        Err((file, Errno::EWOULDBLOCK)) => Ok(Err(read(file))),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// A lock needs no writing: one that is there is taken on a read-only file system too.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NOFOLLOW);
    let made = options.clone().write(true).create(true).truncate(false).mode(0o600).open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            options.open(path).map_err(|_| error)
        }
        other => other,
    }
}

/// Writes who holds it: process id, the time in seconds since 1970, for which topology.
fn sign(file: &mut File, topology: Option<&TopologyName>) -> io::Result<()> {
    let topology = topology.map_or("", TopologyName::as_str);
    let text = format!("{} {} {topology}", std::process::id(), now());
    writeln!(file, "{text:<width$}", width = SIGNATURE - 1)?;
    file.flush()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn read(file: File) -> HeldBy {
    let mut text = String::new();
    let _ = file.take(SIGNATURE as u64).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<u64>().ok();
    let process = number().and_then(|pid| Some((u32::try_from(pid).ok()?, number()?)));
    HeldBy { process, topology: words.next().and_then(|name| name.parse().ok()) }
}
