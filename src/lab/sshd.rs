//! A real sshd in each host of the lab, for connections as in production.
//!
//! Each sshd runs in the host's network namespace with its own /run, /var/lib and /root, so each host has
//! its own agent and receipts. Processes of a connection end with the sshd. The keys are generated for
//! this lab in a temporary folder; the next lab removes the folder of a killed one.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use serde::Serialize;
use tempfile::TempDir;

use super::child::{ChildGuard, ChildSpec};
use super::{Lab, LabError, programs};
use crate::names::HostName;
use crate::protocol::STATE_DIR;
use crate::transport::binary;

/// Time limit for sshd to answer. Under emulation it takes seconds.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Prefix of the temporary folder's name.
const FOLDER: &str = "lvsprov-lab-";

/// The sshds of a lab. They end when the value is dropped.
pub struct Sshds {
    hosts: BTreeMap<HostName, Sshd>,
    folder: TempDir,
    /// Marks the folder as in use.
    _lock: Flock<File>,
}

/// One host's sshd.
struct Sshd {
    address: Ipv4Addr,
    process: ChildGuard,
}

#[derive(Serialize)]
struct SshHost<'a> {
    name: &'a str,
    address: Ipv4Addr,
}

impl Sshds {
    /// Starts an sshd in each of `hosts` and waits until all answer. The lab must have been built
    /// with a management network. `binary` is this program (`/proc/self/exe` outside of tests).
    ///
    /// # Errors
    /// If OpenSSH is not installed, a host has no management address, or an sshd does not start; then
    /// with its log.
    pub fn start<'a>(
        lab: &Lab,
        hosts: impl IntoIterator<Item = &'a HostName>,
        binary: &Path,
    ) -> Result<Self, LabError> {
        let sshd = programs::find("sshd")?;
        let keygen = programs::find("ssh-keygen")?;
        let (folder, lock) =
            make_folder(&std::env::temp_dir()).map_err(LabError::io("make a temporary folder"))?;
        let mut all = Self { hosts: BTreeMap::new(), folder, _lock: lock };
        let names: Vec<&HostName> = hosts.into_iter().collect();
        make_keys(&keygen, all.folder.path(), &names)?;
        write_shadow(&all.shadow())?;
        for name in &names {
            let address = lab.management_address(name).ok_or_else(|| {
                LabError::Topology(format!("{name} has no management interface to listen on"))
            })?;
            let process = start_one(lab, name, address, &all, &sshd, binary)?;
            all.hosts.insert((*name).clone(), Sshd { address, process });
        }
        all.write_client_files()?;
        let deadline = Instant::now() + READY_WITHIN;
        for (name, sshd) in &mut all.hosts {
            let log = all.folder.path().join(format!("{name}.log"));
            wait_until_ready(name, sshd, &log, deadline)?;
        }
        Ok(all)
    }

    /// An ssh_config with every host by its name, for `ssh -F`.
    pub fn ssh_config(&self) -> PathBuf {
        self.folder.path().join("ssh_config")
    }

    /// The host keys of all hosts.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }

    /// The private key that every host accepts for root.
    pub fn identity(&self) -> PathBuf {
        self.folder.path().join("client")
    }

    /// The listening address of a host's sshd.
    pub fn address(&self, host: &HostName) -> Option<SocketAddr> {
        self.hosts.get(host).map(|sshd| SocketAddr::new(IpAddr::V4(sshd.address), 22))
    }

    /// A path to the host's file tree (with its /run, /var/lib, /root) on this machine.
    pub fn root(&self, host: &HostName) -> Option<PathBuf> {
        let sshd = self.hosts.get(host)?;
        Some(PathBuf::from(format!("/proc/{}/root", sshd.process.0.id())))
    }

    /// Gives hosts the agent that a first login would send to them.
    ///
    /// # Errors
    /// If a host has no sshd here, or `program` cannot be read or not be copied there.
    pub fn place_agent<'a>(
        &self,
        hosts: impl IntoIterator<Item = &'a HostName>,
        program: &Path,
    ) -> Result<(), LabError> {
        let state_dir = |host: &HostName| {
            let root = self.root(host).ok_or_else(|| {
                LabError::Topology(format!(
                    "{host} has no sshd in this lab, so no place for an agent"
                ))
            })?;
            Ok::<_, LabError>(root.join(STATE_DIR.trim_start_matches('/')))
        };
        let all = hosts.into_iter().map(state_dir).collect::<Result<Vec<_>, _>>()?;
        binary::place(program, &all).map_err(LabError::io("give the lab's hosts their agent"))
    }

    /// The log of a host's sshd so far.
    pub fn log(&self, host: &HostName) -> String {
        fs::read_to_string(self.folder.path().join(format!("{host}.log"))).unwrap_or_default()
    }

    /// Kills one host's sshd with all its connections, as if the host had failed.
    pub fn kill(&mut self, host: &HostName) {
        self.hosts.remove(host);
    }

    fn shadow(&self) -> PathBuf {
        self.folder.path().join("shadow")
    }

    fn write_client_files(&self) -> Result<(), LabError> {
        let mut known = String::new();
        let mut hosts = Vec::new();
        for (name, sshd) in &self.hosts {
            let public = self.folder.path().join(format!("{name}.key.pub"));
            let text = fs::read_to_string(&public)
                .map_err(LabError::io(format!("read {}", public.display())))?;
            // "ecdsa-sha2-nistp256 AAAA... comment"
            let key: Vec<&str> = text.split_whitespace().take(2).collect();
            let address = sshd.address;
            known.extend([&format!("{name},{address} {}", key.join(" ")), "\n"]);
            hosts.push(SshHost { name: name.as_str(), address: sshd.address });
        }
        write(&self.known_hosts(), &known)?;
        let config = render(
            "ssh_config.j2",
            include_str!("../../templates/ssh_config.j2"),
            minijinja::context! {
                hosts => minijinja::value::Serde(&hosts),
                identity => self.identity().to_string_lossy(),
                known_hosts => self.known_hosts().to_string_lossy(),
            },
        )?;
        write(&self.ssh_config(), &config)
    }
}

/// Creates a locked folder, and removes folders of ended labs.
fn make_folder(parent: &Path) -> io::Result<(TempDir, Flock<File>)> {
    let lock_of = |folder: &Path| folder.join("lock");
    for entry in fs::read_dir(parent)?.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(FOLDER)
            && entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == geteuid().as_raw());
        let lock = if ours { File::open(lock_of(&entry.path())).ok() } else { None };
        let free = lock.and_then(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
        if free.is_some() {
            // Another lab may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = tempfile::Builder::new().prefix(FOLDER).tempdir_in(parent)?;
    // The lock file appears after it is locked.
    let new = folder.path().join("new-lock");
    let lock = Flock::lock(File::create(&new)?, FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, errno)| io::Error::from(errno))?;
    fs::rename(&new, lock_of(folder.path()))?;
    Ok((folder, lock))
}

fn start_one(
    lab: &Lab,
    name: &HostName,
    address: Ipv4Addr,
    all: &Sshds,
    sshd: &Path,
    binary: &Path,
) -> Result<ChildGuard, LabError> {
    let folder = all.folder.path();
    let config = folder.join(format!("{name}.sshd_config"));
    let text = render(
        "sshd_config.j2",
        include_str!("../../templates/sshd_config.j2"),
        minijinja::context! {
            host => name.as_str(),
            address => address.to_string(),
            host_key => folder.join(format!("{name}.key")).to_string_lossy(),
            authorized_keys => folder.join("client.pub").to_string_lossy(),
        },
    )?;
    write(&config, &text)?;
    let log = folder.join(format!("{name}.log"));
    let log = File::create(&log).map_err(LabError::io(format!("write {}", log.display())))?;
    let log_too = log.try_clone().map_err(LabError::io("share a log file"))?;
    // sshd does not create its privilege separation folder /run/sshd.
    let mut spec = ChildSpec::new(sshd)
        .arg("-D")
        .arg("-e")
        .arg("-f")
        .arg(&config)
        .netns(lab.netns_path(name)?)
        .bind_mount(all.shadow(), "/etc/shadow")
        .private_folder("/run")
        .private_folder("/run/sshd")
        .private_folder("/var/lib")
        .process_namespace();
    // An empty home, so that shells do not run this machine's start-up files; except if the lab's folder
    // is in it.
    let home = Path::new("/root");
    if home.is_dir() && !folder.starts_with(home) {
        spec = spec.private_folder(home);
    }
    let mut command = spec.command(binary).map_err(LabError::io("write down how to start sshd"))?;
    command.stdin(Stdio::null()).stdout(log).stderr(log_too);
    let process = lab.spawner().spawn(command);
    process.map(ChildGuard).map_err(LabError::io(format!("start sshd for {name}")))
}

/// Generates the client's key and the host keys, in parallel. ECDSA is OpenSSL's, in assembly; Ed25519 is OpenSSH's own, in
/// plain C, and an emulated processor's time.
fn make_keys(keygen: &Path, folder: &Path, hosts: &[&HostName]) -> Result<(), LabError> {
    let paths = hosts.iter().map(|host| folder.join(format!("{host}.key")));
    let paths = paths.chain([folder.join("client")]);
    let mut running = Vec::new();
    for path in paths {
        let child = Command::new(keygen)
            .args(["-q", "-t", "ecdsa", "-N", "", "-C", "lvsprov-lab", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        running.push(child.map_err(LabError::io("start ssh-keygen"))?);
    }
    for child in running {
        let output = child.wait_with_output().map_err(LabError::io("wait for ssh-keygen"))?;
        if !output.status.success() {
            return Err(LabError::Program {
                program: "ssh-keygen".to_owned(),
                detail: format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
            });
        }
    }
    Ok(())
}

/// Without PAM sshd refuses an account whose password is locked by "!", as root's is on many
/// distributions; with "*" it accepts a key (auth.c, `LOCKED_PASSWD_PREFIX`).
fn write_shadow(path: &Path) -> Result<(), LabError> {
    write(path, "root:*:19000:0:99999:7:::\nsshd:*:19000::::::\n")?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(LabError::io(format!("protect {}", path.display())))
}

fn wait_until_ready(
    name: &HostName,
    sshd: &mut Sshd,
    log: &Path,
    deadline: Instant,
) -> Result<(), LabError> {
    let failed = |why: String| LabError::Program {
        program: format!("sshd of {name}"),
        detail: format!("{why}; its log: {}", fs::read_to_string(log).unwrap_or_default().trim()),
    };
    loop {
        if let Ok(Some(status)) = sshd.process.0.try_wait() {
            return Err(failed(format!("it ended ({status})")));
        }
        let attempt = greeting(SocketAddr::new(IpAddr::V4(sshd.address), 22));
        match attempt {
            Ok(text) if text.starts_with(b"SSH-") => return Ok(()),
            _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Ok(text) => return Err(failed(format!("its greeting is {text:?}"))),
            Err(error) => {
                let seconds = READY_WITHIN.as_secs();
                return Err(failed(format!("no greeting within {seconds} s: {error}")));
            }
        }
    }
}

fn greeting(address: SocketAddr) -> io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut text = [0; 4];
    stream.read_exact(&mut text)?;
    Ok(text)
}

fn render(
    name: &'static str,
    template: &'static str,
    values: minijinja::Value,
) -> Result<String, LabError> {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.render_named_str(name, template, values).map_err(|e| LabError::Template(name, e))
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_of_killed_labs_are_removed_and_folders_in_use_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let (used, _lock) = make_folder(parent.path()).unwrap();
        let (killed, lock) = make_folder(parent.path()).unwrap();
        let killed = killed.keep();
        drop(lock);
        let others = parent.path().join("lvsprov-lab-unlocked");
        fs::create_dir(&others).unwrap();
        let (_folder, _lock) = make_folder(parent.path()).unwrap();
        assert!(used.path().exists() && others.exists());
        assert!(!killed.exists());
    }
}
