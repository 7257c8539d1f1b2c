//! Captures every ARP and IPv6 neighbour discovery frame of the lab, to show which host claimed an address
//! and which did not.
//!
//! The capture runs in the switch's namespace, where no host notices it. A packet socket there gets a
//! frame several times: from the ports, and from the bridge, because bridges of the lab are promiscuous
//! (net/bridge/br_input.c, `br_pass_frame_up`). Only the bridge's copy is kept, so each frame appears
//! once, with its network. [`crate::lab::Lab::owner_of`] has the owner of a hardware address.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};

use super::neighbour::{self, NeighbourFrame};
use super::{Lab, LabError};
pub use crate::kernel::arp::{ArpFrame, Mac, Operation};
use crate::kernel::namespace;
use crate::names::NetworkName;

/// A captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedFrame {
    /// Time of the read, possibly a little after the send.
    pub at: Instant,
    /// Its network.
    pub network: NetworkName,
    /// Its content.
    pub content: AddressFrame,
}

/// A frame that announces the owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressFrame {
    /// IPv4.
    Arp(ArpFrame),
    /// IPv6.
    Neighbour(NeighbourFrame),
}

impl AddressFrame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let arp = ArpFrame::parse(bytes, false).map(Self::Arp);
        arp.or_else(|| NeighbourFrame::parse(bytes).map(Self::Neighbour))
    }
}

/// Receive buffer in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A running capture. Ends when stopped or dropped.
pub struct FrameCapture {
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<io::Result<CapturedFrames>>>,
}

#[derive(Default)]
struct CapturedFrames {
    frames: Vec<CapturedFrame>,
    lost: u32,
}

impl FrameCapture {
    /// Starts the capture. Frames sent after the return are captured.
    ///
    /// # Errors
    /// If the packet socket cannot be opened (`CAP_NET_RAW`).
    pub fn start(lab: &Lab) -> Result<Self, LabError> {
        Self::start_in(lab.switch(), lab.networks_by_bridge().clone())
    }

    /// Starts the capture in the namespace of another switch, on its bridges by interface index. They must be
    /// promiscuous.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(
        switch: impl AsFd,
        networks: BTreeMap<u32, NetworkName>,
    ) -> Result<Self, LabError> {
        let problem = || LabError::io("capture ARP in the switch");
        let socket = namespace::run_in(switch, open).map_err(problem())?.map_err(problem())?;
        let (stopped, stop) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(LabError::errno("make a pipe"))?;
        let name = "arp".to_owned();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || listen(&socket, &stopped, &networks))
            .map_err(problem())?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Stops and returns all frames, in the order of capture.
    ///
    /// # Errors
    /// If the kernel dropped frames: then the capture proves nothing.
    pub fn stop(mut self) -> Result<Vec<CapturedFrame>, LabError> {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        let captured = match thread.join() {
            Ok(captured) => captured.map_err(LabError::io("capture ARP in the switch"))?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let CapturedFrames { frames, lost } = captured;
        if lost > 0 {
            let error = io::Error::other(format!(
                "the kernel dropped {lost} frames, \
                possibly ARP: too much traffic for a complete capture"
            ));
            return Err(LabError::io("capture all ARP frames")(error));
        }
        Ok(frames)
    }
}

/// Must be called in the namespace of the switch.
fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    Ok(socket)
}

fn listen(
    socket: &OwnedFd,
    stopped: &OwnedFd,
    networks: &BTreeMap<u32, NetworkName>,
) -> io::Result<CapturedFrames> {
    let mut captured = CapturedFrames::default();
    loop {
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = fds[1].revents().is_some_and(|events| !events.is_empty());
        // Also at the end: the socket may still have frames.
        while receive(socket, networks, &mut captured)? {}
        if ended {
            return Ok(captured);
        }
    }
}

/// Reads one frame from the socket; false if it has none.
fn receive(
    socket: &OwnedFd,
    networks: &BTreeMap<u32, NetworkName>,
    captured: &mut CapturedFrames,
) -> io::Result<bool> {
    let mut bytes = [0; neighbour::FRAME];
    let mut control = nix::cmsg_space!(u32);
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let (length, from, lost) =
        match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags) {
            Ok(message) => {
                // The kernel's count of dropped frames so far (SO_RXQ_OVFL, socket(7)).
                let lost = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::RxqOvfl(lost) => Some(lost),
                    _ => None,
                });
                (message.bytes, message.address, lost)
            }
            Err(nix::Error::EAGAIN) => return Ok(false),
            // A removed interface or a signal: neither loses frames.
            Err(nix::Error::ENETDOWN | nix::Error::EINTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
    captured.lost = captured.lost.max(lost.unwrap_or(0));
    // Frames of other interfaces are copies, or sent by the bridge itself.
    let from = from.filter(|from| from.pkttype() != libc::PACKET_OUTGOING);
    let bridge = from.and_then(|from| u32::try_from(from.ifindex()).ok());
    if let Some(network) = bridge.and_then(|bridge| networks.get(&bridge))
        && let Some(content) = AddressFrame::parse(bytes.get(..length).unwrap_or_default())
    {
        captured.frames.push(CapturedFrame {
            at: Instant::now(),
            network: network.clone(),
            content,
        });
    }
    Ok(true)
}

/// The claims of one hardware address to an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Time of the first claim.
    pub first: Instant,
    /// ARP replies and neighbour advertisements.
    pub replies: u32,
    /// ARP announcements: requests for its own address, from which all receivers learn (RFC 5227).
    pub announcements: u32,
    /// Other requests with the address as sender: the receiver learns it (RFC 826), which `arp_announce`
    /// prevents. Also operations other than request and reply.
    pub requests: u32,
}

/// The hosts that claimed `vip`, by hardware address: any frame with it as sender address, or an
/// advertisement of it.
pub fn claims_of(frames: &[CapturedFrame], vip: IpAddr) -> BTreeMap<Mac, Claim> {
    let mut claims = BTreeMap::new();
    for CapturedFrame { at, content, .. } in frames {
        match content {
            AddressFrame::Arp(arp) if vip == arp.sender_ip => {
                let claim = claim_of(&mut claims, *at, arp.sender_mac);
                match arp.operation {
                    // Also gratuitous replies.
                    Operation::Reply => claim.replies += 1,
                    Operation::Request if vip == arp.target_ip => claim.announcements += 1,
                    Operation::Request | Operation::Other(_) => claim.requests += 1,
                }
            }
            AddressFrame::Neighbour(frame) if matches!(vip, IpAddr::V6(vip) if frame.claims(vip)) =>
            {
                let claim = claim_of(&mut claims, *at, frame.mac);
                if frame.advertisement { claim.replies += 1 } else { claim.requests += 1 }
            }
            AddressFrame::Arp(_) | AddressFrame::Neighbour(_) => {}
        }
    }
    claims
}

fn claim_of(claims: &mut BTreeMap<Mac, Claim>, at: Instant, mac: Mac) -> &mut Claim {
    let none = Claim { first: at, replies: 0, announcements: 0, requests: 0 };
    let claim = claims.entry(mac).or_insert(none);
    claim.first = claim.first.min(at);
    claim
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;

    const WEB: Mac = Mac([2, 0, 0, 0, 0, 3]);
    const DIRECTOR: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const VIP: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 200);
    const RIP: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 3);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 250);

    #[test]
    fn a_frame_with_the_vip_as_sender_claims_it() {
        let arp = |sender_mac, operation, sender_ip, target_ip| ArpFrame {
            operation,
            sender_mac,
            sender_ip,
            target_ip,
            outgoing: false,
        };
        let start = Instant::now();
        let frames: Vec<CapturedFrame> = [
            arp(WEB, Operation::Request, RIP, VIP), // resolves the VIP: no claim
            arp(DIRECTOR, Operation::Reply, VIP, CLIENT),
            arp(DIRECTOR, Operation::Request, VIP, VIP),
            arp(WEB, Operation::Request, VIP, CLIENT),
            arp(WEB, Operation::Reply, RIP, CLIENT),
        ]
        .into_iter()
        .map(|arp| CapturedFrame {
            at: start,
            network: "lan".parse().unwrap(),
            content: AddressFrame::Arp(arp),
        })
        .collect();
        let none = Claim { first: start, replies: 0, announcements: 0, requests: 0 };
        let expected = BTreeMap::from([
            (DIRECTOR, Claim { replies: 1, announcements: 1, ..none }),
            (WEB, Claim { requests: 1, ..none }),
        ]);
        assert_eq!(claims_of(&frames, VIP.into()), expected);
        assert!(claims_of(&frames, Ipv4Addr::UNSPECIFIED.into()).is_empty());
    }

    #[test]
    fn fuzz_neighbours() {
        let mut advertisement = vec![0x33; 6];
        advertisement.extend([2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        advertisement.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        advertisement.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        advertisement.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        advertisement.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        advertisement.extend([2, 1, 2, 0, 0, 0, 0, 1]);
        crate::support::fuzz::target!(
            "fuzz_neighbours",
            10_000,
            vec![advertisement.clone()],
            |bytes| {
                let _ = AddressFrame::parse(bytes);
            }
        );
    }
}
