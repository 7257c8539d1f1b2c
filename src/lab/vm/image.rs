//! Extracts the kernel from a bzImage. Under emulation, decompression takes most of the boot time (2.6 of
//! 4.2 s with Debian's 6.1).
//!
//! QEMU boots an uncompressed kernel with a PVH entry (`CONFIG_PVH`). If extraction fails, the image stays
//! as it is, and boots more slowly.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes `vmlinux-RELEASE` next to `vmlinuz-RELEASE` in `boot`; false if not possible.
pub(super) fn unpack(boot: &Path, release: &str) -> io::Result<bool> {
    let config = fs::read_to_string(boot.join(format!("config-{release}"))).unwrap_or_default();
    if !config.lines().any(|line| line == "CONFIG_PVH=y") {
        return Ok(false);
    }
    let image = fs::read(boot.join(format!("vmlinuz-{release}")))?;
    let Some((program, payload)) = payload(&image) else { return Ok(false) };
    let target = boot.join(format!("vmlinux-{release}"));
    let mut child = Command::new(program)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(File::create(&target)?)
        .stderr(Stdio::null())
        .spawn()?;
    // If the decompressor did not read everything, its exit status shows the failure.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(payload));
    let done = child.wait()?.success() && matches!(written, Some(Ok(())));
    if !done {
        fs::remove_file(&target)?;
    }
    Ok(done)
}

/// The compressed kernel in a bzImage, with its decompressor
/// (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Option<(&'static str, &[u8])> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let bytes = image.get(at..at + bytes)?;
        Some(bytes.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    if image.get(0x202..0x206)? != b"HdrS" || number(0x206, 2)? < 0x208 {
        return None;
    }
    let sectors = match number(0x1f1, 1)? {
        0 => 4,
        sectors => sectors,
    };
    let start = (sectors + 1).checked_mul(512)?.checked_add(number(0x248, 4)?)?;
    let payload = image.get(start..start.checked_add(number(0x24c, 4)?)?)?;
    // Except for gzip the build appends the unpacked size, 4 bytes (scripts/Makefile.lib, size_append).
    let without_size = payload.get(..payload.len().checked_sub(4)?)?;
    match payload {
        [0x1f, 0x8b, ..] => Some(("gzip", payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(("xz", without_size)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(("zstd", without_size)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// A bzImage with the payload `packed`.
    fn image(packed: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 5 * 512 + 16];
        image[0x1f1] = 4;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(packed.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend(packed);
        image
    }

    #[test]
    fn the_kernel_is_extracted_or_stays_packed() {
        let folder = tempfile::tempdir().unwrap();
        let boot = folder.path();
        fs::write(boot.join("plain"), "the kernel").unwrap();
        let output = Command::new("xz").arg("-c").arg(boot.join("plain")).output().unwrap();
        let packed = [output.stdout, vec![10, 0, 0, 0]].concat();
        fs::write(boot.join("vmlinuz-6"), image(&packed)).unwrap();
        assert!(!unpack(boot, "6").unwrap(), "without CONFIG_PVH");
        fs::write(boot.join("config-6"), "CONFIG_PVH=y\n").unwrap();
        assert!(unpack(boot, "6").unwrap());
        assert_eq!(fs::read_to_string(boot.join("vmlinux-6")).unwrap(), "the kernel");

        fs::write(boot.join("vmlinuz-7"), image(&packed[..packed.len() / 2])).unwrap();
        fs::write(boot.join("config-7"), "CONFIG_PVH=y\n").unwrap();
        assert!(!unpack(boot, "7").unwrap());
        assert!(!boot.join("vmlinux-7").exists());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            payload(&bytes);
            if bytes.len() > 0x250 {
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
                payload(&bytes);
            }
        }
    }
}
