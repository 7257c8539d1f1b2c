//! The files of the boot unit on the host's disk: the program, the units and their links, and what has other programs leave
//! lvsprov's settings alone.
//!
//! They are written and removed in an order in which a power cut does no harm: a link to a unit is there only with the unit
//! and the program, so nothing fails at boot; and as long as anything is there that has an effect, the boot unit is
//! linked, which removes it at the next boot if no topology needs it. What may be left is the program and the unit
//! without its links, which do nothing; the next `apply` takes them over.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::boot_unit::{NETWORK_PATH, NETWORK_UNIT, PROGRAM, UNIT};
use super::drift_timer::TimerFiles;
use super::file_tree::{FileTree, RootTree, put, put_link, remove_all};
use super::link_managers::{self, below};
use crate::plan::link_managers::DROP_IN;

pub(super) const NAME: &str = "lvsprov-boot.service";
pub(super) const NETWORK_UNIT_NAME: &str = "lvsprov-network.service";
pub(super) const NETWORK_PATH_NAME: &str = "lvsprov-network.path";
/// The names and texts of the units. The first one is removed last: what is left is found again by it.
const UNITS: [(&str, &str); 3] =
    [(NAME, UNIT), (NETWORK_UNIT_NAME, NETWORK_UNIT), (NETWORK_PATH_NAME, NETWORK_PATH)];
pub(super) const UNIT_FOLDER: &str = "/etc/systemd/system";
/// Where NetworkManager finds what it is to start.
const DISPATCHER_FOLDER: &str = "/etc/NetworkManager/dispatcher.d";
const DISPATCHER_NAME: &str = "90-lvsprov";
const DISPATCHER: &str = include_str!("../../templates/lvsprov-dispatcher.sh");

/// Where an earlier version put the program.
const EARLIER_PROGRAM: &str = "/usr/local/lib/lvsprov/lvsprov";

/// A unit's file with the links by which others want it.
struct UnitFile {
    name: &'static str,
    path: PathBuf,
    text: &'static str,
    links: Vec<PathBuf>,
}

/// The files of the unit below a root folder.
pub(super) struct UnitFiles {
    root: PathBuf,
    program: PathBuf,
    earlier_program: PathBuf,
    /// The boot unit first.
    units: Vec<UnitFile>,
    /// What NetworkManager starts; `None`: it is not installed.
    pub dispatcher: Option<PathBuf>,
    /// The timer that looks for drift; not on every host.
    pub timer: TimerFiles,
}

impl UnitFiles {
    pub fn below(root: &Path) -> Self {
        let folder = below(root, Path::new(UNIT_FOLDER));
        let unit = |(name, text): (&'static str, &'static str)| {
            let wanted_by = text.lines().filter_map(|line| line.strip_prefix("WantedBy="));
            let wanted_by = wanted_by.flat_map(str::split_whitespace);
            // As `systemctl enable` makes them.
            let links = wanted_by.map(|by| folder.join(format!("{by}.wants")).join(name)).collect();
            UnitFile { name, path: folder.join(name), text, links }
        };
        let dispatcher = below(root, Path::new(DISPATCHER_FOLDER));
        Self {
            root: root.to_owned(),
            program: below(root, Path::new(PROGRAM)),
            earlier_program: below(root, Path::new(EARLIER_PROGRAM)),
            units: UNITS.into_iter().map(unit).collect(),
            dispatcher: dispatcher.is_dir().then(|| dispatcher.join(DISPATCHER_NAME)),
            timer: TimerFiles::below(root),
        }
    }

    /// Whether program, units and links are as `program` would install them. Times say nothing: the login script touches
    /// an agent once a boot.
    pub fn are_installed(&self, program: &Path) -> bool {
        let own = BuildMark::of(program).ok();
        let is_right = |unit: &UnitFile| {
            fs::read(&unit.path).is_ok_and(|there| there == unit.text.as_bytes())
                && unit.links.iter().all(|link| RootTree.is_there(link))
        };
        own.is_some() && BuildMark::of(&self.program).ok() == own && self.units.iter().all(is_right)
    }

    /// Installs them on this host, with `drop_ins` of networkd, and the timer for looks every `drift_every_s` seconds.
    pub fn install(
        &self,
        program: &Path,
        drop_ins: &BTreeSet<PathBuf>,
        drift_every_s: Option<u32>,
    ) -> io::Result<()> {
        self.dispatcher
            .iter()
            .chain(drop_ins)
            .try_for_each(|path| link_managers::refuse_taken(path))?;
        self.write(&RootTree, &mut File::open(program)?, drop_ins, drift_every_s)
    }

    /// The boot unit before what only it removes.
    fn write(
        &self,
        tree: &dyn FileTree,
        program: &mut dyn io::Read,
        drop_ins: &BTreeSet<PathBuf>,
        drift_every_s: Option<u32>,
    ) -> io::Result<()> {
        put(tree, &self.program, 0o755, program)?;
        for UnitFile { name, path, text, links } in &self.units {
            put(tree, path, 0o644, &mut text.as_bytes())?;
            let target = Path::new("..").join(name);
            links.iter().try_for_each(|link| put_link(tree, &target, link))?;
        }
        if let Some(path) = &self.dispatcher {
            put(tree, path, 0o755, &mut DISPATCHER.as_bytes())?;
        }
        for path in drop_ins {
            put(tree, path, 0o644, &mut DROP_IN.as_bytes())?;
        }
        drift_every_s.map_or(Ok(()), |every_s| self.timer.install(tree, every_s))?;
        remove_all(tree, std::slice::from_ref(&self.earlier_program)).map(drop)
    }

    /// What has an effect on other programs, on this host.
    fn for_others(&self) -> Vec<PathBuf> {
        let dispatcher = self.dispatcher.iter().filter(|path| !link_managers::is_taken(path));
        let drop_ins = link_managers::installed(&self.root);
        dispatcher.cloned().chain(drop_ins).collect()
    }

    /// Whether anything of them is on this host.
    pub fn are_present(&self) -> bool {
        let units = self.units.iter().flat_map(|unit| unit.links.iter().chain([&unit.path]));
        let mut own = units.chain([&self.program, &self.earlier_program]);
        own.any(|path| RootTree.is_there(path))
            || self.timer.are_present()
            || !self.for_others().is_empty()
    }

    /// Removes them from this host. Whether there was anything to remove.
    pub fn remove(&self) -> io::Result<bool> {
        self.take_away(&RootTree, &self.for_others())
    }

    /// `for_others`: drop-ins and the dispatcher script, as far as lvsprov wrote them.
    fn take_away(&self, tree: &dyn FileTree, for_others: &[PathBuf]) -> io::Result<bool> {
        let mut removed = remove_all(tree, for_others)? | self.timer.remove(tree)?;
        let mut folders: BTreeSet<&Path> = for_others.iter().filter_map(|it| it.parent()).collect();
        for UnitFile { path, links, .. } in self.units.iter().rev() {
            removed |= remove_all(tree, links)?;
            removed |= remove_all(tree, std::slice::from_ref(path))?;
            folders.extend(links.iter().filter_map(|it| it.parent()));
        }
        removed |= remove_all(tree, &[self.program.clone(), self.earlier_program.clone()])?;
        folders.extend(
            [&self.program, &self.earlier_program].into_iter().filter_map(|it| it.parent()),
        );
        let shared = self.dispatcher.as_ref().and_then(|it| it.parent());
        // Those within others first.
        for folder in folders.into_iter().rev().filter(|folder| Some(*folder) != shared) {
            // Only one that is empty: other units may be wanted there.
            let _ = tree.remove_folder(folder);
        }
        Ok(removed)
    }
}

pub(super) fn is_dispatcher(path: &Path) -> bool {
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

#[cfg(test)]
#[path = "unit_files_tests.rs"]
mod tests;
