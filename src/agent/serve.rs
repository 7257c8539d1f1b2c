//! The agent's process: the same program on the host. It sends a hello, answers one request after the other
//! on stdin and stdout, and ends when stdin does.
//!
//! A request's meaning is in [`super::transaction`]. While the agent holds a transaction, a controller that
//! sends nothing for too long (it died, the network was cut) counts as lost, and the agent ends. stdout
//! belongs to the protocol alone: other output of this process goes to stderr.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::unistd;

use super::{Agent, Disk, LocalHost};
use crate::failure::Failure;
use crate::plan::boot::ReplayScope;
use crate::protocol::{Hello, Reply, Request, STATE_DIR, VERSION};
use crate::state::DriftAction;
use crate::transport::frame::{self, FrameError};
use crate::transport::greeting::GreetingMark;

/// How an agent is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentOptions {
    /// The network namespace to work in, by the path of its file; `None`: the present one.
    pub netns: Option<PathBuf>,
    /// Where the receipts lie; `None`: [`STATE_DIR`].
    pub state_dir: Option<PathBuf>,
    /// Be the revert timer of a transaction instead ([`super::revert`]); which one.
    pub revert: Option<String>,
    /// Be the announcer instead ([`super::announcer`]).
    pub announce: bool,
    /// Make the settled state again instead ([`super::transaction::boot`]).
    pub boot: Option<ReplayScope>,
    /// Wait until systemd watches the network again instead ([`super::network_changes`]); what it was.
    pub changed_since: Option<String>,
    /// Look for drift instead ([`super::transaction::drift`]).
    pub drift: Option<DriftLooking>,
}

/// What a look for drift does with each topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftLooking {
    /// What its file says; nothing where that says nothing.
    AsSettled,
    /// This, whatever its file says.
    Chosen(DriftAction),
}

/// Why an agent could not serve.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error("cannot open the network namespace {}", path.display())]
    OpenNamespace { path: PathBuf, source: io::Error },
    #[error("cannot enter {}: it is not a network namespace, or you are not root", path.display())]
    EnterNamespace { path: PathBuf, source: nix::Error },
    #[error("cannot start")]
    Runtime { source: io::Error },
    #[error("cannot read a request")]
    Request { source: FrameError },
    #[error("cannot write an answer")]
    Answer { source: FrameError },
    #[error(
        "the controller sent nothing for {} s while a transaction is open: it counts as lost",
        limit.as_secs()
    )]
    Idle { limit: Duration },
}

/// The whole life of an agent. Call it first in a process, before there is another thread: a network
/// namespace is entered by thread, and every later one inherits it.
pub fn main(options: AgentOptions) -> ExitCode {
    let AgentOptions { netns, state_dir, revert, announce, boot, changed_since, drift } = options;
    if announce {
        return super::announcer::main();
    }
    if let Some(last) = changed_since {
        return super::network_changes::watch_until_systemd_does(&last);
    }
    let state_dir = state_dir.unwrap_or_else(|| STATE_DIR.into());
    if let Some(order) = revert {
        return super::revert::main(&state_dir, &order);
    }
    if let Some(scope) = boot {
        return match netns.map_or(Ok(()), |path| enter(&path)) {
            Ok(()) => super::boot::main(state_dir, scope),
            Err(error) => complain(None, &error),
        };
    }
    if let Some(looking) = drift {
        let chosen = match looking {
            DriftLooking::AsSettled => None,
            DriftLooking::Chosen(action) => Some(action),
        };
        return match netns.map_or(Ok(()), |path| enter(&path)) {
            Ok(()) => super::drift::main(state_dir, chosen),
            Err(error) => complain(None, &error),
        };
    }
    let limit = IdleLimit::default();
    let (mut input, mut output) = match take_stdio() {
        Ok((input, output)) => {
            (Patient::new(input, limit.clone()), Patient::new(output, limit.clone()))
        }
        Err(error) => return complain(None, &AgentError::Runtime { source: error }),
    };
    let piped = netns.is_some();
    let served =
        netns.map_or(Ok(()), |path| enter(&path)).and_then(|()| runtime()).and_then(|runtime| {
            let host = LocalHost::default().piped(piped).keeping_state_in(&state_dir);
            let mut agent = Agent::new(Disk::new(state_dir), host);
            serve(&mut input, &mut output, |request| {
                let reply = runtime.block_on(agent.answer(request));
                limit.set(agent.idle_limit());
                reply
            })
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(Some(&mut output), &error),
    }
}

/// Moves the protocol's two streams to descriptors of their own: for the rest of the process stdin is empty,
/// and stdout is stderr.
fn take_stdio() -> io::Result<(File, File)> {
    let input = unistd::dup(io::stdin())?;
    let output = unistd::dup(io::stdout())?;
    unistd::dup2_stdin(File::open("/dev/null")?)?;
    unistd::dup2_stdout(io::stderr())?;
    for stream in [&input, &output] {
        // No child (modprobe) may hold the streams open.
        nix::fcntl::fcntl(stream, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    Ok((input.into(), output.into()))
}

fn enter(path: &Path) -> Result<(), AgentError> {
    let file = File::open(path)
        .map_err(|source| AgentError::OpenNamespace { path: path.to_owned(), source })?;
    nix::sched::setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|source| AgentError::EnterNamespace { path: path.to_owned(), source })
}

fn runtime() -> Result<tokio::runtime::Runtime, AgentError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::Runtime { source })
}

/// Says hello, then answers until the input ends.
fn serve(
    input: &mut impl Read,
    output: &mut impl Write,
    mut answer: impl FnMut(Request) -> Reply,
) -> Result<(), AgentError> {
    let machine = nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |name| name.machine().to_string_lossy().into_owned());
    let hello = Hello { version: VERSION, uid: unistd::geteuid().as_raw(), machine };
    let mut first = GreetingMark::Hello.to_string().into_bytes();
    first.extend(frame::encode(&hello).map_err(|source| AgentError::Answer { source })?);
    send(output, &first)?;
    loop {
        let reply = match frame::read_blocking::<Request>(input) {
            Ok(Some(request)) => answer(request),
            Ok(None) => return Ok(()),
            // The next frame begins where it should: this one only makes no sense to us.
            Err(error @ FrameError::Garbage { .. }) => Reply::Refused(Failure::from_error(&error)),
            Err(source) => {
                return Err(idle(&source).unwrap_or(AgentError::Request { source }));
            }
        };
        let frame = frame::encode(&reply)
            .or_else(|error| frame::encode(&Reply::Refused(Failure::from_error(&error))))
            .map_err(|source| AgentError::Answer { source })?;
        send(output, &frame)?;
    }
}

fn send(output: &mut impl Write, bytes: &[u8]) -> Result<(), AgentError> {
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|source| {
        let source = FrameError::Stream { source };
        idle(&source).unwrap_or(AgentError::Answer { source })
    })
}

/// Whether it is the silence of the controller that ended a stream.
fn idle(error: &FrameError) -> Option<AgentError> {
    let FrameError::Stream { source } = error else { return None };
    source.get_ref()?.downcast_ref::<Silence>().map(|silence| AgentError::Idle { limit: silence.0 })
}

/// How long the controller sent nothing.
#[derive(Debug, thiserror::Error)]
#[error("nothing moved for {} s", .0.as_secs())]
struct Silence(Duration);

/// How long a stream may rest; shared by the stream and the loop that serves requests.
type IdleLimit = Rc<Cell<Option<Duration>>>;

/// A stream that waits for the other side no longer than the limit says at that moment.
struct Patient {
    stream: File,
    limit: IdleLimit,
}

impl Patient {
    fn new(stream: File, limit: IdleLimit) -> Self {
        Self { stream, limit }
    }

    fn wait(&self, for_what: PollFlags) -> io::Result<()> {
        let Some(limit) = self.limit.get() else { return Ok(()) };
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A millisecond more than is left, so that it is over when the time is.
            let left = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
            let mut fds = [PollFd::new(self.stream.as_fd(), for_what)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if Instant::now() >= deadline => {
                    return Err(io::Error::other(Silence(limit)));
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN)?;
        self.stream.read(buffer)
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLOUT)?;
        // As much as a pipe that can be written takes without waiting (PIPE_BUF, pipe(7)).
        let piece = bytes.len().min(if self.limit.get().is_some() { 4096 } else { usize::MAX });
        self.stream.write(&bytes[..piece])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Tells people on stderr, and a controller that still waits for hello, why it ends.
fn complain(output: Option<&mut Patient>, error: &AgentError) -> ExitCode {
    let failure = Failure::from_error(error);
    let before_hello = matches!(
        error,
        AgentError::OpenNamespace { .. }
            | AgentError::EnterNamespace { .. }
            | AgentError::Runtime { .. }
    );
    if let Some(output) = output.filter(|_| before_hello) {
        let mark = GreetingMark::Failed { reason: failure.to_string().replace('\n', " ") };
        // Nobody listens any more: the exit code says it too.
        let _ = output.write_all(mark.to_string().as_bytes());
    }
    let _ = writeln!(io::stderr(), "lvsprov agent: {failure}");
    ExitCode::FAILURE
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Fetched;

    fn replies(output: &[u8]) -> Vec<Reply> {
        let mark = GreetingMark::Hello.to_string();
        let mut rest = output.strip_prefix(mark.as_bytes()).unwrap();
        let hello: Hello = frame::read_blocking(&mut rest).unwrap().unwrap();
        assert_eq!(hello.version, VERSION);
        let mut replies = Vec::new();
        while let Some(reply) = frame::read_blocking(&mut rest).unwrap() {
            replies.push(reply);
        }
        replies
    }

    fn run(input: &[u8]) -> (Vec<Reply>, Result<(), AgentError>) {
        let mut output = Vec::new();
        let mut input = input;
        let end = serve(&mut input, &mut output, |_| Reply::Fetched(Fetched::default()));
        (replies(&output), end)
    }

    #[test]
    fn an_unknown_request_is_refused_and_the_next_is_answered() {
        let mut input = frame::encode(&serde_json::json!({"fly": {"to": "the moon"}})).unwrap();
        input.extend(
            frame::encode(&Request::Fetch {
                target: "127.0.0.1:1".parse().unwrap(),
                protocol: crate::state::Protocol::Tcp,
                count: 1,
                timeout_ms: 1,
            })
            .unwrap(),
        );
        let (replies, end) = run(&input);
        assert!(end.is_ok(), "{end:?}");
        assert!(matches!(replies[0], Reply::Refused(_)), "{replies:?}");
        assert_eq!(replies[1], Reply::Fetched(Fetched::default()));
    }

    #[test]
    fn a_request_cut_half_way_ends_the_agent_with_an_error() {
        let (replies, end) = run(&[0, 0, 0, 9, b'{']);
        assert!(replies.is_empty());
        assert!(matches!(end, Err(AgentError::Request { source: FrameError::Truncated { .. } })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let (replies, _) = run(&input);
            let all_refused = replies.iter().all(|r| matches!(r, Reply::Refused(_)));
            prop_assert!(all_refused);
        }
    }
}
