//! The receiving side of tunnels as a [`super::HostState`] has it: devices that lvsprov makes, and UDP
//! ports where the kernel unwraps packets.
//!
//! IPIP over IPv4 needs none of it: its wildcard devices (`tunl0`, `sit0`) come with their modules.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::edit::{EditVerb, JsonNames, KeyedEdit, Present, SettingKind, Verbs, in_map, in_set};
use crate::names::IfName;

/// A device that takes packets wrapped by any host, to one address of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelDevice {
    /// Kind.
    pub kind: TunnelKind,
    /// The address that wrapped packets are sent to: the RIP.
    pub local: IpAddr,
    /// Packets must carry a GRE checksum; without, they must not (net/ipv4/ip_tunnel.c,
    /// `ip_tunnel_rcv`: anything else counts as `rx_crc_errors`). Only GRE has one.
    pub checksum: bool,
}

/// Kinds of tunnel devices that lvsprov makes, by the kernel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelKind {
    /// `gre`: over IPv4.
    Gre,
    /// `ip6gre`: over IPv6.
    Ip6gre,
    /// `ip6tnl` of mode `any`: IPv4 or IPv6 as they are, over IPv6. The kernel's own `ip6tnl0` takes
    /// IPv6 only (net/ipv6/ip6_tunnel.c, `ip6_fb_tnl_dev_init`).
    Ip6tnl,
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gre => "gre",
            Self::Ip6gre => "ip6gre",
            Self::Ip6tnl => "ip6tnl",
        })
    }
}

impl fmt::Display for TunnelDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} local {}", self.kind, self.local)?;
        f.write_str(if self.checksum { " with checksum" } else { "" })
    }
}

/// A UDP port on which the kernel unwraps GUE packets (`ip fou add port N gue`): `udp4 6080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuePort {
    /// Whether it receives over IPv6.
    pub v6: bool,
    /// 1-65535.
    pub port: u16,
}

impl fmt::Display for GuePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.v6 { "udp6" } else { "udp4" }, self.port)
    }
}

impl FromStr for GuePort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no GUE port: udp4 PORT or udp6 PORT");
        let (family, port) = text.split_once(' ').ok_or_else(wrong)?;
        let v6 = match family {
            "udp4" => false,
            "udp6" => true,
            _ => return Err(wrong()),
        };
        Ok(Self { v6, port: port.parse().map_err(|_| wrong())? })
    }
}

super::ipvs::text_form!(GuePort);

impl TunnelKind {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Gre, Self::Ip6gre, Self::Ip6tnl];

    /// What the name of a device of lvsprov's own making begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Gre | Self::Ip6gre => "lvsgre",
            Self::Ip6tnl => "lvstnl",
        }
    }
}

impl SettingKind for TunnelDevice {
    type Key = IfName;
    type Value = Self;
    const VERBS: Verbs = Verbs::ADDED_REMOVED;
    const JSON: JsonNames =
        JsonNames { tags: ["add_tunnel", "", "remove_tunnel"], key: "dev", value: "device" };
    in_map!(tunnels, Tunnel);
}

impl SettingKind for GuePort {
    type Key = Self;
    type Value = Present;
    const VERBS: Verbs = Verbs::ADDED_REMOVED;
    const JSON: JsonNames =
        JsonNames { tags: ["add_gue_port", "", "remove_gue_port"], key: "port", value: "" };
    in_set!(gue_ports, GuePort);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = if edit.verb() == EditVerb::Remove { " no longer" } else { "" };
        write!(f, "unwrap GUE on {}{ends}", edit.key)
    }
}
