//! The guest: the first process of the virtual machine.
//!
//! It loads the modules for the root file system, mounts an overlay in memory over the host's files, runs
//! one program, reports its exit code and stops the machine. Messages go over the port of
//! [`wire`](super::wire); the kernel log goes to the console.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::kmod::init_module;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot};
use serde::{Deserialize, Serialize};

use super::wire::{GuestFrame, PORT};
use crate::kernel::namespace;
use crate::lab::network;

/// The environment variable that marks the first process as a guest. The kernel passes unknown parameters
/// of its command line to the first process (Documentation/admin-guide/kernel-parameters.rst).
pub(super) const MARK: &str = "LVSPROV_GUEST";
/// The initramfs file with the [`GuestJob`].
pub(super) const JOB_FILE: &str = "job.json";
/// The mount tag of the host's root file system.
pub(super) const ROOT_TAG: &str = "root";
/// The mount tag of the kernel's modules.
pub(super) const MODULES_TAG: &str = "modules";

const LARGEST_9P_MESSAGE: u32 = 500_000;

/// The guest's task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GuestJob {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) shares: Vec<SharedFolder>,
    /// The kernel's release, which names the folder of its modules.
    pub(super) modules: String,
}

/// A folder that is shared with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SharedFolder {
    pub(super) tag: String,
    pub(super) path: PathBuf,
}

impl SharedFolder {
    pub(super) fn number(paths: &[PathBuf]) -> Vec<Self> {
        let number =
            |(n, path): (usize, &PathBuf)| Self { tag: format!("share{n}"), path: path.clone() };
        paths.iter().enumerate().map(number).collect()
    }
}

/// The environment of the guest's program: PATH, terminal and logging variables, and `LVSPROV_*`. Nothing
/// else of this machine's environment, which may contain secrets.
pub fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let mut given = BTreeMap::new();
    for (name, value) in variables {
        let known = ["PATH", "TERM", "LANG", "LC_ALL", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"];
        let text = name.to_string_lossy();
        if known.contains(&text.as_ref())
            || text.starts_with("RUST_")
            || text.starts_with("LVSPROV_")
        {
            given.insert(name, value);
        }
    }
    let mut path = given.remove(std::ffi::OsStr::new("PATH")).unwrap_or_default();
    for folder in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        if !std::env::split_paths(&path).any(|known| known == Path::new(folder)) {
            path.push(if path.is_empty() { "" } else { ":" });
            path.push(folder);
        }
    }
    given.insert("PATH".into(), path);
    given.insert("HOME".into(), "/root".into());
    given.insert("USER".into(), "root".into());
    given.into_iter().collect()
}

/// Whether this process is the first one of a virtual machine that lvsprov started.
pub fn is_guest() -> bool {
    std::process::id() == 1 && std::env::var_os(MARK).is_some()
}

/// Runs the guest. Ends with the machine.
pub fn main() -> ! {
    let mut port = None;
    if let Err(error) = live(&mut port) {
        let text = with_causes(&error);
        // Also on the console, in case the port does not work.
        eprintln!("lvsprov: {text}");
        if let Some(port) = &port {
            say(port, &GuestFrame::Failed(text));
        }
    }
    nix::unistd::sync();
    // The end of the first process is a kernel panic, which stops QEMU.
    let _: Result<Infallible, _> = reboot(RebootMode::RB_AUTOBOOT);
    std::process::exit(1)
}

type GuestPort = Arc<Mutex<File>>;

#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
struct GuestError {
    what: String,
    source: io::Error,
}

/// For `map_err`.
fn cannot<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> GuestError {
    let what = what.into();
    move |source| GuestError { what, source: source.into() }
}

fn with_causes(error: &GuestError) -> String {
    format!("{error}: {}", error.source)
}

fn live(port: &mut Option<GuestPort>) -> Result<(), GuestError> {
    mount_kernel_files(Path::new("/"))?;
    load_modules()?;
    let port = port.insert(open_port()?);
    say(port, &GuestFrame::Hello);
    let job = fs::read(Path::new("/").join(JOB_FILE)).map_err(cannot("read the job"))?;
    let job: GuestJob = serde_json::from_slice(&job).map_err(cannot("read the job"))?;
    enter_root(&job)?;
    fs::write("/proc/sys/kernel/hostname", "lvsprov-lab").map_err(cannot("set the host name"))?;
    namespace::current()
        .map_err(|error| crate::lab::LabError::io("open the network namespace")(error))
        .and_then(network::set_lo_up)
        .map_err(|error| cannot("set lo up")(io::Error::other(error.to_string())))?;
    let code = run(&job, port)?;
    nix::unistd::sync();
    say(port, &GuestFrame::Exit(code));
    Ok(())
}

fn say(port: &GuestPort, frame: &GuestFrame) {
    // Without the port the frame cannot be sent.
    if let Ok(mut port) = port.lock() {
        let _ = frame.write_to(&mut *port);
    }
}

fn mount_kernel_files(root: &Path) -> Result<(), GuestError> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let device = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_at(root, "dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")?;
    mount_at(root, "proc", "proc", plain, "")?;
    mount_at(root, "sys", "sysfs", plain, "")?;
    for (path, kind, flags, data) in [
        ("dev/pts", "devpts", device, "mode=0620,ptmxmode=0666"),
        ("dev/shm", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777"),
    ] {
        let folder = root.join(path);
        fs::create_dir_all(&folder).map_err(cannot(format!("create {}", folder.display())))?;
        mount_at(root, path, kind, flags, data)?;
    }
    Ok(())
}

fn mount_at(
    root: &Path,
    path: &str,
    kind: &str,
    flags: MsFlags,
    data: &str,
) -> Result<(), GuestError> {
    let path = root.join(path);
    mount(Some(kind), &path, Some(kind), flags, Some(data))
        .map_err(cannot(format!("mount {kind} on {}", path.display())))
}

/// Loads the modules in the order of their file names.
fn load_modules() -> Result<(), GuestError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> =
            fs::read_dir("/modules")?.map(|e| Ok(e?.path())).collect::<io::Result<_>>()?;
        files.sort();
        Ok(files)
    };
    for file in list().map_err(cannot("list the modules"))? {
        let image = fs::read(&file).map_err(cannot(format!("read {}", file.display())))?;
        match init_module(&image, c"") {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(errno) => return Err(cannot(format!("load {}", file.display()))(errno)),
        }
    }
    Ok(())
}

/// Opens the port, which appears a moment after its driver.
fn open_port() -> Result<GuestPort, GuestError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match find_port() {
            Ok(file) => return Ok(Arc::new(Mutex::new(file))),
            Err(error) if Instant::now() > deadline => return Err(cannot("open its port")(error)),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn find_port() -> io::Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT {
            return File::options().write(true).open(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Mounts the host's files as the root, with an overlay in memory, shared folders and modules.
fn enter_root(job: &GuestJob) -> Result<(), GuestError> {
    for folder in ["/host", "/memory", "/new"] {
        fs::create_dir(folder).map_err(cannot(format!("create {folder}")))?;
    }
    mount_9p(ROOT_TAG, Path::new("/host"), MsFlags::MS_RDONLY, "loose")?;
    mount_at(Path::new("/"), "memory", "tmpfs", MsFlags::empty(), "mode=0755,size=75%")?;
    for folder in ["/memory/upper", "/memory/work"] {
        fs::create_dir(folder).map_err(cannot(format!("create {folder}")))?;
    }
    copy_links(Path::new("/host"), Path::new("/memory/upper"))?;
    let layers = "lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work";
    mount_at(Path::new("/"), "new", "overlay", MsFlags::empty(), layers)?;
    mount_kernel_files(Path::new("/new"))?;
    mount_at(
        Path::new("/new"),
        "run",
        "tmpfs",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=0755",
    )?;

    let none: Option<&str> = None;
    chdir("/new").map_err(cannot("enter the new root"))?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).map_err(cannot("move the new root"))?;
    chroot(".").map_err(cannot("enter the new root"))?;
    chdir("/").map_err(cannot("enter the new root"))?;

    let modules = Path::new("/lib/modules").join(&job.modules);
    make_folder(&modules)?;
    mount_9p(MODULES_TAG, &modules, MsFlags::MS_RDONLY, "loose")?;
    // The guest does not see this machine's receipts.
    let receipts = Path::new("/var/lib/lvsprov");
    if receipts.exists() {
        mount_at(receipts, "", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
    }
    for share in &job.shares {
        make_folder(&share.path)?;
        mount_9p(&share.tag, &share.path, MsFlags::empty(), "none")?;
    }
    Ok(())
}

/// Copies the links of `from`, such as /lib -> usr/lib. The guest caches no link of 9p: each
/// look at one is a request, and most paths go through one of these, a seventh of an agent's time.
fn copy_links(from: &Path, to: &Path) -> Result<(), GuestError> {
    let unreadable = |path: &Path| cannot(format!("read {}", path.display()));
    for entry in fs::read_dir(from).map_err(unreadable(from))? {
        let path = entry.map_err(unreadable(from))?.path();
        if let (true, Some(name)) = (path.is_symlink(), path.file_name()) {
            let target = fs::read_link(&path).map_err(unreadable(&path))?;
            let copy = to.join(name);
            let failed = cannot(format!("create {}", copy.display()));
            std::os::unix::fs::symlink(target, &copy).map_err(failed)?;
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), GuestError> {
    fs::create_dir_all(path).map_err(cannot(format!("create {}", path.display())))
}

fn mount_9p(tag: &str, path: &Path, flags: MsFlags, cache: &str) -> Result<(), GuestError> {
    let data = format!("trans=virtio,version=9p2000.L,msize={LARGEST_9P_MESSAGE},cache={cache}");
    mount(Some(tag), path, Some("9p"), flags, Some(data.as_str()))
        .map_err(cannot(format!("mount {tag} on {}", path.display())))
}

/// Runs the program and forwards its output. Returns its exit code as a shell does.
fn run(job: &GuestJob, port: &GuestPort) -> Result<i32, GuestError> {
    let GuestJob { program, args, directory, environment, shares: _, modules: _ } = job;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(job, &error))?;
    let (ended, streams) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        pass_on(stdout, port, GuestFrame::Out, ended.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        pass_on(stderr, port, GuestFrame::Err, ended.clone());
    }
    drop(ended);
    let status = reap_until(&child)?;
    // Its children may keep the streams open; data that is already written arrives immediately.
    let deadline = Instant::now() + Duration::from_secs(2);
    while streams.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255))
}

fn not_started(job: &GuestJob, error: &io::Error) -> GuestError {
    let what = format!("run {} in {}", job.program.display(), job.directory.display());
    // Over 9p QEMU opens files as the user who started it, not as root.
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; check that it is executable, and readable for the user who started the VM"
        }
        _ => "",
    };
    let source = io::Error::new(error.kind(), format!("{error}{hint}"));
    GuestError { what, source }
}

/// Reaps orphans, which the first process inherits, until `child` ends.
fn reap_until(child: &std::process::Child) -> Result<ExitStatus, GuestError> {
    let ours = i32::try_from(child.id()).map(Pid::from_raw);
    loop {
        match waitpid(None, None).map_err(cannot("wait for the program"))? {
            WaitStatus::Exited(pid, code) if ours == Ok(pid) => {
                return Ok(ExitStatus::from_raw((code & 0xff) << 8));
            }
            WaitStatus::Signaled(pid, signal, _) if ours == Ok(pid) => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            _ => {}
        }
    }
}

fn pass_on(
    mut stream: impl Read + Send + 'static,
    port: &GuestPort,
    frame: fn(Vec<u8>) -> GuestFrame,
    ended: mpsc::Sender<()>,
) {
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => say(&port, &frame(buffer[..read].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        drop(ended);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_environment_has_no_secrets() {
        let variables = [
            ("PATH", "/opt/bin:/usr/bin"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("SSH_AUTH_SOCK", "/run/x"),
            ("RUST_LOG", "debug"),
            ("LVSPROV_CACHE", "/c"),
            ("HOME", "/home/u"),
        ];
        let given = environment(variables.map(|(name, value)| (name.into(), value.into())));
        let given: BTreeMap<_, _> = given
            .into_iter()
            .map(|(n, v)| (n.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
            .collect();
        let names: Vec<_> = given.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "LVSPROV_CACHE", "PATH", "RUST_LOG", "USER"]);
        assert_eq!(given["HOME"], "/root");
        let path = "/opt/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin";
        assert_eq!(given["PATH"], path);
    }
}
