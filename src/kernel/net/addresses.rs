//! Addresses: reading them in canonical form, adding and removing one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use nix::errno::Errno;

use super::{LinksByIndex, Net, errno_of, refused};
use crate::kernel::error::{Error, Result};
use crate::state::{Address, AddressKey, Scope};

impl Net {
    /// Dumps the addresses.
    pub async fn addresses(&self, links: &LinksByIndex) -> Result<BTreeMap<AddressKey, Address>> {
        let messages = self.address_messages().await?;
        Ok(messages.iter().filter_map(|message| observed(message, links)).collect())
    }

    pub(super) async fn address_messages(&self) -> Result<Vec<AddressMessage>> {
        self.handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| refused("cannot read the addresses".to_owned(), error))
    }

    /// Adds an address; an error if the interface has it.
    pub async fn add_address(&self, key: &AddressKey, address: &Address) -> Result<()> {
        let (index, _) = self.link_named(&key.dev).await?;
        let mut request = self.handle.address().add(index, key.net.addr(), key.net.prefix_len());
        *request.message_mut() = message(index, key, address)?;
        request.execute().await.map_err(|error| {
            let what = format!("cannot add address {} to {}", key.net, key.dev);
            match errno_of(&error) {
                Some(Errno::EEXIST) => {
                    Error::changed_since(&format!("address {key}"), "nothing", "the address")
                }
                _ => refused(what, error),
            }
        })
    }

    /// Removes an address; an error if it is not equal to `address`.
    ///
    /// With the primary address of a subnet the kernel removes the secondary addresses of that subnet on the
    /// interface, unless `promote_secondaries` is set (net/ipv4/devinet.c, `__inet_del_ifa`). This function
    /// adds them again, with their settings.
    pub async fn remove_address(&self, key: &AddressKey, address: &Address) -> Result<()> {
        let links = self.links().await?;
        let before = self.address_messages().await?;
        let found = before.iter().find_map(|message| {
            let (name, found) = observed(message, &links)?;
            (name == *key).then(|| (message.clone(), found))
        });
        let what = format!("address {key}");
        let expected = address.to_string();
        let message = match found {
            None => return Err(Error::changed_since(&what, &expected, "nothing")),
            Some((_, found)) if found != *address => {
                return Err(Error::changed_since(&what, &expected, &found.to_string()));
            }
            Some((message, _)) => message,
        };
        self.handle.address().del(message.clone()).execute().await.map_err(|error| {
            refused(format!("cannot remove address {} from {}", key.net, key.dev), error)
        })?;
        self.put_back_secondaries(&message, &before).await
    }

    async fn put_back_secondaries(
        &self,
        removed: &AddressMessage,
        before: &[AddressMessage],
    ) -> Result<()> {
        let could_go_along = |other: &&AddressMessage| {
            other.header.family == AddressFamily::Inet
                && other.header.index == removed.header.index
                && other.header.flags.contains(AddressHeaderFlags::Secondary)
                && local_net(other) != local_net(removed)
        };
        let candidates: Vec<_> = before.iter().filter(could_go_along).collect();
        if removed.header.family != AddressFamily::Inet || candidates.is_empty() {
            return Ok(());
        }
        let why = "together with the primary address of its subnet";
        self.put_back_lost(&candidates, why).await
    }

    /// Adds the static IPv6 addresses again that an interface lost as it went down. The kernel restores
    /// link-local addresses and those from router advertisements.
    pub(super) async fn put_back_after_down(
        &self,
        index: u32,
        before: &[AddressMessage],
    ) -> Result<()> {
        let was_set = |address: &&AddressMessage| {
            let header = &address.header;
            header.family == AddressFamily::Inet6
                && header.index == index
                && header.flags.contains(AddressHeaderFlags::Permanent)
                && Scope::from_number(header.scope.into()) != Scope::Link
                && !local_net(address).is_some_and(comes_with_sit0)
        };
        let candidates: Vec<_> = before.iter().filter(was_set).collect();
        if candidates.is_empty() {
            return Ok(());
        }
        self.put_back_lost(&candidates, "as the interface went down").await
    }

    /// Adds those of `candidates` that the host no longer has.
    async fn put_back_lost(&self, candidates: &[&AddressMessage], why: &str) -> Result<()> {
        let left = self.address_messages().await?;
        let is_present = |wanted: &AddressMessage| {
            left.iter().any(|other| {
                other.header.index == wanted.header.index && local_net(other) == local_net(wanted)
            })
        };
        for lost in candidates.iter().filter(|candidate| !is_present(candidate)) {
            let Some(net) = local_net(lost) else { continue };
            let mut request =
                self.handle.address().add(lost.header.index, net.addr(), net.prefix_len());
            *request.message_mut() = as_request(lost);
            request.execute().await.map_err(|error| {
                refused(
                    format!("the kernel removed {net} {why}, and lvsprov cannot add it again"),
                    error,
                )
                .cure(format!("add it by hand: ip address add {net} dev INTERFACE"))
            })?;
        }
        Ok(())
    }
}

/// Whether the kernel adds and removes it together with sit0 going up and down: each IPv4 address of the
/// host after 96 zero bits (net/ipv6/addrconf.c, `sit_add_v4_addrs`).
fn comes_with_sit0(net: IpNet) -> bool {
    match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.prefix_len() == 96 && net.addr().octets().starts_with(&[0; 12]),
    }
}

/// A request to add a dumped address again. Without the flag "secondary": the kernel sets it.
fn as_request(dumped: &AddressMessage) -> AddressMessage {
    let mut message = dumped.clone();
    message.header.flags.remove(AddressHeaderFlags::Secondary);
    for attribute in &mut message.attributes {
        if let AddressAttribute::Flags(flags) = attribute {
            flags.remove(AddressFlags::Secondary);
        }
    }
    message
}

/// The address with its prefix length: IFA_LOCAL in IPv4; in IPv6 IFA_ADDRESS, or IFA_LOCAL if it has a peer.
fn local_net(message: &AddressMessage) -> Option<IpNet> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

pub(super) fn observed(
    message: &AddressMessage,
    links: &LinksByIndex,
) -> Option<(AddressKey, Address)> {
    let dev = links.get(&message.header.index)?.name.clone();
    let mut label = None;
    let mut broadcast = None;
    let (mut nodad, mut deprecated) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Label(text) if text != dev.as_str() => label = Some(text.clone()),
            AddressAttribute::Broadcast(ip) => broadcast = Some(IpAddr::V4(*ip)),
            AddressAttribute::Flags(flags) => {
                nodad = flags.contains(AddressFlags::Nodad);
                deprecated = flags.contains(AddressFlags::Deprecated);
            }
            _ => {}
        }
    }
    let scope = Scope::from_number(message.header.scope.into());
    let address = Address { scope, label, broadcast, nodad, deprecated };
    Some((AddressKey { dev, net: local_net(message)? }, address))
}

pub(super) fn message(index: u32, key: &AddressKey, address: &Address) -> Result<AddressMessage> {
    let Address { scope, label, broadcast, nodad, deprecated } = address;
    let ip = key.net.addr();
    check_scope(key, *scope)?;
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = key.net.prefix_len();
    message.header.scope = scope.number().into();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    match (broadcast, ip) {
        (None, _) => {}
        (Some(IpAddr::V4(v4)), IpAddr::V4(_)) => {
            message.attributes.push(AddressAttribute::Broadcast(*v4));
        }
        (Some(other), _) => {
            return Err(Error::new(format!(
                "address {key} cannot have the broadcast address {other}"
            )));
        }
    }
    if *deprecated {
        // The flag follows from the lifetimes (net/ipv6/addrconf.c, `inet6_rtm_newaddr`).
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    if *nodad {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    if let Some(label) = label {
        check_label(key, label)?;
        message.attributes.push(AddressAttribute::Label(label.clone()));
    }
    Ok(message)
}

/// An error for an IPv6 address with another scope than the kernel gives it: it ignores the scope of the request
/// and derives it from the address (net/ipv6/addrconf.c, `rt_scope`).
fn check_scope(key: &AddressKey, scope: Scope) -> Result<()> {
    let IpAddr::V6(ip) = key.net.addr() else { return Ok(()) };
    let derived = match ip.segments()[0] {
        _ if ip.is_loopback() => Scope::Host,
        0xfe80..=0xfebf => Scope::Link,
        0xfec0..=0xfeff => Scope::Site,
        _ => Scope::Global,
    };
    if scope == derived {
        return Ok(());
    }
    Err(Error::new(format!("address {key} cannot have scope {scope}"))
        .cure(format!("the scope of an IPv6 address follows from the address: here {derived}")))
}

/// IFA_LABEL has at most 15 bytes; `ifconfig` reads only labels that start with the interface's name. IPv6
/// addresses have none.
fn check_label(key: &AddressKey, label: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::new(format!("label {label:?} of address {key}: {why}")));
    if key.net.addr().is_ipv6() {
        return wrong("IPv6 addresses have no labels");
    }
    if label.is_empty() || label.len() > 15 {
        return wrong("a label has 1 to 15 bytes");
    }
    if label.contains('\0') || !label.starts_with(key.dev.as_str()) {
        return wrong("a label starts with the name of its interface");
    }
    Ok(())
}
