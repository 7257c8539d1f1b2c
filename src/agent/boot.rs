//! The process that a host starts after a restart: it makes again what the host had, and ends.
//!
//! Its work is in [`super::transaction::boot`]. It writes a line or two for each topology: the journal of systemd
//! keeps them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::transaction::boot;
use super::{Disk, LocalHost};
use crate::failure::Failure;
use crate::plan::boot::ReplayScope;

/// The whole life of the process, in the network namespace of this thread.
pub(super) fn main(state_dir: PathBuf, scope: ReplayScope) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let reports = runtime.map_err(|error| Failure::from_error(&error)).and_then(|runtime| {
        let host = LocalHost::default().keeping_state_in(&state_dir).as_boot_unit();
        let disk = Disk::new(state_dir);
        runtime.block_on(boot::boot(&disk, &host, scope)).map_err(|error| error.to_failure())
    });
    let reports = match reports {
        Ok(reports) => reports,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "lvsprov agent: {failure}");
            return ExitCode::FAILURE;
        }
    };
    for report in &reports {
        // The exit code says it where no reader is left.
        let _ = writeln!(io::stdout(), "{report}");
    }
    if reports.iter().any(boot::BootReport::is_failure) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
