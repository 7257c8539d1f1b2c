//! Carries IPVS requests to the kernel: the family's number, dumps, and batches.
//!
//! **Batches.** Up to 256 requests go out in one send, and only the last asks for an
//! acknowledgement: errors come back by sequence number all the same, and a netlink socket works
//! its messages off in order (net/netlink/af_netlink.c, `netlink_rcv_skb`). What stands behind a
//! failing request runs too; [`IpvsSocket::carry_out`] says which ones did.
//!
//! **Dumps.** Only one can run on a socket: a second is refused with EBUSY until the first was read
//! to its end (`__netlink_dump_start`). So the destinations of N services are N exchanges of one
//! send and two receives, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use super::codec::{self, CodecError, Info, Request, Timeouts};
use super::decode;
use super::explain::explain;
use super::table::Table;
use super::wire::{self, Attributes, Message};
use crate::kernel::error::{Error, Result};
use crate::protocol::Counters;
use crate::state::{Destination, DestinationKey, ServiceKey, VirtualService};

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

/// How many requests go out at once: about 45 kB. Should each of them fail, the answers find room
/// in the default buffer (276 do).
pub const BATCH: usize = 256;
/// Up to how many services are asked for by name; to read more, all of them are.
const ONE_BY_ONE: usize = 256;
/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once or not at all.
const PATIENCE_S: i64 = 10;
/// How often a dump is tried that the kernel says was interrupted.
const DUMP_TRIES: u32 = 5;

/// The whole table as it was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Services and destinations.
    pub table: Table,
    /// The connection counters of every destination, if they were asked for.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// A destination as the kernel tells of it.
type Counted = (DestinationKey, Destination, Counters);

fn without_counters(all: Vec<Counted>) -> BTreeMap<DestinationKey, Destination> {
    all.into_iter().map(|(name, destination, _)| (name, destination)).collect()
}

/// A socket to the IPVS of the network namespace in which it was opened.
#[derive(Debug)]
pub struct IpvsSocket {
    socket: Socket,
    family: u16,
    seq: u32,
    buffer: Vec<u8>,
}

impl IpvsSocket {
    /// Opens it, and **loads ip_vs** where the kernel can: asking for the family does that.
    /// To look without a change ask [`super::is_loaded`] first.
    pub fn open() -> Result<Self> {
        let failed = |error: io::Error| Error::new("cannot open a netlink socket").because(error);
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Errors need not repeat the request; old kernels (before 4.3) do it anyway.
        let _ = socket.set_cap_ack(true);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))
            .map_err(|errno| failed(errno.into()))?;
        let mut open = Self { socket, family: 0, seq: 0, buffer: vec![0; BUFFER] };
        open.family = open.find_family()?;
        Ok(open)
    }

    fn find_family(&mut self) -> Result<u16> {
        let mut body = Attributes::default();
        body.put_text(FAMILY_NAME, "IPVS");
        let seq = self.next_seq();
        let frame = wire::frame(CONTROLLER, REQUEST, seq, GET_FAMILY, 1, &body.into_bytes());
        self.send(&frame)?;
        let mut family = None;
        let code = self.receive(seq, false, |message| {
            for attribute in wire::attributes(message.generic()?.1) {
                let (kind, value) = attribute?;
                if kind == FAMILY_ID {
                    family = Some(wire::read_u16(value, "a family's number")?);
                }
            }
            Ok(())
        })?;
        match (code, family) {
            (None, Some(family)) => Ok(family),
            (Some(Errno::ENOENT) | None, _) => {
                Err(Error::new("this kernel has no IPVS: the module ip_vs is not loaded")
                    .cure(crate::kernel::modules::CURE_IP_VS))
            }
            (Some(errno), _) => {
                Err(Error::new("the kernel does not say where IPVS is").because(errno))
            }
        }
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    fn frame(&mut self, request: &Request, flags: u16) -> (u32, Vec<u8>) {
        let seq = self.next_seq();
        let (command, body) = (request.command(), request.encode());
        (seq, wire::frame(self.family, flags, seq, command, codec::VERSION, &body))
    }

    fn send_one(&mut self, request: &Request, flags: u16) -> Result<u32> {
        let (seq, frame) = self.frame(request, flags);
        self.send(&frame)?;
        Ok(seq)
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::new("the kernel took only a part of a request")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::new("cannot send to IPVS").because(error)),
            }
        }
    }

    /// Gives every answer to `seq` to `each`, up to its end: an error (`Some`), an acknowledgement,
    /// the end of a dump, or (not `dump`) the first message. A dump that the kernel marks as
    /// interrupted ends with EAGAIN. What is left of older exchanges is dropped.
    fn receive(
        &mut self,
        seq: u32,
        dump: bool,
        mut each: impl FnMut(&Message<'_>) -> std::result::Result<(), CodecError>,
    ) -> Result<Option<Errno>> {
        let garbled =
            |error: CodecError| Error::new("what IPVS answers cannot be understood").because(error);
        let mut interrupted = false;
        loop {
            let length = self.receive_datagram()?;
            for message in wire::messages(&self.buffer[..length]) {
                let message = message.map_err(|error| garbled(error.into()))?;
                if message.seq != seq {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                if matches!(message.kind, wire::ERROR | wire::DONE) {
                    let code = message.errno().map_err(|error| garbled(error.into()))?;
                    let again = interrupted.then_some(Errno::EAGAIN);
                    return Ok(if code == 0 { again } else { Some(Errno::from_raw(code)) });
                }
                each(&message).map_err(garbled)?;
                if !dump {
                    return Ok(None);
                }
            }
        }
    }

    fn receive_datagram(&mut self) -> Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => return Ok(length),
                Ok(length) => {
                    return Err(Error::new(format!(
                        "IPVS answers with {length} bytes at once, {BUFFER} were expected at most"
                    )));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(Error::new(format!("IPVS says nothing for {PATIENCE_S} s")));
                }
                Err(errno) => return Err(Error::new("cannot hear IPVS").because(errno)),
            }
        }
    }

    /// Dumps; `each` gets the attributes of every answer. Tried again if the kernel says that the
    /// table changed under it.
    fn dump<T: Default>(
        &mut self,
        request: &Request,
        each: impl Fn(&mut T, &[u8]) -> std::result::Result<(), CodecError>,
    ) -> Result<T> {
        for _ in 0..DUMP_TRIES {
            let seq = self.send_one(request, REQUEST | DUMP)?;
            let mut all = T::default();
            match self.receive(seq, true, |message| each(&mut all, message.generic()?.1))? {
                None => return Ok(all),
                Some(Errno::EAGAIN) => {}
                Some(errno) => return Err(explain(request, errno)),
            }
        }
        Err(Error::new("the IPVS table changes faster than it can be read")
            .cure("something else (keepalived, kube-proxy) rewrites it all the time: stop that"))
    }

    fn ask<T>(
        &mut self,
        request: &Request,
        read: impl Fn(&[u8]) -> std::result::Result<T, CodecError>,
    ) -> Result<T> {
        let seq = self.send_one(request, REQUEST)?;
        let mut answer = None;
        let code = self.receive(seq, false, |message| {
            answer = Some(read(message.generic()?.1)?);
            Ok(())
        })?;
        match (code, answer) {
            (None, Some(answer)) => Ok(answer),
            (None, None) => Err(Error::new("IPVS gives an empty answer")),
            (Some(errno), _) => Err(explain(request, errno)),
        }
    }

    /// Reads the whole table, and the counters if they are asked for.
    ///
    /// A service of a protocol that IPVS does not balance (the kernel accepts any number) cannot be
    /// named by a topology: it is left out.
    pub fn look(&mut self, counters: bool) -> Result<Seen> {
        let mut seen = Seen::default();
        for (key, mut service) in self.services()? {
            let destinations = self.destinations(&key)?;
            if counters {
                let counts = destinations.iter().map(|(name, _, counts)| (*name, *counts));
                seen.counters.insert(key.clone(), counts.collect());
            }
            service.destinations = without_counters(destinations);
            seen.table.insert(key, service);
        }
        Ok(seen)
    }

    /// Reads the services that `named` has, as far as they are there.
    pub fn part(&mut self, named: &BTreeSet<&ServiceKey>) -> Result<Table> {
        let mut found = Vec::new();
        if named.len() > ONE_BY_ONE {
            found = self.services()?;
            found.retain(|(key, _)| named.contains(key));
        } else {
            for key in named {
                found.extend(self.service(key)?.map(|service| ((*key).clone(), service)));
            }
        }
        let mut part = Table::new();
        for (key, mut service) in found {
            service.destinations = without_counters(self.destinations(&key)?);
            part.insert(key, service);
        }
        Ok(part)
    }

    /// One service without its destinations, if it is there.
    fn service(&mut self, key: &ServiceKey) -> Result<Option<VirtualService>> {
        let request = Request::GetService(key.clone());
        let seq = self.send_one(&request, REQUEST)?;
        let mut service = None;
        let code = self.receive(seq, false, |message| {
            service = Some(decode::service(message.generic()?.1)?.1);
            Ok(())
        })?;
        match code {
            None => Ok(service),
            Some(Errno::ESRCH) => Ok(None),
            Some(errno) => Err(explain(&request, errno)),
        }
    }

    /// All services, without their destinations, in the kernel's order.
    fn services(&mut self) -> Result<Vec<(ServiceKey, VirtualService)>> {
        self.dump(&Request::GetServices, |all: &mut Vec<_>, body| {
            match decode::service(body) {
                Ok(service) => all.push(service),
                Err(CodecError::Unknown { attribute: "protocol", number, .. }) => {
                    tracing::warn!(number, "an IPVS service of an unknown protocol is left out");
                }
                Err(error) => return Err(error),
            }
            Ok(())
        })
    }

    /// The destinations of one service; empty if it is not there.
    fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<Counted>> {
        let request = Request::GetDestinations(key.clone());
        self.dump(&request, |all: &mut Vec<_>, body| {
            all.push(decode::destination(body, key)?);
            Ok(())
        })
    }

    /// Whether there is such a service. (A dump of its destinations would not tell: that of a
    /// missing service is empty and a success.)
    pub fn has_service(&mut self, key: &ServiceKey) -> Result<bool> {
        Ok(self.service(key)?.is_some())
    }

    /// Reads the connection timeouts.
    pub fn timeouts(&mut self) -> Result<Timeouts> {
        self.ask(&Request::GetTimeouts, decode::timeouts)
    }

    /// Reads IPVS's version and the size of its connection table.
    pub fn info(&mut self) -> Result<Info> {
        self.ask(&Request::GetInfo, decode::info)
    }

    /// Sends all of `requests` (at most [`BATCH`]) at once. The answer has one entry for each:
    /// `Ok` was done, `Err` was not. The kernel does not stop at an error.
    pub fn carry_out<'a>(
        &mut self,
        requests: impl IntoIterator<Item = &'a Request, IntoIter: ExactSizeIterator>,
    ) -> Result<Vec<std::result::Result<(), Errno>>> {
        let requests = requests.into_iter();
        let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
        let mut frames = Vec::new();
        let mut seqs = Vec::with_capacity(requests.len());
        for (at, request) in requests.enumerate() {
            let flags = if at == last { REQUEST | ACK } else { REQUEST };
            let (seq, frame) = self.frame(request, flags);
            frames.extend_from_slice(&frame);
            seqs.push(seq);
        }
        self.send(&frames)?;
        let mut results = vec![Ok(()); seqs.len()];
        self.collect(&seqs, &mut results)?;
        Ok(results)
    }

    /// Reads answers until that to the last of `seqs` is there.
    fn collect(
        &mut self,
        seqs: &[u32],
        results: &mut [std::result::Result<(), Errno>],
    ) -> Result<()> {
        loop {
            let length = self.receive_datagram()?;
            for message in wire::messages(&self.buffer[..length]) {
                let read =
                    |error| Error::new("what IPVS answers cannot be understood").because(error);
                let message = message.map_err(read)?;
                let Some(at) = seqs.iter().position(|seq| *seq == message.seq) else { continue };
                if message.kind != wire::ERROR {
                    continue;
                }
                let code = message.errno().map_err(read)?;
                if let Some(result) = results.get_mut(at).filter(|_| code != 0) {
                    *result = Err(Errno::from_raw(code));
                }
                if at + 1 == seqs.len() {
                    return Ok(());
                }
            }
        }
    }
}
