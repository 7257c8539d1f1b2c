//! ARP on one interface: finding the hosts that have an address, and recording all ARP frames.
//!
//! Only Ethernet. Frames that are not complete ARP for IPv4 (RFC 826) are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, recvfrom};

use super::error::{Error, Result};
use super::sys;
use crate::names::IfName;

/// An Ethernet address, displayed as `aa:bb:cc:dd:ee:ff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

const BROADCAST: Mac = Mac([0xff; 6]);
/// Bytes: Ethernet header and ARP packet.
pub(crate) const FRAME: usize = 14 + 28;
/// PACKET_OUTGOING (include/uapi/linux/if_packet.h).
const OUTGOING: u8 = 4;
/// Requests per query: a frame can get lost.
const REQUESTS: u32 = 3;

/// `ar_op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// 1: asks for the hardware address of the target address.
    Request,
    /// 2: announces the sender's hardware address.
    Reply,
    /// Anything else.
    Other(u16),
}

/// An ARP frame as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArpFrame {
    /// Request or reply.
    pub operation: Operation,
    /// Sender hardware address in the ARP packet; the Ethernet header may have another.
    pub sender_mac: Mac,
    /// Sender protocol address; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Target protocol address; equal to the sender's in an announcement (RFC 5227).
    pub target_ip: Ipv4Addr,
    /// This host sent it (PACKET_OUTGOING).
    pub outgoing: bool,
}

impl ArpFrame {
    /// Parses an Ethernet frame; `None` if it is not ARP for IPv4 over Ethernet.
    pub fn parse(frame: &[u8], outgoing: bool) -> Option<Self> {
        let frame: &[u8; FRAME] = frame.first_chunk()?;
        // EtherType ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4.
        if frame[12..20] != [0x08, 0x06, 0, 1, 0x08, 0, 6, 4] {
            return None;
        }
        let operation = match u16::from_be_bytes([frame[20], frame[21]]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => Operation::Other(other),
        };
        let ip = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        let mut sender_mac = Mac([0; 6]);
        sender_mac.0.copy_from_slice(&frame[22..28]);
        Some(Self { operation, sender_mac, sender_ip: ip(28), target_ip: ip(38), outgoing })
    }
}

fn request_frame(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&BROADCAST.0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..20].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    frame[20..22].copy_from_slice(&1_u16.to_be_bytes());
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[38..].copy_from_slice(&target.octets());
    frame
}

/// The result of one read.
enum Received {
    Frame(ArpFrame),
    /// A packet that is not ARP.
    OtherPacket,
    /// No packet is queued.
    NoPacket,
}

/// Records every ARP frame of an interface from its opening on, received and sent.
///
/// It belongs to the network namespace of the thread that opens it; any thread may collect.
#[derive(Debug)]
pub struct ArpListener {
    socket: OwnedFd,
}

impl ArpListener {
    /// Starts listening on `dev`.
    pub fn open(dev: &IfName) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(dev.as_str())?;
        Ok(Self { socket: sys::open_arp_socket(index)? })
    }

    /// The frames since the last call or the opening; does not wait. An error if the kernel dropped frames:
    /// then the absence of a frame proves nothing.
    pub fn collect(&self) -> io::Result<Vec<ArpFrame>> {
        let mut frames = Vec::new();
        loop {
            match self.next()? {
                Received::Frame(frame) => frames.push(frame),
                Received::OtherPacket => {}
                Received::NoPacket => break,
            }
        }
        match sys::packets_lost(&self.socket)? {
            0 => Ok(frames),
            lost => Err(io::Error::other(format!("{lost} ARP frames were lost"))),
        }
    }

    fn next(&self) -> io::Result<Received> {
        let mut bytes = [0; 128];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
                Ok((length, from)) => {
                    let outgoing = from.is_some_and(|from| from.pkttype() == OUTGOING);
                    let frame = bytes.get(..length).unwrap_or_default();
                    let frame = ArpFrame::parse(frame, outgoing);
                    return Ok(frame.map_or(Received::OtherPacket, Received::Frame));
                }
                Err(Errno::EAGAIN) => return Ok(Received::NoPacket),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until a packet is queued; `false` after `patience`.
    pub fn wait(&self, patience: Duration) -> io::Result<bool> {
        readable_before(&self.socket, Instant::now() + patience)
    }
}

/// Waits until `socket` has something to receive; `false` if it has nothing at `deadline`.
pub(super) fn readable_before(socket: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up to milliseconds, so that the loop never spins.
        let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The addresses of an interface of this host.
struct InterfaceIdentity {
    mac: Mac,
    addresses: Vec<Ipv4Net>,
}

fn identity_of(dev: &IfName) -> Result<InterfaceIdentity> {
    let all = getifaddrs().map_err(|errno| {
        Error::new("cannot read the interfaces").because(io::Error::from(errno))
    })?;
    let mut mac = None;
    let mut flags = None;
    let mut addresses = Vec::new();
    for entry in all.filter(|entry| entry.interface_name == dev.as_str()) {
        flags = Some(entry.flags);
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            let bytes = link.addr().filter(|mac| link.halen() == mac.len() && *mac != [0; 6]);
            mac = bytes.map(Mac);
        } else if let Some(v4) = address.as_sockaddr_in() {
            let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in());
            let mask = mask.map_or(Ipv4Addr::BROADCAST, nix::sys::socket::SockaddrIn::ip);
            addresses.extend(Ipv4Net::with_netmask(v4.ip(), mask));
        }
    }
    let flags = flags.ok_or_else(|| Error::new(format!("this host has no interface {dev}")))?;
    if !flags.contains(InterfaceFlags::IFF_UP) {
        return Err(Error::new(format!("interface {dev} is down: no host can be reached over it")));
    }
    match mac {
        Some(mac) if !flags.contains(InterfaceFlags::IFF_NOARP) => {
            Ok(InterfaceIdentity { mac, addresses })
        }
        _ => Err(Error::new(format!("interface {dev} does not speak ARP: it is not Ethernet"))),
    }
}

/// The sender address of a request: one of the interface, preferably in the target's subnet. Never a host
/// address (a VIP) or the target itself, as neighbours learn the sender: without another address the request
/// is a probe (RFC 5227), which has no sender.
fn sender_for(addresses: &[Ipv4Net], target: Ipv4Addr) -> Ipv4Addr {
    let usable = || addresses.iter().filter(|net| net.prefix_len() < 32 && net.addr() != target);
    usable()
        .find(|net| net.contains(&target))
        .or_else(|| usable().next())
        .map_or(Ipv4Addr::UNSPECIFIED, Ipv4Net::addr)
}

/// Which sender the requests of a query name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpSender {
    /// An address of the interface.
    Own,
    /// None: an address that this host may get soon (RFC 5227, 2.1.1). A router with `proxy_arp` does not answer
    /// (net/ipv4/arp.c, `arp_process`).
    Unspecified,
}

/// A query for the hosts that have certain addresses.
#[derive(Debug)]
pub struct ArpQuery {
    listener: ArpListener,
    requests: BTreeMap<Ipv4Addr, [u8; FRAME]>,
    sender: ArpSender,
}

impl ArpQuery {
    /// Opens the socket on `dev`, in the network namespace of the calling thread.
    pub fn prepare(
        dev: &IfName,
        targets: impl IntoIterator<Item = Ipv4Addr>,
        sender: ArpSender,
    ) -> Result<Self> {
        let InterfaceIdentity { mac, addresses } = identity_of(dev)?;
        let listener = ArpListener::open(dev).map_err(|error| {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            Error::new(format!("cannot open a packet socket on {dev}"))
                .because(error)
                .maybe_cure(denied.then_some("it needs root with CAP_NET_RAW"))
        })?;
        let request = |target| {
            let sender = match sender {
                ArpSender::Own => sender_for(&addresses, target),
                ArpSender::Unspecified => Ipv4Addr::UNSPECIFIED,
            };
            (target, request_frame(mac, sender, target))
        };
        Ok(Self { listener, requests: targets.into_iter().map(request).collect(), sender })
    }

    /// Sends three requests for each target within `wait`, and returns the hardware addresses of the hosts that
    /// answer. Blocks; any thread may call it.
    pub fn run(&self, wait: Duration) -> io::Result<BTreeMap<Ipv4Addr, BTreeSet<Mac>>> {
        let start = Instant::now();
        let mut answers: BTreeMap<Ipv4Addr, BTreeSet<Mac>> = BTreeMap::new();
        for round in 1..=REQUESTS {
            for request in self.requests.values() {
                send(&self.listener.socket, request)?;
            }
            let until = start + wait * round / REQUESTS;
            while self.listener.wait(until.saturating_duration_since(Instant::now()))? {
                if let Received::Frame(frame) = self.listener.next()?
                    && self.is_answer(&frame)
                {
                    answers.entry(frame.sender_ip).or_default().insert(frame.sender_mac);
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        Ok(answers)
    }

    /// Whether its sender has a target. To a probe a request counts too (RFC 5227, 2.1.1).
    fn is_answer(&self, frame: &ArpFrame) -> bool {
        let counts = match self.sender {
            ArpSender::Own => frame.operation == Operation::Reply,
            ArpSender::Unspecified => true,
        };
        counts && !frame.outgoing && self.requests.contains_key(&frame.sender_ip)
    }
}

/// Sends a frame on a packet socket; waits a little where the interface's queue is full.
fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    for _ in 0..100 {
        match nix::unistd::write(socket, frame) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::ENOBUFS.into())
}

/// Announces each address of `mac` on `dev` once: a request for the sender's own address (RFC 5227, 3).
pub(super) fn announce(
    dev: &IfName,
    mac: Mac,
    addresses: impl IntoIterator<Item = Ipv4Addr>,
) -> io::Result<()> {
    let ArpListener { socket } = ArpListener::open(dev)?;
    addresses.into_iter().try_for_each(|own| send(&socket, &request_frame(mac, own, own)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const US: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_request_survives_its_encoding() {
        let (sender, target) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 9));
        let frame = ArpFrame::parse(&request_frame(US, sender, target), true).unwrap();
        let expected = ArpFrame {
            operation: Operation::Request,
            sender_mac: US,
            sender_ip: sender,
            target_ip: target,
            outgoing: true,
        };
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_hardware_address_is_hexadecimal_with_colons() {
        assert_eq!(Mac([2, 0, 10, 255, 1, 16]).to_string(), "02:00:0a:ff:01:10");
    }

    #[test]
    fn a_truncated_frame_is_dropped_and_padding_does_not_matter() {
        let (sender, target) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 9));
        let mut frame = request_frame(US, sender, target).to_vec();
        let whole = ArpFrame::parse(&frame, false);
        assert!(whole.is_some());
        for length in 0..FRAME {
            assert_eq!(ArpFrame::parse(&frame[..length], false), None, "{length} bytes");
        }
        frame.resize(60, 0);
        assert_eq!(ArpFrame::parse(&frame, false), whole);
    }

    #[test]
    fn the_sender_is_in_the_targets_subnet_and_never_a_vip() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let target = Ipv4Addr::new(192, 0, 2, 9);
        let all = [net("198.51.100.1/24"), net("192.0.2.7/32"), net("192.0.2.1/24")];
        assert_eq!(sender_for(&all, target), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(sender_for(&all[..2], target), Ipv4Addr::new(198, 51, 100, 1));
        assert_eq!(sender_for(&all[1..2], target), Ipv4Addr::UNSPECIFIED);
        assert_eq!(sender_for(&[net("192.0.2.9/24")], target), Ipv4Addr::UNSPECIFIED);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = ArpFrame::parse(&bytes, false);
        }

        #[test]
        fn a_frame_with_any_addresses_is_read(addresses: [u8; 20], operation: u16) {
            let mut frame = request_frame(US, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
            frame[20..22].copy_from_slice(&operation.to_be_bytes());
            frame[22..].copy_from_slice(&addresses);
            let arp = ArpFrame::parse(&frame, false).unwrap();
            prop_assert_eq!(&arp.sender_mac.0[..], &addresses[..6]);
            prop_assert_eq!(&arp.sender_ip.octets()[..], &addresses[6..10]);
            prop_assert_eq!(&arp.target_ip.octets()[..], &addresses[16..]);
        }

        #[test]
        fn other_packets_are_dropped(at in 12_usize..20, flip in 1_u8..) {
            let mut frame = request_frame(US, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
            frame[at] ^= flip;
            prop_assert_eq!(ArpFrame::parse(&frame, false), None);
        }
    }
}
