//! A packet on its way, and what its ends and the director know of its connection.

use std::net::IpAddr;

use super::hooks::Tracking;
use super::machine::Machine;
use crate::names::{HostName, IfName};
use crate::state::Tunnel;

/// A packet on its way.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) target: IpAddr,
    /// Destination port; of a reply the source port.
    pub(super) port: u16,
    pub(super) mark: u32,
    /// No rule of another program may have changed it.
    pub(super) mark_is_known: bool,
    /// What connection tracking of the host where it is knows of it.
    pub(super) tracking: Tracking,
    /// Bytes of it; 0: it fits everywhere.
    pub(super) size: u32,
    /// It has no DF bit: who cannot send it whole sends it in fragments.
    pub(super) may_fragment: bool,
    /// It is an ICMP message about another packet of the connection.
    pub(super) is_error: bool,
    /// The packet inside, and how it is wrapped.
    pub(super) inside: Option<(Box<Packet>, Tunnel)>,
}

/// A packet that does not fit; its sender gets an ICMP message.
pub(super) struct TooBig<'a> {
    /// Who cannot send it.
    pub(super) at: &'a Machine,
    /// By which device.
    pub(super) dev: IfName,
    /// What fits.
    pub(super) mtu: u32,
    /// As it came in.
    pub(super) packet: Packet,
    /// IPVS found it out: its message has the VIP as source (net/ipv4/icmp.c, `__icmp_send`: the destination of a packet
    /// that is delivered locally).
    pub(super) by_ipvs: bool,
}

/// Bytes that a request and its reply have; 0: they fit everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    pub(super) request: u32,
    pub(super) reply: u32,
}

/// What both ends of a connection tell each other of the segments that they take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// MTU of the client's route to the VIP.
    pub(super) client: u32,
    /// MTU of the real server's route to the client.
    pub(super) server: u32,
    /// The largest packet after the MSS that lvsprov's rule lets the real server announce.
    pub(super) clamped: Option<u32>,
}

/// A packet that has reached a host that takes it.
pub(super) struct Arrival<'a> {
    pub(super) machine: &'a Machine,
    pub(super) packet: Packet,
}

/// What the director remembers of the connection.
pub(super) struct Connection<'a> {
    pub(super) director: &'a HostName,
    pub(super) client: IpAddr,
    pub(super) vip: IpAddr,
    /// The port that the client asks.
    pub(super) port: u16,
    pub(super) rip: IpAddr,
    pub(super) rewrites: bool,
    /// FULLNAT: the director's own address that real servers see.
    pub(super) hides_behind: Option<IpAddr>,
}

/// Which packets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketStage {
    /// The first in each direction.
    First,
    /// One after these.
    Later,
}
