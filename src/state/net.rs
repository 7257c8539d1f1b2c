//! Links, addresses and routes as a [`super::HostState`] has them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::edit::{EditVerb, JsonNames, KeyedEdit, SettingKind, Verbs, in_map};
use crate::names::IfName;

/// Whether an interface is administratively up (IFF_UP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// IFF_UP is set.
    Up,
    /// It is not.
    Down,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Names an address: `192.0.2.1/32@lo`. The kernel tells addresses apart by all three.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressKey {
    /// The interface.
    pub dev: IfName,
    /// Address and prefix length, host part kept.
    pub net: IpNet,
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.net, self.dev)
    }
}

impl FromStr for AddressKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (net, dev) =
            text.split_once('@').ok_or("an address key is ADDRESS/PREFIX@INTERFACE")?;
        let net = net.parse().map_err(|error| format!("{net:?}: {error}"))?;
        let dev = dev.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { dev, net })
    }
}

super::ipvs::text_form!(AddressKey);

/// How an address is set, beyond its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Scope.
    pub scope: Scope,
    /// IPv4 label such as `lo:0`; `None` where it is just the interface's name (the kernel's default).
    pub label: Option<String>,
    /// Broadcast address, if one is set.
    pub broadcast: Option<IpAddr>,
    /// IPv6: duplicates are not looked for (IFA_F_NODAD), so the address is usable at once, also
    /// where another host of the cluster has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nodad: bool,
    /// IPv6: never chosen as the source of what the host itself sends (IFA_F_DEPRECATED, a preferred
    /// lifetime of 0; RFC 6724, rule 3). Packets to it are taken as ever.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deprecated: bool,
}

impl Address {
    /// An address with a scope and nothing else.
    pub fn plain(scope: Scope) -> Self {
        Self { scope, label: None, broadcast: None, nodad: false, deprecated: false }
    }
}

/// Scope of an address or a route (include/uapi/linux/rtnetlink.h, `rt_scope_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// RT_SCOPE_UNIVERSE, 0.
    Global,
    /// RT_SCOPE_SITE, 200.
    Site,
    /// RT_SCOPE_LINK, 253.
    Link,
    /// RT_SCOPE_HOST, 254.
    Host,
    /// RT_SCOPE_NOWHERE, 255.
    Nowhere,
    /// A number of the user's own.
    Other(u8),
}

impl Scope {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Global => 0,
            Self::Site => 200,
            Self::Link => 253,
            Self::Host => 254,
            Self::Nowhere => 255,
            Self::Other(number) => number,
        }
    }

    /// From the kernel's number.
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Global,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            255 => Self::Nowhere,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.pad("global"),
            Self::Site => f.pad("site"),
            Self::Link => f.pad("link"),
            Self::Host => f.pad("host"),
            Self::Nowhere => f.pad("nowhere"),
            Self::Other(number) => write!(f, "{number}"),
        }
    }
}

/// Names a route of the main table by its destination: `0.0.0.0/0` is the default route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteKey(
    /// The destination; its host part is zero.
    pub IpNet,
);

impl RouteKey {
    /// The default route of the family of `address`.
    pub fn default_for(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        })
    }

    /// A route to one address.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == 0 {
            return f.write_str(if self.0.addr().is_ipv4() { "default" } else { "default6" });
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for RouteKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self(IpNet::V4(ipnet::Ipv4Net::default()))),
            "default6" => Ok(Self(IpNet::V6(ipnet::Ipv6Net::default()))),
            _ => {
                let net: IpNet = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
                Ok(Self(net.trunc()))
            }
        }
    }
}

super::ipvs::text_form!(RouteKey);

/// How a route is set, beyond its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Next hop; `None`: the destination is on-link.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub dev: Option<IfName>,
    /// Scope.
    pub scope: Scope,
    /// Metric (RTA_PRIORITY); the lowest wins. 0 where none is set.
    pub metric: u32,
    /// Who made it (`rtm_protocol`): 2 kernel, 3 boot, 4 static, 16 dhcp.
    pub protocol: u8,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The next hop is taken as on-link although no subnet says so (RTNH_F_ONLINK).
    pub onlink: bool,
    /// Attributes that this type does not have (several next hops, an MTU, ...). Such a route is shown and
    /// never replaced, because it could not be put back as it was.
    #[serde(rename = "unheld")]
    pub unsupported: Vec<String>,
}

/// `RTPROT_STATIC` (include/uapi/linux/rtnetlink.h): made by an administrator.
const STATIC: u8 = 4;

impl Route {
    /// A static route to the next hop `gateway`.
    pub fn via(gateway: IpAddr, dev: Option<IfName>) -> Self {
        Self {
            gateway: Some(gateway),
            dev,
            scope: Scope::Global,
            metric: 0,
            protocol: STATIC,
            source: None,
            onlink: false,
            unsupported: Vec::new(),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.gateway, &self.dev) {
            (Some(gateway), Some(dev)) => write!(f, "via {gateway} dev {dev}")?,
            (Some(gateway), None) => write!(f, "via {gateway}")?,
            (None, Some(dev)) => write!(f, "dev {dev}")?,
            (None, None) => f.write_str("without a device")?,
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        for other in &self.unsupported {
            write!(f, " {other}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Address {
    /// In one breath: `scope host, label lo:0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scope {}", self.scope)?;
        if let Some(label) = &self.label {
            write!(f, ", label {label}")?;
        }
        if let Some(broadcast) = self.broadcast {
            write!(f, ", broadcast {broadcast}")?;
        }
        f.write_str(if self.nodad { ", nodad" } else { "" })?;
        f.write_str(if self.deprecated { ", deprecated" } else { "" })
    }
}

impl SettingKind for Link {
    type Key = IfName;
    type Value = Self;
    const VERBS: Verbs = Verbs::SET;
    const JSON: JsonNames = JsonNames { tags: ["set_link"; 3], key: "dev", value: "" };
    in_map!(links, Link);
}

impl SettingKind for Address {
    type Key = AddressKey;
    type Value = Self;
    const VERBS: Verbs = Verbs::ADDED_REMOVED;
    const JSON: JsonNames =
        JsonNames { tags: ["add_address", "", "remove_address"], key: "key", value: "address" };
    in_map!(addresses, Address);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AddressKey { dev, net } = &edit.key;
        let towards = if edit.verb() == EditVerb::Remove { "from" } else { "to" };
        write!(f, "{} address {net} {towards} {dev}", edit.verb_text())?;
        edit.before.iter().chain(&edit.after).try_for_each(|address| write!(f, " ({address})"))
    }
}

impl SettingKind for Route {
    type Key = RouteKey;
    type Value = Self;
    const VERBS: Verbs = Verbs { change: Some("replace"), ..Verbs::ADDED_CHANGED_REMOVED };
    const JSON: JsonNames = JsonNames {
        tags: ["add_route", "replace_route", "remove_route"],
        key: "key",
        value: "route",
    };
    in_map!(routes, Route);

    fn write(edit: &KeyedEdit<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, key) = (edit.verb_text(), &edit.key);
        match (&edit.before, &edit.after) {
            (Some(before), Some(after)) => write!(f, "{verb} route {key}: {before} -> {after}"),
            (Some(route), None) | (None, Some(route)) => write!(f, "{verb} route {key} {route}"),
            (None, None) => write!(f, "{verb} route {key}"),
        }
    }
}
