//! Neighbour discovery on one interface: finding the hosts that have an IPv6 address (RFC 4861), as
//! [`super::arp`] does for IPv4.
//!
//! It uses a raw ICMPv6 socket: the kernel adds checksum and source address, and delivers a copy of each
//! received advertisement (net/ipv6/raw.c).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recv,
    sendmsg, setsockopt, socket, sockopt,
};

use super::arp::{Mac, readable_before};
use super::error::{Error, Result};
use crate::names::IfName;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options: the link-layer address of a solicitation's sender, and of an advertisement's target.
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Flags of an advertisement (RFC 4861, 4.4).
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Bytes: type, code, checksum, flags, target address.
const HEADER: usize = 24;
/// Hosts ignore neighbour discovery with another hop limit: a router could have forwarded it (RFC 4861, 7.1).
const HOP_LIMIT: i32 = 255;
/// Solicitations per query: a packet can get lost.
const SOLICITATIONS: u32 = 3;

/// The solicited-node multicast address of `target` (RFC 4291, 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

fn solicitation(mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[SOURCE_LINK_ADDRESS, 1]);
    message.extend_from_slice(&mac.0);
    message
}

/// An unsolicited advertisement (RFC 4861, 7.2.6): the hosts that know `target` replace its link-layer address.
fn unsolicited(mac: Mac, target: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = OVERRIDE | if router { ROUTER } else { 0 };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[TARGET_LINK_ADDRESS, 1]);
    message.extend_from_slice(&mac.0);
    message
}

/// The target and its link-layer address, if `message` is an advertisement.
fn advertiser(message: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    let (head, mut options) = message.split_at_checked(HEADER)?;
    if head.first() != Some(&ADVERTISEMENT) {
        return None;
    }
    let target: [u8; 16] = head.get(8..)?.try_into().ok()?;
    while let [kind, length, ..] = options {
        // In units of 8 bytes; 0 is not allowed, and the loop would not end.
        let length = usize::from(*length) * 8;
        let (option, rest) = options.split_at_checked(length).filter(|_| length > 0)?;
        if *kind == TARGET_LINK_ADDRESS
            && let [_, _, mac @ ..] = option
        {
            return Some((target.into(), Mac(mac.try_into().ok()?)));
        }
        options = rest;
    }
    None
}

/// A query for the hosts that have certain addresses.
#[derive(Debug)]
pub struct NeighbourQuery {
    socket: OwnedFd,
    solicitations: BTreeMap<Ipv6Addr, (Vec<u8>, SockaddrIn6)>,
}

impl NeighbourQuery {
    /// Opens the socket on `dev`, in the network namespace of the calling thread.
    pub fn prepare(dev: &IfName, targets: impl IntoIterator<Item = Ipv6Addr>) -> Result<Self> {
        let mac = mac_of(dev)?;
        let socket = open(dev).map_err(|errno| {
            let cure = (errno == Errno::EPERM).then_some("it needs root with CAP_NET_RAW");
            Error::new(format!("cannot open an ICMPv6 socket on {dev}"))
                .because(io::Error::from(errno))
                .maybe_cure(cure)
        })?;
        // A lookup by name can load a module (see `modules`); not here, where the interface exists.
        let index = nix::net::if_::if_nametoindex(dev.as_str()).map_err(|errno| {
            Error::new(format!("this host has no interface {dev}")).because(errno)
        })?;
        let solicit = |target: Ipv6Addr| {
            let to = SocketAddrV6::new(solicited_node(target), 0, 0, index);
            (target, (solicitation(mac, target), to.into()))
        };
        Ok(Self { socket, solicitations: targets.into_iter().map(solicit).collect() })
    }

    /// Sends three solicitations for each target within `wait`, and returns the hardware addresses of the hosts
    /// that answer. Blocks; any thread may call it.
    pub fn run(&self, wait: Duration) -> io::Result<BTreeMap<Ipv6Addr, BTreeSet<Mac>>> {
        let start = Instant::now();
        let mut answers: BTreeMap<Ipv6Addr, BTreeSet<Mac>> = BTreeMap::new();
        for round in 1..=SOLICITATIONS {
            for (message, to) in self.solicitations.values() {
                let message = [IoSlice::new(message)];
                let none = MsgFlags::empty();
                sendmsg(self.socket.as_raw_fd(), &message, &[], none, Some(to))?;
            }
            let until = start + wait * round / SOLICITATIONS;
            while readable_before(&self.socket, until)? {
                let mut bytes = [0; 1280];
                match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => {
                        let answer = advertiser(bytes.get(..length).unwrap_or_default());
                        if let Some((target, mac)) =
                            answer.filter(|(target, _)| self.solicitations.contains_key(target))
                        {
                            answers.entry(target).or_default().insert(mac);
                        }
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        Ok(answers)
    }
}

/// Announces `address` of `mac` on `dev` once, to all hosts on the link. EINVAL as long as the kernel looks for
/// duplicates of it (RFC 4862, 5.4; net/ipv6/datagram.c, `ip6_datagram_send_ctl`).
///
/// The router flag is the interface's own: a host that sees it missing takes the sender for no router any more.
pub(super) fn announce(dev: &IfName, mac: Mac, router: bool, address: Ipv6Addr) -> nix::Result<()> {
    let socket = open(dev)?;
    let index = nix::net::if_::if_nametoindex(dev.as_str())?;
    let source = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
        ipi6_ifindex: index,
    };
    let message = unsolicited(mac, address, router);
    let to: SockaddrIn6 = SocketAddrV6::new(ALL_NODES, 0, 0, index).into();
    let message = [IoSlice::new(&message)];
    let control = [ControlMessage::Ipv6PacketInfo(&source)];
    sendmsg(socket.as_raw_fd(), &message, &control, MsgFlags::empty(), Some(&to)).map(drop)
}

fn open(dev: &IfName) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    setsockopt(&socket, sockopt::BindToDevice, &dev.as_str().into())?;
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &HOP_LIMIT)?;
    Ok(socket)
}

/// The hardware address of `dev`; an error unless it is up and has one.
fn mac_of(dev: &IfName) -> Result<Mac> {
    let all = getifaddrs().map_err(|errno| {
        Error::new("cannot read the interfaces").because(io::Error::from(errno))
    })?;
    let mut up = None;
    let mut mac = None;
    for entry in all.filter(|entry| entry.interface_name == dev.as_str()) {
        up = Some(entry.flags.contains(InterfaceFlags::IFF_UP));
        let link = entry.address.as_ref().and_then(|address| address.as_link_addr());
        let bytes =
            link.filter(|link| link.halen() == 6).and_then(nix::sys::socket::LinkAddr::addr);
        mac = mac.or(bytes.filter(|bytes| *bytes != [0; 6]).map(Mac));
    }
    match (up, mac) {
        (None, _) => Err(Error::new(format!("this host has no interface {dev}"))),
        (Some(false), _) => {
            Err(Error::new(format!("interface {dev} is down: no host can be reached over it")))
        }
        (Some(true), None) => Err(Error::new(format!(
            "interface {dev} has no hardware address: no host can be reached over it"
        ))),
        (Some(true), Some(mac)) => Ok(mac),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x1234, 0x5678);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn advertisement(target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
        let mut message = vec![ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        message.extend_from_slice(options);
        message
    }

    #[test]
    fn the_solicited_node_address_ends_like_the_target() {
        assert_eq!(solicited_node(VIP).to_string(), "ff02::1:ff34:5678");
    }

    #[test]
    fn an_announcement_overrides_and_is_not_solicited() {
        for (router, flags) in [(false, 0x20), (true, 0xa0)] {
            let message = unsolicited(MAC, VIP, router);
            assert_eq!(message[..8], [136, 0, 0, 0, flags, 0, 0, 0]);
            assert_eq!(advertiser(&message), Some((VIP, MAC)));
        }
    }

    #[test]
    fn only_a_whole_advertisement_is_an_answer() {
        let link_address = [TARGET_LINK_ADDRESS, 1, 2, 0, 0, 0, 0, 7];
        let good = advertisement(VIP, &link_address);
        assert_eq!(advertiser(&good), Some((VIP, MAC)));
        assert_eq!(advertiser(&solicitation(MAC, VIP)), None);
        assert_eq!(advertiser(&advertisement(VIP, &[])), None);
        for length in 0..good.len() {
            assert_eq!(advertiser(&good[..length]), None, "{length} bytes");
        }
        // After another option (a nonce, RFC 3971), and after one of length 0.
        let nonce = [14, 1, 9, 9, 9, 9, 9, 9];
        let behind = |first: [u8; 8]| advertisement(VIP, &[first, link_address].concat());
        assert_eq!(advertiser(&behind(nonce)), Some((VIP, MAC)));
        assert_eq!(advertiser(&behind([14, 0, 9, 9, 9, 9, 9, 9])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96), whole: bool) {
            let bytes = if whole { advertisement(VIP, &bytes) } else { bytes };
            let _ = advertiser(&bytes);
        }
    }

    #[test]
    fn fuzz_ndp() {
        let seeds = vec![
            advertisement(VIP, &[TARGET_LINK_ADDRESS, 1, 2, 0, 0, 0, 0, 7]),
            advertisement(
                VIP,
                &[14, 1, 9, 9, 9, 9, 9, 9, TARGET_LINK_ADDRESS, 1, 2, 0, 0, 0, 0, 7],
            ),
            solicitation(MAC, VIP),
        ];
        crate::support::fuzz::target!("fuzz_ndp", 10_000, seeds, |bytes| {
            let _ = advertiser(bytes);
        });
    }
}
