//! QEMU: its command line, and one run until the program's end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::guest::{MARK, MODULES_TAG, ROOT_TAG, SharedFolder};
use super::kernel::GuestKernel;
use super::wire::{GuestFrame, PORT};
use super::{Accel, VmError, VmOptions};
use crate::lab::child::{ChildGuard, ChildSpec};
use crate::lab::programs;

/// Maximum number of log lines in a message.
const LAST_LINES: usize = 12;

/// QEMU on this architecture.
struct Emulator {
    program: &'static str,
    machine: &'static str,
    console: &'static str,
}

fn emulator() -> Result<Emulator, VmError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Emulator { program: "qemu-system-x86_64", machine: "pc", console: "ttyS0" }),
        "aarch64" => {
            Ok(Emulator { program: "qemu-system-aarch64", machine: "virt", console: "ttyAMA0" })
        }
        other => Err(VmError::Architecture(other)),
    }
}

/// The QEMU to run: `given`, else the first on PATH.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf, VmError> {
    let Emulator { program, .. } = emulator()?;
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| VmError::NoQemu {
            program,
            searched: path.to_string_lossy().into_owned(),
            package: programs::package(program).unwrap_or("QEMU"),
        })
}

/// The input of one run.
pub(super) struct VirtualMachine<'a> {
    pub(super) options: &'a VmOptions,
    pub(super) qemu: &'a Path,
    pub(super) kernel: &'a GuestKernel,
    pub(super) initramfs: &'a File,
}

/// Timeouts of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct VmTimeouts {
    pub(super) hello: Duration,
    pub(super) deadline: Option<Instant>,
}

/// The end of the guest's program.
#[derive(Debug)]
pub(super) struct GuestExit {
    pub(super) code: i32,
    pub(super) boot: Duration,
}

/// A failed run, and whether it failed before the guest's first message.
#[derive(Debug)]
pub(super) struct VmFailure {
    pub(super) before_hello: bool,
    pub(super) error: VmError,
}

impl VirtualMachine<'_> {
    /// Boots the machine and runs the program. QEMU has ended when this returns.
    pub(super) fn run(
        &self,
        accel: Accel,
        timeouts: VmTimeouts,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<GuestExit, VmFailure> {
        let start = |error| VmFailure { before_hello: true, error };
        let running = RunningVm::start(self, accel).map_err(start)?;
        running.follow(timeouts, out, err)
    }

    fn arguments(&self, accel: Accel, console: &File) -> Result<Vec<OsString>, VmError> {
        let Emulator { machine, console: tty, .. } = emulator()?;
        let (accelerator, cpu) = match accel {
            Accel::Kvm => ("kvm", "host"),
            Accel::Tcg => ("tcg,thread=multi", "max"),
        };
        // Both for an emulated processor's time: init_on_alloc zeroes pages that are filled anyway, and a program that begins
        // at another address each time is translated anew each time (norandmaps saves a third of everything).
        let append = format!(
            "console={tty} quiet panic=-1 {MARK}=1 random.trust_cpu=on mitigations=off \
             no_timer_check i8042.noaux 8250.nr_uarts=1 init_on_alloc=0 norandmaps"
        );
        let mut all = QemuArguments(Vec::new());
        // No default devices, above all no network.
        all.add(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        all.add(["-machine", machine, "-accel", accelerator, "-cpu", cpu]);
        all.add(["-m", &self.options.memory_mib.to_string()]);
        all.add(["-smp", &self.options.cpus.unwrap_or(accel.processors()).to_string()]);
        all.add([OsStr::new("-kernel"), self.kernel.image.as_os_str()]);
        all.add(["-initrd", &of_this_process(self.initramfs), "-append", &append]);
        all.add(["-chardev", &format!("file,id=console,path={}", of_this_process(console))]);
        all.add(["-serial", "chardev:console"]);
        all.add(["-chardev", "file,id=wire,path=/dev/stdout", "-device", "virtio-serial-pci"]);
        all.add(["-device", &format!("virtserialport,chardev=wire,name={PORT}")]);
        all.share(ROOT_TAG, Path::new("/"), true);
        all.share(MODULES_TAG, &self.kernel.modules, true);
        for SharedFolder { tag, path } in SharedFolder::number(&self.options.share) {
            all.share(&tag, &path, false);
        }
        Ok(all.0)
    }
}

/// A path for other processes to an open file of this process, which may have no name.
fn of_this_process(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

struct QemuArguments(Vec<OsString>);

impl QemuArguments {
    fn add(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        self.0.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
    }

    /// A folder of the host over 9p.
    fn share(&mut self, tag: &str, path: &Path, read_only: bool) {
        let mut device = OsString::from(format!("local,id={tag},path="));
        device.push(escape(path));
        // The guest may change shared folders: its program is trusted with them.
        device.push(",security_model=none,multidevs=remap");
        device.push(if read_only { ",readonly=on" } else { "" });
        self.add([OsStr::new("-fsdev"), &device]);
        self.add(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
    }
}

/// Doubles commas, as QEMU's options require.
fn escape(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        escaped.push(*byte);
        if *byte == b',' {
            escaped.push(b',');
        }
    }
    OsString::from_vec(escaped)
}

/// A running QEMU; killed when the value is dropped.
struct RunningVm {
    accel: Accel,
    started: Instant,
    hello_after: Option<Duration>,
    process: ChildGuard,
    frames: Receiver<io::Result<GuestFrame>>,
    stderr: JoinHandle<String>,
    console: File,
}

impl RunningVm {
    fn start(machine: &VirtualMachine<'_>, accel: Accel) -> Result<Self, VmError> {
        let console = memfd_create(c"lvsprov-console", MFdFlags::MFD_CLOEXEC);
        let console = console.map_err(io::Error::from).map_err(VmError::io("get memory"))?;
        let console = File::from(console);
        let mut command = ChildSpec::new(machine.qemu)
            .args(machine.arguments(accel, &console)?)
            .command(&machine.options.binary)
            .map_err(VmError::io("write QEMU's start parameters"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(VmError::io("start QEMU"))?;
        let mut process = ChildGuard(child);
        let missing = || VmError::io("read from QEMU")(io::ErrorKind::BrokenPipe.into());
        let stdout = process.0.stdout.take().ok_or_else(missing)?;
        let stderr = process.0.stderr.take().ok_or_else(missing)?;
        let (frames, stderr) = read_output(stdout, stderr);
        let started = Instant::now();
        Ok(Self { accel, started, hello_after: None, process, frames, stderr, console })
    }

    /// Forwards the guest's output until the program's end.
    fn follow(
        mut self,
        timeouts: VmTimeouts,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<GuestExit, VmFailure> {
        loop {
            let frame = match self.next(timeouts) {
                Ok(frame) => frame,
                Err(NoFrame::Hello) => {
                    let seconds = timeouts.hello.as_secs();
                    return Err(self.broken(&format!("sent no message within {seconds} s")));
                }
                Err(NoFrame::Deadline) => {
                    let error = VmError::TimeLimit(self.started.elapsed());
                    return Err(VmFailure { before_hello: false, error });
                }
                Err(NoFrame::End(why)) => return Err(self.broken(&why)),
            };
            let passed_on = match frame {
                GuestFrame::Hello => {
                    self.hello_after = Some(self.started.elapsed());
                    Ok(())
                }
                GuestFrame::Out(bytes) => out.write_all(&bytes).and_then(|()| out.flush()),
                GuestFrame::Err(bytes) => err.write_all(&bytes).and_then(|()| err.flush()),
                GuestFrame::Exit(code) => {
                    return Ok(GuestExit { code, boot: self.hello_after.unwrap_or_default() });
                }
                GuestFrame::Failed(text) => {
                    return Err(VmFailure { before_hello: false, error: VmError::Guest(text) });
                }
            };
            passed_on.map_err(|source| VmFailure {
                before_hello: false,
                error: VmError::io("forward the program's output")(source),
            })?;
        }
    }

    fn next(&self, timeouts: VmTimeouts) -> Result<GuestFrame, NoFrame> {
        let hello = match self.hello_after {
            None => Some(self.started + timeouts.hello),
            Some(_) => None,
        };
        let until = [hello, timeouts.deadline].into_iter().flatten().min();
        let frame = match until {
            None => self.frames.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                self.frames.recv_timeout(until.saturating_duration_since(Instant::now()))
            }
        };
        match frame {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(error)) => Err(NoFrame::End(format!("sent an invalid frame ({error})"))),
            Err(RecvTimeoutError::Disconnected) => {
                Err(NoFrame::End("ended unexpectedly".to_owned()))
            }
            Err(RecvTimeoutError::Timeout) if until == timeouts.deadline => Err(NoFrame::Deadline),
            Err(RecvTimeoutError::Timeout) => Err(NoFrame::Hello),
        }
    }

    /// Kills QEMU and collects the last log lines.
    fn broken(mut self, what: &str) -> VmFailure {
        let _ = self.process.0.kill();
        let status = self.process.0.wait();
        let mut details = String::new();
        let status = status.map(|s| s.to_string()).unwrap_or_default();
        let stderr = self.stderr.join().unwrap_or_default();
        let mut console = Vec::new();
        let rewound = self.console.seek(SeekFrom::Start(0));
        if rewound.and_then(|_| self.console.read_to_end(&mut console)).is_err() {
            console.clear();
        }
        let console = String::from_utf8_lossy(&console).into_owned();
        for (who, text) in [("QEMU", &stderr), ("guest", &console)] {
            for line in &last_lines(text) {
                details.extend(["\n  ", who, ": ", line.as_str()]);
            }
        }
        if details.is_empty() {
            details = format!("\n  QEMU ({status}) and the guest's kernel logged nothing");
        }
        let what = what.to_owned();
        let error = VmError::Broken { accel: self.accel, what, details };
        VmFailure { before_hello: self.hello_after.is_none(), error }
    }
}

/// Why no frame arrived.
enum NoFrame {
    Hello,
    Deadline,
    End(String),
}

/// Threads that read the output of QEMU and its guest. They end with QEMU.
fn read_output(
    mut stdout: ChildStdout,
    mut stderr: ChildStderr,
) -> (Receiver<io::Result<GuestFrame>>, JoinHandle<String>) {
    // Bounded, so that a guest that writes too fast is slowed down.
    let (sender, frames) = mpsc::sync_channel(64);
    thread::spawn(move || {
        while let Some(frame) = GuestFrame::read_from(&mut stdout).transpose() {
            let last = frame.is_err();
            if sender.send(frame).is_err() || last {
                break;
            }
        }
    });
    let words = thread::spawn(move || {
        let mut words = Vec::new();
        // Keeps the first 64 KiB and reads the rest, so that QEMU does not block.
        let _ = stderr.by_ref().take(64 * 1024).read_to_end(&mut words);
        let _ = io::copy(&mut stderr, &mut io::sink());
        String::from_utf8_lossy(&words).into_owned()
    });
    (frames, words)
}

fn last_lines(text: &str) -> Vec<String> {
    let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> =
        text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
    // After a panic the kernel prints a trace, which would displace the reason.
    let panic = lines.iter().position(|line| line.contains("Kernel panic"));
    let last = lines.len().saturating_sub(LAST_LINES);
    let from = panic.map_or(last, |at| at.saturating_sub(LAST_LINES / 2).min(last));
    lines.into_iter().skip(from).take(LAST_LINES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_stays_in_the_path() {
        let mut all = QemuArguments(Vec::new());
        all.share("share0", Path::new("/a,b,readonly=off"), true);
        let device = all.0[1].to_string_lossy().into_owned();
        assert!(device.contains("path=/a,,b,,readonly=off,security_model"), "{device}");
        assert!(device.ends_with(",readonly=on"));
    }

    #[test]
    fn last_lines_are_the_last_and_safe_for_a_terminal() {
        let text = (0..100).map(|n| format!("line {n}\r\n\n")).collect::<Vec<_>>().concat();
        let lines = last_lines(&(text.clone() + "\u{1b}[31mred"));
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[LAST_LINES - 1], "[31mred");
        assert_eq!(lines[LAST_LINES - 2], "line 99");
        let lines = last_lines(&text.replace("line 50\r", "Kernel panic: not syncing\r"));
        assert_eq!(lines.len(), LAST_LINES);
        assert!(lines.contains(&"Kernel panic: not syncing".to_owned()), "{lines:?}");
    }
}
