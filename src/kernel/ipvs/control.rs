//! IPVS's connection timeouts and sync daemons: reading them, and changing one after a check that it has
//! the value that the plan expects.
//!
//! Attributes: include/uapi/linux/ip_vs.h; net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_genl_new_daemon` and
//! `ip_vs_genl_fill_daemon`. Which daemons the kernel starts: ip_vs_sync.c, `start_sync_thread`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::errno::Errno;

use super::codec::{CodecError, IpvsRequest};
use super::socket::IpvsSocket;
use super::wire::{self, AttributeList};
use crate::kernel::error::{Error, Result};
use crate::kernel::generic::GenericSocket;
use crate::names::IfName;
use crate::state::{DaemonRole, SyncDaemon, Timeouts};

/// `IPVS_CMD_*`.
const NEW_DAEMON: u8 = 9;
const DEL_DAEMON: u8 = 10;
const GET_DAEMON: u8 = 11;

/// `IPVS_CMD_ATTR_DAEMON`.
const DAEMON: u16 = 3;

/// `IPVS_DAEMON_ATTR_*`. The port is in the host's byte order, unlike all others of IPVS.
mod attr {
    pub const STATE: u16 = 1;
    pub const MCAST_IFN: u16 = 2;
    pub const SYNC_ID: u16 = 3;
    pub const SYNC_MAXLEN: u16 = 4;
    pub const MCAST_GROUP: u16 = 5;
    pub const MCAST_GROUP6: u16 = 6;
    pub const MCAST_PORT: u16 = 7;
    pub const MCAST_TTL: u16 = 8;
}

/// Bytes: the least message length of a backup daemon (ip_vs_sync.c, `start_sync_thread`).
const BACKUP_SHORTEST: u16 = 1024;
/// Bytes: the greatest message length, 65535 less the headers of IP and UDP.
const LONGEST_V4: u16 = 65_507;
const LONGEST_V6: u16 = 65_487;
/// Tries to start a daemon that the kernel can start a moment later: 4 s together.
const START_TRIES: u32 = 200;
const START_PAUSE: Duration = Duration::from_millis(20);

const WHAT: &str = "a sync daemon";

/// IPVS's settings beside its table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Control {
    /// `None` where ip_vs is not loaded.
    pub timeouts: Option<Timeouts>,
    /// The running daemons.
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
}

/// Reads timeouts and daemons.
pub fn read(socket: &mut IpvsSocket) -> Result<Control> {
    Ok(Control { timeouts: Some(socket.timeouts()?), daemons: daemons(&mut socket.ipvs)? })
}

/// Sets the timeouts; an error if they are not `before`.
pub fn set_timeouts(before: Timeouts, after: Timeouts) -> Result<()> {
    let mut socket = IpvsSocket::open()?;
    let found = socket.timeouts()?;
    if found != before {
        let (before, found) = (before.to_string(), found.to_string());
        return Err(Error::changed_since("timeouts of IPVS", &before, &found));
    }
    let request = IpvsRequest::SetTimeouts(after);
    socket.ipvs.command(request.command(), &request.encode())?.map_err(|errno| {
        let error = Error::new(format!("cannot set the timeouts of IPVS to {after}"));
        let limits = "each is 1 to 2147483 s: the kernel counts in ticks, up to 1000 a second";
        error.because(errno).maybe_cure((errno == Errno::EINVAL).then_some(limits))
    })
}

/// Starts, stops or restarts a daemon; an error if it does not run as `before`.
pub fn set_daemon(
    role: DaemonRole,
    before: Option<&SyncDaemon>,
    after: Option<&SyncDaemon>,
) -> Result<()> {
    let IpvsSocket { mut ipvs } = IpvsSocket::open()?;
    let found = daemons(&mut ipvs)?.remove(&role);
    let expected = match (before, &found) {
        (None, None) => true,
        (Some(before), Some(found)) => is_report_of(role, before, found),
        _ => false,
    };
    if !expected {
        let text = |daemon: Option<&SyncDaemon>| {
            daemon.map_or_else(|| "not running".to_owned(), ToString::to_string)
        };
        return Err(Error::changed_since(
            &format!("sync daemon {role}"),
            &text(before),
            &text(found.as_ref()),
        ));
    }
    if found.is_some() {
        stop(&mut ipvs, role)?;
    }
    let Some(after) = after else { return Ok(()) };
    let Err(error) = start(&mut ipvs, role, after) else { return Ok(()) };
    // A step is done whole or not at all: the old daemon is started again.
    match found.map(|old| start(&mut ipvs, role, &old)) {
        None | Some(Ok(())) => Err(error),
        Some(Err(lost)) => Err(Error::new(format!(
            "{error}; and the daemon that ran before cannot be started again: {lost}"
        ))
        .because(error)
        .cure("plan again: the new plan starts from the present daemons")),
    }
}

/// Whether `found` is the kernel's report of a daemon that was started as `wanted`. The kernel replaces the
/// length 0 (by 1472 for a master whatever the MTU; for a backup by the MTU's, at least 1472; 20 less if the
/// group is IPv6), raises a backup's to 1024, and limits both to 65507 (ip_vs_sync.c, `start_sync_thread`).
pub fn is_report_of(role: DaemonRole, wanted: &SyncDaemon, found: &SyncDaemon) -> bool {
    let longest = if wanted.group.is_ipv6() { LONGEST_V6 } else { LONGEST_V4 };
    let max_length = match (role, wanted.max_length) {
        (_, 0) => found.max_length,
        (DaemonRole::Master, length) => length.min(longest),
        (DaemonRole::Backup, length) => length.clamp(BACKUP_SHORTEST, longest),
    };
    *found == SyncDaemon { max_length, ..wanted.clone() }
}

fn daemons(ipvs: &mut GenericSocket) -> Result<BTreeMap<DaemonRole, SyncDaemon>> {
    let answer = ipvs.dump(GET_DAEMON, &[], |all: &mut BTreeMap<_, _>, body| {
        let (role, daemon) = decode_daemon(body)?;
        all.insert(role, daemon);
        Ok::<_, CodecError>(())
    })?;
    answer.map_err(|errno| Error::new("cannot read the sync daemons").because(errno))
}

fn stop(ipvs: &mut GenericSocket, role: DaemonRole) -> Result<()> {
    let mut inside = AttributeList::default();
    inside.put_u32(attr::STATE, role.number());
    let mut body = AttributeList::default();
    body.put_nested(DAEMON, &inside);
    ipvs.command(DEL_DAEMON, &body.into_bytes())?
        .map_err(|errno| Error::new(format!("cannot stop sync daemon {role}")).because(errno))
}

/// Tries again after two errors that pass. EEXIST: the stopped daemon has not ended yet; known kernels wait
/// for its end themselves. EADDRNOTAVAIL with an IPv6 group: duplicate address detection of the interface's
/// own address runs for 1 to 2 seconds after it came up.
fn start(ipvs: &mut GenericSocket, role: DaemonRole, daemon: &SyncDaemon) -> Result<()> {
    let body = encode_daemon(role, daemon);
    let mut tries = 0;
    loop {
        tries += 1;
        match ipvs.command(NEW_DAEMON, &body)? {
            Ok(()) => return Ok(()),
            Err(errno) if tries < START_TRIES && passes(daemon, errno) => {
                std::thread::sleep(START_PAUSE);
            }
            Err(errno) => return Err(not_started(role, daemon, errno)),
        }
    }
}

fn passes(daemon: &SyncDaemon, errno: Errno) -> bool {
    errno == Errno::EEXIST || (errno == Errno::EADDRNOTAVAIL && daemon.group.is_ipv6())
}

fn not_started(role: DaemonRole, daemon: &SyncDaemon, errno: Errno) -> Error {
    let SyncDaemon { interface, group, .. } = daemon;
    let cure = match errno {
        Errno::ENODEV => Some(format!("this host has no interface {interface}")),
        Errno::EADDRNOTAVAIL if group.is_ipv6() => {
            Some(format!("{interface} has no usable IPv6 address: ip -6 address show {interface}"))
        }
        Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EHOSTUNREACH => {
            Some(format!("set {interface} up first: {group} cannot be reached over it"))
        }
        Errno::EEXIST => Some("a daemon of this role runs already: plan again".to_owned()),
        Errno::EINVAL if !group.is_multicast() => {
            Some(format!("{group} is not a multicast address: 224.0.0.81 is usual"))
        }
        Errno::EINVAL => Some(
            "no daemon can run while a service has real servers of the other address family (through \
             tunnels): the sync messages have no room for such connections"
                .to_owned(),
        ),
        Errno::EAFNOSUPPORT => Some("this kernel's IPVS was built without IPv6".to_owned()),
        Errno::EADDRINUSE => Some(format!("another program listens on UDP port {}", daemon.port)),
        Errno::EPERM | Errno::EACCES => Some(
            "IPVS is for root of the machine's own user namespace: in a container it is refused \
             even to root"
                .to_owned(),
        ),
        _ => None,
    };
    Error::new(format!("cannot start sync daemon {role} {daemon}")).because(errno).maybe_cure(cure)
}

fn encode_daemon(role: DaemonRole, daemon: &SyncDaemon) -> Vec<u8> {
    let SyncDaemon { interface, id, max_length, group, port, ttl } = daemon;
    let mut inside = AttributeList::default();
    inside.put_u32(attr::STATE, role.number());
    inside.put_text(attr::MCAST_IFN, interface.as_str());
    inside.put_u32(attr::SYNC_ID, u32::from(*id));
    inside.put_u16(attr::SYNC_MAXLEN, *max_length);
    match group {
        IpAddr::V4(group) => inside.put(attr::MCAST_GROUP, &group.octets()),
        IpAddr::V6(group) => inside.put(attr::MCAST_GROUP6, &group.octets()),
    }
    inside.put_u16(attr::MCAST_PORT, *port);
    inside.put(attr::MCAST_TTL, &[*ttl]);
    let mut body = AttributeList::default();
    body.put_nested(DAEMON, &inside);
    body.into_bytes()
}

/// Kernels before 4.3 report only state, interface and id; the other values are constants there.
pub(super) fn decode_daemon(
    body: &[u8],
) -> std::result::Result<(DaemonRole, SyncDaemon), CodecError> {
    let missing = |attribute| CodecError::Missing { what: WHAT, attribute };
    let unknown = |attribute, number| CodecError::Unknown { what: WHAT, attribute, number };
    let mut inside = None;
    for attribute in wire::attributes(body) {
        let (kind, value) = attribute?;
        if kind == DAEMON {
            inside = Some(value);
        }
    }
    let (mut role, mut interface, mut id) = (None, None, None);
    let (mut max_length, mut group, mut port, mut ttl) = (None, None, None, None);
    for attribute in wire::attributes(inside.ok_or_else(|| missing("daemon"))?) {
        let (kind, value) = attribute?;
        match kind {
            attr::STATE => {
                let number = wire::read_u32(value, WHAT)?;
                role = [DaemonRole::Master, DaemonRole::Backup]
                    .into_iter()
                    .find(|role| role.number() == number);
                role.ok_or_else(|| unknown("state", number))?;
            }
            attr::MCAST_IFN => interface = Some(wire::read_text(value, WHAT)?),
            attr::SYNC_ID => id = Some(wire::read_u32(value, WHAT)?),
            attr::SYNC_MAXLEN => max_length = Some(wire::read_u16(value, WHAT)?),
            attr::MCAST_GROUP => {
                group = Some(IpAddr::V4(Ipv4Addr::from(wire::array::<4>(value, WHAT)?)));
            }
            attr::MCAST_GROUP6 => {
                group = Some(IpAddr::V6(Ipv6Addr::from(wire::array::<16>(value, WHAT)?)));
            }
            attr::MCAST_PORT => port = Some(wire::read_u16(value, WHAT)?),
            attr::MCAST_TTL => ttl = Some(wire::read_u8(value, WHAT)?),
            _ => {}
        }
    }
    let interface: IfName = interface
        .ok_or_else(|| missing("interface"))?
        .parse()
        .map_err(|_| CodecError::Invalid { what: WHAT, attribute: "interface name" })?;
    let id = id.unwrap_or_default();
    let id = u8::try_from(id).map_err(|_| unknown("sync id", id))?;
    let usual = SyncDaemon::on(interface.clone());
    let daemon = SyncDaemon {
        interface,
        id,
        max_length: max_length.unwrap_or(usual.max_length),
        group: group.unwrap_or(usual.group),
        port: port.unwrap_or(usual.port),
        ttl: ttl.unwrap_or(usual.ttl),
    };
    Ok((role.ok_or_else(|| missing("state"))?, daemon))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn daemon() -> impl Strategy<Value = SyncDaemon> {
        let group = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ];
        ("[a-z][a-z0-9.]{0,13}", any::<(u8, u16, u16, u8)>(), group).prop_map(
            |(name, (id, max_length, port, ttl), group)| SyncDaemon {
                interface: name.parse().unwrap(),
                id,
                max_length,
                group,
                port,
                ttl,
            },
        )
    }

    proptest! {
        #[test]
        fn a_daemon_is_read_as_it_was_written(daemon in daemon(), master: bool) {
            let role = if master { DaemonRole::Master } else { DaemonRole::Backup };
            let bytes = encode_daemon(role, &daemon);
            prop_assert_eq!(decode_daemon(&bytes), Ok((role, daemon)));
        }

        #[test]
        fn any_bytes_are_a_daemon_or_an_error(bytes: Vec<u8>, cut in 0..64_usize) {
            let _ = decode_daemon(&bytes);
            let whole = encode_daemon(DaemonRole::Master, &SyncDaemon::on("eth0".parse().unwrap()));
            let end = whole.len().saturating_sub(cut + 1);
            prop_assert!(decode_daemon(&whole[..end]).is_err());
        }
    }

    #[test]
    fn the_kernel_reports_lengths_of_its_own() {
        let wanted = SyncDaemon::on("eth0".parse().unwrap());
        let found = |max_length| SyncDaemon { max_length, ..wanted.clone() };
        let (master, backup) = (DaemonRole::Master, DaemonRole::Backup);
        assert!(is_report_of(master, &wanted, &found(1472)));
        assert!(is_report_of(backup, &found(500), &found(1024)));
        assert!(is_report_of(backup, &found(1400), &found(1400)));
        assert!(is_report_of(master, &found(65_535), &found(65_507)));
        assert!(!is_report_of(master, &found(500), &found(1024)));
        assert!(!is_report_of(master, &wanted, &SyncDaemon { id: 1, ..found(1472) }));
    }

    #[test]
    fn an_old_kernel_reports_less() {
        let mut inside = AttributeList::default();
        inside.put_u32(attr::STATE, 2);
        inside.put_text(attr::MCAST_IFN, "eth0");
        inside.put_u32(attr::SYNC_ID, 7);
        let mut body = AttributeList::default();
        body.put_nested(DAEMON, &inside);
        let expected = SyncDaemon { id: 7, ..SyncDaemon::on("eth0".parse().unwrap()) };
        assert_eq!(decode_daemon(&body.into_bytes()), Ok((DaemonRole::Backup, expected)));
    }
}
