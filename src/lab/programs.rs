//! The programs that the lab starts: where they lie, and which package has one that is missing.
//!
//! `scripts/programs` is the one list of them. What it leaves out does not exist for the lab, so that
//! the list cannot lack a program that the lab needs.

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

/// `program` on PATH, or in the two folders of system programs that a user's PATH often leaves out.
///
/// # Errors
/// It is not installed; with the package that has it.
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
        let package = package.unwrap_or("that is missing in scripts/programs");
        LabError::Missing { program, searched: searched.join(", "), package }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_listed_is_found() {
        // Both are in every base system; only one is in the list.
        assert_eq!(package("sh"), None);
        assert!(matches!(find("sh"), Err(LabError::Missing { program: "sh", .. })));
        assert_eq!(package("sshd"), Some("openssh-server"));
        let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
        assert!(package(&qemu).is_some(), "{qemu}");
    }
}
