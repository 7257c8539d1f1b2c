//! The revert timer's process: it undoes a transaction that is not confirmed in time.
//!
//! It is this same program, started when a transaction is prepared and before anything is changed. It
//! outlives the connection, is in a session of its own and out of control groups that end with the login,
//! and sleeps on `CLOCK_BOOTTIME`, which is never set. At its time it takes the lock and reads the journal:
//! if that is gone, another's or voted for, it ends. Else it observes the host, plans the way back and
//! executes it, as a controller would ([`crate::plan::ownership::Goal::undo`]), and closes the transaction.
//! It notes beside the journal what it could not do.
//!
//! Here its process is started and detaches itself; its work is in [`super::transaction::reverting`].

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::PoisonError;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::cgroups;
use super::disk::Disk;
use super::host::{LocalHost, Released, set_alarm};
use super::process::Process;
use super::transaction::actor::ArmedTimer;
use super::transaction::reverting::{RevertOrder, RevertTimer};
use crate::kernel::error::{Error, Result};
use crate::kernel::fault;

/// How long its process may take until it runs, in milliseconds. Under emulation that is seconds.
const ARMED_WITHIN: u16 = 20_000;

/// A timer whose process runs, and ends by itself if its transaction is never prepared.
pub(super) struct ArmedProcess {
    child: Option<Child>,
    released: Released,
}

impl ArmedTimer for ArmedProcess {
    fn process(&self) -> Result<Process> {
        let gone = || Error::new("the revert timer has ended");
        Process::of(self.child.as_ref().ok_or_else(gone)?.id())
    }

    fn release(mut self: Box<Self>) {
        let Some(mut child) = self.child.take() else { return };
        drop(child.stdin.take());
        *self.released.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    }
}

impl Drop for ArmedProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the timer's process, in the network namespace of this thread, and waits until it runs. Once it is
/// released, it is in `released`.
pub(super) fn arm(
    program: &Path,
    state_dir: &Path,
    order: &RevertOrder,
    released: Released,
) -> Result<ArmedProcess> {
    let failed = || Error::new("cannot start the revert timer: no transaction was prepared");
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
    let mut armed = ArmedProcess { child: Some(child), released };
    let line = armed
        .child
        .as_mut()
        .and_then(|child| child.stdout.take())
        .map_or_else(|| Ok(String::new()), |mut stdout| first_line(&mut stdout))
        .map_err(|error| failed().because(error))?;
    if line.trim() == ARMED { Ok(armed) } else { Err(failed().because(line)) }
}

/// The line that the process writes when it runs.
const ARMED: &str = "armed";

fn first_line(stdout: &mut std::process::ChildStdout) -> io::Result<String> {
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(ARMED_WITHIN))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
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
            // The agent that started it reads this.
            let _ = writeln!(io::stdout(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let host = LocalHost::default().keeping_state_in(state_dir);
    let disk = Disk::new(state_dir);
    let mut timer = RevertTimer::new(&disk, &host, &order, notes);
    let ended = released(&timer, order.first_ms(), &alarm)
        .and_then(|open| if open { runtime.block_on(timer.live()) } else { Ok(()) });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            timer.note(format!("the revert timer ended: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Waits until the agent has prepared the transaction, or given up, or is gone. Whether the transaction is
/// open.
fn released(timer: &RevertTimer<'_>, first_ms: u64, alarm: &TimerFd) -> Result<bool> {
    set_alarm(alarm, first_ms)?;
    let stdin = io::stdin();
    let failed = |error: io::Error| Error::new("the revert timer cannot wait").because(error);
    loop {
        let mut fds = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(alarm.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(failed(errno.into())),
        }
        let released = fds[0].any().unwrap_or(true);
        let open = timer.is_open();
        if released {
            let null = File::open("/dev/null").map_err(failed)?;
            nix::unistd::dup2_stdin(null).map_err(|errno| failed(errno.into()))?;
            return Ok(open);
        }
        if open {
            // Its time has come while the agent hangs.
            return Ok(true);
        }
        // Its time has come before there is anything to undo: only the agent matters now.
        set_alarm(alarm, u64::MAX / 2)?;
    }
}

/// Leaves everything that ends when the connection does. The notes name what could not be left.
fn detach() -> io::Result<Vec<String>> {
    // It fails where the process leads a session already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    Ok(cgroups::leave())
}
