//! Tunnel devices that accept packets from any source to one local address: reading, making and removing
//! them.

use std::net::IpAddr;

use netlink_packet_route::link::{
    GreEncapType, GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, LinkAttribute,
    LinkInfo, LinkMessage, TunnelEncapType,
};
use nix::errno::Errno;

use super::{Net, errno_of, refused};
use crate::kernel::error::{Error, Result};
use crate::names::IfName;
use crate::state::{TunnelDevice, TunnelKind};

impl Net {
    /// Makes a device; it is down. An error if an interface has this name.
    pub async fn add_tunnel(&self, dev: &IfName, device: &TunnelDevice) -> Result<()> {
        let request = message(dev, device)?;
        if let Some(link) = self.links().await?.into_values().find(|link| link.name == *dev) {
            let found = link.tunnel.map_or_else(
                || "an interface of another kind".to_owned(),
                |tunnel| tunnel.to_string(),
            );
            return Err(Error::changed_since(&format!("tunnel {dev}"), "nothing", &found));
        }
        self.handle.link().add(request).execute().await.map_err(|error| {
            let what = format!("cannot add tunnel {dev} ({device})");
            let cure = match errno_of(&error) {
                Some(Errno::EEXIST) => format!(
                    "another {} device accepts packets to {} already (ip -d link): remove that device",
                    device.kind, device.local
                ),
                Some(Errno::EOPNOTSUPP) => format!(
                    "this kernel has no {0} devices: modprobe {0}, or install the kernel's full set \
                     of modules",
                    module(device.kind)
                ),
                _ => return refused(what, error),
            };
            Error::new(what).because(error).cure(cure)
        })
    }

    /// Removes a device; an error if it is not equal to `device`.
    pub async fn remove_tunnel(&self, dev: &IfName, device: &TunnelDevice) -> Result<()> {
        let links = self.links().await?;
        let found = links.into_iter().find(|(_, link)| link.name == *dev);
        let changed = |found: &str| {
            Error::changed_since(&format!("tunnel {dev}"), &device.to_string(), found)
        };
        let index = match found {
            None => return Err(changed("nothing")),
            Some((index, link)) if link.tunnel.as_ref() == Some(device) => index,
            Some((_, link)) => {
                let other = || "an interface of another kind".to_owned();
                return Err(changed(&link.tunnel.map_or_else(other, |tunnel| tunnel.to_string())));
            }
        };
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(|error| refused(format!("cannot remove tunnel {dev}"), error))
    }
}

fn module(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::Gre => "ip_gre",
        TunnelKind::Ip6gre => "ip6_gre",
        TunnelKind::Ip6tnl => "ip6_tunnel",
    }
}

pub(super) fn message(dev: &IfName, device: &TunnelDevice) -> Result<LinkMessage> {
    let TunnelDevice { kind, local, checksum } = device;
    let flags = if *checksum { GreIOFlags::Checksum } else { GreIOFlags::empty() };
    let (kind, data) = match (kind, local) {
        _ if local.is_unspecified() || local.is_multicast() => {
            let what = format!("tunnel {dev}: {local} cannot be its local address");
            return Err(Error::new(what).cure("take an address of the host"));
        }
        (TunnelKind::Gre, IpAddr::V4(local)) => (
            InfoKind::GreTun,
            InfoData::GreTun(vec![
                InfoGre::Local(*local),
                InfoGre::IFlags(flags),
                InfoGre::OFlags(flags),
            ]),
        ),
        (TunnelKind::Ip6gre, IpAddr::V6(local)) => (
            InfoKind::GreTun6,
            InfoData::GreTun6(vec![
                InfoGre6::Local(*local),
                InfoGre6::IFlags(flags),
                InfoGre6::OFlags(flags),
            ]),
        ),
        (TunnelKind::Ip6tnl, IpAddr::V6(_)) if *checksum => {
            return Err(Error::new(format!(
                "tunnel {dev}: {} has no checksum setting",
                device.kind
            )));
        }
        // Without a protocol the device carries both IPv4 and IPv6.
        (TunnelKind::Ip6tnl, local @ IpAddr::V6(_)) => {
            (InfoKind::Ip6Tnl, InfoData::IpTunnel(vec![InfoIpTunnel::Local(*local)]))
        }
        (kind, local) => {
            let what = format!("tunnel {dev}: {local} has not the address family of {kind}");
            return Err(Error::new(what));
        }
    };
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(dev.as_str().to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
    ];
    Ok(message)
}

/// The settings in a dump, common to all kinds of tunnel devices.
#[derive(Default)]
struct TunnelFields {
    local: Option<IpAddr>,
    /// GRE flags of received and of sent packets.
    flags: (GreIOFlags, GreIOFlags),
    /// It has a setting that `TunnelDevice` lacks: it does not accept all packets to its address.
    special: bool,
}

/// The tunnel settings of an interface. `None`: it is not a tunnel, or one that lvsprov does not make: without
/// a local address (`gre0`), with a remote address or a key, bound to another interface, or within UDP.
pub(super) fn observed(message: &LinkMessage) -> Option<TunnelDevice> {
    let info = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info),
        _ => None,
    })?;
    let ip6tnl = info.contains(&LinkInfo::Kind(InfoKind::Ip6Tnl));
    let (kind, fields) = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::GreTun(data)) => Some((TunnelKind::Gre, gre_fields(data))),
        LinkInfo::Data(InfoData::GreTun6(data)) => Some((TunnelKind::Ip6gre, gre6_fields(data))),
        LinkInfo::Data(InfoData::IpTunnel(data)) if ip6tnl => {
            Some((TunnelKind::Ip6tnl, ip6tnl_fields(data)))
        }
        _ => None,
    })?;
    let TunnelFields { local, flags: (input, output), special } = fields;
    let plain = [GreIOFlags::empty(), GreIOFlags::Checksum];
    if special || input != output || !plain.contains(&input) {
        return None;
    }
    let local = local.filter(|local| !local.is_unspecified())?;
    Some(TunnelDevice { kind, local, checksum: input == GreIOFlags::Checksum })
}

fn gre_fields(data: &[InfoGre]) -> TunnelFields {
    let mut fields = TunnelFields::default();
    for one in data {
        match one {
            InfoGre::Local(local) => fields.local = Some(IpAddr::V4(*local)),
            InfoGre::Remote(remote) => fields.special |= !remote.is_unspecified(),
            InfoGre::IFlags(flags) => fields.flags.0 = *flags,
            InfoGre::OFlags(flags) => fields.flags.1 = *flags,
            InfoGre::Link(number) | InfoGre::FwMask(number) => fields.special |= *number != 0,
            InfoGre::EncapType(kind) => fields.special |= *kind != GreEncapType::None,
            InfoGre::CollectMetadata => fields.special = true,
            _ => {}
        }
    }
    fields
}

fn gre6_fields(data: &[InfoGre6]) -> TunnelFields {
    let mut fields = TunnelFields::default();
    for one in data {
        match one {
            InfoGre6::Local(local) => fields.local = Some(IpAddr::V6(*local)),
            InfoGre6::Remote(remote) => fields.special |= !remote.is_unspecified(),
            InfoGre6::IFlags(flags) => fields.flags.0 = *flags,
            InfoGre6::OFlags(flags) => fields.flags.1 = *flags,
            InfoGre6::Link(number) | InfoGre6::FwMask(number) => fields.special |= *number != 0,
            InfoGre6::EncapType(kind) => fields.special |= *kind != GreEncapType::None,
            InfoGre6::CollectMetadata => fields.special = true,
            _ => {}
        }
    }
    fields
}

fn ip6tnl_fields(data: &[InfoIpTunnel]) -> TunnelFields {
    let mut fields = TunnelFields::default();
    for one in data {
        match one {
            InfoIpTunnel::Local(local) => fields.local = Some(*local),
            InfoIpTunnel::Remote(remote) => fields.special |= !remote.is_unspecified(),
            InfoIpTunnel::Protocol(inside) => fields.special |= u8::from(*inside) != 0,
            InfoIpTunnel::Link(number) | InfoIpTunnel::FwMark(number) => {
                fields.special |= *number != 0;
            }
            InfoIpTunnel::EncapType(kind) => fields.special |= *kind != TunnelEncapType::None,
            InfoIpTunnel::CollectMetadata => fields.special = true,
            _ => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn device(kind: TunnelKind, local: &str, checksum: bool) -> TunnelDevice {
        TunnelDevice { kind, local: local.parse().unwrap(), checksum }
    }

    #[test]
    fn a_device_survives_its_encoding() {
        for device in [
            device(TunnelKind::Gre, "192.0.2.1", false),
            device(TunnelKind::Gre, "192.0.2.1", true),
            device(TunnelKind::Ip6gre, "2001:db8::1", true),
            device(TunnelKind::Ip6tnl, "2001:db8::1", false),
        ] {
            assert_eq!(observed(&message(&"g".parse().unwrap(), &device).unwrap()), Some(device));
        }
    }

    #[test]
    fn an_impossible_device_is_an_error() {
        for (kind, local) in [
            (TunnelKind::Gre, "2001:db8::1"),
            (TunnelKind::Ip6gre, "192.0.2.1"),
            (TunnelKind::Ip6tnl, "192.0.2.1"),
            (TunnelKind::Gre, "0.0.0.0"),
            (TunnelKind::Gre, "224.0.0.81"),
        ] {
            assert!(message(&"g".parse().unwrap(), &device(kind, local, false)).is_err());
        }
    }

    #[test]
    fn a_device_with_other_settings_is_left_out() {
        let with = |more: Vec<InfoGre>| {
            let mut message = LinkMessage::default();
            let mut data = vec![InfoGre::Local([192, 0, 2, 1].into())];
            data.extend(more);
            message.attributes =
                vec![LinkAttribute::LinkInfo(vec![LinkInfo::Data(InfoData::GreTun(data))])];
            observed(&message)
        };
        assert!(with(vec![InfoGre::Remote([0; 4].into()), InfoGre::Link(0)]).is_some());
        for special in [
            vec![InfoGre::Remote([192, 0, 2, 9].into())],
            vec![InfoGre::Link(7)],
            vec![InfoGre::IFlags(GreIOFlags::Key), InfoGre::OFlags(GreIOFlags::Key)],
            vec![InfoGre::IFlags(GreIOFlags::Checksum)],
            vec![InfoGre::EncapType(GreEncapType::Fou)],
            vec![InfoGre::CollectMetadata],
            vec![InfoGre::Local([0; 4].into())],
        ] {
            assert_eq!(with(special.clone()), None, "{special:?}");
        }
    }
}
