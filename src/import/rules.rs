//! The IPVS configuration of a source, as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Remark;
use crate::names::IfName;
use crate::state::{
    DaemonRole, Destination, DestinationKey, ServiceKey, SyncDaemon, VirtualService,
};
use crate::topology::Check;

/// The IPVS configuration of a source.
#[derive(Debug, Default)]
pub struct IpvsRules {
    /// The table.
    pub services: BTreeMap<ServiceKey, VirtualService>,
    /// Services whose real servers the source has checked in a way that a topology has no key for: their weights are external.
    pub external: BTreeSet<ServiceKey>,
    /// Health checks of the other services that have some.
    pub health: BTreeMap<ServiceKey, ServiceHealth>,
    /// Connection timeouts.
    pub timeouts: GivenTimeouts,
    /// Sync daemons; options that the source lacks have the kernel's defaults.
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// Hints about VIPs.
    pub vips: BTreeMap<IpAddr, VipHint>,
    /// Number of lines (keepalived: statements about IPVS) in the result.
    pub taken: usize,
    /// Guesses, and parts that are not in the result.
    pub remarks: Vec<Remark>,
}

/// Health checks of one service, as a topology has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The check of each real server that has one. A port is there only if it is not the default.
    pub checks: BTreeMap<DestinationKey, Check>,
    /// The least sum of weights of real servers that pass, if it is above 1.
    pub quorum: Option<u32>,
    /// Takes the requests while the quorum is not met. Its weight has no meaning.
    pub sorry_server: Option<(DestinationKey, Destination)>,
}

/// Timeouts in seconds; `None` leaves the host's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenTimeouts {
    /// TCP connections.
    pub tcp: Option<u32>,
    /// TCP connections after a FIN.
    pub tcp_fin: Option<u32>,
    /// UDP.
    pub udp: Option<u32>,
}

impl GivenTimeouts {
    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        let Self { tcp, tcp_fin, udp } = self;
        [tcp, tcp_fin, udp].iter().all(|timeout| timeout.is_none())
    }
}

/// Interface and prefix length of a VIP, if the source has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipHint {
    /// Its prefix length on the director.
    pub prefix: Option<u8>,
    /// The director's interface that has it.
    pub interface: Option<IfName>,
}
