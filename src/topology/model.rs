//! The resolved topology: every default filled in, every name looked up, every address parsed.
//!
//! Plain data without I/O, right or wrong: the rules are in [`crate::check`]. Each item keeps its
//! [`Position`] in the file, so that a later error can point at it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod health;
mod promise;
mod service;

use crate::finding::Position;
use crate::names::{HostName, IfName, NetworkName, TopologyName};
use crate::state::{DaemonRole, DriftPolicy, Maintenance, SyncDaemon, Timeouts, VsItem};

pub use health::{
    Check, CheckQuestion, CheckTarget, CheckWay, DnsRecord, HttpBody, HttpQuestion, Quorum,
    SCRIPT_WORDS,
};
pub use promise::{Promise, PromisedPart};
pub use service::{
    Engine, FirewallMark, Forward, Pace, PaceOverride, Persistence, RealServer, Scheduler,
    SchedulerFlag, Service, TunnelSources, Vip, WeightSource, host_prefix,
};

/// One file: one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Also names the receipt on each host.
    pub name: TopologyName,
    /// The L2 segments.
    pub networks: BTreeMap<NetworkName, Network>,
    /// The machines.
    pub hosts: BTreeMap<HostName, Host>,
    /// The virtual services, in the order of VIP, protocol and port.
    pub services: Vec<Service>,
    /// Whether hosts make again after a restart what the last apply left.
    pub persist: bool,
    /// What the file promises about the death of a part.
    pub promise: Promise,
    /// Set by command-line options for one run; the file has no such key.
    pub pace: PaceOverride,
    /// The real servers in maintenance, as the directors' receipts have it; the file has no such key
    /// ([`Topology::in_maintenance`]).
    pub maintenance: Maintenance,
}

/// An L2 segment: the interfaces that receive the same ARP broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// The subnets that are in use on it.
    pub subnets: Vec<IpNet>,
    /// Its position in the file.
    pub at: Position,
}

/// The part of a host in the cluster.
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
    /// At least one.
    pub roles: BTreeSet<Role>,
    /// Its interfaces.
    pub interfaces: BTreeMap<IfName, Interface>,
    /// Its default gateways, at most one a family: those that the file names, and those that a
    /// forwarding method needs.
    pub gateways: Vec<Gateway>,
    /// Its static routes, sorted by destination, each destination once.
    pub routes: Vec<StaticRoute>,
    /// IPVS settings outside the table; only directors use them.
    pub ipvs: IpvsSettings,
    /// What the host does about drift by itself; `None`: nothing.
    pub drift: Option<DriftPolicy>,
    /// How lvsprov connects to it; `None`: unmanaged, described for the rules only.
    pub reach: Option<Reach>,
    /// Its position in the file.
    pub at: Position,
}

/// An existing network interface of the host, with its existing addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name on the host.
    pub name: IfName,
    /// Its addresses with prefix lengths; host bits are kept.
    pub addresses: Vec<IpNet>,
    /// Its L2 segment; `None` for lo and tunnel devices.
    pub network: Option<NetworkName>,
    /// Its MTU, where the file says it: the largest IP packet that it sends and takes, in bytes.
    pub mtu: Option<u32>,
    /// Its position in the file.
    pub at: Position,
}

/// The MTU of Ethernet: an interface has it unless the file says another one, or another one was seen.
pub const ETHERNET_MTU: u32 = 1500;

/// A director's IPVS settings outside the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpvsSettings {
    /// lvsprov owns the whole table and removes unmanaged services.
    pub exclusive: bool,
    /// Timeouts, if the file sets any; 0 leaves one unchanged.
    pub timeouts: Option<Timeouts>,
    /// Sync daemons.
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// `net.ipv4.vs.*`, in the form that the kernel reads.
    pub settings: BTreeMap<VsItem, String>,
    /// Position of each setting in the file.
    pub settings_at: BTreeMap<VsItem, Position>,
    /// Position of each sync daemon in the file.
    pub daemons_at: BTreeMap<DaemonRole, Position>,
}

/// A static route to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    /// The destination, without host bits. Never a default route.
    pub to: IpNet,
    /// The next hop, of the same address family.
    pub via: Gateway,
}

/// A next hop: a default gateway, or that of a static route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The next hop.
    pub address: IpAddr,
    /// The host of the file with this address; `None` if the file has none.
    pub host: Option<HostName>,
    /// The interface over which the next hop is on-link.
    pub interface: IfName,
    /// lvsprov derived it (NAT: the director); the file does not set it.
    pub derived: bool,
    /// Its position in the file; the host's position if derived.
    pub at: Position,
}

/// By which route a host's packets to an address leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop<'a> {
    /// The address is on-link over this interface, by this address of the host.
    OnLink(&'a Interface, IpNet),
    /// By a static route or the default route.
    Via(&'a Gateway),
}

/// How lvsprov connects to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// The machine that lvsprov runs on.
    Local,
    /// A network namespace of the machine that lvsprov runs on, by the path of its file (`/run/netns/NAME`).
    Netns(PathBuf),
    /// Over SSH, with the operator's OpenSSH configuration.
    Ssh(SshTarget),
}

/// An SSH destination. `None` leaves a part to the operator's OpenSSH configuration.
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

impl Topology {
    /// The interfaces of `host` on `network`.
    pub fn interfaces_on<'a>(
        &'a self,
        host: &'a Host,
        network: &'a NetworkName,
    ) -> impl Iterator<Item = &'a Interface> {
        host.interfaces.values().filter(move |i| i.network.as_ref() == Some(network))
    }

    /// Hosts with `role`, sorted by name.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.values().filter(move |h| h.roles.contains(&role))
    }
}

impl Host {
    /// Its default gateway for packets of the family of `address`.
    pub fn gateway_for(&self, address: IpAddr) -> Option<&Gateway> {
        self.gateways.iter().find(|gateway| gateway.address.is_ipv4() == address.is_ipv4())
    }

    /// The static route for `address`: the one with the longest prefix.
    pub fn route_for(&self, address: IpAddr) -> Option<&StaticRoute> {
        let holding = self.routes.iter().filter(|route| route.to.contains(&address));
        holding.max_by_key(|route| route.to.prefix_len())
    }

    /// The next hop of packets to `address`.
    pub fn next_hop(&self, address: IpAddr) -> Option<NextHop<'_>> {
        self.next_hop_beside(self.on_link(address), address)
    }

    /// The next hop of packets to `address`, which is on-link as `on_link` says: the longest prefix wins, a
    /// connected route before a static one (net/ipv4/fib_trie.c, `fib_table_lookup`).
    pub fn next_hop_beside<'a>(
        &'a self,
        on_link: Option<(&'a Interface, IpNet)>,
        address: IpAddr,
    ) -> Option<NextHop<'a>> {
        let route = self.route_for(address);
        match (on_link, route) {
            (Some((interface, net)), route)
                if route.is_none_or(|route| route.to.prefix_len() <= net.prefix_len()) =>
            {
                Some(NextHop::OnLink(interface, net))
            }
            (_, Some(route)) => Some(NextHop::Via(&route.via)),
            (_, None) => self.gateway_for(address).map(NextHop::Via),
        }
    }

    /// The interface with `address`, and the address with its prefix length.
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
