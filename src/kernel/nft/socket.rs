//! Carries nf_tables' messages to the kernel: consistent reads, and transactions.
//!
//! **Reads.** Tables, chains, rules, sets and elements are dumps of their own. The kernel counts the
//! generations of all rules of a namespace; what was read counts only if the generation was the same
//! before and after.
//!
//! **Transactions.** All messages of a batch go out in one send, because the kernel takes what is in
//! one as a whole or not at all (net/netfilter/nfnetlink.c, `nfnetlink_rcv_batch`). The batch names
//! the generation that was read, and is refused with ERESTART if there is a newer one. Only the last
//! message asks for an acknowledgement; any error is told of by its sequence number.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::{
    setsockopt,
    sockopt::{SndBuf, SndBufForce},
};

use super::codec::{self, ANY, INET, message};
use super::explain::{CURE_MISSING, cannot_read, explain, garbled, restless};
use super::table::{self, BatchMessage, TableContents};
use crate::kernel::error::{Error, Result};
use crate::kernel::netlink::{ACK, DUMP, ExchangeEnd, NetlinkSocket, REQUEST};
use crate::kernel::wire::{self, WireError};
use crate::state::{PacketRules, TableName};

/// NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END (include/uapi/linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The header of those: family, version, and the subsystem that the batch is for.
const BATCH_HEADER: [u8; 4] = [ANY, 0, 0, codec::SUBSYSTEM];

/// The kernel answers at once; loading modules for a chain takes longer.
const PATIENCE_S: i64 = 30;
/// How often something is tried that others' changes interrupt.
const TRIES: u32 = 10;
/// How long to wait then, times the number of tries: half a second in all.
const PAUSE: Duration = Duration::from_millis(10);
/// A batch beyond this needs a larger send buffer than the usual 208 KiB, of which it counts double.
const SMALL: usize = 64 * 1024;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftObservation {
    /// Tables that lvsprov made, for whatever topology.
    pub tables: BTreeMap<TableName, PacketRules>,
    /// All others, by family and name, fit for a terminal: `ip filter`.
    pub foreign: BTreeSet<String>,
}

/// Why a read must be done again, or cannot be done.
enum NftReadError {
    /// Somebody changed the rules meanwhile.
    Changed,
    Failed(Error),
}

impl From<Error> for NftReadError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A socket to the nf_tables of the network namespace in which it was opened.
#[derive(Debug)]
pub struct NftSocket {
    socket: NetlinkSocket,
}

impl NftSocket {
    /// Opens it, and **loads nfnetlink** where the kernel can; the first message loads nf_tables. To
    /// look without a change ask [`super::is_loaded`] first.
    pub fn open() -> Result<Self> {
        let failed = |error: io::Error| {
            let missing = matches!(error.raw_os_error(), Some(nix::libc::EPROTONOSUPPORT));
            let cure = missing.then_some(CURE_MISSING);
            Error::new("cannot open a netlink socket to netfilter").because(error).maybe_cure(cure)
        };
        let socket = NetlinkSocket::open(NETLINK_NETFILTER, "nf_tables", PATIENCE_S);
        Ok(Self { socket: socket.map_err(failed)? })
    }

    /// Reads all tables.
    pub fn read(&mut self) -> Result<NftObservation> {
        self.read_with_generation().map(|(seen, _)| seen)
    }

    /// See [`super::set`].
    pub fn set(
        &mut self,
        name: &TableName,
        before: Option<&PacketRules>,
        after: Option<&PacketRules>,
    ) -> Result<()> {
        let what = format!("nftables table inet {name}");
        let in_words = |rules: Option<&PacketRules>| match rules {
            None => "no such table".to_owned(),
            Some(rules) if rules.rules.is_empty() => "an empty table".to_owned(),
            Some(rules) => rules.to_string(),
        };
        for _ in 0..TRIES {
            let (seen, generation) = self.read_with_generation()?;
            let there = seen.tables.get(name);
            if there != before {
                return Err(Error::changed_since(&what, &in_words(before), &in_words(there)));
            }
            let pieces = table::transaction(name, there.is_some(), after)
                .map_err(|error| Error::new(format!("cannot write {what}")).because(error))?;
            match self.commit(generation, &pieces)? {
                Ok(()) => return Ok(()),
                Err((_, Errno::ERESTART)) => {}
                Err((piece, errno)) => return Err(explain(&what, piece, errno)),
            }
        }
        Err(restless())
    }

    fn read_with_generation(&mut self) -> Result<(NftObservation, u32)> {
        for attempt in 1..=TRIES {
            match self.try_to_read() {
                Ok(all) => return Ok(all),
                // Whoever writes them writes many at once: give way for longer each time.
                Err(NftReadError::Changed) => std::thread::sleep(PAUSE * attempt),
                Err(NftReadError::Failed(error)) => return Err(error),
            }
        }
        Err(restless())
    }

    fn try_to_read(&mut self) -> std::result::Result<(NftObservation, u32), NftReadError> {
        let before = self.generation()?;
        let mut seen = NftObservation::default();
        let mut ours = Vec::new();
        let tables = self
            .dump(message::GETTABLE, ANY, &[], |family, body| Ok((family, codec::table(body)?)))?;
        for (family, found) in tables {
            let name = std::str::from_utf8(&found.name).ok().filter(|_| family == INET);
            if let Some(name) = name.and_then(|name| name.parse::<TableName>().ok()) {
                ours.push((name, found));
            } else {
                let name = table::printable(&found.name);
                seen.foreign.insert(format!("{} {name}", table::family(family)));
            }
        }
        if ours.is_empty() {
            // One dump, and the kernel says itself if that was interrupted.
            return Ok((seen, before));
        }
        let chains = self.dump(message::GETCHAIN, INET, &[], |_, body| codec::chain(body))?;
        for (name, found) in ours {
            let in_it = |chain: &&codec::ObservedChain| chain.table == found.name;
            let chains = chains.iter().filter(in_it).cloned().collect();
            let parts = self.parts(&name, found, chains)?;
            seen.tables.insert(name, table::rules_of(&parts));
        }
        if self.generation()? == before { Ok((seen, before)) } else { Err(NftReadError::Changed) }
    }

    /// What is in a table. Old kernels do not dump by table: so what is others' is left out here.
    fn parts(
        &mut self,
        name: &TableName,
        table: codec::ObservedTable,
        chains: Vec<codec::ObservedChain>,
    ) -> std::result::Result<TableContents, NftReadError> {
        let text = name.to_string();
        let of_table = codec::of_table(&text).into_bytes();
        let mut rules =
            self.dump(message::GETRULE, INET, &of_table, |_, body| codec::rule(body))?;
        rules.retain(|rule| rule.table == table.name);
        let mut found = self.dump(message::GETSET, INET, &of_table, |_, body| codec::set(body))?;
        found.retain(|set| set.table == table.name);
        let mut sets = Vec::with_capacity(found.len());
        for set in found {
            let name = std::str::from_utf8(&set.name).ok().filter(|_| set.of_ports);
            let ports = match name {
                Some(name) => self.ports(&text, name)?,
                None => None,
            };
            sets.push((set, ports));
        }
        Ok(TableContents { table, chains, rules, sets })
    }

    /// What is in a set, if it is ports and nothing else.
    fn ports(
        &mut self,
        table: &str,
        set: &str,
    ) -> std::result::Result<Option<BTreeSet<u16>>, NftReadError> {
        let request = codec::of_set(table, set).into_bytes();
        let mut ports = BTreeSet::new();
        let plain = self.dump(message::GETSETELEM, INET, &request, |_, body| {
            codec::elements(body, &mut ports)
        })?;
        Ok(plain.iter().all(|plain| *plain).then_some(ports))
    }

    fn generation(&mut self) -> std::result::Result<u32, NftReadError> {
        let seq = self.socket.next_seq();
        let kind = codec::kind(message::GETGEN);
        // With an acknowledgement, so that nothing of it is left in the socket.
        self.socket.send(&wire::frame_of(kind, REQUEST | ACK, seq, [ANY, 0, 0, 0], &[]))?;
        let mut number = None;
        let end = self.socket.receive(seq, |message| {
            number = codec::generation(message.family()?.1)?;
            Ok::<_, WireError>(())
        })?;
        match (passing(end), number) {
            (ExchangeEnd::Done, Some(number)) => Ok(number),
            (ExchangeEnd::Done, None) => {
                Err(Error::new("the kernel does not say which generation of rules it has").into())
            }
            (ExchangeEnd::Changed, _) => Err(NftReadError::Changed),
            (ExchangeEnd::Refused(errno), _) => Err(cannot_read(errno).into()),
        }
    }

    /// Dumps; `each` gets the family and the attributes of every answer.
    fn dump<T>(
        &mut self,
        message: u8,
        family: u8,
        body: &[u8],
        mut each: impl FnMut(u8, &[u8]) -> std::result::Result<T, WireError>,
    ) -> std::result::Result<Vec<T>, NftReadError> {
        let seq = self.socket.next_seq();
        let kind = codec::kind(message);
        self.socket.send(&wire::frame_of(kind, REQUEST | DUMP, seq, [family, 0, 0, 0], body))?;
        let mut all = Vec::new();
        let end = self.socket.receive(seq, |message| {
            let ([family, ..], body) = message.family()?;
            all.push(each(family, body)?);
            Ok::<_, WireError>(())
        })?;
        match passing(end) {
            ExchangeEnd::Done => Ok(all),
            // Gone since the tables were dumped.
            ExchangeEnd::Changed | ExchangeEnd::Refused(Errno::ENOENT) => {
                Err(NftReadError::Changed)
            }
            ExchangeEnd::Refused(errno) => Err(cannot_read(errno).into()),
        }
    }

    /// Sends `pieces` as one transaction. Not done: the piece that the kernel refuses (`None`: the
    /// transaction itself), and why.
    fn commit<'a>(
        &mut self,
        generation: u32,
        pieces: &'a [BatchMessage],
    ) -> Result<std::result::Result<(), (Option<&'a BatchMessage>, Errno)>> {
        let Some(last) = pieces.len().checked_sub(1) else { return Ok(Ok(())) };
        let begin = self.socket.next_seq();
        let body = codec::batch_of(generation).into_bytes();
        let mut frames = wire::frame_of(BATCH_BEGIN, REQUEST, begin, BATCH_HEADER, &body);
        let mut seqs = BTreeMap::new();
        for (at, piece) in pieces.iter().enumerate() {
            let BatchMessage { message, flags, body, what: _ } = piece;
            let seq = self.socket.next_seq();
            seqs.insert(seq, at);
            let flags = REQUEST | flags | if at == last { ACK } else { 0 };
            let body = body.clone().into_bytes();
            let kind = codec::kind(*message);
            frames.extend(wire::frame_of(kind, flags, seq, [INET, 0, 0, 0], &body));
        }
        let end = self.socket.next_seq();
        frames.extend(wire::frame_of(BATCH_END, REQUEST, end, BATCH_HEADER, &[]));
        self.make_room_for(frames.len());
        self.socket.send(&frames)?;
        loop {
            let Some(messages) = self.socket.datagram()? else {
                // Errors did not find room: there were some, and no acknowledgement after that.
                continue;
            };
            for message in messages {
                let message = message.map_err(garbled)?;
                let at = seqs.get(&message.seq).copied();
                if message.kind != wire::ERROR || (at.is_none() && message.seq != begin) {
                    continue;
                }
                match (message.errno().map_err(garbled)?, at) {
                    (0, Some(at)) if at == last => return Ok(Ok(())),
                    (0, _) => {}
                    (code, at) => {
                        let piece = at.and_then(|at| pieces.get(at));
                        return Ok(Err((piece, Errno::from_raw(code))));
                    }
                }
            }
        }
    }

    /// A batch must be one send, and the kernel refuses (EMSGSIZE) what is more than the send buffer.
    fn make_room_for(&self, length: usize) {
        if length > SMALL && setsockopt(&self.socket, SndBufForce, &(2 * length)).is_err() {
            // Root of a user namespace only: as much as net.core.wmem_max allows.
            let _ = setsockopt(&self.socket, SndBuf, &(2 * length));
        }
    }
}

/// Others' changes interrupt, also where the kernel does not say so by itself.
fn passing(end: ExchangeEnd) -> ExchangeEnd {
    match end {
        ExchangeEnd::Refused(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => ExchangeEnd::Changed,
        end => end,
    }
}
