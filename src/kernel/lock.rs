//! One at a time: acting on a host takes a lock, so that the steps of two runs never mix.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;

use super::error::{Error, Result};
use super::receipt::{cannot_io, make_folder};

/// Held until it is dropped, at the latest until the process ends: no stale lock is left behind.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<std::fs::File>);

/// Takes `STATE_DIR/lock` without waiting.
pub fn take(state_dir: &Path) -> Result<Lock> {
    make_folder(state_dir)?;
    let path = state_dir.join("lock");
    let failed = |error| cannot_io("lock", &path, error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(&path)
        .map_err(failed)?;
    if !file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 1) {
        return Err(Error::new(format!("{} is no plain file", path.display())));
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            sign(&mut lock).map_err(failed)?;
            Ok(Lock(lock))
        }
        Err((file, Errno::EWOULDBLOCK)) => Err(held(file)),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Writes who holds it: process id and the time in seconds since 1970.
fn sign(file: &mut std::fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{} {}", std::process::id(), now())?;
    file.flush()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn held(file: std::fs::File) -> Error {
    let mut text = String::new();
    let _ = file.take(64).read_to_string(&mut text);
    let who = match text.split_once(' ').map(|(pid, since)| (pid, since.trim().parse::<u64>())) {
        Some((pid, Ok(since))) => {
            format!("process {pid}, for {} s", now().saturating_sub(since))
        }
        _ => "a process that just started".to_owned(),
    };
    Error::new(format!("another lvsprov is changing this host: {who}"))
        .cure("wait until it is done, then plan again: it may change what this plan starts from")
}
