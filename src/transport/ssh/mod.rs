//! An agent on another machine, over ssh.
//!
//! One command does it all: become root, start the agent of our digest, and where it is not there
//! ask for it first ([`script`]). So a host that was met before costs one session and no more.
//! What OpenSSH knows (its configuration, keys, agent, jump hosts, known_hosts) is left to it.

mod classify;
mod control;
mod master;
mod script;

use std::sync::Arc;
use std::time::Duration;

use openssh::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::binary::{self, Binary};
use super::greeting::Mark;
use super::link::{Link, Process, Silence};
use super::{Fault, Options, Trouble, greet, silence};
use crate::topology::SshTarget;
use control::Sockets;
use master::Master;

/// How long a kept connection may take to its first word before it is taken for dead: a host that
/// went away leaves one that looks alive.
const RESUMED: Duration = Duration::from_secs(5);

/// How many times one host may ask for a program: once for ours, once for its own machine's, and
/// once more should another controller have cleaned up in between.
const NEEDS: u32 = 3;

/// How many bytes are handed over at a time.
const PIECE: usize = 64 << 10;

/// Connects, sends the agent where needed, starts it and waits for its hello.
pub(super) async fn open(target: &SshTarget, options: &Options) -> Result<Link, Fault> {
    let path = options.agent_binary.clone().unwrap_or_else(binary::own);
    let sockets = Sockets::of(target, options)?;
    if let Some(master) = Master::resume(&sockets, options) {
        let binary = binary::load(&path).await?;
        match start(&master, &binary, options).await {
            Err(Halt { dead: true, .. }) => master.forget().await,
            other => return other.map_err(|halt| halt.fault),
        }
    }
    let (binary, master) =
        tokio::join!(binary::load(&path), Master::start(target, &sockets, options));
    start(&master?, &binary?, options).await.map_err(|halt| halt.fault)
}

/// Why an agent could not be started over a connection.
struct Halt {
    fault: Fault,
    /// Nothing at all came over a connection that had been kept: a fresh one may do better.
    dead: bool,
}

/// Starts the agent. The host starts none that is not whole, and asks for it instead; one that is whole
/// and does not start would not be better for being sent again.
async fn start(master: &Master, binary: &Arc<Binary>, options: &Options) -> Result<Link, Halt> {
    let limit =
        if master.resumed { RESUMED.min(options.hello_timeout) } else { options.hello_timeout };
    let halt = |fault| Halt { fault, dead: master.resumed };
    let run = timeout(limit, run(master, binary)).await;
    let mut link = match run {
        Ok(Ok(link)) => link,
        Ok(Err(trouble)) => return Err(halt(trouble.into())),
        Err(_) => {
            let trouble = Trouble::HelloTimeout { limit, chatter: String::new() };
            return Err(halt(trouble.into()));
        }
    };
    master.settle().await;
    let mut talk =
        Talk { binary: Arc::clone(binary), heard: Heard::default(), needs: 0, pushed: None, limit };
    match talk.reach_hello(&mut link, options).await {
        Ok(()) => Ok(link),
        Err(trouble) => {
            let said = link.said().await;
            let Heard { any, have, user } = talk.heard;
            let trouble = match (trouble, talk.pushed, user) {
                (Trouble::NoHello { .. }, Some(size), _) => Trouble::PushCut { sent: size, size },
                (Trouble::NoHello { how, chatter }, None, _) if have => {
                    Trouble::NotStarted { how, chatter }
                }
                // sudo was asked, and what it should have started never spoke.
                (Trouble::NoHello { .. }, None, Some(uid)) if talk.needs == 0 => {
                    classify::sudo_trouble(&said, uid)
                }
                (trouble, ..) => trouble,
            };
            Err(Halt { dead: master.resumed && !any, fault: Fault { trouble, said } })
        }
    }
}

/// Runs the one command on the host.
async fn run(master: &Master, binary: &Binary) -> Result<Link, Trouble> {
    let line = script::command(&binary.digest, binary.size);
    let failed = |source| Trouble::NoSession { source };
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
    Ok(Link::new(Process::Remote(Box::new(child)), stdin, stdout, stderr))
}

/// What was heard on the way to hello.
#[derive(Debug, Default)]
struct Heard {
    any: bool,
    have: bool,
    user: Option<u32>,
}

/// The talk with the script, up to the agent's hello.
struct Talk {
    binary: Arc<Binary>,
    heard: Heard,
    needs: u32,
    /// The bytes of a program that went out and that the host has not confirmed.
    pushed: Option<u64>,
    /// Until the next mark.
    limit: Duration,
}

impl Talk {
    async fn reach_hello(&mut self, link: &mut Link, options: &Options) -> Result<(), Trouble> {
        loop {
            let mark = match timeout(self.limit, link.mark()).await {
                Ok(Ok(mark)) => mark,
                Ok(Err(none)) => return Err(silence(link, none).await),
                Err(_) => {
                    let chatter = link.chatter();
                    return Err(Trouble::HelloTimeout { limit: self.limit, chatter });
                }
            };
            self.heard.any = true;
            // It is alive: from now on it may take its time.
            self.limit = options.hello_timeout;
            match mark {
                Mark::Hello => {
                    let hello = timeout(self.limit, greet(link)).await.unwrap_or_else(|_| {
                        Err(Trouble::HelloTimeout { limit: self.limit, chatter: link.chatter() })
                    })?;
                    return self.fits(&hello.machine);
                }
                Mark::User { uid } => self.heard.user = Some(uid),
                Mark::NoSudo => {
                    return Err(Trouble::NoSudo { uid: self.heard.user.unwrap_or(u32::MAX) });
                }
                Mark::Have { machine } => {
                    self.heard.have = true;
                    self.pushed = None;
                    self.fits(&machine)?;
                }
                Mark::Need { system, machine, gzip } => {
                    self.needs += 1;
                    if self.needs > NEEDS {
                        let reason = "it was sent and was gone again".to_owned();
                        return Err(Trouble::NotStored { reason });
                    }
                    self.serve(link, &system, &machine, gzip).await?;
                }
                Mark::Unsafe { path } => return Err(Trouble::UnsafeFolder { path }),
                Mark::Failed { reason } if self.heard.have => {
                    return Err(Trouble::AgentFailed { reason });
                }
                Mark::Failed { reason } => return Err(Trouble::NotStored { reason }),
            }
        }
    }

    /// Sees that a host of this kind can run what lies there: a disk may have been moved to another machine.
    /// A host that does not say is not asked.
    fn fits(&self, machine: &str) -> Result<(), Trouble> {
        if machine.is_empty() || self.binary.runs_on(machine) {
            return Ok(());
        }
        Err(wrong_machine(&self.binary, machine))
    }

    /// Gives the host the program it needs, or names the one it should look for.
    async fn serve(
        &mut self,
        link: &mut Link,
        system: &str,
        machine: &str,
        gzip: bool,
    ) -> Result<(), Trouble> {
        if system != "Linux" {
            return Err(Trouble::NotLinux { system: system.to_owned() });
        }
        if !self.binary.runs_on(machine) {
            self.binary = for_machine(&self.binary, machine).await?;
            let instead = format!("use {} {}\n", self.binary.digest, self.binary.size);
            return self.send(link, instead.as_bytes(), &mut 0, self.binary.size).await;
        }
        self.push(link, gzip).await
    }

    async fn push(&mut self, link: &mut Link, gzip: bool) -> Result<(), Trouble> {
        tracing::debug!(digest = self.binary.digest, gzip, "sending the agent");
        let mut sent = 0;
        if gzip {
            let packed = self.binary.packed().await?;
            let size = packed.len() as u64;
            self.send(link, format!("gzip {size} 0\n").as_bytes(), &mut 0, size).await?;
            for piece in packed.chunks(PIECE) {
                self.send(link, piece, &mut sent, size).await?;
            }
        } else {
            let size = self.binary.size;
            let unreadable = |source| Trouble::Binary { path: self.binary.path.clone(), source };
            let mut file = tokio::fs::File::open(&self.binary.path).await.map_err(unreadable)?;
            self.send(link, format!("raw {size} 0\n").as_bytes(), &mut 0, size).await?;
            let mut piece = vec![0; PIECE];
            loop {
                let count = file.read(&mut piece).await.map_err(unreadable)?;
                if count == 0 {
                    break;
                }
                self.send(link, &piece[..count], &mut sent, size).await?;
            }
        }
        self.pushed = Some(sent);
        Ok(())
    }

    /// Hands over some bytes; where the host does not take them, finds out what it has to say.
    async fn send(
        &self,
        link: &mut Link,
        bytes: &[u8],
        sent: &mut u64,
        size: u64,
    ) -> Result<(), Trouble> {
        let write = async {
            link.writer.write_all(bytes).await?;
            link.writer.flush().await
        };
        match timeout(self.limit, write).await {
            Ok(Ok(())) => {
                *sent += bytes.len() as u64;
                Ok(())
            }
            Ok(Err(_)) => match timeout(self.limit, link.mark()).await {
                Ok(Ok(Mark::Failed { reason })) => Err(Trouble::NotStored { reason }),
                Ok(Ok(Mark::Unsafe { path })) => Err(Trouble::UnsafeFolder { path }),
                Ok(Err(Silence::Babble)) => Err(Trouble::NotAnAgent { chatter: link.chatter() }),
                _ => Err(Trouble::PushCut { sent: *sent, size }),
            },
            Err(_) => Err(Trouble::PushStalled { sent: *sent, size, limit: self.limit }),
        }
    }
}

/// The build for a machine of another kind.
async fn for_machine(ours: &Binary, machine: &str) -> Result<Arc<Binary>, Trouble> {
    let beside = binary::beside(&ours.path, machine);
    if beside.exists() {
        let other = binary::load(&beside).await?;
        if other.runs_on(machine) {
            return Ok(other);
        }
    }
    Err(wrong_machine(ours, machine))
}

fn wrong_machine(ours: &Binary, machine: &str) -> Trouble {
    Trouble::WrongMachine {
        host: machine.to_owned(),
        ours: ours.machine.clone(),
        binary: std::fs::canonicalize(&ours.path).unwrap_or_else(|_| ours.path.clone()),
        beside: binary::beside(&ours.path, machine),
    }
}
