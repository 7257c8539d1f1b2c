//! The needed kernel modules, in load order, with their files.
//!
//! From the files of `depmod`: `modules.dep` (each module with its dependencies) and `modules.builtin`
//! (modules.dep(5), depmod(8)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Modules that the guest's first process loads, for its port and the root file system.
pub(super) const FOR_THE_ROOT: &[&str] =
    &["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Modules that the lab needs. They are not in the initramfs: the guest mounts the kernel's folder of
/// modules. A kernel without one of them is not used.
#[rustfmt::skip]
pub(super) const FOR_THE_LAB: &[&str] = &[
    "veth", "bridge",
    "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_wlc", "ip_vs_sh", "ip_vs_mh", "ip_vs_pe_sip", "ip_vs_ftp",
    "ipip", "sit", "ip6_tunnel", "gre", "ip_gre", "ip6_gre", "fou", "fou6",
    "nf_conntrack", "nf_nat",
    "nf_tables", "nft_ct", "nft_chain_nat", "nft_nat", "nft_masq",
];

/// A module's file, and its name with underscores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModuleFile {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// Why a folder of modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// An index file of `depmod` cannot be read.
    #[error("cannot read {} (create it with depmod -b FOLDER RELEASE)", .0.display())]
    Index(PathBuf, #[source] io::Error),
    /// A module is neither in the folder nor built in.
    #[error("the kernel modules in {} lack {}", .folder.display(), .missing.join(", "))]
    Missing {
        /// The searched folder.
        folder: PathBuf,
        /// The missing modules.
        missing: Vec<String>,
    },
}

/// The files of `wanted` and their dependencies, each after its dependencies. Built-in modules have no
/// file.
pub(super) fn in_order(folder: &Path, wanted: &[&str]) -> Result<Vec<ModuleFile>, ModulesError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|e| ModulesError::Index(path, e))
    };
    let missing = |missing| ModulesError::Missing { folder: folder.to_owned(), missing };
    order(&read("modules.dep")?, &read("modules.builtin")?, wanted)
        .map(|files| {
            let module = |file: &str| ModuleFile { name: name_of(file), path: folder.join(file) };
            files.into_iter().map(module).collect()
        })
        .map_err(missing)
}

/// The files of `wanted` in load order, or the names of all missing modules.
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
            // modules.dep lists dependencies in reverse load order.
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

/// A module's file, uncompressed. Some distributions compress modules, and not every kernel can
/// decompress them; a machine with such modules has the decompressor.
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
        .map_err(|e| {
            io::Error::new(e.kind(), format!("{program} is needed to decompress modules: {e}"))
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} cannot unpack {}: {}", path.display(), message.trim())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DEP: &str = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n\
        kernel/net/9p/9pnet.ko:\nkernel/fs/netfs/netfs.ko:\n\
        kernel/net/9p/9pnet-virtio.ko.xz: kernel/net/9p/9pnet.ko kernel/virtio_ring.ko kernel/virtio.ko\n";

    #[test]
    fn dependencies_come_first_and_once() {
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
    fn all_missing_modules_are_named() {
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
