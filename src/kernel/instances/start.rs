//! Starting and stopping the process of an instance: as a transient unit where systemd runs the host, else by itself.
//!
//! It runs with `--dont-release-ipvs`: when it ends, the IPVS table stays as it is, and no connection is lost.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::Signal;

use super::super::error::{Error, Result};
use super::super::namespace;
use super::files::InstanceFiles;
use super::{process, wait};
use crate::state::{DaemonInstance, DaemonProgram};

/// Never $PATH: this runs as root.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// Whether systemd runs the network namespace of this thread (sd_booted(3)).
fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir() && namespace::is_of_first_process()
}

/// The name of the transient unit.
fn unit(instance: &DaemonInstance) -> String {
    format!("lvsprov-{}-{}.service", instance.program, instance.topology)
}

/// Where an operator reads why it did not start, or ended.
pub(super) fn where_its_log_is(instance: &DaemonInstance) -> String {
    if has_systemd() {
        format!("`journalctl -u {}` on that host says why", unit(instance))
    } else {
        format!("the system log of that host says why, under {}", instance.program)
    }
}

/// The arguments of the process.
fn arguments(program: DaemonProgram, files: &InstanceFiles) -> Vec<String> {
    match program {
        // Checks alone; each service that is in the table already is taken as it is (`EEXIST` in ipvswrapper.c).
        DaemonProgram::Keepalived => vec![
            "--dont-fork".to_owned(),
            "--check".to_owned(),
            "--dont-release-ipvs".to_owned(),
            process::use_file(files),
            format!("--pid={}", files.pid.display()),
            format!("--checkers_pid={}", files.checkers_pid.display()),
        ],
    }
}

/// Starts it, and waits until it carries out checks.
pub(super) fn start(
    instance: &DaemonInstance,
    program: &Path,
    files: &InstanceFiles,
) -> Result<()> {
    let arguments = arguments(instance.program, files);
    if has_systemd() {
        start_unit(instance, program, &arguments)?;
    } else {
        start_alone(program, &arguments)?;
    }
    let mut seen = false;
    let ended =
        || Error::new(format!("{instance} ended as it started")).cure(where_its_log_is(instance));
    let started = wait(|| {
        let runs = process::find(files).is_some();
        if seen && !runs {
            return Err(ended());
        }
        seen |= runs;
        Ok((runs && process::has_checkers(files)).then_some(()))
    })?;
    started.ok_or_else(|| {
        Error::new(format!("{instance} did not start")).cure(where_its_log_is(instance))
    })
}

/// `Restart=on-failure`: a health checker that dies is back at once. Without the default dependencies, as the boot unit starts
/// it before the host is up.
fn start_unit(instance: &DaemonInstance, program: &Path, arguments: &[String]) -> Result<()> {
    let unit = unit(instance);
    let mut words = vec![
        "--quiet".to_owned(),
        "--collect".to_owned(),
        format!("--unit={unit}"),
        format!("--description=Health checks of the topology {} (lvsprov)", instance.topology),
    ];
    let properties = [
        "DefaultDependencies=no",
        "Conflicts=shutdown.target",
        "Before=shutdown.target",
        "Restart=on-failure",
        "TimeoutStopSec=10",
    ];
    words.extend(properties.iter().map(|property| format!("--property={property}")));
    words.push("--".to_owned());
    words.push(program.display().to_string());
    words.extend(["--log-console", "--no-syslog"].map(str::to_owned));
    words.extend_from_slice(arguments);
    let status = run_bounded(Path::new(SYSTEMD_RUN), &words)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("systemd-run did not start {unit}: {status}"))
        .cure(where_its_log_is(instance)))
}

/// In the network namespace of this thread, which a new process is in too. It outlives this process.
fn start_alone(program: &Path, arguments: &[String]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().process_group(0).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| cannot_start(program, error))?;
    // Else it would stay as a zombie should it end before this process.
    thread::spawn(move || child.wait());
    Ok(())
}

/// Stops it, and waits until it has ended.
pub(super) fn stop(instance: &DaemonInstance, files: &InstanceFiles) -> Result<()> {
    if has_systemd() {
        // It fails where there is no such unit; what counts is whether the process is gone.
        let _ = run_bounded(Path::new(SYSTEMCTL), &["stop".to_owned(), unit(instance)]);
    }
    let mut told = None;
    let ended = wait(|| {
        let Some(pid) = process::find(files) else { return Ok(Some(())) };
        if told != Some(pid) {
            process::signal(pid, Signal::SIGTERM)?;
            told = Some(pid);
        }
        Ok(None)
    })?;
    ended.ok_or_else(|| {
        Error::new(format!("{instance} does not end"))
            .because("it still runs after SIGTERM")
            .cure(where_its_log_is(instance))
    })
}

/// Runs a program to its end; one that hangs is killed.
pub(super) fn run_bounded(program: &Path, arguments: &[String]) -> Result<ExitStatus> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    to_its_end(program, &mut command)
}

/// What a program writes, to either output.
pub(super) fn said(program: &Path, arguments: &[&str]) -> Result<String> {
    let failed = |error: std::io::Error| cannot_start(program, error);
    let output: File = tempfile::tempfile().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null());
    command.stdout(output.try_clone().map_err(failed)?);
    command.stderr(output.try_clone().map_err(failed)?);
    to_its_end(program, &mut command)?;
    let mut text = vec![0; 4096];
    let length = std::os::unix::fs::FileExt::read_at(&output, &mut text, 0).map_err(failed)?;
    text.truncate(length);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn to_its_end(program: &Path, command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn().map_err(|error| cannot_start(program, error))?;
    let ended = wait(|| child.try_wait().map_err(|error| cannot_start(program, error)));
    if let Ok(Some(status)) = ended {
        return Ok(status);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(ended.err().unwrap_or_else(|| Error::new(format!("{} hangs: killed", program.display()))))
}

fn cannot_start(program: &Path, error: std::io::Error) -> Error {
    Error::new(format!("cannot run {}", program.display())).because(error)
}
