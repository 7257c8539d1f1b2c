//! The rtnetlink requests that build the lab: bridges, cables, addresses.
//!
//! Each [`LabLinks`] is bound to the namespace in which it was opened.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth,
    LinkAttribute, LinkInfo, LinkMessage, State,
};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth,
};

use super::Mac;
use crate::kernel::namespace;
use crate::lab::LabError;
use crate::names::HostName;

/// Time between two polls of the links.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// rtnetlink in one namespace.
pub(super) struct LabLinks {
    handle: Handle,
}

/// A veth pair: one end in the switch, the other in a host.
pub(super) struct Cable<'a, N> {
    /// Interface name in the switch.
    pub(super) port: &'a str,
    /// Index of the bridge in the switch.
    pub(super) bridge: u32,
    /// Namespace of the host.
    pub(super) host: N,
    /// Interface name in the host.
    pub(super) name: &'a str,
    /// Hardware address in the host.
    pub(super) mac: Mac,
}

/// Runs `work` with rtnetlink in the calling thread's namespace, in a runtime of its own.
pub(in crate::lab) fn with_rtnetlink<T>(
    work: impl AsyncFnOnce(Handle) -> Result<T, LabError>,
) -> Result<T, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("start a runtime for rtnetlink"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(LabError::io("open an rtnetlink socket"))?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

/// Runs `work` with rtnetlink inside `namespace`.
pub(super) fn links_in<T: Send>(
    namespace: impl AsFd,
    work: impl AsyncFnOnce(LabLinks) -> Result<T, LabError> + Send,
) -> Result<T, LabError> {
    let inside = || with_rtnetlink(async |handle| work(LabLinks { handle }).await);
    namespace::run_in(namespace, inside).map_err(LabError::io("enter a network namespace"))?
}

impl LabLinks {
    /// Adds a bridge that forwards immediately, without spanning tree or snooping. It is promiscuous, so
    /// that a packet socket on it also receives frames between ports.
    pub(super) async fn add_bridge(&self, name: &str) -> Result<u32, LabError> {
        let what = || format!("create bridge {name}");
        // FDB aging stays; STP is off in a new bridge (net/bridge/br_if.c).
        let info = InfoData::Bridge(vec![
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
        ]);
        let message = LinkBridge::new(name).set_info_data(info).promiscuous(true).build();
        self.handle.link().add(message).execute().await.map_err(LabError::netlink(what()))?;
        self.index(name).await
    }

    /// Adds a cable.
    pub(super) async fn add_cable(&self, cable: Cable<'_, impl AsFd>) -> Result<(), LabError> {
        let Cable { port, bridge, host, name, mac } = cable;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name)
            .address(mac.0.to_vec())
            .setns_by_fd(host.as_fd().as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(port)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .up()
            .build();
        let what = format!("connect {name} to the switch");
        self.handle.link().add(message).execute().await.map_err(LabError::netlink(what))
    }

    /// Adds an interface without a network.
    pub(super) async fn add_dummy(&self, host: &HostName, name: &str) -> Result<(), LabError> {
        let message = LinkDummy::new(name).build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(|error| dummy_error(host, name, error))
    }

    /// Whether the interface exists.
    pub(super) async fn exists(&self, name: &str) -> bool {
        self.index(name).await.is_ok()
    }

    /// Removes an interface if it exists.
    pub(super) async fn remove(&self, name: &str) -> Result<(), LabError> {
        let Ok(index) = self.index(name).await else { return Ok(()) };
        let what = format!("remove interface {name}");
        self.handle.link().del(index).execute().await.map_err(LabError::netlink(what))
    }

    /// Sets the MTU of an interface.
    pub(super) async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), LabError> {
        let index = self.index(name).await?;
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        let what = format!("set the MTU of {name} to {mtu}");
        self.handle.link().change(message).execute().await.map_err(LabError::netlink(what))
    }

    /// Sets an interface up and adds its addresses.
    pub(super) async fn set_up(&self, name: &str, addresses: &[IpNet]) -> Result<(), LabError> {
        let index = self.index(name).await?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let what = format!("set {name} up");
        self.handle.link().change(up).execute().await.map_err(LabError::netlink(what))?;
        for address in addresses {
            let what = format!("add {address} to {name}");
            let request = self.handle.address();
            let mut request = request.add(index, address.addr(), address.prefix_len());
            if address.addr().is_ipv6() {
                // Without this flag duplicate address detection keeps the address unusable for a second.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
                let flags = AddressAttribute::Flags(AddressFlags::Nodad);
                request.message_mut().attributes.push(flags);
            }
            request.execute().await.map_err(LabError::netlink(what))?;
        }
        Ok(())
    }

    /// Makes a bridge port forward or drop frames. Both ends keep their carrier, as if the cable were cut
    /// further away. The closed state is Listening: without spanning tree the kernel resets every other
    /// closed state (net/bridge/br_netlink.c, `br_set_port_state`; br_if.c, `br_port_carrier_check`).
    pub(super) async fn set_forwarding(&self, port: &str, open: bool) -> Result<(), LabError> {
        let state = if open { BridgePortState::Forwarding } else { BridgePortState::Listening };
        let index = self.index(port).await?;
        let message = LinkBridgePort::new(index).state(state).build();
        let what = format!("{} port {port}", if open { "open" } else { "close" });
        self.handle.link().set_port(message).execute().await.map_err(LabError::netlink(what))
    }

    /// Sets an interface administratively up or down. Of a veth pair the other end has a carrier only while this one is up.
    pub(super) async fn set_admin(&self, name: &str, up: bool) -> Result<(), LabError> {
        let index = self.index(name).await?;
        let link = LinkUnspec::new_with_index(index);
        let message = if up { link.up() } else { link.down() }.build();
        let what = format!("set {name} {}", if up { "up" } else { "down" });
        self.handle.link().change(message).execute().await.map_err(LabError::netlink(what))
    }

    /// Waits until every interface of `names` is operational and, as a bridge port, forwarding.
    pub(super) async fn wait_until_ready(
        &self,
        names: &[String],
        deadline: Instant,
    ) -> Result<(), LabError> {
        loop {
            let mut waiting: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            let mut found = self.handle.link().get().execute();
            while let Some(link) =
                found.try_next().await.map_err(LabError::netlink("list the interfaces"))?
            {
                if let Some(name) = ready(&link) {
                    waiting.remove(name);
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let waiting: Vec<&str> = waiting.into_iter().collect();
                return Err(LabError::NotReady { interfaces: waiting.join(", ") });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until every interface of `names` has a usable IPv6 link-local address for neighbour
    /// discovery. Duplicate address detection takes a second or two after the link came up (RFC 4862).
    pub(super) async fn wait_for_link_local(
        &self,
        names: &[String],
        deadline: Instant,
    ) -> Result<(), LabError> {
        let mut waiting: BTreeMap<u32, &str> = BTreeMap::new();
        for name in names {
            waiting.insert(self.index(name).await?, name);
        }
        loop {
            let mut found = self.handle.address().get().execute();
            while let Some(address) =
                found.try_next().await.map_err(LabError::netlink("list the addresses"))?
            {
                if is_usable_link_local(&address) {
                    waiting.remove(&address.header.index);
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let waiting: Vec<&str> = waiting.into_values().collect();
                return Err(LabError::NotReady { interfaces: waiting.join(", ") });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn index(&self, name: &str) -> Result<u32, LabError> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(LabError::netlink(format!("find {name}")))?;
        let missing = std::io::Error::from_raw_os_error(nix::libc::ENODEV);
        Ok(link.ok_or_else(|| LabError::io(format!("find {name}"))(missing))?.header.index)
    }
}

fn is_usable_link_local(address: &AddressMessage) -> bool {
    let tentative = AddressFlags::Tentative;
    address.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Address(std::net::IpAddr::V6(ip)) if ip.is_unicast_link_local())
    }) && !address.attributes.iter().any(
        |attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(tentative)),
    )
}

/// The name of a link that is operational and forwarding.
fn ready(link: &LinkMessage) -> Option<&str> {
    let mut name = None;
    let mut operational = false;
    let mut forwards = true;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.as_str()),
            LinkAttribute::OperState(state) => operational = *state == State::Up,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info {
                        forwards =
                            port.contains(&InfoBridgePort::State(BridgePortState::Forwarding));
                    }
                }
            }
            _ => {}
        }
    }
    name.filter(|_| operational && forwards)
}

/// The kernel returns EOPNOTSUPP if it lacks the device kind and cannot load its module
/// (net/core/rtnetlink.c, `__rtnl_newlink`).
fn dummy_error(host: &HostName, name: &str, error: rtnetlink::Error) -> LabError {
    let unknown = -nix::libc::EOPNOTSUPP;
    if let rtnetlink::Error::NetlinkError(message) = &error
        && message.code.is_some_and(|code| code.get() == unknown)
    {
        return LabError::NoDummy { host: host.clone(), interface: name.to_owned() };
    }
    LabError::netlink(format!("create interface {name}"))(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZero;

    use netlink_packet_core::ErrorMessage;

    use super::*;

    fn link(state: State, port: Option<BridgePortState>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("p0".to_owned()));
        link.attributes.push(LinkAttribute::OperState(state));
        if let Some(state) = port {
            let port = vec![InfoBridgePort::State(state)];
            let info = LinkInfo::PortData(InfoPortData::BridgePort(port));
            link.attributes.push(LinkAttribute::LinkInfo(vec![info]));
        }
        link
    }

    #[test]
    fn a_port_is_ready_when_it_is_up_and_forwards() {
        let forwarding = Some(BridgePortState::Forwarding);
        assert_eq!(ready(&link(State::Up, forwarding)), Some("p0"));
        assert_eq!(ready(&link(State::Up, None)), Some("p0"));
        assert_eq!(ready(&link(State::Up, Some(BridgePortState::Disabled))), None);
        assert_eq!(ready(&link(State::Down, forwarding)), None);
        assert_eq!(ready(&link(State::Unknown, None)), None);
        assert_eq!(ready(&LinkMessage::default()), None);
    }

    #[test]
    fn a_kernel_without_dummy_is_distinguished_from_other_errors() {
        let error = |code: i32| {
            let mut message = ErrorMessage::default();
            message.code = NonZero::new(-code);
            dummy_error(&"web1".parse().unwrap(), "eth7", rtnetlink::Error::NetlinkError(message))
        };
        let none = error(nix::libc::EOPNOTSUPP);
        assert!(matches!(none, LabError::NoDummy { .. }), "{none}");
        assert!(none.to_string().contains("eth7 of web1"), "{none}");
        assert!(matches!(error(nix::libc::EPERM), LabError::Netlink { .. }));
    }
}
