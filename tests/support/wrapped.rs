//! Wrapped packets made by hand, in each form in which a kernel takes them, and with any source outside.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use lvsprov::state::TunnelHeader;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::support::netns_host::NetnsHost;

/// The port that every datagram inside is for.
pub const PORT: u16 = 5000;

/// Numbers of protocols (include/uapi/linux/in.h).
pub const IPIP: u8 = 4;
pub const IPV6: u8 = 41;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
const GRE: u8 = 47;

/// A form of wrapping: its name, the protocol behind the header outside, and what comes behind that.
pub struct Form {
    pub name: String,
    pub protocol: u8,
    pub body: Vec<u8>,
    /// A director sends it so.
    pub is_plain: bool,
}

impl Form {
    /// The packet outside.
    pub fn packet(&self, (source, target): (IpAddr, IpAddr)) -> Vec<u8> {
        ip((source, target), self.protocol, &self.body)
    }
}

/// A packet of IPv4 or IPv6. The kernel that sends it fills in the checksum.
pub fn ip((source, target): (IpAddr, IpAddr), protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let length = u16::try_from(20 + body.len()).unwrap();
            all.extend([0x45, 0]);
            all.extend(length.to_be_bytes());
            all.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
            all.extend(source.octets());
            all.extend(target.octets());
            let sum = checksum(&all);
            all[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            all.extend([0x60, 0, 0, 0]);
            all.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            all.extend([protocol, 64]);
            all.extend(source.octets());
            all.extend(target.octets());
        }
        both => panic!("two families: {both:?}"),
    }
    all.extend(body);
    all
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| {
        u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A datagram with its checksum.
fn udp((source, target): (IpAddr, IpAddr), port: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + body.len()).unwrap();
    let mut all = [4000_u16, port, length, 0].map(u16::to_be_bytes).concat();
    all.extend(body);
    let mut pseudo = [octets(source), octets(target)].concat();
    pseudo.extend([0, UDP]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&all);
    all[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    all
}

/// The packet inside: a datagram that holds `text`.
pub fn inside((source, target): (IpAddr, IpAddr), text: &str) -> Vec<u8> {
    ip((source, target), UDP, &udp((source, target), PORT, text.as_bytes()))
}

fn protocol_of(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 6 { IPV6 } else { IPIP }
}

/// `outside`: source and target there, for the checksum of UDP.
pub fn forms(
    header: TunnelHeader,
    outside: (IpAddr, IpAddr),
    inside: impl Fn(&str) -> Vec<u8>,
) -> Vec<Form> {
    match header {
        TunnelHeader::None => {
            let body = inside("plain");
            let protocol = protocol_of(&body);
            vec![Form { name: "plain".to_owned(), protocol, body, is_plain: true }]
        }
        TunnelHeader::Gre { checksum: sum } => gre_forms(sum, outside.0.is_ipv6(), &inside),
        TunnelHeader::Gue { port } => gue_forms(port, outside, &inside),
    }
}

fn gre_forms(sum: bool, outside_v6: bool, inside: &impl Fn(&str) -> Vec<u8>) -> Vec<Form> {
    let form = |name: &str, [flags, rest]: [u8; 2], wccp: bool, further: &[u8]| {
        let packet = inside(name);
        let kind = match (wccp, protocol_of(&packet)) {
            (true, _) => [0x88, 0x3e],
            (false, IPV6) => [0x86, 0xdd],
            (false, _) => [0x08, 0x00],
        };
        let mut body = vec![flags | if sum { 0x80 } else { 0 }, rest];
        body.extend(kind);
        if sum {
            body.extend([0; 4]);
        }
        body.extend(further);
        body.extend(packet);
        if sum {
            let sum = checksum(&body);
            body[4..6].copy_from_slice(&sum.to_be_bytes());
        }
        let is_plain = name == "plain";
        Form { name: name.to_owned(), protocol: GRE, body, is_plain }
    };
    let mut all = vec![
        form("plain", [0, 0], false, &[]),
        form("with a sequence number", [0x10, 0], false, &[0, 0, 0, 1]),
        form("with idle bits", [0x0f, 0x80], false, &[]),
    ];
    if !sum && outside_v6 == (protocol_of(&inside("")) == IPV6) {
        all.push(form("in WCCP 2", [0, 0], true, &[0; 4]));
        if !outside_v6 {
            all.push(form("in WCCP 1", [0, 0], true, &[]));
        }
    }
    all
}

fn gue_forms(port: u16, outside: (IpAddr, IpAddr), inside: &impl Fn(&str) -> Vec<u8>) -> Vec<Form> {
    let form = |name: &str, protocol: Option<u8>, before: &[u8]| {
        let packet = inside(name);
        let protocol = protocol.unwrap_or(protocol_of(&packet));
        let mut gue = before.to_vec();
        if let Some(its) = gue.get_mut(1) {
            *its = protocol;
        }
        gue.extend(packet);
        let body = udp(outside, port, &gue);
        Form { name: name.to_owned(), protocol: UDP, body, is_plain: name == "plain" }
    };
    let plain = |name: &str| form(name, None, &[0, 0, 0, 0]);
    let mut all = vec![
        plain("plain"),
        form("with 8 bytes more", None, &[&[2, 0, 0, 0][..], &[0; 8]].concat()),
        form("with 4 bytes more", None, &[&[1, 0, 0, 0][..], &[0; 4]].concat()),
        form("with 124 bytes more", None, &[&[31, 0, 0, 0][..], &[0; 124]].concat()),
        form("of version 1", None, &[]),
    ];
    // GUE in GUE: the datagram inside has no IP header of its own.
    let again = plain("twice");
    let mut gue = vec![0, UDP, 0, 0];
    gue.extend(again.body);
    let body = udp(outside, port, &gue);
    all.push(Form { name: "twice".to_owned(), protocol: UDP, body, is_plain: false });
    all
}

/// Behind an IPv6 header: headers with options that every host skips, of these numbers of bytes, multiples of 8 (RFC 8200,
/// 4.6); and what follows.
pub fn behind_options(headers: &[u8], (protocol, body): (u8, &[u8])) -> (u8, Vec<u8>) {
    headers.iter().rev().fold((protocol, body.to_vec()), |(next, behind), bytes| {
        // One option of a kind that nothing knows, and that may be skipped.
        let mut all = vec![next, bytes / 8 - 1, 0x1e, bytes - 4];
        all.extend(vec![0; usize::from(bytes - 4)]);
        all.extend(behind);
        (OPTIONS, all)
    })
}

/// A packet of IPv6 in two fragments, `first` bytes in the first: a multiple of 8.
pub fn fragments(
    outside: (IpAddr, IpAddr),
    (protocol, body): (u8, &[u8]),
    first: usize,
) -> [Vec<u8>; 2] {
    let fragment = |offset: usize, more: u16, part: &[u8]| {
        let place = u16::try_from(offset).unwrap() | more;
        let mut all = vec![protocol, 0];
        all.extend(place.to_be_bytes());
        all.extend(checksum(body).to_be_bytes());
        all.extend([0, 9]);
        all.extend(part);
        ip(outside, FRAGMENT, &all)
    };
    [fragment(0, 1, &body[..first]), fragment(first, 0, &body[first..])]
}

/// Sends whole packets from a namespace, with whatever source they name.
pub fn send(netns: &NetnsHost, target: IpAddr, packets: &[Vec<u8>]) {
    let family = if target.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    netns.run(|| {
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
        let to = SockaddrStorage::from(SocketAddr::new(target, 0));
        for packet in packets {
            sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
        }
    });
}
