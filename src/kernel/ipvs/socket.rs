//! The socket to IPVS: dumps, and batches of requests.
//!
//! **Batches.** Up to 256 requests go out in one send, and only the last asks for an acknowledgement: errors
//! carry the sequence number of their request, and the kernel handles the messages of a send in order
//! (net/netlink/af_netlink.c, `netlink_rcv_skb`). It also handles those after one that fails;
//! [`IpvsSocket::carry_out`] returns the result of each.
//!
//! **Dumps.** A socket runs one at a time: the kernel refuses a second with EBUSY until the first was read
//! to its end (`__netlink_dump_start`). So the destinations of N services are N exchanges of one send and
//! two receives, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::codec::{self, CodecError, IpvsInfo, IpvsRequest};
use super::decode;
use super::explain::explain;
use super::table::Table;
use super::wire;
use crate::kernel::error::{Error, Result};
use crate::kernel::generic::GenericSocket;
use crate::kernel::netlink::{ACK, undecodable};
use crate::state::{Counters, Destination, DestinationKey, ServiceKey, Timeouts, VirtualService};

/// Requests in one send: about 45 kB. If each of them fails, the answers fit into the default receive
/// buffer (276 do).
pub const BATCH: usize = 256;
/// The most services that are read one by one; for more the whole table is dumped.
const ONE_BY_ONE: usize = 256;

/// The IPVS table of a network namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IpvsObservation {
    /// Services and destinations.
    pub table: Table,
    /// The connection counters of each destination; empty unless they were requested.
    pub counters: BTreeMap<ServiceKey, BTreeMap<DestinationKey, Counters>>,
}

/// A destination in a dump.
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
    /// Opens it, and **loads ip_vs** where the kernel can. A caller that must not change the host checks
    /// [`super::is_loaded`] first.
    pub fn open() -> Result<Self> {
        let ipvs = GenericSocket::open("IPVS", codec::VERSION)?.ok_or_else(|| {
            Error::new("this kernel has no IPVS: the module ip_vs is not loaded")
                .cure(crate::kernel::modules::CURE_IP_VS)
        })?;
        Ok(Self { ipvs })
    }

    /// Dumps; `each` gets the attributes of each answer.
    fn dump<T: Default>(
        &mut self,
        request: &IpvsRequest,
        each: impl Fn(&mut T, &[u8]) -> std::result::Result<(), CodecError>,
    ) -> Result<T> {
        let answer = self.ipvs.dump(request.command(), &request.encode(), each)?;
        answer.map_err(|errno| explain(request, errno))
    }

    /// Reads one object; `None`: it does not exist (ESRCH).
    fn get<T>(
        &mut self,
        request: &IpvsRequest,
        read: impl Fn(&[u8]) -> std::result::Result<T, CodecError>,
    ) -> Result<Option<T>> {
        let mut answer = None;
        let end = self.ipvs.query(request.command(), &request.encode(), |body| {
            answer = Some(read(body)?);
            Ok::<_, CodecError>(())
        })?;
        match end {
            Ok(()) => Ok(answer),
            Err(Errno::ESRCH) => Ok(None),
            Err(errno) => Err(explain(request, errno)),
        }
    }

    /// Reads the whole table; the counters if `counters`.
    ///
    /// The kernel accepts services of any protocol number. One that IPVS does not balance has no
    /// [`ServiceKey`] and is left out.
    pub fn observe(&mut self, counters: bool) -> Result<IpvsObservation> {
        let mut observation = IpvsObservation::default();
        for (key, mut service) in self.services()? {
            let destinations = self.destinations(&key)?;
            if counters {
                let counts = destinations.iter().map(|(name, _, counts)| (*name, *counts));
                observation.counters.insert(key.clone(), counts.collect());
            }
            service.destinations = without_counters(destinations);
            observation.table.insert(key, service);
        }
        Ok(observation)
    }

    /// Reads those services of `named` that exist.
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

    /// One service without its destinations, if it exists.
    fn service(&mut self, key: &ServiceKey) -> Result<Option<VirtualService>> {
        self.get(&IpvsRequest::GetService(key.clone()), |body| Ok(decode::service(body)?.1))
    }

    /// All services without their destinations, in the order of the kernel's hash table.
    fn services(&mut self) -> Result<Vec<(ServiceKey, VirtualService)>> {
        self.dump(&IpvsRequest::GetServices, |all: &mut Vec<_>, body| {
            match decode::service(body) {
                Ok(service) => all.push(service),
                Err(CodecError::Unknown { attribute: "protocol", number, .. }) => {
                    tracing::warn!(number, "left out an IPVS service of an unknown protocol");
                }
                Err(error) => return Err(error),
            }
            Ok(())
        })
    }

    /// The destinations of one service; empty if it does not exist.
    fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<CountedDestination>> {
        let request = IpvsRequest::GetDestinations(key.clone());
        self.dump(&request, |all: &mut Vec<_>, body| {
            all.push(decode::destination(body, key)?);
            Ok(())
        })
    }

    /// Whether the service exists. (A dump of the destinations of a missing service is empty, and no error.)
    pub fn has_service(&mut self, key: &ServiceKey) -> Result<bool> {
        Ok(self.service(key)?.is_some())
    }

    /// Reads the connection timeouts.
    pub fn timeouts(&mut self) -> Result<Timeouts> {
        self.get(&IpvsRequest::GetTimeouts, decode::timeouts)?.ok_or_else(empty_answer)
    }

    /// Reads IPVS's version and the size of its connection table.
    pub fn info(&mut self) -> Result<IpvsInfo> {
        self.get(&IpvsRequest::GetInfo, decode::info)?.ok_or_else(empty_answer)
    }

    /// Sends all of `requests` (at most [`BATCH`]) in one send. The result has one entry for each: `Err` was
    /// not done. The kernel does not stop at an error.
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

    /// Receives until the answer to the last of `seqs`.
    fn collect(
        &mut self,
        seqs: &[u32],
        results: &mut [std::result::Result<(), Errno>],
    ) -> Result<()> {
        let undecodable = |error: wire::WireError| undecodable("IPVS", error);
        loop {
            let Some(messages) = self.ipvs.socket.datagram()? else {
                return Err(Error::new("cannot receive from IPVS").because(Errno::ENOBUFS));
            };
            for message in messages {
                let message = message.map_err(undecodable)?;
                let Some(at) = seqs.iter().position(|seq| *seq == message.seq) else { continue };
                if message.kind != wire::ERROR {
                    continue;
                }
                let code = message.errno().map_err(undecodable)?;
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

fn empty_answer() -> Error {
    Error::new("IPVS sent an empty answer")
}
