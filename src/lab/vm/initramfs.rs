//! The guest's initramfs: this binary, the modules for the root file system, the job.
//!
//! An initramfs is a cpio archive of the "newc" kind
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::guest::{GuestJob, JOB_FILE};
use super::kernel::GuestKernel;
use super::modules::{self, ModuleFile};
use super::{VmError, kernel};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_600;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes the archive to anonymous memory.
pub(super) fn build(binary: &Path, kernel: &GuestKernel, job: &GuestJob) -> Result<File, VmError> {
    let read =
        |path: &Path| fs::read(path).map_err(VmError::io(format!("read {}", path.display())));
    let program = read(binary)?;
    if !is_static(&program) {
        return Err(VmError::NotStatic(binary.to_owned()));
    }
    let modules = modules::in_order(&kernel.modules, modules::FOR_THE_ROOT)
        .map_err(kernel::KernelError::from)?;
    let json = serde_json::to_vec(job).map_err(io::Error::from);
    let json = json.map_err(VmError::io("write the guest's job"))?;

    let memory = memfd_create(c"lvsprov-initramfs", MFdFlags::MFD_CLOEXEC);
    let memory = memory.map_err(io::Error::from).map_err(VmError::io("get anonymous memory"))?;
    let mut archive = Archive { to: io::BufWriter::new(File::from(memory)), entries: 0 };
    let mut fill = || -> io::Result<()> {
        for folder in ["dev", "proc", "sys", "modules", "root"] {
            archive.entry(folder, FOLDER, (0, 0), &[])?;
        }
        // The runtime aborts a process without standard streams and without /dev/null before main.
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
        archive.entry("dev/null", CHARACTER_DEVICE, (1, 3), &[])?;
        archive.entry("init", PROGRAM, (0, 0), &program)?;
        archive.entry(JOB_FILE, DATA, (0, 0), &json)?;
        for (nth, ModuleFile { path, .. }) in modules.iter().enumerate() {
            let bytes = modules::read_plain(path)?;
            archive.entry(&format!("modules/{nth:02}"), DATA, (0, 0), &bytes)?;
        }
        archive.end()
    };
    fill().map_err(VmError::io("write the guest's initramfs"))?;
    archive.to.into_inner().map_err(|e| VmError::io("write the guest's initramfs")(e.into_error()))
}

struct Archive<W> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        (major, minor): (u32, u32),
        data: &[u8],
    ) -> io::Result<()> {
        self.entries += 1;
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        let name_length = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let links = 1;
        let fields =
            [self.entries, mode, 0, 0, links, 0, length, 0, 0, major, minor, name_length, 0];
        write!(self.to, "070701")?;
        for field in fields {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(6 + 8 * fields.len() + name.len() + 1)?;
        self.to.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let missing = written.next_multiple_of(4) - written;
        self.to.write_all(&[0; 4][..missing])
    }

    fn end(&mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()
    }
}

/// Whether an ELF program (64-bit, little-endian) runs without a dynamic loader: it has no
/// `PT_INTERP` program header (elf(5)).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    };
    let headers = || -> Option<bool> {
        if program.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let start = usize::try_from(number(32, 8)?).ok()?;
        let size = usize::try_from(number(54, 2)?).ok()?;
        let count = usize::try_from(number(56, 2)?).ok()?;
        for nth in 0..count {
            let at = start.checked_add(nth.checked_mul(size)?)?;
            if number(at, 4)? == u64::from(PT_INTERP) {
                return Some(false);
            }
        }
        Some(true)
    };
    headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_the_archive() {
        let mut archive = Archive { to: Vec::new(), entries: 0 };
        archive.entry("dir", FOLDER, (0, 0), &[]).unwrap();
        archive.entry("dir/three", DATA, (0, 0), b"abc").unwrap();
        archive.entry("dir/four", PROGRAM, (0, 0), b"abcd").unwrap();
        archive.entry("null", CHARACTER_DEVICE, (1, 3), &[]).unwrap();
        archive.end().unwrap();
        let mut cpio = Command::new("cpio");
        let mut busybox = Command::new("busybox");
        busybox.arg("cpio");
        for command in [&mut cpio, &mut busybox] {
            command.args(["-t", "-v"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let mut child = cpio.spawn().or_else(|_| busybox.spawn()).unwrap();
        child.stdin.take().unwrap().write_all(&archive.to).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(output.status.success(), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("dir"), "{text}");
        assert!(lines[1].starts_with("-rw-------") && lines[1].ends_with("dir/three"), "{text}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].ends_with("dir/four"), "{text}");
        assert!(lines[3].starts_with("crw-------") && lines[3].ends_with("null"), "{text}");
    }

    #[test]
    fn static_programs_are_recognised() {
        assert!(is_static(&fs::read("/proc/self/exe").unwrap()));
        assert!(!is_static(&fs::read("/bin/sh").unwrap()));
        assert!(!is_static(b""));
        assert!(!is_static(b"\x7fELF\x02\x01"));
        let mut endless = vec![0xff; 64];
        endless[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(!is_static(&endless));
    }
}
