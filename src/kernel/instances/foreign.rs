//! What a plan must know of programs on the host: those that are not installed, and health checkers that the operator runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::super::namespace;
use super::{find_installed, process};
use crate::state::{DaemonProgram, HealthChecker};

/// The programs that are not installed, each with the command that installs packages here, where that is known.
pub fn lacking() -> BTreeMap<DaemonProgram, Option<String>> {
    let missing = DaemonProgram::ALL.iter().filter(|program| find_installed(**program).is_none());
    missing.map(|program| (*program, install_command())).collect()
}

/// By os-release(5): `apt-get install`.
pub(super) fn install_command() -> Option<String> {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())?;
    command_of(&text).map(str::to_owned)
}

fn command_of(os_release: &str) -> Option<&'static str> {
    let value = |key: &str| {
        let values = os_release.lines().filter_map(|line| line.split_once('='));
        let (_, value) = values.into_iter().find(|(name, _)| *name == key)?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    let words =
        format!("{} {}", value("ID").unwrap_or_default(), value("ID_LIKE").unwrap_or_default());
    words.split_whitespace().find_map(|word| match word {
        "debian" | "ubuntu" => Some("apt-get install"),
        "fedora" | "rhel" | "centos" => Some("dnf install"),
        "suse" | "opensuse" | "sles" => Some("zypper install"),
        "arch" => Some("pacman -S"),
        "alpine" => Some("apk add"),
        "gentoo" => Some("emerge"),
        _ => None,
    })
}

/// Where keepalived writes its number: since 2.2.8 in a folder of its own.
const PIDS: [&str; 2] = ["/run/keepalived.pid", "/run/keepalived/keepalived.pid"];
const DEFAULT_FILE: &str = "/etc/keepalived/keepalived.conf";
/// No configuration is as long; what is longer is passed over.
const LONGEST: u64 = 1 << 20;

/// keepalived as the operator runs it in this namespace, with the addresses that its files name.
pub fn health_checkers() -> Vec<HealthChecker> {
    let pids: BTreeSet<i32> =
        PIDS.iter().filter_map(|path| process::read_pid(Path::new(path))).collect();
    pids.into_iter().filter_map(health_checker).collect()
}

fn health_checker(pid: i32) -> Option<HealthChecker> {
    let words = process::arguments(pid)?;
    let is_it = words.first().is_some_and(|word| word.ends_with("keepalived"));
    let own = namespace::current().and_then(namespace::identity).ok()?;
    let its = fs::File::open(format!("/proc/{pid}/ns/net")).and_then(namespace::identity).ok()?;
    if !is_it || own != its {
        return None;
    }
    let file = file_in(&words);
    let addresses = files_beside(&file).iter().flat_map(|text| addresses_in(text)).collect();
    let program = DaemonProgram::Keepalived;
    Some(HealthChecker { program, file: file.display().to_string(), addresses })
}

/// The configuration that the arguments name.
fn file_in(words: &[String]) -> PathBuf {
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "-f" || word == "--use-file" {
            return rest.next().map_or_else(|| DEFAULT_FILE.into(), PathBuf::from);
        }
        if let Some(path) = word.strip_prefix("--use-file=") {
            return path.into();
        }
    }
    DEFAULT_FILE.into()
}

/// The text of the file and of what may be included: what lies beside it, and one folder further down.
fn files_beside(file: &Path) -> Vec<String> {
    let text = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|it| it.is_file() && it.len() < LONGEST)
            .then(|| fs::read_to_string(path).ok())?
    };
    let Some(main) = text(file) else { return Vec::new() };
    let has_includes = main.lines().any(|line| line.trim_start().starts_with("include"));
    let mut all = vec![main];
    let folders: Vec<PathBuf> =
        file.parent().filter(|_| has_includes).map(Path::to_owned).into_iter().collect();
    let below = folders.iter().flat_map(|folder| entries(folder)).filter(|path| path.is_dir());
    for folder in folders.iter().cloned().chain(below) {
        let conf = |path: &PathBuf| path.extension().is_some_and(|it| it == "conf") && path != file;
        all.extend(entries(&folder).into_iter().filter(conf).filter_map(|path| text(&path)));
    }
    all
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The addresses of virtual servers: `virtual_server ADDRESS PORT`, and the lines of a group of them.
fn addresses_in(text: &str) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    let mut in_group = false;
    for line in text.lines() {
        let line = line.split(['#', '!']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("virtual_server_group") => in_group = true,
            Some("virtual_server") => {
                all.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
            }
            Some(word) if in_group => all.extend(word.parse::<IpAddr>().ok()),
            _ => {}
        }
        in_group &= !line.contains('}');
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packages_are_installed_as_the_distribution_does_it() {
        for (text, command) in [
            ("ID=debian\n", Some("apt-get install")),
            ("NAME=\"x\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Some("apt-get install")),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Some("dnf install")),
            ("ID=opensuse-leap\nID_LIKE='suse opensuse'\n", Some("zypper install")),
            ("ID=alpine\n", Some("apk add")),
            ("ID=own\n", None),
            ("", None),
        ] {
            assert_eq!(command_of(text), command, "{text}");
        }
    }

    #[test]
    fn the_file_is_the_one_that_its_arguments_name() {
        let file = |line: &str| {
            file_in(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).display().to_string()
        };
        assert_eq!(file("/usr/sbin/keepalived --dont-fork"), DEFAULT_FILE);
        assert_eq!(file("keepalived -f /a.conf -n"), "/a.conf");
        assert_eq!(file("keepalived --use-file /a.conf"), "/a.conf");
        assert_eq!(file("keepalived --use-file=/a.conf"), "/a.conf");
    }

    #[test]
    fn virtual_servers_are_found_also_in_groups_and_in_included_files() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("keepalived.conf");
        fs::write(&main, "virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n }\n}\n")
            .unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        let group = "virtual_server_group g {\n 192.0.2.2 80\n 2001:db8::1 80 # 192.0.2.9\n}\n10.0.0.2\n! virtual_server 192.0.2.8 1\n";
        fs::write(folder.path().join("conf.d/g.conf"), group).unwrap();
        let found = || -> Vec<String> {
            let all: BTreeSet<IpAddr> =
                files_beside(&main).iter().flat_map(|text| addresses_in(text)).collect();
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(found(), ["192.0.2.1"]);
        let text = fs::read_to_string(&main).unwrap();
        fs::write(&main, format!("include conf.d/*.conf\n{text}")).unwrap();
        assert_eq!(found(), ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    }
}
