//! The kernel's drop monitor: names the packets that are dropped, where and why (generic netlink, family `NET_DM`;
//! include/uapi/linux/net_dropmon.h, net/core/drop_monitor.c).
//!
//! It exists in the initial network namespace only, sees the drops of all namespaces, and serves one program at a time. The
//! request for it loads its module. What it was set to is put back afterwards. A process that is killed meanwhile leaves it
//! running until another program stops it (`dropwatch`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::{Error, Result};
use super::generic::GenericSocket;
use super::wire::{self, AttributeList, WireError};
use crate::state::examination::ObservedDrop;

const FAMILY: &str = "NET_DM";
const VERSION: u8 = 2;
/// `NET_DM_GRP_ALERT`; its number is fixed (net/netlink/genetlink.c, `genl_validate_assign_mc_groups`).
const GROUP: u32 = 1;

/// `enum net_dm_cmd`.
const CONFIG: u8 = 2;
const START: u8 = 3;
const STOP: u8 = 4;
const PACKET_ALERT: u8 = 5;
const CONFIG_GET: u8 = 6;

/// `enum net_dm_attr`.
const ALERT_MODE: u16 = 1;
const SYMBOL: u16 = 3;
const IN_PORT: u16 = 4;
const PAYLOAD: u16 = 7;
const TRUNC_LEN: u16 = 9;
const QUEUE_LEN: u16 = 11;
const SW_DROPS: u16 = 20;
const REASON: u16 = 23;
/// `NET_DM_ATTR_PORT_NETDEV_IFINDEX`; a name is given for hardware only.
const PORT_INDEX: u16 = 0;

/// `NET_DM_ALERT_MODE_PACKET`.
const BY_PACKET: u8 = 1;
/// Bytes of a packet that are shown: the headers of a frame and of two IP packets, one in the other.
const SHOWN: u32 = 128;
/// Packets that wait to be read.
const WAITING: u32 = 1000;
/// Kinds of drops that are kept at most.
const MOST: usize = 100;

/// Watches for `wait`, and returns the drops of packets between any two of `addresses`.
pub fn watch(addresses: &BTreeSet<IpAddr>, wait: Duration) -> Result<Vec<ObservedDrop>> {
    let mut monitor = Monitor::start()?;
    let found = monitor.read(addresses, Instant::now() + wait);
    monitor.stop()?;
    found
}

/// How it was set.
#[derive(Debug, Clone, Copy, Default)]
struct Config {
    alert_mode: u8,
    shown: u32,
    waiting: u32,
}

/// It runs.
struct Monitor {
    socket: GenericSocket,
    before: Config,
}

impl Config {
    fn read(body: &[u8]) -> std::result::Result<Self, WireError> {
        let mut config = Self::default();
        for attribute in wire::attributes(body) {
            let (kind, value) = attribute?;
            match kind {
                ALERT_MODE => config.alert_mode = wire::read_u8(value, "an alert mode")?,
                TRUNC_LEN => config.shown = wire::read_u32(value, "a length")?,
                QUEUE_LEN => config.waiting = wire::read_u32(value, "a length")?,
                _ => {}
            }
        }
        Ok(config)
    }

    fn body(self) -> Vec<u8> {
        let mut body = AttributeList::default();
        body.put(ALERT_MODE, &[self.alert_mode]);
        body.put_u32(TRUNC_LEN, self.shown);
        body.put_u32(QUEUE_LEN, self.waiting);
        body.into_bytes()
    }
}

/// Software drops only: those of a switch's hardware are of another world.
fn software() -> Vec<u8> {
    let mut body = AttributeList::default();
    body.put(SW_DROPS, &[]);
    body.into_bytes()
}

impl Monitor {
    fn start() -> Result<Self> {
        let Some(mut socket) = GenericSocket::open(FAMILY, VERSION)? else {
            return Err(Error::new(
                "this kernel has no drop monitor, or this is not its initial network namespace",
            )
            .cure("`modprobe drop_monitor` on the host itself shows which"));
        };
        let mut before = Config::default();
        let read = socket.query(CONFIG_GET, &[], |body| {
            before = Config::read(body)?;
            Ok::<_, WireError>(())
        })?;
        read.map_err(|errno| refused("be asked for its settings", errno))?;
        let wanted = Config { alert_mode: BY_PACKET, shown: SHOWN, waiting: WAITING };
        // Refused, and nothing changed, while another program watches.
        socket.command(CONFIG, &wanted.body())?.map_err(|errno| refused("be set", errno))?;
        let joined = socket.socket.add_membership(GROUP);
        joined.map_err(|error| Error::new("cannot listen to the drop monitor").because(error))?;
        let mut monitor = Self { socket, before };
        match monitor.socket.command(START, &software())? {
            Ok(()) => Ok(monitor),
            Err(errno) => {
                // As it was: another program has it.
                let before = monitor.before.body();
                let _ = monitor.socket.command(CONFIG, &before);
                Err(refused("be started", errno))
            }
        }
    }

    fn read(&mut self, addresses: &BTreeSet<IpAddr>, until: Instant) -> Result<Vec<ObservedDrop>> {
        let mut found: BTreeMap<ObservedDrop, u32> = BTreeMap::new();
        while self.is_readable(until)? {
            // `None`: drops were lost, which are no drops of ours for sure; the rest counts.
            let Some(messages) = self.socket.socket.datagram()? else { continue };
            for message in messages.flatten() {
                let Ok((PACKET_ALERT, body)) = message.generic() else { continue };
                let Ok(Some(drop)) = observed(body) else { continue };
                let ours = addresses.contains(&drop.source) && addresses.contains(&drop.target);
                if ours && (found.len() < MOST || found.contains_key(&drop)) {
                    let count = found.entry(drop).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
        Ok(found.into_iter().map(|(drop, count)| ObservedDrop { count, ..drop }).collect())
    }

    fn is_readable(&self, until: Instant) -> Result<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            let mut fds = [PollFd::new(self.socket.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(Instant::now() < until),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Error::new("cannot wait for the drop monitor").because(errno));
                }
            }
        }
    }

    /// Stops it, and sets it as it was.
    fn stop(mut self) -> Result<()> {
        // Alerts that are still queued come before the answers.
        self.socket.socket.drop_membership(GROUP);
        let stopped = self.socket.command(STOP, &software())?;
        stopped.map_err(|errno| refused("be stopped", errno))?;
        let before = self.before.body();
        self.socket.command(CONFIG, &before)?.map_err(|errno| refused("be set back", errno))
    }
}

fn refused(what: &str, errno: Errno) -> Error {
    let cure = match errno {
        Errno::EBUSY | Errno::EAGAIN => {
            Some("another program watches drops (dropwatch, for one): end it, or go on without")
        }
        _ => None,
    };
    Error::new(format!("the drop monitor cannot {what}")).because(errno).maybe_cure(cure)
}

/// A dropped packet of IP; `None`: it is another, or its first bytes are not all there. `count` is 0.
fn observed(body: &[u8]) -> std::result::Result<Option<ObservedDrop>, WireError> {
    let (mut function, mut reason, mut dev, mut addresses) = (String::new(), None, None, None);
    for attribute in wire::attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            // `nf_hook_slow+0xb4/0xd0`
            SYMBOL => {
                let symbol = wire::read_text(value, "a symbol")?;
                symbol.split('+').next().unwrap_or_default().clone_into(&mut function);
            }
            REASON => reason = Some(wire::read_text(value, "a reason")?),
            IN_PORT => {
                for attribute in wire::attributes(value) {
                    let (kind, value) = attribute?;
                    if kind == PORT_INDEX {
                        dev = name_of(wire::read_u32(value, "an interface")?);
                    }
                }
            }
            PAYLOAD => addresses = addresses_of(value),
            _ => {}
        }
    }
    let reason = reason.filter(|reason| reason != "NOT_SPECIFIED");
    let drop = |(source, target)| ObservedDrop { source, target, dev, function, reason, count: 0 };
    Ok(addresses.map(drop))
}

/// The interface of this namespace; 0 stands for none.
fn name_of(index: u32) -> Option<String> {
    if_indextoname(index).ok().map(|name| name.to_string_lossy().into_owned())
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Source and destination of a frame of Ethernet with IP in it; of a packet that the host itself sends, which has no such header
/// yet.
fn addresses_of(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match bytes.get(ETHERNET - 2..ETHERNET)? {
        [0x08, 0x00] | [0x86, 0xdd] => addresses_in(bytes.get(ETHERNET..)?),
        _ => addresses_in(bytes),
    }
}

/// Of a packet of IP (RFC 791, 3.1; RFC 8200, 3).
fn addresses_in(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    match packet.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
        packet[16..20].copy_from_slice(&[192, 0, 2, 80]);
        packet
    }

    #[test]
    fn an_alert_names_packet_place_and_reason() {
        let mut port = AttributeList::default();
        port.put_u32(PORT_INDEX, nix::net::if_::if_nametoindex("lo").unwrap());
        let mut body = AttributeList::default();
        body.put_text(SYMBOL, "nf_hook_slow+0xb4/0xd0");
        body.put_nested(IN_PORT, &port);
        body.put_text(REASON, "NETFILTER_DROP");
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend(packet());
        body.put(PAYLOAD, &frame);
        let drop = observed(&body.into_bytes()).unwrap().unwrap();
        let text = ObservedDrop { count: 2, ..drop }.to_string();
        assert_eq!(
            text,
            "2 packets from 192.0.2.1 to 192.0.2.80 dropped in nf_hook_slow (NETFILTER_DROP), in by lo"
        );
    }

    #[test]
    fn a_packet_of_the_host_itself_has_no_header_of_ethernet() {
        let found = addresses_of(&packet()).unwrap();
        assert_eq!(found, ("192.0.2.1".parse().unwrap(), "192.0.2.80".parse().unwrap()));
        let mut v6 = vec![0; 40];
        (v6[0], v6[23], v6[39]) = (0x60, 1, 2);
        let found = addresses_of(&v6).unwrap();
        assert_eq!(found, ("::1".parse().unwrap(), "::2".parse().unwrap()));
        assert_eq!(addresses_of(&packet()[..19]), None, "cut off");
        assert_eq!(addresses_of(&[0; 60]), None, "no IP");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = observed(&bytes);
            let _ = addresses_of(&bytes);
            let _ = Config::read(&bytes);
        }
    }
}
