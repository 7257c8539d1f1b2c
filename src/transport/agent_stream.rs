//! A running agent, or a process that starts one: two pipes for the protocol and a third for its messages to
//! people. It may run on this machine or another.

use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::greeting::{GreetingMark, MarkScanner, ScanResult};
use super::reply::MemoryShare;
use crate::visible::visible_lines;

/// How much of a process's standard error is kept, in bytes.
const STDERR_KEPT: usize = 4 << 10;

/// How long to wait for the exit status and the last messages once the stream has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Both ends of the pipes, and the process.
pub(super) struct AgentStream {
    pub reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// What the last reply took of the memory for replies.
    pub share: MemoryShare,
    scanner: MarkScanner,
    stderr: StderrLog,
    process: Option<AgentProcess>,
}

/// The process at the other end.
pub(super) enum AgentProcess {
    /// A child of this process.
    Child(Box<tokio::process::Child>),
    /// A command on the far side of an ssh connection.
    Remote(Box<openssh::Child<Arc<openssh::Session>>>),
}

/// Why no mark came.
#[derive(Debug)]
pub(super) enum NoGreeting {
    /// The stream ended.
    Ended,
    /// It prints, but it is not lvsprov's agent.
    Babble,
}

impl AgentStream {
    pub fn new(
        process: AgentProcess,
        stdin: impl AsyncWrite + Send + Unpin + 'static,
        stdout: impl AsyncRead + Send + Unpin + 'static,
        stderr: impl AsyncRead + Send + Unpin + 'static,
    ) -> Self {
        Self {
            reader: BufReader::with_capacity(16 << 10, Box::new(stdout)),
            writer: Box::new(stdin),
            share: MemoryShare::default(),
            scanner: MarkScanner::default(),
            stderr: StderrLog::listen(stderr),
            process: Some(process),
        }
    }

    /// Waits for the next mark and takes nothing behind it.
    pub async fn mark(&mut self) -> Result<GreetingMark, NoGreeting> {
        loop {
            // A pipe that cannot be read has no process at its other end.
            let Ok(piece @ [_, ..]) = self.reader.fill_buf().await else {
                return Err(NoGreeting::Ended);
            };
            let length = piece.len();
            match self.scanner.scan(piece) {
                ScanResult::Nothing => self.reader.consume(length),
                ScanResult::Mark(mark, taken) => {
                    self.reader.consume(taken);
                    return Ok(mark);
                }
                ScanResult::TooMuch => return Err(NoGreeting::Babble),
            }
        }
    }

    /// The end of what was printed beside the marks.
    pub fn chatter(&self) -> String {
        self.scanner.chatter()
    }

    /// Its standard error. Waits up to 500 ms for the last messages.
    pub async fn stderr(&mut self) -> String {
        self.stderr.text().await
    }

    /// How the process ended, in words. Closes its input and waits a moment.
    pub async fn ended(&mut self) -> String {
        self.writer = Box::new(tokio::io::sink());
        let waited = match self.process.take() {
            None => return "no longer there".to_owned(),
            Some(AgentProcess::Child(mut child)) => {
                timeout(LAST_WORDS, async { how(child.wait().await) }).await
            }
            Some(AgentProcess::Remote(child)) => {
                timeout(LAST_WORDS, async { remote_how(child.wait().await) }).await
            }
        };
        waited.unwrap_or_else(|_| "still running".to_owned())
    }

    /// Ends a process of this machine that has not stderr hello and so has changed nothing.
    pub fn kill_unheard(&mut self) {
        if let Some(AgentProcess::Child(child)) = &mut self.process {
            // It may have ended by itself just now: that is as good.
            let _ = child.start_kill();
        }
    }

    /// Closes the agent's input, which ends it. Waits for that where it is a child of ours; on a
    /// host behind ssh it ends on its own, one trip through the network later.
    pub async fn close(mut self, limit: Duration) {
        self.writer = Box::new(tokio::io::sink());
        if let Some(AgentProcess::Child(mut child)) = self.process.take() {
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

/// Collects the standard error of a process.
struct StderrLog {
    text: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl StderrLog {
    fn listen(mut stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let task = tokio::spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut piece).await {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&piece[..count]);
                let surplus = text.len().saturating_sub(STDERR_KEPT);
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

impl Drop for StderrLog {
    fn drop(&mut self) {
        self.task.abort();
    }
}
