//! A netlink socket: requests by sequence number, and the kernel's answers, datagram by datagram.
//!
//! It does not look into the messages: [`super::generic`] and [`super::ipvs::socket`] speak generic netlink,
//! [`super::nft`] speaks nf_tables. For rtnetlink the crate of that name does all of this.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::NLM_F_DUMP_INTR as DUMP_INTERRUPTED;
pub use netlink_packet_core::{NLM_F_ACK as ACK, NLM_F_DUMP as DUMP, NLM_F_REQUEST as REQUEST};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::{Error, Result};
use super::wire::{self, Message, MessageIter};

/// Bytes for one datagram: the kernel fills at most 32 KiB at a time (net/netlink/af_netlink.c,
/// `netlink_recvmsg`).
const BUFFER: usize = 64 * 1024;

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    /// The part of the kernel that answers, for messages: `IPVS`.
    peer: &'static str,
    patience_s: i64,
    seq: u32,
    buffer: Vec<u8>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The answer is complete.
    Done,
    /// The dumped objects changed during the dump (NLM_F_DUMP_INTR), or the socket's buffer overflowed
    /// (ENOBUFS): the answer is incomplete.
    Incomplete,
    /// The kernel refused the request.
    Refused(Errno),
}

impl NetlinkSocket {
    /// Opens it. `patience_s`: seconds to wait for a datagram.
    pub fn open(protocol: isize, peer: &'static str, patience_s: i64) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors need not repeat the request; kernels before 4.3 do it anyway.
        let _ = socket.set_cap_ack(true);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(patience_s))?;
        Ok(Self { socket, peer, patience_s, seq: 0, buffer: vec![0; BUFFER] })
    }

    /// Receives what the kernel sends to a multicast group of its own accord.
    pub fn add_membership(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Receives it no more. A failure means only that more is read.
    pub fn drop_membership(&self, group: u32) {
        let _ = self.socket.drop_membership(group);
    }

    /// The part of the kernel that answers.
    pub fn peer(&self) -> &'static str {
        self.peer
    }

    /// The next sequence number; never 0, which the kernel uses for messages of its own.
    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Sends `bytes` as one datagram.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(sent) => {
                    let length = bytes.len();
                    let peer = self.peer;
                    let what = format!("{peer} accepted {sent} of {length} bytes of a request");
                    return Err(Error::new(what));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let length = bytes.len();
                    return Err(Error::new(format!("cannot send {length} bytes to {}", self.peer))
                        .because(error));
                }
            }
        }
    }

    /// Passes each answer to request `seq` to `each`, until an error, an acknowledgement or the end of a
    /// dump. Drops answers to earlier requests.
    pub fn receive<E>(
        &mut self,
        seq: u32,
        mut each: impl FnMut(&Message<'_>) -> std::result::Result<(), E>,
    ) -> Result<ExchangeEnd>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let peer = self.peer;
        let mut interrupted = false;
        loop {
            let Some(messages) = self.datagram()? else { return Ok(ExchangeEnd::Incomplete) };
            for message in messages {
                let message = message.map_err(|error| undecodable(peer, error))?;
                if message.seq != seq {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                if matches!(message.kind, wire::ERROR | wire::DONE) {
                    let code = message.errno().map_err(|error| undecodable(peer, error))?;
                    return Ok(match (code, interrupted) {
                        (0, false) => ExchangeEnd::Done,
                        (0, true) => ExchangeEnd::Incomplete,
                        (code, _) => ExchangeEnd::Refused(Errno::from_raw(code)),
                    });
                }
                each(&message).map_err(|error| undecodable(peer, error))?;
            }
        }
    }

    /// The messages of the next datagram. `None`: the kernel dropped answers, because the socket's buffer
    /// was full (ENOBUFS).
    pub fn datagram(&mut self) -> Result<Option<MessageIter<'_>>> {
        let peer = self.peer;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => {
                    return Ok(Some(wire::messages(&self.buffer[..length])));
                }
                Ok(length) => {
                    return Err(Error::new(format!(
                        "{peer} answered with {length} bytes in one datagram, more than {BUFFER}"
                    )));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(None),
                Err(Errno::EAGAIN) => {
                    let patience = self.patience_s;
                    return Err(Error::new(format!("no answer from {peer} in {patience} s")));
                }
                Err(errno) => {
                    return Err(Error::new(format!("cannot receive from {peer}")).because(errno));
                }
            }
        }
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An answer of `peer` that cannot be decoded.
pub fn undecodable(peer: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(format!("cannot decode an answer of {peer}")).because(error)
}
