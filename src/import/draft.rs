//! A topology before it is written: hosts, networks and services, observed or guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{GivenTimeouts, ServiceHealth};
use crate::names::{HostName, IfName, NetworkName, TopologyName};
use crate::state::{DaemonRole, ServiceKey, SyncDaemon, VirtualService, VsItem};
use crate::topology::Role;

/// The result of an import before it is written as a file.
#[derive(Debug, Clone)]
pub struct DraftTopology {
    /// Its name.
    pub name: TopologyName,
    /// L2 segments with their subnets.
    pub networks: BTreeMap<NetworkName, BTreeSet<IpNet>>,
    /// The machines.
    pub hosts: BTreeMap<HostName, DraftHost>,
    /// The IPVS tables of all directors.
    pub services: Vec<DraftService>,
    /// The host of each RIP.
    pub rips: BTreeMap<IpAddr, HostName>,
}

/// A host.
#[derive(Debug, Clone, Default)]
pub struct DraftHost {
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// Its interfaces on a network.
    pub interfaces: BTreeMap<IfName, DraftInterface>,
    /// Host names or addresses, one for each address family.
    pub gateways: Vec<String>,
    /// Static routes: the destination, and the next hop as a host name or an address.
    pub routes: Vec<(IpNet, String)>,
    /// Its connection as a key and value of the file.
    pub reach: Option<(&'static str, String)>,
    /// A director's IPVS settings outside the table.
    pub ipvs: DraftIpvs,
    /// The guessed parts, for a comment.
    pub guessed: Option<String>,
}

/// An interface.
#[derive(Debug, Clone, Default)]
pub struct DraftInterface {
    /// Addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The network, if no address determines it.
    pub network: Option<NetworkName>,
}

/// Timeouts, daemons and settings.
#[derive(Debug, Clone, Default)]
pub struct DraftIpvs {
    /// Connection timeouts.
    pub timeouts: GivenTimeouts,
    /// Sync daemons.
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// `net.ipv4.vs.*`.
    pub settings: BTreeMap<VsItem, String>,
}

impl DraftIpvs {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        let Self { timeouts, daemons, settings } = self;
        timeouts.is_empty() && daemons.is_empty() && settings.is_empty()
    }
}

/// A service of a director.
#[derive(Debug, Clone)]
pub struct DraftService {
    /// Its director.
    pub director: HostName,
    /// Its key in the table.
    pub key: ServiceKey,
    /// Its settings and destinations.
    pub service: VirtualService,
    /// The VIP's prefix length on the director, if not 32 or 128.
    pub vip_prefix: Option<u8>,
    /// The director's interface for the VIP, if the file must name it.
    pub vip_interface: Option<IfName>,
    /// NAT destinations are FULLNAT.
    pub full_nat: bool,
    /// A health checker sets its weights, by checks that the file has no keys for.
    pub external: bool,
    /// Its health checks.
    pub health: ServiceHealth,
}
