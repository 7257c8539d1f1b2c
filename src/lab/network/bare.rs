//! The settings of a bare host: the kernel's compiled-in values, with strict reverse path filtering for
//! IPv4, independent of the machine's settings.
//!
//! A new namespace copies `conf/all` and `conf/default` from the machine's first namespace
//! (`net.core.devconf_inherit_init_net`, net/ipv4/devinet.c `devinet_init_net`), so the same file
//! would behave differently on differently tuned machines. Strict `rp_filter` makes a missing setting
//! show: most distributions enable it at boot.

use std::fs;
use std::io;
use std::path::Path;

use crate::lab::LabError;

/// Values other than 0 in `ipv4_devconf` and `ipv4_devconf_dflt` (net/ipv4/devinet.c).
const COMPILED_IN: [(&str, &str); 8] = [
    ("accept_redirects", "1"),
    ("send_redirects", "1"),
    ("secure_redirects", "1"),
    ("shared_media", "1"),
    ("igmpv2_unsolicited_report_interval", "10000"),
    ("igmpv3_unsolicited_report_interval", "1000"),
    ("arp_evict_nocarrier", "1"),
    ("rp_filter", "0"),
];

/// The kernel sets these on lo by itself (`inetdev_event`, `NETDEV_REGISTER`).
const OF_THE_DEVICE: [&str; 2] = ["disable_policy", "disable_xfrm"];

/// The settings of `ipv6_devconf` and `ipv6_devconf_dflt` (net/ipv6/addrconf.c) that change how a host
/// sends, answers or forwards. A new namespace has them as they are compiled in, unless
/// `devconf_inherit_init_net` says otherwise, or IPv6 was switched off when the machine was booted.
const COMPILED_IN_V6: [(&str, &str); 6] = [
    ("disable_ipv6", "0"),
    // Before the settings that it changes.
    ("forwarding", "0"),
    ("accept_ra", "1"),
    ("autoconf", "1"),
    ("accept_redirects", "1"),
    ("accept_source_route", "0"),
];

/// Brings the calling thread's namespace, which must be new, to the kernel's compiled-in settings
/// with `conf/all/rp_filter` at 1.
pub(super) fn reset_settings() -> Result<(), LabError> {
    reset_ipv4()?;
    reset_ipv6()
}

fn reset_ipv6() -> Result<(), LabError> {
    let conf = Path::new("/proc/sys/net/ipv6/conf");
    for (setting, value) in COMPILED_IN_V6 {
        for scope in ["all", "default"] {
            let path = conf.join(scope).join(setting);
            if path.exists() {
                write_if_other(&path, value)?;
            }
        }
    }
    Ok(())
}

fn reset_ipv4() -> Result<(), LabError> {
    let conf = Path::new("/proc/sys/net/ipv4/conf");
    // First: writing it resets other parameters (Documentation/networking/ip-sysctl.rst).
    write_if_other(&conf.join("all/forwarding"), "0")?;
    for device in names(conf)? {
        for setting in names(&conf.join(&device))? {
            let virtual_device = device == "all" || device == "default";
            if !virtual_device && OF_THE_DEVICE.contains(&setting.as_str()) {
                continue;
            }
            write_if_other(&conf.join(&device).join(&setting), compiled_in(&device, &setting))?;
        }
    }
    write_if_other(&conf.join("all/rp_filter"), "1")
}

fn compiled_in(device: &str, setting: &str) -> &'static str {
    if device != "all" && setting == "accept_source_route" {
        return "1";
    }
    COMPILED_IN.iter().find(|(name, _)| *name == setting).map_or("0", |(_, value)| value)
}

/// Disables IPv6 in the calling thread's namespace, so that the switch sends no frames itself.
pub(super) fn switch_ipv6_off() -> Result<(), LabError> {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if Path::new(&path).exists() {
            write_if_other(Path::new(&path), "1")?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>, LabError> {
    let list = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.into_iter().filter_map(|e| e.file_name().into_string().ok()).collect())
    };
    list().map_err(LabError::io(format!("list {}", folder.display())))
}

fn write_if_other(path: &Path, value: &str) -> Result<(), LabError> {
    let present =
        fs::read_to_string(path).map_err(LabError::io(format!("read {}", path.display())))?;
    if present.trim_end() == value {
        return Ok(());
    }
    fs::write(path, value).map_err(LabError::io(format!("write {value} to {}", path.display())))
}
