//! KVM or emulation: what to try, and what was learnt.
//!
//! `/dev/kvm` may exist and QEMU abort with it, or the guest hang at its first instructions (nested
//! virtualisation). A verdict holds until the next boot of this machine, or another QEMU.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::VmError;
use super::cache::Cache;

const VERDICT: &str = "kvm.json";

/// What the user wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kvm {
    /// KVM where it works, emulation else.
    #[default]
    Auto,
    /// KVM or an error.
    On,
    /// Emulation.
    Off,
}

impl FromStr for Kvm {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is none of auto, on, off")),
        }
    }
}

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's translator: some ten times slower, and works everywhere.
    Tcg,
}

impl Accel {
    /// How many processors a guest is worth. Emulated ones wait for each other so often (every translation that changes,
    /// every flush of page tables) that two take twice the time of the machine for the same work.
    pub(super) const fn processors(self) -> u8 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "emulation",
        })
    }
}

/// What to try, and why not KVM where it is not tried.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) try_in_order: Vec<Accel>,
    pub(super) without_kvm: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    boot: String,
    qemu: String,
    why: String,
}

/// Decides by what the user wants, whether `device` can be opened, and what is remembered.
pub(super) fn choose(
    wanted: Kvm,
    device: &Path,
    cache: &Cache,
    qemu: &Path,
) -> Result<Plan, VmError> {
    let opened = File::options().read(true).write(true).open(device);
    let usable = opened.map(drop).map_err(|error| format!("{}: {error}", device.display()));
    if let (Kvm::On, Err(why)) = (wanted, &usable) {
        let cure = "load kvm_intel or kvm_amd, or join the group of that device";
        return Err(VmError::Options(format!(
            "KVM was asked for and cannot be had: {why}; {cure}"
        )));
    }
    let remembered = cache.read(VERDICT).and_then(|text| serde_json::from_str(&text).ok());
    let here = Verdict::here(qemu, "");
    let remembered = remembered.filter(|v: &Verdict| v.boot == here.boot && v.qemu == here.qemu);
    Ok(plan(wanted, usable, remembered.map(|v| v.why)))
}

fn plan(wanted: Kvm, usable: Result<(), String>, remembered: Option<String>) -> Plan {
    let tcg = |without_kvm| Plan { try_in_order: vec![Accel::Tcg], without_kvm };
    match (wanted, usable, remembered) {
        (Kvm::Off, _, _) => tcg(None),
        (Kvm::On, _, _) => Plan { try_in_order: vec![Accel::Kvm], without_kvm: None },
        (Kvm::Auto, Err(why), _) => tcg(Some(why)),
        (Kvm::Auto, Ok(()), Some(why)) => tcg(Some(format!("{why} (found earlier)"))),
        (Kvm::Auto, Ok(()), None) => {
            Plan { try_in_order: vec![Accel::Kvm, Accel::Tcg], without_kvm: None }
        }
    }
}

/// Keeps in mind that KVM does not work, so that the next run does not wait for it again.
pub(super) fn remember_broken(cache: &Cache, qemu: &Path, why: &str) {
    let verdict = Verdict::here(qemu, why);
    let text = serde_json::to_string(&verdict).unwrap_or_default();
    if let Err(error) = cache.write(VERDICT, &text) {
        tracing::debug!(%error, "the verdict on KVM cannot be kept");
    }
}

impl Verdict {
    fn here(qemu: &Path, why: &str) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let qemu = qemu.display().to_string();
        Self { boot: boot.trim().to_owned(), qemu, why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kvm_is_tried_unless_it_is_unwanted_absent_or_known_to_be_broken() {
        let absent = || Err("/dev/kvm: gone".to_owned());
        let order = |plan: Plan| plan.try_in_order;
        assert_eq!(order(plan(Kvm::Auto, Ok(()), None)), [Accel::Kvm, Accel::Tcg]);
        assert_eq!(order(plan(Kvm::Auto, absent(), None)), [Accel::Tcg]);
        assert_eq!(order(plan(Kvm::Auto, Ok(()), Some("hangs".into()))), [Accel::Tcg]);
        assert_eq!(order(plan(Kvm::On, Ok(()), Some("hangs".into()))), [Accel::Kvm]);
        assert_eq!(order(plan(Kvm::Off, Ok(()), None)), [Accel::Tcg]);
    }

    #[test]
    fn a_verdict_is_about_this_boot_and_this_qemu() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let qemu = Path::new("/usr/bin/qemu-a");
        remember_broken(&cache, qemu, "hangs");
        let why = |qemu: &str| {
            let device = Path::new("/dev/null");
            let plan = choose(Kvm::Auto, device, &cache, Path::new(qemu)).unwrap();
            plan.without_kvm.is_some_and(|why| why.contains("hangs"))
        };
        assert!(why("/usr/bin/qemu-a"));
        assert!(!why("/usr/bin/qemu-b"));
        cache.write(VERDICT, "{ not json").unwrap();
        assert!(!why("/usr/bin/qemu-a"));
    }
}
