//! Neighbour discovery on one interface: asking who has an IPv6 address (RFC 4861). What [`super::arp`]
//! is for IPv4.
//!
//! A raw ICMPv6 socket does: the kernel adds checksum and source address, and gives it a copy of each
//! advertisement that comes in (net/ipv6/raw.c).

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recv, sendmsg,
    setsockopt, socket, sockopt,
};

use super::arp::Mac;
use super::error::{Error, Result};
use crate::names::IfName;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options: the link-layer address of whoever sends a solicitation, and of whom an advertisement is for.
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Type, code, checksum, flags, target address.
const HEADER: usize = 24;
/// Any other is not heard: it could come from beyond the link.
const HOP_LIMIT: i32 = 255;
/// How often is asked: a packet can get lost.
const ASKS: u32 = 3;

/// The group that everybody with an address that ends like `target` listens to (RFC 4291, 2.7.1).
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

/// Who says in `message` that it has `target`; `None` if nobody does.
fn advertiser(message: &[u8], target: Ipv6Addr) -> Option<Mac> {
    let (head, mut options) = message.split_at_checked(HEADER)?;
    if head.first() != Some(&ADVERTISEMENT) || head.get(8..) != Some(target.octets().as_slice()) {
        return None;
    }
    while let [kind, length, ..] = options {
        // In units of 8 bytes; 0 is not allowed and would never end.
        let length = usize::from(*length) * 8;
        let (option, rest) = options.split_at_checked(length).filter(|_| length > 0)?;
        if *kind == TARGET_LINK_ADDRESS
            && let [_, _, mac @ ..] = option
        {
            return mac.try_into().ok().map(Mac);
        }
        options = rest;
    }
    None
}

/// Somebody is being asked for.
#[derive(Debug)]
pub struct NeighbourQuery {
    socket: OwnedFd,
    message: Vec<u8>,
    to: SockaddrIn6,
    target: Ipv6Addr,
}

impl NeighbourQuery {
    /// Gets ready to ask over `dev`, in the network namespace of the calling thread.
    pub fn prepare(dev: &IfName, target: Ipv6Addr) -> Result<Self> {
        let mac = mac_of(dev)?;
        let socket = open(dev).map_err(|errno| {
            let cure = (errno == Errno::EPERM).then_some("root with CAP_NET_RAW is needed");
            Error::new(format!("cannot open an ICMPv6 socket on {dev}"))
                .because(io::Error::from(errno))
                .maybe_cure(cure)
        })?;
        // Not by its name: see `modules`. The interface is there, since it has a hardware address.
        let index = nix::net::if_::if_nametoindex(dev.as_str())
            .map_err(|errno| Error::new(format!("there is no interface {dev}")).because(errno))?;
        let to = SocketAddrV6::new(solicited_node(target), 0, 0, index);
        Ok(Self { socket, message: solicitation(mac, target), to: to.into(), target })
    }

    /// Asks three times within `wait`, and names everybody who answers. Blocks; any thread may.
    pub fn ask(&self, wait: Duration) -> io::Result<BTreeSet<Mac>> {
        let start = Instant::now();
        let mut answers = BTreeSet::new();
        for round in 1..=ASKS {
            let message = [IoSlice::new(&self.message)];
            let none = MsgFlags::empty();
            sendmsg(self.socket.as_raw_fd(), &message, &[], none, Some(&self.to))?;
            let until = start + wait * round / ASKS;
            while self.wait(until)? {
                let mut bytes = [0; 1280];
                match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => {
                        let message = bytes.get(..length).unwrap_or_default();
                        answers.extend(advertiser(message, self.target));
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

    /// Waits for a message; `false` if none came until then.
    fn wait(&self, until: Instant) -> io::Result<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, so that it never spins.
            let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn open(dev: &IfName) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    setsockopt(&socket, sockopt::BindToDevice, &dev.as_str().into())?;
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &HOP_LIMIT)?;
    Ok(socket)
}

/// The hardware address of an interface that can be asked over.
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
        (None, _) => Err(Error::new(format!("there is no interface {dev} on this host"))),
        (Some(false), _) => {
            Err(Error::new(format!("interface {dev} is down: nobody can be asked over it")))
        }
        (Some(true), None) => Err(Error::new(format!(
            "interface {dev} has no hardware address: nobody can be asked over it"
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
    fn who_is_asked_listens_to_the_group_of_the_address() {
        assert_eq!(solicited_node(VIP).to_string(), "ff02::1:ff34:5678");
    }

    #[test]
    fn only_an_advertisement_of_the_address_is_an_answer() {
        let said = [TARGET_LINK_ADDRESS, 1, 2, 0, 0, 0, 0, 7];
        let good = advertisement(VIP, &said);
        assert_eq!(advertiser(&good, VIP), Some(MAC));
        assert_eq!(advertiser(&good, Ipv6Addr::LOCALHOST), None);
        assert_eq!(advertiser(&solicitation(MAC, VIP), VIP), None);
        assert_eq!(advertiser(&advertisement(VIP, &[]), VIP), None);
        for length in 0..good.len() {
            assert_eq!(advertiser(&good[..length], VIP), None, "{length} bytes");
        }
        // Behind another option (a nonce, RFC 3971), and behind one that says it has no length.
        let nonce = [14, 1, 9, 9, 9, 9, 9, 9];
        assert_eq!(advertiser(&advertisement(VIP, &[nonce, said].concat()), VIP), Some(MAC));
        assert_eq!(
            advertiser(&advertisement(VIP, &[[14, 0, 9, 9, 9, 9, 9, 9], said].concat()), VIP),
            None
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96), whole: bool) {
            let bytes = if whole { advertisement(VIP, &bytes) } else { bytes };
            let _ = advertiser(&bytes, VIP);
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
            let _ = advertiser(bytes, VIP);
        });
    }
}
