//! Rules about values of a service that the kernel would refuse, ignore, or take for something else.
//! What it does with each was asked of a kernel: the table in docs/kernel-facts.md.

use super::Subject;
use crate::finding::{Finding, Position};
use crate::state::Protocol;
use crate::topology::{Engine, Forward, Scheduler, SchedulerFlag, Service};

/// Every transport protocol that packets of `service` have.
fn protocols(service: &Service) -> Vec<Protocol> {
    match &service.mark {
        Some(mark) => mark.protocols.iter().copied().collect(),
        None => vec![service.protocol],
    }
}

/// Where a service has something wrong that concerns all of it.
fn place(service: &Service) -> Position {
    service.vip.as_ref().map_or(service.at, |vip| vip.at)
}

/// A lower limit above the upper one (net/netfilter/ipvs/ip_vs_ctl.c, `ip_vs_add_dest`). That holds
/// too where there is no upper one: its 0 means "no limit" only later.
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
                    format!("{} has a lower threshold and no upper one", real.host),
                    format!(
                        "add `upper_threshold:` with more than {lower}, or remove the lower one"
                    ),
                )
            } else {
                (
                    format!("{}: the lower threshold {lower} is above the upper one, {upper}", real.host),
                    "exchange them: from `upper_threshold` connections on no new one is given, below `lower_threshold` again".to_owned(),
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

/// Only UDP is scheduled packet by packet (ip_vs_core.c, `ip_vs_schedule`); persistence goes first
/// (`ip_vs_sched_persist`); and a connection that is not remembered (ip_vs_conn.c, `ip_vs_conn_hash`)
/// is not found when the reply passes.
pub(super) fn one_packet(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in subject.topology.services.iter().filter(|service| service.one_packet) {
        let other: Vec<String> = protocols(service)
            .iter()
            .filter(|protocol| **protocol != Protocol::Udp)
            .map(ToString::to_string)
            .collect();
        if !other.is_empty() {
            findings.push(Finding::error(
                "one-packet",
                place(service),
                format!("{} has `one_packet` and takes {}", service.spoken(), other.join(" and ")),
                "only UDP is scheduled packet by packet: the kernel accepts the flag elsewhere and ignores it",
                "write `protocol: udp`, or remove `one_packet`",
            ));
        } else if service.persistence.is_some() {
            findings.push(Finding::warning(
                "one-packet-persistent",
                place(service),
                format!("{} has both `one_packet` and `persistence`", service.spoken()),
                "persistence goes first: every packet of a client goes to the same real server after all",
                "remove one of them",
            ));
        }
        if let Some(real) = service.real_servers.iter().find(|real| real.forward.rewrites()) {
            findings.push(Finding::warning(
                "one-packet-nat",
                real.at,
                format!("{} has `one_packet`, and {} is reached by {}", service.spoken(), real.host, real.forward),
                "the director remembers no connection, so it does not turn a reply's source back into the VIP: clients that wait for an answer from the VIP get none",
                "use `forward: dr` or `tun`, or remove `one_packet`, unless nobody answers these datagrams",
            ));
        }
    }
    findings
}

/// Every port is scheduled by templates only ("port zero only supported in persistent services").
pub(super) fn port_any(subject: &Subject<'_>) -> Vec<Finding> {
    let any = |s: &&Service| s.mark.is_none() && s.port == 0 && s.persistence.is_none();
    let services = subject.topology.services.iter().filter(any);
    services
        .map(|service| {
            Finding::error(
                "port-any",
                place(service),
                format!("{} has `port: any` and no `persistence`", service.spoken()),
                "the kernel schedules a service of every port only if a client stays with its real server: without, no packet is passed on",
                "add `persistence: 300`, or name the ports",
            )
        })
        .collect()
}

/// The sip engine reads UDP only (ip_vs_pe_sip.c, `ip_vs_sip_fill_param`).
pub(super) fn engine(subject: &Subject<'_>) -> Vec<Finding> {
    let useless = |s: &&Service| {
        let engine = s.persistence.and_then(|persistence| persistence.engine);
        engine == Some(Engine::Sip) && !protocols(s).contains(&Protocol::Udp)
    };
    let services = subject.topology.services.iter().filter(useless);
    services
        .map(|service| {
            Finding::error(
                "engine-without-udp",
                place(service),
                format!("{} has the engine sip and takes no UDP", service.spoken()),
                "the engine looks for the Call-ID in UDP packets only: the kernel accepts it elsewhere, and clients stay by their address",
                "write `protocol: udp`, or remove `engine`",
            )
        })
        .collect()
}

/// Flags that the service's scheduler does not read. Only sh and mh read any (ip_vs_sh.c, ip_vs_mh.c).
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
                    format!("{flag} is a flag of {of}, and {} uses {scheduler}", service.spoken()),
                    "the kernel accepts the flag and the scheduler ignores it, or takes it for its own flag of that number",
                    other_flag(*flag, scheduler),
                )),
                None if reads && *flag != SchedulerFlag::Flag3 => {}
                None => findings.push(Finding::warning(
                    "flag-ignored",
                    place(service),
                    format!("{scheduler} does not read {flag}"),
                    "the kernel keeps the flag, and nothing comes of it",
                    "remove it, unless a scheduler of your own kernel reads it",
                )),
            }
        }
    }
    findings
}

/// What the user of another scheduler's flag probably wants.
fn other_flag(flag: SchedulerFlag, scheduler: Scheduler) -> String {
    let mut same = SchedulerFlag::ALL.iter().filter(|other| other.of() == Some(scheduler));
    match (same.find(|other| other.bit() == flag.bit()), flag.of()) {
        (Some(own), _) => format!("write `{own}`"),
        (None, Some(of)) => format!("remove it, or use `scheduler: {of}`"),
        (None, None) => "remove it".to_owned(),
    }
}

/// Trap 36: without its fallback flag, sh and mh go on choosing a real server that is out, and refuse
/// those of its clients (ip_vs_sh.c, ip_vs_mh.c: `is_unavailable`).
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
            format!("{} runs without its fallback flag", service.scheduler),
            "clients of a real server that has weight 0 or is at its threshold are refused instead of going to another one",
            format!("add `scheduler_flags: [{flag}]`; and {} if clients behind one address are to be told apart", port_flag(service.scheduler)),
        ));
    }
    findings
}

fn port_flag(scheduler: Scheduler) -> SchedulerFlag {
    match scheduler {
        Scheduler::Mh => SchedulerFlag::MhPort,
        _ => SchedulerFlag::ShPort,
    }
}

/// Trap 32: a real server of the other family than the VIP is reached through tunnels only
/// (ip_vs_ctl.c, `__ip_vs_update_dest`), and sync messages cannot tell of it.
pub(super) fn mixed_families(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &subject.topology.services {
        let director = subject.host(&service.director);
        let role = director.and_then(|host| host.ipvs.daemons.keys().next());
        for real in service.real_servers.iter().filter(|r| r.rip.is_ipv6() != service.ipv6) {
            let family = |v6: bool| if v6 { "IPv6" } else { "IPv4" };
            let message = format!(
                "{} is reached at {}, and {} is an {} service",
                real.host,
                real.rip,
                service.spoken(),
                family(service.ipv6)
            );
            if real.forward != Forward::Tun {
                findings.push(Finding::error(
                    "mixed-families",
                    real.at,
                    message,
                    format!("under {} a packet keeps its family; the kernel refuses such a real server (EINVAL)", real.forward),
                    format!("give {} an {} address next to the director, or use `forward: tun`", real.host, family(service.ipv6)),
                ));
            } else if let Some(role) = role {
                findings.push(Finding::error(
                    "mixed-families-and-sync",
                    real.at,
                    format!("{message}, while sync daemon {role} is to run on {}", service.director),
                    "sync messages have room for one family: the kernel refuses the one while the other is there (EINVAL)",
                    format!("remove `sync`, or give {} an {} address", real.host, family(service.ipv6)),
                ));
            }
        }
    }
    findings
}
