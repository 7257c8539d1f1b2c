//! The process that looks for drift on a host: the timer's, or an operator's. It looks once, and ends.
//!
//! Its work is in [`super::transaction::drift`]. It writes a line for each item: the journal of systemd keeps them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::transaction::drift::{self, DriftReport};
use super::{Disk, LocalHost};
use crate::failure::Failure;
use crate::state::DriftAction;

/// Drift that stays: as `plan` and `status` end where something differs.
const DRIFT: u8 = 4;

/// The whole life of the process, in the network namespace of this thread.
pub(super) fn main(state_dir: PathBuf, chosen: Option<DriftAction>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let reports = runtime.map_err(|error| Failure::from_error(&error)).and_then(|runtime| {
        let host = LocalHost::default().keeping_state_in(&state_dir).as_boot_unit();
        let disk = Disk::new(state_dir);
        runtime.block_on(drift::look(&disk, &host, chosen)).map_err(|error| error.to_failure())
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
    if reports.iter().any(DriftReport::is_failure) {
        ExitCode::FAILURE
    } else if reports.iter().any(DriftReport::has_drift) {
        ExitCode::from(DRIFT)
    } else {
        ExitCode::SUCCESS
    }
}
