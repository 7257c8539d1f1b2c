//! Processes of the lab: they die with it, and may live in a host's own corner of the machine.
//!
//! A process asks the kernel by itself to be killed when its parent dies (`PR_SET_PDEATHSIG`), and a
//! namespace is entered by the process itself: so each is started through this binary, which does
//! what [`Spec`] says and then becomes the program.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The first argument that makes this binary a child of the lab.
pub const MARK: &str = "--lab-child";

/// What a child does before it becomes `program`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The process id of whoever started it; `None` for the first process of a namespace, whose
    /// parent is at the other end of its standard input instead.
    parent: Option<u32>,
    /// The network namespace to enter.
    netns: Option<PathBuf>,
    /// Folders that are empty, and its own. One inside an earlier one is made; others must exist.
    private: Vec<PathBuf>,
    /// Files that lie over others: (what lies there, over what).
    over: Vec<(PathBuf, PathBuf)>,
    /// Whether everything it starts is to die with it: a process namespace of its own.
    own_processes: bool,
    /// What it becomes.
    program: PathBuf,
    /// With which arguments.
    arguments: Vec<OsString>,
}

impl Spec {
    /// `program`, to die with the thread that starts it.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            parent: Some(std::process::id()),
            netns: None,
            private: Vec::new(),
            over: Vec::new(),
            own_processes: false,
            program: program.into(),
            arguments: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// In that network namespace.
    #[must_use]
    pub fn netns(mut self, path: PathBuf) -> Self {
        self.netns = Some(path);
        self
    }

    /// With an empty folder of its own at `path`.
    #[must_use]
    pub fn private(mut self, path: impl Into<PathBuf>) -> Self {
        self.private.push(path.into());
        self
    }

    /// With `file` where others see `path`.
    #[must_use]
    pub fn over(mut self, file: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Self {
        self.over.push((file.into(), path.into()));
        self
    }

    /// Everything that it starts dies with it.
    #[must_use]
    pub fn own_processes(mut self) -> Self {
        self.own_processes = true;
        self
    }

    /// The command that starts it through `binary`, which must be this program.
    ///
    /// # Errors
    /// If an argument cannot be written down: none known.
    pub fn command(&self, binary: &Path) -> io::Result<Command> {
        let mut command = Command::new(binary);
        command.arg(MARK).arg(serde_json::to_string(self)?);
        Ok(command)
    }
}

/// What `main` does first: where the arguments are those of a child of the lab, becomes that child
/// and returns only if that failed.
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.get(1)? != MARK {
        return None;
    }
    let spec = arguments.get(2).and_then(|text| text.to_str());
    let spec = spec.and_then(|text| serde_json::from_str::<Spec>(text).ok());
    let Some(spec) = spec else {
        return Some(fail(MARK, &io::Error::other("this is for lvsprov's own use")));
    };
    let program = spec.program.display().to_string();
    Some(become_child(spec).unwrap_or_else(|error| fail(&program, &error)))
}

/// 127 as a shell has it for a program that cannot be started.
fn fail(what: &str, error: &io::Error) -> ExitCode {
    eprintln!("lvsprov: cannot start {what}: {error}");
    ExitCode::from(127)
}

fn become_child(spec: Spec) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    match spec.parent {
        Some(parent) if std::os::unix::process::parent_id() != parent => {
            return Err(io::Error::other("whoever started it is gone"));
        }
        Some(_) => {}
        None => become_first_process()?,
    }
    if let Some(path) = &spec.netns {
        setns(fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    cover(&spec.private, &spec.over)?;
    if spec.own_processes {
        return in_own_processes(spec);
    }
    Err(Command::new(&spec.program).args(&spec.arguments).exec())
}

/// Gives this process its own view of the file tree, with `private` empty and `over` in place.
fn cover(private: &[PathBuf], over: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    if private.is_empty() && over.is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for (file, path) in over {
        mount(Some(file), path, none, MsFlags::MS_BIND, none)?;
    }
    for (nth, path) in private.iter().enumerate() {
        if private[..nth].iter().any(|outer| path.starts_with(outer)) {
            fs::create_dir_all(path)?;
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=0755"))?;
    }
    Ok(())
}

/// Starts the program as the first process of a new namespace and waits for it. When the first
/// process ends, the kernel ends all others (pid_namespaces(7)).
fn in_own_processes(spec: Spec) -> io::Result<ExitCode> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let Spec { program, arguments, .. } = spec;
    let mut first = Spec::new(program).args(arguments);
    first.parent = None;
    // Its standard input is how it learns that we are gone, should that happen before it can ask.
    let mut child = first.command(Path::new("/proc/self/exe"))?.stdin(Stdio::piped()).spawn()?;
    let held = child.stdin.take();
    let status = child.wait()?;
    drop(held);
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The first process of its namespace has its own /proc, and /sys shows its own network.
fn become_first_process() -> io::Result<()> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
        return Err(io::Error::other("whoever started it is gone"));
    }
    nix::unistd::dup2_stdin(fs::File::open("/dev/null")?)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys")] {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(kind), path, Some(kind), flags, none)?;
    }
    Ok(())
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// A thread that starts processes. `PR_SET_PDEATHSIG` is about the thread that forked, not about its
/// process: a thread of a runtime may end earlier than what it started is to live.
pub struct Keeper {
    orders: mpsc::Sender<Order>,
}

impl Keeper {
    /// Starts the thread, in the namespaces of the calling one. It ends when the value is dropped,
    /// and what it started ends with it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start() -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            for (mut command, answer) in inbox {
                // Whoever asked may have gone; the child then dies when its handle does not matter.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a process.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, result) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.orders.send((command, answer)).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }
}

/// A process that is ended and reaped when the value is dropped.
pub struct Kept(pub Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell either way.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_spec_survives_its_command_line_even_with_bytes_that_are_no_text() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = OsString::from_vec(vec![b'a', 0xff, b'"', b'\n']);
        let spec = Spec::new("/bin/true").arg(odd).private("/run").own_processes();
        let command = spec.command(Path::new("/x")).unwrap();
        let text = command.get_args().nth(1).unwrap().to_str().unwrap();
        assert_eq!(serde_json::from_str::<Spec>(text).unwrap(), spec);
    }

    #[test]
    fn other_arguments_are_not_a_childs() {
        assert!(main(&["lvsprov".into(), "check".into()]).is_none());
        assert!(main(&["lvsprov".into()]).is_none());
        assert!(main(&["lvsprov".into(), MARK.into(), "{".into()]).is_some());
    }
}
