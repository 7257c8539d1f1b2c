//! Services and their real servers, as a topology has them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::finding::Position;
use crate::names::{HostName, IfName, ServiceName};
use crate::state::{Protocol, Tunnel};

/// How IPVS passes a packet on to the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// Rewrites the destination; the reply comes back through the director (`-m`).
    Nat,
    /// Rewrites the MAC address only; the reply goes straight to the client (`-g`).
    Dr,
    /// Wraps the packet; the reply goes straight to the client (`-i`).
    Tun,
    /// Rewrites the destination and the source (`-m`, connection tracking and source NAT): the reply
    /// comes back to the director's own address, wherever the real server is.
    Fullnat,
}

impl Forward {
    /// Every method.
    pub const ALL: &[Forward] = &[Self::Nat, Self::Dr, Self::Tun, Self::Fullnat];

    /// Whether the director rewrites addresses: the real server never sees the VIP, may listen on
    /// another port, and its replies pass through the director.
    pub fn rewrites(self) -> bool {
        match self {
            Self::Nat | Self::Fullnat => true,
            Self::Dr | Self::Tun => false,
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tun => "tun",
            Self::Fullnat => "fullnat",
        })
    }
}

impl FromStr for Forward {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|method| method.to_string() == text).ok_or(())
    }
}

macro_rules! schedulers {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// How IPVS picks the real server of a new connection (net/netfilter/ipvs/Kconfig).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Scheduler {
            $(#[doc = $doc] $variant),+
        }

        impl Scheduler {
            /// Every scheduler that a kernel can have.
            pub const ALL: &[Scheduler] = &[$(Self::$variant),+];

            /// The kernel's name for it; its module is `ip_vs_` and this name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

schedulers! {
    Rr "rr" "Round robin.",
    Wrr "wrr" "Weighted round robin.",
    Lc "lc" "Least connections.",
    Wlc "wlc" "Weighted least connections: the kernel's default.",
    Lblc "lblc" "Locality-based least connections.",
    Lblcr "lblcr" "Locality-based least connections with replication.",
    Dh "dh" "Destination hashing.",
    Sh "sh" "Source hashing.",
    Mh "mh" "Maglev hashing (Linux 4.18).",
    Sed "sed" "Shortest expected delay.",
    Nq "nq" "Never queue.",
    Fo "fo" "Weighted failover.",
    Ovf "ovf" "Weighted overflow.",
    Twos "twos" "Weighted random twos choice (Linux 5.11).",
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Scheduler {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|s| s.as_str() == text).ok_or(())
    }
}

macro_rules! scheduler_flags {
    ($($variant:ident $name:literal $bit:literal $of:expr, $doc:literal),+ $(,)?) => {
        /// A flag of a service that its scheduler reads (include/uapi/linux/ip_vs.h).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum SchedulerFlag {
            $(#[doc = $doc] $variant),+
        }

        impl SchedulerFlag {
            /// Every name of a flag.
            pub const ALL: &[SchedulerFlag] = &[$(Self::$variant),+];

            /// Its name, as ipvsadm(8) has it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// Its bit.
            pub fn bit(self) -> u32 {
                match self {
                    $(Self::$variant => $bit),+
                }
            }

            /// The scheduler whose flag it is by this name; `None`: any.
            pub fn of(self) -> Option<Scheduler> {
                match self {
                    $(Self::$variant => $of),+
                }
            }
        }
    };
}

scheduler_flags! {
    Flag1 "flag-1" 0x8 None, "The first flag, by its number.",
    Flag2 "flag-2" 0x10 None, "The second.",
    Flag3 "flag-3" 0x20 None, "The third; no scheduler reads it yet.",
    ShFallback "sh-fallback" 0x8 Some(Scheduler::Sh), "The next real server, if the hashed one has weight 0 or is overloaded.",
    ShPort "sh-port" 0x10 Some(Scheduler::Sh), "The client's port is hashed too.",
    MhFallback "mh-fallback" 0x8 Some(Scheduler::Mh), "As `sh-fallback`.",
    MhPort "mh-port" 0x10 Some(Scheduler::Mh), "As `sh-port`.",
}

impl fmt::Display for SchedulerFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who decides what belongs to one client (`ip_vs_pe_NAME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// The Call-ID of SIP over UDP.
    Sip,
}

impl Engine {
    /// The kernel's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sip => "sip",
        }
    }
}

/// A client stays with its real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// For how long after its last connection ended, in seconds; at least 1.
    pub timeout: u32,
    /// Which part of its address counts: IPv4: a mask as a number; IPv6: a prefix length, 1-128.
    pub netmask: u32,
    /// Engine, if the address is not what decides.
    pub engine: Option<Engine>,
}

/// A firewall-mark service: packets belong to it by their mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// 1-4294967295.
    pub mark: u32,
    /// Packets of these protocols are marked.
    pub protocols: BTreeSet<Protocol>,
    /// Packets to these ports of the VIP are marked, 1-65535; empty: to all.
    pub ports: BTreeSet<u16>,
    /// Whether lvsprov marks them; else somebody else's rules do.
    pub ours: bool,
}

/// The address that clients use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The address itself.
    pub address: IpAddr,
    /// Prefix length on the director's interface, if the file gives one. Real servers always get a
    /// host address.
    pub prefix: Option<u8>,
    /// The director's interface that has, or gets, it.
    pub interface: IfName,
    /// Where it stands in the file.
    pub at: Position,
}

impl Vip {
    /// The prefix length that it has on the director: the file's, else that of a host address.
    pub fn prefix_on_director(&self) -> u8 {
        self.prefix.unwrap_or(host_prefix(self.address))
    }
}

/// How slowly real servers of a service are taken out and in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For how long, in seconds, the connections of a real server may come to their end before it is
    /// removed; 0: no time at all. 0-3600.
    pub drain: u32,
    /// Over how long, in seconds, a new real server is given its share; 0: all of it at once. 0-3600.
    pub ramp: u32,
}

impl Pace {
    /// `drain` where the file does not say it.
    pub const DRAIN: u32 = 30;
    /// The most that either may be.
    pub const LONGEST: u32 = 3600;
}

/// What the operator says for one run, about every service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceOverride {
    /// Instead of every service's `drain`, and for services that go away as a whole too, which are
    /// not drained otherwise.
    #[serde(default)]
    pub drain: Option<u32>,
    /// Instead of every service's `ramp`.
    #[serde(default)]
    pub ramp: Option<u32>,
}

/// A virtual service: what clients talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name; derived from what identifies it where the file has none.
    pub name: ServiceName,
    /// The VIP; `None` only for a mark that others' rules set, on whatever address they please.
    pub vip: Option<Vip>,
    /// Whether clients use IPv6.
    pub ipv6: bool,
    /// 1-65535; 0: every port, which needs persistence; 0 too where there is a mark.
    pub port: u16,
    /// tcp, udp or sctp; where there is a mark, the first of its protocols.
    pub protocol: Protocol,
    /// The firewall mark, if it is that which makes a packet belong to the service.
    pub mark: Option<Mark>,
    /// How a real server is chosen.
    pub scheduler: Scheduler,
    /// Flags for the scheduler.
    pub scheduler_flags: BTreeSet<SchedulerFlag>,
    /// Whether, and how, a client stays with its real server.
    pub persistence: Option<Persistence>,
    /// Every UDP packet is scheduled by itself.
    pub one_packet: bool,
    /// How its real servers are taken out and in.
    pub pace: Pace,
    /// The host that runs IPVS for it.
    pub director: HostName,
    /// In the order of host name and port.
    pub real_servers: Vec<RealServer>,
    /// Where it stands in the file.
    pub at: Position,
}

impl Service {
    /// What a person calls it: the name that the file gives, else `tcp VIP:PORT`, which says all that
    /// the derived name says and reads better.
    pub fn spoken(&self) -> String {
        let Self { name, vip, port, protocol, mark, .. } = self;
        if name.as_str() != Self::derived_name(*protocol, vip.as_ref(), *port, mark.as_ref()) {
            return name.to_string();
        }
        match (mark, vip) {
            (Some(mark), _) => format!("firewall mark {}", mark.mark),
            (None, None) => name.to_string(),
            (None, Some(vip)) if *port == 0 => format!("{protocol} {} (every port)", vip.address),
            (None, Some(vip)) => {
                format!("{protocol} {}", std::net::SocketAddr::new(vip.address, *port))
            }
        }
    }

    /// The name of a service to which the file gives none.
    pub fn derived_name(
        protocol: Protocol,
        vip: Option<&Vip>,
        port: u16,
        mark: Option<&Mark>,
    ) -> String {
        let address = vip.map_or_else(String::new, |vip| vip.address.to_string().replace(':', "_"));
        match (mark, port) {
            (Some(mark), _) => format!("fwmark-{}", mark.mark),
            (None, 0) => format!("{protocol}-{address}-any"),
            (None, port) => format!("{protocol}-{address}-{port}"),
        }
    }

    /// The VIP's address, if there is one.
    pub fn vip_address(&self) -> Option<IpAddr> {
        self.vip.as_ref().map(|vip| vip.address)
    }

    /// Whether packets to any of its real servers are sent by `method`.
    pub fn uses(&self, method: Forward) -> bool {
        self.real_servers.iter().any(|real_server| real_server.forward == method)
    }

    /// The ports that clients use; empty: every one. Those of the mark where there is one.
    pub fn ports(&self) -> BTreeSet<u16> {
        match &self.mark {
            Some(mark) => mark.ports.clone(),
            None if self.port == 0 => BTreeSet::new(),
            None => BTreeSet::from([self.port]),
        }
    }
}

/// The prefix length of a single address: 32 or 128.
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// One real server of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealServer {
    /// Which host.
    pub host: HostName,
    /// Its address, as the director sends to it.
    pub rip: IpAddr,
    /// The interface of the real server that has the RIP.
    pub interface: IfName,
    /// Where it listens: the service's port unless NAT maps it. 1-65535; 0: every port.
    pub port: u16,
    /// 0-2147483647; 0 takes no new connections.
    pub weight: u32,
    /// Connections from which on no new one is given, 0-2147483647; 0: no limit.
    pub upper_threshold: u32,
    /// Connections below which new ones are given again; 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// How packets get there.
    pub forward: Forward,
    /// How they are wrapped, if `forward` is [`Forward::Tun`]; else [`Tunnel::Ipip`].
    pub tunnel: Tunnel,
    /// Where it stands in the file.
    pub at: Position,
}
