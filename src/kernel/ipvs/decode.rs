//! IPVS's answers: services, destinations and numbers from the attributes of a message.
//!
//! Pure. Arbitrary bytes give a value or a [`CodecError`], never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::codec::{
    AF_INET, AF_INET6, CodecError, CodecResult, INFO_TABLE_SIZE, INFO_VERSION, IpvsInfo, dest,
    stats, svc, top,
};
use super::wire::{self, attributes};
use crate::state::{
    Counters, Destination, DestinationKey, ForwardingMethod, Protocol, ServiceFlags, ServiceKey,
    Timeouts, Tunnel, VirtualService,
};

/// The value of the attribute `kind` in `body`.
fn nested<'a>(body: &'a [u8], kind: u16, what: &'static str) -> CodecResult<&'a [u8]> {
    for attribute in attributes(body) {
        let (found, value) = attribute?;
        if found == kind {
            return Ok(value);
        }
    }
    Err(CodecError::Missing { what: "the message", attribute: what })
}

fn address_from(v6: bool, bytes: &[u8], what: &'static str) -> CodecResult<IpAddr> {
    Ok(if v6 {
        let octets: [u8; 16] = wire::array(bytes, what)?;
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        let octets: [u8; 4] = wire::array(bytes, what)?;
        IpAddr::V4(Ipv4Addr::from(octets))
    })
}

fn is_ipv6(family: u16, what: &'static str) -> CodecResult<bool> {
    match family {
        AF_INET => Ok(false),
        AF_INET6 => Ok(true),
        other => {
            let number = u32::from(other);
            Err(CodecError::Unknown { what, attribute: "address family", number })
        }
    }
}

const SERVICE: &str = "an IPVS service";
const DESTINATION: &str = "an IPVS destination";

/// The attributes of a service, before they are checked.
#[derive(Default)]
struct RawService<'a> {
    family: Option<u16>,
    protocol: Option<u16>,
    address: Option<&'a [u8]>,
    port: Option<u16>,
    fwmark: Option<u32>,
    scheduler: Option<String>,
    flags: Option<(u32, u32)>,
    timeout: Option<u32>,
    netmask: Option<&'a [u8]>,
    engine: Option<String>,
}

impl<'a> RawService<'a> {
    fn read(inside: &'a [u8]) -> CodecResult<Self> {
        let mut raw = Self::default();
        for attribute in attributes(inside) {
            let (kind, value) = attribute?;
            match kind {
                svc::AF => raw.family = Some(wire::read_u16(value, SERVICE)?),
                svc::PROTOCOL => raw.protocol = Some(wire::read_u16(value, SERVICE)?),
                svc::ADDR => raw.address = Some(value),
                svc::PORT => raw.port = Some(wire::read_be16(value, SERVICE)?),
                svc::FWMARK => raw.fwmark = Some(wire::read_u32(value, SERVICE)?),
                svc::SCHED_NAME => raw.scheduler = Some(wire::read_text(value, SERVICE)?),
                svc::FLAGS => {
                    let mask = value.get(4..).unwrap_or_default();
                    let flags = wire::read_u32(value, SERVICE)?;
                    raw.flags = Some((flags, wire::read_u32(mask, SERVICE)?));
                }
                svc::TIMEOUT => raw.timeout = Some(wire::read_u32(value, SERVICE)?),
                svc::NETMASK => raw.netmask = Some(value),
                svc::PE_NAME => raw.engine = Some(wire::read_text(value, SERVICE)?),
                _ => {}
            }
        }
        Ok(raw)
    }

    fn key(&self) -> CodecResult<ServiceKey> {
        let family = required(self.family, SERVICE, "address family")?;
        let v6 = is_ipv6(family, SERVICE)?;
        if let Some(mark) = self.fwmark.filter(|mark| *mark != 0) {
            return Ok(ServiceKey::Fwmark { v6, mark });
        }
        let number = required(self.protocol, SERVICE, "protocol")?;
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
            .ok_or(CodecError::Unknown {
                what: SERVICE,
                attribute: "protocol",
                number: number.into(),
            })?;
        let address = address_from(v6, required(self.address, SERVICE, "address")?, SERVICE)?;
        let port = required(self.port, SERVICE, "port")?;
        Ok(ServiceKey::Address(protocol, SocketAddr::new(address, port)))
    }
}

fn required<T>(value: Option<T>, what: &'static str, attribute: &'static str) -> CodecResult<T> {
    value.ok_or(CodecError::Missing { what, attribute })
}

/// The key of the service that a message names.
pub fn service_key(body: &[u8]) -> CodecResult<ServiceKey> {
    RawService::read(nested(body, top::SERVICE, "service")?)?.key()
}

/// A service in an answer or a request, without its destinations.
pub fn service(body: &[u8]) -> CodecResult<(ServiceKey, VirtualService)> {
    let raw = RawService::read(nested(body, top::SERVICE, "service")?)?;
    let key = raw.key()?;
    let (flags, mask) = required(raw.flags, SERVICE, "flags")?;
    let netmask = required(raw.netmask, SERVICE, "netmask")?;
    let netmask: [u8; 4] = wire::array(netmask, SERVICE)?;
    let service = VirtualService {
        scheduler: required(raw.scheduler, SERVICE, "scheduler")?,
        flags: ServiceFlags::new(flags & mask),
        timeout: required(raw.timeout, SERVICE, "timeout")?,
        netmask: if key.is_ipv6() {
            u32::from_ne_bytes(netmask)
        } else {
            u32::from_be_bytes(netmask)
        },
        engine: raw.engine.filter(|name| !name.is_empty()),
        destinations: std::collections::BTreeMap::new(),
    };
    Ok((key, service))
}

/// The attributes of a destination, before they are checked.
#[derive(Default)]
struct RawDestination<'a> {
    family: Option<u16>,
    address: Option<&'a [u8]>,
    port: Option<u16>,
    method: Option<u32>,
    weight: Option<u32>,
    upper: Option<u32>,
    lower: Option<u32>,
    tunnel: u8,
    tunnel_port: u16,
    tunnel_flags: u16,
    active: u32,
    inactive: u32,
    persistent: u32,
    stats: RawStats,
    stats64: Option<RawStats>,
}

/// `IPVS_DEST_ATTR_STATS`, or `IPVS_DEST_ATTR_STATS64`, which kernels before 4.1 do not send.
#[derive(Default, Clone, Copy)]
struct RawStats {
    connections: u64,
    packets_in: u64,
    packets_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl RawStats {
    /// Of the 32-bit kind only the bytes have 64 bits (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_genl_fill_stats`).
    fn read(inside: &[u8]) -> CodecResult<Self> {
        let mut raw = Self::default();
        for attribute in attributes(inside) {
            let (kind, value) = attribute?;
            let field = match kind {
                stats::CONNS => &mut raw.connections,
                stats::INPKTS => &mut raw.packets_in,
                stats::OUTPKTS => &mut raw.packets_out,
                stats::INBYTES => &mut raw.bytes_in,
                stats::OUTBYTES => &mut raw.bytes_out,
                _ => continue,
            };
            *field = match value.len() {
                4 => wire::read_u32(value, DESTINATION)?.into(),
                _ => wire::read_u64(value, DESTINATION)?,
            };
        }
        Ok(raw)
    }
}

impl<'a> RawDestination<'a> {
    fn read(inside: &'a [u8]) -> CodecResult<Self> {
        let mut raw = Self::default();
        for attribute in attributes(inside) {
            let (kind, value) = attribute?;
            match kind {
                dest::ADDR => raw.address = Some(value),
                dest::PORT => raw.port = Some(wire::read_be16(value, DESTINATION)?),
                dest::FWD_METHOD => raw.method = Some(wire::read_u32(value, DESTINATION)?),
                dest::WEIGHT => raw.weight = Some(wire::read_u32(value, DESTINATION)?),
                dest::U_THRESH => raw.upper = Some(wire::read_u32(value, DESTINATION)?),
                dest::L_THRESH => raw.lower = Some(wire::read_u32(value, DESTINATION)?),
                dest::ACTIVE_CONNS => raw.active = wire::read_u32(value, DESTINATION)?,
                dest::INACT_CONNS => raw.inactive = wire::read_u32(value, DESTINATION)?,
                dest::PERSIST_CONNS => raw.persistent = wire::read_u32(value, DESTINATION)?,
                dest::STATS => raw.stats = RawStats::read(value)?,
                dest::STATS64 => raw.stats64 = Some(RawStats::read(value)?),
                dest::ADDR_FAMILY => raw.family = Some(wire::read_u16(value, DESTINATION)?),
                dest::TUN_TYPE => raw.tunnel = wire::read_u8(value, DESTINATION)?,
                dest::TUN_PORT => raw.tunnel_port = wire::read_be16(value, DESTINATION)?,
                dest::TUN_FLAGS => raw.tunnel_flags = wire::read_u16(value, DESTINATION)?,
                _ => {}
            }
        }
        Ok(raw)
    }

    /// Kernels before 3.18 send no family: it is the service's.
    fn key(&self, service: &ServiceKey) -> CodecResult<DestinationKey> {
        let v6 = match self.family {
            Some(family) => is_ipv6(family, DESTINATION)?,
            None => service.is_ipv6(),
        };
        let address = required(self.address, DESTINATION, "address")?;
        let address = address_from(v6, address, DESTINATION)?;
        Ok(DestinationKey::new(address, required(self.port, DESTINATION, "port")?))
    }

    fn tunnel(&self) -> CodecResult<Tunnel> {
        match self.tunnel {
            0 => Ok(Tunnel::Ipip),
            1 => Ok(Tunnel::Gue { port: self.tunnel_port, flags: self.tunnel_flags }),
            2 => Ok(Tunnel::Gre { flags: self.tunnel_flags }),
            other => Err(CodecError::Unknown {
                what: DESTINATION,
                attribute: "tunnel type",
                number: other.into(),
            }),
        }
    }
}

/// The key of the destination that a message names.
pub fn destination_key(body: &[u8], service: &ServiceKey) -> CodecResult<DestinationKey> {
    RawDestination::read(nested(body, top::DEST, "destination")?)?.key(service)
}

/// A destination of `service` in an answer or a request, with its counters. The kernel updates those of
/// the past every 2 seconds; those of connections are current.
pub fn destination(
    body: &[u8],
    service: &ServiceKey,
) -> CodecResult<(DestinationKey, Destination, Counters)> {
    let raw = RawDestination::read(nested(body, top::DEST, "destination")?)?;
    let number = required(raw.method, DESTINATION, "forwarding method")?;
    let method = ForwardingMethod::from_number(number).ok_or(CodecError::Unknown {
        what: DESTINATION,
        attribute: "forwarding method",
        number,
    })?;
    let destination = Destination {
        method,
        weight: required(raw.weight, DESTINATION, "weight")?,
        upper_threshold: required(raw.upper, DESTINATION, "upper threshold")?,
        lower_threshold: required(raw.lower, DESTINATION, "lower threshold")?,
        tunnel: raw.tunnel()?,
    };
    let past = raw.stats64.unwrap_or(raw.stats);
    let counters = Counters {
        active: raw.active,
        inactive: raw.inactive,
        persistent: raw.persistent,
        total: past.connections,
        packets_in: past.packets_in,
        packets_out: past.packets_out,
        bytes_in: past.bytes_in,
        bytes_out: past.bytes_out,
    };
    Ok((raw.key(service)?, destination, counters))
}

/// The answer to `IpvsRequest::GetTimeouts`.
pub fn timeouts(body: &[u8]) -> CodecResult<Timeouts> {
    let read = |kind, what| Ok::<_, CodecError>(wire::read_u32(nested(body, kind, what)?, what)?);
    Ok(Timeouts {
        tcp: read(top::TIMEOUT_TCP, "TCP timeout")?,
        tcp_fin: read(top::TIMEOUT_TCP_FIN, "TCP FIN timeout")?,
        udp: read(top::TIMEOUT_UDP, "UDP timeout")?,
    })
}

/// The answer to `IpvsRequest::GetInfo`.
pub fn info(body: &[u8]) -> CodecResult<IpvsInfo> {
    let read = |kind, what| Ok::<_, CodecError>(wire::read_u32(nested(body, kind, what)?, what)?);
    Ok(IpvsInfo {
        version: read(INFO_VERSION, "version")?,
        table_size: read(INFO_TABLE_SIZE, "connection table size")?,
    })
}
