//! Links, tunnel devices, addresses and routes over rtnetlink: reading all, and changing one at a time.
//! Also [`fou`], over generic netlink: the ports where GUE tunnels end.
//!
//! Each change first compares the present value with the expected one, and fails without a change if they
//! differ: the kernel itself would replace or delete any value.

mod addresses;
pub mod fou;
#[cfg(test)]
mod fuzz;
mod links;
mod lookups;
mod routes;
mod rules;
mod tunnels;

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::error::{Error, Result};
use crate::names::IfName;
use crate::state::{Address, AddressKey, Link, Route, RouteKey, Routing, TunnelDevice};
use routes::AllRoutes;

pub use links::{LinksByIndex, ObservedLink};

/// A connection to the rtnetlink of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Net {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Net {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The network state of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// Interfaces.
    pub links: BTreeMap<IfName, Link>,
    /// Their numbers.
    pub indexes: BTreeMap<IfName, u32>,
    /// Hardware address of each interface that has one.
    pub hardware: BTreeMap<IfName, String>,
    /// MTU of each interface.
    pub mtus: BTreeMap<IfName, u32>,
    /// Tunnel devices that accept packets from any source to one local address.
    pub tunnels: BTreeMap<IfName, TunnelDevice>,
    /// Addresses of all interfaces.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// The route in use to each destination.
    pub routes: BTreeMap<RouteKey, Route>,
    /// All else that decides the way of a packet.
    pub routing: Routing,
}

impl Net {
    /// Opens a socket in the namespace of the calling thread. Needs a tokio runtime.
    pub fn open() -> Result<Self> {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(|error| {
            Error::new("cannot open a netlink socket (NETLINK_ROUTE)").because(error)
        })?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// Reads links, addresses, routes and policy rules.
    pub async fn read(&self) -> Result<NetState> {
        let links = self.links().await?;
        let addresses = self.addresses(&links).await?;
        let AllRoutes { main: routes, beside } = self.all_routes(&links).await?;
        let routing = Routing { rules: self.rules().await?, routes: beside };
        let mut state = NetState { addresses, routes, routing, ..NetState::default() };
        for (index, link) in links {
            state.indexes.insert(link.name.clone(), index);
            if let Some(hardware) = link.hardware {
                state.hardware.insert(link.name.clone(), hardware);
            }
            if let Some(mtu) = link.mtu {
                state.mtus.insert(link.name.clone(), mtu);
            }
            if let Some(tunnel) = link.tunnel {
                state.tunnels.insert(link.name.clone(), tunnel);
            }
            state.links.insert(link.name, link.state);
        }
        Ok(state)
    }
}

/// The errno in an answer of rtnetlink.
fn errno_of(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            message.to_io().raw_os_error().map(Errno::from_raw)
        }
        _ => None,
    }
}

/// The error for `what`, with the meaning of its errno, and the cure where this layer knows one.
fn refused(what: String, error: rtnetlink::Error) -> Error {
    let Some(errno) = errno_of(&error) else { return Error::new(what).because(error) };
    let cure = match errno {
        Errno::EPERM | Errno::EACCES => Some(
            "it needs root with CAP_NET_ADMIN in this network namespace: an unprivileged container \
             does not have it",
        ),
        Errno::ENETUNREACH => Some(
            "the gateway is in no subnet of this host: give the host an address in the gateway's \
             subnet first, or name another gateway",
        ),
        Errno::EHOSTUNREACH => Some("the gateway cannot be reached over that interface"),
        Errno::ENETDOWN => Some("the interface is down: set it up first"),
        Errno::ENODEV => Some("the interface is gone"),
        _ => None,
    };
    Error::new(what).because(io::Error::from(errno)).maybe_cure(cure)
}
