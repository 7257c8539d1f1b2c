//! The values under /proc/sys/net/ipv4 that a forwarding method depends on, as a closed set.
//!
//! Text form as sysctl(8) has it: dots between the parts, unless the interface's name has a dot
//! itself; then slashes (`net/ipv4/conf/eth0.100/rp_filter`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::topology::IfName;

/// One value. The order is the order in which they must be written: see [`Sysctl::IpForward`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sysctl {
    /// `net.ipv4.ip_forward`. Changing it also writes `conf.all.accept_redirects` and every
    /// interface's `forwarding` (net/ipv4/devinet.c, `inet_forward_change`), so it comes first.
    IpForward,
    /// `net.ipv4.conf.DEV.ITEM`.
    Conf(ConfDev, ConfItem),
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

macro_rules! conf_items {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// What is set (Documentation/networking/ip-sysctl.rst).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ConfItem {
            $(#[doc = $doc] $variant),+
        }

        impl ConfItem {
            /// Every item.
            pub const ALL: &[ConfItem] = &[$(Self::$variant),+];

            /// The file's name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

conf_items! {
    AcceptRedirects "accept_redirects" "Obey ICMP redirects. With `all`: AND on a router, OR on a host.",
    Forwarding "forwarding" "Forward packets that come in here. Follows `ip_forward` when that changes.",
    AcceptLocal "accept_local" "Take packets whose source is one of our own addresses. With `all`: OR.",
    ArpAnnounce "arp_announce" "Which address an ARP request names as its sender: 2 = one that fits the interface. With `all`: the maximum.",
    ArpIgnore "arp_ignore" "Which ARP requests are answered: 1 = for addresses of the receiving interface. With `all`: the maximum.",
    RpFilter "rp_filter" "Source validation: 0 none, 1 strict, 2 loose. With `all`: the maximum, so 2 beats 1.",
    SendRedirects "send_redirects" "Send ICMP redirects. With `all`: OR.",
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

    /// The file, under `/proc/sys`.
    pub fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys/net/ipv4");
        match self {
            Self::IpForward => path.push("ip_forward"),
            Self::Conf(dev, item) => {
                path.push("conf");
                path.push(dev.as_str());
                path.push(item.as_str());
            }
        }
        path
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
        match self {
            Self::IpForward => f.pad("net.ipv4.ip_forward"),
            Self::Conf(dev, item) => {
                let dot = if dev.as_str().contains('.') { '/' } else { '.' };
                write!(f, "net{dot}ipv4{dot}conf{dot}{}{dot}{}", dev.as_str(), item.as_str())
            }
        }
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
            ["net", "ipv4", "conf", dev, item] => {
                let dev = match *dev {
                    "all" => ConfDev::All,
                    "default" => ConfDev::Default,
                    name => ConfDev::Dev(name.parse().map_err(|e| format!("{text:?}: {e}"))?),
                };
                let known = ConfItem::ALL.iter().find(|known| known.as_str() == *item);
                Ok(Self::Conf(dev, *known.ok_or_else(unknown)?))
            }
            _ => Err(unknown()),
        }
    }
}

super::ipvs::text_form!(Sysctl);

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
