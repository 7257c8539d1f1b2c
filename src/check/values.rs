//! Rules about values of a service that the kernel refuses, ignores or reads as another value.
//! docs/kernel-facts.md has the measured behaviour.

use std::collections::BTreeSet;

use super::Subject;
use crate::finding::{Finding, Position};
use crate::state::Protocol;
use crate::topology::{Engine, Scheduler, SchedulerFlag, Service};

/// Position for findings about a whole service.
fn place(service: &Service) -> Position {
    service.vip.as_ref().map_or(service.at, |vip| vip.at)
}

/// A lower threshold above the upper one (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_add_dest`). The kernel
/// compares before it reads an upper threshold of 0 as "no limit".
pub(super) fn thresholds(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        for real in &service.real_servers {
            let (lower, upper) = (real.lower_threshold, real.upper_threshold);
            if lower <= upper {
                continue;
            }
            let (message, cure) = if upper == 0 {
                (
                    format!("{} has a lower threshold, but no upper one", real.host),
                    format!(
                        "add `upper_threshold:` with more than {lower}, or remove the lower one"
                    ),
                )
            } else {
                (
                    format!("{}: the lower threshold {lower} is above the upper one, {upper}", real.host),
                    "exchange them: IPVS stops sending new connections at `upper_threshold`, and starts again below `lower_threshold`".to_owned(),
                )
            };
            findings.push(Finding::error(
                "thresholds",
                real.at,
                message,
                "the kernel refuses such a real server (ERANGE)",
                cure,
            ));
        }
    }
    findings
}

/// Only UDP has one-packet scheduling (ip_vs_core.c, `ip_vs_schedule`). Persistence takes precedence
/// (`ip_vs_sched_persist`): by the client's address, or with the engine sip by the call, which is what one-packet scheduling is
/// for there. A one-packet connection is not hashed (ip_vs_conn.c, `ip_vs_conn_hash`), so
/// the director does not find it for the reply.
pub(super) fn one_packet(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| service.one_packet) {
        let other: Vec<String> = service
            .protocols()
            .iter()
            .filter(|protocol| **protocol != Protocol::Udp)
            .map(ToString::to_string)
            .collect();
        if !other.is_empty() {
            findings.push(Finding::error(
                "one-packet",
                place(service),
                format!("{} has `one_packet`, but its protocol is {}", service.display_name(), other.join(" and ")),
                "one-packet scheduling works for UDP only: the kernel ignores the flag for other protocols",
                "write `protocol: udp`, or remove `one_packet`",
            ));
        } else if service.persistence.is_some() && !uses_sip(service) {
            findings.push(Finding::warning(
                "one-packet-persistent",
                place(service),
                format!("{} has both `one_packet` and `persistence`", service.display_name()),
                "persistence takes precedence: all packets of a client go to the same real server",
                "remove one of them",
            ));
        }
        if let Some(real) = service.real_servers.iter().find(|real| real.forward.rewrites()) {
            findings.push(Finding::warning(
                "one-packet-nat",
                real.at,
                format!("{} has `one_packet`, but {} uses {}", service.display_name(), real.host, real.forward),
                "the director keeps no connection, so it does not restore the VIP as the source of replies: clients do not accept them",
                "use `forward: dr` or `tun`, or remove `one_packet`, unless the protocol has no replies",
            ));
        }
    }
    findings
}

/// A service for every port needs persistence (ip_vs_core.c: "port zero only supported in persistent services").
pub(super) fn port_any(subject: &Subject<'_>) -> Vec<Finding> {
    let any = |s: &&Service| s.mark.is_none() && s.port == 0 && s.persistence.is_none();
    let services = subject.topology.services.iter().filter(any);
    services
        .map(|service| {
            Finding::error(
                "port-any",
                place(service),
                format!("{} has `port: any`, but no `persistence`", service.display_name()),
                "the kernel schedules a service for every port only with persistence: without it no packet is forwarded",
                "add `persistence: 300`, or name the ports",
            )
        })
        .collect()
}

/// The engine sip finds a Call-ID in UDP packets only (ip_vs_pe_sip.c, `ip_vs_sip_fill_param`), and IPVS drops a packet for
/// which the engine finds none (ip_vs_core.c, `ip_vs_sched_persist`).
pub(super) fn engine(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| uses_sip(service)) {
        let other: Vec<String> = service
            .protocols()
            .iter()
            .filter(|protocol| **protocol != Protocol::Udp)
            .map(ToString::to_string)
            .collect();
        if other.is_empty() {
            continue;
        }
        findings.push(Finding::error(
            "engine-without-udp",
            place(service),
            format!("{} has the engine sip, but its protocol is {}", service.display_name(), other.join(" and ")),
            "the engine finds a Call-ID in UDP packets only, and IPVS drops packets without one: clients time out",
            "write `protocol: udp`, or remove `engine`",
        ));
    }
    findings
}

fn uses_sip(service: &Service) -> bool {
    service.persistence.and_then(|persistence| persistence.engine) == Some(Engine::Sip)
}

/// Flags that the service's scheduler does not read. Only sh and mh read flags (ip_vs_sh.c, ip_vs_mh.c).
pub(super) fn scheduler_flags(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let scheduler = service.scheduler;
        let reads = matches!(scheduler, Scheduler::Sh | Scheduler::Mh);
        for flag in &service.scheduler_flags {
            match flag.of() {
                Some(of) if of == scheduler => {}
                Some(of) => findings.push(Finding::error(
                    "flag-of-other-scheduler",
                    place(service),
                    format!("{flag} is a flag of {of}, but {} uses {scheduler}", service.display_name()),
                    "the scheduler ignores the flag, or reads it as its own flag of the same number",
                    other_flag(*flag, scheduler),
                )),
                None if reads && *flag != SchedulerFlag::Flag3 => {}
                None => findings.push(Finding::warning(
                    "flag-ignored",
                    place(service),
                    format!("{scheduler} does not read {flag}"),
                    "the kernel stores the flag, but it has no effect",
                    "remove it, unless a scheduler of a patched kernel reads it",
                )),
            }
        }
    }
    findings
}

/// The cure for a flag of another scheduler: the own flag with the same bit, if any.
fn other_flag(flag: SchedulerFlag, scheduler: Scheduler) -> String {
    let mut same = SchedulerFlag::ALL.iter().filter(|other| other.of() == Some(scheduler));
    match (same.find(|other| other.bit() == flag.bit()), flag.of()) {
        (Some(own), _) => format!("write `{own}`"),
        (None, Some(of)) => format!("remove it, or use `scheduler: {of}`"),
        (None, None) => "remove it".to_owned(),
    }
}

/// Trap 36: without their fallback flag, sh and mh refuse clients whose hashed real server is
/// unavailable (ip_vs_sh.c, ip_vs_mh.c: `is_unavailable`).
pub(super) fn hash_without_fallback(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let flag = match service.scheduler {
            Scheduler::Sh => SchedulerFlag::ShFallback,
            Scheduler::Mh => SchedulerFlag::MhFallback,
            _ => continue,
        };
        let falls_back = service.scheduler_flags.iter().any(|set| set.bit() == flag.bit());
        if falls_back || service.real_servers.len() < 2 {
            continue;
        }
        findings.push(Finding::warning(
            "hash-without-fallback",
            service.at,
            format!("the scheduler {} has no fallback flag", service.scheduler),
            "IPVS refuses clients whose real server has weight 0 or is at its threshold, instead of choosing another one",
            format!("add `scheduler_flags: [{flag}]`; also {} to spread clients behind one address", port_flag(service.scheduler)),
        ));
    }
    findings
}

/// dh, lblc and lblcr choose by the destination address (ip_vs_dh.c, ip_vs_lblc.c): a service with one VIP has one.
pub(super) fn one_destination(subject: &Subject<'_>) -> Vec<Finding> {
    let by_destination = [Scheduler::Dh, Scheduler::Lblc, Scheduler::Lblcr];
    let usable = |service: &Service| service.real_servers.iter().filter(|it| it.weight > 0).count();
    let services = subject.topology.services.iter().filter(|service| {
        by_destination.contains(&service.scheduler) && service.vip.is_some() && usable(service) > 1
    });
    services
        .map(|service| {
            Finding::warning(
                "one-destination",
                service.at,
                format!("the scheduler {} sends everything to one real server", service.scheduler),
                "it chooses by the destination address, and all requests have the same: the VIP; it is made for caches in front of many servers",
                "write `scheduler: wlc`, or `sh` or `mh` to keep clients at their real server",
            )
        })
        .collect()
}

/// FTP opens its data connections to ports that it says in the control connection. IPVS follows that (ip_vs_ftp) only
/// where it rewrites addresses. A persistent service of port 21 takes a client's connections to unprivileged ports of
/// the VIP too (ip_vs_ctl.c, `ip_vs_service_find`); without persistence they end at the director (ip_vs_core.c,
/// `ip_vs_leave`).
pub(super) fn ftp_data(subject: &Subject<'_>) -> Vec<Finding> {
    let control = |service: &&Service| {
        let takes_data = service.mark.is_none() && service.persistence.is_some();
        service.protocols().contains(&Protocol::Tcp)
            && service.ports() == BTreeSet::from([21])
            && !takes_data
    };
    let services = subject.topology.services.iter().filter(control);
    services
        .filter_map(|service| {
            let real = service.real_servers.iter().find(|real| !real.forward.rewrites())?;
            Some(Finding::warning(
                "ftp-data",
                real.at,
                format!("{} is FTP under {}, and takes port 21 only", service.display_name(), real.forward),
                "a passive transfer is a second connection to another port of the VIP, which no real server gets: logins work, transfers fail",
                "add `persistence: 300`: then port 21 takes a client's data connections too; or use `forward: nat`, or a persistent `mark` for port 21 and the passive range",
            ))
        })
        .collect()
}

fn port_flag(scheduler: Scheduler) -> SchedulerFlag {
    match scheduler {
        Scheduler::Mh => SchedulerFlag::MhPort,
        _ => SchedulerFlag::ShPort,
    }
}

/// Trap 32: a real server of another address family than the VIP needs a tunnel (ip_vs_ctl.c,
/// `__ip_vs_update_dest`), and sync messages cannot describe it.
pub(super) fn mixed_families(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let director = subject.host(&service.director);
        let role = director.and_then(|host| host.ipvs.daemons.keys().next());
        for real in service.real_servers.iter().filter(|r| r.rip.is_ipv6() != service.ipv6) {
            let family = |v6: bool| if v6 { "IPv6" } else { "IPv4" };
            let message = format!(
                "{} has the address {}, but {} is an {} service",
                real.host,
                real.rip,
                service.display_name(),
                family(service.ipv6)
            );
            if !real.forward.encapsulates() {
                findings.push(Finding::error(
                    "mixed-families",
                    real.at,
                    message,
                    format!("under {} a packet keeps its address family; the kernel refuses such a real server (EINVAL)", real.forward),
                    format!("give {} an {} address in a subnet of the director, or use `forward: tun`", real.host, family(service.ipv6)),
                ));
            } else if let Some(role) = role {
                findings.push(Finding::error(
                    "mixed-families-and-sync",
                    real.at,
                    format!("{message}, and {} runs sync daemon {role}", service.director),
                    "a sync message has one address family: the kernel refuses mixed families together with a sync daemon (EINVAL)",
                    format!("remove `sync`, or give {} an {} address", real.host, family(service.ipv6)),
                ));
            }
        }
    }
    findings
}
