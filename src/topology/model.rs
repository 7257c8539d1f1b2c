//! The resolved topology: every default filled in, every name looked up, every address parsed.
//!
//! Plain data without I/O. It says what the file says, right or wrong: the rules are in
//! [`crate::check`]. Where a thing stood in the file is kept in a [`Position`], so that a later
//! error can point at it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod service;

use crate::finding::Position;
use crate::names::{HostName, IfName, NetworkName, TopologyName};
use crate::state::{DaemonRole, SyncDaemon, Timeouts, VsItem};

pub use service::{
    Engine, Forward, Mark, Pace, PaceOverride, Persistence, RealServer, Scheduler, SchedulerFlag,
    Service, Vip, host_prefix,
};

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
    /// What the operator says for this run; nothing in the file does.
    pub pace: PaceOverride,
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
    /// Its default gateways, at most one a family: those that the file names, and those that a
    /// forwarding method needs.
    pub gateways: Vec<Gateway>,
    /// What IPVS is to have here beside its table; said for directors.
    pub ipvs: IpvsSettings,
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

/// What a director's IPVS has beside its table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpvsSettings {
    /// Every service in the table is ours: foreign ones are removed.
    pub exclusive: bool,
    /// Timeouts, if the file names any; one that it does not name is 0 here, which leaves it as it is.
    pub timeouts: Option<Timeouts>,
    /// Sync daemons.
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// `net.ipv4.vs.*`, as they are written to the kernel.
    pub settings: BTreeMap<VsItem, String>,
    /// Where each stands in the file.
    pub settings_at: BTreeMap<VsItem, Position>,
    /// Where each sync daemon stands in the file.
    pub daemons_at: BTreeMap<DaemonRole, Position>,
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
    /// Its default gateway for packets of the family of `address`.
    pub fn gateway_for(&self, address: IpAddr) -> Option<&Gateway> {
        self.gateways.iter().find(|gateway| gateway.address.is_ipv4() == address.is_ipv4())
    }

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
