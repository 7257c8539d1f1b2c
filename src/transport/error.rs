//! Errors between a controller and a host: which host, what, why, and what to do.
//!
//! Errors with different cures are different variants. The messages of `ssh` and of the host are kept and
//! shown: they are the source of truth.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::frame::FrameError;
use crate::failure::Failure;
use crate::names::HostName;
use crate::visible::visible;

/// A [`TransportErrorKind`] with a host.
#[derive(Debug)]
pub struct TransportError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    host: HostName,
    place: HostLocation,
    kind: TransportErrorKind,
    stderr: String,
}

/// Where a host is.
#[derive(Debug, Clone)]
pub(super) struct HostLocation {
    /// In words.
    pub to: String,
    /// How a person would log in there.
    pub by_hand: String,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum TransportErrorKind {
    /// A program of this machine could not be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Our own executable could not be read.
    #[error("cannot read {}, the program that is sent to hosts", path.display())]
    Binary {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no safe place for the sockets of kept connections.
    #[error("cannot use {} for the sockets of ssh connections: {why}", path.display())]
    ControlFolder {
        /// Which folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The name is not known.
    #[error("the name cannot be resolved")]
    Unresolved,
    /// Nothing listens there.
    #[error("the connection was refused")]
    Refused,
    /// There is no way there.
    #[error("there is no route to it")]
    NoRoute,
    /// The host does not answer, or stops during the login.
    #[error("no ssh login within {} s", limit.as_secs_f32())]
    LoginTimeout {
        /// How long was waited.
        limit: Duration,
    },
    /// The host closed the connection before the login.
    #[error("it closed the connection before the login")]
    ClosedEarly,
    /// The host's key is not in known_hosts.
    #[error("its host key is not known")]
    UnknownHostKey,
    /// The host's key is another than in known_hosts.
    #[error("its host key has changed: another machine may be answering in its place")]
    ChangedHostKey,
    /// The host does not let the user in.
    #[error("the login was refused")]
    LoginRefused,
    /// OpenSSH does not accept its own configuration.
    #[error("ssh does not accept its configuration")]
    SshConfig,
    /// ssh failed for an unknown reason.
    #[error("ssh failed")]
    Ssh,
    /// The connection stands, but the host opens no session on it.
    #[error("the host opens no session on the connection")]
    NoSession {
        /// The error of the ssh client.
        #[source]
        source: openssh::Error,
    },
    /// The host is not Linux.
    #[error("it runs {system}, not Linux")]
    NotLinux {
        /// `uname -s`.
        system: String,
    },
    /// The host's architecture is not that of the binary.
    #[error("it is a {host} machine, but {} is built for {ours}", binary.display())]
    WrongMachine {
        /// `uname -m`.
        host: String,
        /// What the binary is for.
        ours: String,
        /// Our binary.
        binary: PathBuf,
        /// Where a build for that machine would be found.
        beside: PathBuf,
    },
    /// The login user is not root and there is no sudo.
    #[error("the login user has user id {uid}, not 0, and there is no sudo on the host")]
    NoSudo {
        /// Effective user id there.
        uid: u32,
    },
    /// sudo wants a password.
    #[error("the login user has user id {uid}, not 0, and sudo asks for a password")]
    SudoPassword {
        /// Effective user id there.
        uid: u32,
    },
    /// sudo does not let the user.
    #[error("the login user has user id {uid}, not 0, and sudo does not let it become root")]
    SudoRefused {
        /// Effective user id there.
        uid: u32,
    },
    /// The agent has not enough rights.
    #[error("the agent runs with user id {uid}; only root can set up a network")]
    NotRoot {
        /// Effective user id there.
        uid: u32,
    },
    /// A user other than root could replace the agent's program.
    #[error("{path} on the host does not belong to root alone")]
    UnsafeFolder {
        /// What.
        path: String,
    },
    /// The host could not store the agent.
    #[error("the agent cannot be stored there: {reason}")]
    NotStored {
        /// Why, in the host's words.
        reason: String,
    },
    /// The agent was started and gave up.
    #[error("the agent cannot start there: {reason}")]
    AgentFailed {
        /// Why, in the host's words.
        reason: String,
    },
    /// The connection ended while the agent was being sent.
    #[error("the connection was cut while the agent was sent, after {sent} of {size} bytes")]
    PushCut {
        /// How much had gone out, in bytes.
        sent: u64,
        /// How much there was, in bytes.
        size: u64,
    },
    /// The host stopped taking bytes.
    #[error("nothing moved for {} s while the agent was sent, after {sent} of {size} bytes", limit.as_secs_f32())]
    PushStalled {
        /// How much had gone out, in bytes.
        sent: u64,
        /// How much there was, in bytes.
        size: u64,
        /// How long was waited.
        limit: Duration,
    },
    /// The other side ended before the agent's first mark.
    #[error("the command ended ({how}) before the agent's first word")]
    NoHello {
        /// Its exit status, in words.
        how: String,
        /// What it printed instead.
        chatter: String,
    },
    /// The agent lies on the host, whole, and the host cannot start it.
    #[error("the agent lies there whole, but does not start ({how}){}", why_not(how))]
    NotStarted {
        /// The exit status of the shell that was to start it, in words.
        how: String,
        /// What was printed instead.
        chatter: String,
    },
    /// The other side prints, but is not lvsprov's agent.
    #[error("something else than the agent answers")]
    NotAnAgent {
        /// What it printed.
        chatter: String,
    },
    /// The other side sends nothing.
    #[error("the agent did not answer within {} s", limit.as_secs_f32())]
    HelloTimeout {
        /// How long was waited.
        limit: Duration,
        /// What was printed meanwhile.
        chatter: String,
    },
    /// The agent is another build.
    #[error("the agent speaks version {theirs} of the protocol, this program {ours}")]
    Version {
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// The agent, or the connection to it, ended in the middle of a request.
    #[error("the connection to the agent ended ({how}) during '{request}'{}", changes(*acting))]
    Cut {
        /// Which request.
        request: &'static str,
        /// Its exit status, in words.
        how: String,
        /// Whether the request changes the host.
        acting: bool,
    },
    /// The agent takes too long.
    #[error("the agent did not answer '{request}' within {} s{}", limit.as_secs_f32(), changes(*acting))]
    CallTimeout {
        /// Which request.
        request: &'static str,
        /// How long was waited.
        limit: Duration,
        /// Whether the request changes the host.
        acting: bool,
    },
    /// The agent's frame cannot be read.
    #[error("the agent's answer to '{request}' cannot be read{}", changes(*acting))]
    BadFrame {
        /// Which request, or `hello`.
        request: &'static str,
        /// What is wrong with it.
        #[source]
        source: FrameError,
        /// Whether the request changes the host.
        acting: bool,
    },
    /// An earlier request failed on this connection.
    #[error("the connection was given up after an earlier error")]
    GivenUp,
}

fn changes(acting: bool) -> &'static str {
    if acting { "; some of the steps may have been done" } else { "" }
}

/// What a shell's exit status means for a program that it could not start (POSIX, 2.8.2).
fn why_not(how: &str) -> &'static str {
    match how.strip_prefix("exit status: ") {
        Some("126") => ": the host may not execute it",
        Some("127") => ": the host does not find it, or not what it needs",
        _ => "",
    }
}

impl TransportError {
    /// `stderr` is what ssh or the host printed.
    pub(super) fn new(
        host: &HostName,
        place: &HostLocation,
        kind: TransportErrorKind,
        stderr: String,
    ) -> Self {
        Self(Box::new(Inner { host: host.clone(), place: place.clone(), kind, stderr }))
    }

    /// Which host of the topology.
    pub fn host(&self) -> &HostName {
        &self.0.host
    }

    /// What went wrong.
    pub fn kind(&self) -> &TransportErrorKind {
        &self.0.kind
    }

    /// What ssh or the host printed about it, line by line; may be empty.
    pub fn stderr(&self) -> &str {
        &self.0.stderr
    }

    /// What to do about it, where that is known.
    pub fn cure(&self) -> Option<String> {
        self.0.kind.cure(&self.0.place.by_hand)
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { host, place: HostLocation { to, by_hand: _ }, kind, stderr: _ } = &*self.0;
        write!(f, "cannot talk to {host} ({to}): {kind}")
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.kind.source()
    }
}

impl From<&TransportError> for Failure {
    fn from(error: &TransportError) -> Self {
        let mut failure = Self::from_error(error);
        // Errors of libraries may quote the other side.
        for cause in &mut failure.causes {
            *cause = visible(cause).into_owned();
        }
        let chatter = match error.kind() {
            TransportErrorKind::NoHello { chatter, .. }
            | TransportErrorKind::NotStarted { chatter, .. }
            | TransportErrorKind::NotAnAgent { chatter }
            | TransportErrorKind::HelloTimeout { chatter, .. } => chatter.as_str(),
            _ => "",
        };
        failure.causes.extend(chatter.lines().map(|line| format!("it printed: {line}")));
        failure
            .causes
            .extend(error.stderr().lines().map(|line| format!("on standard error: {line}")));
        failure.cure = error.cure();
        failure
    }
}

impl TransportErrorKind {
    fn cure(&self, by_hand: &str) -> Option<String> {
        let cure = match self {
            Self::Start { program, .. } if program.as_os_str() == "ssh" => {
                "install the OpenSSH client on this machine".to_owned()
            }
            Self::Start { .. } | Self::Binary { .. } | Self::GivenUp => return None,
            Self::ControlFolder { .. } => {
                "set XDG_RUNTIME_DIR to a folder that belongs to you alone (mode 0700), in folders \
                 of yours or root's; after `su`, log in with `su -`"
                    .to_owned()
            }
            Self::Unresolved => "correct the host's `ssh:` entry, or name the host in /etc/hosts, \
                 DNS or ~/.ssh/config"
                .to_owned(),
            Self::Refused => {
                "see that sshd runs there and that the port is right (`ssh: user@host:port`)".to_owned()
            }
            Self::NoRoute => "see that the host is up and that this machine has a route to it; a jump \
                 host goes into ~/.ssh/config (ProxyJump)"
                .to_owned(),
            Self::LoginTimeout { .. } => format!(
                "see that the host is up and that no firewall swallows the connection: try `{by_hand} true`"
            ),
            Self::ClosedEarly => "see sshd's log there; MaxStartups, fail2ban, hosts.deny or an account \
                 without a shell end a connection like this"
                .to_owned(),
            Self::UnknownHostKey => format!(
                "log in once by hand with `{by_hand}` and compare the fingerprint, or add the key to known_hosts"
            ),
            Self::ChangedHostKey => "if the host was installed anew, remove the old key with `ssh-keygen -R` \
                 and log in once by hand; if not, find out who answers"
                .to_owned(),
            Self::LoginRefused => format!(
                "log in without a password first: `ssh-copy-id`, a loaded ssh-agent or IdentityFile in \
                 ~/.ssh/config; `{by_hand} true` must work without asking anything"
            ),
            Self::SshConfig | Self::Ssh => format!("make `{by_hand} true` work first"),
            Self::NoSession { .. } => "see MaxSessions and ForceCommand in the host's sshd_config".to_owned(),
            Self::NotLinux { .. } => "IPVS is a part of Linux: take another host".to_owned(),
            Self::WrongMachine { beside, .. } => {
                format!("put a build for that architecture at {}", beside.display())
            }
            Self::NoSudo { .. } => "log in as root (`ssh: root@host`) or install sudo there".to_owned(),
            Self::SudoPassword { .. } | Self::SudoRefused { .. } => {
                "log in as root (`ssh: root@host`), or let the user become root without a password: \
                 `USER ALL=(root) NOPASSWD: ALL` in a file under /etc/sudoers.d"
                    .to_owned()
            }
            Self::NotRoot { .. } => "run it as root".to_owned(),
            Self::UnsafeFolder { path } => format!(
                "look at who made {path} and what lies in it, then remove it or run `chown root: {path}; chmod go-w {path}`"
            ),
            Self::NotStored { .. } => {
                "see that /var/lib/lvsprov on the host has room (20 MB) and can be written".to_owned()
            }
            Self::AgentFailed { .. } => {
                "see that you are root and that the network namespace is there (`ip netns list`)".to_owned()
            }
            Self::NoHello { .. } => "see that the login shell runs commands (no ForceCommand, no nologin) \
                 and that /var/lib is not mounted noexec"
                .to_owned(),
            Self::NotStarted { .. } => "see that /var/lib on the host is not mounted noexec, that SELinux or \
                 AppArmor lets root execute /var/lib/lvsprov/agent, and that the host's log names no other \
                 reason; it is not sent again, as it is whole"
                .to_owned(),
            Self::NotAnAgent { .. } => format!(
                "`{by_hand} true` must print nothing: look for output in the login shell's start-up files \
                 and for ForceCommand"
            ),
            Self::HelloTimeout { .. } => {
                format!("see what hangs there: `{by_hand} true` must end at once")
            }
            Self::Version { .. } => "use the same build of lvsprov everywhere".to_owned(),
            Self::BadFrame { source, .. } if source.is_hostile() => "find out what answers in the place of \
                 lvsprov's agent on that host; leave it out with --limit until then"
                .to_owned(),
            Self::Cut { acting: true, .. }
            | Self::CallTimeout { acting: true, .. }
            | Self::BadFrame { acting: true, .. } => {
                "run the same command again: it looks at the host first and does what is missing".to_owned()
            }
            Self::PushCut { .. }
            | Self::PushStalled { .. }
            | Self::Cut { .. }
            | Self::CallTimeout { .. }
            | Self::BadFrame { .. } => {
                "nothing was changed: try again".to_owned()
            }
        };
        Some(cure)
    }
}
