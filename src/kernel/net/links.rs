//! Interfaces: reading them, and setting one up or down.

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
    /// IFLA_IFNAME.
    pub name: IfName,
    /// Administratively up or down (IFF_UP).
    pub state: Link,
    /// Its hardware address (`aa:bb:cc:dd:ee:ff`); `None` where it has no Ethernet address.
    pub hardware: Option<String>,
    /// IFLA_MTU.
    pub mtu: Option<u32>,
    /// Its tunnel settings, if it is a tunnel device that accepts packets from any source to one address.
    pub tunnel: Option<TunnelDevice>,
}

/// Interfaces by `ifi_index`.
pub type LinksByIndex = BTreeMap<u32, ObservedLink>;

impl Net {
    /// Dumps the interfaces. One whose name a topology cannot have (a blank, a letter beyond ASCII) is left
    /// out.
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
            .filter_map(|message| Some((message.header.index, observed(message)?)))
            .collect())
    }

    /// Sets an interface up or down; an error if it is not `before`.
    ///
    /// The kernel removes the IPv6 addresses of an interface that goes down, unless `keep_addr_on_down` is
    /// set (net/ipv6/addrconf.c, `addrconf_ifdown`), and keeps the IPv4 addresses. This function adds them
    /// again: an interface that is down can have them.
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
            let error = Error::new(format!("this host has no interface {dev}"));
            let brings = |module: &&Module| module.device() == Some(dev.as_str());
            match Module::ALL.iter().find(brings) {
                Some(module) => error.cure(format!(
                    "the module {module} makes {dev}; a network namespace lacks it where \
                     net.core.fb_tunnels_only_for_init_net is not 0"
                )),
                None => error,
            }
        })
    }
}

pub(super) fn observed(message: &LinkMessage) -> Option<ObservedLink> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })?;
    let hardware = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => hardware_text(bytes),
        _ => None,
    });
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let up = message.header.flags.contains(LinkFlags::Up);
    let state = if up { Link::Up } else { Link::Down };
    Some(ObservedLink { name, state, hardware, mtu, tunnel: tunnels::observed(message) })
}

/// `None` for an IP address (of a tunnel) and for all zeroes (lo).
fn hardware_text(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 6] = bytes.try_into().ok()?;
    (bytes != [0; 6]).then(|| crate::kernel::arp::Mac(bytes).to_string())
}
