//! The values under /proc/sys/net that a forwarding method depends on or a user may want of IPVS, as
//! a closed set.
//!
//! Text form as sysctl(8) has it: dots between the parts, unless the interface's name has a dot
//! itself; then slashes (`net/ipv4/conf/eth0.100/rp_filter`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::edit::{JsonNames, SettingKind, Verbs, in_map};
use crate::names::IfName;

/// One value. The order is the order in which they must be written: see [`Sysctl::IpForward`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sysctl {
    /// `net.ipv4.ip_forward`. Changing it also writes `conf.all.accept_redirects` and every
    /// interface's `forwarding` (net/ipv4/devinet.c, `inet_forward_change`), so it comes first.
    IpForward,
    /// `net.ipv4.conf.DEV.ITEM`.
    Conf(ConfDev, ConfItem),
    /// `net.ipv6.conf.DEV.ITEM`.
    Conf6(ConfDev, Conf6Item),
    /// `net.ipv6.conf.all.forwarding`. Changing it also writes `forwarding` of `default` and of every
    /// interface (net/ipv6/addrconf.c, `addrconf_fixup_forwarding`), and turning it on drops default
    /// routes that came by router advertisement unless `accept_ra` is 2: that comes first.
    Ip6Forward,
    /// `net.ipv4.vs.ITEM`: there once `ip_vs` is loaded, and each network namespace has its own.
    Vs(VsItem),
}

/// Whose value it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfDev {
    /// `conf.all`: combined with each interface's own value, each item in its own way.
    All,
    /// `conf.default`: what a new interface starts with.
    Default,
    /// One interface.
    Dev(IfName),
}

macro_rules! items {
    ($(#[$outer:meta])* $type:ident: $($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $(#[doc = $doc] $variant),+
        }

        impl $type {
            /// Every item.
            pub const ALL: &[$type] = &[$(Self::$variant),+];

            /// The file's name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

items! {
    /// What is set of IPv4 on an interface (Documentation/networking/ip-sysctl.rst).
    ConfItem:
    AcceptRedirects "accept_redirects" "Obey ICMP redirects. With `all`: AND on a router, OR on a host.",
    Forwarding "forwarding" "Forward packets that come in here. Follows `ip_forward` when that changes.",
    AcceptLocal "accept_local" "Take packets whose source is one of our own addresses. With `all`: OR.",
    ArpAnnounce "arp_announce" "Which address an ARP request names as its sender: 2 = one that fits the interface; 3 and more are as 0. With `all`: the maximum.",
    ArpIgnore "arp_ignore" "Which ARP requests are answered: 1 = for addresses of the receiving interface. With `all`: the maximum.",
    RpFilter "rp_filter" "Source validation: 0 none, 1 strict, 2 and more loose. With `all`: the maximum, so 2 beats 1.",
    SendRedirects "send_redirects" "Send ICMP redirects. With `all`: OR.",
}

items! {
    /// What is set of IPv6 on an interface (Documentation/networking/ip-sysctl.rst).
    Conf6Item:
    AcceptRa "accept_ra" "Obey router advertisements: 0 no, 1 unless forwarding, 2 also when forwarding.",
    DisableIpv6 "disable_ipv6" "No IPv6 on the interface: the kernel refuses addresses (EACCES). Follows `all` when that changes. Only read.",
    Forwarding "forwarding" "Forward packets that come in here. Follows `all` when that changes.",
}

items! {
    /// What can be set of IPVS (Documentation/networking/ipvs-sysctl.rst; ip_vs_ctl.c, `vs_vars`).
    /// Which of them exist depends on the kernel.
    VsItem:
    AmDroprate "am_droprate" "Drop one packet in so many, where drop_packet is 3. Default 10.",
    Amemthresh "amemthresh" "Pages of free memory below which the automatic defences start. Default 1024.",
    BackupOnly "backup_only" "No director work while the backup daemon runs. 0 or 1.",
    CacheBypass "cache_bypass" "Send on directly when no real server is there (transparent caches). 0 or 1.",
    ConnReuseMode "conn_reuse_mode" "What a reused client port does: 0 same real server, 1 scheduled anew. Default 1.",
    Conntrack "conntrack" "Connections of IPVS are tracked by netfilter too. 0 or 1.",
    DebugLevel "debug_level" "Only in kernels built for it. For the whole machine.",
    DropEntry "drop_entry" "Drop connection entries under attack: 0 never, 1 and 2 automatic, 3 always.",
    DropPacket "drop_packet" "Drop packets under attack: 0 never, 1 and 2 automatic, 3 always.",
    EstCpulist "est_cpulist" "CPUs for the estimation threads.",
    EstNice "est_nice" "Nice value of the estimation threads. Default 0.",
    ExpireNodestConn "expire_nodest_conn" "End connections whose real server is gone, at once. 0 or 1.",
    ExpireQuiescentTemplate "expire_quiescent_template" "Persistence lets go of a real server with weight 0. 0 or 1.",
    IgnoreTunneled "ignore_tunneled" "Do not schedule what came out of a tunnel. 0 or 1.",
    NatIcmpSend "nat_icmp_send" "Tell clients by ICMP when a NAT real server does not answer. 0 or 1.",
    PmtuDisc "pmtu_disc" "Path MTU discovery for tunnelled packets. 0 or 1; default 1.",
    RunEstimation "run_estimation" "Rates are estimated. 0 or 1; default 1.",
    ScheduleIcmp "schedule_icmp" "ICMP errors without a connection are scheduled too. 0 or 1.",
    SecureTcp "secure_tcp" "Stricter TCP states under attack: 0 never, 1 and 2 automatic, 3 always.",
    SloppySctp "sloppy_sctp" "A connection may begin with any SCTP chunk. 0 or 1.",
    SloppyTcp "sloppy_tcp" "A connection may begin with any TCP segment. 0 or 1.",
    SnatReroute "snat_reroute" "Replies are routed anew after NAT. 0 or 1; default 1.",
    SyncPersistMode "sync_persist_mode" "Sync persistence templates only. 0 or 1.",
    SyncPorts "sync_ports" "UDP ports, and threads, of the sync daemons. A power of two.",
    SyncQlenMax "sync_qlen_max" "Messages that may wait to be sent. By default a 32nd of free memory's pages.",
    SyncRefreshPeriod "sync_refresh_period" "Seconds after which a connection is sent again. Default 0.",
    SyncRetries "sync_retries" "How often a connection is sent, 0-3. Default 0.",
    SyncSockSize "sync_sock_size" "Bytes of the socket's buffer; 0: the system's.",
    SyncThreshold "sync_threshold" "Packets before a connection is sent, and after how many again. Default 3 50.",
    SyncVersion "sync_version" "Format of the messages, 0 or 1. Default 1.",
}

impl VsItem {
    /// The first Linux that has it, as major and minor number; `None`: every one since 3.13.
    pub fn since(self) -> Option<(u32, u32)> {
        match self {
            Self::ConnReuseMode => Some((4, 1)),
            Self::IgnoreTunneled => Some((4, 3)),
            Self::ScheduleIcmp => Some((4, 4)),
            Self::RunEstimation => Some((5, 15)),
            Self::EstCpulist | Self::EstNice => Some((6, 2)),
            _ => None,
        }
    }

    /// What a network namespace starts with (ip_vs_ctl.c, `ip_vs_control_net_init_sysctl`); `None`
    /// where that depends on the machine or the kernel.
    pub fn default_value(self) -> Option<&'static str> {
        Some(match self {
            Self::DebugLevel | Self::EstCpulist | Self::SyncQlenMax => return None,
            Self::AmDroprate => "10",
            Self::Amemthresh => "1024",
            Self::ConnReuseMode
            | Self::PmtuDisc
            | Self::RunEstimation
            | Self::SnatReroute
            | Self::SyncPorts
            | Self::SyncVersion => "1",
            Self::SyncThreshold => "3\t50",
            Self::BackupOnly
            | Self::CacheBypass
            | Self::Conntrack
            | Self::DropEntry
            | Self::DropPacket
            | Self::EstNice
            | Self::ExpireNodestConn
            | Self::ExpireQuiescentTemplate
            | Self::IgnoreTunneled
            | Self::NatIcmpSend
            | Self::ScheduleIcmp
            | Self::SecureTcp
            | Self::SloppySctp
            | Self::SloppyTcp
            | Self::SyncPersistMode
            | Self::SyncRefreshPeriod
            | Self::SyncRetries
            | Self::SyncSockSize => "0",
        })
    }
}

impl Sysctl {
    /// `net.ipv4.conf.all.ITEM`.
    pub fn all(item: ConfItem) -> Self {
        Self::Conf(ConfDev::All, item)
    }

    /// `net.ipv4.conf.DEV.ITEM`.
    pub fn dev(dev: &IfName, item: ConfItem) -> Self {
        Self::Conf(ConfDev::Dev(dev.clone()), item)
    }

    /// The interface whose value it is, if it is one of an interface.
    pub fn device(&self) -> Option<&IfName> {
        match self.conf_dev()? {
            ConfDev::Dev(dev) => Some(dev),
            ConfDev::All | ConfDev::Default => None,
        }
    }

    /// Whose value it is; `None`: it is the host's.
    pub fn conf_dev(&self) -> Option<&ConfDev> {
        match self {
            Self::Conf(dev, _) | Self::Conf6(dev, _) => Some(dev),
            _ => None,
        }
    }

    /// The same setting of `dev`, of one that interfaces have.
    pub fn of_dev(&self, dev: ConfDev) -> Option<Self> {
        match self {
            Self::Conf(_, item) => Some(Self::Conf(dev, *item)),
            Self::Conf6(_, item) => Some(Self::Conf6(dev, *item)),
            _ => None,
        }
    }

    /// The file, under `/proc/sys`.
    pub fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys");
        path.extend(self.parts());
        path
    }

    /// The folders and the file, from /proc/sys on.
    fn parts(&self) -> Vec<&str> {
        match self {
            Self::IpForward => vec!["net", "ipv4", "ip_forward"],
            Self::Conf(dev, item) => vec!["net", "ipv4", "conf", dev.as_str(), item.as_str()],
            Self::Conf6(dev, item) => vec!["net", "ipv6", "conf", dev.as_str(), item.as_str()],
            Self::Ip6Forward => vec!["net", "ipv6", "conf", "all", "forwarding"],
            Self::Vs(item) => vec!["net", "ipv4", "vs", item.as_str()],
        }
    }
}

impl ConfDev {
    /// The folder's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "all",
            Self::Default => "default",
            Self::Dev(dev) => dev.as_str(),
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts();
        let dotted = parts.iter().any(|part| part.contains('.'));
        f.pad(&parts.join(if dotted { "/" } else { "." }))
    }
}

impl FromStr for Sysctl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text:?} is not a setting that lvsprov knows");
        let separator = if text.starts_with("net/") { '/' } else { '.' };
        let parts: Vec<&str> = text.split(separator).collect();
        match parts.as_slice() {
            ["net", "ipv4", "ip_forward"] => Ok(Self::IpForward),
            ["net", "ipv6", "conf", "all", "forwarding"] => Ok(Self::Ip6Forward),
            ["net", "ipv4", "vs", item] => {
                let known = VsItem::ALL.iter().find(|known| known.as_str() == *item);
                Ok(Self::Vs(*known.ok_or_else(unknown)?))
            }
            ["net", "ipv4", "conf", dev, item] => {
                let known = ConfItem::ALL.iter().find(|known| known.as_str() == *item);
                Ok(Self::Conf(conf_dev(text, dev)?, *known.ok_or_else(unknown)?))
            }
            ["net", "ipv6", "conf", dev, item] => {
                let known = Conf6Item::ALL.iter().find(|known| known.as_str() == *item);
                Ok(Self::Conf6(conf_dev(text, dev)?, *known.ok_or_else(unknown)?))
            }
            _ => Err(unknown()),
        }
    }
}

fn conf_dev(text: &str, dev: &str) -> Result<ConfDev, String> {
    Ok(match dev {
        "all" => ConfDev::All,
        "default" => ConfDev::Default,
        name => ConfDev::Dev(name.parse().map_err(|error| format!("{text:?}: {error}"))?),
    })
}

super::ipvs::text_form!(Sysctl);

impl SettingKind for Sysctl {
    type Key = Self;
    type Value = String;
    const VERBS: Verbs = Verbs::SET;
    const JSON: JsonNames = JsonNames { tags: ["set_sysctl"; 3], key: "key", value: "" };
    in_map!(sysctls, Sysctl);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dotted_interface_survives_the_text_form() {
        let dev: IfName = "eth0.100".parse().unwrap();
        let key = Sysctl::dev(&dev, ConfItem::RpFilter);
        assert_eq!(key.to_string(), "net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(key.to_string().parse::<Sysctl>().unwrap(), key);
        assert_eq!(key.path(), PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
    }

    #[test]
    fn no_text_leads_out_of_conf() {
        for bad in ["net.ipv4.conf....rp_filter", "net/ipv4/conf/../rp_filter", "kernel.sysrq", ""]
        {
            assert!(bad.parse::<Sysctl>().is_err(), "{bad:?} passed");
        }
    }
}
