//! The program that is sent to hosts: for which machine it is built, its digest, its packed form.
//!
//! Each is found out once a process, and the packed form only when a host needs it: fifty hosts
//! share one copy.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::TransportErrorKind;
use super::known_digest::{self, KnownDigest};
use crate::visible::hex;

/// How hard to pack: beyond this a local network carries the bytes faster than they are squeezed out.
const LEVEL: u32 = 3;

/// One program file.
#[derive(Debug)]
pub(super) struct Binary {
    /// Where it lies.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// The machine it is built for, as `uname -m` says it there.
    pub machine: String,
    /// Where digests of programs are kept.
    pub records: Option<PathBuf>,
    packed: OnceCell<Arc<[u8]>>,
}

/// Puts `program` where a first login would leave it on hosts with these
/// [state folders](crate::protocol::STATE_DIR): logins find it there, and it is not sent.
///
/// # Errors
/// If it cannot be read, is not a program for a machine that lvsprov knows, or cannot be written there.
pub fn place(program: &Path, state_dirs: &[PathBuf]) -> io::Result<()> {
    let digest = examine(program.to_owned(), None)?.digest;
    for state_dir in state_dirs {
        let folder = state_dir.join("agent");
        fs::create_dir_all(&folder)?;
        fs::copy(program, folder.join(format!("lvsprov-{digest}")))?;
    }
    Ok(())
}

type Known = HashMap<PathBuf, Arc<OnceCell<Arc<Binary>>>>;

/// The program at `path`; looked at once a process. `records` is a folder of the present user alone, where its digest is
/// kept for the next run.
pub(super) async fn load(
    path: &Path,
    records: Option<&Path>,
) -> Result<Arc<Binary>, TransportErrorKind> {
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let cell = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.get_or_insert_default().entry(path.to_owned()).or_default())
    };
    let read = || async {
        let (owned, records) = (path.to_owned(), records.map(Path::to_owned));
        on_thread(path, move || examine(owned, records)).await.map(Arc::new)
    };
    cell.get_or_try_init(read).await.cloned()
}

/// The executable that runs now. Not by its name: it may have been replaced by another build.
pub(super) fn own() -> PathBuf {
    "/proc/self/exe".into()
}

/// The build for another machine, if there is one: `lvsprov-MACHINE` in the folder of `binary`.
pub(super) fn beside(binary: &Path, machine: &str) -> PathBuf {
    let name = format!("lvsprov-{}", machine.replace('/', "_"));
    let real = fs::canonicalize(binary).unwrap_or_else(|_| binary.to_owned());
    real.with_file_name(name)
}

impl Binary {
    /// The bytes, packed by gzip.
    pub async fn packed(&self) -> Result<Arc<[u8]>, TransportErrorKind> {
        let pack = || async {
            let path = self.path.clone();
            on_thread(&self.path, move || pack(&path)).await
        };
        self.packed.get_or_try_init(pack).await.cloned()
    }

    /// Whether it runs on a machine whose `uname -m` is this.
    pub fn runs_on(&self, machine: &str) -> bool {
        family(machine) == family(&self.machine)
    }
}

async fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, TransportErrorKind> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
        .map_err(|source| TransportErrorKind::Binary { path: path.to_owned(), source })
}

fn examine(path: PathBuf, records: Option<PathBuf>) -> io::Result<Binary> {
    let mut file = File::open(&path)?;
    let found = file.metadata()?;
    let recalled =
        records.as_deref().and_then(|folder| known_digest::recall(folder, &path, &found));
    let KnownDigest { digest, machine } = if let Some(known) = recalled {
        known
    } else {
        let known = digest(&mut file)?;
        if let Some(folder) = &records {
            known_digest::record(folder, &path, &found, &known, SystemTime::now());
        }
        known
    };
    Ok(Binary { path, digest, size: found.len(), machine, records, packed: OnceCell::new() })
}

fn digest(file: &mut File) -> io::Result<KnownDigest> {
    let mut hash = Sha256::new();
    let mut head = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            break;
        }
        if head.is_empty() {
            head.extend_from_slice(&piece[..count.min(64)]);
        }
        hash.update(&piece[..count]);
    }
    let machine = machine_of(&head).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "it is not an ELF program for a known machine")
    })?;
    Ok(KnownDigest { digest: hex(&hash.finalize()), machine: machine.to_owned() })
}

fn pack(path: &Path) -> io::Result<Arc<[u8]>> {
    let mut file = File::open(path)?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    io::copy(&mut file, &mut encoder)?;
    encoder.flush()?;
    Ok(encoder.finish()?.into())
}

/// The machine in an ELF header, as `uname -m` says it (`e_machine`, include/uapi/linux/elf-em.h).
fn machine_of(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let wide = *head.get(4)? == 2;
    let little = *head.get(5)? == 1;
    let field = [*head.get(18)?, *head.get(19)?];
    let number = if little { u16::from_le_bytes(field) } else { u16::from_be_bytes(field) };
    Some(match (number, wide, little) {
        (3, _, _) => "i686",
        (8, true, true) => "mips64el",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (22, _, _) => "s390x",
        (40, _, _) => "armv7l",
        (62, true, _) => "x86_64",
        (183, _, true) => "aarch64",
        (243, true, _) => "riscv64",
        (258, true, _) => "loongarch64",
        _ => return None,
    })
}

/// Machines that run each other's programs have one name here.
fn family(machine: &str) -> &str {
    match machine {
        "i386" | "i486" | "i586" | "i686" => "i686",
        "armv7l" | "armv8l" => "armv7l",
        "aarch64" | "arm64" => "aarch64",
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elf(class: u8, data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = vec![0; 20];
        head[..4].copy_from_slice(b"\x7fELF");
        head[4] = class;
        head[5] = data;
        head[18..].copy_from_slice(&machine);
        head
    }

    #[test]
    fn the_elf_header_tells_the_machine() {
        assert_eq!(machine_of(&elf(2, 1, [62, 0])), Some("x86_64"));
        assert_eq!(machine_of(&elf(2, 1, [183, 0])), Some("aarch64"));
        assert_eq!(machine_of(&elf(2, 2, [0, 22])), Some("s390x"));
        assert_eq!(machine_of(&elf(2, 2, [0, 21])), Some("ppc64"));
        assert_eq!(machine_of(&elf(2, 1, [255, 255])), None);
        assert_eq!(machine_of(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn this_very_program_is_for_this_machine() {
        let binary = examine(own(), None).unwrap();
        assert!(binary.runs_on(std::env::consts::ARCH), "{binary:?}");
        assert_eq!(binary.size, std::fs::metadata("/proc/self/exe").unwrap().len());
        assert!(!binary.runs_on("vax"));
    }

    #[tokio::test]
    async fn packed_and_unpacked_it_is_the_same_and_packed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let bytes = [elf(2, 1, [62, 0]), vec![7; 100_000]].concat();
        std::fs::write(&path, &bytes).unwrap();
        let binary = load(&path, None).await.unwrap();
        let packed = binary.packed().await.unwrap();
        assert!(packed.len() < 2000);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut back).unwrap();
        assert_eq!(back, bytes);
        assert!(Arc::ptr_eq(&packed, &binary.packed().await.unwrap()));
        assert!(Arc::ptr_eq(&binary, &load(&path, None).await.unwrap()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = machine_of(&head);
            let _ = machine_of(&[b"\x7fELF".to_vec(), head].concat());
        }
    }
}
