//! The boot unit: systemd starts `lvsprov agent --boot` as the host boots, and as its network is restarted. A path unit
//! beside it has systemd start `lvsprov agent --boot --network-only` as a program configures an interface.
//!
//! The program is a copy of the agent, where systemd may execute it: SELinux refuses files below the state folder. Every
//! file is written beside its place and renamed. systemd is asked by its program systemctl(1), without a shell.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::drift_timer::{self, TimerFiles};
use super::link_managers::{self, below};
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
/// What the units start.
pub const PROGRAM: &str = "/usr/local/lib/lvsprov/lvsprov";

const NAME: &str = "lvsprov-boot.service";
const NETWORK_UNIT_NAME: &str = "lvsprov-network.service";
const NETWORK_PATH_NAME: &str = "lvsprov-network.path";
/// The names and texts of the units. The first one is removed last: what is left is found again by it.
const UNITS: [(&str, &str); 3] =
    [(NAME, UNIT), (NETWORK_UNIT_NAME, NETWORK_UNIT), (NETWORK_PATH_NAME, NETWORK_PATH)];
pub(super) const UNIT_FOLDER: &str = "/etc/systemd/system";
/// Where NetworkManager finds what it is to start.
const DISPATCHER_FOLDER: &str = "/etc/NetworkManager/dispatcher.d";
const DISPATCHER_NAME: &str = "90-lvsprov";
const DISPATCHER: &str = include_str!("../../templates/lvsprov-dispatcher.sh");
/// The agent that runs.
const OWN_PROGRAM: &str = "/proc/self/exe";
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
    if !is_namespace_of_systemd() {
        let why = "this is a network namespace of a machine, which systemd does not set up";
        return Some(why.to_owned());
    }
    (state_dir != Path::new(STATE_DIR))
        .then(|| format!("its receipts lie in {}, not in {STATE_DIR}", state_dir.display()))
}

/// Whether the network that systemd sets up at boot is the one of this thread.
fn is_namespace_of_systemd() -> bool {
    let first = File::open("/proc/1/ns/net").and_then(namespace::identity);
    let own = namespace::current().and_then(namespace::identity);
    matches!((first, own), (Ok(first), Ok(own)) if first == own)
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
    drop_ins.iter().try_for_each(|path| link_managers::refuse_taken(path)).map_err(failed)?;
    files.install(Path::new(OWN_PROGRAM)).map_err(failed)?;
    drop_ins.iter().try_for_each(|path| link_managers::install(path)).map_err(failed)?;
    if let Some(every_s) = needs.drift_every_s {
        files.timer.install(every_s).map_err(failed)?;
    }
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

/// Brings the timer to looks every `every_s` seconds, or removes it: after a transaction it may be another one's.
pub(super) fn keep_timer(every_s: Option<u32>) -> Result<()> {
    let timer = UnitFiles::below(Path::new("/")).timer;
    let failed = |error: io::Error| {
        Error::new("the timer that looks for drift stays as it is").because(error)
    };
    match every_s {
        Some(every_s) if timer.lacking(every_s).is_empty() => return Ok(()),
        Some(every_s) => timer.install(every_s).map_err(failed)?,
        None if !timer.are_present() => return Ok(()),
        None => {
            let _ = run(&SYSTEMCTL, &["--no-block", "stop", drift_timer::TIMER_NAME]);
            timer.remove().map_err(failed)?;
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

/// The files of the unit below a root folder.
struct UnitFiles {
    root: PathBuf,
    program: PathBuf,
    /// Paths and texts, the boot unit first.
    units: Vec<(PathBuf, &'static str)>,
    /// Links to the units of these names.
    links: Vec<(PathBuf, &'static str)>,
    /// What NetworkManager starts; `None`: it is not installed.
    dispatcher: Option<PathBuf>,
    /// The timer that looks for drift; not on every host.
    timer: TimerFiles,
}

impl UnitFiles {
    fn below(root: &Path) -> Self {
        let folder = below(root, Path::new(UNIT_FOLDER));
        let links = UNITS.into_iter().flat_map(|(name, text)| {
            let wanted_by = text.lines().filter_map(|line| line.strip_prefix("WantedBy="));
            let wanted_by = wanted_by.flat_map(str::split_whitespace);
            let folder = &folder;
            wanted_by.map(move |by| (folder.join(format!("{by}.wants")).join(name), name))
        });
        let dispatcher = below(root, Path::new(DISPATCHER_FOLDER));
        Self {
            root: root.to_owned(),
            program: below(root, Path::new(PROGRAM)),
            links: links.collect(),
            units: UNITS.into_iter().map(|(name, text)| (folder.join(name), text)).collect(),
            dispatcher: dispatcher.is_dir().then(|| dispatcher.join(DISPATCHER_NAME)),
            timer: TimerFiles::below(root),
        }
    }

    /// Whether program, units and links are as `program` would install them. Times say nothing: the login script touches
    /// an agent once a boot.
    fn are_installed(&self, program: &Path) -> bool {
        let own = BuildMark::of(program).ok();
        let is_right = |(path, text): &(PathBuf, &str)| {
            fs::read(path).is_ok_and(|there| there == text.as_bytes())
        };
        own.is_some()
            && BuildMark::of(&self.program).ok() == own
            && self.units.iter().all(is_right)
            && self.links.iter().all(|(link, _)| fs::symlink_metadata(link).is_ok())
    }

    fn install(&self, program: &Path) -> io::Result<()> {
        if let Some(path) = &self.dispatcher {
            link_managers::refuse_taken(path)?;
            put(path, 0o755, |file| file.write_all(DISPATCHER.as_bytes()))?;
        }
        let source = File::open(program)?;
        put(&self.program, 0o755, |file| io::copy(&mut &source, file).map(drop))?;
        for (path, text) in &self.units {
            put(path, 0o644, |file| file.write_all(text.as_bytes()))?;
        }
        // As `systemctl enable` makes them.
        for (link, name) in &self.links {
            if let Some(folder) = link.parent() {
                fs::create_dir_all(folder)?;
            }
            match symlink(Path::new("..").join(name), link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// All that lvsprov may have written, the boot unit last.
    fn all(&self) -> Vec<PathBuf> {
        let dispatcher = self.dispatcher.iter().filter(|path| !link_managers::is_taken(path));
        let links = self.links.iter().map(|(link, _)| link);
        let mut all: Vec<PathBuf> = links.chain(dispatcher).cloned().collect();
        all.extend(link_managers::installed(&self.root));
        all.extend(self.timer.all());
        all.push(self.program.clone());
        all.extend(self.units.iter().rev().map(|(path, _)| path.clone()));
        all
    }

    fn are_present(&self) -> bool {
        self.all().iter().any(|path| fs::symlink_metadata(path).is_ok())
    }

    /// Whether there was anything to remove.
    fn remove(&self) -> io::Result<bool> {
        let mut removed = false;
        let shared =
            [UNIT_FOLDER, DISPATCHER_FOLDER].map(|folder| below(&self.root, Path::new(folder)));
        for path in self.all() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result?,
            }
            removed = true;
            if let Some(folder) =
                path.parent().filter(|folder| !shared.iter().any(|it| it == folder))
            {
                // Only one that is empty: other units may be wanted there.
                let _ = fs::remove_dir(folder);
            }
        }
        Ok(removed)
    }
}

fn is_dispatcher(path: &Path) -> bool {
    let is_executable =
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o100 != 0);
    is_executable && fs::read(path).is_ok_and(|text| text == DISPATCHER.as_bytes())
}

/// Tells builds of the program apart without reading them whole, as every look at a host does it: the length, and both
/// ends. Near the beginning of an ELF file lies the linker's digest of all of it (`.note.gnu.build-id`), at its end the
/// table of its sections.
#[derive(PartialEq, Eq)]
struct BuildMark {
    length: u64,
    ends: Vec<u8>,
}

impl BuildMark {
    const END: u64 = 4096;

    fn of(program: &Path) -> io::Result<Self> {
        let mut file = File::open(program)?;
        let length = file.metadata()?.len();
        let mut ends = Vec::new();
        (&file).take(Self::END).read_to_end(&mut ends)?;
        file.seek(SeekFrom::Start(length.saturating_sub(Self::END)))?;
        file.take(Self::END).read_to_end(&mut ends)?;
        Ok(Self { length, ends })
    }
}

/// Writes a file beside `path`, and renames it.
pub(super) fn put(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let permissions = fs::Permissions::from_mode(mode);
    let mut file = tempfile::Builder::new()
        .prefix(".lvsprov-")
        .permissions(permissions)
        .tempfile_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

fn run(program: &[&str], arguments: &[&str]) -> Result<()> {
    let Some(found) = program.iter().find(|path| Path::new(path).exists()) else {
        return Err(Error::new(format!("this host has none of {}", program.join(", "))));
    };
    let done = Command::new(found).args(arguments).env_clear().output();
    let done = done.map_err(|error| Error::new(format!("cannot start {found}")).because(error))?;
    if done.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&done.stderr);
    let reason = stderr.lines().next().unwrap_or("no message").to_owned();
    Err(Error::new(format!("{found} {}: {}", arguments.join(" "), done.status)).because(reason))
}

#[cfg(test)]
#[path = "boot_unit_tests.rs"]
mod tests;
