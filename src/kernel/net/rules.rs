//! Policy rules, and routes beside the plain ones of the main table: what [`crate::state::Routing`] holds. Only read, never written.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use nix::errno::Errno;
use rtnetlink::IpVersion;

use super::routes::{canonical_metric, ip, table_of, unspecified};
use super::{LinksByIndex, Net, errno_of, refused};
use crate::kernel::error::Result;
use crate::state::routing::{LOCAL, MAIN, PolicyRule, RouteEntry, RouteKind};

/// A value of the kernel for "not set": suppress_prefixlength, suppress_ifgroup.
const UNSET: u32 = u32::MAX;

impl Net {
    /// Reads the policy rules of both families.
    pub async fn rules(&self) -> Result<Vec<PolicyRule>> {
        let mut all = Vec::new();
        for (version, family) in
            [(IpVersion::V4, AddressFamily::Inet), (IpVersion::V6, AddressFamily::Inet6)]
        {
            let answer = self.handle.rule().get(version).execute().try_collect::<Vec<_>>().await;
            match answer {
                // A kernel without IPv6 may answer with rules of other families.
                Ok(messages) => all.extend(
                    messages.iter().filter(|it| it.header.family == family).filter_map(rule),
                ),
                // No policy routing in this kernel (CONFIG_IP_MULTIPLE_TABLES), or no such family.
                Err(error) if is_unsupported(&error) => {}
                Err(error) => {
                    return Err(refused("cannot read the policy rules".to_owned(), error));
                }
            }
        }
        Ok(all)
    }
}

fn is_unsupported(error: &rtnetlink::Error) -> bool {
    matches!(errno_of(error), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT))
}

/// A rule; `None`: it does nothing.
pub(super) fn rule(message: &RuleMessage) -> Option<PolicyRule> {
    let header = &message.header;
    let ipv6 = header.family == AddressFamily::Inet6;
    let mut rule = PolicyRule::plain(0, ipv6, header.table.into());
    rule.invert = header.flags.contains(RuleFlags::Invert);
    match header.action {
        // Where a rule jumps to is in an attribute.
        RuleAction::ToTable | RuleAction::Goto => {}
        RuleAction::Nop => return None,
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => rule.table = None,
        other => rule.unclear.push(format!("{other:?}").to_lowercase()),
    }
    if header.tos != 0 {
        rule.unclear.push(format!("tos {:#x}", header.tos));
    }
    let (mut mark, mut mark_bits) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(address) => rule.to = prefix(*address, header.dst_len),
            RuleAttribute::Source(address) => rule.from = prefix(*address, header.src_len),
            RuleAttribute::Iifname(name) => match name.parse() {
                Ok(dev) => rule.iif = Some(dev),
                Err(_) => rule.unclear.push(format!("iif {name:?}")),
            },
            RuleAttribute::Oifname(name) => match name.parse() {
                Ok(dev) => rule.oif = Some(dev),
                Err(_) => rule.unclear.push(format!("oif {name:?}")),
            },
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mark_bits = Some(*value),
            RuleAttribute::Table(table) => rule.table = rule.table.and(Some(*table)),
            // Not set; who made it; a number for statistics.
            RuleAttribute::SuppressPrefixLen(UNSET)
            | RuleAttribute::SuppressIfGroup(UNSET)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::Realm(_)
            | RuleAttribute::L3MDev(false) => {}
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppress_prefix = Some(u8::try_from(*length).unwrap_or(u8::MAX));
            }
            other => rule.unclear.push(format!("{other:?}").to_lowercase()),
        }
    }
    rule.mark = match (mark, mark_bits) {
        (None, None) => None,
        (mark, bits) => Some((mark.unwrap_or(0), bits.unwrap_or(u32::MAX))),
    };
    Some(rule)
}

fn prefix(address: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

/// A route that [`crate::state::HostState::routes`] does not hold as it is; `None`: it does, or the kernel made it of an
/// address, or it is no way for a packet of a service.
pub(super) fn beside_main(message: &RouteMessage, links: &LinksByIndex) -> Option<RouteEntry> {
    let header = &message.header;
    // For multicast, for one TOS, or out of a cache.
    if header.flags.contains(RouteFlags::Cloned) || header.tos != 0 {
        return None;
    }
    let (table, ipv6) = (table_of(message), header.address_family == AddressFamily::Inet6);
    let mut kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Refuses,
        RouteType::Throw => RouteKind::Throw,
        RouteType::Broadcast | RouteType::Multicast => return None,
        _ => RouteKind::Unclear,
    };
    let (mut destination, mut entry_dev) = (unspecified(ipv6), None);
    let (mut gateway, mut source, mut metric, mut mtu) = (None, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => entry_dev = links.get(index).map(|it| it.name.clone()),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            // They change nothing about where the packet goes.
            RouteAttribute::Table(_)
            | RouteAttribute::CacheInfo(_)
            | RouteAttribute::Preference(_)
            | RouteAttribute::Realm(_)
            | RouteAttribute::Uid(_) => {}
            // Next hops, a next hop object, an encapsulation, a gateway of the other family.
            _ if kind == RouteKind::Unicast => kind = RouteKind::Unclear,
            _ => {}
        }
    }
    if ipv6 {
        metric = canonical_metric(metric);
    }
    if header.source_prefix_length != 0 {
        kind = RouteKind::Unclear;
    }
    let of_kernel = header.protocol == RouteProtocol::Kernel;
    if table == LOCAL && of_kernel || table == MAIN && kind == RouteKind::Unicast {
        return None;
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?.trunc();
    Some(RouteEntry { table, destination, kind, gateway, dev: entry_dev, metric, source, mtu })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use netlink_packet_route::rule::RuleUidRange;

    use super::*;
    use crate::state::routing::default_rules;

    fn message(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_plain_rule_is_the_kernels_own() {
        let own = vec![
            RuleAttribute::Table(254),
            RuleAttribute::Priority(32766),
            RuleAttribute::SuppressPrefixLen(UNSET),
            RuleAttribute::Protocol(RouteProtocol::Kernel),
        ];
        assert_eq!(rule(&message(own)).as_ref(), default_rules().get(1));
    }

    /// As wg-quick(8) makes them: `not from all fwmark 0xca6c lookup 51820`, `lookup main suppress_prefixlength 0`.
    #[test]
    fn inverted_and_suppressing_rules_are_read() {
        let mut not = message(vec![
            RuleAttribute::FwMark(0xca6c),
            RuleAttribute::FwMask(UNSET),
            RuleAttribute::Table(51820),
        ]);
        not.header.flags = RuleFlags::Invert;
        let not = rule(&not).unwrap();
        assert!(not.invert && not.unclear.is_empty(), "{not:?}");
        assert_eq!((not.mark, not.table), (Some((0xca6c, UNSET)), Some(51820)));
        let suppress = vec![RuleAttribute::Table(254), RuleAttribute::SuppressPrefixLen(0)];
        assert_eq!(rule(&message(suppress)).unwrap().suppress_prefix, Some(0));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let range = RuleUidRange { start: 0, end: 9 };
        for unknown in [
            RuleAttribute::L3MDev(true),
            RuleAttribute::UidRange(range),
            RuleAttribute::Goto(7),
            RuleAttribute::TunId(1),
            RuleAttribute::Iifname("a/b".to_owned()),
        ] {
            let read = rule(&message(vec![unknown])).unwrap();
            assert_eq!(read.unclear.len(), 1, "{read:?}");
        }
        let mut refuses = message(vec![RuleAttribute::Table(0)]);
        refuses.header.action = RuleAction::Prohibit;
        assert_eq!(rule(&refuses).unwrap().table, None);
        let mut nothing = message(Vec::new());
        nothing.header.action = RuleAction::Nop;
        assert_eq!(rule(&nothing), None);
    }
}
