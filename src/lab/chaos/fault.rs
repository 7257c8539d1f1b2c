//! What can be killed in a cluster, what a chaos run kills, and in which order. Pure: `cluster` kills, `pairs` has the
//! worst pairs.

use std::collections::BTreeSet;
use std::fmt;

use super::pairs;
use crate::lab::responders::Endpoint;
use crate::lab::targets;
use crate::names::{HostName, IfName};
use crate::state::DaemonRole;
use crate::topology::{Promise, PromisedPart, Role, Service, Topology, listed};

/// A part of a cluster that can be killed alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterPart {
    /// A host: its power is cut.
    Host(HostName),
    /// An application: the lab's responder at one port of a real server.
    Process(Endpoint),
    /// The kernel's daemon that sends or receives connections.
    SyncDaemon {
        /// Its host.
        host: HostName,
        /// Whether it sends or receives connections.
        role: DaemonRole,
    },
    /// The process that carries out the checks of the file on a director.
    HealthChecker(HostName),
    /// The cable of an interface.
    Link {
        /// The host.
        host: HostName,
        /// Its interface.
        interface: IfName,
    },
}

impl ClusterPart {
    /// The host that has it, or that it is.
    pub fn host(&self) -> &HostName {
        match self {
            Self::Host(host)
            | Self::SyncDaemon { host, .. }
            | Self::HealthChecker(host)
            | Self::Link { host, .. } => host,
            Self::Process(endpoint) => &endpoint.host,
        }
    }
}

impl fmt::Display for ClusterPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host {host}"),
            Self::Process(endpoint) => write!(f, "process at {endpoint}"),
            Self::SyncDaemon { host, role } => write!(f, "sync daemon {role} of {host}"),
            Self::HealthChecker(host) => write!(f, "health checker of {host}"),
            Self::Link { host, interface } => write!(f, "link {interface} of {host}"),
        }
    }
}

/// The kind of a fault: one of these words chooses it on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// One host loses its power.
    Host,
    /// One application ends.
    Process,
    /// One daemon ends.
    Daemon,
    /// One cable is cut.
    Link,
    /// Two hosts lose their power at once.
    Pair,
}

impl FaultKind {
    /// All kinds, in the order in which they are tried.
    pub const ALL: [Self; 5] = [Self::Host, Self::Process, Self::Daemon, Self::Link, Self::Pair];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Process => "process",
            Self::Daemon => "daemon",
            Self::Link => "link",
            Self::Pair => "pair",
        }
    }
}

/// What dies at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One part, or the two hosts of a pair.
    pub parts: Vec<ClusterPart>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts.as_slice() {
            [one] => one.fmt(f),
            several => {
                let names: Vec<&str> = several.iter().map(|part| part.host().as_str()).collect();
                write!(f, "hosts {}", names.join(" and "))
            }
        }
    }
}

impl Fault {
    /// Its kind.
    pub fn kind(&self) -> FaultKind {
        match self.parts.as_slice() {
            [ClusterPart::Host(_)] => FaultKind::Host,
            [ClusterPart::Process(_)] => FaultKind::Process,
            [ClusterPart::SyncDaemon { .. } | ClusterPart::HealthChecker(_)] => FaultKind::Daemon,
            [ClusterPart::Link { .. }] => FaultKind::Link,
            _ => FaultKind::Pair,
        }
    }

    /// Whether `host` loses its power.
    pub fn kills_host(&self, host: &HostName) -> bool {
        self.parts.iter().any(|part| matches!(part, ClusterPart::Host(dead) if dead == host))
    }

    /// Whether requests of the client `host` are lost by its own death, or by that of its own cable: no promise about the
    /// cluster covers them.
    pub fn concerns_client(&self, host: &HostName) -> bool {
        self.kills_host(host)
            || self
                .parts
                .iter()
                .any(|part| matches!(part, ClusterPart::Link { host: cut, .. } if cut == host))
    }

    /// Whether a connection of `client` to `service`, on which the real server `server` answers, ends in a dead part.
    pub fn ends_connection(&self, client: &HostName, service: &Service, server: &str) -> bool {
        let answers_at = |endpoint: &Endpoint| {
            let servers = service.real_servers.iter().filter(|it| it.host == endpoint.host);
            let mut targets = servers.flat_map(|it| targets::of_server(service, it));
            targets.any(|it| it.protocol == endpoint.protocol && it.at.port() == endpoint.port)
        };
        self.parts.iter().any(|part| match part {
            ClusterPart::Host(host) => host == client || host.as_str() == server,
            ClusterPart::Process(endpoint) => {
                endpoint.host.as_str() == server && answers_at(endpoint)
            }
            ClusterPart::SyncDaemon { .. }
            | ClusterPart::HealthChecker(_)
            | ClusterPart::Link { .. } => false,
        })
    }

    /// The parts of `promise` that are about it, each with its seconds.
    pub fn promised(&self, topology: &Topology, promise: &Promise) -> Vec<(PromisedPart, u32)> {
        let kinds: BTreeSet<PromisedPart> = match self.parts.as_slice() {
            [part] => promised_parts(topology, part),
            _ => BTreeSet::from([PromisedPart::Pair]),
        };
        let with_time = |part| Some((part, *promise.answered_within_s.get(&part)?));
        kinds.into_iter().filter_map(with_time).collect()
    }
}

fn promised_parts(topology: &Topology, part: &ClusterPart) -> BTreeSet<PromisedPart> {
    let roles = topology.hosts.get(part.host()).map(|host| host.roles.clone()).unwrap_or_default();
    match part {
        ClusterPart::Host(_) => {
            let of_role = |role| match role {
                Role::Client => None,
                Role::Router => Some(PromisedPart::Router),
                Role::Director => Some(PromisedPart::Director),
                Role::RealServer => Some(PromisedPart::RealServer),
            };
            roles.into_iter().filter_map(of_role).collect()
        }
        ClusterPart::Process(_) => BTreeSet::from([PromisedPart::Process]),
        ClusterPart::SyncDaemon { .. } | ClusterPart::HealthChecker(_) => {
            BTreeSet::from([PromisedPart::Daemon])
        }
        ClusterPart::Link { .. } if roles == BTreeSet::from([Role::Client]) => BTreeSet::new(),
        ClusterPart::Link { .. } => BTreeSet::from([PromisedPart::Link]),
    }
}

/// Which pairs of hosts are killed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PairChoice {
    /// The two largest real servers of each service, its director with the largest, every two directors, every two routers.
    Worst,
    /// Every two hosts that are no clients.
    All,
    /// No pairs.
    None,
}

/// One word of `--only`: `KIND`, `HOST` or `KIND:HOST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultFilter {
    /// Only faults of this kind.
    kind: Option<FaultKind>,
    /// Only faults in which a part of this host dies, or the host itself.
    host: Option<HostName>,
}

/// A word of `--only` that is neither a kind nor a host of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--only {word}: that is no kind of fault, no host of the file, and no KIND:HOST; kinds: {}; hosts: {}",
    listed(FaultKind::ALL.iter().map(|kind| kind.as_str())),
    listed(.hosts)
)]
pub struct UnknownFault {
    word: String,
    hosts: Vec<HostName>,
}

impl FaultFilter {
    /// Reads `word`. A kind comes before a host of the same name.
    ///
    /// # Errors
    /// If it is neither a kind nor a host of `topology`.
    pub fn read(word: &str, topology: &Topology) -> Result<Self, UnknownFault> {
        let kind_of = |word: &str| FaultKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        let host_of = |word: &str| topology.hosts.keys().find(|it| it.as_str() == word).cloned();
        let read = match word.split_once(':') {
            Some((kind, host)) => (kind_of(kind), host_of(host)),
            None => match kind_of(word) {
                Some(kind) => return Ok(Self { kind: Some(kind), host: None }),
                None => (None, host_of(word)),
            },
        };
        match read {
            (None, Some(_)) if word.contains(':') => Err(Self::unknown(word, topology)),
            (kind, Some(host)) => Ok(Self { kind, host: Some(host) }),
            (_, None) => Err(Self::unknown(word, topology)),
        }
    }

    fn unknown(word: &str, topology: &Topology) -> UnknownFault {
        UnknownFault { word: word.to_owned(), hosts: topology.hosts.keys().cloned().collect() }
    }

    fn has(&self, fault: &Fault) -> bool {
        self.kind.is_none_or(|kind| fault.kind() == kind)
            && self
                .host
                .as_ref()
                .is_none_or(|host| fault.parts.iter().any(|part| part.host() == host))
    }
}

/// The faults of a run, in their order: hosts, processes, daemons, links, pairs, each sorted by name. `only` is empty: all.
pub fn schedule(topology: &Topology, only: &[FaultFilter], pairs: PairChoice) -> Vec<Fault> {
    let hosts = topology.hosts.keys().cloned().map(ClusterPart::Host);
    let processes = applications(topology).into_iter().map(ClusterPart::Process);
    let daemons = topology.hosts.values().flat_map(|host| {
        let roles = host.ipvs.daemons.keys().filter(|_| host.roles.contains(&Role::Director));
        roles.map(|role| ClusterPart::SyncDaemon { host: host.name.clone(), role: *role })
    });
    let checkers =
        topology.checking_directors().into_iter().cloned().map(ClusterPart::HealthChecker);
    let links = topology.hosts.values().flat_map(|host| {
        let plugged = host.interfaces.values().filter(|it| it.network.is_some());
        plugged.map(|it| ClusterPart::Link { host: host.name.clone(), interface: it.name.clone() })
    });
    let single = hosts.chain(processes).chain(daemons).chain(checkers).chain(links);
    let single = single.map(|part| Fault { parts: vec![part] });
    let pairs = match pairs {
        PairChoice::Worst => pairs::worst(topology),
        PairChoice::All => pairs::all(topology),
        PairChoice::None => BTreeSet::new(),
    };
    let pairs = pairs.into_iter().map(|(one, other)| Fault {
        parts: vec![ClusterPart::Host(one), ClusterPart::Host(other)],
    });
    let chosen = |fault: &Fault| only.is_empty() || only.iter().any(|filter| filter.has(fault));
    single.chain(pairs).filter(chosen).collect()
}

/// The ports of real servers at which applications answer a service. Unlike [`targets::endpoints`] without the ports that
/// only the lab's comparison with unmarked packets needs.
fn applications(topology: &Topology) -> BTreeSet<Endpoint> {
    let mut all = BTreeSet::new();
    for service in topology.services.iter().filter(|service| service.vip.is_some()) {
        for server in &service.real_servers {
            for target in targets::of_server(service, server) {
                let (protocol, port) = (target.protocol, target.at.port());
                all.insert(Endpoint { host: server.host.clone(), protocol, port });
            }
        }
    }
    all
}
