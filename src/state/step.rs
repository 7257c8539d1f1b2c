//! One change on one host, as a closed set: what an agent does, and nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::IfName;
use crate::state::{
    Address, AddressKey, DaemonRole, Destination, DestinationKey, GuePort, Item, Link, Module,
    PacketRules, Route, RouteKey, ServiceKey, SyncDaemon, Sysctl, TableName, Timeouts,
    TunnelDevice, VirtualService,
};

/// A change with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is done.
    pub change: Change,
    /// Why, for a person: which forwarding method needs it, and what would happen without.
    pub why: String,
}

/// What can be done to a host. Each carries what it expects to find (`before`) and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// modprobe. Has no inverse: others may have come to use it.
    LoadModule {
        /// Which.
        module: Module,
    },
    /// Write a value under /proc/sys.
    SetSysctl {
        /// Which.
        key: Sysctl,
        /// What is there.
        before: String,
        /// What will be there.
        after: String,
    },
    /// Set an interface up or down.
    SetLink {
        /// Which.
        dev: IfName,
        /// What it is.
        before: Link,
        /// What it will be.
        after: Link,
    },
    /// Add an address that is not there.
    AddAddress {
        /// Which.
        key: AddressKey,
        /// How.
        address: Address,
    },
    /// Remove an address that is there.
    RemoveAddress {
        /// Which.
        key: AddressKey,
        /// How it was.
        address: Address,
    },
    /// Add a route where none leads to the destination.
    AddRoute {
        /// Which.
        key: RouteKey,
        /// How.
        route: Route,
    },
    /// Replace a route in place: there is no moment without one.
    ReplaceRoute {
        /// Which.
        key: RouteKey,
        /// How it was.
        before: Route,
        /// How it will be.
        after: Route,
    },
    /// Remove a route that is there.
    RemoveRoute {
        /// Which.
        key: RouteKey,
        /// How it was.
        route: Route,
    },
    /// Add a service, without destinations.
    AddService {
        /// Which.
        key: ServiceKey,
        /// How; its destinations are empty.
        service: VirtualService,
    },
    /// Change a service in place; its destinations and connections stay.
    EditService {
        /// Which.
        key: ServiceKey,
        /// How it was; destinations empty.
        before: VirtualService,
        /// How it will be; destinations empty.
        after: VirtualService,
    },
    /// Remove a service that has no destination any more.
    RemoveService {
        /// Which.
        key: ServiceKey,
        /// How it was; destinations empty.
        service: VirtualService,
    },
    /// Add a destination to a service.
    AddDestination {
        /// To which service.
        service: ServiceKey,
        /// Which.
        key: DestinationKey,
        /// How.
        destination: Destination,
    },
    /// Change a destination in place; its connections stay.
    EditDestination {
        /// Of which service.
        service: ServiceKey,
        /// Which.
        key: DestinationKey,
        /// How it was.
        before: Destination,
        /// How it will be.
        after: Destination,
    },
    /// Set the timeouts of IPVS; connections that are there keep theirs until their next packet.
    SetTimeouts {
        /// What they are.
        before: Timeouts,
        /// What they will be.
        after: Timeouts,
    },
    /// Start, stop or restart a sync daemon: the kernel changes none that runs.
    SetDaemon {
        /// Which.
        role: DaemonRole,
        /// How it runs; `None`: it does not.
        before: Option<SyncDaemon>,
        /// How it will run; `None`: it will not.
        after: Option<SyncDaemon>,
    },
    /// Replace all of an nftables table of ours, in one transaction.
    SetTable {
        /// Which.
        name: TableName,
        /// What it does; `None`: it is not there.
        before: Option<PacketRules>,
        /// What it will do; `None`: it goes away.
        after: Option<PacketRules>,
    },
    /// Make a tunnel device, down.
    AddTunnel {
        /// Its name.
        dev: IfName,
        /// How.
        device: TunnelDevice,
    },
    /// Remove a tunnel device.
    RemoveTunnel {
        /// Its name.
        dev: IfName,
        /// How it was.
        device: TunnelDevice,
    },
    /// Unwrap GUE packets on a port.
    AddGuePort {
        /// Which.
        port: GuePort,
    },
    /// Unwrap them no longer.
    RemoveGuePort {
        /// Which.
        port: GuePort,
    },
    /// Remove a destination from a service.
    RemoveDestination {
        /// From which service.
        service: ServiceKey,
        /// Which.
        key: DestinationKey,
        /// How it was.
        destination: Destination,
    },
}

impl Change {
    /// What it changes. A destination is part of its service.
    pub fn item(&self) -> Item {
        match self {
            Self::LoadModule { module } => Item::Module(*module),
            Self::SetSysctl { key, .. } => Item::Sysctl(key.clone()),
            Self::SetLink { dev, .. } => Item::Link(dev.clone()),
            Self::AddAddress { key, .. } | Self::RemoveAddress { key, .. } => {
                Item::Address(key.clone())
            }
            Self::AddRoute { key, .. }
            | Self::ReplaceRoute { key, .. }
            | Self::RemoveRoute { key, .. } => Item::Route(key.clone()),
            Self::AddService { key, .. }
            | Self::EditService { key, .. }
            | Self::RemoveService { key, .. }
            | Self::AddDestination { service: key, .. }
            | Self::EditDestination { service: key, .. }
            | Self::RemoveDestination { service: key, .. } => Item::Service(key.clone()),
            Self::SetTimeouts { .. } => Item::Timeouts,
            Self::SetDaemon { role, .. } => Item::Daemon(*role),
            Self::SetTable { name, .. } => Item::Table(name.clone()),
            Self::AddTunnel { dev, .. } | Self::RemoveTunnel { dev, .. } => {
                Item::Tunnel(dev.clone())
            }
            Self::AddGuePort { port } | Self::RemoveGuePort { port } => Item::GuePort(*port),
        }
    }

    /// What undoes it; `None` for a module, which stays.
    pub fn inverse(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::LoadModule { .. } => return None,
            Self::SetSysctl { key, before, after } => {
                Self::SetSysctl { key, before: after, after: before }
            }
            Self::SetLink { dev, before, after } => {
                Self::SetLink { dev, before: after, after: before }
            }
            Self::AddAddress { key, address } => Self::RemoveAddress { key, address },
            Self::RemoveAddress { key, address } => Self::AddAddress { key, address },
            Self::AddRoute { key, route } => Self::RemoveRoute { key, route },
            Self::ReplaceRoute { key, before, after } => {
                Self::ReplaceRoute { key, before: after, after: before }
            }
            Self::RemoveRoute { key, route } => Self::AddRoute { key, route },
            Self::AddService { key, service } => Self::RemoveService { key, service },
            Self::EditService { key, before, after } => {
                Self::EditService { key, before: after, after: before }
            }
            Self::RemoveService { key, service } => Self::AddService { key, service },
            Self::AddDestination { service, key, destination } => {
                Self::RemoveDestination { service, key, destination }
            }
            Self::EditDestination { service, key, before, after } => {
                Self::EditDestination { service, key, before: after, after: before }
            }
            Self::RemoveDestination { service, key, destination } => {
                Self::AddDestination { service, key, destination }
            }
            Self::SetTimeouts { before, after } => {
                Self::SetTimeouts { before: after, after: before }
            }
            Self::SetDaemon { role, before, after } => {
                Self::SetDaemon { role, before: after, after: before }
            }
            Self::SetTable { name, before, after } => {
                Self::SetTable { name, before: after, after: before }
            }
            Self::AddTunnel { dev, device } => Self::RemoveTunnel { dev, device },
            Self::RemoveTunnel { dev, device } => Self::AddTunnel { dev, device },
            Self::AddGuePort { port } => Self::RemoveGuePort { port },
            Self::RemoveGuePort { port } => Self::AddGuePort { port },
        })
    }
}

impl fmt::Display for Change {
    /// One line: what is done to what, with before and after.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadModule { module } => write!(f, "load module {module}"),
            Self::SetSysctl { key, before, after } => write!(f, "set {key}: {before} -> {after}"),
            Self::SetLink { dev, before, after } => {
                write!(f, "set link {dev}: {before} -> {after}")
            }
            Self::AddAddress { key, address } => {
                write!(f, "add address {} to {} ({address})", key.net, key.dev)
            }
            Self::RemoveAddress { key, address } => {
                write!(f, "remove address {} from {} ({address})", key.net, key.dev)
            }
            Self::AddRoute { key, route } => write!(f, "add route {key} {route}"),
            Self::ReplaceRoute { key, before, after } => {
                write!(f, "replace route {key}: {before} -> {after}")
            }
            Self::RemoveRoute { key, route } => write!(f, "remove route {key} {route}"),
            Self::AddService { key, service } => write!(f, "add service {key} ({service})"),
            Self::EditService { key, before, after } => {
                write!(f, "change service {key}: {before} -> {after}")
            }
            Self::RemoveService { key, service } => write!(f, "remove service {key} ({service})"),
            Self::AddDestination { service, key, destination } => {
                write!(f, "add real server {key} to {service} ({destination})")
            }
            Self::EditDestination { service, key, before, after } => {
                write!(f, "change real server {key} of {service}: {before} -> {after}")
            }
            Self::RemoveDestination { service, key, destination } => {
                write!(f, "remove real server {key} from {service} ({destination})")
            }
            Self::SetTimeouts { before, after } => {
                write!(f, "set timeouts of IPVS: {before} -> {after}")
            }
            Self::SetDaemon { role, before: _, after: None } => {
                write!(f, "stop sync daemon {role}")
            }
            Self::SetDaemon { role, before: None, after: Some(after) } => {
                write!(f, "start sync daemon {role} {after}")
            }
            Self::SetDaemon { role, before: Some(before), after: Some(after) } => {
                write!(f, "restart sync daemon {role}: {before} -> {after}")
            }
            Self::SetTable { name, before: _, after: None } => {
                write!(f, "remove nftables table {name}")
            }
            Self::SetTable { name, before: None, after: Some(after) } => {
                write!(f, "add nftables table {name} ({after})")
            }
            Self::SetTable { name, before: Some(before), after: Some(after) } => {
                write!(f, "replace nftables table {name}: {before} -> {after}")
            }
            Self::AddTunnel { dev, device } => write!(f, "add tunnel {dev} ({device})"),
            Self::RemoveTunnel { dev, device } => write!(f, "remove tunnel {dev} ({device})"),
            Self::AddGuePort { port } => write!(f, "unwrap GUE on {port}"),
            Self::RemoveGuePort { port } => write!(f, "unwrap GUE on {port} no longer"),
        }
    }
}
