//! The file as it is written: each key with its typed value and position.
//!
//! No default is filled in and no name is looked up: `resolve` does that.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::model::{
    Check, Engine, Forward, Promise, Role, Scheduler, SchedulerFlag, SshTarget, TunnelSources,
    WeightSource,
};
use super::node::At;
use crate::finding::Position;
use crate::names::{HostName, IfName, NetworkName, ServiceName, TopologyName};
use crate::state::{DaemonRole, DriftAction, Protocol, SyncDaemon, Tunnel, VsItem};

/// The value of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// The file does not have the key.
    #[default]
    Missing,
    /// The value is not valid, and a finding says why. No other rule may draw a conclusion from it.
    Invalid,
    /// A valid value.
    Value(At<T>),
}

impl<T> Field<T> {
    /// The valid value.
    pub fn value(&self) -> Option<&At<T>> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing | Self::Invalid => None,
        }
    }

    /// Whether the key has a value that is not valid.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid)
    }

    /// `other` where this key is missing.
    pub fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        if matches!(self, Self::Missing) { other } else { self }
    }
}

/// The whole file.
#[derive(Debug)]
pub struct Document {
    pub name: Field<TopologyName>,
    pub networks: Vec<NetworkDoc>,
    pub defaults: Defaults,
    pub ipvs: IpvsDoc,
    pub persist: Field<bool>,
    pub drift: Field<DriftDoc>,
    pub promise: Field<Promise>,
    pub hosts: Vec<HostDoc>,
    pub services: Vec<ServiceDoc>,
}

/// `drift`, of the file or of a host: an action, or `off`; and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftDoc {
    pub action: Option<DriftAction>,
    pub every_s: Option<u32>,
}

/// Under `networks`.
#[derive(Debug)]
pub struct NetworkDoc {
    pub name: At<NetworkName>,
    pub subnets: Vec<At<IpNet>>,
    /// A value under it is not valid.
    pub unclear: bool,
}

/// Under `defaults`.
#[derive(Debug)]
pub struct Defaults {
    pub scheduler: Field<Scheduler>,
    pub forward: Field<Forward>,
    pub protocol: Field<Protocol>,
    pub port: Field<u16>,
    pub weight: Field<u32>,
    pub weights: Field<WeightSource>,
    pub check: Field<CheckDoc>,
    pub gateway: Field<GatewayDoc>,
}

/// Under `ipvs`, of the file or of a host.
#[derive(Debug, Clone, Default)]
pub struct IpvsDoc {
    pub exclusive: Field<bool>,
    pub tcp: Field<u32>,
    pub tcp_fin: Field<u32>,
    pub udp: Field<u32>,
    pub daemons: Vec<(At<DaemonRole>, SyncDaemon)>,
    pub settings: Vec<(At<VsItem>, At<String>)>,
}

/// A gateway, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayDoc {
    Host(HostName),
    Address(IpAddr),
}

/// Under `hosts`.
#[derive(Debug)]
pub struct HostDoc {
    pub name: At<HostName>,
    pub roles: Vec<At<Role>>,
    pub interfaces: Vec<InterfaceDoc>,
    pub gateway: Field<Vec<At<GatewayDoc>>>,
    pub routes: RoutesDoc,
    pub ipvs: IpvsDoc,
    pub drift: Field<DriftDoc>,
    pub reach: Field<ReachDoc>,
    /// Its roles or interfaces are not all valid.
    pub unclear: bool,
}

/// Under `routes`.
#[derive(Debug, Default)]
pub struct RoutesDoc {
    pub valid: Vec<RouteDoc>,
    /// A value under it is not valid.
    pub unclear: bool,
}

/// One of `routes`.
#[derive(Debug)]
pub struct RouteDoc {
    pub at: Position,
    pub to: At<IpNet>,
    pub via: At<GatewayDoc>,
    pub interface: Option<At<IfName>>,
}

/// Under `interfaces`.
#[derive(Debug)]
pub struct InterfaceDoc {
    pub name: At<IfName>,
    pub at: Position,
    pub addresses: Vec<At<IpNet>>,
    pub network: Field<NetworkName>,
    pub mtu: Field<u32>,
    /// A value under it is not valid.
    pub unclear: bool,
}

/// `ssh`, `local` or `netns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReachDoc {
    Ssh(SshTarget),
    Local,
    Netns(PathBuf),
}

/// Under `services`.
#[derive(Debug)]
pub struct ServiceDoc {
    pub at: Position,
    pub name: Field<ServiceName>,
    pub vip: Field<(IpAddr, Option<u8>)>,
    /// 0: every port.
    pub ports: Field<Vec<At<u16>>>,
    pub protocols: Field<BTreeSet<Protocol>>,
    pub mark: Field<u32>,
    /// Whether lvsprov sets the rules that mark the packets.
    pub marked_by_us: Field<bool>,
    pub ipv6: Field<bool>,
    pub scheduler: Field<Scheduler>,
    pub scheduler_flags: Field<BTreeSet<SchedulerFlag>>,
    pub persistence: Field<PersistenceDoc>,
    pub one_packet: Field<bool>,
    /// Seconds.
    pub drain: Field<u32>,
    /// Seconds.
    pub ramp: Field<u32>,
    pub weights: Field<WeightSource>,
    pub check: Field<CheckDoc>,
    /// The least sum of weights.
    pub quorum: Field<u32>,
    pub sorry_server: Field<RealServerDoc>,
    pub forward: Field<Forward>,
    pub tunnel: Field<TunnelDoc>,
    pub director: Field<HostName>,
    pub vip_interface: Field<IfName>,
    pub real_servers: Vec<RealServerDoc>,
}

/// Under `real_servers`.
#[derive(Debug, PartialEq, Eq)]
pub struct RealServerDoc {
    pub at: Position,
    pub host: At<HostName>,
    pub weight: Field<u32>,
    pub port: Field<u16>,
    pub address: Field<IpAddr>,
    pub upper_threshold: Field<u32>,
    pub lower_threshold: Field<u32>,
    pub forward: Field<Forward>,
    pub tunnel: Field<TunnelDoc>,
    pub check: Field<CheckDoc>,
}

/// `check`; `None`: `none`, against what the service or `defaults` say.
pub type CheckDoc = Option<Check>;

/// Under `tunnel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelDoc {
    pub tunnel: Tunnel,
    pub sources: TunnelSources,
}

impl From<Tunnel> for TunnelDoc {
    fn from(tunnel: Tunnel) -> Self {
        Self { tunnel, sources: TunnelSources::default() }
    }
}

/// Under `persistence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistenceDoc {
    /// Seconds.
    pub timeout: u32,
    pub mask: Option<At<MaskDoc>>,
    pub engine: Option<Engine>,
}

/// The part of a client's address that persistence compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskDoc {
    /// `255.255.255.0`.
    Dotted(Ipv4Addr),
    /// A prefix length.
    Length(u8),
}
