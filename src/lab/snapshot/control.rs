//! nftables, fou ports, and IPVS timeouts and daemons of the calling thread's namespace, by netlink.
//!
//! A snapshot must not change the host: generic families are looked up in the list of all families,
//! because a request by name loads the family's module.

use std::collections::BTreeMap;
use std::io;

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::os::fd::AsRawFd as _;

use super::{Snapshot, add};
use crate::kernel::ipvs::wire::{self, WireError};
use crate::visible::hex;

/// NLM_F_REQUEST, NLM_F_DUMP (include/uapi/linux/netlink.h).
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;
/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
/// (include/uapi/linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// NFNL_SUBSYS_NFTABLES; NFT_MSG_GETTABLE, GETCHAIN, GETRULE (include/uapi/linux/netfilter/).
const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
/// FOU_CMD_GET (include/uapi/linux/fou.h).
const FOU_GET: u8 = 3;
/// IPVS_CMD_GET_DAEMON, GET_CONFIG; IPVS_CMD_ATTR_DAEMON (include/uapi/linux/ip_vs.h).
const IPVS_GET_DAEMON: u8 = 11;
const IPVS_GET_CONFIG: u8 = 13;
const IPVS_DAEMON: u16 = 3;

/// Receive timeout in seconds; the kernel answers immediately.
const PATIENCE_S: i64 = 10;
/// Receive buffer; the kernel sends at most 32 KiB at a time.
const BUFFER: usize = 64 << 10;

/// The command, or address family, of a message, with its attributes.
type NetlinkReply = (u8, AttributeMap);
type AttributeMap = BTreeMap<u16, Vec<u8>>;

/// Adds all of them to the snapshot.
pub(super) fn read(snapshot: &mut Snapshot) -> io::Result<()> {
    nftables(snapshot)?;
    let generic = SnapshotSocket::open(NETLINK_GENERIC)?;
    let families = families(&generic)?;
    if let Some(fou) = families.get("fou") {
        for (_, attributes) in generic.ask(*fou, DUMP, FOU_GET, 1)? {
            describe_fou(&attributes, snapshot);
        }
    }
    if let Some(ipvs) = families.get("IPVS") {
        for (_, attributes) in generic.ask(*ipvs, 0, IPVS_GET_CONFIG, 1)? {
            snapshot.insert("ipvs timeouts".to_owned(), describe_timeouts(&attributes));
        }
        for (_, attributes) in generic.ask(*ipvs, DUMP, IPVS_GET_DAEMON, 1)? {
            let daemon = attributes.get(&IPVS_DAEMON).map(|bytes| hex(bytes));
            add(snapshot, "ipvs daemon".to_owned(), daemon.unwrap_or_default());
        }
    }
    Ok(())
}

fn families(generic: &SnapshotSocket) -> io::Result<BTreeMap<String, u16>> {
    let all = generic.ask(CONTROLLER, DUMP, GET_FAMILY, 1)?;
    let named = all.into_iter().filter_map(|(_, attributes)| {
        let id = attributes.get(&FAMILY_ID)?.first_chunk().copied().map(u16::from_ne_bytes)?;
        Some((text(attributes.get(&FAMILY_NAME)?), id))
    });
    Ok(named.collect())
}

fn nftables(snapshot: &mut Snapshot) -> io::Result<()> {
    let talk = match SnapshotSocket::open(NETLINK_NETFILTER) {
        // The kernel has no netfilter.
        Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => return Ok(()),
        other => other?,
    };
    let dump = |what: u16| match talk.ask(NFTABLES | what, DUMP, 0, 0) {
        // The kernel has no nftables (net/netfilter/nfnetlink.c, `nfnetlink_rcv_msg`).
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(Vec::new()),
        other => other,
    };
    for (family, table) in dump(GET_TABLE)? {
        let name = table.get(&1).map(|name| text(name)).unwrap_or_default();
        snapshot.insert(format!("nftables {} {name}", family_name(family)), "a table".to_owned());
    }
    for (family, chain) in dump(GET_CHAIN)? {
        // NFTA_CHAIN_TABLE, NAME, HOOK, POLICY, TYPE; without handle, use count and counters.
        let part = |kind| chain.get(&kind).map(|bytes| text(bytes)).unwrap_or_default();
        let raw = |kind| chain.get(&kind).map(|bytes| hex(bytes)).unwrap_or_default();
        let name = format!("nftables {} {} chain {}", family_name(family), part(1), part(3));
        add(snapshot, name, format!("type {} hook {} policy {}", part(7), raw(4), raw(5)));
    }
    for (family, rule) in dump(GET_RULE)? {
        // NFTA_RULE_TABLE, CHAIN, EXPRESSIONS; without handle and position.
        let part = |kind| rule.get(&kind).map(|bytes| text(bytes)).unwrap_or_default();
        let name = format!("nftables {} {} rules of {}", family_name(family), part(1), part(2));
        add(
            snapshot,
            name,
            rule.get(&4).map(|list| describe_expressions(list)).unwrap_or_default(),
        );
    }
    Ok(())
}

/// NFPROTO_* (include/uapi/linux/netfilter.h).
fn family_name(family: u8) -> String {
    match family {
        1 => "inet".to_owned(),
        2 => "ip".to_owned(),
        3 => "arp".to_owned(),
        5 => "netdev".to_owned(),
        7 => "bridge".to_owned(),
        10 => "ip6".to_owned(),
        other => other.to_string(),
    }
}

/// Names and operands; of expressions with counters only the name (NFTA_LIST_ELEM; NFTA_EXPR_NAME, DATA).
fn describe_expressions(list: &[u8]) -> String {
    let mut words = Vec::new();
    for (_, element) in wire::attributes(list).map_while(Result::ok) {
        let expression = attributes(element);
        let name = expression.get(&1).map(|name| text(name)).unwrap_or_default();
        let counts = matches!(name.as_str(), "counter" | "limit" | "quota");
        match expression.get(&2).filter(|_| !counts) {
            Some(data) => words.push(format!("{name}({})", hex(data))),
            None => words.push(name),
        }
    }
    words.join(" ")
}

/// FOU_ATTR_PORT (in network order), AF; other attributes as hex.
fn describe_fou(attributes: &AttributeMap, snapshot: &mut Snapshot) {
    let port = attributes.get(&1).and_then(|bytes| bytes.first_chunk().copied());
    let family = attributes.get(&2).and_then(|bytes| bytes.first().copied()).unwrap_or_default();
    let name = format!(
        "fou {} port {}",
        if i32::from(family) == nix::libc::AF_INET6 { "ipv6" } else { "ipv4" },
        port.map(u16::from_be_bytes).unwrap_or_default()
    );
    let rest = attributes.iter().filter(|(kind, _)| **kind > 2);
    let rest: Vec<String> = rest.map(|(kind, value)| format!("{kind}={}", hex(value))).collect();
    add(snapshot, name, rest.join(" "));
}

/// IPVS_CMD_ATTR_TIMEOUT_TCP, TIMEOUT_TCP_FIN, TIMEOUT_UDP.
fn describe_timeouts(attributes: &AttributeMap) -> String {
    let seconds = |kind| {
        let bytes = attributes.get(&kind).and_then(|bytes| bytes.first_chunk().copied());
        bytes.map(u32::from_ne_bytes).unwrap_or_default()
    };
    format!("tcp {} tcp-fin {} udp {}", seconds(4), seconds(5), seconds(6))
}

/// Up to the NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn attributes(bytes: &[u8]) -> AttributeMap {
    let whole = wire::attributes(bytes).map_while(Result::ok);
    whole.map(|(kind, value)| (kind, value.to_vec())).collect()
}

/// A netlink socket of the calling thread's namespace.
struct SnapshotSocket(Socket);

impl SnapshotSocket {
    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Self(socket))
    }

    /// All messages of the answer to one request.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        command: u8,
        version: u8,
    ) -> io::Result<Vec<NetlinkReply>> {
        let frame = wire::frame(kind, REQUEST | flags, 1, command, version, &[]);
        self.0.send(&frame, 0)?;
        let mut buffer = vec![0; BUFFER];
        let mut replies = Vec::new();
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in wire::messages(buffer.get(..length).unwrap_or_default()) {
                let message = message.map_err(garbled)?;
                if message.kind == wire::ERROR || message.kind == wire::DONE {
                    return match message.errno().map_err(garbled)? {
                        0 => Ok(replies),
                        code => Err(io::Error::from_raw_os_error(code)),
                    };
                }
                let (first, bytes) = message.generic().map_err(garbled)?;
                replies.push((first, attributes(bytes)));
            }
            // Without a dump the answer is one message without an end marker.
            if flags & DUMP == 0 {
                return Ok(replies);
            }
        }
    }
}

fn garbled(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut list = wire::AttributeList::default();
        for (kind, value) in parts {
            list.put(*kind, value);
        }
        list.into_bytes()
    }

    #[test]
    fn a_rule_has_its_expressions_without_counters() {
        let mark = list(&[(1, b"meta\0"), (2, &[8, 0])]);
        let counter = list(&[(1, b"counter\0"), (2, &[1, 2, 3])]);
        assert_eq!(describe_expressions(&list(&[(1, &mark), (1, &counter)])), "meta(0800) counter");
    }

    #[test]
    fn ports_and_timeouts_are_numbers() {
        let mut snapshot = Snapshot::new();
        describe_fou(
            &attributes(&list(&[(1, &6080_u16.to_be_bytes()), (2, &[2]), (4, &[2])])),
            &mut snapshot,
        );
        let expected = [("fou ipv4 port 6080".to_owned(), "4=02".to_owned())];
        assert_eq!(snapshot, Snapshot::from(expected));
        let config = list(&[(4, &900_u32.to_ne_bytes()), (6, &300_u32.to_ne_bytes())]);
        assert_eq!(describe_timeouts(&attributes(&config)), "tcp 900 tcp-fin 0 udp 300");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let replies = attributes(&bytes);
            describe_fou(&replies, &mut Snapshot::new());
            let _ = (describe_timeouts(&replies), describe_expressions(&bytes), text(&bytes));
        }
    }
}
