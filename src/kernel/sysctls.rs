//! Values under /proc/sys, through the `sysctl` crate where it can name them.
//!
//! The crate turns each dot into a slash, so it cannot name the settings of an interface `eth0.100`: those go
//! by their path. It also reports each failure to open as "not found": after an error the file is opened
//! again by its path, for the true errno.
//!
//! /proc/sys/net shows the network namespace of the thread that opens a file in it.
//!
//! The canonical form is the kernel's output without its line feed; several numbers (`sync_threshold`) have
//! one tab between them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use sysctl::{Ctl, Sysctl as _, SysctlError};

use super::error::{Error, Result};
use crate::state::{ConfDev, Sysctl, VsItem};

/// The present value; `None` if this kernel or this namespace has no such setting.
pub fn read(key: &Sysctl) -> Result<Option<String>> {
    match read_raw(key) {
        Ok(value) => Ok(Some(canonical(key, &value))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(format!("cannot read {key}")).because(error)),
    }
}

/// See the module.
fn canonical(key: &Sysctl, value: &str) -> String {
    match key {
        Sysctl::Vs(VsItem::SyncThreshold) => {
            value.split_whitespace().collect::<Vec<_>>().join("\t")
        }
        _ => value.trim_end().to_owned(),
    }
}

/// Writes `after`, and reads it back; an error if the present value is not `before`.
pub fn change(key: &Sysctl, before: &str, after: &str) -> Result<()> {
    let what = key.to_string();
    let (before, after) = (&*canonical(key, before), &*canonical(key, after));
    match read(key)? {
        None => return Err(absent(key)),
        Some(found) if found != before => {
            return Err(Error::changed_since(&what, before, &found));
        }
        Some(_) => {}
    }
    write_raw(key, after).map_err(|error| refused(key, after, error))?;
    match read(key)? {
        Some(now) if now == after => Ok(()),
        now => {
            let now = now.map_or_else(|| "it is gone".to_owned(), |now| format!("it is {now:?}"));
            Err(Error::new(format!(
                "{key}: the kernel accepted {after:?} without an error, but {now} afterwards"
            ))
            .cure("another program on this host writes it too (a network manager?), or the value is out of its range"))
        }
    }
}

fn absent(key: &Sysctl) -> Error {
    let error =
        Error::new(format!("{key}: this host has no such setting ({})", key.path().display()));
    match key {
        Sysctl::Conf(ConfDev::Dev(dev), _) | Sysctl::Conf6(ConfDev::Dev(dev), _)
            if !conf_dir_exists("ipv4", dev.as_str()) =>
        {
            error.cure(format!("this host has no interface {dev}: check its name"))
        }
        Sysctl::Conf6(..) | Sysctl::Ip6Forward if !conf_dir_exists("ipv6", "all") => {
            error.cure("this kernel has no IPv6, or it is off (ipv6.disable=1)")
        }
        Sysctl::Conf6(ConfDev::Dev(dev), _) if !conf_dir_exists("ipv6", dev.as_str()) => {
            error.cure(format!("{dev} has no IPv6: its MTU is below 1280"))
        }
        Sysctl::Vs(_) if !Path::new("/proc/sys/net/ipv4/vs").is_dir() => {
            error.cure("the module ip_vs makes it: modprobe ip_vs")
        }
        _ => error.cure("this kernel's version or configuration lacks it"),
    }
}

fn conf_dir_exists(family: &str, dev: &str) -> bool {
    Path::new("/proc/sys/net").join(family).join("conf").join(dev).is_dir()
}

fn refused(key: &Sysctl, value: &str, error: io::Error) -> Error {
    use nix::libc::{EACCES, EINVAL, ENOENT, EPERM, ERANGE, EROFS};
    let cure = match error.raw_os_error() {
        Some(ENOENT) => return absent(key),
        Some(EINVAL | ERANGE) => "take a value that the kernel accepts for this setting",
        Some(EACCES | EPERM | EROFS) => {
            "/proc/sys is read-only here, as in most containers: run on the host itself, or let the \
             container's runtime make the setting"
        }
        _ => return Error::new(format!("cannot set {key} to {value:?}")).because(error),
    };
    Error::new(format!("cannot set {key} to {value:?}")).because(error).cure(cure)
}

/// The crate's name of the setting; `None` if the crate cannot name it.
fn crate_name(key: &Sysctl) -> Option<String> {
    let dotted = key.device().is_some_and(|dev| dev.as_str().contains('.'));
    (!dotted).then(|| key.to_string())
}

fn read_raw(key: &Sysctl) -> io::Result<String> {
    let Some(name) = crate_name(key) else { return fs::read_to_string(key.path()) };
    match Ctl::new(&name).and_then(|ctl| ctl.value_string()) {
        Ok(value) => Ok(value),
        Err(SysctlError::IoError(error)) => Err(error),
        Err(_) => fs::read_to_string(key.path()),
    }
}

fn write_raw(key: &Sysctl, value: &str) -> io::Result<()> {
    let by_path = || OpenOptions::new().write(true).open(key.path())?.write_all(value.as_bytes());
    let Some(name) = crate_name(key) else { return by_path() };
    match Ctl::new(&name).and_then(|ctl| ctl.set_value_string(value)) {
        Ok(_) => Ok(()),
        Err(SysctlError::IoError(error)) => Err(error),
        Err(_) => by_path(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blanks_between_two_numbers_are_all_the_same() {
        let key: Sysctl = "net.ipv4.vs.sync_threshold".parse().unwrap();
        for text in ["3\t50\n", "3 50", "  3 \t 50 "] {
            assert_eq!(canonical(&key, text), "3\t50");
        }
        let key: Sysctl = "net.ipv4.vs.est_cpulist".parse().unwrap();
        assert_eq!(canonical(&key, "0-3,7\n"), "0-3,7");
    }
}
