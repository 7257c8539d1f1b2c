//! The arguments of `lvsprov lab vm`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::{Kvm, VmError, VmExit, VmOptions, run};

/// Runs a program in a throw-away virtual machine that has this machine's files, and a kernel with
/// IPVS and IPIP. Nothing on this machine changes; the machine has no network.
#[derive(Debug, Clone, clap::Args)]
pub struct VmArguments {
    /// Use KVM: auto (where it works), on (or fail), off (emulate)
    #[arg(long, value_name = "auto|on|off", default_value = "auto")]
    pub kvm: Kvm,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: u32,
    /// Processors of the machine [default: 2 with KVM, 1 emulated]
    #[arg(long, value_name = "COUNT")]
    pub cpus: Option<u8>,
    /// A folder that the program may write to; may be given several times
    #[arg(long, value_name = "DIR")]
    pub share: Vec<PathBuf>,
    /// The kernel image to boot (vmlinuz-RELEASE, with its modules beside it) [default: the distribution's]
    #[arg(long, value_name = "IMAGE")]
    pub kernel: Option<PathBuf>,
    /// Stop the machine after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<u64>,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

impl VmArguments {
    /// Runs the program; its output goes to this process's output.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self) -> Result<VmExit, VmError> {
        let Self { kvm, memory, cpus, share, kernel, time_limit, program } = self;
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).map_err(VmError::io(format!("find {}", path.display())))
        };
        let options = VmOptions {
            kvm: *kvm,
            memory_mib: *memory,
            cpus: *cpus,
            share: share.iter().map(absolute).collect::<Result<_, _>>()?,
            kernel: kernel.clone(),
            time_limit: time_limit.map(Duration::from_secs),
            ..VmOptions::default()
        };
        let Some((program, args)) = program.split_first() else {
            return Err(VmError::Options("no program was given".to_owned()));
        };
        run(&options, program.as_ref(), args)
    }
}
