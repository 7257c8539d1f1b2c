//! The resolved topology: every default filled in, every name looked up, every address parsed.
//!
//! Plain data without I/O. It says what the file says, right or wrong: the rules are in
//! [`crate::check`]. Where a thing stood in the file is kept in a [`Position`], so that a later
//! error can point at it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::names::{HostName, IfName, NetworkName, ServiceName, TopologyName};

/// A place in the topology file. Lines and columns count from 1; 0 where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// How many characters what stands there is long; 0 where that is not known.
    pub length: u32,
}

/// One file: a whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Names the receipt on each host.
    pub name: TopologyName,
    /// The L2 segments.
    pub networks: BTreeMap<NetworkName, Network>,
    /// The machines.
    pub hosts: BTreeMap<HostName, Host>,
    /// The virtual services, in the order of VIP, protocol and port.
    pub services: Vec<Service>,
}

/// An L2 segment: what hears the same ARP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// The subnets that are in use on it.
    pub subnets: Vec<IpNet>,
    /// Where it stands in the file.
    pub at: Position,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends requests to the VIP.
    Client,
    /// Forwards between networks.
    Router,
    /// Takes requests for the VIP and passes them on: runs IPVS.
    Director,
    /// Answers the requests.
    RealServer,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name in the file.
    pub name: HostName,
    /// What it is for; at least one.
    pub roles: BTreeSet<Role>,
    /// Its interfaces.
    pub interfaces: BTreeMap<IfName, Interface>,
    /// Its default gateway, if the file names one or the forwarding method needs one.
    pub gateway: Option<Gateway>,
    /// How it is reached; `None`: it is there for the reasoning and not touched.
    pub reach: Option<Reach>,
    /// Where it stands in the file.
    pub at: Position,
}

/// A network interface that the host has already, with the addresses it has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name on the host.
    pub name: IfName,
    /// The address and prefix length of each subnet it is in. The host part is kept.
    pub addresses: Vec<IpNet>,
    /// The L2 segment it is plugged into; `None` for lo and tunnels.
    pub network: Option<NetworkName>,
    /// Where it stands in the file.
    pub at: Position,
}

/// Where a host sends what is not on one of its own subnets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The next hop.
    pub address: IpAddr,
    /// The host of the file that has this address, if one has.
    pub host: Option<HostName>,
    /// The interface over which the next hop is on-link.
    pub interface: IfName,
    /// Not said in the file but derived (NAT: the director).
    pub derived: bool,
    /// Where it stands in the file; where the host stands if it was derived.
    pub at: Position,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It is the machine that we run on.
    Local,
    /// A network namespace of the machine we run on, by the path of its file (`/run/netns/NAME`).
    Netns(PathBuf),
    /// Over SSH, with the user's own OpenSSH configuration.
    Ssh(SshTarget),
}

/// Where `ssh` goes. What is not said is left to the user's OpenSSH configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// Host name, address or alias of ssh_config.
    pub host: String,
    /// Login name.
    pub user: Option<String>,
    /// Port, 1-65535.
    pub port: Option<u16>,
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// How IPVS passes a packet on to the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// Rewrites the destination; the reply comes back through the director (`-m`).
    Nat,
    /// Rewrites the MAC address only; the reply goes straight to the client (`-g`).
    Dr,
    /// Wraps the packet in IPIP; the reply goes straight to the client (`-i`).
    Tun,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tun => "tun",
        })
    }
}

/// The transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The protocol's number in the IP header (IANA).
    pub fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(()),
        }
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

/// A virtual service: what clients talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name; derived from protocol, VIP and port where the file has none.
    pub name: ServiceName,
    /// The address that clients use.
    pub vip: IpAddr,
    /// Prefix length for the VIP on the director's interface, if the file gives one. Real servers
    /// always get a host address.
    pub vip_prefix: Option<u8>,
    /// 1-65535.
    pub port: u16,
    /// tcp, udp or sctp.
    pub protocol: Protocol,
    /// How a real server is chosen.
    pub scheduler: Scheduler,
    /// How packets get to the real server.
    pub forward: Forward,
    /// The host that runs IPVS for it.
    pub director: HostName,
    /// The director's interface that has, or gets, the VIP.
    pub vip_interface: IfName,
    /// In the order of host name and port.
    pub real_servers: Vec<RealServer>,
    /// Where it stands in the file.
    pub at: Position,
    /// Where its VIP stands in the file.
    pub vip_at: Position,
}

impl Service {
    /// What a person calls it: the name that the file gives, else `tcp VIP:PORT`, which says all that
    /// the derived name says and reads better.
    pub fn spoken(&self) -> String {
        let Self { name, vip, port, protocol, .. } = self;
        if name.as_str() == Self::derived_name(*protocol, *vip, *port) {
            return format!("{protocol} {}", std::net::SocketAddr::new(*vip, *port));
        }
        name.to_string()
    }

    /// The name of a service to which the file gives none.
    pub fn derived_name(protocol: Protocol, vip: IpAddr, port: u16) -> String {
        format!("{protocol}-{vip}-{port}")
    }

    /// The VIP as the director has it on its interface: with the file's prefix length, else as a host address.
    pub fn vip_on_director(&self) -> u8 {
        self.vip_prefix.unwrap_or(host_prefix(self.vip))
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
    /// Where it listens: the service's port unless NAT maps it. 1-65535.
    pub port: u16,
    /// 0-2147483647; 0 takes no new connections.
    pub weight: u32,
    /// Where it stands in the file.
    pub at: Position,
}

impl Topology {
    /// The interfaces of `host` that are plugged into `network`.
    pub fn interfaces_on<'a>(
        &'a self,
        host: &'a Host,
        network: &'a NetworkName,
    ) -> impl Iterator<Item = &'a Interface> {
        host.interfaces.values().filter(move |i| i.network.as_ref() == Some(network))
    }

    /// Hosts with `role`, in the order of their names.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.values().filter(move |h| h.roles.contains(&role))
    }
}

impl Host {
    /// The interface that has `address`, and with which prefix.
    pub fn interface_with(&self, address: IpAddr) -> Option<(&Interface, IpNet)> {
        self.interfaces
            .values()
            .find_map(|i| i.addresses.iter().find(|net| net.addr() == address).map(|net| (i, *net)))
    }

    /// The interface over which `address` is on-link, and the host's own address there.
    pub fn on_link(&self, address: IpAddr) -> Option<(&Interface, IpNet)> {
        self.interfaces
            .values()
            .flat_map(|i| i.addresses.iter().map(move |net| (i, *net)))
            .filter(|(_, net)| net.contains(&address) && net.prefix_len() < net.max_prefix_len())
            .max_by_key(|(_, net)| net.prefix_len())
    }
}
