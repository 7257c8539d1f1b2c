//! UDP ports where the kernel decapsulates GUE: the generic netlink family `fou`
//! (include/uapi/linux/fou.h, net/ipv4/fou.c; since Linux 6.3 net/ipv4/fou_core.c).
//!
//! A port may also decapsulate another protocol, or only packets to one address or over one interface.
//! lvsprov makes no such port and leaves it out.

use std::collections::BTreeSet;

use nix::errno::Errno;

use crate::kernel::error::{Error, Result};
use crate::kernel::generic::GenericSocket;
use crate::kernel::ipvs::wire::{self, AttributeList, WireError};
use crate::state::GuePort;

const FAMILY: &str = "fou";
const VERSION: u8 = 1;

/// `FOU_CMD_*`.
const ADD: u8 = 1;
const DEL: u8 = 2;
const GET: u8 = 3;

/// `FOU_ATTR_*`. The ports are in network order.
mod attr {
    pub const PORT: u16 = 1;
    pub const AF: u16 = 2;
    pub const TYPE: u16 = 4;
    pub const REMCSUM_NOPARTIAL: u16 = 5;
    pub const LOCAL_V4: u16 = 6;
    pub const LOCAL_V6: u16 = 7;
    pub const PEER_V4: u16 = 8;
    pub const PEER_V6: u16 = 9;
    pub const PEER_PORT: u16 = 10;
    pub const IFINDEX: u16 = 11;
}

/// `FOU_ENCAP_GUE`.
const GUE: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Whether a port is one that lvsprov could have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FouPortKind {
    /// GUE, from any address on any interface.
    PlainGue,
    Other,
}

/// Reads the GUE ports; none where fou is not loaded. The request makes the kernel look for a module with this
/// family (Linux 6.1's fou has no such alias, other versions may): a caller that must not change the host
/// checks first that fou is loaded.
pub fn gue_ports() -> Result<BTreeSet<GuePort>> {
    let Some(mut fou) = GenericSocket::open(FAMILY, VERSION)? else { return Ok(BTreeSet::new()) };
    Ok(plain_gue(&read(&mut fou)?))
}

/// Opens a port; an error if it is open.
pub fn add(port: GuePort) -> Result<()> {
    let mut fou = open()?;
    match kind_of(&read(&mut fou)?, port) {
        Some(FouPortKind::PlainGue) => {
            return Err(Error::changed_since(&format!("GUE port {port}"), "nothing", "the port"));
        }
        Some(FouPortKind::Other) => return Err(not_plain_gue(port)),
        None => {}
    }
    fou.command(ADD, &request(port, Some(GUE)))?.map_err(|errno| {
        let error = Error::new(format!("cannot decapsulate GUE on {port}")).because(errno);
        error.maybe_cure(match errno {
            Errno::EADDRINUSE => {
                Some("another program or tunnel of this host uses that UDP port: take another port")
            }
            Errno::EAFNOSUPPORT | Errno::EPFNOSUPPORT => Some("this kernel has no IPv6"),
            Errno::EPERM | Errno::EACCES => {
                Some("it needs root with CAP_NET_ADMIN in this network namespace")
            }
            _ => None,
        })
    })
}

/// Closes a port; an error if it is not open.
pub fn remove(port: GuePort) -> Result<()> {
    let mut fou = open()?;
    match kind_of(&read(&mut fou)?, port) {
        Some(FouPortKind::PlainGue) => {}
        Some(FouPortKind::Other) => return Err(not_plain_gue(port)),
        None => {
            return Err(Error::changed_since(&format!("GUE port {port}"), "the port", "nothing"));
        }
    }
    fou.command(DEL, &request(port, None))?
        .map_err(|errno| Error::new(format!("cannot close GUE port {port}")).because(errno))
}

fn open() -> Result<GenericSocket> {
    GenericSocket::open(FAMILY, VERSION)?.ok_or_else(|| {
        Error::new("this kernel does not decapsulate GUE: the module fou is not loaded")
            .cure("modprobe fou, or install the kernel's full set of modules")
    })
}

fn not_plain_gue(port: GuePort) -> Error {
    let found = "a port of another protocol, address or interface (ip fou show)";
    Error::changed_since(&format!("GUE port {port}"), "nothing, or a plain GUE port", found)
}

fn read(fou: &mut GenericSocket) -> Result<Vec<(GuePort, FouPortKind)>> {
    let cannot = |errno| Error::new("cannot read the ports of fou").because(errno);
    let answer = fou.dump(GET, &[], |ports: &mut Vec<_>, body| {
        ports.extend(decode(body)?);
        Ok::<_, WireError>(())
    })?;
    answer.map_err(cannot)
}

/// `PlainGue` if one of several entries of this port is: the others are each for a single address.
fn kind_of(ports: &[(GuePort, FouPortKind)], port: GuePort) -> Option<FouPortKind> {
    ports.iter().filter(|(found, _)| *found == port).map(|(_, kind)| *kind).min()
}

fn plain_gue(ports: &[(GuePort, FouPortKind)]) -> BTreeSet<GuePort> {
    ports.iter().filter(|(_, kind)| *kind == FouPortKind::PlainGue).map(|(port, _)| *port).collect()
}

fn request(port: GuePort, kind: Option<u8>) -> Vec<u8> {
    let GuePort { v6, port } = port;
    let mut list = AttributeList::default();
    list.put(attr::PORT, &port.to_be_bytes());
    list.put(attr::AF, &[if v6 { AF_INET6 } else { AF_INET }]);
    if let Some(kind) = kind {
        list.put(attr::TYPE, &[kind]);
    }
    list.into_bytes()
}

/// `None`: it has no port, or a family other than IPv4 and IPv6.
fn decode(body: &[u8]) -> std::result::Result<Option<(GuePort, FouPortKind)>, WireError> {
    const WHAT: &str = "a port of fou";
    let (mut port, mut v6, mut kind) = (None, None, FouPortKind::Other);
    let mut special = false;
    for attribute in wire::attributes(body) {
        let (number, value) = attribute?;
        match number {
            attr::PORT => port = Some(wire::read_be16(value, WHAT)?),
            attr::AF => {
                v6 = match wire::read_u8(value, WHAT)? {
                    AF_INET => Some(false),
                    AF_INET6 => Some(true),
                    _ => None,
                }
            }
            attr::TYPE if wire::read_u8(value, WHAT)? == GUE => kind = FouPortKind::PlainGue,
            attr::REMCSUM_NOPARTIAL => special = true,
            // Newer kernels send these for every port: zero stands for any.
            attr::LOCAL_V4
            | attr::LOCAL_V6
            | attr::PEER_V4
            | attr::PEER_V6
            | attr::PEER_PORT
            | attr::IFINDEX => special |= value.iter().any(|byte| *byte != 0),
            _ => {}
        }
    }
    let kind = if special { FouPortKind::Other } else { kind };
    Ok(port.zip(v6).map(|(port, v6)| (GuePort { v6, port }, kind)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As Linux 6.1 writes it.
    fn dumped(family: u8, kind: u8, more: impl FnOnce(&mut AttributeList)) -> Vec<u8> {
        let mut list = AttributeList::default();
        list.put(attr::AF, &[family]);
        list.put(attr::PORT, &6080_u16.to_be_bytes());
        list.put(attr::PEER_PORT, &[0, 0]);
        list.put(3, &[0]);
        list.put(attr::TYPE, &[kind]);
        list.put(attr::IFINDEX, &0_i32.to_ne_bytes());
        more(&mut list);
        list.into_bytes()
    }

    #[test]
    fn only_a_gue_port_for_any_address_is_plain() {
        let (v4, v6) = (GuePort { v6: false, port: 6080 }, GuePort { v6: true, port: 6080 });
        let plain = |_: &mut AttributeList| ();
        assert_eq!(decode(&dumped(2, GUE, plain)), Ok(Some((v4, FouPortKind::PlainGue))));
        assert_eq!(decode(&dumped(10, GUE, plain)), Ok(Some((v6, FouPortKind::PlainGue))));
        assert_eq!(decode(&dumped(2, 1, plain)), Ok(Some((v4, FouPortKind::Other))));
        let bound = dumped(2, GUE, |list| list.put(attr::IFINDEX, &7_i32.to_ne_bytes()));
        assert_eq!(decode(&bound), Ok(Some((v4, FouPortKind::Other))));
        let local = dumped(2, GUE, |list| list.put(attr::LOCAL_V4, &[10, 0, 0, 1]));
        assert_eq!(decode(&local), Ok(Some((v4, FouPortKind::Other))));
        assert_eq!(decode(&dumped(1, GUE, plain)), Ok(None));
        assert_eq!(decode(&[]), Ok(None));
    }

    #[test]
    fn a_truncated_answer_is_an_error() {
        let whole = dumped(2, GUE, |_| ());
        // Every attribute here has a head of 4 bytes and up to 4 behind it.
        for end in (0..whole.len()).filter(|end| (1..=4).contains(&(end % 8))) {
            assert!(decode(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn fuzz_fou() {
        let seeds = [GUE, 1].iter().flat_map(|kind| [2, 10].map(|af| dumped(af, *kind, |_| ())));
        crate::support::fuzz::target!("fuzz_fou", 5000, seeds.collect(), |bytes| {
            if let Ok(Some((port, _))) = decode(bytes) {
                let again = decode(&request(port, Some(GUE)));
                assert_eq!(again, Ok(Some((port, FouPortKind::PlainGue))));
            }
        });
    }
}
