//! The folder of an instance: its configuration, the files by which its process is found, and what says whether it has read
//! the configuration.
//!
//! `/run/lvsprov/PROGRAM/TOPOLOGY/`; in a network namespace that is not the first process's own,
//! `/run/lvsprov/netns-INODE-COOKIE/PROGRAM/TOPOLOGY/`: the lab's hosts share one /run.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::namespace::{self, NamespaceId};
use crate::names::TopologyName;
use crate::state::{DaemonConfiguration, DaemonInstance, DaemonProgram};
use crate::whole_file;

pub(super) const ROOT: &str = "/run/lvsprov";

/// The paths of one instance.
#[derive(Debug)]
pub(super) struct InstanceFiles {
    folder: PathBuf,
    /// The configuration. The instance is there as long as this is.
    pub file: PathBuf,
    /// There while the process may not have read the configuration yet.
    pub pending: PathBuf,
    /// There until the process has read the configuration.
    pub reading: PathBuf,
    /// The number of the process.
    pub pid: PathBuf,
    /// The number of the process that carries out the checks.
    pub checkers_pid: PathBuf,
}

impl InstanceFiles {
    pub fn of(instance: &DaemonInstance) -> Result<Self> {
        let DaemonInstance { program, topology } = instance;
        let folder = root()?.join(program.as_str()).join(topology.as_str());
        Ok(Self {
            file: folder.join("daemon.conf"),
            pending: folder.join("pending"),
            reading: folder.join("reading"),
            pid: folder.join("pid"),
            checkers_pid: folder.join("checkers.pid"),
            folder,
        })
    }

    /// The configuration, as if the process had read it; `None`: there is none.
    pub fn configuration(&self, instance: &DaemonInstance) -> Result<Option<DaemonConfiguration>> {
        match fs::read_to_string(&self.file) {
            Ok(text) => Ok(Some(configuration_in(instance, &self.reading, &text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("read", &self.file, error)),
        }
    }

    /// Writes the configuration; from now on it is pending.
    pub fn write(
        &self,
        instance: &DaemonInstance,
        configuration: &DaemonConfiguration,
    ) -> Result<()> {
        self.make_folder()?;
        write(&self.pending, "")?;
        write(&self.file, &text_of(instance, &self.reading, configuration))
    }

    /// The process has read it.
    pub fn settle(&self) -> Result<()> {
        remove(&self.pending)
    }

    /// The process is to read it now.
    pub fn mark_reading(&self) -> Result<()> {
        write(&self.reading, "")
    }

    /// Writes a configuration beside the present one, to be tried.
    pub fn write_candidate(
        &self,
        instance: &DaemonInstance,
        configuration: &DaemonConfiguration,
    ) -> Result<PathBuf> {
        self.make_folder()?;
        let path = self.candidate();
        write(&path, &text_of(instance, &self.reading, configuration))?;
        Ok(path)
    }

    fn candidate(&self) -> PathBuf {
        self.folder.join("candidate.conf")
    }

    /// Removes it, and the folder if that was made for it.
    pub fn remove_candidate(&self) {
        let path = self.candidate();
        let _ = fs::remove_file(path.with_extension("log"));
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir(&self.folder);
        self.remove_empty_folders();
    }

    /// Removes all of it: the configuration first.
    pub fn remove(&self) -> Result<()> {
        remove(&self.file)?;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("remove", &self.folder, error));
            }
            _ => {}
        }
        self.remove_empty_folders();
        Ok(())
    }

    fn remove_empty_folders(&self) {
        let above = self.folder.ancestors().skip(1).take_while(|it| it.starts_with(ROOT));
        for folder in above {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }

    fn make_folder(&self) -> Result<()> {
        let make = DirBuilder::new().recursive(true).mode(0o755).create(&self.folder);
        make.map_err(|error| cannot("make", &self.folder, error))
    }
}

/// The instances that have a configuration in this namespace.
pub(super) fn present() -> Result<Vec<DaemonInstance>> {
    let mut all = Vec::new();
    for program in DaemonProgram::ALL {
        let folder = root()?.join(program.as_str());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot("read", &folder, error)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let topology = name.to_str().and_then(|name| name.parse::<TopologyName>().ok());
            all.extend(topology.map(|topology| DaemonInstance { program: *program, topology }));
        }
    }
    Ok(all)
}

/// Where the instances of this namespace are.
fn root() -> Result<PathBuf> {
    if namespace::is_of_first_process() {
        return Ok(ROOT.into());
    }
    let failed = |error| Error::new("cannot identify this network namespace").because(error);
    let NamespaceId { inode, cookie, lo, .. } = NamespaceId::current().map_err(failed)?;
    let own = cookie.or(lo).unwrap_or(0);
    Ok(Path::new(ROOT).join(format!("netns-{inode}-{own}")))
}

/// What stands before the text of an instance.
fn head(instance: &DaemonInstance, reading: &Path) -> String {
    match instance.program {
        DaemonProgram::Keepalived => format!(
            "# Written by lvsprov for the topology {}, which starts this process: change the file of the cluster instead.\n\
             global_defs {{\n  reload_file {}\n}}\n",
            instance.topology,
            reading.display()
        ),
    }
}

/// The text of the file that an instance reads.
pub(super) fn text_of(
    instance: &DaemonInstance,
    reading: &Path,
    configuration: &DaemonConfiguration,
) -> String {
    head(instance, reading) + &configuration.text()
}

/// The configuration in that text; of a file that lvsprov did not write so, all of it.
pub(super) fn configuration_in(
    instance: &DaemonInstance,
    reading: &Path,
    text: &str,
) -> DaemonConfiguration {
    DaemonConfiguration::of(text.strip_prefix(&head(instance, reading)).unwrap_or(text))
}

/// Only root reads it: a check may have a password in it.
fn write(path: &Path, text: &str) -> Result<()> {
    whole_file::write(path, text.as_bytes(), 0o600, true)
        .map_err(|error| cannot("write", path, error))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path, error)),
        _ => Ok(()),
    }
}

fn cannot(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::new(format!("cannot {verb} {}", path.display())).because(error)
}
