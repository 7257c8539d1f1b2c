//! The IPVS configuration of a source, as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Remark;
use crate::names::IfName;
use crate::state::{DaemonRole, ServiceKey, SyncDaemon, VirtualService};

/// The IPVS configuration of a source.
#[derive(Debug, Default)]
pub struct IpvsRules {
    /// The table.
    pub services: BTreeMap<ServiceKey, VirtualService>,
    /// Services whose real servers the source has checked: their weights are external.
    pub external: BTreeSet<ServiceKey>,
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
