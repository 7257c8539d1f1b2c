//! QEMU: its command line, and one run of it from the start to the program's end.

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

use super::guest::{MARK, MODULES_TAG, ROOT_TAG, Share};
use super::kernel::GuestKernel;
use super::wire::{Frame, PORT};
use super::{Accel, VmError, VmOptions};
use crate::lab::child::{Kept, Spec};
use crate::lab::programs;

/// How many lines of a log are shown.
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

/// All that one run needs.
pub(super) struct Machine<'a> {
    pub(super) options: &'a VmOptions,
    pub(super) qemu: &'a Path,
    pub(super) kernel: &'a GuestKernel,
    pub(super) initramfs: &'a File,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) hello: Duration,
    pub(super) deadline: Option<Instant>,
}

/// The program in the guest ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) boot: Duration,
}

/// It did not, and whether that was before the guest's first sign of life.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) before_hello: bool,
    pub(super) error: VmError,
}

impl Machine<'_> {
    /// Boots the machine and runs the program. QEMU is gone when this returns.
    pub(super) fn run(
        &self,
        accel: Accel,
        patience: Patience,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<Ended, Failed> {
        let start = |error| Failed { before_hello: true, error };
        let running = Running::start(self, accel).map_err(start)?;
        running.follow(patience, out, err)
    }

    fn arguments(&self, accel: Accel, console: &File) -> Result<Vec<OsString>, VmError> {
        let Emulator { machine, console: tty, .. } = emulator()?;
        let (accelerator, cpu) = match accel {
            Accel::Kvm => ("kvm", "host"),
            Accel::Tcg => ("tcg,thread=multi", "max"),
        };
        // Without init_on_alloc, pages are not zeroed twice: an emulated processor spends a tenth of its time on that.
        let append = format!(
            "console={tty} quiet panic=-1 {MARK}=1 random.trust_cpu=on mitigations=off \
             no_timer_check i8042.noaux 8250.nr_uarts=1 init_on_alloc=0"
        );
        let mut all = Arguments(Vec::new());
        // Nothing but what is said here; above all, no network.
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
        for Share { tag, path } in Share::number(&self.options.share) {
            all.share(&tag, &path, false);
        }
        Ok(all.0)
    }
}

/// A file of this process as a path for another one, also where it has no name.
fn of_this_process(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        self.0.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
    }

    /// A folder of the host over 9p.
    fn share(&mut self, tag: &str, path: &Path, read_only: bool) {
        let mut device = OsString::from(format!("local,id={tag},path="));
        device.push(escape(path));
        // The guest is no more trusted than what it runs: it may change what is shared with it.
        device.push(",security_model=none,multidevs=remap");
        device.push(if read_only { ",readonly=on" } else { "" });
        self.add([OsStr::new("-fsdev"), &device]);
        self.add(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
    }
}

/// In QEMU's options a comma is doubled.
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

/// One QEMU, which is killed when the value is dropped.
struct Running {
    accel: Accel,
    started: Instant,
    said_hello: Option<Duration>,
    process: Kept,
    frames: Receiver<io::Result<Frame>>,
    stderr: JoinHandle<String>,
    console: File,
}

impl Running {
    fn start(machine: &Machine<'_>, accel: Accel) -> Result<Self, VmError> {
        let console = memfd_create(c"lvsprov-console", MFdFlags::MFD_CLOEXEC);
        let console = console.map_err(io::Error::from).map_err(VmError::io("get memory"))?;
        let console = File::from(console);
        let mut command = Spec::new(machine.qemu)
            .args(machine.arguments(accel, &console)?)
            .command(&machine.options.binary)
            .map_err(VmError::io("write down how to start QEMU"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(VmError::io("start QEMU"))?;
        let mut process = Kept(child);
        let missing = || VmError::io("read from QEMU")(io::ErrorKind::BrokenPipe.into());
        let stdout = process.0.stdout.take().ok_or_else(missing)?;
        let stderr = process.0.stderr.take().ok_or_else(missing)?;
        let (frames, stderr) = listen(stdout, stderr);
        let started = Instant::now();
        Ok(Self { accel, started, said_hello: None, process, frames, stderr, console })
    }

    /// Passes on what the guest says until the program's end.
    fn follow(
        mut self,
        patience: Patience,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<Ended, Failed> {
        loop {
            let frame = match self.next(patience) {
                Ok(frame) => frame,
                Err(Silence::Hello) => {
                    let seconds = patience.hello.as_secs();
                    return Err(self.broken(&format!("gave no sign of life in {seconds} s")));
                }
                Err(Silence::Deadline) => {
                    let error = VmError::TimeLimit(self.started.elapsed());
                    return Err(Failed { before_hello: false, error });
                }
                Err(Silence::End(why)) => return Err(self.broken(&why)),
            };
            let passed_on = match frame {
                Frame::Hello => {
                    self.said_hello = Some(self.started.elapsed());
                    Ok(())
                }
                Frame::Out(bytes) => out.write_all(&bytes).and_then(|()| out.flush()),
                Frame::Err(bytes) => err.write_all(&bytes).and_then(|()| err.flush()),
                Frame::Exit(code) => {
                    return Ok(Ended { code, boot: self.said_hello.unwrap_or_default() });
                }
                Frame::Failed(text) => {
                    return Err(Failed { before_hello: false, error: VmError::Guest(text) });
                }
            };
            passed_on.map_err(|source| Failed {
                before_hello: false,
                error: VmError::io("pass on what the program writes")(source),
            })?;
        }
    }

    fn next(&self, patience: Patience) -> Result<Frame, Silence> {
        let hello = match self.said_hello {
            None => Some(self.started + patience.hello),
            Some(_) => None,
        };
        let until = [hello, patience.deadline].into_iter().flatten().min();
        let frame = match until {
            None => self.frames.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                self.frames.recv_timeout(until.saturating_duration_since(Instant::now()))
            }
        };
        match frame {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(error)) => Err(Silence::End(format!("cannot be understood ({error})"))),
            Err(RecvTimeoutError::Disconnected) => Err(Silence::End("ended by itself".to_owned())),
            Err(RecvTimeoutError::Timeout) if until == patience.deadline => Err(Silence::Deadline),
            Err(RecvTimeoutError::Timeout) => Err(Silence::Hello),
        }
    }

    /// Ends QEMU and gathers its last words.
    fn broken(mut self, what: &str) -> Failed {
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
            details = format!("\n  neither QEMU ({status}) nor the guest's kernel said anything");
        }
        let what = what.to_owned();
        let error = VmError::Broken { accel: self.accel, what, details };
        Failed { before_hello: self.said_hello.is_none(), error }
    }
}

/// Why there is no next frame.
enum Silence {
    Hello,
    Deadline,
    End(String),
}

/// Threads that read what QEMU and its guest say. They end with QEMU.
fn listen(
    mut stdout: ChildStdout,
    mut stderr: ChildStderr,
) -> (Receiver<io::Result<Frame>>, JoinHandle<String>) {
    // Bounded, so that a guest that writes faster than we pass on is slowed down.
    let (sender, frames) = mpsc::sync_channel(64);
    thread::spawn(move || {
        while let Some(frame) = Frame::read_from(&mut stdout).transpose() {
            let last = frame.is_err();
            if sender.send(frame).is_err() || last {
                break;
            }
        }
    });
    let words = thread::spawn(move || {
        let mut words = Vec::new();
        // QEMU says little; more than this is not kept, but read.
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
    // Behind a panic the kernel prints where it was, which pushes the reason out of sight.
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
        let mut all = Arguments(Vec::new());
        all.share("share0", Path::new("/a,b,readonly=off"), true);
        let device = all.0[1].to_string_lossy().into_owned();
        assert!(device.contains("path=/a,,b,,readonly=off,security_model"), "{device}");
        assert!(device.ends_with(",readonly=on"));
    }

    #[test]
    fn last_lines_are_the_last_and_harmless_on_a_terminal() {
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
