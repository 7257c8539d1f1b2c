//! A packet as nftables rules at a hook see it, in the bytes that they load. Pure.

use std::net::IpAddr;

use super::registers::{MaybeByte, known};
use crate::names::IfName;
use crate::state::firewall::{FilterField, Firewall};

/// A device of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketDevice<'a> {
    /// None at this hook.
    None,
    /// This one.
    Is(&'a IfName),
    /// Kernels differ.
    Unclear,
}

/// A packet as the rules at a hook see it.
#[derive(Debug, Clone, Copy)]
pub struct HookedPacket<'a> {
    /// Where it came in.
    pub incoming: PacketDevice<'a>,
    /// By which it leaves.
    pub outgoing: PacketDevice<'a>,
    /// Its source; unspecified: that is not known.
    pub source: IpAddr,
    /// Its destination; unspecified: that is not known.
    pub target: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// Its ports, if the protocol has any; `None` for one: the client's, which the kernel chose.
    pub ports: Option<[Option<u16>; 2]>,
    /// Flags of TCP.
    pub tcp_flags: Option<u8>,
    /// Type and code of a message of ICMP or ICMPv6.
    pub icmp: Option<[u8; 2]>,
    /// Its mark.
    pub mark: Option<u32>,
    /// The state of its connection.
    pub state: Option<u32>,
    /// Connection tracking has not seen it before this hook.
    pub is_fresh: bool,
}

fn device_number(firewall: &Firewall, device: PacketDevice<'_>) -> Option<u32> {
    match device {
        PacketDevice::None => Some(0),
        PacketDevice::Is(name) => firewall.indexes.get(name).copied(),
        PacketDevice::Unclear => None,
    }
}

fn address_bytes(octets: &[u8]) -> Vec<MaybeByte> {
    let is_known = octets.iter().any(|byte| *byte != 0);
    if is_known { known(octets) } else { vec![None; octets.len()] }
}

/// IFNAMSIZ bytes.
fn device_name(device: PacketDevice<'_>) -> Vec<MaybeByte> {
    let name = match device {
        PacketDevice::None => "",
        PacketDevice::Is(name) => name.as_str(),
        PacketDevice::Unclear => return vec![None; 16],
    };
    let mut bytes = known(name.as_bytes());
    bytes.resize(16, Some(0));
    bytes
}

impl HookedPacket<'_> {
    /// What an expression loads (net/netfilter/nft_meta.c, nft_payload.c, nft_ct.c).
    pub(super) fn load(&self, firewall: &Firewall, field: FilterField) -> Vec<MaybeByte> {
        let packet = self;
        let ipv6 = packet.source.is_ipv6();
        let host_order = |number: Option<u32>| match number {
            Some(number) => known(&number.to_ne_bytes()),
            None => vec![None; 4],
        };
        let part = |header: &[MaybeByte], offset: u8, length: u8| {
            let bytes = (usize::from(offset)..).take(usize::from(length));
            bytes.map(|at| header.get(at).copied().flatten()).collect()
        };
        match field {
            FilterField::InNumber => host_order(device_number(firewall, packet.incoming)),
            FilterField::OutNumber => host_order(device_number(firewall, packet.outgoing)),
            FilterField::InName => device_name(packet.incoming),
            FilterField::OutName => device_name(packet.outgoing),
            FilterField::Mark => host_order(packet.mark),
            FilterField::State => host_order(packet.state),
            FilterField::Family => vec![Some(if ipv6 { 10 } else { 2 })],
            FilterField::EtherType => known(if ipv6 { &[0x86, 0xdd] } else { &[8, 0] }),
            FilterField::Protocol => vec![Some(packet.protocol)],
            FilterField::Network { offset, length } => {
                part(&packet.network_header(), offset, length)
            }
            FilterField::Transport { offset, length } => {
                part(&packet.transport_header(), offset, length)
            }
        }
    }

    /// The IP header (RFC 791, 3.1; RFC 8200, 3). Packets are whole, and have no options.
    fn network_header(&self) -> Vec<MaybeByte> {
        let (mut header, protocol) = (Vec::with_capacity(40), Some(self.protocol));
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let (whole, plain) = (Some(0x40), Some(0));
                header.extend([Some(0x45), plain, None, None, None, None, whole, plain]);
                header.extend([None, protocol, None, None]);
                header.extend(address_bytes(&source.octets()));
                header.extend(address_bytes(&target.octets()));
            }
            (source, target) => {
                let plain = Some(0);
                header.extend([Some(0x60), plain, plain, plain, None, None, protocol, None]);
                for address in [source, target] {
                    if let IpAddr::V6(address) = address {
                        header.extend(address_bytes(&address.octets()));
                    }
                }
            }
        }
        header
    }

    /// Ports, and the flags of TCP (RFC 9293, 3.1); or the type and code of ICMP (RFC 4443, 2.1).
    fn transport_header(&self) -> Vec<MaybeByte> {
        if let Some(header) = self.icmp {
            return known(&header);
        }
        let Some(ports) = self.ports else { return Vec::new() };
        let mut header = Vec::with_capacity(14);
        for port in ports {
            header.extend(port.map_or_else(|| vec![None; 2], |port| known(&port.to_be_bytes())));
        }
        if self.tcp_flags.is_some() {
            header.resize(13, None);
            header.push(self.tcp_flags);
        }
        header
    }
}
