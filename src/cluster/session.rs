//! The connections to all hosts of a topology, and asking all of them at once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::desired::{Desired, desired_for};
use crate::plan::ownership::sysctls_to_read;
use crate::protocol::{Failure, Reply, Request, Sighting};
use crate::topology::{HostName, Reach, Topology};
use crate::transport::{Connection, Options, TransportError};

/// How a topology's hosts are reached in this run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// For every transport.
    pub transport: Options,
    /// Instead of what the file says, for hosts that are named here (the lab's namespaces).
    pub reach: BTreeMap<HostName, Reach>,
    /// Only these; all if it is empty.
    pub limit: BTreeSet<HostName>,
}

/// Why a host is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// The file does not say how.
    Unmanaged,
    /// `--limit` leaves it out.
    LeftOut,
    /// It could not be reached, or went away.
    Unreachable(Failure),
}

/// A host that was asked and gave no answer to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It said why not; this request changed nothing on it.
    Refused(Failure),
    /// It went away in the midst: what it had done by then is not known.
    Lost(Failure),
}

impl NoAnswer {
    /// Why, for a report.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Refused(failure) | Self::Lost(failure) => failure,
        }
    }
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(failure) | Self::Lost(failure) => failure.fmt(f),
        }
    }
}

/// What hosts are busy with while they are awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Logging in and starting the agent.
    Connecting,
    /// Reading the host.
    Looking,
    /// Changing the host.
    Acting,
    /// Trying the network: ARP, requests.
    Trying,
}

impl Phase {
    fn of(request: &Request) -> Self {
        match request {
            Request::Look { .. } => Self::Looking,
            Request::Act { .. }
            | Request::Begin(_)
            | Request::TakeUp { .. }
            | Request::Do { .. }
            | Request::Agree { .. }
            | Request::Settle { .. } => Self::Acting,
            Request::WhoHas { .. } | Request::Fetch { .. } => Self::Trying,
        }
    }
}

/// Hears who is awaited, for a person who waits too.
pub trait Watch: Sync {
    /// These hosts have not answered yet; called again whenever one has, at last with none.
    fn awaited(&self, phase: Phase, hosts: &BTreeSet<HostName>);
}

/// Nobody waits.
struct Unwatched;

impl Watch for Unwatched {
    fn awaited(&self, _: Phase, _: &BTreeSet<HostName>) {}
}

/// A topology and the hosts that answer.
pub struct Session<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// What each host must look like.
    pub desired: BTreeMap<HostName, Desired>,
    connections: BTreeMap<HostName, Connection>,
    absent: BTreeMap<HostName, Absent>,
    watch: &'a dyn Watch,
}

impl<'a> Session<'a> {
    /// Connects to every host at once. Hosts that cannot be reached are remembered as absent.
    pub async fn open(topology: &'a Topology, settings: &Settings) -> Session<'a> {
        Self::watched(topology, settings, &Unwatched).await
    }

    /// The same with somebody who hears which hosts are still awaited.
    pub async fn watched(
        topology: &'a Topology,
        settings: &Settings,
        watch: &'a dyn Watch,
    ) -> Session<'a> {
        let mut session = Session {
            watch,
            topology,
            desired: BTreeMap::new(),
            connections: BTreeMap::new(),
            absent: BTreeMap::new(),
        };
        let mut opening = FuturesUnordered::new();
        let mut awaited = BTreeSet::new();
        for host in topology.hosts.values() {
            session.desired.insert(host.name.clone(), desired_for(topology, host));
            if !settings.limit.is_empty() && !settings.limit.contains(&host.name) {
                session.absent.insert(host.name.clone(), Absent::LeftOut);
                continue;
            }
            let reach = settings.reach.get(&host.name).or(host.reach.as_ref()).cloned();
            let Some(reach) = reach else {
                session.absent.insert(host.name.clone(), Absent::Unmanaged);
                continue;
            };
            let name = host.name.clone();
            awaited.insert(name.clone());
            opening.push(async move {
                let connection = Connection::open(&name, &reach, &settings.transport).await;
                (name, connection)
            });
        }
        watch.awaited(Phase::Connecting, &awaited);
        while let Some((name, connection)) = opening.next().await {
            awaited.remove(&name);
            watch.awaited(Phase::Connecting, &awaited);
            match connection {
                Ok(connection) => {
                    session.connections.insert(name, connection);
                }
                Err(error) => session.lose(name, &error),
            }
        }
        session
    }

    fn lose(&mut self, name: HostName, error: &TransportError) {
        self.absent.insert(name, Absent::Unreachable(Failure::from(error)));
    }

    /// Hosts that are not asked, and why.
    pub fn absent(&self) -> &BTreeMap<HostName, Absent> {
        &self.absent
    }

    /// Asks every host in `requests` at once. A host that goes away becomes absent; one that is
    /// absent already is not among the answers.
    pub async fn ask(
        &mut self,
        requests: BTreeMap<HostName, Request>,
    ) -> BTreeMap<HostName, Result<Reply, NoAnswer>> {
        let Some(phase) = requests.values().next().map(Phase::of) else { return BTreeMap::new() };
        let mut asking = FuturesUnordered::new();
        let mut awaited = BTreeSet::new();
        for (name, request) in requests {
            if let Some(connection) = self.connections.remove(&name) {
                awaited.insert(name.clone());
                asking.push(ask_one(name, connection, request));
            }
        }
        let mut answers = BTreeMap::new();
        let mut lost = Vec::new();
        self.watch.awaited(phase, &awaited);
        while let Some((name, connection, reply)) = asking.next().await {
            awaited.remove(&name);
            self.watch.awaited(phase, &awaited);
            match reply {
                Ok(Reply::Refused(failure)) => {
                    self.connections.insert(name.clone(), connection);
                    answers.insert(name, Err(NoAnswer::Refused(failure)));
                }
                Ok(reply) => {
                    self.connections.insert(name.clone(), connection);
                    answers.insert(name, Ok(reply));
                }
                Err(error) => {
                    answers.insert(name.clone(), Err(NoAnswer::Lost(Failure::from(&error))));
                    lost.push((name, error));
                }
            }
        }
        drop(asking);
        for (name, error) in lost {
            self.lose(name, &error);
        }
        answers
    }

    /// Looks at every host that can be reached.
    pub async fn look(&mut self, counters: bool) -> BTreeMap<HostName, Result<Sighting, Failure>> {
        let requests = self
            .connections
            .keys()
            .map(|name| {
                let sysctls = self
                    .desired
                    .get(name)
                    .map(|desired| sysctls_to_read(&desired.state))
                    .unwrap_or_default();
                let topology = self.topology.name.clone();
                (name.clone(), Request::Look { topology, sysctls, counters })
            })
            .collect();
        let answers = self.ask(requests).await;
        let seen = answers.into_iter().map(|(name, answer)| {
            let sighting = answer.map_err(NoAnswer::into_failure).and_then(|reply| match reply {
                Reply::Seen(sighting) => Ok(*sighting),
                other => Err(unexpected(&other)),
            });
            (name, sighting)
        });
        seen.collect()
    }

    /// Lets go of all hosts.
    pub async fn close(self) {
        let closing: FuturesUnordered<_> =
            self.connections.into_values().map(Connection::close).collect();
        closing.collect::<Vec<_>>().await;
    }
}

async fn ask_one(
    name: HostName,
    mut connection: Connection,
    request: Request,
) -> (HostName, Connection, Result<Reply, TransportError>) {
    let reply = connection.call(request).await;
    (name, connection, reply)
}

/// An answer that does not fit the question.
pub fn unexpected(reply: &Reply) -> Failure {
    let kind = match reply {
        Reply::Seen(_) => "seen",
        Reply::Done(_) => "done",
        Reply::Begun => "begun",
        Reply::Busy(_) => "busy",
        Reply::Moved(_) => "moved",
        Reply::Agreed => "agreed",
        Reply::Settled => "settled",
        Reply::Answered(_) => "answered",
        Reply::Fetched(_) => "fetched",
        Reply::Refused(_) => "refused",
    };
    Failure {
        message: format!("the agent answered {kind:?}, which does not fit the question"),
        causes: Vec::new(),
        cure: Some("this is a fault of lvsprov: please report it".to_owned()),
    }
}
