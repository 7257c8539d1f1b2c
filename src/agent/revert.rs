//! The revert timer: a process of its own that undoes a transaction if nobody agrees to it in time.
//!
//! It is this same program, started when a transaction begins and before anything is changed. It outlives
//! the connection, is in a session of its own and out of control groups that end with the login, and sleeps
//! on `CLOCK_BOOTTIME`, which nobody sets. At its time it takes the lock and reads the journal: where that
//! is gone, another's or agreed to, it ends. Else it looks, plans the way back and goes it, as a
//! controller would ([`crate::plan::ownership::Goal::undo`]), and settles. What it could not do it notes beside the journal.
//!
//! Here its process is started and gets out of the connection's way; what it does then is in
//! [`super::reverting`].

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use serde::{Deserialize, Serialize};

use super::cgroups;
use super::process::Process;
use super::reverting::Revert;
use crate::kernel::error::{Error, Result};
use crate::kernel::fault;
use crate::names::TopologyName;
use crate::state::TransactionId;

/// How long its process may take until it runs, in milliseconds. Under emulation that is seconds.
const ARMED_WITHIN: u16 = 20_000;
/// What its process is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevertOrder {
    /// Whose.
    pub topology: TopologyName,
    /// Which transaction.
    pub transaction: TransactionId,
    /// When it does what withdraws, in milliseconds since the host was started; `None`: with the rest.
    pub withdraw_at_ms: Option<u64>,
    /// When it does the rest.
    pub build_at_ms: u64,
}

/// A timer whose process runs, and ends by itself if what it is to undo is never begun.
#[derive(Debug)]
pub(super) struct Armed {
    child: Option<Child>,
}

impl Armed {
    /// Which process.
    pub fn process(&self) -> Result<Process> {
        let gone = || Error::new("the revert timer has ended");
        Process::of(self.child.as_ref().ok_or_else(gone)?.id())
    }

    /// From here on it goes by what is on the disk.
    pub fn release(mut self) -> Option<Child> {
        let mut child = self.child.take()?;
        drop(child.stdin.take());
        Some(child)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the timer's process, in the network namespace of this thread, and waits until it runs.
pub(super) fn arm(program: &Path, state_dir: &Path, order: &RevertOrder) -> Result<Armed> {
    let failed = || Error::new("cannot start the revert timer: nothing was begun");
    let text = serde_json::to_string(order).map_err(|error| failed().because(error))?;
    let child = Command::new(program)
        .args(["agent", "--state-dir"])
        .arg(state_dir)
        .args(["--revert", &text])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed().because(error))?;
    let mut armed = Armed { child: Some(child) };
    let said = armed
        .child
        .as_mut()
        .and_then(|child| child.stdout.take())
        .map_or_else(|| Ok(String::new()), |mut stdout| first_line(&mut stdout))
        .map_err(|error| failed().because(error))?;
    if said.trim() == ARMED { Ok(armed) } else { Err(failed().because(said)) }
}

/// What the process says when it runs.
const ARMED: &str = "armed";

fn first_line(stdout: &mut std::process::ChildStdout) -> io::Result<String> {
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(ARMED_WITHIN))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing"));
    }
    let mut line = String::new();
    BufReader::new(stdout).take(4096).read_line(&mut line)?;
    Ok(line)
}

/// The whole life of a timer's process.
pub fn main(state_dir: &Path, order: &str) -> ExitCode {
    fault::reverting();
    let prepared = detach().and_then(|notes| {
        let order: RevertOrder = serde_json::from_str(order)?;
        let alarm = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        writeln!(io::stdout(), "{ARMED}").and_then(|()| io::stdout().flush())?;
        nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        Ok((order, alarm, runtime, notes))
    });
    let (order, alarm, runtime, notes) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // Whoever started it reads this.
            let _ = writeln!(io::stdout(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut timer = Revert { state_dir, order: &order, notes };
    let ended = timer
        .released(&alarm)
        .and_then(|ours| if ours { timer.live(&alarm, &runtime) } else { Ok(()) });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            timer.tell(format!("the revert timer ended: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Out of everything that ends when the connection does. What could not be done is told later.
fn detach() -> io::Result<Vec<String>> {
    // It fails where it leads a session already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    Ok(cgroups::leave())
}
