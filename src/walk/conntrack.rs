//! What connection tracking of the hosts knows of the connection that is followed (net/netfilter/nf_conntrack_core.c,
//! `nf_conntrack_in`; nf_conntrack_proto_tcp.c, `tcp_conntracks`). Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::filter::{ESTABLISHED, INVALID, NEW};
use crate::names::HostName;
use crate::state::Protocol;

/// A packet as connection tracking sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrackedPacket {
    pub(super) client: IpAddr,
    pub(super) server: IpAddr,
    /// The server's.
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// It goes from the server to the client.
    pub(super) is_reply: bool,
    /// It is none of the first packet in each direction.
    pub(super) is_later: bool,
}

/// Directions in which a host has tracked a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Directions {
    request: bool,
    reply: bool,
}

/// What all hosts have tracked.
#[derive(Debug, Default)]
pub(super) struct TrackedConnections<'a>(BTreeMap<(&'a HostName, IpAddr, IpAddr, u16), Directions>);

impl<'a> TrackedConnections<'a> {
    /// The state that `host` gives a packet; `None`: that is not known.
    pub(super) fn state(&mut self, host: &'a HostName, packet: &TrackedPacket) -> Option<u32> {
        let TrackedPacket { client, server, port, protocol, is_reply, is_later } = *packet;
        let known = self.0.entry((host, client, server, port)).or_default();
        if is_reply {
            known.reply |= known.request;
            return if known.request { Some(ESTABLISHED) } else { alone(protocol, is_later) };
        }
        if !is_later {
            known.request = true;
            return Some(NEW);
        }
        match (protocol, known.request, known.reply) {
            (_, true, true) => Some(ESTABLISHED),
            (Protocol::Udp, _, false) => Some(NEW),
            // An acknowledgement of a reply that it did not see.
            (Protocol::Tcp, true, false) => Some(INVALID),
            (Protocol::Tcp, false, _) => alone(protocol, is_later),
            _ => None,
        }
    }

    /// `host` does not keep the connection.
    pub(super) fn forget(&mut self, host: &'a HostName, packet: &TrackedPacket) {
        self.0.remove(&(host, packet.client, packet.server, packet.port));
    }
}

/// The state of a packet of a connection that the host does not know and that the packet does not begin: TCP is picked up in the
/// middle (`nf_conntrack_tcp_loose`), but not by a SYN-ACK.
pub(super) fn alone(protocol: Protocol, is_later: bool) -> Option<u32> {
    match (protocol, is_later) {
        (Protocol::Udp, _) | (Protocol::Tcp, true) => Some(NEW),
        (Protocol::Tcp | Protocol::Sctp, false) => Some(INVALID),
        (Protocol::Sctp, true) => None,
    }
}
