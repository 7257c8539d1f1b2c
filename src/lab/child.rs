//! Processes of the lab: the kernel kills them when the lab ends, and they can run in a host's namespaces.
//!
//! `PR_SET_PDEATHSIG` and setns(2) act on the calling process only. So each process starts as this
//! binary, prepares itself by its [`ChildSpec`], and then executes the program.

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

/// The first argument of this binary as a child of the lab.
pub const CHILD_ARGUMENT: &str = "--lab-child";

/// How a child prepares itself before it executes `program`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// The parent's process id; `None` for the first process of a PID namespace, which watches its
    /// standard input instead.
    parent: Option<u32>,
    /// The network namespace to enter.
    netns: Option<PathBuf>,
    /// Folders that become empty tmpfs mounts. A folder inside an earlier one is created; others must exist.
    private_folders: Vec<PathBuf>,
    /// Bind mounts: (source, target).
    bind_mounts: Vec<(PathBuf, PathBuf)>,
    /// Whether it gets a new PID namespace, so that all its descendants end with it.
    process_namespace: bool,
    /// The program.
    program: PathBuf,
    /// Its arguments.
    arguments: Vec<OsString>,
}

impl ChildSpec {
    /// `program`, which the kernel kills when the starting thread ends.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            parent: Some(std::process::id()),
            netns: None,
            private_folders: Vec::new(),
            bind_mounts: Vec::new(),
            process_namespace: false,
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

    /// Runs in that network namespace.
    #[must_use]
    pub fn netns(mut self, path: PathBuf) -> Self {
        self.netns = Some(path);
        self
    }

    /// Mounts an empty tmpfs at `path`.
    #[must_use]
    pub fn private_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.private_folders.push(path.into());
        self
    }

    /// Mounts `file` over `path`.
    #[must_use]
    pub fn bind_mount(mut self, file: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Self {
        self.bind_mounts.push((file.into(), path.into()));
        self
    }

    /// Gives it a new PID namespace: all its descendants end with it.
    #[must_use]
    pub fn process_namespace(mut self) -> Self {
        self.process_namespace = true;
        self
    }

    /// The command that starts it. `binary` must be this program.
    ///
    /// # Errors
    /// If an argument cannot be serialised: none known.
    pub fn command(&self, binary: &Path) -> io::Result<Command> {
        let mut command = Command::new(binary);
        command.arg(CHILD_ARGUMENT).arg(serde_json::to_string(self)?);
        Ok(command)
    }
}

/// `main` calls this first. With the arguments of a lab child it becomes that child, and returns only
/// on failure.
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.get(1)? != CHILD_ARGUMENT {
        return None;
    }
    let spec = arguments.get(2).and_then(|text| text.to_str());
    let spec = spec.and_then(|text| serde_json::from_str::<ChildSpec>(text).ok());
    let Some(spec) = spec else {
        return Some(fail(CHILD_ARGUMENT, &io::Error::other("this is for lvsprov's own use")));
    };
    let program = spec.program.display().to_string();
    Some(become_child(spec).unwrap_or_else(|error| fail(&program, &error)))
}

/// Exit code 127, as a shell returns for a program that cannot be started.
fn fail(what: &str, error: &io::Error) -> ExitCode {
    eprintln!("lvsprov: cannot start {what}: {error}");
    ExitCode::from(127)
}

fn become_child(spec: ChildSpec) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    match spec.parent {
        Some(parent) if std::os::unix::process::parent_id() != parent => {
            return Err(io::Error::other("its parent has ended"));
        }
        Some(_) => {}
        None => become_first_process()?,
    }
    if let Some(path) = &spec.netns {
        setns(fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    set_up_mounts(&spec.private_folders, &spec.bind_mounts)?;
    if spec.process_namespace {
        return run_in_process_namespace(spec);
    }
    Err(Command::new(&spec.program).args(&spec.arguments).exec())
}

/// Gives this process a mount namespace with the bind mounts and empty folders.
fn set_up_mounts(
    private_folders: &[PathBuf],
    bind_mounts: &[(PathBuf, PathBuf)],
) -> io::Result<()> {
    if private_folders.is_empty() && bind_mounts.is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for (file, path) in bind_mounts {
        mount(Some(file), path, none, MsFlags::MS_BIND, none)?;
    }
    for (nth, path) in private_folders.iter().enumerate() {
        if private_folders[..nth].iter().any(|outer| path.starts_with(outer)) {
            fs::create_dir_all(path)?;
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=0755"))?;
    }
    Ok(())
}

/// Starts the program as the first process of a new namespace and waits for it. When the first
/// process ends, the kernel ends all others (pid_namespaces(7)).
fn run_in_process_namespace(spec: ChildSpec) -> io::Result<ExitCode> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let ChildSpec { program, arguments, .. } = spec;
    let mut first = ChildSpec::new(program).args(arguments);
    first.parent = None;
    // Closing its standard input tells it that the parent has ended before it could check.
    let mut child = first.command(Path::new("/proc/self/exe"))?.stdin(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    let status = child.wait()?;
    drop(stdin);
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Mounts /proc for the new PID namespace and /sys for the network namespace.
fn become_first_process() -> io::Result<()> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
        return Err(io::Error::other("its parent has ended"));
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

type SpawnRequest = (Command, mpsc::Sender<io::Result<Child>>);

/// A thread that starts processes. `PR_SET_PDEATHSIG` watches the thread that forked, not its process,
/// and a runtime's thread may end before the children should.
pub struct Spawner {
    requests: mpsc::Sender<SpawnRequest>,
}

impl Spawner {
    /// Starts the thread, in the namespaces of the calling one. It ends when the value is dropped,
    /// and its children end with it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start() -> io::Result<Self> {
        let (requests, queue) = mpsc::channel::<SpawnRequest>();
        thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (mut command, answer) in queue {
                // If the caller has gone, the dropped handle leaves the child to the death signal.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a process.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, result) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.requests.send((command, answer)).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }
}

/// A process that is killed and reaped when the value is dropped.
pub struct ChildGuard(pub Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // It may have ended by itself; drop cannot report errors.
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
        let spec = ChildSpec::new("/bin/true").arg(odd).private_folder("/run").process_namespace();
        let command = spec.command(Path::new("/x")).unwrap();
        let text = command.get_args().nth(1).unwrap().to_str().unwrap();
        assert_eq!(serde_json::from_str::<ChildSpec>(text).unwrap(), spec);
    }

    #[test]
    fn other_arguments_do_not_make_a_child() {
        assert!(main(&["lvsprov".into(), "check".into()]).is_none());
        assert!(main(&["lvsprov".into()]).is_none());
        assert!(main(&["lvsprov".into(), CHILD_ARGUMENT.into(), "{".into()]).is_some());
    }
}
