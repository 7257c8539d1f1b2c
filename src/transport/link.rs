//! A running agent, or what is to become one: a process with two pipes for the protocol and a third
//! for what it says to people. Nothing here knows whether it runs on this machine or another.

use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::greeting::{Heard, Listener, Mark};
use super::reply::Share;
use crate::visible::visible_lines;

/// How much of what a process says to people is kept, in bytes.
const SAID_KEPT: usize = 4 << 10;

/// How long an exit status and the last words are waited for once the stream has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

type Reader = BufReader<Box<dyn AsyncRead + Send + Unpin>>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Both ends of the pipes, and the process.
pub(super) struct Link {
    pub reader: Reader,
    pub writer: Writer,
    /// What the last reply took of the memory for replies.
    pub share: Share,
    listener: Listener,
    said: Said,
    process: Option<Process>,
}

/// Who is at the other end.
pub(super) enum Process {
    /// A child of ours.
    Child(Box<tokio::process::Child>),
    /// A command on the far side of an ssh connection.
    Remote(Box<openssh::Child<Arc<openssh::Session>>>),
}

/// What came instead of a mark.
#[derive(Debug)]
pub(super) enum Silence {
    /// The stream ended.
    Ended,
    /// It talks, but it is not ours.
    Babble,
}

impl Link {
    pub fn new(
        process: Process,
        stdin: impl AsyncWrite + Send + Unpin + 'static,
        stdout: impl AsyncRead + Send + Unpin + 'static,
        stderr: impl AsyncRead + Send + Unpin + 'static,
    ) -> Self {
        Self {
            reader: BufReader::with_capacity(16 << 10, Box::new(stdout)),
            writer: Box::new(stdin),
            share: Share::default(),
            listener: Listener::default(),
            said: Said::listen(stderr),
            process: Some(process),
        }
    }

    /// Waits for the next mark and takes nothing behind it.
    pub async fn mark(&mut self) -> Result<Mark, Silence> {
        loop {
            // A pipe that cannot be read has nobody at its other end.
            let Ok(piece @ [_, ..]) = self.reader.fill_buf().await else {
                return Err(Silence::Ended);
            };
            let length = piece.len();
            match self.listener.hear(piece) {
                Heard::Nothing => self.reader.consume(length),
                Heard::Mark(mark, taken) => {
                    self.reader.consume(taken);
                    return Ok(mark);
                }
                Heard::TooMuch => return Err(Silence::Babble),
            }
        }
    }

    /// The end of what was printed beside the marks.
    pub fn chatter(&self) -> String {
        self.listener.chatter()
    }

    /// What the process said to people. Waits a moment for its last words.
    pub async fn said(&mut self) -> String {
        self.said.text().await
    }

    /// How the process ended, in words. Closes its input and waits a moment.
    pub async fn ended(&mut self) -> String {
        self.writer = Box::new(tokio::io::sink());
        let waited = match self.process.take() {
            None => return "no longer there".to_owned(),
            Some(Process::Child(mut child)) => {
                timeout(LAST_WORDS, async { how(child.wait().await) }).await
            }
            Some(Process::Remote(child)) => {
                timeout(LAST_WORDS, async { remote_how(child.wait().await) }).await
            }
        };
        waited.unwrap_or_else(|_| "still running".to_owned())
    }

    /// Ends a process of this machine that has not said hello and so has changed nothing.
    pub fn kill_unheard(&mut self) {
        if let Some(Process::Child(child)) = &mut self.process {
            // It may have ended by itself just now: that is as good.
            let _ = child.start_kill();
        }
    }

    /// Closes the agent's input, which ends it. Waits for that where it is a child of ours; on a
    /// host behind ssh it ends on its own, one trip through the network later.
    pub async fn close(mut self, limit: Duration) {
        self.writer = Box::new(tokio::io::sink());
        if let Some(Process::Child(mut child)) = self.process.take() {
            // One that does not end in time is left to end by itself: it may be in the middle of a
            // step.
            let _ = timeout(limit, child.wait()).await;
        }
    }
}

fn how(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

fn remote_how(status: Result<ExitStatus, openssh::Error>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(openssh::Error::Remote(_)) => "exit status: 127".to_owned(),
        Err(openssh::Error::Disconnected) => "the ssh connection was lost".to_owned(),
        // The multiplexing protocol does not tell these two apart.
        Err(openssh::Error::RemoteProcessTerminated) => {
            "killed, or the ssh connection was lost".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Collects what a process says on its stderr.
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Said {
    fn listen(mut stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let task = tokio::spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut piece).await {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&piece[..count]);
                let surplus = text.len().saturating_sub(SAID_KEPT);
                text.drain(..surplus);
            }
        });
        Self { text, task }
    }

    async fn text(&mut self) -> String {
        if !self.task.is_finished() {
            let _ = timeout(LAST_WORDS, &mut self.task).await;
        }
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        visible_lines(&String::from_utf8_lossy(&text))
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.task.abort();
    }
}
