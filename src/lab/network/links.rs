//! The few rtnetlink requests that build the lab: bridges, cables, addresses.
//!
//! Each [`Links`] speaks to the one namespace in which it was opened.

use std::os::fd::{AsFd, AsRawFd as _};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::{InfoBridge, InfoData, InfoKind, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Mac, namespace};
use crate::lab::LabError;

/// rtnetlink in one namespace.
pub(super) struct Links {
    handle: Handle,
}

/// One end of a cable goes into the switch, the other into a host.
pub(super) struct Cable<'a, N> {
    /// The name of the end at the switch.
    pub(super) port: &'a str,
    /// The index of the bridge that the port belongs to.
    pub(super) bridge: u32,
    /// The namespace of the host.
    pub(super) host: N,
    /// The name of the end at the host.
    pub(super) name: &'a str,
    /// The hardware address of the end at the host.
    pub(super) mac: Mac,
}

/// Runs `work` with rtnetlink inside `namespace`.
pub(super) fn links_in<T: Send>(
    namespace: impl AsFd,
    work: impl AsyncFnOnce(Links) -> Result<T, LabError> + Send,
) -> Result<T, LabError> {
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(LabError::io("start a runtime for rtnetlink"))?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().map_err(LabError::io("open an rtnetlink socket"))?;
            let connection = tokio::spawn(connection);
            let result = work(Links { handle }).await;
            connection.abort();
            result
        })
    };
    namespace::run_in(namespace, inside).map_err(LabError::io("enter a network namespace"))?
}

impl Links {
    /// Adds a bridge that forwards from the first moment, without spanning tree or snooping. It is
    /// promiscuous, so that a listener on it hears what goes from port to port too.
    pub(super) async fn add_bridge(&self, name: &str) -> Result<u32, LabError> {
        let what = || format!("make bridge {name}");
        // FDB aging stays; STP is off in a new bridge (net/bridge/br_if.c).
        let info = InfoData::Bridge(vec![
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
        ]);
        let message = LinkBridge::new(name).set_info_data(info).promiscuous(true).build();
        self.handle.link().add(message).execute().await.map_err(LabError::netlink(what()))?;
        self.index(name).await
    }

    /// Adds a veth pair: a port of a bridge here, and its other end in a host.
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
        let what = format!("plug {name} into the switch");
        self.handle.link().add(message).execute().await.map_err(LabError::netlink(what))
    }

    /// Adds an interface that is plugged in nowhere.
    pub(super) async fn add_dummy(&self, name: &str) -> Result<(), LabError> {
        let what = format!("make interface {name}");
        let message = LinkDummy::new(name).build();
        self.handle.link().add(message).execute().await.map_err(LabError::netlink(what))
    }

    /// Whether there is an interface of that name.
    pub(super) async fn exists(&self, name: &str) -> bool {
        self.index(name).await.is_ok()
    }

    /// Removes an interface, if it is there.
    pub(super) async fn remove(&self, name: &str) -> Result<(), LabError> {
        let Ok(index) = self.index(name).await else { return Ok(()) };
        let what = format!("remove interface {name}");
        self.handle.link().del(index).execute().await.map_err(LabError::netlink(what))
    }

    /// Gives an interface its addresses and sets it up.
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
                // Without it the address is of no use until nobody has objected for a second.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
                let flags = AddressAttribute::Flags(AddressFlags::Nodad);
                request.message_mut().attributes.push(flags);
            }
            request.execute().await.map_err(LabError::netlink(what))?;
        }
        Ok(())
    }

    async fn index(&self, name: &str) -> Result<u32, LabError> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(LabError::netlink(format!("find {name}")))?;
        let missing = std::io::Error::from_raw_os_error(nix::libc::ENODEV);
        Ok(link.ok_or_else(|| LabError::io(format!("find {name}"))(missing))?.header.index)
    }
}
