//! A throw-away virtual machine with this machine's own files underneath and another kernel on top:
//! for IPVS and IPIP where the running kernel lacks them.
//!
//! The guest sees the root file system read-only over 9p with an overlay in memory, so it can write
//! anywhere and nothing on the machine changes; only the folders that are shared are written to.
//! It has no network device. Nothing but QEMU is needed: this very binary is the guest's first
//! process ([`guest`]), in an initramfs that we write ourselves ([`initramfs`]).
//!
//! All that QEMU is given besides the kernel lies in anonymous memory, so there is nothing to clean
//! up, and QEMU is killed by the kernel when this process ends, however it ends.

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
use self::guest::{Order, Share};
pub use self::kernel::{GuestKernel, KernelError};
use self::qemu::{Ended, Machine, Patience};

/// How to run a virtual machine.
#[derive(Debug, Clone)]
pub struct VmOptions {
    /// This program, which must be a static build: `/proc/self/exe` outside of tests.
    pub binary: PathBuf,
    /// Which accelerator.
    pub kvm: Kvm,
    /// In MiB; 256 and more.
    pub memory_mib: u32,
    /// Virtual processors, 1 to 64; as many as are worth it if not given.
    pub cpus: Option<u8>,
    /// Folders that the guest may write to, at the same path as here. They must exist.
    pub share: Vec<PathBuf>,
    /// The working folder of the program, at the same path as here.
    pub directory: PathBuf,
    /// The program's environment, whole.
    pub environment: Vec<(OsString, OsString)>,
    /// A kernel image to boot instead of one that is found or fetched.
    pub kernel: Option<PathBuf>,
    /// The device that KVM is used through: `/dev/kvm`.
    pub kvm_device: PathBuf,
    /// The QEMU to run instead of the first on PATH.
    pub qemu: Option<PathBuf>,
    /// Where fetched kernels and the verdict on KVM are kept instead of the usual place.
    pub cache: Option<PathBuf>,
    /// How long the guest's first sign of life may take under KVM.
    pub hello_kvm: Duration,
    /// How long it may take under emulation.
    pub hello_tcg: Duration,
    /// How long all of it may take.
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

/// How the program in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExit {
    /// Its exit code; 128 and the signal's number if a signal ended it, as a shell has it.
    pub code: i32,
    /// What ran it.
    pub accel: Accel,
    /// Why not KVM, where it was tried or remembered as broken.
    pub without_kvm: Option<String>,
    /// The kernel's release (`uname -r`).
    pub kernel: String,
    /// From the start of QEMU to the guest's first sign of life.
    pub boot: Duration,
}

/// Why the program could not be run in a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// No kernel to boot.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// QEMU is not installed.
    #[error(
        "there is no {program} (looked in {searched}); install it: apt-get install {package} \
         (Debian, Ubuntu), dnf install qemu-kvm (Fedora)"
    )]
    NoQemu {
        /// Its name on this architecture.
        program: &'static str,
        /// Where it was looked for.
        searched: String,
        /// The package that has it.
        package: &'static str,
    },
    /// There is no guest for this processor.
    #[error("a throw-away VM can be made on x86_64 and aarch64 only, this is {0}")]
    Architecture(&'static str),
    /// An option that cannot work.
    #[error("{0}")]
    Options(String),
    /// This build needs a dynamic loader.
    #[error(
        "{} is no static build, so it cannot be the first process of a VM; \
         build it as the project does (cargo build, with its .cargo/config.toml)", .0.display()
    )]
    NotStatic(PathBuf),
    /// The kernel or a file refused.
    #[error("the VM cannot be started: cannot {what}")]
    Io {
        /// What was attempted, as it goes on after "cannot".
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// QEMU or its guest ended, or kept silent, before the program ran to its end.
    #[error("the VM ({accel}) {what}{details}")]
    Broken {
        /// What ran it.
        accel: Accel,
        /// What happened.
        what: String,
        /// Last words of QEMU and of the guest's kernel, each on a line of its own.
        details: String,
    },
    /// The guest says that it could not start the program.
    #[error("in the VM: {0}")]
    Guest(String),
    /// All of it took longer than it may.
    #[error("the VM was stopped after {} s, its time limit", .0.as_secs())]
    TimeLimit(Duration),
}

impl VmError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Boots a virtual machine, runs `program` with `args` in it as root, and takes the machine away.
/// What the program writes to its standard output and error goes to ours, as it comes.
///
/// # Errors
/// See [`VmError`]. A program that fails is no error: its code is in [`VmExit`].
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
    let order = Order {
        program: program.to_owned(),
        args: args.to_vec(),
        directory: options.directory.clone(),
        environment: options.environment.clone(),
        shares: Share::number(&options.share),
        modules: kernel.release.clone(),
    };
    let initramfs = initramfs::build(&options.binary, &kernel, &order)?;
    let machine = Machine { options, qemu: &qemu, kernel: &kernel, initramfs: &initramfs };

    let plan = accel::choose(options.kvm, &options.kvm_device, &cache, &qemu)?;
    let mut without_kvm = plan.without_kvm;
    for accel in plan.try_in_order {
        let last = accel == Accel::Tcg || options.kvm == Kvm::On;
        let hello = if accel == Accel::Kvm { options.hello_kvm } else { options.hello_tcg };
        let patience = Patience { hello, deadline };
        match machine.run(accel, patience, out, err) {
            Ok(Ended { code, boot }) => {
                let kernel = kernel.release;
                return Ok(VmExit { code, accel, without_kvm, kernel, boot });
            }
            Err(failed) if failed.before_hello && !last => {
                let why = failed.error.to_string();
                let why = why.lines().take(2).map(str::trim).collect::<Vec<_>>().join("; ");
                tracing::warn!(%why, "KVM does not work here: going on with emulation");
                accel::remember_broken(&cache, &qemu, &why);
                without_kvm = Some(why);
            }
            Err(failed) => return Err(failed.error),
        }
    }
    Err(VmError::Options("no accelerator is left to try".to_owned()))
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
            return wrong(format!("the {what} {} is no absolute path of a folder", path.display()));
        }
    }
    Ok(())
}
