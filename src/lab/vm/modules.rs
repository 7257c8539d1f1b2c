//! Which modules of a kernel are needed, in which order they load, and where they lie.
//!
//! Read from what `depmod` leaves beside them: `modules.dep` (each module with all that must be
//! loaded before it) and `modules.builtin` (modules.dep(5), kmod's depmod(8)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the guest's first process loads, to speak and to see the root file system.
pub(super) const TO_SEE_THE_ROOT: &[&str] =
    &["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// What the lab is for, and what it is built from.
///
/// None of it is packed: the guest sees the kernel's whole folder of modules. A kernel that lacks one
/// is not taken.
#[rustfmt::skip]
pub(super) const FOR_THE_LAB: &[&str] = &[
    "veth", "bridge",
    "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_wlc", "ip_vs_sh", "ip_vs_mh", "ip_vs_pe_sip", "ip_vs_ftp",
    "ipip", "sit", "ip6_tunnel", "gre", "ip_gre", "ip6_gre", "fou", "fou6",
    "nf_conntrack", "nf_nat",
    "nf_tables", "nft_ct", "nft_chain_nat", "nft_nat", "nft_masq",
];

/// A module as a file; its name has underscores only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// Why a folder of modules is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// `depmod` has not been there, or it cannot be read.
    #[error("cannot read {} (depmod makes it: depmod -b FOLDER RELEASE)", .0.display())]
    Index(PathBuf, #[source] io::Error),
    /// A module is neither there nor built in.
    #[error("the kernel modules in {} lack {}", .folder.display(), .missing.join(", "))]
    Missing {
        /// Where it was looked for.
        folder: PathBuf,
        /// All that are missing.
        missing: Vec<String>,
    },
}

/// `wanted` and what they depend on as files, each after those it depends on. What is built into the
/// kernel needs no file.
pub(super) fn in_order(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModulesError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|e| ModulesError::Index(path, e))
    };
    let missing = |missing| ModulesError::Missing { folder: folder.to_owned(), missing };
    order(&read("modules.dep")?, &read("modules.builtin")?, wanted)
        .map(|files| {
            let module = |file: &str| Module { name: name_of(file), path: folder.join(file) };
            files.into_iter().map(module).collect()
        })
        .map_err(missing)
}

/// The files of `wanted` in the order of loading, or the names of all that are not there.
fn order<'a>(dep: &'a str, builtin: &str, wanted: &[&str]) -> Result<Vec<&'a str>, Vec<String>> {
    let builtin: BTreeSet<String> = builtin.lines().map(name_of).collect();
    let mut index: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in dep.lines() {
        if let Some((file, before)) = line.split_once(':') {
            index.insert(name_of(file), (file, before.split_whitespace().collect()));
        }
    }
    let mut files: Vec<&str> = Vec::new();
    let mut missing = Vec::new();
    for name in wanted {
        match index.get(*name) {
            // What must come first stands last.
            Some((file, before)) => {
                for file in before.iter().rev().chain([file]) {
                    if !files.contains(file) {
                        files.push(file);
                    }
                }
            }
            None if builtin.contains(*name) => {}
            None => missing.push((*name).to_owned()),
        }
    }
    if missing.is_empty() { Ok(files) } else { Err(missing) }
}

/// `kernel/net/9p/9pnet-virtio.ko.xz` is the module `9pnet_virtio`.
fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// A module's file as the kernel takes it. Some distributions compress modules, and not every kernel
/// can unpack them by itself; whoever installed such modules has the program for it.
pub(super) fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path),
    };
    let output = Command::new(program)
        .arg("-dc")
        .stdin(File::open(path)?)
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("{program} is needed for modules: {e}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} cannot unpack {}: {}", path.display(), said.trim())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DEP: &str = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n\
        kernel/net/9p/9pnet.ko:\nkernel/fs/netfs/netfs.ko:\n\
        kernel/net/9p/9pnet-virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/virtio_ring.ko kernel/virtio.ko\n";

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let files =
            order(DEP, "kernel/a/overlay.ko\n", &["9pnet_virtio", "9p", "overlay"]).unwrap();
        assert_eq!(
            files,
            [
                "kernel/virtio.ko",
                "kernel/virtio_ring.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/net/9p/9pnet-virtio.ko.xz",
                "kernel/fs/netfs/netfs.ko",
                "kernel/fs/9p/9p.ko",
            ]
        );
    }

    #[test]
    fn all_that_is_missing_is_named() {
        assert_eq!(order(DEP, "", &["ip_vs", "9p", "ipip"]).unwrap_err(), ["ip_vs", "ipip"]);
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("a.ko");
        fs::write(&plain, "module").unwrap();
        assert_eq!(read_plain(&plain).unwrap(), b"module");
        assert!(Command::new("gzip").arg("-k").arg(&plain).status().unwrap().success());
        assert_eq!(read_plain(&folder.path().join("a.ko.gz")).unwrap(), b"module");
        fs::write(folder.path().join("b.ko.gz"), "not gzip").unwrap();
        assert!(read_plain(&folder.path().join("b.ko.gz")).is_err());
    }
}
