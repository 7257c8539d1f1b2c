//! The guest's side: the first process of the virtual machine.
//!
//! It loads the few modules that the root file system needs, puts an overlay in memory over the
//! host's files, runs one program there, says how it ended and stops the machine. What it has to
//! say goes over the port of [`wire`](super::wire); the kernel's own log goes elsewhere.

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

use super::wire::{Frame, PORT};
use crate::kernel::namespace;
use crate::lab::network;

/// The variable that makes this binary, as the first process, a guest. The kernel hands what it does
/// not know on its command line to the first process (Documentation/admin-guide/kernel-parameters.rst).
pub(super) const MARK: &str = "LVSPROV_GUEST";
/// The file with the [`Order`] in the initramfs.
pub(super) const ORDER: &str = "order.json";
/// The mount tag of the host's root file system.
pub(super) const ROOT_TAG: &str = "root";
/// The mount tag of the kernel's modules.
pub(super) const MODULES_TAG: &str = "modules";

const LARGEST_9P_MESSAGE: u32 = 500_000;

/// What the guest is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) shares: Vec<Share>,
    /// The kernel's release, which names the folder of its modules.
    pub(super) modules: String,
}

/// A folder that is shared with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Share {
    pub(super) tag: String,
    pub(super) path: PathBuf,
}

impl Share {
    pub(super) fn number(paths: &[PathBuf]) -> Vec<Self> {
        let number =
            |(n, path): (usize, &PathBuf)| Self { tag: format!("share{n}"), path: path.clone() };
        paths.iter().enumerate().map(number).collect()
    }
}

/// What a program in the guest is given of this machine's environment: where programs are, how the
/// terminal is, what to log, and what is ours. Nothing else, as there may be secrets in it.
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

/// The life of the first process. It ends with the machine.
pub fn main() -> ! {
    let mut port = None;
    if let Err(error) = live(&mut port) {
        let text = with_causes(&error);
        // On the console it helps whoever looks into why the guest was silent.
        eprintln!("lvsprov: {text}");
        if let Some(port) = &port {
            say(port, &Frame::Failed(text));
        }
    }
    nix::unistd::sync();
    // The first process must not end: that would be a panic of the kernel. Which stops QEMU as well.
    let _: Result<Infallible, _> = reboot(RebootMode::RB_AUTOBOOT);
    std::process::exit(1)
}

type Port = Arc<Mutex<File>>;

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

fn live(port: &mut Option<Port>) -> Result<(), GuestError> {
    mount_kernel_files(Path::new("/"))?;
    load_modules()?;
    let port = port.insert(open_port()?);
    say(port, &Frame::Hello);
    let order = fs::read(Path::new("/").join(ORDER)).map_err(cannot("read the order"))?;
    let order: Order = serde_json::from_slice(&order).map_err(cannot("read the order"))?;
    enter_root(&order)?;
    fs::write("/proc/sys/kernel/hostname", "lvsprov-lab").map_err(cannot("set the host name"))?;
    namespace::current()
        .map_err(|error| crate::lab::LabError::io("open the network namespace")(error))
        .and_then(network::set_lo_up)
        .map_err(|error| cannot("set lo up")(io::Error::other(error.to_string())))?;
    let code = run(&order, port)?;
    nix::unistd::sync();
    say(port, &Frame::Exit(code));
    Ok(())
}

fn say(port: &Port, frame: &Frame) {
    // Without the port there is nobody to tell.
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
        fs::create_dir_all(&folder).map_err(cannot(format!("make {}", folder.display())))?;
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

/// In the order in which the host wrote them.
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

/// The port appears a moment after its driver.
fn open_port() -> Result<Port, GuestError> {
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

/// Makes the host's files the root, with an overlay in memory, the shares and the modules in place.
fn enter_root(order: &Order) -> Result<(), GuestError> {
    for folder in ["/host", "/memory", "/new"] {
        fs::create_dir(folder).map_err(cannot(format!("make {folder}")))?;
    }
    mount_9p(ROOT_TAG, Path::new("/host"), MsFlags::MS_RDONLY, "loose")?;
    mount_at(Path::new("/"), "memory", "tmpfs", MsFlags::empty(), "mode=0755,size=75%")?;
    for folder in ["/memory/upper", "/memory/work"] {
        fs::create_dir(folder).map_err(cannot(format!("make {folder}")))?;
    }
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

    let modules = Path::new("/lib/modules").join(&order.modules);
    make_folder(&modules)?;
    mount_9p(MODULES_TAG, &modules, MsFlags::MS_RDONLY, "loose")?;
    // What this machine was set up with is not the guest's.
    let receipts = Path::new("/var/lib/lvsprov");
    if receipts.exists() {
        mount_at(receipts, "", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
    }
    for share in &order.shares {
        make_folder(&share.path)?;
        mount_9p(&share.tag, &share.path, MsFlags::empty(), "none")?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), GuestError> {
    fs::create_dir_all(path).map_err(cannot(format!("make {}", path.display())))
}

fn mount_9p(tag: &str, path: &Path, flags: MsFlags, cache: &str) -> Result<(), GuestError> {
    let data = format!("trans=virtio,version=9p2000.L,msize={LARGEST_9P_MESSAGE},cache={cache}");
    mount(Some(tag), path, Some("9p"), flags, Some(data.as_str()))
        .map_err(cannot(format!("mount {tag} on {}", path.display())))
}

/// Runs the program to its end and passes on what it writes. Returns its code as a shell has it.
fn run(order: &Order, port: &Port) -> Result<i32, GuestError> {
    let Order { program, args, directory, environment, shares: _, modules: _ } = order;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(order, &error))?;
    let (ended, streams) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        pass_on(stdout, port, Frame::Out, ended.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        pass_on(stderr, port, Frame::Err, ended.clone());
    }
    drop(ended);
    let status = reap_until(&child)?;
    // What it started may live on and hold the streams: the rest of what was written comes at once.
    let deadline = Instant::now() + Duration::from_secs(2);
    while streams.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255))
}

fn not_started(order: &Order, error: &io::Error) -> GuestError {
    let what = format!("run {} in {}", order.program.display(), order.directory.display());
    // Root in here may be anybody out there: over 9p QEMU opens the files.
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; is it executable, and may the user who started the VM read it?"
        }
        _ => "",
    };
    let source = io::Error::new(error.kind(), format!("{error}{hint}"));
    GuestError { what, source }
}

/// The first process inherits every process whose parent ended, and must wait for it.
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
    port: &Port,
    frame: fn(Vec<u8>) -> Frame,
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
    fn the_guest_is_given_what_it_needs_and_no_secret() {
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
