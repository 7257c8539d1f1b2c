//! Finds the programs that the lab starts, and names the package of a missing one.
//!
//! `scripts/programs` is the only list. The lab finds no program outside it, so the list is complete.

use std::path::{Path, PathBuf};

use super::LabError;

const LIST: &str = include_str!("../../scripts/programs");

/// Debian's package for `program` on this architecture; `None` if it is not in the list.
pub(crate) fn package(program: &str) -> Option<&'static str> {
    LIST.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut cells = line.split_whitespace();
        let (name, package, machine) = (cells.next()?, cells.next()?, cells.nth(1)?);
        let here = machine == "any" || machine == std::env::consts::ARCH;
        (name == program && here).then_some(package)
    })
}

/// `program` on PATH, or in the two folders of system programs that PATH often lacks.
///
/// # Errors
/// If it is not installed; the error names its package.
pub(crate) fn find(program: &'static str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    for extra in ["/usr/sbin", "/sbin"] {
        if !folders.iter().any(|folder| folder.as_os_str() == extra) {
            folders.push(PathBuf::from(extra));
        }
    }
    let package = package(program);
    let installed = |path: &PathBuf| package.is_some() && Path::is_file(path);
    folders.iter().map(|folder| folder.join(program)).find(installed).ok_or_else(|| {
        let searched: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        let package = package.unwrap_or("(not in scripts/programs)");
        LabError::Missing { program, searched: searched.join(", "), package }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_listed_is_found() {
        // Every base system has sh, but the list does not.
        assert_eq!(package("sh"), None);
        assert!(matches!(find("sh"), Err(LabError::Missing { program: "sh", .. })));
        assert_eq!(package("sshd"), Some("openssh-server"));
        let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
        assert!(package(&qemu).is_some(), "{qemu}");
    }
}
