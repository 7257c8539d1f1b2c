//! Every ARP frame of the lab, heard at the switch: who says that an address is its own.
//!
//! The listener is in the switch's namespace, which no host of the lab can see. The bridges are
//! promiscuous, so each frame that passes one is heard once, unicast replies included.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{LinkAddr, recvfrom};

use super::network::{Mac, namespace};
use super::{Lab, LabError};
use crate::topology::{HostName, NetworkName};

/// `ETH_P_ARP` (include/uapi/linux/if_ether.h), as the socket call wants it.
const ETH_P_ARP: u16 = 0x0806;
/// How often the listener looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The operation of an ARP frame (RFC 826).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Who has the target's address?
    Request,
    /// The sender's address is at the sender's hardware address.
    Reply,
    /// Something else.
    Other(u16),
}

/// What an ARP frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// The hardware address that the frame came from.
    pub from: Mac,
    /// What it is.
    pub operation: Operation,
    /// Whom the sender says it is.
    pub sender_mac: Mac,
    /// The address that the sender claims; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The address that is asked for, or answered to.
    pub target: Ipv4Addr,
}

/// A frame that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// When.
    pub at: Instant,
    /// On which network.
    pub network: NetworkName,
    /// Whose hardware address it came from; `None` if it is no interface of the file.
    pub host: Option<HostName>,
    /// What it says.
    pub arp: Arp,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arp { from, operation, sender_mac, sender, target } = self.arp;
        match &self.host {
            Some(host) => write!(f, "{}: {host} ({from}): ", self.network)?,
            None => write!(f, "{}: {from}: ", self.network)?,
        }
        match operation {
            Operation::Request if sender == target => {
                write!(f, "{sender} is at {sender_mac} (announced)")
            }
            Operation::Request => write!(f, "who has {target}, tell {sender}"),
            Operation::Reply => write!(f, "{sender} is at {sender_mac}"),
            Operation::Other(number) => write!(f, "ARP operation {number}"),
        }
    }
}

/// A listener. It ends when the value is dropped.
pub struct Watch {
    heard: Arc<Mutex<Vec<Raw>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Raw {
    at: Instant,
    bridge: u32,
    arp: Arp,
}

impl Watch {
    /// Starts to listen on all networks of the lab. What is sent after this returns is heard.
    ///
    /// # Errors
    /// If no packet socket can be had (`CAP_NET_RAW`).
    pub fn start(lab: &Lab) -> Result<Self, LabError> {
        let open = || -> io::Result<socket2::Socket> {
            let protocol = socket2::Protocol::from(i32::from(ETH_P_ARP.to_be()));
            let kind = socket2::Type::RAW;
            let socket = socket2::Socket::new(socket2::Domain::PACKET, kind, Some(protocol))?;
            socket.set_recv_buffer_size(1 << 20)?;
            socket.set_read_timeout(Some(LOOK_UP))?;
            Ok(socket)
        };
        let socket = namespace::run_in(lab.switch(), open).and_then(|opened| opened);
        let socket = socket.map_err(LabError::io("listen to ARP at the switch"))?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (list, flag) = (Arc::clone(&heard), Arc::clone(&stop));
        let work = move || listen(&socket, &list, &flag);
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(work);
        let thread = Some(thread.map_err(LabError::io("start a thread"))?);
        Ok(Self { heard, stop, thread })
    }

    /// All that was heard so far, in order.
    pub fn so_far(&self, lab: &Lab) -> Vec<Heard> {
        let raw = self.heard.lock().map(|list| list.clone()).unwrap_or_default();
        let name = |Raw { at, bridge, arp }: Raw| {
            let network = lab.network_of(bridge)?.clone();
            let host = lab.owner_of(arp.from).map(|(host, _)| host.clone());
            Some(Heard { at, network, host, arp })
        };
        raw.into_iter().filter_map(name).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// The frames in which somebody claims `address` as its own: replies, announcements, and requests
/// that carry it as their sender, from which neighbours learn as well (net/ipv4/arp.c `arp_process`).
pub fn claims(heard: &[Heard], address: IpAddr) -> impl Iterator<Item = &Heard> {
    heard.iter().filter(move |one| IpAddr::V4(one.arp.sender) == address)
}

/// The hosts that claimed `address`; a frame from an unknown hardware address counts as that address.
pub fn claimants(heard: &[Heard], address: IpAddr) -> BTreeSet<String> {
    let name = |one: &Heard| match &one.host {
        Some(host) => host.to_string(),
        None => one.arp.from.to_string(),
    };
    claims(heard, address).map(name).collect()
}

fn listen(socket: &socket2::Socket, heard: &Mutex<Vec<Raw>>, stop: &AtomicBool) {
    let mut frame = [0; 128];
    while !stop.load(Ordering::Acquire) {
        // A timeout, or the interruption of a signal: then there is nothing to note.
        let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) else {
            continue;
        };
        let at = Instant::now();
        let bridge = from.and_then(|from| u32::try_from(from.ifindex()).ok()).unwrap_or_default();
        if let Some(arp) = frame.get(..length).and_then(Arp::parse)
            && let Ok(mut list) = heard.lock()
        {
            list.push(Raw { at, bridge, arp });
        }
    }
}

impl Arp {
    /// Reads an Ethernet frame with ARP for IPv4 in it (RFC 826); `None` for anything else.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        /// Ethernet, IPv4, and the lengths of their addresses.
        const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
        let mac = |at: usize| frame.get(at..at + 6)?.try_into().ok().map(Mac);
        let ip = |at: usize| -> Option<Ipv4Addr> {
            let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
            Some(bytes.into())
        };
        if frame.get(12..14)? != ETH_P_ARP.to_be_bytes() || frame.get(14..20)? != KIND {
            return None;
        }
        let operation = match u16::from_be_bytes(frame.get(20..22)?.try_into().ok()?) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => Operation::Other(other),
        };
        Some(Self {
            from: mac(6)?,
            operation,
            sender_mac: mac(22)?,
            sender: ip(28)?,
            target: ip(38)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reply_is_read_field_by_field() {
        let frame = [
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6][..],
            &[0, 1, 8, 0, 6, 4, 0, 2],
            &[2, 0, 0, 0, 0, 3, 10, 0, 0, 3],
            &[2, 0, 0, 0, 0, 1, 10, 0, 0, 1],
        ]
        .concat();
        let arp = Arp::parse(&frame).unwrap();
        assert_eq!(arp.operation, Operation::Reply);
        assert_eq!(arp.from, Mac([2, 0, 0, 0, 0, 2]));
        assert_eq!(arp.sender_mac, Mac([2, 0, 0, 0, 0, 3]));
        assert_eq!((arp.sender, arp.target), ([10, 0, 0, 3].into(), [10, 0, 0, 1].into()));
        assert_eq!(Arp::parse(&frame[..41]), None);
    }

    proptest! {
        #[test]
        fn any_frame_is_read_without_panic(mut frame in prop::collection::vec(any::<u8>(), 0..64)) {
            Arp::parse(&frame);
            if let Some(head) = frame.get_mut(12..20) {
                head.copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4]);
            }
            Arp::parse(&frame);
        }
    }
}
