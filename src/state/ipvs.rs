//! The IPVS table as a [`super::HostState`] has it: the whole vocabulary of the kernel
//! (include/uapi/linux/ip_vs.h), canonical, without counters.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::state::Protocol;

/// Serde through [`fmt::Display`] and [`FromStr`], so that a key can name a JSON member.
macro_rules! text_form {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = <$type as std::str::FromStr>::Err;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use text_form;

/// Names a virtual service: `tcp 192.0.2.1:80`, `fwmark4 8`, `fwmark6 8`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ServiceKey {
    /// Protocol, VIP and port; port 0 is every port of a persistent service.
    Address(Protocol, SocketAddr),
    /// A firewall mark, 1-4294967295; one mark can be an IPv4 and an IPv6 service.
    Fwmark {
        /// Whether the service is for IPv6.
        v6: bool,
        /// The mark.
        mark: u32,
    },
}

impl ServiceKey {
    /// Whether clients reach it over IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Address(_, address) => address.is_ipv6(),
            Self::Fwmark { v6, .. } => *v6,
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(protocol, address) => write!(f, "{protocol} {address}"),
            Self::Fwmark { v6: false, mark } => write!(f, "fwmark4 {mark}"),
            Self::Fwmark { v6: true, mark } => write!(f, "fwmark6 {mark}"),
        }
    }
}

impl FromStr for ServiceKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no service: PROTOCOL ADDRESS:PORT, fwmark4 N or fwmark6 N");
        let (kind, rest) = text.split_once(' ').ok_or_else(wrong)?;
        match kind {
            "fwmark4" | "fwmark6" => {
                let mark = rest.parse().map_err(|_| wrong())?;
                Ok(Self::Fwmark { v6: kind == "fwmark6", mark })
            }
            _ => Ok(Self::Address(
                kind.parse().map_err(|()| wrong())?,
                rest.parse().map_err(|_| wrong())?,
            )),
        }
    }
}

text_form!(ServiceKey);

/// The flags of a service, without HASHED (0x2), which the kernel adds itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceFlags(u32);

impl ServiceFlags {
    /// A client stays with its real server.
    pub const PERSISTENT: u32 = 0x1;
    /// The kernel's own mark: never part of a canonical value.
    pub const HASHED: u32 = 0x2;
    /// Every UDP packet is scheduled by itself.
    pub const ONE_PACKET: u32 = 0x4;
    /// flag-1; `sh-fallback`, `mh-fallback`.
    pub const SCHEDULER_1: u32 = 0x8;
    /// flag-2; `sh-port`, `mh-port`.
    pub const SCHEDULER_2: u32 = 0x10;
    /// flag-3.
    pub const SCHEDULER_3: u32 = 0x20;

    /// Canonical flags: HASHED is dropped.
    pub fn new(bits: u32) -> Self {
        Self(bits & !Self::HASHED)
    }

    /// As they go to the kernel.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `bits` are set.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// A virtual service without its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualService {
    /// The kernel's name of the scheduler. A kernel may have one that we do not know.
    pub scheduler: String,
    /// Flags.
    pub flags: ServiceFlags,
    /// Persistence timeout in seconds; 0 where it is not persistent.
    pub timeout: u32,
    /// IPv4: the persistence mask as a number (255.255.255.255 = 0xffffffff, the default).
    /// IPv6: a prefix length, 1-128 (128 is the default).
    pub netmask: u32,
    /// Persistence engine (`sip`), if any.
    pub engine: Option<String>,
    /// The real servers.
    pub destinations: BTreeMap<DestinationKey, Destination>,
}

impl VirtualService {
    /// A plain service of `key` with `scheduler`: not persistent, no real server yet.
    pub fn plain(key: &ServiceKey, scheduler: &str) -> Self {
        Self {
            scheduler: scheduler.to_owned(),
            flags: ServiceFlags::default(),
            timeout: 0,
            netmask: if key.is_ipv6() { 128 } else { u32::MAX },
            engine: None,
            destinations: BTreeMap::new(),
        }
    }

    /// The same without its real servers: what an edit of a service is about.
    #[must_use]
    pub fn settings(&self) -> Self {
        let Self { scheduler, flags, timeout, netmask, engine, destinations: _ } = self;
        Self {
            scheduler: scheduler.clone(),
            flags: *flags,
            timeout: *timeout,
            netmask: *netmask,
            engine: engine.clone(),
            destinations: BTreeMap::new(),
        }
    }

    /// Whether `other` is the same service, real servers aside.
    pub fn same_settings(&self, other: &Self) -> bool {
        let Self { scheduler, flags, timeout, netmask, engine, destinations: _ } = self;
        *scheduler == other.scheduler
            && *flags == other.flags
            && *timeout == other.timeout
            && *netmask == other.netmask
            && *engine == other.engine
    }
}

/// Names a destination within its service: address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DestinationKey(
    /// The RIP and its port.
    pub SocketAddr,
);

impl DestinationKey {
    /// From its parts.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self(SocketAddr::new(address, port))
    }
}

impl fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for DestinationKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error| format!("{text:?}: {error}"))
    }
}

text_form!(DestinationKey);

/// Names a destination on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DestinationId {
    /// The service that it belongs to.
    pub service: ServiceKey,
    /// Its name there.
    pub key: DestinationKey,
}

/// A destination without its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// How packets get there.
    pub method: ForwardingMethod,
    /// 0-2147483647; 0 takes no new connections.
    pub weight: u32,
    /// Connections from which on no new one is given; 0: no limit.
    pub upper_threshold: u32,
    /// Connections below which new ones are given again; 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// How packets are wrapped; [`Tunnel::Ipip`] where they are not.
    pub tunnel: Tunnel,
}

impl Destination {
    /// Without thresholds, not wrapped in UDP or GRE.
    pub fn plain(method: ForwardingMethod, weight: u32) -> Self {
        Self { method, weight, upper_threshold: 0, lower_threshold: 0, tunnel: Tunnel::Ipip }
    }
}

/// `IP_VS_CONN_F_FWD_MASK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardingMethod {
    /// 0: NAT.
    Masquerade,
    /// 1: the destination is the director itself; the kernel chooses it.
    Local,
    /// 2: tunnel.
    Tunnel,
    /// 3: direct routing.
    DirectRoute,
    /// 4: bypass.
    Bypass,
}

impl ForwardingMethod {
    /// The kernel's number.
    pub fn number(self) -> u32 {
        match self {
            Self::Masquerade => 0,
            Self::Local => 1,
            Self::Tunnel => 2,
            Self::DirectRoute => 3,
            Self::Bypass => 4,
        }
    }

    /// From the kernel's number, of which only the lowest three bits count.
    pub fn from_number(number: u32) -> Option<Self> {
        match number & 7 {
            0 => Some(Self::Masquerade),
            1 => Some(Self::Local),
            2 => Some(Self::Tunnel),
            3 => Some(Self::DirectRoute),
            4 => Some(Self::Bypass),
            _ => None,
        }
    }
}

impl fmt::Display for ForwardingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Masquerade => "nat",
            Self::Local => "local",
            Self::Tunnel => "tun",
            Self::DirectRoute => "dr",
            Self::Bypass => "bypass",
        })
    }
}

/// How a tunnelled packet is wrapped (Linux 5.3 and later know more than IPIP).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tunnel {
    /// Type 0.
    #[default]
    Ipip,
    /// Type 1: over UDP.
    Gue {
        /// The port of the receiving side, 1-65535.
        port: u16,
        /// 0 without checksum, 1 with, 2 remote checksum.
        flags: u16,
    },
    /// Type 2.
    Gre {
        /// 0 without checksum, 1 with.
        flags: u16,
    },
}

impl fmt::Display for VirtualService {
    /// In one breath: `rr`, `wlc persistent 600 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scheduler)?;
        if self.flags.has(ServiceFlags::PERSISTENT) {
            write!(f, " persistent {} s", self.timeout)?;
        }
        if self.flags.has(ServiceFlags::ONE_PACKET) {
            f.write_str(" one-packet")?;
        }
        for (bit, name) in [
            (ServiceFlags::SCHEDULER_1, "flag-1"),
            (ServiceFlags::SCHEDULER_2, "flag-2"),
            (ServiceFlags::SCHEDULER_3, "flag-3"),
        ] {
            if self.flags.has(bit) {
                write!(f, " {name}")?;
            }
        }
        if !matches!(self.netmask, u32::MAX | 128) {
            write!(f, " mask {:#x}", self.netmask)?;
        }
        match &self.engine {
            Some(engine) => write!(f, " engine {engine}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Destination {
    /// In one breath: `dr weight 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} weight {}", self.method, self.weight)?;
        if self.upper_threshold != 0 || self.lower_threshold != 0 {
            write!(f, " thresholds {}..{}", self.lower_threshold, self.upper_threshold)?;
        }
        match self.tunnel {
            Tunnel::Ipip => Ok(()),
            Tunnel::Gue { port, flags } => write!(f, " gue port {port} flags {flags}"),
            Tunnel::Gre { flags } => write!(f, " gre flags {flags}"),
        }
    }
}
