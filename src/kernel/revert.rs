//! The revert timer: a process of its own that undoes a transaction if nobody agrees to it in time.
//!
//! It is this same program, started when a transaction begins and before anything is changed. It outlives
//! the connection, is in a session of its own and out of the login session's control group, and sleeps on
//! `CLOCK_BOOTTIME`, which nobody sets. At its time it takes the lock and reads the journal: where that
//! is gone, another's or agreed to, it ends. Else it looks, plans the way back and goes it, as a
//! controller would ([`Goal::undo`]), and settles. What it could not do it notes beside the journal.
//!
//! It has nobody to ask, and the operator may be cut off until it is done. So where a controller stops at
//! the first step that fails, it goes on with those behind (each looks for itself whether it fits), and
//! tries again some times.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::journal::{self, Open, Phase};
use super::net::Net;
use super::process::Process;
use super::{act, fault, lock, observe};
use crate::desired::Reasons;
use crate::plan::journal::TransactionId;
use crate::plan::ownership::Goal;
use crate::plan::{Step, order};
use crate::protocol::{Ending, Failure};
use crate::state::Item;
use crate::topology::TopologyName;

/// How long its process may take until it runs, in milliseconds. Under emulation that is seconds.
const ARMED_WITHIN: u16 = 20_000;
/// How long it waits for a request that is being carried out, each time.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits before it tries again.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
];

/// What its process is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
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
pub(super) fn arm(program: &Path, state_dir: &Path, order: &Order) -> Result<Armed> {
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
        let order: Order = serde_json::from_str(order)?;
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
    let mut timer = Revert { state_dir, order: &order, told: notes };
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
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut notes = Vec::new();
    for path in session_groups(&groups) {
        // 0 is whoever writes it (cgroups(7)).
        if let Err(error) = fs::write(&path, "0") {
            notes.push(format!(
                "the revert timer is still in the login session's control group ({path}: {error}): \
                 where ending a session ends what it started, the timer ends with it"
            ));
        }
    }
    Ok(notes)
}

/// Where to write to leave a login session's control group; none where it is in none.
fn session_groups(proc_self_cgroup: &str) -> Vec<String> {
    let in_session = |path: &str| {
        path.split('/').any(|part| {
            part.strip_suffix(".scope").is_some_and(|name| name.starts_with("session-"))
        })
    };
    let lines = proc_self_cgroup.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        in_session(path).then_some(controllers)
    });
    let mount = |controllers: &str| match controllers {
        "" if Path::new("/sys/fs/cgroup/unified").is_dir() => "/unified".to_owned(),
        "" => String::new(),
        named => format!("/{}", named.strip_prefix("name=").unwrap_or(named)),
    };
    lines.map(|named| format!("/sys/fs/cgroup{}/cgroup.procs", mount(named))).collect()
}

/// A timer at work.
struct Revert<'a> {
    state_dir: &'a Path,
    order: &'a Order,
    /// What was noted so far.
    told: Vec<String>,
}

/// What is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Withdraw,
    All,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// It is settled, another's or agreed to: there is nothing to do.
    Over,
    /// It was done.
    Done,
}

impl Revert<'_> {
    /// Waits until the agent has begun the transaction, or given up, or is gone. Whether there is
    /// something to wait for.
    fn released(&self, alarm: &TimerFd) -> Result<bool> {
        Self::set(alarm, self.first())?;
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
            let ours = self.is_there();
            if released {
                let null = File::open("/dev/null").map_err(failed)?;
                nix::unistd::dup2_stdin(null).map_err(|errno| failed(errno.into()))?;
                return Ok(ours);
            }
            if ours {
                // Its time has come while the agent hangs.
                return Ok(true);
            }
            // Its time has come before there is anything to undo: only the agent matters now.
            Self::set(alarm, u64::MAX / 2)?;
        }
    }

    fn first(&self) -> u64 {
        let Order { withdraw_at_ms, build_at_ms, .. } = self.order;
        withdraw_at_ms.map_or(*build_at_ms, |at| at.min(*build_at_ms))
    }

    /// Whether the transaction lies on the disk, as far as that can be read now.
    fn is_there(&self) -> bool {
        let Order { topology, transaction, .. } = self.order;
        journal::read(self.state_dir, topology)
            .map_or(true, |open| open.is_some_and(|open| open.journal.transaction == *transaction))
    }

    fn set(alarm: &TimerFd, at_ms: u64) -> Result<()> {
        let at = TimeSpec::from_duration(Duration::from_millis(at_ms.max(1)));
        alarm
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .map_err(|errno| Error::new("the revert timer cannot be set").because(errno))
    }

    fn sleep(alarm: &TimerFd, until_ms: u64) -> Result<()> {
        Self::set(alarm, until_ms)?;
        loop {
            match alarm.wait() {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Error::new("the revert timer cannot sleep").because(errno));
                }
            }
        }
    }

    fn live(&mut self, alarm: &TimerFd, runtime: &tokio::runtime::Runtime) -> Result<()> {
        self.write();
        let Order { withdraw_at_ms, build_at_ms, .. } = self.order;
        if let Some(at) = withdraw_at_ms.filter(|at| at < build_at_ms) {
            Self::sleep(alarm, at)?;
            match runtime.block_on(self.attempt(Part::Withdraw)) {
                Ok(Came::Over) => return Ok(()),
                Ok(Came::Done) => {}
                Err(error) => self.tell(format!("could not withdraw: {}", full(&error))),
            }
        }
        Self::sleep(alarm, *build_at_ms)?;
        for pause in PAUSES.into_iter().map(Some).chain([None]) {
            match runtime.block_on(self.attempt(Part::All)) {
                Ok(_) => return Ok(()),
                Err(error) => self.tell(format!("could not undo everything: {}", full(&error))),
            }
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
        self.tell("the revert timer has given up: lvsprov rollback undoes what is left".to_owned());
        Ok(())
    }

    /// Undoes `part` of the transaction once; settles it if nothing of it is left.
    async fn attempt(&mut self, part: Part) -> Result<Came> {
        let Order { topology, transaction, .. } = self.order;
        let _lock = match lock::wait(self.state_dir, topology, PATIENCE).await? {
            Ok(lock) => lock,
            Err(held) => return Err(held.into_error()),
        };
        let Some(open) = journal::read(self.state_dir, topology)? else { return Ok(Came::Over) };
        if open.journal.transaction != *transaction {
            return Ok(Came::Over);
        }
        let folder = journal::folder(self.state_dir, topology, transaction);
        match open.phase {
            Phase::Agreed | Phase::Done => return Ok(Came::Over),
            Phase::Begun => {
                if let Err(error) = journal::pass(&folder, Phase::Begun, Phase::Reverting) {
                    self.tell(full(&error));
                }
            }
            Phase::Reverting | Phase::Undone => {}
        }
        let mut steps = self.way_back(&open).await?;
        if part == Part::Withdraw {
            let done = self.go(&steps.withdraw).await?;
            self.tell(format!("not confirmed in time: withdrew by itself, {done} steps"));
            return Ok(Came::Done);
        }
        steps.build.splice(0..0, std::mem::take(&mut steps.withdraw));
        if !steps.build.is_empty() {
            let done = self.go(&steps.build).await?;
            self.tell(format!("not confirmed in time: undid it by itself, {done} steps"));
        }
        let left = self.way_back(&open).await?.into_all();
        if let Some(step) = left.first() {
            return Err(Error::new(format!(
                "{} steps are left, the first: {}",
                left.len(),
                step.change
            )));
        }
        let Some(open) = journal::read(self.state_dir, topology)? else { return Ok(Came::Over) };
        journal::settle(self.state_dir, &open, Ending::Undone)?;
        fault::at("closed");
        Ok(Came::Done)
    }

    /// From what is here now to what was here before.
    async fn way_back(&self, open: &Open) -> Result<order::Steps> {
        let sysctls = open.journal.touched.iter().filter_map(|item| match item {
            Item::Sysctl(key) => Some(key.clone()),
            _ => None,
        });
        let topology = &self.order.topology;
        let seen = observe::look(self.state_dir, topology, &sysctls.collect(), false).await?;
        let gone = || Error::new("the journal is gone while the lock is held");
        let goal = Goal::undo(seen.unfinished.as_deref().ok_or_else(gone)?, &seen);
        order::steps_between(&seen.state, &goal.wanted, &goal.owned, &Reasons::default())
            .map_err(|error| Error::new("cannot plan the way back").because(error))
    }

    /// Does `steps`, those behind one that fails too. How many were done; an error if not all.
    async fn go(&mut self, steps: &[Step]) -> Result<usize> {
        let net = Net::open()?;
        let (mut done, mut rest, mut failures) = (0, steps, 0);
        loop {
            let (count, failed) = act::carry_out(&net, rest).await;
            done += count;
            let Some(error) = failed else { break };
            failures += 1;
            if let Some(step) = rest.get(count) {
                self.tell(format!("{}: {}", step.change, full(&error)));
            }
            rest = rest.get(count + 1..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        if failures == 0 {
            return Ok(done);
        }
        Err(Error::new(format!("{failures} of {} steps failed", steps.len())))
    }

    fn tell(&mut self, line: String) {
        if self.told.last() != Some(&line) {
            self.told.push(line);
        }
        // The first and the latest say most.
        if self.told.len() > 40 {
            self.told.remove(20);
        }
        self.write();
    }

    fn write(&self) {
        let Order { topology, transaction, .. } = self.order;
        if !self.told.is_empty() {
            journal::tell(&journal::folder(self.state_dir, topology, transaction), &self.told);
        }
    }
}

/// An error with all that caused it, on one line.
fn full(error: &Error) -> String {
    Failure::from_error(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_login_session_is_left() {
        let session = "0::/user.slice/user-0.slice/session-5.scope\n";
        assert_eq!(session_groups(session).len(), 1);
        let hybrid = "12:pids:/user.slice/user-0.slice/session-5.scope\n\
                      1:name=systemd:/user.slice/user-0.slice/session-5.scope\n0::/\n";
        assert_eq!(
            session_groups(hybrid),
            ["/sys/fs/cgroup/pids/cgroup.procs", "/sys/fs/cgroup/systemd/cgroup.procs"]
        );
        for other in ["", "0::/", "0::/system.slice/ssh.service", "0::/init.scope", "junk"] {
            assert!(session_groups(other).is_empty(), "{other}");
        }
    }
}
