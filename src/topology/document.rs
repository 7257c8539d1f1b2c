//! What the file says, key by key, each value in its own type and with its position.
//!
//! Nothing is filled in and no name is looked up: that is `resolve`'s business.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::model::{Engine, Forward, Role, Scheduler, SchedulerFlag, SshTarget};
use super::node::At;
use crate::finding::Position;
use crate::names::{HostName, IfName, NetworkName, ServiceName, TopologyName};
use crate::state::{DaemonRole, Protocol, SyncDaemon, Tunnel, VsItem};

/// What stands under a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Said<T> {
    /// The key is not there.
    #[default]
    Nothing,
    /// It could not be understood; a finding says why. Nothing may be concluded from it.
    Unclear,
    /// This.
    This(At<T>),
}

impl<T> Said<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&At<T>> {
        match self {
            Self::This(value) => Some(value),
            Self::Nothing | Self::Unclear => None,
        }
    }

    /// Nothing may be concluded from it.
    pub fn is_unclear(&self) -> bool {
        matches!(self, Self::Unclear)
    }

    /// This, or what `other` says where this says nothing.
    pub fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        if matches!(self, Self::Nothing) { other } else { self }
    }
}

/// The whole file.
#[derive(Debug)]
pub struct Document {
    pub name: Said<TopologyName>,
    pub networks: Vec<NetworkDoc>,
    pub defaults: Defaults,
    pub ipvs: IpvsDoc,
    pub hosts: Vec<HostDoc>,
    pub services: Vec<ServiceDoc>,
}

/// Under `networks`.
#[derive(Debug)]
pub struct NetworkDoc {
    pub name: At<NetworkName>,
    pub subnets: Vec<At<IpNet>>,
    /// Something under it was not understood.
    pub unclear: bool,
}

/// Under `defaults`.
#[derive(Debug)]
pub struct Defaults {
    pub scheduler: Said<Scheduler>,
    pub forward: Said<Forward>,
    pub protocol: Said<Protocol>,
    pub port: Said<u16>,
    pub weight: Said<u32>,
    pub gateway: Said<GatewayDoc>,
}

/// Under `ipvs`, of the file or of a host.
#[derive(Debug, Clone, Default)]
pub struct IpvsDoc {
    pub exclusive: Said<bool>,
    pub tcp: Said<u32>,
    pub tcp_fin: Said<u32>,
    pub udp: Said<u32>,
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
    pub gateway: Said<Vec<At<GatewayDoc>>>,
    pub ipvs: IpvsDoc,
    pub reach: Said<ReachDoc>,
    /// Its roles or interfaces were not understood.
    pub unclear: bool,
}

/// Under `interfaces`.
#[derive(Debug)]
pub struct InterfaceDoc {
    pub name: At<IfName>,
    pub at: Position,
    pub addresses: Vec<At<IpNet>>,
    pub network: Said<NetworkName>,
    /// Something under it was not understood.
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
    pub name: Said<ServiceName>,
    pub vip: Said<(IpAddr, Option<u8>)>,
    /// 0: every port.
    pub ports: Said<Vec<At<u16>>>,
    pub protocols: Said<BTreeSet<Protocol>>,
    pub mark: Said<u32>,
    /// Whether lvsprov is to mark the packets.
    pub marked_by_us: Said<bool>,
    pub ipv6: Said<bool>,
    pub scheduler: Said<Scheduler>,
    pub scheduler_flags: Said<BTreeSet<SchedulerFlag>>,
    pub persistence: Said<PersistenceDoc>,
    pub one_packet: Said<bool>,
    /// Seconds.
    pub drain: Said<u32>,
    /// Seconds.
    pub ramp: Said<u32>,
    pub forward: Said<Forward>,
    pub tunnel: Said<Tunnel>,
    pub director: Said<HostName>,
    pub vip_interface: Said<IfName>,
    pub real_servers: Vec<RealServerDoc>,
}

/// Under `real_servers`.
#[derive(Debug)]
pub struct RealServerDoc {
    pub at: Position,
    pub host: At<HostName>,
    pub weight: Said<u32>,
    pub port: Said<u16>,
    pub address: Said<IpAddr>,
    pub upper_threshold: Said<u32>,
    pub lower_threshold: Said<u32>,
    pub forward: Said<Forward>,
    pub tunnel: Said<Tunnel>,
}

/// Under `persistence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistenceDoc {
    /// Seconds.
    pub timeout: u32,
    pub mask: Option<At<MaskDoc>>,
    pub engine: Option<Engine>,
}

/// Which part of a client's address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskDoc {
    /// `255.255.255.0`.
    Dotted(Ipv4Addr),
    /// A prefix length.
    Length(u8),
}
