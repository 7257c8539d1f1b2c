//! Rules about a director's IPVS settings: sync daemons and `net.ipv4.vs.*`, alone and against the
//! needs of the services.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::Subject;
use crate::finding::Finding;
use crate::names::HostName;
use crate::state::{DaemonRole, Protocol, VsItem};
use crate::topology::{self, Forward, Host, Service};

/// Directors with their services. `ipvs` of other hosts has no effect.
fn directors<'a>(subject: &Subject<'a>) -> Vec<(&'a Host, Vec<&'a Service>)> {
    let mut directed: BTreeMap<&HostName, Vec<&Service>> = BTreeMap::new();
    for service in &subject.topology.services {
        directed.entry(&service.director).or_default().push(service);
    }
    let hosts = directed.into_iter();
    hosts.filter_map(|(name, services)| Some((subject.host(name)?, services))).collect()
}

/// The interface of a sync daemon must exist (ENODEV) and have an address to send from.
pub(super) fn sync_interface(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, _) in directors(subject) {
        if subject.is_unclear(host) {
            continue;
        }
        for (role, daemon) in &host.ipvs.daemons {
            let at = host.ipvs.daemons_at.get(role).copied().unwrap_or(host.at);
            let Some(interface) = host.interfaces.get(&daemon.interface) else {
                let known = topology::listed(host.interfaces.keys());
                findings.push(Finding::error(
                    "sync-interface",
                    at,
                    format!(
                        "{} has no interface {} for sync daemon {role}",
                        host.name, daemon.interface
                    ),
                    "the kernel refuses a sync daemon on a missing interface (ENODEV)",
                    format!("one of: {known}"),
                ));
                continue;
            };
            // Every interface has a link-local IPv6 address.
            let sends = daemon.group.is_ipv6()
                || interface.addresses.iter().any(|net| net.addr().is_ipv4());
            if !sends && *role == DaemonRole::Master {
                findings.push(Finding::warning(
                    "sync-without-address",
                    at,
                    format!(
                        "{} of {} has no IPv4 address, but sync daemon master sends from it to {}",
                        interface.name, host.name, daemon.group
                    ),
                    "messages carry the address of another interface, and a backup may drop them",
                    "name an interface with an IPv4 address, or a group such as `ff02::51`",
                ));
            }
        }
    }
    findings
}

/// Valid values of a setting (Documentation/networking/ipvs-sysctl.rst; ip_vs_ctl.c). Some kernels
/// refuse other values, some restore the old value and report success.
fn range(item: VsItem) -> Option<RangeInclusive<i64>> {
    Some(match item {
        VsItem::BackupOnly
        | VsItem::CacheBypass
        | VsItem::Conntrack
        | VsItem::ExpireNodestConn
        | VsItem::ExpireQuiescentTemplate
        | VsItem::IgnoreTunneled
        | VsItem::NatIcmpSend
        | VsItem::PmtuDisc
        | VsItem::RunEstimation
        | VsItem::ScheduleIcmp
        | VsItem::SloppySctp
        | VsItem::SloppyTcp
        | VsItem::SnatReroute
        | VsItem::SyncPersistMode
        | VsItem::SyncVersion => 0..=1,
        VsItem::ConnReuseMode
        | VsItem::DropEntry
        | VsItem::DropPacket
        | VsItem::SecureTcp
        | VsItem::SyncRetries => 0..=3,
        VsItem::SyncPorts => 1..=64,
        VsItem::EstNice => -20..=19,
        VsItem::AmDroprate
        | VsItem::Amemthresh
        | VsItem::DebugLevel
        | VsItem::EstCpulist
        | VsItem::SyncQlenMax
        | VsItem::SyncRefreshPeriod
        | VsItem::SyncSockSize
        | VsItem::SyncThreshold => return None,
    })
}

/// A value outside the setting's range.
pub(super) fn setting_range(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, _) in directors(subject) {
        for (item, value) in &host.ipvs.settings {
            let Some(wanted) = range_error(*item, value) else { continue };
            findings.push(Finding::error(
                "setting-range",
                host.ipvs.settings_at.get(item).copied().unwrap_or(host.at),
                format!("net.ipv4.vs.{} cannot be {}", item.as_str(), value.replace('\t', " ")),
                "the kernel refuses it, silently restores the old value, or reads it as another value",
                wanted,
            ));
        }
    }
    findings
}

/// The cure for a value outside the range; `None` if the value is valid.
fn range_error(item: VsItem, value: &str) -> Option<String> {
    let number = value.parse::<i64>().ok();
    if item == VsItem::SyncPorts {
        let power = number.and_then(|n| u64::try_from(n).ok()).is_some_and(u64::is_power_of_two);
        if power && number.is_some_and(|n| n <= 64) {
            return None;
        }
        return Some("write a power of two, 1 to 64".to_owned());
    }
    if item == VsItem::SyncThreshold {
        let mut numbers = value.split('\t').map(|n| n.parse::<i64>().unwrap_or(-1));
        let (first, period) = (numbers.next()?, numbers.next()?);
        let fits = period == 0 || first < period;
        return (!fits)
            .then(|| "the first number must be below the second, unless that is 0".to_owned());
    }
    let range = range(item)?;
    if number.is_some_and(|number| range.contains(&number)) {
        return None;
    }
    Some(format!("write a number from {} to {}", range.start(), range.end()))
}

/// A setting that disables what a service needs.
pub(super) fn setting_contradicts(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, services) in directors(subject) {
        let off = |item: VsItem| host.ipvs.settings.get(&item).is_some_and(|value| value == "0");
        let mut add = |item: VsItem, service: &Service, why: &str| {
            findings.push(Finding::error(
                "setting-contradicts",
                host.ipvs.settings_at.get(&item).copied().unwrap_or(host.at),
                format!("{}=0 contradicts {}", item.as_str(), service.display_name()),
                why,
                format!("remove `{}`: lvsprov sets it for services that need it", item.as_str()),
            ));
        };
        for service in services {
            if service.uses(Forward::hides_client) && off(VsItem::Conntrack) {
                add(
                    VsItem::Conntrack,
                    service,
                    "fullnat rewrites the source by connection tracking: without it requests keep the client's address, and replies bypass the director",
                );
            }
            let drains = service.persistence.is_some()
                && service.real_servers.iter().any(|real| real.weight == 0);
            if drains && off(VsItem::ExpireQuiescentTemplate) {
                add(
                    VsItem::ExpireQuiescentTemplate,
                    service,
                    "persistent clients stay with the real server of weight 0: it never drains",
                );
            }
        }
    }
    findings
}

/// Settings without an effect in this topology.
pub(super) fn setting_without_effect(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, services) in directors(subject) {
        let runs = |role: DaemonRole| host.ipvs.daemons.contains_key(&role);
        let uses =
            |property: fn(Forward) -> bool| services.iter().any(|service| service.uses(property));
        for item in host.ipvs.settings.keys() {
            let lacks = match item {
                VsItem::BackupOnly if !runs(DaemonRole::Backup) => "sync daemon backup",
                VsItem::SyncThreshold
                | VsItem::SyncRefreshPeriod
                | VsItem::SyncRetries
                | VsItem::SyncPersistMode
                | VsItem::SyncVersion
                | VsItem::SyncQlenMax
                    if !runs(DaemonRole::Master) =>
                {
                    "sync daemon master"
                }
                VsItem::SyncPorts | VsItem::SyncSockSize if host.ipvs.daemons.is_empty() => {
                    "a sync daemon"
                }
                VsItem::PmtuDisc | VsItem::IgnoreTunneled if !uses(Forward::encapsulates) => {
                    "a real server with `forward: tun`"
                }
                VsItem::NatIcmpSend | VsItem::SnatReroute if !uses(Forward::rewrites) => {
                    "a service with nat or fullnat"
                }
                _ => continue,
            };
            findings.push(Finding::warning(
                "setting-without-effect",
                host.ipvs.settings_at.get(item).copied().unwrap_or(host.at),
                format!("{} needs {lacks}, and {} has none", item.as_str(), host.name),
                "lvsprov sets it, but it has no effect",
                "remove it, unless services outside this file need it",
            ));
        }
    }
    findings
}

/// Trap 20: consequences of FULLNAT on a stock kernel.
pub(super) fn fullnat(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|s| s.uses(Forward::hides_client)) {
        findings.push(Finding::note(
            "fullnat-hides-clients",
            service.at,
            format!("real servers of {} see the director's address, not the client's", service.display_name()),
            "their logs and access lists lose the client's address; each connection uses a source port of the director: at most 64,512 at once to one port of one real server",
            "if that matters, give the director more addresses, or pass the client's address in the application (PROXY protocol, X-Forwarded-For)",
        ));
    }
    findings
}

/// Trap 22: IPVS and conntrack both track a connection; the shorter timeout ends it.
pub(super) fn two_timeouts(subject: &Subject<'_>) -> Vec<Finding> {
    /// nf_conntrack_tcp_timeout_established by default, in seconds (nf_conntrack_proto_tcp.c).
    const ESTABLISHED: u32 = 432_000;
    let mut findings = Vec::new();
    for (host, services) in directors(subject) {
        let conntrack_on =
            host.ipvs.settings.get(&VsItem::Conntrack).is_some_and(|value| value == "1");
        let tracked = services.iter().find(|service| {
            let tcp = service.protocols().contains(&Protocol::Tcp);
            // IPVS tracks only connections that it rewrites (ip_vs_ctl.c, `__ip_vs_update_dest`).
            tcp && (service.uses(Forward::hides_client)
                || (conntrack_on && service.uses(Forward::rewrites)))
        });
        let Some(service) = tracked else { continue };
        let tcp = host.ipvs.timeouts.map_or(0, |timeouts| timeouts.tcp);
        if tcp == 0 {
            findings.push(Finding::note(
                "idle-connections",
                service.at,
                format!("idle connections to {} end after 15 minutes", service.display_name()),
                format!("IPVS forgets them after 900 s, connection tracking only after {ESTABLISHED} s"),
                "if clients keep idle connections, write `ipvs: {timeouts: {tcp: 7200}}`, or let clients send keepalives",
            ));
        } else if tcp > ESTABLISHED {
            findings.push(Finding::warning(
                "idle-connections",
                service.at,
                format!("IPVS remembers idle connections for {tcp} s, connection tracking for {ESTABLISHED} s"),
                "after that, packets of the real server do not reach the client until the client sends one; if its source port is taken by then, the connection is reset",
                format!("write `tcp: {ESTABLISHED}` or less, or raise net.netfilter.nf_conntrack_tcp_timeout_established yourself"),
            ));
        }
    }
    findings
}
