//! Answers a datagram from the very address that it was sent to.
//!
//! A socket on all addresses would answer from whichever address the route back prefers (ip(7)).
//! Under DR and TUN that would be the RIP, and the client, which asked the VIP, would not listen.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket as StdSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::Served;

/// Requests are read up to here, in bytes; the rest of a longer one is of no interest.
const LONGEST_REQUEST: usize = 2048;
/// After an error that waiting for the socket does not cure.
const PAUSE: Duration = Duration::from_millis(20);

/// Who asked, and at which address of ours.
struct Question {
    from: SockaddrIn,
    asked: Ipv4Addr,
}

/// Has the kernel tell, with each datagram, the address that it was sent to (`IP_PKTINFO`, ip(7)).
pub(super) fn ask_for_destination(socket: &StdSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?)
}

/// Answers until it is aborted.
pub(super) async fn serve(socket: UdpSocket, answer: Arc<str>, served: Served) {
    loop {
        match socket.async_io(Interest::READABLE, || receive(&socket)).await {
            Ok(Some(question)) => {
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
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut request,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(from_kernel(info.ipi_addr)),
        _ => None,
    });
    let (Some(from), Some(asked)) = (message.address, destination) else { return Ok(None) };
    // Two responders that take each other's answers for questions would never stop.
    let ours = socket.local_addr()?.port();
    let unicast = !asked.is_broadcast() && !asked.is_multicast();
    Ok((unicast && from.port() != ours).then_some(Question { from, asked }))
}

fn send(socket: &UdpSocket, question: &Question, answer: &[u8]) -> io::Result<usize> {
    // With `ipi_ifindex` 0 the route back is looked up; `ipi_spec_dst` is the source address.
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: to_kernel(question.asked),
        ipi_addr: to_kernel(Ipv4Addr::UNSPECIFIED),
    };
    Ok(sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(answer)],
        &[ControlMessage::Ipv4PacketInfo(&info)],
        MsgFlags::MSG_DONTWAIT,
        Some(&question.from),
    )?)
}

fn from_kernel(address: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from(address.s_addr.to_ne_bytes())
}

fn to_kernel(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}
