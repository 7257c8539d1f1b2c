//! The process of an instance: found by its arguments, which name its configuration, as process numbers are given again.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::error::{Error, Result};
use super::files::InstanceFiles;

/// The process that runs with the configuration of `files`.
pub(super) fn find(files: &InstanceFiles) -> Option<i32> {
    let argument = use_file(files);
    let named = read_pid(&files.pid).filter(|pid| runs_with(*pid, &argument));
    // Before it has written its number, and where that file is lost.
    named.or_else(|| all().find(|pid| runs_with(*pid, &argument) && is_parent(*pid, &argument)))
}

/// Whether the process that carries out the checks runs.
pub(super) fn has_checkers(files: &InstanceFiles) -> bool {
    let argument = use_file(files);
    read_pid(&files.checkers_pid).is_some_and(|pid| runs_with(pid, &argument))
}

/// The argument that names the configuration.
pub(super) fn use_file(files: &InstanceFiles) -> String {
    format!("--use-file={}", files.file.display())
}

/// Sends `signal`; one that has ended already needs none.
pub(super) fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => {
            Err(Error::new(format!("cannot send {signal} to process {pid}")).because(errno))
        }
    }
}

/// The number in a file of a daemon.
pub(super) fn read_pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
}

/// The arguments of a process that runs. One that has ended and was not waited for has none.
pub(super) fn arguments(pid: i32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|text| !text.is_empty())?;
    let words =
        text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    Some(words.collect())
}

fn runs_with(pid: i32, argument: &str) -> bool {
    arguments(pid).is_some_and(|words| words.iter().any(|word| word == argument))
}

/// Whether the parent of `pid` is not of the same instance: keepalived forks its checkers with its own arguments.
fn is_parent(pid: i32, argument: &str) -> bool {
    parent(pid).is_none_or(|parent| !runs_with(parent, argument))
}

/// Field 4 of /proc/PID/stat (proc_pid_stat(5)).
fn parent(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
