//! Answers a datagram from the address that it was sent to.
//!
//! A socket on all addresses would answer from the preferred source address of the route back (ip(7)).
//! Under DR and TUN that is the RIP, but the client expects a response from the VIP.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::super::checks::dns_answer;
use super::{RequestCounter, answer};

/// Maximum number of request bytes that are read.
const MAX_REQUEST: usize = 2048;
/// Pause after a socket error.
const PAUSE: Duration = Duration::from_millis(20);

/// The client's address, and the local address that it sent to.
struct Datagram {
    from: SocketAddr,
    destination: IpAddr,
    /// The answer, if it is a question of DNS: a health check sends them.
    dns_answer: Option<Vec<u8>>,
}

/// Enables the destination address of each datagram (`IP_PKTINFO`, ip(7); `IPV6_RECVPKTINFO`, ipv6(7)).
pub(super) fn enable_destination_address(socket: &OwnedFd, ipv6: bool) -> nix::Result<()> {
    if ipv6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
    }
}

/// Serves until it is aborted.
pub(super) async fn serve(socket: UdpSocket, name: Arc<str>, served: RequestCounter) {
    loop {
        match socket.async_io(Interest::READABLE, || receive(&socket)).await {
            Ok(Some(datagram)) => {
                let text = answer(&name, datagram.from.ip());
                let answer = datagram.dns_answer.as_deref().unwrap_or(text.as_bytes());
                // The client counts lost responses.
                let send = || send(&socket, &datagram, answer);
                if socket.async_io(Interest::WRITABLE, send).await.is_ok() {
                    served.count();
                }
            }
            Ok(None) => {}
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The next datagram; `None` if it must not be answered.
fn receive(socket: &UdpSocket) -> io::Result<Option<Datagram>> {
    let mut bytes = [0; MAX_REQUEST];
    let mut request = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut request,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let from = message.address.as_ref().and_then(socket_address);
    let length = message.bytes;
    let (Some(from), Some(destination)) = (from, destination) else { return Ok(None) };
    let dns_answer = bytes.get(..length).and_then(dns_answer);
    // Two responders that answer each other's responses would never stop.
    let ours = socket.local_addr()?.port();
    let unicast = !destination.is_multicast() && destination != IpAddr::V4(Ipv4Addr::BROADCAST);
    Ok((unicast && from.port() != ours).then_some(Datagram { from, destination, dns_answer }))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    // With the scope, which a link-local address needs.
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()));
    v4().or_else(v6)
}

/// Interface 0: the kernel looks up the route back. The other field is the source address.
fn send(socket: &UdpSocket, datagram: &Datagram, answer: &[u8]) -> io::Result<usize> {
    let to = SockaddrStorage::from(datagram.from);
    let send_from = |control: ControlMessage<'_>| {
        let pieces = [IoSlice::new(answer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        Ok(sendmsg(socket.as_raw_fd(), &pieces, &[control], flags, Some(&to))?)
    };
    match datagram.destination {
        IpAddr::V4(destination) => send_from(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: to_kernel(destination),
            ipi_addr: to_kernel(Ipv4Addr::UNSPECIFIED),
        })),
        IpAddr::V6(destination) => send_from(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
            ipi6_ifindex: 0,
            ipi6_addr: to_kernel6(destination),
        })),
    }
}

fn to_kernel(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

fn to_kernel6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}
