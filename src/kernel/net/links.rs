//! Interfaces: what they are called, whether they are up, and setting them up or down.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::LinkUnspec;

use super::{Net, refused, tunnels};
use crate::kernel::error::{Error, Result};
use crate::names::IfName;
use crate::state::{Link, Module, TunnelDevice};

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its name.
    pub name: IfName,
    /// Up or down.
    pub state: Link,
    /// Its hardware address in text (`aa:bb:cc:dd:ee:ff`), if it has a real one.
    pub hardware: Option<String>,
    /// The GRE device that it is, if it is one that takes packets from anybody to one address.
    pub tunnel: Option<TunnelDevice>,
}

/// Interfaces by the kernel's number.
pub type LinksByIndex = BTreeMap<u32, ObservedLink>;

impl Net {
    /// Dumps the interfaces. One whose name is none for lvsprov (a blank, a letter beyond ASCII)
    /// cannot be in a topology: it is left out.
    pub async fn links(&self) -> Result<LinksByIndex> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("cannot read the interfaces".to_owned(), error))?;
        Ok(messages
            .iter()
            .filter_map(|message| Some((message.header.index, seen(message)?)))
            .collect())
    }

    /// Sets an interface up or down, if it is `before` now.
    ///
    /// With an interface that goes down the kernel removes its IPv6 addresses, unless
    /// `keep_addr_on_down` is set (net/ipv6/addrconf.c, `addrconf_ifdown`), and lets IPv4's stay. They
    /// are put back: an interface that is down can have them.
    pub async fn set_link(&self, dev: &IfName, before: Link, after: Link) -> Result<()> {
        let (index, found) = self.link_named(dev).await?;
        if found.state != before {
            return Err(Error::changed_since(
                &format!("link {dev}"),
                &before.to_string(),
                &found.state.to_string(),
            ));
        }
        let addresses = match after {
            Link::Up => Vec::new(),
            Link::Down => self.address_messages().await?,
        };
        let message = LinkUnspec::new_with_index(index);
        let message = match after {
            Link::Up => message.up(),
            Link::Down => message.down(),
        };
        self.handle
            .link()
            .set(message.build())
            .execute()
            .await
            .map_err(|error| refused(format!("cannot set link {dev} {after}"), error))?;
        self.put_back_after_down(index, &addresses).await
    }

    pub(super) async fn link_named(&self, dev: &IfName) -> Result<(u32, ObservedLink)> {
        let links = self.links().await?;
        links.into_iter().find(|(_, link)| link.name == *dev).ok_or_else(|| {
            let error = Error::new(format!("there is no interface {dev} on this host"));
            let brings = |module: &&Module| module.device() == Some(dev.as_str());
            match Module::ALL.iter().find(brings) {
                Some(module) => error.cure(format!(
                    "{dev} comes with the module {module}; in a network namespace it is missing \
                     where net.core.fb_tunnels_only_for_init_net is not 0"
                )),
                None => error,
            }
        })
    }
}

pub(super) fn seen(message: &LinkMessage) -> Option<ObservedLink> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })?;
    let hardware = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => hardware_text(bytes),
        _ => None,
    });
    let up = message.header.flags.contains(LinkFlags::Up);
    let state = if up { Link::Up } else { Link::Down };
    Some(ObservedLink { name, state, hardware, tunnel: tunnels::seen(message) })
}

/// Ethernet addresses only: that of a tunnel is an IP address, that of lo is all zeroes.
fn hardware_text(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 6] = bytes.try_into().ok()?;
    (bytes != [0; 6]).then(|| crate::kernel::arp::Mac(bytes).to_string())
}
