//! The announcer's process: repeats the announcements of a host ([`PendingAnnouncements`]) for a few seconds.
//!
//! It is this same program, in a session of its own: the agent does not wait for it, and it outlives the connection,
//! which ends with the last message of the transaction.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::kernel::announce::PendingAnnouncements;
use crate::kernel::error::{Error, Result};

/// Starts the announcer, in the network namespace of this thread.
pub(super) fn start(program: &Path, pending: &PendingAnnouncements) -> Result<()> {
    let failed =
        || Error::new("addresses were announced only once: the announcements cannot be repeated");
    let text = serde_json::to_vec(pending).map_err(|error| failed().because(error))?;
    // It may be a zombie until this process ends: nothing waits for it.
    let mut child = Command::new(program)
        .args(["agent", "--announce"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed().because(error))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&text));
    written.map_err(|error| failed().because(error))
}

/// The whole life of the announcer's process.
pub fn main() -> ExitCode {
    // It fails where the process leads a session already.
    let _ = nix::unistd::setsid();
    match serde_json::from_reader::<_, PendingAnnouncements>(io::stdin().lock()) {
        Ok(pending) => {
            pending.finish();
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}
