//! A temporary virtual machine with this machine's files and another kernel, for IPVS and IPIP if the
//! running kernel lacks them.
//!
//! The guest mounts the root file system read-only over 9p, with an overlay in memory: it can write
//! anywhere, but only shared folders change on this machine. It has no network device. It needs only
//! QEMU: this binary is the guest's first process ([`guest`]), in an initramfs that [`initramfs`] writes.
//!
//! QEMU's input files except the kernel are in anonymous memory, so no files remain, and the kernel kills
//! QEMU when this process ends.

pub mod accel;
pub mod cache;
pub mod command;
mod fetch;
pub mod guest;
mod image;
mod initramfs;
pub mod kernel;
mod modules;
mod qemu;
mod wire;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::accel::{Accel, Kvm};
use self::cache::Cache;
use self::guest::{GuestJob, SharedFolder};
pub use self::kernel::{GuestKernel, KernelError};
use self::qemu::{GuestExit, VirtualMachine, VmTimeouts};

/// How to run a virtual machine.
#[derive(Debug, Clone)]
pub struct VmOptions {
    /// This program, which must be a static build: `/proc/self/exe` outside of tests.
    pub binary: PathBuf,
    /// KVM or emulation.
    pub kvm: Kvm,
    /// In MiB; 256 and more.
    pub memory_mib: u32,
    /// Virtual processors, 1 to 64; `None`: one under emulation, else two.
    pub cpus: Option<u8>,
    /// Folders that the guest may write to, at the same path. They must exist.
    pub share: Vec<PathBuf>,
    /// The working folder of the program, at the same path.
    pub directory: PathBuf,
    /// The program's complete environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The kernel image to boot; `None`: found or fetched.
    pub kernel: Option<PathBuf>,
    /// KVM's device: `/dev/kvm`.
    pub kvm_device: PathBuf,
    /// The QEMU to run; `None`: the first on PATH.
    pub qemu: Option<PathBuf>,
    /// The cache folder; `None`: the default.
    pub cache: Option<PathBuf>,
    /// Timeout of the guest's first message under KVM.
    pub hello_kvm: Duration,
    /// Timeout of the guest's first message under emulation.
    pub hello_tcg: Duration,
    /// Time limit of the whole run.
    pub time_limit: Option<Duration>,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            binary: PathBuf::from("/proc/self/exe"),
            kvm: Kvm::Auto,
            memory_mib: 1024,
            cpus: None,
            share: Vec::new(),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            environment: guest::environment(std::env::vars_os()),
            kernel: None,
            kvm_device: PathBuf::from("/dev/kvm"),
            qemu: None,
            cache: None,
            hello_kvm: Duration::from_secs(8),
            hello_tcg: Duration::from_mins(2),
            time_limit: None,
        }
    }
}

/// The result of the guest's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExit {
    /// Its exit code; 128 plus the signal's number if a signal ended it.
    pub code: i32,
    /// The accelerator.
    pub accel: Accel,
    /// Why KVM was not used, if it failed or is recorded as broken.
    pub without_kvm: Option<String>,
    /// The kernel's release (`uname -r`).
    pub kernel: String,
    /// Time from the start of QEMU to the guest's first message.
    pub boot: Duration,
}

/// Why the program could not be run in a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// No kernel was found.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// QEMU is not installed.
    #[error(
        "{program} is not installed (searched in {searched}); install it: apt-get install {package} \
         (Debian, Ubuntu), dnf install qemu-kvm (Fedora)"
    )]
    NoQemu {
        /// Its name on this architecture.
        program: &'static str,
        /// The searched folders.
        searched: String,
        /// Its package.
        package: &'static str,
    },
    /// The processor is not supported.
    #[error("the VM needs x86_64 or aarch64; this machine is {0}")]
    Architecture(&'static str),
    /// An invalid option.
    #[error("{0}")]
    Options(String),
    /// This build needs a dynamic loader.
    #[error(
        "{} is not a static build, so it cannot be the first process of a VM; \
         build it as the project does (cargo build, with its .cargo/config.toml)", .0.display()
    )]
    NotStatic(PathBuf),
    /// The kernel or a file refused.
    #[error("the VM cannot be started: cannot {what}")]
    Io {
        /// The attempted operation, as a phrase after "cannot".
        what: String,
        /// The error.
        source: io::Error,
    },
    /// QEMU or its guest ended or sent nothing before the program ended.
    #[error("the VM ({accel}) {what}{details}")]
    Broken {
        /// The accelerator.
        accel: Accel,
        /// The event.
        what: String,
        /// The last log lines of QEMU and of the guest's kernel.
        details: String,
    },
    /// The guest could not start the program.
    #[error("in the VM: {0}")]
    Guest(String),
    /// The time limit was exceeded.
    #[error("the VM was stopped after {} s, its time limit", .0.as_secs())]
    TimeLimit(Duration),
}

impl VmError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Boots a virtual machine, runs `program` with `args` in it as root, and ends the machine. The program's
/// standard output and error are forwarded immediately.
///
/// # Errors
/// See [`VmError`]. A program that fails is not an error: [`VmExit`] has its exit code.
pub fn run(options: &VmOptions, program: &Path, args: &[OsString]) -> Result<VmExit, VmError> {
    run_with(options, program, args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// As [`run`], with the program's output going to `out` and `err`.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    options: &VmOptions,
    program: &Path,
    args: &[OsString],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<VmExit, VmError> {
    check(options)?;
    let deadline = options.time_limit.map(|limit| Instant::now() + limit);
    let cache = Cache::open(options.cache.as_deref()).map_err(VmError::io("find a cache"))?;
    let qemu = qemu::find(options.qemu.as_deref())?;
    let kernel = kernel::locate(&cache, options.kernel.as_deref())?;
    let job = GuestJob {
        program: program.to_owned(),
        args: args.to_vec(),
        directory: options.directory.clone(),
        environment: options.environment.clone(),
        shares: SharedFolder::number(&options.share),
        modules: kernel.release.clone(),
    };
    let initramfs = initramfs::build(&options.binary, &kernel, &job)?;
    let machine = VirtualMachine { options, qemu: &qemu, kernel: &kernel, initramfs: &initramfs };

    let plan = accel::choose(options.kvm, &options.kvm_device, &cache, &qemu)?;
    let mut without_kvm = plan.without_kvm;
    for accel in plan.try_in_order {
        let last = accel == Accel::Tcg || options.kvm == Kvm::On;
        let hello = if accel == Accel::Kvm { options.hello_kvm } else { options.hello_tcg };
        let timeouts = VmTimeouts { hello, deadline };
        match machine.run(accel, timeouts, out, err) {
            Ok(GuestExit { code, boot }) => {
                let kernel = kernel.release;
                return Ok(VmExit { code, accel, without_kvm, kernel, boot });
            }
            Err(failed) if failed.before_hello && !last => {
                let why = failed.error.to_string();
                let why = why.lines().take(2).map(str::trim).collect::<Vec<_>>().join("; ");
                tracing::warn!(%why, "KVM does not work here: continuing with emulation");
                accel::record_broken(&cache, &qemu, &why);
                without_kvm = Some(why);
            }
            Err(failed) => return Err(failed.error),
        }
    }
    Err(VmError::Options("all accelerators failed".to_owned()))
}

fn check(options: &VmOptions) -> Result<(), VmError> {
    let wrong = |text: String| Err(VmError::Options(text));
    if options.memory_mib < 256 {
        let mib = options.memory_mib;
        return wrong(format!("a VM with {mib} MiB of memory does not boot; give it 256 or more"));
    }
    if let Some(cpus) = options.cpus.filter(|cpus| !(1..=64).contains(cpus)) {
        return wrong(format!("a VM has 1 to 64 processors, not {cpus}"));
    }
    let folders = options.share.iter().map(|path| ("shared folder", path));
    for (what, path) in folders.chain([("working folder", &options.directory)]) {
        if !path.is_absolute() || !path.is_dir() {
            return wrong(format!(
                "the {what} {} is not an absolute path of a folder",
                path.display()
            ));
        }
    }
    Ok(())
}
