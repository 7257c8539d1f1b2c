//! The programs that manage the host's interfaces, as their files below /run say, and lvsprov's drop-ins for networkd.
//!
//! What to do about them is decided in [`crate::plan::link_managers`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::names::IfName;
use crate::plan::link_managers::{DROP_IN, DROP_INS, HEADER, drop_in};
use crate::state::{KeepConfiguration, LinkManager};

/// A file for each interface, by its index.
const NETWORKD: &str = "run/systemd/netif/links";
const NETWORK_MANAGER: &str = "run/NetworkManager/devices";

/// Where networkd reads drop-ins, the first before the others of the same name (systemd.network(5)).
const NETWORK_FOLDERS: [&str; 5] = [
    "etc/systemd/network",
    "run/systemd/network",
    "usr/local/lib/systemd/network",
    "usr/lib/systemd/network",
    "lib/systemd/network",
];

/// The programs that manage the interfaces of this thread's network namespace.
pub(super) fn read() -> BTreeMap<IfName, LinkManager> {
    let name = |index| {
        let name = nix::net::if_::if_indextoname(index).ok()?;
        name.to_str().ok()?.parse().ok()
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    read_below(Path::new("/"), name, has_network_root(&mounts))
}

fn read_below(
    root: &Path,
    name: impl Fn(u32) -> Option<IfName>,
    has_network_root: bool,
) -> BTreeMap<IfName, LinkManager> {
    let mut all = BTreeMap::new();
    for (index, text) in files_by_index(&root.join(NETWORK_MANAGER)) {
        let is_managed = value(&text, "managed").is_some_and(|value| value == "true");
        if let Some(dev) = name(index).filter(|_| is_managed) {
            all.insert(dev, LinkManager::NetworkManager);
        }
    }
    for (index, text) in files_by_index(&root.join(NETWORKD)) {
        // An unmanaged interface has none.
        let Some(file) = value(&text, "NETWORK_FILE").filter(|file| !file.is_empty()) else {
            continue;
        };
        if let Some(dev) = name(index) {
            let keeps = keeps(root, Path::new(file), has_network_root);
            all.insert(dev, LinkManager::Networkd { file: file.to_owned(), keeps });
        }
    }
    all
}

fn files_by_index(folder: &Path) -> Vec<(u32, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let read = entries.filter_map(|entry| {
        let index = entry.file_name().to_str()?.parse().ok()?;
        Some((index, fs::read_to_string(entry.path()).ok()?))
    });
    read.collect()
}

/// The last value that a text of lines `KEY=VALUE` gives to `key`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        (name.trim_end() == key).then_some(value.trim())
    });
    values.next_back()
}

/// `KeepConfiguration=` of the .network file and its drop-ins: the last one counts.
fn keeps(root: &Path, file: &Path, has_network_root: bool) -> KeepConfiguration {
    let own = drop_in(file);
    let mut last = None;
    for path in std::iter::once(file.to_owned()).chain(drop_ins_beside(root, file)) {
        let Ok(text) = fs::read_to_string(below(root, &path)) else { continue };
        let is_own = own.as_ref() == Some(&path) && text.starts_with(HEADER);
        if is_own && text != DROP_IN {
            continue;
        }
        if let Some(value) = value(&text, "KeepConfiguration") {
            last = Some((is_own, path, value.to_owned()));
        }
    }
    match last {
        Some((true, _, _)) => KeepConfiguration::Ours,
        Some((false, path, value)) => {
            KeepConfiguration::Set { file: path.display().to_string(), value }
        }
        None if own.is_some_and(|own| is_taken(&below(root, &own))) => KeepConfiguration::Taken,
        None if has_network_root => KeepConfiguration::NetworkRoot,
        None => KeepConfiguration::Unset,
    }
}

/// The drop-ins of a .network file in the order in which networkd reads them.
fn drop_ins_beside(root: &Path, file: &Path) -> Vec<PathBuf> {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let mut by_name = BTreeMap::new();
    for folder in NETWORK_FOLDERS {
        let folder = Path::new("/").join(folder).join(format!("{name}.d"));
        for entry in fs::read_dir(below(root, &folder)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "conf") {
                by_name.entry(name.clone()).or_insert_with(|| folder.join(name));
            }
        }
    }
    by_name.into_values().collect()
}

/// An absolute path of the host, below `root`.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether a file that lvsprov did not write lies at `path`.
pub(super) fn is_taken(path: &Path) -> bool {
    match fs::read(path) {
        Ok(text) => !text.windows(HEADER.len()).any(|part| part == HEADER.as_bytes()),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Whether the drop-in at `path` is as lvsprov writes it.
pub(super) fn is_installed(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| text == DROP_IN.as_bytes())
}

/// An error if a file that lvsprov did not write lies at `path`.
pub(super) fn refuse_taken(path: &Path) -> io::Result<()> {
    if is_taken(path) {
        let message = format!("{} was not written by lvsprov: rename it", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    Ok(())
}

/// All drop-ins of lvsprov below `root`.
pub(super) fn installed(root: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(below(root, Path::new(DROP_INS))).into_iter().flatten().flatten();
    let paths = folders.filter_map(|folder| {
        let name = folder.file_name();
        let file = Path::new(name.to_str()?.strip_suffix(".d")?).to_owned();
        let path = below(root, &drop_in(&file)?);
        (path.exists() && !is_taken(&path)).then_some(path)
    });
    paths.collect()
}

/// Kinds of file systems that come over the network (systemd, src/basic/filesystems.c, `@network`).
const NETWORK_FILE_SYSTEMS: [&str; 10] =
    ["afs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3"];

/// Whether the root of `mounts` (proc_pid_mountinfo(5)) comes over the network.
fn has_network_root(mounts: &str) -> bool {
    let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    let kind =
        root.and_then(|line| line.split_once(" - ")).and_then(|(_, end)| end.split(' ').next());
    kind.is_some_and(|kind| NETWORK_FILE_SYSTEMS.contains(&kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::agent::file_tree::{RootTree, put};

    /// As [`super::super::unit_files`] does it.
    fn install(path: &Path) -> io::Result<()> {
        refuse_taken(path)?;
        put(&RootTree, path, 0o644, &mut DROP_IN.as_bytes())
    }

    const FILE: &str = "/run/systemd/network/10-netplan-eth0.network";

    struct Root(tempfile::TempDir);

    impl Root {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: &str) {
            let path = below(self.0.path(), Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn managers(&self) -> BTreeMap<IfName, LinkManager> {
            let name = |index| {
                let name = ["", "lo", "eth0", "eth1"].get(usize::try_from(index).unwrap())?;
                name.parse().ok()
            };
            read_below(self.0.path(), name, false)
        }

        fn keeps(&self) -> KeepConfiguration {
            keeps(self.0.path(), Path::new(FILE), false)
        }
    }

    #[test]
    fn managers_are_read_from_their_files() {
        let root = Root::new();
        assert!(root.managers().is_empty());
        let links = "/run/systemd/netif/links";
        root.write(&format!("{links}/1"), "# Private.\nADMIN_STATE=unmanaged\n");
        let state = format!("ADMIN_STATE=configured\nNETWORK_FILE={FILE}\nDNS=\n");
        root.write(&format!("{links}/2"), &state);
        root.write(&format!("{links}/9"), &state);
        root.write(&format!("{links}/.#2abc"), &state);
        let devices = "/run/NetworkManager/devices";
        root.write(&format!("{devices}/2"), "[device]\nmanaged=false\n");
        root.write(&format!("{devices}/3"), "[device]\nmanaged=true\n");
        let keeps = KeepConfiguration::Unset;
        let expected = [
            ("eth0".parse().unwrap(), LinkManager::Networkd { file: FILE.to_owned(), keeps }),
            ("eth1".parse().unwrap(), LinkManager::NetworkManager),
        ];
        assert_eq!(root.managers(), expected.into());
    }

    #[test]
    fn the_last_of_the_operators_files_counts() {
        let root = Root::new();
        root.write(FILE, "[Match]\nName=eth0\n[Network]\n# KeepConfiguration=yes\n");
        assert_eq!(root.keeps(), KeepConfiguration::Unset);
        let set = |file: &str, value: &str| KeepConfiguration::Set {
            file: file.to_owned(),
            value: value.to_owned(),
        };
        root.write(FILE, "[Network]\nKeepConfiguration = dhcp\n");
        assert_eq!(root.keeps(), set(FILE, "dhcp"));
        let folder = "10-netplan-eth0.network.d";
        let low = format!("/usr/lib/systemd/network/{folder}/a.conf");
        root.write(&low, "[Network]\nKeepConfiguration=no\n");
        assert_eq!(root.keeps(), set(&low, "no"));
        let high = format!("/etc/systemd/network/{folder}/a.conf");
        root.write(&high, "[Network]\nKeepConfiguration=yes\n");
        assert_eq!(root.keeps(), set(&high, "yes"), "the folder before hides the other");
        // lvsprov's own stands behind it in the alphabet, before another one.
        let own = drop_in(Path::new(FILE)).unwrap();
        install(&below(root.0.path(), &own)).unwrap();
        assert_eq!(root.keeps(), KeepConfiguration::Ours);
        let last = format!("/run/systemd/network/{folder}/z.conf");
        root.write(&last, "[Network]\nKeepConfiguration=no\n");
        assert_eq!(root.keeps(), set(&last, "no"));
    }

    #[test]
    fn a_drop_in_is_written_again_where_it_is_lvsprovs_and_never_over_another() {
        let root = Root::new();
        let own = drop_in(Path::new(FILE)).unwrap();
        assert_eq!(own, Path::new("/etc/systemd/network/10-netplan-eth0.network.d/lvsprov.conf"));
        let (text, path) = (own.to_str().unwrap(), below(root.0.path(), &own));
        install(&path).unwrap();
        assert!(is_installed(&path));
        assert_eq!(root.keeps(), KeepConfiguration::Ours);
        root.write(text, &DROP_IN.replace("static", "no"));
        assert_eq!(root.keeps(), KeepConfiguration::Unset, "changed: to be written again");
        assert_eq!(installed(root.0.path()), std::slice::from_ref(&path));
        install(&path).unwrap();
        assert!(is_installed(&path));

        root.write(text, "[Network]\nDNS=192.0.2.1\n");
        assert_eq!(root.keeps(), KeepConfiguration::Taken);
        assert!(install(&path).unwrap_err().to_string().contains("was not written by lvsprov"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Network]\nDNS=192.0.2.1\n");
        assert_eq!(installed(root.0.path()), Vec::<PathBuf>::new());
        root.write(text, "[Network]\nKeepConfiguration=static\n");
        let set = KeepConfiguration::Set { file: text.to_owned(), value: "static".to_owned() };
        assert_eq!(root.keeps(), set, "it serves as it is");
    }

    #[test]
    fn a_root_over_the_network_is_known_by_its_file_system() {
        let local = "21 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw\n";
        let nfs = "21 1 0:19 / / rw,noatime shared:1 - nfs4 192.0.2.1:/root rw,vers=4.2\n";
        let below = "40 21 0:40 / /srv rw - nfs4 192.0.2.1:/srv rw\n";
        assert!(has_network_root(nfs));
        assert!(!has_network_root(local) && !has_network_root(&format!("{local}{below}")));
        assert!(!has_network_root(""));
    }
}
