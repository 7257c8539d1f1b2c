//! Requests to IPVS over generic netlink. [`super::decode`] reads its answers.
//!
//! Pure: `decode(encode(x)) == x`, and no bytes make it panic. Numbers of commands and attributes are
//! those of include/uapi/linux/ip_vs.h; which attributes the kernel requires was read in
//! net/netfilter/ipvs/ip_vs_ctl.c (`ip_vs_genl_parse_service`, `ip_vs_genl_parse_dest`).
//! [`super::control`] encodes sync daemons. lvsprov uses neither ZERO nor FLUSH.

use std::net::IpAddr;

use super::decode;
use super::wire::{AttributeList, WireError};
use crate::state::{Destination, DestinationKey, ServiceKey, Timeouts, Tunnel, VirtualService};

/// `IPVS_GENL_VERSION`.
pub const VERSION: u8 = 1;

/// `IPVS_CMD_*`.
pub mod command {
    #![allow(missing_docs)] // the kernel's own names
    pub const NEW_SERVICE: u8 = 1;
    pub const SET_SERVICE: u8 = 2;
    pub const DEL_SERVICE: u8 = 3;
    pub const GET_SERVICE: u8 = 4;
    pub const NEW_DEST: u8 = 5;
    pub const SET_DEST: u8 = 6;
    pub const DEL_DEST: u8 = 7;
    pub const GET_DEST: u8 = 8;
    pub const SET_CONFIG: u8 = 12;
    pub const GET_CONFIG: u8 = 13;
    pub const SET_INFO: u8 = 14;
    pub const GET_INFO: u8 = 15;
}

/// `IPVS_CMD_ATTR_*`.
pub(super) mod top {
    pub const SERVICE: u16 = 1;
    pub const DEST: u16 = 2;
    pub const TIMEOUT_TCP: u16 = 4;
    pub const TIMEOUT_TCP_FIN: u16 = 5;
    pub const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`.
pub(super) mod svc {
    pub const AF: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const ADDR: u16 = 3;
    pub const PORT: u16 = 4;
    pub const FWMARK: u16 = 5;
    pub const SCHED_NAME: u16 = 6;
    pub const FLAGS: u16 = 7;
    pub const TIMEOUT: u16 = 8;
    pub const NETMASK: u16 = 9;
    pub const PE_NAME: u16 = 11;
}

/// `IPVS_DEST_ATTR_*`.
pub(super) mod dest {
    pub const ADDR: u16 = 1;
    pub const PORT: u16 = 2;
    pub const FWD_METHOD: u16 = 3;
    pub const WEIGHT: u16 = 4;
    pub const U_THRESH: u16 = 5;
    pub const L_THRESH: u16 = 6;
    pub const ACTIVE_CONNS: u16 = 7;
    pub const INACT_CONNS: u16 = 8;
    pub const PERSIST_CONNS: u16 = 9;
    pub const STATS: u16 = 10;
    pub const ADDR_FAMILY: u16 = 11;
    pub const STATS64: u16 = 12;
    pub const TUN_TYPE: u16 = 13;
    pub const TUN_PORT: u16 = 14;
    pub const TUN_FLAGS: u16 = 15;
}

/// `IPVS_STATS_ATTR_*`.
pub(super) mod stats {
    pub const CONNS: u16 = 1;
    pub const INPKTS: u16 = 2;
    pub const OUTPKTS: u16 = 3;
    pub const INBYTES: u16 = 4;
    pub const OUTBYTES: u16 = 5;
}

/// `IPVS_INFO_ATTR_VERSION` and `IPVS_INFO_ATTR_CONN_TAB_SIZE`.
pub(super) const INFO_VERSION: u16 = 1;
pub(super) const INFO_TABLE_SIZE: u16 = 2;

pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;

/// A message that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It is not well-formed netlink.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A required attribute is missing.
    #[error("{what} has no {attribute}")]
    Missing {
        /// What was read.
        what: &'static str,
        /// The attribute's name.
        attribute: &'static str,
    },
    /// A text that lvsprov does not accept.
    #[error("{what} has an invalid {attribute}")]
    Invalid {
        /// The element.
        what: &'static str,
        /// The attribute's name.
        attribute: &'static str,
    },
    /// A number that lvsprov does not know.
    #[error("{what} has {attribute} {number}, which lvsprov does not know")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// The attribute's name.
        attribute: &'static str,
        /// Its value.
        number: u32,
    },
}

pub(super) type CodecResult<T> = std::result::Result<T, CodecError>;

/// IPVS's version and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpvsInfo {
    /// `0x00MMmmpp`: major, minor, patch.
    pub version: u32,
    /// Buckets of the connection hash table.
    pub table_size: u32,
}

/// A request to IPVS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpvsRequest {
    /// Add a service. Its destinations are not sent.
    NewService(ServiceKey, VirtualService),
    /// Replace all settings of a service; destinations and connections stay.
    SetService(ServiceKey, VirtualService),
    /// Remove a service and all its destinations.
    DeleteService(ServiceKey),
    /// Dump all services.
    GetServices,
    /// Read one service; ESRCH if it does not exist.
    GetService(ServiceKey),
    /// Add a destination.
    NewDestination(ServiceKey, DestinationKey, Destination),
    /// Replace all settings of a destination; connections stay.
    SetDestination(ServiceKey, DestinationKey, Destination),
    /// Remove a destination.
    DeleteDestination(ServiceKey, DestinationKey),
    /// Dump the destinations of one service; empty if the service does not exist.
    GetDestinations(ServiceKey),
    /// Read the timeouts.
    GetTimeouts,
    /// Set the timeouts.
    SetTimeouts(Timeouts),
    /// Read version and table size.
    GetInfo,
}

impl IpvsRequest {
    /// Its `IPVS_CMD_*`.
    pub fn command(&self) -> u8 {
        match self {
            Self::NewService(..) => command::NEW_SERVICE,
            Self::SetService(..) => command::SET_SERVICE,
            Self::DeleteService(_) => command::DEL_SERVICE,
            Self::GetServices | Self::GetService(_) => command::GET_SERVICE,
            Self::NewDestination(..) => command::NEW_DEST,
            Self::SetDestination(..) => command::SET_DEST,
            Self::DeleteDestination(..) => command::DEL_DEST,
            Self::GetDestinations(_) => command::GET_DEST,
            Self::GetTimeouts => command::GET_CONFIG,
            Self::SetTimeouts(_) => command::SET_CONFIG,
            Self::GetInfo => command::GET_INFO,
        }
    }

    /// Its attributes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = AttributeList::default();
        match self {
            Self::NewService(key, service) | Self::SetService(key, service) => {
                body.put_nested(top::SERVICE, &service_attributes(key, Some(service)));
            }
            Self::DeleteService(key) | Self::GetService(key) | Self::GetDestinations(key) => {
                body.put_nested(top::SERVICE, &service_attributes(key, None));
            }
            Self::NewDestination(service, key, destination)
            | Self::SetDestination(service, key, destination) => {
                body.put_nested(top::SERVICE, &service_attributes(service, None));
                body.put_nested(top::DEST, &destination_attributes(*key, Some(destination)));
            }
            Self::DeleteDestination(service, key) => {
                body.put_nested(top::SERVICE, &service_attributes(service, None));
                body.put_nested(top::DEST, &destination_attributes(*key, None));
            }
            Self::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => {
                body.put_u32(top::TIMEOUT_TCP, *tcp);
                body.put_u32(top::TIMEOUT_TCP_FIN, *tcp_fin);
                body.put_u32(top::TIMEOUT_UDP, *udp);
            }
            Self::GetServices | Self::GetTimeouts | Self::GetInfo => {}
        }
        body.into_bytes()
    }

    /// Reads a request back: the inverse of [`IpvsRequest::command`] and [`IpvsRequest::encode`].
    pub fn decode(command: u8, body: &[u8]) -> CodecResult<Self> {
        Ok(match command {
            command::NEW_SERVICE => {
                let (key, service) = decode::service(body)?;
                Self::NewService(key, service)
            }
            command::SET_SERVICE => {
                let (key, service) = decode::service(body)?;
                Self::SetService(key, service)
            }
            command::DEL_SERVICE => Self::DeleteService(decode::service_key(body)?),
            command::GET_SERVICE if body.is_empty() => Self::GetServices,
            command::GET_SERVICE => Self::GetService(decode::service_key(body)?),
            command::NEW_DEST | command::SET_DEST => {
                let service = decode::service_key(body)?;
                let (key, destination, _) = decode::destination(body, &service)?;
                if command == command::NEW_DEST {
                    Self::NewDestination(service, key, destination)
                } else {
                    Self::SetDestination(service, key, destination)
                }
            }
            command::DEL_DEST => {
                let service = decode::service_key(body)?;
                let key = decode::destination_key(body, &service)?;
                Self::DeleteDestination(service, key)
            }
            command::GET_DEST => Self::GetDestinations(decode::service_key(body)?),
            command::GET_CONFIG => Self::GetTimeouts,
            command::SET_CONFIG => Self::SetTimeouts(decode::timeouts(body)?),
            command::GET_INFO => Self::GetInfo,
            other => {
                let number = u32::from(other);
                return Err(CodecError::Unknown {
                    what: "a request",
                    attribute: "command",
                    number,
                });
            }
        })
    }
}

/// 16 bytes, of which IPv4 uses the first 4.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

fn family_of(v6: bool) -> u16 {
    if v6 { AF_INET6 } else { AF_INET }
}

fn service_attributes(key: &ServiceKey, settings: Option<&VirtualService>) -> AttributeList {
    let mut list = AttributeList::default();
    list.put_u16(svc::AF, family_of(key.is_ipv6()));
    match key {
        ServiceKey::Fwmark { v6: _, mark } => list.put_u32(svc::FWMARK, *mark),
        ServiceKey::Address(protocol, address) => {
            list.put_u16(svc::PROTOCOL, protocol.number());
            list.put(svc::ADDR, &address_bytes(address.ip()));
            list.put(svc::PORT, &address.port().to_be_bytes());
        }
    }
    if let Some(settings) = settings {
        let VirtualService { scheduler, flags, timeout, netmask, engine, destinations: _ } =
            settings;
        list.put_text(svc::SCHED_NAME, scheduler);
        if let Some(engine) = engine {
            list.put_text(svc::PE_NAME, engine);
        }
        // struct ip_vs_flags {flags, mask}: the kernel ignores flags outside the mask.
        let mut both = flags.bits().to_ne_bytes().to_vec();
        both.extend_from_slice(&u32::MAX.to_ne_bytes());
        list.put(svc::FLAGS, &both);
        list.put_u32(svc::TIMEOUT, *timeout);
        // IPv4: the mask in network order. IPv6: a prefix length as a plain number.
        if key.is_ipv6() {
            list.put_u32(svc::NETMASK, *netmask);
        } else {
            list.put(svc::NETMASK, &netmask.to_be_bytes());
        }
    }
    list
}

fn destination_attributes(key: DestinationKey, settings: Option<&Destination>) -> AttributeList {
    let DestinationKey(address) = key;
    let mut list = AttributeList::default();
    list.put_u16(dest::ADDR_FAMILY, family_of(address.is_ipv6()));
    list.put(dest::ADDR, &address_bytes(address.ip()));
    list.put(dest::PORT, &address.port().to_be_bytes());
    if let Some(settings) = settings {
        let Destination { method, weight, upper_threshold, lower_threshold, tunnel } = settings;
        list.put_u32(dest::FWD_METHOD, method.number());
        list.put_u32(dest::WEIGHT, *weight);
        list.put_u32(dest::U_THRESH, *upper_threshold);
        list.put_u32(dest::L_THRESH, *lower_threshold);
        let (kind, port, flags) = match *tunnel {
            Tunnel::Ipip => (0_u8, 0, 0),
            Tunnel::Gue { port, flags } => (1, port, flags),
            Tunnel::Gre { flags } => (2, 0, flags),
        };
        list.put(dest::TUN_TYPE, &[kind]);
        list.put(dest::TUN_PORT, &port.to_be_bytes());
        list.put_u16(dest::TUN_FLAGS, flags);
    }
    list
}
