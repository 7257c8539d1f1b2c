//! The process that a host starts after a restart: it makes again what the host had, and ends.
//!
//! Its work is in [`super::transaction::boot`]. It writes a line or two for each topology: the journal of systemd
//! keeps them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::boot_unit::OWN_PROGRAM;
use super::network_changes::NetworkChanges;
use super::transaction::boot;
use super::{Disk, LocalHost};
use crate::failure::Failure;
use crate::plan::boot::ReplayScope;

/// The whole life of the process, in the network namespace of this thread. After a change of the network it follows
/// later changes too, until none comes.
pub(super) fn main(state_dir: PathBuf, scope: ReplayScope) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::from_error(&error)),
    };
    let host = LocalHost::default().keeping_state_in(&state_dir).as_boot_unit();
    let disk = Disk::new(state_dir);
    // Before the host is observed: what changes from here on may be overlooked.
    let mut changes = NetworkChanges::new();
    loop {
        let code = match runtime.block_on(boot::boot(&disk, &host, scope)) {
            Ok(reports) => tell(&reports),
            Err(error) => fail(&error.to_failure()),
        };
        if scope == ReplayScope::All {
            return code;
        }
        if !runtime.block_on(changes.another()) {
            // systemd sets it (systemd.exec(5)): elsewhere there is no unit that a change could miss.
            if std::env::var_os("INVOCATION_ID").is_some()
                && let Err(error) = changes.hand_over(Path::new(OWN_PROGRAM))
            {
                let _ = writeln!(io::stderr(), "a change in this moment may be missed: {error}");
            }
            return code;
        }
    }
}

fn fail(failure: &Failure) -> ExitCode {
    let _ = writeln!(io::stderr(), "lvsprov agent: {failure}");
    ExitCode::FAILURE
}

fn tell(reports: &[boot::BootReport]) -> ExitCode {
    for report in reports {
        // The exit code says it where no reader is left.
        let _ = writeln!(io::stdout(), "{report}");
    }
    if reports.iter().any(boot::BootReport::is_failure) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
