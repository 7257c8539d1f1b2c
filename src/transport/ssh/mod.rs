//! An agent on another machine, over ssh.
//!
//! One command becomes root and starts the agent of this program's digest, after asking for it where the host
//! lacks it ([`script`]). So a known host costs one session. OpenSSH itself reads its configuration, keys,
//! agent, jump hosts and known_hosts.

mod classify;
mod control;
mod master;
mod script;

use std::sync::Arc;
use std::time::Duration;

use openssh::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::agent_stream::{AgentProcess, AgentStream, NoGreeting};
use super::binary::{self, Binary};
use super::greeting::GreetingMark;
use super::{HostlessError, Options, TransportErrorKind, greet, no_greeting};
use crate::topology::SshTarget;
use control::ControlSockets;
use master::Master;

/// How long a kept connection may take to its first mark before it counts as dead: a host that vanished leaves
/// one that looks alive.
const RESUMED: Duration = Duration::from_secs(5);

/// How many times one host may ask for a program: once for ours, once for its own machine's, and
/// once more should another controller have cleaned up in between.
const NEEDS: u32 = 3;

/// How many bytes are handed over at a time.
const PIECE: usize = 64 << 10;

/// Connects, sends the agent where needed, starts it and waits for its hello.
pub(super) async fn open(
    target: &SshTarget,
    options: &Options,
) -> Result<AgentStream, HostlessError> {
    let path = options.agent_binary.clone().unwrap_or_else(binary::own);
    let sockets = ControlSockets::of(target, options)?;
    if let Some(master) = Master::resume(&sockets, options) {
        let binary = binary::load(&path, Some(&sockets.folder)).await?;
        match start(&master, &binary, options).await {
            Err(StartError { dead: true, .. }) => master.forget().await,
            other => return other.map_err(|start_error| start_error.fault),
        }
    }
    let (binary, master) = tokio::join!(
        binary::load(&path, Some(&sockets.folder)),
        Master::start(target, &sockets, options)
    );
    start(&master?, &binary?, options).await.map_err(|start_error| start_error.fault)
}

/// The agent could not be started over a connection.
struct StartError {
    fault: HostlessError,
    /// A kept connection carried no mark at all: a new connection may work.
    dead: bool,
}

/// Starts the agent. A host with an incomplete agent asks for it instead. A complete agent that does not start
/// is not sent again.
async fn start(
    master: &Master,
    binary: &Arc<Binary>,
    options: &Options,
) -> Result<AgentStream, StartError> {
    let limit =
        if master.resumed { RESUMED.min(options.hello_timeout) } else { options.hello_timeout };
    let start_error = |fault| StartError { fault, dead: master.resumed };
    let run = timeout(limit, run(master, binary)).await;
    let mut agent = match run {
        Ok(Ok(agent)) => agent,
        Ok(Err(kind)) => return Err(start_error(kind.into())),
        Err(_) => {
            let kind = TransportErrorKind::HelloTimeout { limit, chatter: String::new() };
            return Err(start_error(kind.into()));
        }
    };
    master.settle().await;
    let mut handshake = SshHandshake {
        binary: Arc::clone(binary),
        state: HandshakeState::default(),
        needs: 0,
        pushed: None,
        limit,
    };
    match handshake.reach_hello(&mut agent, options).await {
        Ok(()) => Ok(agent),
        Err(kind) => {
            let stderr = agent.stderr().await;
            let HandshakeState { any, have, user } = handshake.state;
            let kind = match (kind, handshake.pushed, user) {
                (TransportErrorKind::NoHello { .. }, Some(size), _) => {
                    TransportErrorKind::PushCut { sent: size, size }
                }
                (TransportErrorKind::NoHello { how, chatter }, None, _) if have => {
                    TransportErrorKind::NotStarted { how, chatter }
                }
                // sudo was asked, and the program that it should have started sent no mark.
                (TransportErrorKind::NoHello { .. }, None, Some(uid)) if handshake.needs == 0 => {
                    classify::sudo_error(&stderr, uid)
                }
                (kind, ..) => kind,
            };
            Err(StartError { dead: master.resumed && !any, fault: HostlessError { kind, stderr } })
        }
    }
}

/// Runs the one command on the host.
async fn run(master: &Master, binary: &Binary) -> Result<AgentStream, TransportErrorKind> {
    let line = script::command(&binary.digest, binary.size);
    let failed = |source| TransportErrorKind::NoSession { source };
    let mut child = Arc::clone(&master.session)
        .arc_raw_command(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .await
        .map_err(failed)?;
    let pipes = (child.stdin().take(), child.stdout().take(), child.stderr().take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(failed(openssh::Error::ChildIo(std::io::Error::other("it has no pipes"))));
    };
    Ok(AgentStream::new(AgentProcess::Remote(Box::new(child)), stdin, stdout, stderr))
}

/// The marks before hello.
#[derive(Debug, Default)]
struct HandshakeState {
    any: bool,
    have: bool,
    user: Option<u32>,
}

/// The exchange with the script, up to the agent's hello.
struct SshHandshake {
    binary: Arc<Binary>,
    state: HandshakeState,
    needs: u32,
    /// The bytes of a program that went out and that the host has not confirmed.
    pushed: Option<u64>,
    /// Until the next mark.
    limit: Duration,
}

impl SshHandshake {
    async fn reach_hello(
        &mut self,
        agent: &mut AgentStream,
        options: &Options,
    ) -> Result<(), TransportErrorKind> {
        loop {
            let mark = match timeout(self.limit, agent.mark()).await {
                Ok(Ok(mark)) => mark,
                Ok(Err(none)) => return Err(no_greeting(agent, none).await),
                Err(_) => {
                    let chatter = agent.chatter();
                    return Err(TransportErrorKind::HelloTimeout { limit: self.limit, chatter });
                }
            };
            self.state.any = true;
            // The host is alive: from now on the longer limit holds.
            self.limit = options.hello_timeout;
            match mark {
                GreetingMark::Hello => {
                    let hello = timeout(self.limit, greet(agent)).await.unwrap_or_else(|_| {
                        Err(TransportErrorKind::HelloTimeout {
                            limit: self.limit,
                            chatter: agent.chatter(),
                        })
                    })?;
                    return self.fits(&hello.machine);
                }
                GreetingMark::User { uid } => self.state.user = Some(uid),
                GreetingMark::NoSudo => {
                    return Err(TransportErrorKind::NoSudo {
                        uid: self.state.user.unwrap_or(u32::MAX),
                    });
                }
                GreetingMark::Have { machine } => {
                    self.state.have = true;
                    self.pushed = None;
                    self.fits(&machine)?;
                }
                GreetingMark::Need { system, machine, gzip } => {
                    self.needs += 1;
                    if self.needs > NEEDS {
                        let reason = "it was sent and was gone again".to_owned();
                        return Err(TransportErrorKind::NotStored { reason });
                    }
                    self.serve(agent, &system, &machine, gzip).await?;
                }
                GreetingMark::Unsafe { path } => {
                    return Err(TransportErrorKind::UnsafeFolder { path });
                }
                GreetingMark::Failed { reason } if self.state.have => {
                    return Err(TransportErrorKind::AgentFailed { reason });
                }
                GreetingMark::Failed { reason } => {
                    return Err(TransportErrorKind::NotStored { reason });
                }
            }
        }
    }

    /// Checks that a machine of this kind can run the agent on its disk, which may come from another machine.
    /// An agent that does not name its machine passes.
    fn fits(&self, machine: &str) -> Result<(), TransportErrorKind> {
        if machine.is_empty() || self.binary.runs_on(machine) {
            return Ok(());
        }
        Err(wrong_machine(&self.binary, machine))
    }

    /// Gives the host the program it needs, or names the one it should look for.
    async fn serve(
        &mut self,
        agent: &mut AgentStream,
        system: &str,
        machine: &str,
        gzip: bool,
    ) -> Result<(), TransportErrorKind> {
        if system != "Linux" {
            return Err(TransportErrorKind::NotLinux { system: system.to_owned() });
        }
        if !self.binary.runs_on(machine) {
            self.binary = for_machine(&self.binary, machine).await?;
            let instead = format!("use {} {}\n", self.binary.digest, self.binary.size);
            return self.send(agent, instead.as_bytes(), &mut 0, self.binary.size).await;
        }
        self.push(agent, gzip).await
    }

    async fn push(
        &mut self,
        agent: &mut AgentStream,
        gzip: bool,
    ) -> Result<(), TransportErrorKind> {
        tracing::debug!(digest = self.binary.digest, gzip, "sending the agent");
        let mut sent = 0;
        if gzip {
            let packed = self.binary.packed().await?;
            let size = packed.len() as u64;
            self.send(agent, format!("gzip {size} 0\n").as_bytes(), &mut 0, size).await?;
            for piece in packed.chunks(PIECE) {
                self.send(agent, piece, &mut sent, size).await?;
            }
        } else {
            let size = self.binary.size;
            let unreadable =
                |source| TransportErrorKind::Binary { path: self.binary.path.clone(), source };
            let mut file = tokio::fs::File::open(&self.binary.path).await.map_err(unreadable)?;
            self.send(agent, format!("raw {size} 0\n").as_bytes(), &mut 0, size).await?;
            let mut piece = vec![0; PIECE];
            loop {
                let count = file.read(&mut piece).await.map_err(unreadable)?;
                if count == 0 {
                    break;
                }
                self.send(agent, &piece[..count], &mut sent, size).await?;
            }
        }
        self.pushed = Some(sent);
        Ok(())
    }

    /// Sends some bytes; where the host does not take them, reads the mark that says why.
    async fn send(
        &self,
        agent: &mut AgentStream,
        bytes: &[u8],
        sent: &mut u64,
        size: u64,
    ) -> Result<(), TransportErrorKind> {
        let write = async {
            agent.writer.write_all(bytes).await?;
            agent.writer.flush().await
        };
        match timeout(self.limit, write).await {
            Ok(Ok(())) => {
                *sent += bytes.len() as u64;
                Ok(())
            }
            Ok(Err(_)) => match timeout(self.limit, agent.mark()).await {
                Ok(Ok(GreetingMark::Failed { reason })) => {
                    Err(TransportErrorKind::NotStored { reason })
                }
                Ok(Ok(GreetingMark::Unsafe { path })) => {
                    Err(TransportErrorKind::UnsafeFolder { path })
                }
                Ok(Err(NoGreeting::Babble)) => {
                    Err(TransportErrorKind::NotAnAgent { chatter: agent.chatter() })
                }
                _ => Err(TransportErrorKind::PushCut { sent: *sent, size }),
            },
            Err(_) => Err(TransportErrorKind::PushStalled { sent: *sent, size, limit: self.limit }),
        }
    }
}

/// The build for a machine of another kind.
async fn for_machine(ours: &Binary, machine: &str) -> Result<Arc<Binary>, TransportErrorKind> {
    let beside = binary::beside(&ours.path, machine);
    if beside.exists() {
        let other = binary::load(&beside, ours.records.as_deref()).await?;
        if other.runs_on(machine) {
            return Ok(other);
        }
    }
    Err(wrong_machine(ours, machine))
}

fn wrong_machine(ours: &Binary, machine: &str) -> TransportErrorKind {
    TransportErrorKind::WrongMachine {
        host: machine.to_owned(),
        ours: ours.machine.clone(),
        binary: std::fs::canonicalize(&ours.path).unwrap_or_else(|_| ours.path.clone()),
        beside: binary::beside(&ours.path, machine),
    }
}
