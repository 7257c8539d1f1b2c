//! A topology before it is written: hosts, networks and services as an import found or guessed them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::GivenTimeouts;
use crate::names::{HostName, IfName, NetworkName, TopologyName};
use crate::state::{DaemonRole, ServiceKey, SyncDaemon, VirtualService, VsItem};
use crate::topology::Role;

/// A topology before it is written.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its name.
    pub name: TopologyName,
    /// L2 segments with their subnets.
    pub networks: BTreeMap<NetworkName, BTreeSet<IpNet>>,
    /// The machines.
    pub hosts: BTreeMap<HostName, DraftHost>,
    /// The IPVS tables of all directors.
    pub services: Vec<DraftService>,
    /// Whose each RIP is.
    pub rips: BTreeMap<IpAddr, HostName>,
}

/// A machine.
#[derive(Debug, Clone, Default)]
pub struct DraftHost {
    /// What it is for.
    pub roles: BTreeSet<Role>,
    /// What it is plugged into.
    pub interfaces: BTreeMap<IfName, DraftInterface>,
    /// Host names or addresses, one a family.
    pub gateways: Vec<String>,
    /// How it is reached, as the file says it: a key and its value.
    pub reach: Option<(&'static str, String)>,
    /// A director's IPVS, beside its table.
    pub ipvs: DraftIpvs,
    /// What of it was guessed, for a comment.
    pub guessed: Option<String>,
}

/// An interface.
#[derive(Debug, Clone, Default)]
pub struct DraftInterface {
    /// Addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Said where the addresses do not tell it.
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
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        let Self { timeouts, daemons, settings } = self;
        timeouts.is_empty() && daemons.is_empty() && settings.is_empty()
    }
}

/// A service of a director.
#[derive(Debug, Clone)]
pub struct DraftService {
    /// Who runs it.
    pub director: HostName,
    /// Its key in the table.
    pub key: ServiceKey,
    /// The rest of it.
    pub service: VirtualService,
    /// The VIP's prefix length on the director, if it is not that of a host.
    pub vip_prefix: Option<u8>,
    /// The director's interface with the VIP, where that must be said.
    pub vip_interface: Option<IfName>,
    /// NAT destinations are FULLNAT.
    pub full_nat: bool,
}
