//! Answers a datagram from the very address that it was sent to.
//!
//! A socket on all addresses would answer from whichever address the route back prefers (ip(7)).
//! Under DR and TUN that would be the RIP, and the client, which asked the VIP, would not listen.

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

use super::{Served, answer};

/// Requests are read up to here, in bytes; the rest of a longer one is of no interest.
const LONGEST_REQUEST: usize = 2048;
/// After an error that waiting for the socket does not cure.
const PAUSE: Duration = Duration::from_millis(20);

/// Who asked, and at which address of ours.
struct Question {
    from: SocketAddr,
    asked: IpAddr,
}

/// Has the kernel tell, with each datagram, the address that it was sent to (`IP_PKTINFO`, ip(7);
/// `IPV6_RECVPKTINFO`, ipv6(7)).
pub(super) fn ask_for_destination(socket: &OwnedFd, ipv6: bool) -> nix::Result<()> {
    if ipv6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
    }
}

/// Answers until it is aborted.
pub(super) async fn serve(socket: UdpSocket, name: Arc<str>, served: Served) {
    loop {
        match socket.async_io(Interest::READABLE, || receive(&socket)).await {
            Ok(Some(question)) => {
                let answer = answer(&name, question.from.ip());
                // Whoever does not hear the answer counts that.
                let send = || send(&socket, &question, answer.as_bytes());
                if socket.async_io(Interest::WRITABLE, send).await.is_ok() {
                    served.count();
                }
            }
            Ok(None) => {}
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The next question; `None` if it is one that must not be answered.
fn receive(socket: &UdpSocket) -> io::Result<Option<Question>> {
    let mut request = [0; LONGEST_REQUEST];
    let mut request = [IoSliceMut::new(&mut request)];
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
    let (Some(from), Some(asked)) = (from, destination) else { return Ok(None) };
    // Two responders that take each other's answers for questions would never stop.
    let ours = socket.local_addr()?.port();
    let unicast = !asked.is_multicast() && asked != IpAddr::V4(Ipv4Addr::BROADCAST);
    Ok((unicast && from.port() != ours).then_some(Question { from, asked }))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    // With the scope, without which a link-local address leads nowhere.
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()));
    v4().or_else(v6)
}

/// With interface 0 the route back is looked up; the other address is the one to answer from.
fn send(socket: &UdpSocket, question: &Question, answer: &[u8]) -> io::Result<usize> {
    let to = SockaddrStorage::from(question.from);
    let say = |control: ControlMessage<'_>| {
        let pieces = [IoSlice::new(answer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        Ok(sendmsg(socket.as_raw_fd(), &pieces, &[control], flags, Some(&to))?)
    };
    match question.asked {
        IpAddr::V4(asked) => say(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: to_kernel(asked),
            ipi_addr: to_kernel(Ipv4Addr::UNSPECIFIED),
        })),
        IpAddr::V6(asked) => say(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
            ipi6_ifindex: 0,
            ipi6_addr: to_kernel6(asked),
        })),
    }
}

fn to_kernel(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

fn to_kernel6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}
