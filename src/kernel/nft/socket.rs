//! The socket to nf_tables: consistent reads, and transactions.
//!
//! **Reads.** Tables, chains, rules, sets and elements are separate dumps. The kernel numbers the
//! generations of a namespace's ruleset; a read is valid if the generation is the same before and after.
//!
//! **Transactions.** All messages of a batch go out in one send, because the kernel applies the messages
//! of one send as a whole or not at all (net/netfilter/nfnetlink.c, `nfnetlink_rcv_batch`). The batch names
//! the generation that was read, and the kernel refuses it with ERESTART after a newer one. Only the last
//! message asks for an acknowledgement; an error carries the sequence number of its message.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::{
    setsockopt,
    sockopt::{SndBuf, SndBufForce},
};

use super::codec::{self, ANY, INET, SetKeys, message};
use super::explain::{CURE_MISSING, cannot_read, explain, keeps_changing, undecodable};
use super::table::{self, BatchMessage, TableContents};
use crate::kernel::error::{Error, Result};
use crate::kernel::netlink::{ACK, DUMP, ExchangeEnd, NetlinkSocket, REQUEST};
use crate::kernel::wire::{self, WireError};
use crate::state::firewall::{FilterFamily, FilterTable};
use crate::state::{PacketRules, StatefulDrop, TableName};

/// NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END (include/uapi/linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `struct nfgenmsg` of both: family, version, and the subsystem of the batch.
const BATCH_HEADER: [u8; 4] = [ANY, 0, 0, codec::SUBSYSTEM];

/// Seconds to wait for an answer: a new chain may load modules.
const PATIENCE_S: i64 = 30;
/// How often a read or a transaction is tried that changes by other processes interrupt.
const TRIES: u32 = 10;
/// The pause before try N is N times this: 0.5 s together.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes. A larger batch needs a larger send buffer than the usual 208 KiB, in which it counts double.
const SMALL: usize = 64 * 1024;

/// The nftables tables of a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftObservation {
    /// Tables that lvsprov made, for any topology.
    pub tables: BTreeMap<TableName, PacketRules>,
    /// Family and name of all other tables, fit for a terminal: `ip filter`.
    pub unmanaged: BTreeSet<String>,
    /// Rules of these that drop what connection tracking calls invalid.
    pub stateful_drops: Vec<StatefulDrop>,
    /// Those that routed packets pass.
    pub filters: Vec<FilterTable>,
}

/// The family of tables that routed packets of IP pass: NFPROTO_INET, _IPV4, _IPV6.
fn routed(family: u8) -> Option<FilterFamily> {
    match family {
        INET => Some(FilterFamily::Inet),
        2 => Some(FilterFamily::Ip),
        10 => Some(FilterFamily::Ip6),
        _ => None,
    }
}

/// Why a read gave no result.
pub(super) enum NftReadError {
    /// The ruleset changed during the read: it can be tried again.
    Interrupted,
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
    /// Opens it, and **loads nfnetlink** where the kernel can; the first message loads nf_tables. A caller
    /// that must not change the host checks [`super::is_loaded`] first.
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
        self.read_with_generation().map(|(observation, _)| observation)
    }

    /// See [`super::set`].
    pub fn set(
        &mut self,
        name: &TableName,
        before: Option<&PacketRules>,
        after: Option<&PacketRules>,
    ) -> Result<()> {
        let what = format!("nftables table inet {name}");
        let describe = |rules: Option<&PacketRules>| match rules {
            None => "no such table".to_owned(),
            Some(rules) if rules.rules.is_empty() => "an empty table".to_owned(),
            Some(rules) => rules.to_string(),
        };
        for _ in 0..TRIES {
            let (observation, generation) = self.read_with_generation()?;
            let found = observation.tables.get(name);
            if found != before {
                return Err(Error::changed_since(&what, &describe(before), &describe(found)));
            }
            let messages = table::transaction(name, found.is_some(), after)
                .map_err(|error| Error::new(format!("cannot write {what}")).because(error))?;
            match self.commit(generation, &messages)? {
                Ok(()) => return Ok(()),
                Err((_, Errno::ERESTART)) => {}
                Err((refused, errno)) => return Err(explain(&what, refused, errno)),
            }
        }
        Err(keeps_changing())
    }

    fn read_with_generation(&mut self) -> Result<(NftObservation, u32)> {
        for attempt in 1..=TRIES {
            match self.try_to_read() {
                Ok(all) => return Ok(all),
                // A program that writes rules mostly writes many: each pause is longer.
                Err(NftReadError::Interrupted) => std::thread::sleep(PAUSE * attempt),
                Err(NftReadError::Failed(error)) => return Err(error),
            }
        }
        Err(keeps_changing())
    }

    fn try_to_read(&mut self) -> std::result::Result<(NftObservation, u32), NftReadError> {
        let before = self.generation()?;
        let mut observation = NftObservation::default();
        let (mut managed, mut foreign) = (Vec::new(), Vec::new());
        let tables = self
            .dump(message::GETTABLE, ANY, &[], |family, body| Ok((family, codec::table(body)?)))?;
        for (family, found) in tables {
            let name = std::str::from_utf8(&found.name).ok().filter(|_| family == INET);
            if let Some(name) = name.and_then(|name| name.parse::<TableName>().ok()) {
                managed.push((name, found));
            } else {
                let printable = table::printable(&found.name);
                let named = format!("{} {printable}", table::family(family));
                observation.unmanaged.insert(named.clone());
                // 1: NFT_TABLE_F_DORMANT.
                if let Some(routed) = routed(family).filter(|_| found.flags & 1 == 0) {
                    foreign.push(((family, routed), named, found.name));
                }
            }
        }
        if managed.is_empty() && foreign.is_empty() {
            // A single dump: the kernel itself marks an interrupted one.
            return Ok((observation, before));
        }
        for (family, named, table) in foreign {
            self.read_foreign(family, &named, &table, &mut observation)?;
        }
        let chains = self.dump(message::GETCHAIN, INET, &[], |_, body| codec::chain(body))?;
        for (name, found) in managed {
            let in_it = |chain: &&codec::ObservedChain| chain.table == found.name;
            let chains = chains.iter().filter(in_it).cloned().collect();
            let parts = self.parts(&name, found, chains)?;
            observation.tables.insert(name, table::rules_of(&parts));
        }
        if self.generation()? == before {
            Ok((observation, before))
        } else {
            Err(NftReadError::Interrupted)
        }
    }

    /// The contents of a table. Old kernels dump those of all tables: the others are dropped here.
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
            let name = std::str::from_utf8(&set.name).ok().filter(|_| set.plain);
            let keys = match name {
                Some(name) => self.keys(&text, name)?,
                None => None,
            };
            sets.push((set, keys));
        }
        Ok(TableContents { table, chains, rules, sets })
    }

    /// The elements of a set, if all are plain keys.
    fn keys(
        &mut self,
        table: &str,
        set: &str,
    ) -> std::result::Result<Option<SetKeys>, NftReadError> {
        let request = codec::of_set(table, set).into_bytes();
        let mut keys = SetKeys::new();
        let plain = self.dump(message::GETSETELEM, INET, &request, |_, body| {
            codec::elements(body, &mut keys)
        })?;
        Ok(plain.iter().all(|plain| *plain).then_some(keys))
    }

    fn generation(&mut self) -> std::result::Result<u32, NftReadError> {
        let seq = self.socket.next_seq();
        let kind = codec::kind(message::GETGEN);
        // With an acknowledgement, so that no answer stays in the socket.
        self.socket.send(&wire::frame_of(kind, REQUEST | ACK, seq, [ANY, 0, 0, 0], &[]))?;
        let mut number = None;
        let end = self.socket.receive(seq, |message| {
            number = codec::generation(message.family()?.1)?;
            Ok::<_, WireError>(())
        })?;
        match (with_interruptions(end), number) {
            (ExchangeEnd::Done, Some(number)) => Ok(number),
            (ExchangeEnd::Done, None) => {
                Err(Error::new("the kernel sent no generation of its nftables ruleset").into())
            }
            (ExchangeEnd::Incomplete, _) => Err(NftReadError::Interrupted),
            (ExchangeEnd::Refused(errno), _) => Err(cannot_read(errno).into()),
        }
    }

    /// Dumps; `each` gets the family and the attributes of each answer.
    pub(super) fn dump<T>(
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
        match with_interruptions(end) {
            ExchangeEnd::Done => Ok(all),
            // ENOENT: removed since the tables were dumped.
            ExchangeEnd::Incomplete | ExchangeEnd::Refused(Errno::ENOENT) => {
                Err(NftReadError::Interrupted)
            }
            ExchangeEnd::Refused(errno) => Err(cannot_read(errno).into()),
        }
    }

    /// Sends `batch` as one transaction. The inner error: the message that the kernel refused (`None`:
    /// the batch itself), and the errno. Then the kernel did none of them.
    fn commit<'a>(
        &mut self,
        generation: u32,
        batch: &'a [BatchMessage],
    ) -> Result<std::result::Result<(), (Option<&'a BatchMessage>, Errno)>> {
        let Some(last) = batch.len().checked_sub(1) else { return Ok(Ok(())) };
        let begin = self.socket.next_seq();
        let body = codec::batch_of(generation).into_bytes();
        let mut frames = wire::frame_of(BATCH_BEGIN, REQUEST, begin, BATCH_HEADER, &body);
        let mut seqs = BTreeMap::new();
        for (at, one) in batch.iter().enumerate() {
            let BatchMessage { message, flags, body, what: _ } = one;
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
            let Some(answers) = self.socket.datagram()? else {
                // The kernel dropped errors (ENOBUFS), so the batch failed: those that are left name a message.
                continue;
            };
            for answer in answers {
                let answer = answer.map_err(undecodable)?;
                let at = seqs.get(&answer.seq).copied();
                if answer.kind != wire::ERROR || (at.is_none() && answer.seq != begin) {
                    continue;
                }
                match (answer.errno().map_err(undecodable)?, at) {
                    (0, Some(at)) if at == last => return Ok(Ok(())),
                    (0, _) => {}
                    (code, at) => {
                        let refused = at.and_then(|at| batch.get(at));
                        return Ok(Err((refused, Errno::from_raw(code))));
                    }
                }
            }
        }
    }

    /// A batch must be one send, and the kernel refuses (EMSGSIZE) one that exceeds the send buffer.
    fn make_room_for(&self, length: usize) {
        if length > SMALL && setsockopt(&self.socket, SndBufForce, &(2 * length)).is_err() {
            // Without CAP_NET_ADMIN in the initial user namespace net.core.wmem_max is the limit.
            let _ = setsockopt(&self.socket, SndBuf, &(2 * length));
        }
    }
}

/// Counts errnos that stand for an interruption by another process as one.
fn with_interruptions(end: ExchangeEnd) -> ExchangeEnd {
    match end {
        ExchangeEnd::Refused(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => {
            ExchangeEnd::Incomplete
        }
        end => end,
    }
}
