//! Hears every ARP frame of the lab, and IPv6's neighbour discovery, to prove who answered and announced
//! an address, and who did not.
//!
//! It listens in the switch's namespace, where no host can notice. A packet socket there gets a frame
//! several times: as the ports' and once more as the bridge's own, since bridges of the lab are
//! promiscuous (net/bridge/br_input.c, `br_pass_frame_up`). Only the last is kept, so each frame is
//! told once, with the network it was on. Who owns a hardware address is for
//! [`crate::lab::Lab::owner_of`] to say.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
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

/// A frame that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// When it was read, which may be a little after it was sent.
    pub at: Instant,
    /// The network it was on.
    pub network: NetworkName,
    /// What it says.
    pub said: Said,
}

/// What a frame says about who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// In IPv4.
    Arp(ArpFrame),
    /// In IPv6.
    Neighbour(NeighbourFrame),
}

impl Said {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let arp = ArpFrame::parse(bytes, false).map(Self::Arp);
        arp.or_else(|| NeighbourFrame::parse(bytes).map(Self::Neighbour))
    }
}

/// Room for frames that were not read yet, in bytes.
const ROOM: usize = 8 << 20;

/// Listens until it is stopped or dropped.
pub struct Watch {
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<io::Result<Ears>>>,
}

#[derive(Default)]
struct Ears {
    frames: Vec<Heard>,
    lost: u32,
}

impl Watch {
    /// Begins to listen. What is sent after this has returned is heard.
    ///
    /// # Errors
    /// If no packet socket can be had (`CAP_NET_RAW`).
    pub fn start(lab: &Lab) -> Result<Self, LabError> {
        let problem = || LabError::io("listen for ARP in the switch");
        let socket = namespace::run_in(lab.switch(), open).map_err(problem())?.map_err(problem())?;
        let (stopped, stop) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(LabError::errno("make a pipe"))?;
        let networks = lab.networks_by_bridge().clone();
        let name = "arp".to_owned();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || listen(&socket, &stopped, &networks))
            .map_err(problem())?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Stops and returns all frames, in the order in which they were heard.
    ///
    /// # Errors
    /// If the kernel had to drop frames: then what was heard proves nothing.
    pub fn stop(mut self) -> Result<Vec<Heard>, LabError> {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        let heard = match thread.join() {
            Ok(heard) => heard.map_err(LabError::io("listen for ARP in the switch"))?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let Ears { frames, lost } = heard;
        if lost > 0 {
            let error = io::Error::other(format!(
                "the kernel dropped {lost} frames, some of them \
                maybe ARP; there was too much traffic to hear it all"
            ));
            return Err(LabError::io("tell who answered ARP")(error));
        }
        Ok(frames)
    }
}

/// To be called in the namespace of the switch.
fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    Ok(socket)
}

fn listen(
    socket: &OwnedFd,
    stopped: &OwnedFd,
    networks: &BTreeMap<u32, NetworkName>,
) -> io::Result<Ears> {
    let mut heard = Ears::default();
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
        // Also at the end: what was sent before is still in the socket.
        while hear(socket, networks, &mut heard)? {}
        if ended {
            return Ok(heard);
        }
    }
}

/// Takes one frame out of the socket; false if there is none.
fn hear(
    socket: &OwnedFd,
    networks: &BTreeMap<u32, NetworkName>,
    heard: &mut Ears,
) -> io::Result<bool> {
    let mut bytes = [0; neighbour::FRAME];
    let mut control = nix::cmsg_space!(u32);
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let (length, from, lost) =
        match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags) {
            Ok(message) => {
                // The kernel's own count of all that it dropped so far (SO_RXQ_OVFL, socket(7)).
                let lost = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::RxqOvfl(lost) => Some(lost),
                    _ => None,
                });
                (message.bytes, message.address, lost)
            }
            Err(nix::Error::EAGAIN) => return Ok(false),
            // An interface went away, or a signal came: neither loses frames.
            Err(nix::Error::ENETDOWN | nix::Error::EINTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
    heard.lost = heard.lost.max(lost.unwrap_or(0));
    // What a bridge sends by itself is not a frame of the lab's.
    let from = from.filter(|from| from.pkttype() != libc::PACKET_OUTGOING);
    let bridge = from.and_then(|from| u32::try_from(from.ifindex()).ok());
    if let Some(network) = bridge.and_then(|bridge| networks.get(&bridge))
        && let Some(said) = Said::parse(bytes.get(..length).unwrap_or_default())
    {
        heard.frames.push(Heard { at: Instant::now(), network: network.clone(), said });
    }
    Ok(true)
}

/// How one hardware address claimed an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// When first.
    pub first: Instant,
    /// Replies and neighbour advertisements: "I have it".
    pub replies: u32,
    /// Announcements: requests for its own address, which all hearers learn from (RFC 5227).
    pub announcements: u32,
    /// Other requests with the address as sender: whoever is asked learns it (RFC 826), which
    /// `arp_announce` is there to prevent. And what is neither request nor reply.
    pub requests: u32,
}

/// Who claimed `vip`: had it as sender address, or advertised it, whatever the frame was for. By the
/// hardware address that the hearers learned for it.
pub fn announcements_of(frames: &[Heard], vip: IpAddr) -> BTreeMap<Mac, Claim> {
    let mut claims = BTreeMap::new();
    for Heard { at, said, .. } in frames {
        match said {
            Said::Arp(arp) if vip == arp.sender_ip => {
                let claim = claim_of(&mut claims, *at, arp.sender_mac);
                match arp.operation {
                    // Also the gratuitous reply: it says the same.
                    Operation::Reply => claim.replies += 1,
                    Operation::Request if vip == arp.target_ip => claim.announcements += 1,
                    Operation::Request | Operation::Other(_) => claim.requests += 1,
                }
            }
            Said::Neighbour(frame) if matches!(vip, IpAddr::V6(vip) if frame.claims(vip)) => {
                let claim = claim_of(&mut claims, *at, frame.mac);
                if frame.advertisement { claim.replies += 1 } else { claim.requests += 1 }
            }
            Said::Arp(_) | Said::Neighbour(_) => {}
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
    fn whoever_has_the_vip_as_sender_claims_it() {
        let arp = |sender_mac, operation, sender_ip, target_ip| ArpFrame {
            operation,
            sender_mac,
            sender_ip,
            target_ip,
            outgoing: false,
        };
        let start = Instant::now();
        let frames: Vec<Heard> = [
            arp(WEB, Operation::Request, RIP, VIP), // asks for it: no claim
            arp(DIRECTOR, Operation::Reply, VIP, CLIENT),
            arp(DIRECTOR, Operation::Request, VIP, VIP),
            arp(WEB, Operation::Request, VIP, CLIENT),
            arp(WEB, Operation::Reply, RIP, CLIENT),
        ]
        .into_iter()
        .map(|arp| Heard { at: start, network: "lan".parse().unwrap(), said: Said::Arp(arp) })
        .collect();
        let none = Claim { first: start, replies: 0, announcements: 0, requests: 0 };
        let expected = BTreeMap::from([
            (DIRECTOR, Claim { replies: 1, announcements: 1, ..none }),
            (WEB, Claim { requests: 1, ..none }),
        ]);
        assert_eq!(announcements_of(&frames, VIP.into()), expected);
        assert!(announcements_of(&frames, Ipv4Addr::UNSPECIFIED.into()).is_empty());
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
                let _ = Said::parse(bytes);
            }
        );
    }
}
