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

use nix::errno::Errno;

use super::codec::{self, CodecError, IpvsInfo, IpvsRequest};
use super::decode;
use super::explain::explain;
use super::table::Table;
use super::wire;
use crate::kernel::error::{Error, Result};
use crate::kernel::generic::GenericSocket;
use crate::kernel::netlink::{ACK, garbled};
use crate::state::{Counters, Destination, DestinationKey, ServiceKey, Timeouts, VirtualService};

/// How many requests go out at once: about 45 kB. Should each of them fail, the answers find room
/// in the default buffer (276 do).
pub const BATCH: usize = 256;
/// Up to how many services are asked for by name; to read more, all of them are.
const ONE_BY_ONE: usize = 256;

/// The whole table as it was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IpvsObservation {
    /// Services and destinations.
    pub table: Table,
    /// The connection counters of every destination, if they were asked for.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// A destination as the kernel tells of it.
type CountedDestination = (DestinationKey, Destination, Counters);

fn without_counters(all: Vec<CountedDestination>) -> BTreeMap<DestinationKey, Destination> {
    all.into_iter().map(|(name, destination, _)| (name, destination)).collect()
}

/// A socket to the IPVS of the network namespace in which it was opened.
#[derive(Debug)]
pub struct IpvsSocket {
    pub(super) ipvs: GenericSocket,
}

impl IpvsSocket {
    /// Opens it, and **loads ip_vs** where the kernel can: asking for the family does that.
    /// To look without a change ask [`super::is_loaded`] first.
    pub fn open() -> Result<Self> {
        let ipvs = GenericSocket::open("IPVS", codec::VERSION)?.ok_or_else(|| {
            Error::new("this kernel has no IPVS: the module ip_vs is not loaded")
                .cure(crate::kernel::modules::CURE_IP_VS)
        })?;
        Ok(Self { ipvs })
    }

    /// Dumps; `each` gets the attributes of every answer.
    fn dump<T: Default>(
        &mut self,
        request: &IpvsRequest,
        each: impl Fn(&mut T, &[u8]) -> std::result::Result<(), CodecError>,
    ) -> Result<T> {
        let answer = self.ipvs.dump(request.command(), &request.encode(), each)?;
        answer.map_err(|errno| explain(request, errno))
    }

    /// Asks for one thing; `None`: it is not there (ESRCH).
    fn ask<T>(
        &mut self,
        request: &IpvsRequest,
        read: impl Fn(&[u8]) -> std::result::Result<T, CodecError>,
    ) -> Result<Option<T>> {
        let mut answer = None;
        let end = self.ipvs.ask(request.command(), &request.encode(), |body| {
            answer = Some(read(body)?);
            Ok::<_, CodecError>(())
        })?;
        match end {
            Ok(()) => Ok(answer),
            Err(Errno::ESRCH) => Ok(None),
            Err(errno) => Err(explain(request, errno)),
        }
    }

    /// Reads the whole table, and the counters if they are asked for.
    ///
    /// A service of a protocol that IPVS does not balance (the kernel accepts any number) cannot be
    /// named by a topology: it is left out.
    pub fn look(&mut self, counters: bool) -> Result<IpvsObservation> {
        let mut seen = IpvsObservation::default();
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
        self.ask(&IpvsRequest::GetService(key.clone()), |body| Ok(decode::service(body)?.1))
    }

    /// All services, without their destinations, in the kernel's order.
    fn services(&mut self) -> Result<Vec<(ServiceKey, VirtualService)>> {
        self.dump(&IpvsRequest::GetServices, |all: &mut Vec<_>, body| {
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
    fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<CountedDestination>> {
        let request = IpvsRequest::GetDestinations(key.clone());
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
        self.ask(&IpvsRequest::GetTimeouts, decode::timeouts)?.ok_or_else(says_nothing)
    }

    /// Reads IPVS's version and the size of its connection table.
    pub fn info(&mut self) -> Result<IpvsInfo> {
        self.ask(&IpvsRequest::GetInfo, decode::info)?.ok_or_else(says_nothing)
    }

    /// Sends all of `requests` (at most [`BATCH`]) at once. The answer has one entry for each:
    /// `Ok` was done, `Err` was not. The kernel does not stop at an error.
    pub fn carry_out<'a>(
        &mut self,
        requests: impl IntoIterator<Item = &'a IpvsRequest, IntoIter: ExactSizeIterator>,
    ) -> Result<Vec<std::result::Result<(), Errno>>> {
        let requests = requests.into_iter();
        let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
        let mut frames = Vec::new();
        let mut seqs = Vec::with_capacity(requests.len());
        for (at, request) in requests.enumerate() {
            let flags = if at == last { ACK } else { 0 };
            let (seq, frame) = self.ipvs.frame(flags, request.command(), &request.encode());
            frames.extend_from_slice(&frame);
            seqs.push(seq);
        }
        self.ipvs.socket.send(&frames)?;
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
        let unclear = |error: wire::WireError| garbled("IPVS", error);
        loop {
            let Some(messages) = self.ipvs.socket.datagram()? else {
                return Err(Error::new("cannot hear IPVS").because(Errno::ENOBUFS));
            };
            for message in messages {
                let message = message.map_err(unclear)?;
                let Some(at) = seqs.iter().position(|seq| *seq == message.seq) else { continue };
                if message.kind != wire::ERROR {
                    continue;
                }
                let code = message.errno().map_err(unclear)?;
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

fn says_nothing() -> Error {
    Error::new("IPVS gives an empty answer")
}
