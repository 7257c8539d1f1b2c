//! Who may send wrapped packets to a VIP: a rule of the topology's own nftables table.
//!
//! A receiving tunnel device without a remote address takes what any host has wrapped (net/ipv4/ip_tunnel.c,
//! `ip_tunnel_lookup`). The packet inside then comes out of a device whose source validation is loose, or is none: it may
//! name any source. Rules see the packet outside, with the address of the host that wrapped it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{PacketRule, Tunnel};
use crate::names::IfName;

/// Packets to these VIPs that come wrapped like this are dropped, unless one of `sources` has wrapped them. Other
/// packets pass, wrapped or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelGuard {
    /// Whether the packet outside is IPv6.
    pub outside_v6: bool,
    /// What stands between the header outside and the packet inside.
    pub header: TunnelHeader,
    /// Destinations of the packet inside: one at least, all of one family.
    pub vips: BTreeSet<IpAddr>,
    /// Sources of the packet outside that may wrap: the directors. All of the family outside.
    pub sources: BTreeSet<IpNet>,
    /// Tunnel devices of the host. A wrapped packet that comes out of one of them was wrapped twice, and its source outside may
    /// be a director's in name only: it is dropped whatever its source.
    pub devices: BTreeSet<IfName>,
}

/// What [`TunnelGuard`]s of IPv6 outside cannot see: a wrapped packet in fragments, the first of which is too short to show the
/// destination inside. It is dropped, unless one of `sources` has wrapped it. Fragments that senders make are far longer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FragmentGuard {
    /// Packets that are wrapped without a header in between.
    pub plain: bool,
    /// Packets in GRE.
    pub gre: bool,
    /// Packets in GUE to these UDP ports.
    pub gue_ports: BTreeSet<u16>,
    /// As of [`TunnelGuard`].
    pub sources: BTreeSet<IpNet>,
    /// As of [`TunnelGuard`].
    pub devices: BTreeSet<IfName>,
}

/// What stands between the header outside and the packet inside, as the receiver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelHeader {
    /// Nothing: IPIP and its like.
    None,
    /// GRE (RFC 2784).
    Gre {
        /// With a checksum.
        checksum: bool,
    },
    /// UDP and GUE.
    Gue {
        /// The UDP port, 1-65535.
        port: u16,
    },
}

impl TunnelHeader {
    /// As a director writes it.
    pub fn of(tunnel: Tunnel) -> Self {
        match tunnel {
            Tunnel::Ipip => Self::None,
            Tunnel::Gre { flags } => Self::Gre { checksum: flags & 1 != 0 },
            Tunnel::Gue { port, .. } => Self::Gue { port },
        }
    }
}

impl From<TunnelGuard> for PacketRule {
    fn from(guard: TunnelGuard) -> Self {
        Self::Guard(guard)
    }
}

impl From<FragmentGuard> for PacketRule {
    fn from(guard: FragmentGuard) -> Self {
        Self::Fragments(guard)
    }
}

impl TunnelGuard {
    /// Whether the packets inside are IPv6.
    pub fn inside_v6(&self) -> bool {
        self.vips.first().is_some_and(IpAddr::is_ipv6)
    }

    /// Whether it drops a packet to `vip` that `source` has wrapped, and that comes in on `dev`.
    pub fn drops(&self, (source, dev): (IpAddr, &IfName), tunnel: Tunnel, vip: IpAddr) -> bool {
        self.outside_v6 == source.is_ipv6()
            && self.header == TunnelHeader::of(tunnel)
            && self.vips.contains(&vip)
            && (self.devices.contains(dev) || !self.sources.iter().any(|net| net.contains(&source)))
    }
}

impl fmt::Display for TunnelGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped in ")?;
        match self.header {
            TunnelHeader::None => {}
            TunnelHeader::Gre { checksum: false } => f.write_str("GRE over ")?,
            TunnelHeader::Gre { checksum: true } => f.write_str("GRE with checksum over ")?,
            TunnelHeader::Gue { port } => write!(f, "GUE (port {port}) over ")?,
        }
        let outside = if self.outside_v6 { "IPv6" } else { "IPv4" };
        let vips: Vec<String> = self.vips.iter().map(ToString::to_string).collect();
        let sources: Vec<String> = self.sources.iter().map(source_name).collect();
        write!(f, "{outside} for {}: only by {}", vips.join(", "), sources.join(", "))
    }
}

impl fmt::Display for FragmentGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<String> = self.sources.iter().map(source_name).collect();
        write!(
            f,
            "fragments of wrapped packets that hide their VIP: only by {}",
            sources.join(", ")
        )
    }
}

/// An address by itself has no prefix length.
fn source_name(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}
