//! Daemons that lvsprov starts, in the network namespace of the calling thread: their files and their processes.
//!
//! Each instance has a folder below /run, as all that it is ends with the run of the host: the boot unit starts it again.
//! [`files`] has the folder, [`process`] finds and signals what runs, [`start`] starts and stops it, with systemd or without.
//! What goes into the configuration, and when it is started, is not decided here.

mod files;
mod foreign;
mod process;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use self::files::InstanceFiles;
use super::error::{Error, Result};
use super::fault;
use super::ipvs::{self, IpvsSocket};
use crate::state::{DaemonConfiguration, DaemonInstance, DaemonProgram, ProgramVersion};

pub use foreign::{health_checkers, lacking};

/// How long a daemon has to start, to read a configuration, or to end. It takes milliseconds; a busy emulated machine is
/// slow.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// The instances of this namespace, with what their files say and whether a process has read it.
pub fn read() -> Result<BTreeMap<DaemonInstance, DaemonConfiguration>> {
    let mut all = BTreeMap::new();
    for instance in files::present()? {
        let files = InstanceFiles::of(&instance)?;
        // Removed meanwhile.
        let Some(read) = files.configuration(&instance)? else { continue };
        let loaded = !files.pending.exists() && process::find(&files).is_some();
        all.insert(instance, DaemonConfiguration { loaded, ..read });
    }
    Ok(all)
}

/// Gives `instance` the configuration `after`: starts it, has it read the text, or stops it.
pub fn set(
    instance: &DaemonInstance,
    before: Option<&DaemonConfiguration>,
    after: Option<&DaemonConfiguration>,
) -> Result<()> {
    let files = InstanceFiles::of(instance)?;
    let present = files.configuration(instance)?;
    if present.as_ref().map(|it| &it.lines) != before.map(|before| &before.lines) {
        let expected = if before.is_some() { "that of the plan" } else { "none" };
        let found = if present.is_some() { "another" } else { "none" };
        let what = format!("the configuration of {instance}");
        return Err(Error::changed_since(&what, expected, found));
    }
    let Some(after) = after else {
        start::stop(instance, &files)?;
        return files.remove();
    };
    let program = installed(instance.program)?;
    files.write(instance, after)?;
    fault::at("instance");
    if let Some(before) = before
        && loses_services(before, after)?
    {
        start::stop(instance, &files)?;
    }
    match process::find(&files) {
        Some(running) => reload(instance, &files, running)?,
        None => start::start(instance, &program, &files)?,
    }
    files.settle()
}

/// Whether services that are in the table leave the configuration. As it reads that, keepalived removes them from the table
/// with all connections (`clear_diff_services` in ipwrapper.c). One that starts anew knows nothing of them.
fn loses_services(before: &DaemonConfiguration, after: &DaemonConfiguration) -> Result<bool> {
    let leaving = &before.services() - &after.services();
    if leaving.is_empty() || !ipvs::is_loaded() {
        return Ok(false);
    }
    let table = IpvsSocket::open()?.observe(false)?.table;
    Ok(leaving.iter().any(|key| table.contains_key(key)))
}

/// Has the process read its file. It removes the `reading` file once it has (`reload_file`, keepalived.conf(5)).
fn reload(instance: &DaemonInstance, files: &InstanceFiles, pid: i32) -> Result<()> {
    files.mark_reading()?;
    process::signal(pid, Signal::SIGHUP)?;
    wait(|| {
        if process::find(files) != Some(pid) {
            return Err(Error::new(format!("{instance} ended as it read its configuration"))
                .cure(start::where_its_log_is(instance)));
        }
        Ok((!files.reading.exists()).then_some(()))
    })?
    .ok_or_else(|| {
        Error::new(format!("{instance} did not read its configuration in {} s", PATIENCE.as_secs()))
            .cure(start::where_its_log_is(instance))
    })
}

/// Polls until `look` has an answer; `None`: it had none in time.
fn wait<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Whether any namespace of this machine may have instances.
pub fn may_exist() -> bool {
    Path::new(files::ROOT).exists()
}

/// Ends the instances of this namespace as a power cut does, and removes their files: a host of the lab goes.
pub fn lose() -> Result<()> {
    kill()?;
    for instance in files::present()? {
        InstanceFiles::of(&instance)?.remove()?;
    }
    Ok(())
}

/// Kills the processes of the instances of this namespace, as a fault of theirs would. How many instances ran.
pub fn kill() -> Result<usize> {
    let mut ran = 0;
    for instance in files::present()? {
        let files = InstanceFiles::of(&instance)?;
        ran += usize::from(process::find(&files).is_some());
        let gone = wait(|| {
            let Some(pid) = process::find(&files) else { return Ok(Some(())) };
            process::signal(pid, Signal::SIGKILL)?;
            Ok(None)
        })?;
        gone.ok_or_else(|| Error::new(format!("{instance} does not end")))?;
    }
    Ok(ran)
}

/// Whether `instance` could run with `configuration`: the program itself reads it, and nothing else happens.
///
/// # Errors
/// The program is missing, too old, or finds fault with the text: its lines are the cause.
pub fn try_out(instance: &DaemonInstance, configuration: &DaemonConfiguration) -> Result<()> {
    let program = installed(instance.program)?;
    check_version(instance.program, &program)?;
    let files = InstanceFiles::of(instance)?;
    let candidate = files.write_candidate(instance, configuration)?;
    let result = test(instance, &program, &candidate);
    files.remove_candidate();
    result
}

/// Only 0 counts: with 4 keepalived has corrected the text, with 5 it would not run a script (keepalived(8)).
fn test(instance: &DaemonInstance, program: &Path, candidate: &Path) -> Result<()> {
    let log = candidate.with_extension("log");
    let arguments = match instance.program {
        DaemonProgram::Keepalived => [
            "--check".into(),
            format!("--config-test={}", log.display()),
            format!("--use-file={}", candidate.display()),
        ],
    };
    let status = start::run_bounded(program, &arguments)?;
    if status.success() {
        return Ok(());
    }
    let lines = std::fs::read(&log).unwrap_or_default();
    let lines = String::from_utf8_lossy(&lines);
    let shown: Vec<&str> = lines.lines().filter(|line| !line.trim().is_empty()).take(5).collect();
    let reason = if shown.is_empty() { "it does not say why".to_owned() } else { shown.join("; ") };
    let reason = reason.replace(&format!("({}: ", candidate.display()), "(");
    Err(Error::new(format!(
        "{} refuses the configuration of {instance}, with {status}: nothing was changed",
        program.display()
    ))
    .because(reason)
    .cure("`lvsprov render keepalived` prints the text; mend in the file of the cluster what the reason names"))
}

/// The path of an installed program. Never by $PATH: this runs as root.
fn installed(program: DaemonProgram) -> Result<PathBuf> {
    find_installed(program).ok_or_else(|| {
        let folders = FOLDERS.join(", ");
        let error = Error::new(format!("{program} is not installed: it is in none of {folders}"));
        match foreign::install_command() {
            Some(command) => error.cure(format!("`{command} {program}` on that host")),
            None => error.cure("install the package of that name"),
        }
    })
}

const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/sbin"];

fn find_installed(program: DaemonProgram) -> Option<PathBuf> {
    let paths = FOLDERS.iter().map(|folder| Path::new(folder).join(program.as_str()));
    paths.into_iter().find(|path| path.is_file())
}

fn check_version(program: DaemonProgram, path: &Path) -> Result<()> {
    let (said, oldest) = (start::said(path, &["--version"])?, program.oldest());
    match version_in(&said) {
        Some(version) if version < oldest => {
            Err(Error::new(format!("{} has version {version}", path.display()))
                .because(format!(
                    "what lvsprov writes needs {oldest} at least: earlier ones do not say when they have read it"
                ))
                .cure(format!("install {program} {oldest} or a later version")))
        }
        Some(_) => Ok(()),
        None => Err(Error::new(format!(
            "{} does not say its version: {:?}",
            path.display(),
            said.lines().next().unwrap_or_default()
        ))
        .cure(format!("see whether that is {program}"))),
    }
}

/// `Keepalived v2.2.7 (01/16,2022)`.
fn version_in(said: &str) -> Option<ProgramVersion> {
    let word = said.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let number = |c: char| c.is_ascii_digit() || c == '.';
    word.chars().take_while(|c| number(*c)).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_word_with_a_v() {
        let version = |text: &str| version_in(text).map(|version| version.to_string());
        assert_eq!(version("Keepalived v2.2.7 (01/16,2022)\n"), Some("2.2.7".to_owned()));
        assert_eq!(version("Keepalived v2.3.3+git1 (x)"), Some("2.3.3".to_owned()));
        for nothing in ["", "Keepalived", "very v", "Keepalived 2.2.7"] {
            assert_eq!(version(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_configuration_is_read_back_as_it_was_written() {
        let instance: DaemonInstance =
            "keepalived of web".parse().unwrap_or_else(|_| unreachable!());
        let reading = Path::new("/run/x/reading");
        for text in ["", "virtual_server 192.0.2.1 80 {\n}\n", "no line end"] {
            let configuration = DaemonConfiguration::of(text);
            let written = files::text_of(&instance, reading, &configuration);
            assert!(written.contains("reload_file /run/x/reading\n"));
            assert_eq!(files::configuration_in(&instance, reading, &written), configuration);
        }
        // A file of an earlier version, or changed by hand: it differs.
        let other = "global_defs {\n}\n";
        assert_eq!(
            files::configuration_in(&instance, reading, other),
            DaemonConfiguration::of(other)
        );
    }
}
