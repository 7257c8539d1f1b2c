//! Identifies a process by its number and its start time, as numbers are given again. Times are of the
//! boot-time clock, which no program sets.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::kernel::error::{Error, Result};

/// Milliseconds since the host was started, suspension included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub fn boottime_ms() -> u64 {
    // It fails only where the kernel does not know the clock (before 2.6.39).
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
    })
}

/// Microseconds of `CLOCK_MONOTONIC` (clock_gettime(2)), as systemd writes down when a unit changed.
pub fn monotonic_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
    })
}

/// Names the time since the kernel was started (random(4)).
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::new(format!("cannot read {path}")).because(error))
}

/// When the first process here was started, in clock ticks since the kernel was: in a container that is
/// restarted, another one than before, though the kernel goes on. `None` if it cannot be read.
pub fn init_start() -> Option<u64> {
    start_of(1)
}

/// 128 bits of chance, as the kernel writes them (random(4)).
pub fn by_chance() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::new(format!("cannot read {path}")).because(error))
}

/// A process that is never mistaken for another: a recycled number started at another time, and after a
/// restart there is none of before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since the host was (`starttime`, proc_pid_stat(5)).
    pub start: u64,
    /// Between which restarts of the host.
    pub boot: String,
}

impl Process {
    /// This one.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// The one that has this number now.
    pub fn of(pid: u32) -> Result<Self> {
        let start = start_of(pid)
            .ok_or_else(|| Error::new(format!("cannot tell since when process {pid} is there")))?;
        Ok(Self { pid, start, boot: boot_id()? })
    }

    /// Whether it still runs. One that has ended and was not waited for does not.
    pub fn is_alive(&self) -> bool {
        let Self { pid, start, boot } = self;
        start_of(*pid) == Some(*start) && boot_id().is_ok_and(|now| now == *boot)
    }

    /// Ends it, if it is there.
    pub fn end(&self) -> Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().filter(|pid| *pid > 1) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::new(format!("cannot end process {pid}")).because(errno)),
        }
    }
}

fn start_of(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of /proc/PID/stat, where field 3 says that it still runs. The name in field 2 may have
/// anything in it, brackets and blanks too.
fn parse_stat(text: &str) -> Option<u64> {
    let (_, behind_name) = text.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_with_brackets_hides_nothing() {
        let stat = |state: &str| {
            format!(
                "42 (a) R 7 (b) {state} 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3"
            )
        };
        assert_eq!(parse_stat(&stat("S")), Some(98765));
        assert_eq!(parse_stat(&stat("Z")), None);
        for broken in ["", "42", "42 (a) S", "42 (a) S 1 2 3"] {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn neither_a_recycled_number_nor_one_of_before_a_restart_is_alive() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        assert!(!Process { start: own.start + 1, ..own.clone() }.is_alive());
        assert!(!Process { boot: "another".to_owned(), ..own }.is_alive());
    }

    #[test]
    fn a_process_that_has_ended_is_not_alive_even_before_it_is_waited_for() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        process.end().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert!(process.end().is_ok());
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
