//! A plain exchange with a generic netlink family: one request, and all that the kernel answers.
//!
//! IPVS's own table has a socket that sends in batches on top of it ([`super::ipvs::socket`]).

use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;

use super::error::{Error, Result};
use super::ipvs::wire::{self, AttributeList};
use super::netlink::{ACK, DUMP, ExchangeEnd, NetlinkSocket, REQUEST, garbled};

/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
/// (include/uapi/linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// The kernel answers at once or not at all.
const PATIENCE_S: i64 = 10;
/// How often a dump is tried that the kernel says was interrupted.
const DUMP_TRIES: u32 = 5;

/// What the kernel says, or its refusal.
pub type ErrnoResult<T> = std::result::Result<T, Errno>;

/// A socket to one family, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct GenericSocket {
    /// Beneath.
    pub socket: NetlinkSocket,
    family: u16,
    version: u8,
}

/// The number of a family, as the controller says it.
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
    /// Opens it. `None`: there is no such family. Asking **loads the module** that has the family in
    /// its aliases, where the kernel can (net/netlink/genetlink.c, `ctrl_getfamily`): to look without
    /// a change make sure first that it is there.
    pub fn open(name: &'static str, version: u8) -> Result<Option<Self>> {
        let socket = NetlinkSocket::open(NETLINK_GENERIC, name, PATIENCE_S)
            .map_err(|error| Error::new("cannot open a netlink socket").because(error))?;
        let mut open = Self { socket, family: CONTROLLER, version: 1 };
        let mut body = AttributeList::default();
        body.put_text(FAMILY_NAME, name);
        let mut family = None;
        let found = open.ask(GET_FAMILY, &body.into_bytes(), |body| {
            family = family_of(body)?.or(family);
            Ok::<_, wire::WireError>(())
        })?;
        match (found, family) {
            (Ok(()), Some(family)) => Ok(Some(Self { family, version, ..open })),
            (Ok(()), None) | (Err(Errno::ENOENT), _) => Ok(None),
            (Err(errno), _) => {
                let what = format!("the kernel does not say where {name} is");
                Err(Error::new(what).because(errno))
            }
        }
    }

    /// A request ready to be sent, and its number.
    pub fn frame(&mut self, flags: u16, command: u8, body: &[u8]) -> (u32, Vec<u8>) {
        let seq = self.socket.next_seq();
        (seq, wire::frame(self.family, REQUEST | flags, seq, command, self.version, body))
    }

    /// One request with the attributes `body`; `each` gets the attributes of every answer.
    pub fn ask<E>(
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
            ExchangeEnd::Changed => Err(Errno::EAGAIN),
            ExchangeEnd::Refused(errno) => Err(errno),
        })
    }

    /// One request to which the kernel says yes or no.
    pub fn tell(&mut self, command: u8, body: &[u8]) -> Result<ErrnoResult<()>> {
        self.ask(command, body, |_| Ok::<_, wire::WireError>(()))
    }

    /// A dump; `each` gets the attributes of every answer. Tried again, from a new `T`, if the kernel
    /// says that something changed under it.
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
                ExchangeEnd::Changed | ExchangeEnd::Refused(Errno::EAGAIN) => {}
                ExchangeEnd::Refused(errno) => return Ok(Err(errno)),
            }
        }
        let peer = self.socket.peer();
        Err(Error::new(format!("what {peer} has changes faster than it can be read")).cure(
            "something else (for IPVS: keepalived, kube-proxy) rewrites it all the time: stop that",
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
        let mut unclear = None;
        let end = self.socket.receive(seq, |message| {
            let (_, body) = message.generic()?;
            if unclear.is_none() {
                unclear = each(body).err();
            }
            Ok::<_, wire::WireError>(())
        })?;
        match unclear {
            Some(error) => Err(garbled(peer, error)),
            None => Ok(end),
        }
    }
}
