//! The boot unit: systemd starts `lvsprov agent --boot` as the host boots, and as its network is restarted. A path unit
//! beside it has systemd start `lvsprov agent --boot --network-only` as a program configures an interface.
//!
//! The program is a copy of the agent, where systemd may execute it: SELinux refuses files below the state folder. The files
//! are those of [`super::unit_files`]. systemd is asked by its program systemctl(1), without a shell.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::drift_timer;
use super::file_tree::RootTree;
use super::link_managers;
use super::unit_files::{
    NAME, NETWORK_PATH_NAME, NETWORK_UNIT_NAME, UNIT_FOLDER, UnitFiles, is_dispatcher,
};
use crate::kernel::error::{Error, Result};
use crate::kernel::namespace;
use crate::names::IfName;
use crate::plan;
use crate::plan::drift::UnitNeeds;
use crate::protocol::STATE_DIR;
use crate::state::BootUnit;

/// The text of the unit.
pub const UNIT: &str = include_str!("../../templates/lvsprov-boot.service");
/// The unit that mends the network.
pub const NETWORK_UNIT: &str = include_str!("../../templates/lvsprov-network.service");
/// The unit that sees changes of the network, and starts that.
pub const NETWORK_PATH: &str = include_str!("../../templates/lvsprov-network.path");
/// What the units start. A folder `bin` below /usr has the label `bin_t`, which systemd may execute under each policy of
/// SELinux; `/usr/local/lib` has `lib_t`, which it may not where its domain is confined (corecommands.fc, init.te).
pub const PROGRAM: &str = "/usr/local/lib/lvsprov/bin/lvsprov";

/// The agent that runs.
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";
/// Never $PATH: this runs as root.
pub(super) const SYSTEMCTL: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];
const RESTORECON: [&str; 2] = ["/usr/sbin/restorecon", "/sbin/restorecon"];

/// The unit of the host whose agent keeps its state in `state_dir`, with what belongs to it for `needs`.
pub(super) fn examine(state_dir: &Path, needs: &UnitNeeds) -> BootUnit {
    if let Some(why) = why_impossible(state_dir) {
        return BootUnit::Impossible(why);
    }
    let files = UnitFiles::below(Path::new("/"));
    if !files.are_installed(Path::new(OWN_PROGRAM)) {
        return BootUnit::Missing;
    }
    let needed = needed_drop_ins(&needs.carriers);
    let lacking = needed.into_iter().filter(|path| !link_managers::is_installed(path));
    let lacking =
        files.dispatcher.iter().filter(|path| !is_dispatcher(path)).cloned().chain(lacking);
    let timer = needs.drift_every_s.map(|every_s| files.timer.lacking(every_s));
    let lacking = lacking.chain(timer.unwrap_or_default());
    let lacking: Vec<String> = lacking.map(|path| path.display().to_string()).collect();
    if lacking.is_empty() { BootUnit::Installed } else { BootUnit::Incomplete(lacking) }
}

/// Why this host has no boot unit; `None`: it may have one.
pub(super) fn why_impossible(state_dir: &Path) -> Option<String> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Some("systemd does not run here".to_owned());
    }
    if !namespace::is_of_first_process() {
        let why = "this is a network namespace of a machine, which systemd does not set up";
        return Some(why.to_owned());
    }
    (state_dir != Path::new(STATE_DIR))
        .then(|| format!("its receipts lie in {}, not in {STATE_DIR}", state_dir.display()))
}

fn needed_drop_ins(carriers: &BTreeSet<IfName>) -> BTreeSet<PathBuf> {
    if carriers.is_empty() {
        return BTreeSet::new();
    }
    plan::link_managers::drop_ins(carriers, &link_managers::read())
}

/// Installs the unit on this host, with drop-ins for what networkd manages among the carriers, and the timer.
pub(super) fn install(needs: &UnitNeeds) -> Result<()> {
    let failed = |error: io::Error| {
        Error::new("cannot install the boot unit: nothing was changed").because(error).cure(
            "mend what it says; or write `persist: false` in the file: then this host has no settings of lvsprov \
             after a reboot",
        )
    };
    let files = UnitFiles::below(Path::new("/"));
    let drop_ins = needed_drop_ins(&needs.carriers);
    files.install(Path::new(OWN_PROGRAM), &drop_ins, needs.drift_every_s).map_err(failed)?;
    if Path::new("/sys/fs/selinux/enforce").exists() {
        // A host without the program has no policy that asks for labels.
        let _ = run(&RESTORECON, &["-RF", "/usr/local/lib/lvsprov", UNIT_FOLDER]);
        if let Some(script) = files.dispatcher.as_deref().and_then(Path::to_str) {
            let _ = run(&RESTORECON, &["-F", script]);
        }
    }
    run(&SYSTEMCTL, &["daemon-reload"])
}

/// Has systemd start the units.
pub(super) fn start() -> Result<()> {
    let timer = UnitFiles::below(Path::new("/")).timer;
    let timer = timer.are_present().then_some(drift_timer::TIMER_NAME);
    let units: Vec<&str> = [NAME, NETWORK_PATH_NAME].into_iter().chain(timer).collect();
    run(&SYSTEMCTL, &[&["--no-block", "start"], units.as_slice()].concat())
}

/// Has systemd start `unit`, and does not wait for it.
pub(super) fn start_unit(unit: &str) -> Result<()> {
    run(&SYSTEMCTL, &["--no-block", "start", unit])
}

/// The state of a unit, as its type names it; empty: systemd does not say.
pub(super) fn sub_state(unit: &str) -> String {
    let asked = output(&SYSTEMCTL, &["show", "--property=SubState", "--value", unit]);
    asked.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Brings the timer to looks every `every_s` seconds, or removes it: after a transaction it may be another one's.
pub(super) fn keep_timer(every_s: Option<u32>) -> Result<()> {
    let timer = UnitFiles::below(Path::new("/")).timer;
    let failed = |error: io::Error| {
        Error::new("the timer that looks for drift stays as it is").because(error)
    };
    match every_s {
        Some(every_s) if timer.lacking(every_s).is_empty() => return Ok(()),
        Some(every_s) => timer.install(&RootTree, every_s).map_err(failed)?,
        None if !timer.are_present() => return Ok(()),
        None => {
            let _ = run(&SYSTEMCTL, &["--no-block", "stop", drift_timer::TIMER_NAME]);
            timer.remove(&RootTree).map_err(failed)?;
            let _ = run(&SYSTEMCTL, &["reset-failed", drift_timer::SERVICE_NAME]);
        }
    }
    run(&SYSTEMCTL, &["daemon-reload"])
}

/// Has systemd reboot this host; systemctl(1): it returns once that is enqueued.
pub(super) fn reboot() -> Result<()> {
    run(&SYSTEMCTL, &["reboot"])
}

/// Removes the unit from this host, if it is there. `stop`: this process is not the unit's own.
pub(super) fn remove(stop: bool) -> Result<()> {
    let failed = |error: io::Error| {
        Error::new("the boot unit is not removed: it does nothing as long as no receipt is there")
            .because(error)
    };
    let files = UnitFiles::below(Path::new("/"));
    if files.are_present() {
        // It may be stopped already. The others are stopped after their files are gone: they may be at work.
        let _ =
            run(&SYSTEMCTL, &["--no-block", "stop", NETWORK_PATH_NAME, drift_timer::TIMER_NAME]);
    }
    let removed = files.remove().map_err(failed)?;
    if !removed {
        return Ok(());
    }
    if stop {
        for unit in [NAME, NETWORK_UNIT_NAME, drift_timer::SERVICE_NAME] {
            let _ = run(&SYSTEMCTL, &["stop", unit]);
            let _ = run(&SYSTEMCTL, &["reset-failed", unit]);
        }
    }
    run(&SYSTEMCTL, &["daemon-reload"])
}

fn run(program: &[&str], arguments: &[&str]) -> Result<()> {
    output(program, arguments).map(drop)
}

/// What a program writes to standard output.
fn output(program: &[&str], arguments: &[&str]) -> Result<String> {
    let Some(found) = program.iter().find(|path| Path::new(path).exists()) else {
        return Err(Error::new(format!("this host has none of {}", program.join(", "))));
    };
    let done = Command::new(found).args(arguments).env_clear().output();
    let done = done.map_err(|error| Error::new(format!("cannot start {found}")).because(error))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&done.stderr);
    let reason = stderr.lines().next().unwrap_or("no message").to_owned();
    Err(Error::new(format!("{found} {}: {}", arguments.join(" "), done.status)).because(reason))
}
