//! Exchanges with a generic netlink family: one request and its answers.
//!
//! [`super::ipvs::socket`] sends batches on top of it.

use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;

use super::error::{Error, Result};
use super::ipvs::wire::{self, AttributeList};
use super::netlink::{ACK, DUMP, ExchangeEnd, NetlinkSocket, REQUEST, undecodable};

/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
/// (include/uapi/linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Seconds to wait for an answer: the kernel answers within the system call that sends the request, once the
/// family's lock is free.
const PATIENCE_S: i64 = 10;
/// How often a dump is tried while NLM_F_DUMP_INTR marks it as interrupted.
const DUMP_TRIES: u32 = 5;

/// The kernel's answer, or the errno with which it refused.
pub type ErrnoResult<T> = std::result::Result<T, Errno>;

/// A socket to one family, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct GenericSocket {
    /// The netlink socket below it.
    pub socket: NetlinkSocket,
    family: u16,
    version: u8,
}

/// The family's number in an answer of the controller.
pub(super) fn family_of(body: &[u8]) -> std::result::Result<Option<u16>, wire::WireError> {
    let mut family = None;
    for attribute in wire::attributes(body) {
        let (kind, value) = attribute?;
        if kind == FAMILY_ID {
            family = Some(wire::read_u16(value, "a family's number")?);
        }
    }
    Ok(family)
}

impl GenericSocket {
    /// Opens a socket to the family `name`. `None`: this kernel has no such family. The request **loads the
    /// module** that has the family among its aliases (net/netlink/genetlink.c, `ctrl_getfamily`): a caller
    /// that must not change the host checks first that the module is loaded.
    pub fn open(name: &'static str, version: u8) -> Result<Option<Self>> {
        let socket = NetlinkSocket::open(NETLINK_GENERIC, name, PATIENCE_S)
            .map_err(|error| Error::new("cannot open a netlink socket").because(error))?;
        let mut open = Self { socket, family: CONTROLLER, version: 1 };
        let mut body = AttributeList::default();
        body.put_text(FAMILY_NAME, name);
        let mut family = None;
        let found = open.query(GET_FAMILY, &body.into_bytes(), |body| {
            family = family_of(body)?.or(family);
            Ok::<_, wire::WireError>(())
        })?;
        match (found, family) {
            (Ok(()), Some(family)) => Ok(Some(Self { family, version, ..open })),
            (Ok(()), None) | (Err(Errno::ENOENT), _) => Ok(None),
            (Err(errno), _) => {
                let what = format!("cannot look up the generic netlink family {name}");
                Err(Error::new(what).because(errno))
            }
        }
    }

    /// The bytes of a request, and its sequence number.
    pub fn frame(&mut self, flags: u16, command: u8, body: &[u8]) -> (u32, Vec<u8>) {
        let seq = self.socket.next_seq();
        (seq, wire::frame(self.family, REQUEST | flags, seq, command, self.version, body))
    }

    /// Sends one request with the attributes `body`; `each` gets the attributes of each answer.
    pub fn query<E>(
        &mut self,
        command: u8,
        body: &[u8],
        each: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> Result<ErrnoResult<()>>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let end = self.exchange(ACK, command, body, each)?;
        Ok(match end {
            ExchangeEnd::Done => Ok(()),
            ExchangeEnd::Incomplete => Err(Errno::EAGAIN),
            ExchangeEnd::Refused(errno) => Err(errno),
        })
    }

    /// Sends one request that is answered by an acknowledgement or an error.
    pub fn command(&mut self, command: u8, body: &[u8]) -> Result<ErrnoResult<()>> {
        self.query(command, body, |_| Ok::<_, wire::WireError>(()))
    }

    /// Dumps; `each` gets the attributes of each answer. Starts again, from a new `T`, if the dumped objects
    /// changed during the dump.
    pub fn dump<T: Default, E>(
        &mut self,
        command: u8,
        body: &[u8],
        each: impl Fn(&mut T, &[u8]) -> std::result::Result<(), E>,
    ) -> Result<ErrnoResult<T>>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        for _ in 0..DUMP_TRIES {
            let mut all = T::default();
            match self.exchange(DUMP, command, body, |body| each(&mut all, body))? {
                ExchangeEnd::Done => return Ok(Ok(all)),
                ExchangeEnd::Incomplete | ExchangeEnd::Refused(Errno::EAGAIN) => {}
                ExchangeEnd::Refused(errno) => return Ok(Err(errno)),
            }
        }
        let peer = self.socket.peer();
        Err(Error::new(format!("{peer} changes faster than it can be read")).cure(
            "another program (for IPVS: keepalived, kube-proxy) rewrites it all the time: stop that program",
        ))
    }

    fn exchange<E>(
        &mut self,
        flags: u16,
        command: u8,
        body: &[u8],
        mut each: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> Result<ExchangeEnd>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let peer = self.socket.peer();
        let (seq, frame) = self.frame(flags, command, body);
        self.socket.send(&frame)?;
        let mut undecoded = None;
        let end = self.socket.receive(seq, |message| {
            let (_, body) = message.generic()?;
            if undecoded.is_none() {
                undecoded = each(body).err();
            }
            Ok::<_, wire::WireError>(())
        })?;
        match undecoded {
            Some(error) => Err(undecodable(peer, error)),
            None => Ok(end),
        }
    }
}
