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

/// A topology and the hosts that answer.
pub struct Session<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// What each host must look like.
    pub desired: BTreeMap<HostName, Desired>,
    connections: BTreeMap<HostName, Connection>,
    absent: BTreeMap<HostName, Absent>,
}

impl<'a> Session<'a> {
    /// Connects to every host at once. Hosts that cannot be reached are remembered as absent.
    pub async fn open(topology: &'a Topology, settings: &Settings) -> Session<'a> {
        let mut session = Session {
            topology,
            desired: BTreeMap::new(),
            connections: BTreeMap::new(),
            absent: BTreeMap::new(),
        };
        let mut opening = FuturesUnordered::new();
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
            opening.push(async move {
                let connection = Connection::open(&name, &reach, &settings.transport).await;
                (name, connection)
            });
        }
        while let Some((name, connection)) = opening.next().await {
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

    /// Asks every host in `requests` at once. A host that goes away becomes absent, and has no answer.
    pub async fn ask(
        &mut self,
        requests: BTreeMap<HostName, Request>,
    ) -> BTreeMap<HostName, Result<Reply, Failure>> {
        let mut asking = FuturesUnordered::new();
        for (name, request) in requests {
            if let Some(connection) = self.connections.remove(&name) {
                asking.push(ask_one(name, connection, request));
            }
        }
        let mut answers = BTreeMap::new();
        let mut lost = Vec::new();
        while let Some((name, connection, reply)) = asking.next().await {
            match reply {
                Ok(Reply::Refused(failure)) => {
                    self.connections.insert(name.clone(), connection);
                    answers.insert(name, Err(failure));
                }
                Ok(reply) => {
                    self.connections.insert(name.clone(), connection);
                    answers.insert(name, Ok(reply));
                }
                Err(error) => {
                    answers.insert(name.clone(), Err(Failure::from(&error)));
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
            let sighting = answer.and_then(|reply| match reply {
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
