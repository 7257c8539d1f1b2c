//! Virtual services and their real servers.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::finding::Position;
use crate::names::{HostName, IfName, ServiceName};
use crate::state::{ForwardingMethod, Protocol, Tunnel};

use super::health::{Check, Quorum};

/// How IPVS forwards a packet to the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// Rewrites the destination; the reply comes back through the director (`-m`).
    Nat,
    /// Rewrites the MAC address only; the real server replies directly to the client (`-g`).
    Dr,
    /// Encapsulates the packet; the real server replies directly to the client (`-i`).
    Tun,
    /// Rewrites the destination and the source (`-m`, connection tracking and source NAT): the reply
    /// comes back to the director's own address from any network.
    Fullnat,
}

impl Forward {
    /// Every method.
    pub const ALL: &[Forward] = &[Self::Nat, Self::Dr, Self::Tun, Self::Fullnat];

    /// What the method does to a packet. Planner, checks and lab ask for this, not for a method by its name.
    fn mechanics(self) -> Mechanics {
        let unchanged = Mechanics {
            in_ipvs: ForwardingMethod::DirectRoute,
            rewrites: false,
            hides_client: false,
            encapsulates: false,
        };
        let rewritten =
            Mechanics { in_ipvs: ForwardingMethod::Masquerade, rewrites: true, ..unchanged };
        match self {
            Self::Dr => unchanged,
            Self::Tun => {
                Mechanics { in_ipvs: ForwardingMethod::Tunnel, encapsulates: true, ..unchanged }
            }
            Self::Nat => rewritten,
            Self::Fullnat => Mechanics { hides_client: true, ..rewritten },
        }
    }

    /// The method in the kernel's table.
    pub fn in_ipvs(self) -> ForwardingMethod {
        self.mechanics().in_ipvs
    }

    /// Whether the director rewrites the destination. Then the real server does not have the VIP, may listen on
    /// another port, and replies through the director.
    pub fn rewrites(self) -> bool {
        self.mechanics().rewrites
    }

    /// Whether the director rewrites the source too, so that replies come back to its own address.
    pub fn hides_client(self) -> bool {
        self.mechanics().hides_client
    }

    /// Whether the packet travels inside another one, to the real server's address.
    pub fn encapsulates(self) -> bool {
        self.mechanics().encapsulates
    }

    /// Whether the packet leaves as it came, in a frame to the real server: no router may be in between.
    pub fn needs_on_link(self) -> bool {
        !self.rewrites() && !self.encapsulates()
    }

    /// Whether replies go to the client's address and must pass the director: it is the real server's gateway.
    pub fn needs_director_as_gateway(self) -> bool {
        self.rewrites() && !self.hides_client()
    }
}

/// One row for each method: see the functions of [`Forward`].
struct Mechanics {
    in_ipvs: ForwardingMethod,
    rewrites: bool,
    hides_client: bool,
    encapsulates: bool,
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
            /// Every scheduler of the mainline kernel.
            pub const ALL: &[Scheduler] = &[$(Self::$variant),+];

            /// The kernel's name; the module is `ip_vs_NAME`.
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
            /// Every flag name.
            pub const ALL: &[SchedulerFlag] = &[$(Self::$variant),+];

            /// Its name in ipvsadm(8).
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// Its bit in the service's flags.
            pub fn bit(self) -> u32 {
                match self {
                    $(Self::$variant => $bit),+
                }
            }

            /// The scheduler that uses this name; `None`: any.
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
    Flag3 "flag-3" 0x20 None, "The third; no mainline scheduler reads it.",
    ShFallback "sh-fallback" 0x8 Some(Scheduler::Sh), "Falls back to the next real server if the hashed one has weight 0 or is overloaded.",
    ShPort "sh-port" 0x10 Some(Scheduler::Sh), "Hashes the client's port too.",
    MhFallback "mh-fallback" 0x8 Some(Scheduler::Mh), "As `sh-fallback`.",
    MhPort "mh-port" 0x10 Some(Scheduler::Mh), "As `sh-port`.",
}

impl fmt::Display for SchedulerFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A persistence engine: it decides which packets belong to one client (`ip_vs_pe_NAME`).
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

/// Persistence: a client stays with its real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// Seconds after the client's last connection ended; at least 1.
    pub timeout: u32,
    /// The part of the client's address that counts. IPv4: a mask as a number; IPv6: a prefix length, 1-128.
    pub netmask: u32,
    /// Persistence engine; `None`: the client's address decides.
    pub engine: Option<Engine>,
}

/// A firewall-mark service: packets belong to it by their mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallMark {
    /// 1-4294967295.
    pub mark: u32,
    /// Packets of these protocols are marked.
    pub protocols: BTreeSet<Protocol>,
    /// Packets to these ports of the VIP are marked, 1-65535; empty: to all.
    pub ports: BTreeSet<u16>,
    /// Whether lvsprov sets the rules that mark packets; else the operator's own rules do.
    pub ours: bool,
}

/// The address that clients use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The address itself.
    pub address: IpAddr,
    /// Prefix length on the director, if the file has one. Real servers always get a host address.
    pub prefix: Option<u8>,
    /// The director's interface for it.
    pub interface: IfName,
    /// Its position in the file.
    pub at: Position,
}

impl Vip {
    /// The prefix length on the director: the file's, else 32 or 128.
    pub fn prefix_on_director(&self) -> u8 {
        self.prefix.unwrap_or(host_prefix(self.address))
    }
}

/// How slowly lvsprov removes and adds real servers of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Drain time in seconds: how long connections may finish before a real server is removed. 0-3600;
    /// 0: no drain.
    pub drain: u32,
    /// Ramp (slow start) in seconds: how long a new real server takes to reach its weight. 0-3600;
    /// 0: no ramp.
    pub ramp: u32,
}

impl Pace {
    /// Default of `drain`, in seconds.
    pub const DRAIN: u32 = 30;
    /// Maximum of `drain` and `ramp`, in seconds.
    pub const LONGEST: u32 = 3600;
}

/// Which program decides what weights the real servers of a service have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightSource {
    /// lvsprov: the file's weights.
    #[default]
    File,
    /// A health checker on the director, keepalived with the checks of the file too: lvsprov adds a real server once, with the file's weight, and from then on leaves
    /// open whether it takes requests.
    External,
}

impl WeightSource {
    /// Every value.
    pub const ALL: [Self; 2] = [Self::File, Self::External];

    /// The word in a topology file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::External => "external",
        }
    }
}

/// Command-line options of one run that replace each service's pace. Seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceOverride {
    /// Replaces every service's `drain`. Also drains removed services, which are otherwise not
    /// drained.
    #[serde(default)]
    pub drain: Option<u32>,
    /// Replaces every service's `ramp`.
    #[serde(default)]
    pub ramp: Option<u32>,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The file's name, else derived from protocol, VIP and port or from the mark.
    pub name: ServiceName,
    /// The VIP; `None` only for a firewall mark that the operator's own rules set.
    pub vip: Option<Vip>,
    /// Whether clients use IPv6.
    pub ipv6: bool,
    /// 1-65535; 0: every port (needs persistence), or a firewall mark.
    pub port: u16,
    /// With a firewall mark, the first of its protocols.
    pub protocol: Protocol,
    /// The firewall mark that selects packets; `None`: VIP and port select them.
    pub mark: Option<FirewallMark>,
    /// Chooses the real server of a new connection.
    pub scheduler: Scheduler,
    /// Flags for the scheduler.
    pub scheduler_flags: BTreeSet<SchedulerFlag>,
    /// `None`: each connection is scheduled separately.
    pub persistence: Option<Persistence>,
    /// Each UDP packet is scheduled separately.
    pub one_packet: bool,
    /// Drain and ramp times.
    pub pace: Pace,
    /// Which program sets the weights of its real servers.
    pub weights: WeightSource,
    /// How much of it must work, if its real servers have checks; `None`: any real server.
    pub quorum: Option<Quorum>,
    /// The host that runs IPVS for it.
    pub director: HostName,
    /// Sorted by host name and port.
    pub real_servers: Vec<RealServer>,
    /// Its position in the file.
    pub at: Position,
}

impl Service {
    /// The name for messages: the file's name, else `tcp VIP:PORT` (easier to read than the derived
    /// name).
    pub fn display_name(&self) -> String {
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

    /// The name of a service without a name in the file.
    pub fn derived_name(
        protocol: Protocol,
        vip: Option<&Vip>,
        port: u16,
        mark: Option<&FirewallMark>,
    ) -> String {
        let address = vip.map_or_else(String::new, |vip| vip.address.to_string().replace(':', "_"));
        match (mark, port) {
            (Some(mark), _) => format!("fwmark-{}", mark.mark),
            (None, 0) => format!("{protocol}-{address}-any"),
            (None, port) => format!("{protocol}-{address}-{port}"),
        }
    }

    /// The VIP's address; `None` for a mark without a VIP.
    pub fn vip_address(&self) -> Option<IpAddr> {
        self.vip.as_ref().map(|vip| vip.address)
    }

    /// Whether any real server uses `method`.
    pub fn uses(&self, property: impl Fn(Forward) -> bool) -> bool {
        self.real_servers.iter().any(|real_server| property(real_server.forward))
    }

    /// The transport protocols that clients use, the mark's if it has a mark.
    pub fn protocols(&self) -> BTreeSet<Protocol> {
        match &self.mark {
            Some(mark) => mark.protocols.clone(),
            None => BTreeSet::from([self.protocol]),
        }
    }

    /// The ports that clients use, the mark's ports if it has a mark; empty: every port.
    pub fn ports(&self) -> BTreeSet<u16> {
        match &self.mark {
            Some(mark) => mark.ports.clone(),
            None if self.port == 0 => BTreeSet::new(),
            None => BTreeSet::from([self.port]),
        }
    }
}

/// Who may send wrapped packets to a real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelSources {
    /// Any host.
    Any,
    /// The directors of the file, and these addresses and subnets.
    Directors {
        /// Sources of the packet outside.
        further: BTreeSet<IpNet>,
    },
}

impl Default for TunnelSources {
    fn default() -> Self {
        Self::Directors { further: BTreeSet::new() }
    }
}

impl TunnelSources {
    /// Lets those in that `other` lets in.
    pub fn extend(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Directors { further }, Self::Directors { further: others }) => {
                further.extend(others);
            }
            _ => *self = Self::Any,
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
    /// Its host.
    pub host: HostName,
    /// The address that the director sends to.
    pub rip: IpAddr,
    /// The real server's interface with the RIP.
    pub interface: IfName,
    /// The port it listens on: the service's port, unless NAT maps it. 1-65535; 0: every port.
    pub port: u16,
    /// 0-2147483647; 0: no new connections.
    pub weight: u32,
    /// At this number of connections IPVS stops sending new ones. 0-2147483647; 0: no limit.
    pub upper_threshold: u32,
    /// Below this number of connections IPVS sends new ones again; 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// Forwarding method.
    pub forward: Forward,
    /// Encapsulation if `forward` is [`Forward::Tun`]; else [`Tunnel::Ipip`].
    pub tunnel: Tunnel,
    /// Who may wrap packets for it if `forward` is [`Forward::Tun`].
    pub tunnel_sources: TunnelSources,
    /// Its health check; `None`: it always takes requests.
    pub check: Option<Check>,
    /// It is the sorry server, with weight 0: only the health checker sends requests to it.
    pub sorry: bool,
    /// Its position in the file.
    pub at: Position,
}
