//! Connections of a controller to the agent on each host.
//!
//! A [`Connection`] is one running agent: on this machine, in a network namespace of it, or at the
//! far end of an ssh connection. All three are a process with pipes that speaks the same frames, so
//! that everything above sees one kind of host. What the messages mean is in [`crate::protocol`]; the caller
//! decides which host is asked what, and how many at a time.

mod agent_stream;
pub mod binary;
mod error;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod greeting;
mod known_digest;
mod local;
mod reply;
mod ssh;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

pub use error::{TransportError, TransportErrorKind};
pub use local::state_dir_of;

use crate::names::HostName;
use crate::protocol::{Hello, Reply, Request, VERSION};
use crate::topology::{Reach, SshTarget};
use agent_stream::{AgentStream, NoGreeting};
use error::HostLocation;
use frame::FrameError;
use reply::MemoryShare;

/// How long an agent may take to end once its input is closed.
const CLOSING: Duration = Duration::from_secs(2);

/// How hosts are reached. The defaults are right for real hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Until ssh is logged in; 10 s.
    pub connect_timeout: Duration,
    /// From the login, or the start of a local agent, to its hello; while the agent is being sent,
    /// from one piece to the next; 20 s.
    pub hello_timeout: Duration,
    /// What any request may take; 30 s. Requests that wait, and ones with many steps, get more:
    /// [`call_limit`].
    pub call_timeout: Duration,
    /// How long an idle ssh connection is kept for the next command; 60 s. Zero: it is not kept.
    pub keep: Duration,
    /// Where the receipts of this machine and its namespaces lie; `None`: `/var/lib/lvsprov`. A host
    /// behind ssh always has them there.
    pub state_dir: Option<PathBuf>,
    /// The configuration for ssh (`ssh -F`); `None`: the user's own.
    pub ssh_config: Option<PathBuf>,
    /// Where the sockets of kept connections lie; `None`: a private folder in XDG_RUNTIME_DIR, /run
    /// (root) or /tmp.
    pub control_dir: Option<PathBuf>,
    /// The program that is the agent, here and on hosts; `None`: the running executable.
    pub agent_binary: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(20),
            call_timeout: Duration::from_secs(30),
            keep: Duration::from_mins(1),
            state_dir: None,
            ssh_config: None,
            control_dir: None,
            agent_binary: None,
        }
    }
}

/// A running agent on one host.
pub struct Connection {
    host: HostName,
    place: HostLocation,
    agent: Option<AgentStream>,
    call_timeout: Duration,
}

impl Connection {
    /// Starts the agent on `host` and waits for its hello. Over ssh the agent is sent first where it
    /// is not there yet. Takes no longer than the limits in `options` allow.
    pub async fn open(
        host: &HostName,
        reach: &Reach,
        options: &Options,
    ) -> Result<Self, TransportError> {
        let opened = match reach {
            Reach::Local => local::open(None, options).await,
            Reach::Netns(path) => local::open(Some(path), options).await,
            Reach::Ssh(target) => ssh::open(target, options).await,
        };
        let place = place(reach, options);
        match opened {
            Ok(agent) => Ok(Self {
                host: host.clone(),
                place,
                agent: Some(agent),
                call_timeout: options.call_timeout,
            }),
            Err(HostlessError { kind, stderr }) => {
                Err(TransportError::new(host, &place, kind, stderr))
            }
        }
    }

    /// Sends one request and waits for its reply, no longer than [`call_limit`]. After an error the connection
    /// is unusable.
    pub async fn call(&mut self, request: Request) -> Result<Reply, TransportError> {
        // Taken out: a caller that drops this future half-way leaves a connection that fails, rather than one
        // whose next reply belongs to the request before.
        let Some(mut agent) = self.agent.take() else {
            return Err(self.fail(TransportErrorKind::GivenUp, String::new()));
        };
        let (name, acting) = name_of(&request);
        let limit = call_limit(&request, self.call_timeout);
        let exchanged = timeout(limit, exchange(&mut agent, &request)).await;
        let kind = match exchanged {
            Ok(Ok(Some(reply))) => {
                self.agent = Some(agent);
                return Ok(reply);
            }
            Ok(Ok(None)) => {
                TransportErrorKind::Cut { request: name, how: agent.ended().await, acting }
            }
            Ok(Err(source)) if is_cut(&source) => {
                TransportErrorKind::Cut { request: name, how: agent.ended().await, acting }
            }
            Ok(Err(source)) => TransportErrorKind::BadFrame { request: name, source, acting },
            Err(_) => TransportErrorKind::CallTimeout { request: name, limit, acting },
        };
        let stderr = agent.stderr().await;
        Err(self.fail(kind, stderr))
    }

    /// Ends the agent, and waits for that (at most two seconds) where it is a process of this
    /// machine. Dropping a connection ends the agent too, without waiting.
    pub async fn close(self) {
        if let Some(agent) = self.agent {
            agent.close(CLOSING).await;
        }
    }

    fn fail(&self, kind: TransportErrorKind, stderr: String) -> TransportError {
        TransportError::new(&self.host, &self.place, kind, stderr)
    }
}

fn place(reach: &Reach, options: &Options) -> HostLocation {
    match reach {
        Reach::Local => HostLocation { to: "this machine".to_owned(), by_hand: "sh -c".to_owned() },
        Reach::Netns(path) => HostLocation {
            to: format!("network namespace {}", path.display()),
            by_hand: format!("nsenter --net={}", path.display()),
        },
        Reach::Ssh(target) => {
            let SshTarget { host, user, port } = target;
            let config = options.ssh_config.as_ref().map(|path| format!("-F {}", path.display()));
            let port = port.map(|port| format!("-p {port}"));
            let user = user.as_ref().map(|user| format!("-l {user}"));
            let words = ["ssh".to_owned()].into_iter().chain(config).chain(port).chain(user);
            let by_hand: Vec<String> = words.chain([host.clone()]).collect();
            HostLocation { to: target.to_string(), by_hand: by_hand.join(" ") }
        }
    }
}

/// How long `request` may take: `base`, the time that the request itself waits, and 250 ms for each step.
pub fn call_limit(request: &Request, base: Duration) -> Duration {
    let own = match request {
        Request::Observe { .. }
        | Request::Examine { .. }
        | Request::Resume { .. }
        | Request::Vote { .. }
        | Request::Close { .. }
        | Request::Reboot => Duration::ZERO,
        // The host is observed again, and the journal is as long as its steps.
        Request::Prepare(prepare) => Duration::from_millis(100)
            .saturating_mul(u32::try_from(prepare.journal.steps().count()).unwrap_or(u32::MAX)),
        Request::Execute { steps, .. } => Duration::from_millis(250)
            .saturating_mul(u32::try_from(steps.len()).unwrap_or(u32::MAX)),
        Request::WhoHas { wait_ms, .. }
        | Request::FindHolders { wait_ms, .. }
        | Request::WatchDrops { wait_ms, .. } => Duration::from_millis((*wait_ms).into()),
        Request::Fetch { count, timeout_ms, .. } => {
            Duration::from_millis((*timeout_ms).into()).saturating_mul(*count)
        }
    };
    base.saturating_add(own)
}

/// The request's name for messages, and whether it changes the host.
fn name_of(request: &Request) -> (&'static str, bool) {
    match request {
        Request::Observe { .. } => ("observe", false),
        Request::Prepare(_) => ("prepare", true),
        Request::Resume { .. } => ("resume", true),
        Request::Execute { .. } => ("execute", true),
        Request::Vote { .. } => ("vote", true),
        Request::Close { .. } => ("close", true),
        Request::WhoHas { .. } => ("who has", false),
        Request::FindHolders { .. } => ("find holders", false),
        Request::Examine { .. } => ("examine", false),
        Request::WatchDrops { .. } => ("watch drops", false),
        Request::Fetch { .. } => ("fetch", false),
        Request::Reboot => ("reboot", true),
    }
}

async fn exchange(agent: &mut AgentStream, request: &Request) -> Result<Option<Reply>, FrameError> {
    let frame = frame::encode(request)?;
    let write = async {
        agent.writer.write_all(&frame).await?;
        agent.writer.flush().await
    };
    write.await.map_err(|source| FrameError::Stream { source })?;
    // What the last reply took is free for this one.
    agent.share = MemoryShare::default();
    reply::read(&mut agent.reader, &mut agent.share).await
}

/// Whether the connection broke, rather than carried a wrong message.
fn is_cut(error: &FrameError) -> bool {
    match error {
        FrameError::Truncated { .. } => true,
        FrameError::Stream { source } => matches!(
            source.kind(),
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// A [`TransportError`] without the host, for the parts of this module that do not know its name.
#[derive(Debug)]
struct HostlessError {
    kind: TransportErrorKind,
    stderr: String,
}

impl From<TransportErrorKind> for HostlessError {
    fn from(kind: TransportErrorKind) -> Self {
        Self { kind, stderr: String::new() }
    }
}

/// Reads the frame behind the mark `hello` and checks that agent and controller fit together.
async fn greet(agent: &mut AgentStream) -> Result<Hello, TransportErrorKind> {
    let request = "hello";
    let hello = match reply::hello(&mut agent.reader).await {
        Ok(Some(hello)) => hello,
        Ok(None) => return Err(no_greeting(agent, NoGreeting::Ended).await),
        Err(source) if is_cut(&source) => return Err(no_greeting(agent, NoGreeting::Ended).await),
        Err(source) => return Err(TransportErrorKind::BadFrame { request, source, acting: false }),
    };
    let Hello { version, uid, machine: _ } = hello;
    if version != VERSION {
        return Err(TransportErrorKind::Version { ours: VERSION, theirs: version });
    }
    if uid != 0 {
        return Err(TransportErrorKind::NotRoot { uid });
    }
    Ok(hello)
}

/// The error where no mark came.
async fn no_greeting(agent: &mut AgentStream, silence: NoGreeting) -> TransportErrorKind {
    let chatter = agent.chatter();
    match silence {
        NoGreeting::Babble => TransportErrorKind::NotAnAgent { chatter },
        NoGreeting::Ended => TransportErrorKind::NoHello { how: agent.ended().await, chatter },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::state::Protocol;

    #[test]
    fn a_request_that_waits_gets_that_time_on_top() {
        let base = Duration::from_secs(30);
        let fetch = |count, timeout_ms| Request::Fetch {
            target: "127.0.0.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            count,
            timeout_ms,
        };
        assert_eq!(call_limit(&fetch(10, 2000), base), Duration::from_secs(50));
        assert!(call_limit(&fetch(u32::MAX, u32::MAX), base) > base);
        let who = Request::WhoHas {
            dev: "eth0".parse().unwrap(),
            target: "10.0.0.1".parse().unwrap(),
            wait_ms: 1500,
        };
        assert_eq!(call_limit(&who, base), Duration::from_millis(31_500));
    }
}
