//! A plain exchange with a generic netlink family: one request, and all that the kernel answers.
//!
//! For what is small and not urgent: the ports of GUE, the timeouts and daemons of IPVS. IPVS's own
//! table has a socket that sends in batches ([`super::ipvs::socket`]).

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::{Error, Result};
use super::ipvs::wire::{self, Attributes};

/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP (include/uapi/linux/netlink.h).
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP_INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;

/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
/// (include/uapi/linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once or not at all.
const PATIENCE_S: i64 = 10;
/// How often a dump is tried that the kernel says was interrupted.
const DUMP_TRIES: u32 = 5;

/// What the kernel says: the attributes of each message of its answer, or its refusal.
pub type Answer = std::result::Result<Vec<Vec<u8>>, Errno>;

/// A socket to one family, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct GenericSocket {
    socket: Socket,
    name: &'static str,
    family: u16,
    version: u8,
    seq: u32,
    buffer: Vec<u8>,
}

impl GenericSocket {
    /// Opens it. `None`: there is no such family. Asking **loads the module** that has the family in
    /// its aliases, where the kernel can (net/netlink/genetlink.c, `ctrl_getfamily`): to look without
    /// a change make sure first that it is there.
    pub fn open(name: &'static str, version: u8) -> Result<Option<Self>> {
        let failed = |error: io::Error| Error::new("cannot open a netlink socket").because(error);
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Errors need not repeat the request; old kernels (before 4.3) do it anyway.
        let _ = socket.set_cap_ack(true);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))
            .map_err(|errno| failed(errno.into()))?;
        let buffer = vec![0; BUFFER];
        let mut open = Self { socket, name, family: CONTROLLER, version: 1, seq: 0, buffer };
        let mut body = Attributes::default();
        body.put_text(FAMILY_NAME, name);
        let answer = match open.ask(GET_FAMILY, &body.into_bytes())? {
            Ok(answer) => answer,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => {
                let what = format!("the kernel does not say where {name} is");
                return Err(Error::new(what).because(errno));
            }
        };
        for attribute in answer.iter().flat_map(|body| wire::attributes(body)) {
            let (kind, value) = attribute.map_err(|error| open.garbled(error))?;
            if kind == FAMILY_ID {
                open.family = wire::read_u16(value, "a family's number")
                    .map_err(|error| open.garbled(error))?;
                open.version = version;
                return Ok(Some(open));
            }
        }
        Ok(None)
    }

    /// One request with the attributes `body`.
    pub fn ask(&mut self, command: u8, body: &[u8]) -> Result<Answer> {
        self.send(REQUEST | ACK, command, body)?;
        self.receive()
    }

    /// A dump. Tried again if the kernel says that something changed under it.
    pub fn dump(&mut self, command: u8) -> Result<Answer> {
        for _ in 0..DUMP_TRIES {
            self.send(REQUEST | DUMP, command, &[])?;
            match self.receive()? {
                Err(Errno::EAGAIN) => {}
                answer => return Ok(answer),
            }
        }
        Err(Error::new(format!("what {} has changes faster than it can be read", self.name)))
    }

    fn garbled(&self, error: wire::WireError) -> Error {
        Error::new(format!("what {} answers cannot be understood", self.name)).because(error)
    }

    fn send(&mut self, flags: u16, command: u8, body: &[u8]) -> Result<()> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let frame = wire::frame(self.family, flags, self.seq, command, self.version, body);
        loop {
            match self.socket.send(&frame, 0) {
                Ok(sent) if sent == frame.len() => return Ok(()),
                Ok(_) => return Err(Error::new("the kernel took only a part of a request")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::new(format!("cannot send to {}", self.name)).because(error));
                }
            }
        }
    }

    /// All of the answer to the last request, up to its end: an error, an acknowledgement, or the end
    /// of a dump. A dump that the kernel marks as interrupted ends with EAGAIN.
    fn receive(&mut self) -> Result<Answer> {
        let mut interrupted = false;
        let mut bodies = Vec::new();
        loop {
            let length = self.receive_datagram()?;
            for message in wire::messages(&self.buffer[..length]) {
                let message = message.map_err(|error| self.garbled(error))?;
                if message.seq != self.seq {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                if matches!(message.kind, wire::ERROR | wire::DONE) {
                    return Ok(match message.errno().map_err(|error| self.garbled(error))? {
                        0 if interrupted => Err(Errno::EAGAIN),
                        0 => Ok(bodies),
                        code => Err(Errno::from_raw(code)),
                    });
                }
                let (_, body) = message.generic().map_err(|error| self.garbled(error))?;
                bodies.push(body.to_vec());
            }
        }
    }

    fn receive_datagram(&mut self) -> Result<usize> {
        let name = self.name;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => return Ok(length),
                Ok(length) => {
                    return Err(Error::new(format!(
                        "{name} answers with {length} bytes at once, {BUFFER} were expected at most"
                    )));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(Error::new(format!("{name} says nothing for {PATIENCE_S} s")));
                }
                Err(errno) => return Err(Error::new(format!("cannot hear {name}")).because(errno)),
            }
        }
    }
}
