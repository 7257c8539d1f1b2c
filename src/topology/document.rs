//! What the file says, key by key, each value in its own type and with its position.
//!
//! Nothing is filled in and no name is looked up: that is `resolve`'s business.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::model::{Forward, Position, Protocol, Role, Scheduler, SshTarget};
use super::names::{HostName, IfName, NetworkName, ServiceName, TopologyName};
use super::node::At;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<T> {
    /// The key is not there.
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
    pub hosts: Vec<HostDoc>,
    pub services: Vec<ServiceDoc>,
}

/// Under `networks`.
#[derive(Debug)]
pub struct NetworkDoc {
    pub name: At<NetworkName>,
    pub subnets: Vec<At<Ipv4Net>>,
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

/// A gateway, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayDoc {
    Host(HostName),
    Address(Ipv4Addr),
}

/// Under `hosts`.
#[derive(Debug)]
pub struct HostDoc {
    pub name: At<HostName>,
    pub roles: Vec<At<Role>>,
    pub interfaces: Vec<InterfaceDoc>,
    pub gateway: Said<GatewayDoc>,
    pub reach: Said<ReachDoc>,
    /// Its roles or interfaces were not understood.
    pub unclear: bool,
}

/// Under `interfaces`.
#[derive(Debug)]
pub struct InterfaceDoc {
    pub name: At<IfName>,
    pub at: Position,
    pub addresses: Vec<At<Ipv4Net>>,
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
    pub vip: Said<(Ipv4Addr, Option<u8>)>,
    pub port: Said<u16>,
    pub protocol: Said<Protocol>,
    pub scheduler: Said<Scheduler>,
    pub forward: Said<Forward>,
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
    pub address: Said<Ipv4Addr>,
}
