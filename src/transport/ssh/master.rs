//! The ssh connection to a host: starts a master that ends by itself, or takes up one that was kept.
//!
//! The masters are ours: they have sockets of their own, and no connection of the user's is reused
//! or closed. They are started here by argument list, rather than by [`openssh::SessionBuilder`],
//! for two reasons: a login that hangs can be ended (the crate waits for `ssh` without an end), and
//! a kept connection needs a name that the next command finds (the crate takes a random one).
//! Everything on the connection then goes through [`openssh::Session`].

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use openssh::Session;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::super::{HostlessError, Options, TransportErrorKind};
use super::classify;
use super::control::ControlSockets;
use crate::topology::SshTarget;
use crate::visible::visible_lines;

/// How many log in at the same time. A login is mostly the CPU's work, on this machine too: beyond
/// this it gets no faster, and hundreds at once would each run into their time limit.
static LOGINS: Semaphore = Semaphore::const_new(32);

/// How often a connection that sshd turned away is tried anew, and how long to wait before.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(300);

/// How long a connection that is not to be kept waits for its first session.
const UNKEPT: Duration = Duration::from_secs(5);

/// How much of ssh's messages is read, in bytes.
const STDERR_LIMIT: u64 = 16 << 10;

/// A connection that is logged in.
#[derive(Debug, Clone)]
pub(super) struct Master {
    /// For commands.
    pub session: Arc<Session>,
    /// It was there already: whether it still leads anywhere is not known.
    pub resumed: bool,
    socket: PathBuf,
    keep: bool,
}

impl Master {
    /// Takes up the connection that was kept for this target, if there is one.
    pub fn resume(sockets: &ControlSockets, options: &Options) -> Option<Self> {
        let found = std::fs::symlink_metadata(&sockets.kept).ok()?;
        if options.keep.is_zero() || !found.file_type().is_socket() {
            return None;
        }
        tracing::debug!(socket = %sockets.kept.display(), "taking up a kept connection");
        Some(Self::at(sockets.kept.clone(), true, true))
    }

    /// Logs in.
    pub async fn start(
        target: &SshTarget,
        sockets: &ControlSockets,
        options: &Options,
    ) -> Result<Self, HostlessError> {
        let mut tried = 1;
        let socket = loop {
            let socket = sockets.fresh();
            // The semaphore is never closed; without a permit there would only be no bound.
            let permit = LOGINS.acquire().await;
            tracing::debug!(%target, tried, "logging in");
            let done = login(target, &socket, options).await;
            drop(permit);
            match done {
                Ok(()) => break socket,
                Err(fault) if tried < TRIES && classify::was_turned_away(&fault.stderr) => {
                    sleep(PAUSE * tried + sockets.stagger()).await;
                    tried += 1;
                }
                Err(fault) => return Err(fault),
            }
        };
        if options.keep.is_zero() {
            return Ok(Self::at(socket, false, false));
        }
        // Only a whole connection gets the name that the next command looks for. A connection of another
        // process that has the name loses it, and ends when it is idle.
        match std::fs::rename(&socket, &sockets.kept) {
            Ok(()) => Ok(Self::at(sockets.kept.clone(), false, true)),
            Err(_) => Ok(Self::at(socket, false, true)),
        }
    }

    fn at(socket: PathBuf, resumed: bool, keep: bool) -> Self {
        let session = Session::resume_mux(socket.clone().into_boxed_path(), None);
        Self { session: Arc::new(session), resumed, socket, keep }
    }

    /// Call it once the agent's session is open: a connection that is not kept then ends with it.
    pub async fn settle(&self) {
        if !self.keep {
            self.stop_listening().await;
        }
    }

    /// Gives up a dead connection: no later command finds it.
    pub async fn forget(&self) {
        self.stop_listening().await;
        // The master may have removed it.
        let _ = std::fs::remove_file(&self.socket);
    }

    async fn stop_listening(&self) {
        let session = Session::resume_mux(self.socket.clone().into_boxed_path(), None);
        // A master that does not answer ends by ControlPersist.
        let _ = timeout(Duration::from_secs(1), session.close()).await;
    }
}

/// Runs `ssh` until it is logged in and has gone to the background.
async fn login(target: &SshTarget, socket: &Path, options: &Options) -> Result<(), HostlessError> {
    let broken = |source| TransportErrorKind::Start { program: "ssh".into(), source };
    let mut log =
        File::from(memfd_create(c"ssh", MFdFlags::MFD_CLOEXEC).map_err(|e| broken(e.into()))?);
    let stderr = log.try_clone().map_err(broken)?;
    let child = command(target, socket, options).stderr(stderr).spawn().map_err(broken)?;
    let limit = options.connect_timeout;
    // ssh's own limit does not cover the key exchange and what comes after it.
    let waited = timeout(limit + Duration::from_secs(1), Login::wait(child)).await;
    let failed = match waited {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(_)) => None,
        Ok(Err(source)) => Some(broken(source)),
        Err(_) => Some(TransportErrorKind::LoginTimeout { limit }),
    };
    let stderr = read_back(&mut log);
    Err(HostlessError {
        kind: failed.unwrap_or_else(|| classify::login_error(&stderr, limit)),
        stderr,
    })
}

fn command(target: &SshTarget, socket: &Path, options: &Options) -> Command {
    let persist = if options.keep.is_zero() { UNKEPT } else { options.keep };
    let SshTarget { host, user, port } = target;
    let mut ssh = Command::new("ssh");
    if let Some(config) = &options.ssh_config {
        ssh.arg("-F").arg(config);
    }
    ssh.arg("-S").arg(socket).args(["-M", "-f", "-N", "-T"]);
    for option in [
        format!("ControlPersist={}", persist.as_secs().max(1)),
        format!("ConnectTimeout={}", options.connect_timeout.as_secs().max(1)),
        // No person is there to answer. Host keys are checked as the user's configuration says; its
        // default, to ask, becomes a refusal.
        "BatchMode=yes".to_owned(),
        // What the user has for a shell on that host would be in the way or fail the second time.
        "ClearAllForwardings=yes".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "RemoteCommand=none".to_owned(),
        // A host that vanished is noticed within 15 s.
        "ServerAliveInterval=5".to_owned(),
        "ServerAliveCountMax=3".to_owned(),
        // Errors are read here, also where the configuration says QUIET; banners are not wanted.
        "LogLevel=ERROR".to_owned(),
    ] {
        ssh.arg("-o").arg(option);
    }
    if let Some(user) = user {
        ssh.arg("-l").arg(user);
    }
    if let Some(port) = port {
        ssh.arg("-p").arg(port.to_string());
    }
    // Behind `--` a host that begins with a dash is no option.
    ssh.arg("--").arg(host);
    // A group of its own: ended together with the ssh of a jump host, and not by Ctrl-C, which is
    // for the controller.
    ssh.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
    ssh
}

fn read_back(stderr: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not shown: the exit status was seen.
    let _ = stderr.rewind().and_then(|()| stderr.take(STDERR_LIMIT).read_to_end(&mut bytes));
    visible_lines(&String::from_utf8_lossy(&bytes))
}

/// An `ssh` that has not gone to the background yet; dropped before that, it is ended.
struct Login {
    child: Child,
}

impl Login {
    async fn wait(child: Child) -> io::Result<std::process::ExitStatus> {
        Self { child }.child.wait().await
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        // `None` once it was waited for: then the number may belong to another process.
        let group = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group {
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
        }
    }
}
