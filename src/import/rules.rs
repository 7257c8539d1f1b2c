//! What a source says about IPVS, in the kernel's own terms.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Remark;
use crate::names::IfName;
use crate::state::{DaemonRole, ServiceKey, SyncDaemon, VirtualService};

/// What a source says about IPVS.
#[derive(Debug, Default)]
pub struct Rules {
    /// The table.
    pub services: BTreeMap<ServiceKey, VirtualService>,
    /// Connection timeouts.
    pub timeouts: GivenTimeouts,
    /// Sync daemons; what the source does not say is as the kernel chooses.
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// What else the source knows about VIPs.
    pub vips: BTreeMap<IpAddr, VipHint>,
    /// How many lines (keepalived: statements about IPVS) went into the result.
    pub taken: usize,
    /// What did not, and what did with a guess.
    pub remarks: Vec<Remark>,
}

/// Timeouts in seconds; what is `None` stays as the host has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenTimeouts {
    /// Of a TCP connection.
    pub tcp: Option<u32>,
    /// Of a TCP connection after a FIN.
    pub tcp_fin: Option<u32>,
    /// Of UDP.
    pub udp: Option<u32>,
}

impl GivenTimeouts {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        let Self { tcp, tcp_fin, udp } = self;
        [tcp, tcp_fin, udp].iter().all(|timeout| timeout.is_none())
    }
}

/// What a source knows about a VIP besides its services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipHint {
    /// Its prefix length on the director.
    pub prefix: Option<u8>,
    /// The director's interface that has it.
    pub interface: Option<IfName>,
}
