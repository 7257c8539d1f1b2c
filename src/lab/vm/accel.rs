//! Chooses KVM or emulation, and records that KVM does not work.
//!
//! With nested virtualisation `/dev/kvm` may exist, and QEMU still aborts or the guest hangs at its first
//! instructions. The record is valid until the next boot of this machine or another QEMU.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::VmError;
use super::cache::Cache;

const RECORD_FILE: &str = "kvm.json";

/// The option `--kvm`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kvm {
    /// KVM if it works, else emulation.
    #[default]
    Auto,
    /// KVM, else an error.
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
            _ => Err(format!("{text:?} is not one of auto, on, off")),
        }
    }
}

/// The accelerator of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor's virtualisation.
    Kvm,
    /// QEMU's emulation: about ten times slower, works everywhere.
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

/// Accelerators to try in order, and the reason why KVM is not one of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AccelPlan {
    pub(super) try_in_order: Vec<Accel>,
    pub(super) without_kvm: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KvmRecord {
    boot: String,
    qemu: String,
    why: String,
}

/// Chooses by the option, by access to `device`, and by the record.
pub(super) fn choose(
    wanted: Kvm,
    device: &Path,
    cache: &Cache,
    qemu: &Path,
) -> Result<AccelPlan, VmError> {
    let opened = File::options().read(true).write(true).open(device);
    let usable = opened.map(drop).map_err(|error| format!("{}: {error}", device.display()));
    if let (Kvm::On, Err(why)) = (wanted, &usable) {
        let cure = "load kvm_intel or kvm_amd, or join the group of that device";
        return Err(VmError::Options(format!(
            "KVM was requested, but cannot be used: {why}; {cure}"
        )));
    }
    let recorded = cache.read(RECORD_FILE).and_then(|text| serde_json::from_str(&text).ok());
    let here = KvmRecord::here(qemu, "");
    let recorded = recorded.filter(|v: &KvmRecord| v.boot == here.boot && v.qemu == here.qemu);
    Ok(plan(wanted, usable, recorded.map(|v| v.why)))
}

fn plan(wanted: Kvm, usable: Result<(), String>, recorded: Option<String>) -> AccelPlan {
    let tcg = |without_kvm| AccelPlan { try_in_order: vec![Accel::Tcg], without_kvm };
    match (wanted, usable, recorded) {
        (Kvm::Off, _, _) => tcg(None),
        (Kvm::On, _, _) => AccelPlan { try_in_order: vec![Accel::Kvm], without_kvm: None },
        (Kvm::Auto, Err(why), _) => tcg(Some(why)),
        (Kvm::Auto, Ok(()), Some(why)) => tcg(Some(format!("{why} (found earlier)"))),
        (Kvm::Auto, Ok(()), None) => {
            AccelPlan { try_in_order: vec![Accel::Kvm, Accel::Tcg], without_kvm: None }
        }
    }
}

/// Records that KVM does not work, so that the next run does not wait for it.
pub(super) fn record_broken(cache: &Cache, qemu: &Path, why: &str) {
    let verdict = KvmRecord::here(qemu, why);
    let text = serde_json::to_string(&verdict).unwrap_or_default();
    if let Err(error) = cache.write(RECORD_FILE, &text) {
        tracing::debug!(%error, "the record about KVM cannot be written");
    }
}

impl KvmRecord {
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
    fn kvm_is_tried_unless_it_is_off_missing_or_recorded_as_broken() {
        let absent = || Err("/dev/kvm: gone".to_owned());
        let order = |plan: AccelPlan| plan.try_in_order;
        assert_eq!(order(plan(Kvm::Auto, Ok(()), None)), [Accel::Kvm, Accel::Tcg]);
        assert_eq!(order(plan(Kvm::Auto, absent(), None)), [Accel::Tcg]);
        assert_eq!(order(plan(Kvm::Auto, Ok(()), Some("hangs".into()))), [Accel::Tcg]);
        assert_eq!(order(plan(Kvm::On, Ok(()), Some("hangs".into()))), [Accel::Kvm]);
        assert_eq!(order(plan(Kvm::Off, Ok(()), None)), [Accel::Tcg]);
    }

    #[test]
    fn a_record_is_valid_for_this_boot_and_this_qemu() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let qemu = Path::new("/usr/bin/qemu-a");
        record_broken(&cache, qemu, "hangs");
        let why = |qemu: &str| {
            let device = Path::new("/dev/null");
            let plan = choose(Kvm::Auto, device, &cache, Path::new(qemu)).unwrap();
            plan.without_kvm.is_some_and(|why| why.contains("hangs"))
        };
        assert!(why("/usr/bin/qemu-a"));
        assert!(!why("/usr/bin/qemu-b"));
        cache.write(RECORD_FILE, "{ not json").unwrap();
        assert!(!why("/usr/bin/qemu-a"));
    }
}
