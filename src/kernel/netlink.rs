//! A netlink socket as this program uses each of them: requests by sequence number, and all that the
//! kernel answers, datagram by datagram.
//!
//! What is in the messages is for others: [`super::generic`] and [`super::ipvs::socket`] speak generic
//! netlink, [`super::nft`] nf_tables. (rtnetlink has a crate that does all of this.)

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::{Error, Result};
use super::wire::{self, Message, MessageIter};

/// NLM_F_REQUEST (include/uapi/linux/netlink.h): every request has it.
pub const REQUEST: u16 = 0x1;
/// NLM_F_ACK: say also that it was done.
pub const ACK: u16 = 0x4;
/// NLM_F_DUMP: all there are.
pub const DUMP: u16 = 0x300;
/// NLM_F_DUMP_INTR.
const DUMP_INTERRUPTED: u16 = 0x10;

/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 * 1024;

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    /// Who answers, for messages: `IPVS`.
    peer: &'static str,
    patience_s: i64,
    seq: u32,
    buffer: Vec<u8>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// All was said.
    Done,
    /// What was dumped changed meanwhile, or answers found no room (ENOBUFS): ask again.
    Changed,
    /// The kernel refuses.
    Refused(Errno),
}

impl NetlinkSocket {
    /// Opens it. `patience_s`: after how many seconds without an answer the kernel is given up.
    pub fn open(protocol: isize, peer: &'static str, patience_s: i64) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors need not repeat the request; old kernels (before 4.3) do it anyway.
        let _ = socket.set_cap_ack(true);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(patience_s))?;
        Ok(Self { socket, peer, patience_s, seq: 0, buffer: vec![0; BUFFER] })
    }

    /// Who answers.
    pub fn peer(&self) -> &'static str {
        self.peer
    }

    /// A number for the next request; never 0, which the kernel uses itself.
    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Sends `bytes` as one datagram.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::new("the kernel took only a part of a request")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let length = bytes.len();
                    return Err(Error::new(format!("cannot send {length} bytes to {}", self.peer))
                        .because(error));
                }
            }
        }
    }

    /// Gives every answer to `seq` to `each`, up to the end: an error, an acknowledgement, or the end of
    /// a dump. What is left of older exchanges is dropped.
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
            let Some(messages) = self.datagram()? else { return Ok(ExchangeEnd::Changed) };
            for message in messages {
                let message = message.map_err(|error| garbled(peer, error))?;
                if message.seq != seq {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                if matches!(message.kind, wire::ERROR | wire::DONE) {
                    let code = message.errno().map_err(|error| garbled(peer, error))?;
                    return Ok(match (code, interrupted) {
                        (0, false) => ExchangeEnd::Done,
                        (0, true) => ExchangeEnd::Changed,
                        (code, _) => ExchangeEnd::Refused(Errno::from_raw(code)),
                    });
                }
                each(&message).map_err(|error| garbled(peer, error))?;
            }
        }
    }

    /// The messages of the next datagram. `None`: answers were lost, because the socket's buffer was
    /// full (ENOBUFS).
    pub fn datagram(&mut self) -> Result<Option<MessageIter<'_>>> {
        let peer = self.peer;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => {
                    return Ok(Some(wire::messages(&self.buffer[..length])));
                }
                Ok(length) => {
                    return Err(Error::new(format!(
                        "{peer} answers with {length} bytes at once, {BUFFER} were expected at most"
                    )));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(None),
                Err(Errno::EAGAIN) => {
                    let patience = self.patience_s;
                    return Err(Error::new(format!("{peer} says nothing for {patience} s")));
                }
                Err(errno) => return Err(Error::new(format!("cannot hear {peer}")).because(errno)),
            }
        }
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What `peer` answers makes no sense.
pub fn garbled(peer: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(format!("what {peer} answers cannot be understood")).because(error)
}
