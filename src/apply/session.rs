//! The connections to the hosts of one topology, and asking all of these hosts at once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::operator::{Activity, NoConsole, OperatorConsole};
use super::requests::{RequestError, unexpected};
use crate::desired::Desired;
use crate::failure::Failure;
use crate::keepalived::desired_with_checks;
use crate::names::HostName;
use crate::plan::ownership::sysctls_to_read;
use crate::protocol::{Reply, Request};
use crate::state::Observation;
use crate::topology::{Host, Reach, Topology};
use crate::transport::{Connection, Options};
use crate::walk;

/// The state of each host that was observed, or why its observation failed.
pub type Observations = BTreeMap<HostName, Result<Observation, Failure>>;

/// How this run reaches the hosts of a topology.
#[derive(Debug, Clone, Default)]
pub struct ConnectionSettings {
    /// For every transport.
    pub transport: Options,
    /// Replaces what the file says for the hosts named here (the lab's namespaces).
    pub reach: BTreeMap<HostName, Reach>,
    /// Only these hosts take part; empty: all do.
    pub limit: BTreeSet<HostName>,
}

/// Connects a session to its hosts: [`ConnectionSettings`] for real hosts; tests have hosts in memory.
pub trait HostConnector: Sync {
    /// Whether the file or the settings say how to reach `host`.
    fn reaches(&self, host: &Host) -> bool;

    /// Whether the operator excludes `host` (`--limit`).
    fn excludes(&self, _host: &Host) -> bool {
        false
    }

    /// Connects, in bounded time. `fresh`: reuses no kept connection, which shows that new connections to
    /// the host work.
    fn connect<'d>(
        &'d self,
        host: &'d Host,
        fresh: bool,
    ) -> BoxFuture<'d, Result<Box<dyn AgentConnection>, Failure>>;
}

/// A connection to the agent of one host.
pub trait AgentConnection: Send {
    /// Sends one request and waits for its reply, in bounded time. After an error the connection is unusable.
    fn ask(&mut self, request: Request) -> BoxFuture<'_, Result<Reply, Failure>>;

    /// Ends the agent. Waits for its end where that takes little time.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl ConnectionSettings {
    fn reach<'s>(&'s self, host: &'s Host) -> Option<&'s Reach> {
        self.reach.get(&host.name).or(host.reach.as_ref())
    }
}

impl HostConnector for ConnectionSettings {
    fn reaches(&self, host: &Host) -> bool {
        self.reach(host).is_some()
    }

    fn excludes(&self, host: &Host) -> bool {
        !self.limit.is_empty() && !self.limit.contains(&host.name)
    }

    fn connect<'d>(
        &'d self,
        host: &'d Host,
        fresh: bool,
    ) -> BoxFuture<'d, Result<Box<dyn AgentConnection>, Failure>> {
        Box::pin(async move {
            let reach = self.reach(host).ok_or_else(disconnected)?;
            let mut options = self.transport.clone();
            if fresh {
                // A connection that is not to be kept reuses no kept one either.
                options.keep = std::time::Duration::ZERO;
            }
            match Connection::open(&host.name, reach, &options).await {
                Ok(connection) => Ok(Box::new(connection) as Box<dyn AgentConnection>),
                Err(error) => Err(Failure::from(&error)),
            }
        })
    }
}

impl AgentConnection for Connection {
    fn ask(&mut self, request: Request) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move { self.call(request).await.map_err(|error| Failure::from(&error)) })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(Connection::close(*self))
    }
}

/// The connection to the host broke earlier.
pub fn disconnected() -> Failure {
    Failure {
        message: "the connection to it is gone".to_owned(),
        causes: Vec::new(),
        cure: Some("run the same command again".to_owned()),
    }
}

/// Why a session has no connection to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAbsence {
    /// The file does not say how to reach it.
    Unmanaged,
    /// `--limit` leaves it out.
    LeftOut,
    /// Connecting failed, or the connection broke.
    Unreachable(Failure),
}

/// A topology and the connections to its hosts.
pub struct Session<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// The state that the topology wants on each host.
    pub desired: BTreeMap<HostName, Desired>,
    connections: BTreeMap<HostName, Box<dyn AgentConnection>>,
    absent: BTreeMap<HostName, HostAbsence>,
    connector: &'a dyn HostConnector,
    console: &'a dyn OperatorConsole,
}

impl<'a> Session<'a> {
    /// [`Session::open_with_console`] without an operator.
    pub async fn open(topology: &'a Topology, connector: &'a ConnectionSettings) -> Session<'a> {
        Self::open_with_console(topology, connector, &NoConsole).await
    }

    /// Connects to every host at once. Hosts that it cannot reach are [`Session::absent`].
    pub async fn open_with_console(
        topology: &'a Topology,
        connector: &'a dyn HostConnector,
        console: &'a dyn OperatorConsole,
    ) -> Session<'a> {
        let mut session = Session {
            console,
            connector,
            topology,
            desired: desired_with_checks(topology),
            connections: BTreeMap::new(),
            absent: BTreeMap::new(),
        };
        let mut hosts = BTreeSet::new();
        for host in topology.hosts.values() {
            if connector.excludes(host) {
                session.absent.insert(host.name.clone(), HostAbsence::LeftOut);
            } else if connector.reaches(host) {
                hosts.insert(host.name.clone());
            } else {
                session.absent.insert(host.name.clone(), HostAbsence::Unmanaged);
            }
        }
        session.connect(&hosts, false).await;
        session
    }

    async fn connect(&mut self, hosts: &BTreeSet<HostName>, fresh: bool) {
        let (connector, topology) = (self.connector, self.topology);
        let mut connecting: FuturesUnordered<_> = hosts
            .iter()
            .filter_map(|name| topology.hosts.get(name))
            .map(async |host| (host.name.clone(), connector.connect(host, fresh).await))
            .collect();
        let mut awaited = hosts.clone();
        self.console.show_awaited(Activity::Connecting, &awaited);
        while let Some((name, connection)) = connecting.next().await {
            awaited.remove(&name);
            self.console.show_awaited(Activity::Connecting, &awaited);
            match connection {
                Ok(connection) => {
                    self.absent.remove(&name);
                    self.connections.insert(name, connection);
                }
                Err(failure) => drop(self.absent.insert(name, HostAbsence::Unreachable(failure))),
            }
        }
    }

    /// From now on the hosts are to be as `topology` says: the same hosts, reached in the same way.
    pub fn retarget(&mut self, topology: &'a Topology) {
        self.topology = topology;
        self.desired = desired_with_checks(topology);
    }

    /// Closes the connections to `hosts` and connects anew. Hosts that are left out or unmanaged stay
    /// absent. `fresh` as in [`HostConnector::connect`].
    pub async fn reconnect(&mut self, hosts: &BTreeSet<HostName>, fresh: bool) {
        let hosts: BTreeSet<HostName> =
            hosts.iter().filter(|name| self.takes_part(name)).cloned().collect();
        let old = hosts.iter().filter_map(|name| self.connections.remove(name));
        let closing: FuturesUnordered<_> = old.map(AgentConnection::close).collect();
        closing.collect::<Vec<_>>().await;
        self.connect(&hosts, fresh).await;
    }

    /// Whether the session is to have a connection to the host.
    fn takes_part(&self, name: &HostName) -> bool {
        !matches!(self.absent.get(name), Some(HostAbsence::LeftOut | HostAbsence::Unmanaged))
    }

    /// Those of `hosts` that the session should be connected to and is not: unreachable hosts, and hosts
    /// whose request was abandoned.
    pub fn lost(&self, hosts: &BTreeSet<HostName>) -> BTreeSet<HostName> {
        let hosts = hosts.iter().filter(|name| self.topology.hosts.contains_key(*name));
        let without = hosts.filter(|name| !self.connections.contains_key(*name));
        without.filter(|name| self.takes_part(name)).cloned().collect()
    }

    /// Why there is no connection to a host.
    pub fn why_absent(&self, name: &HostName) -> Failure {
        let message = match self.absent.get(name) {
            Some(HostAbsence::Unreachable(failure)) => return failure.clone(),
            None => return disconnected(),
            Some(HostAbsence::LeftOut) => "left out by --limit",
            Some(HostAbsence::Unmanaged) => "the file does not say how it is reached",
        };
        Failure { message: message.to_owned(), causes: Vec::new(), cure: None }
    }

    /// The operator who runs this session.
    pub fn console(&self) -> &'a dyn OperatorConsole {
        self.console
    }

    /// Hosts without a connection, and why.
    pub fn absent(&self) -> &BTreeMap<HostName, HostAbsence> {
        &self.absent
    }

    /// Sends all `requests` at once. A host whose connection breaks becomes absent; hosts that are absent
    /// already have no entry in the result.
    pub async fn ask(
        &mut self,
        requests: BTreeMap<HostName, Request>,
    ) -> BTreeMap<HostName, Result<Reply, RequestError>> {
        let Some(activity) = requests.values().next().map(Activity::of) else {
            return BTreeMap::new();
        };
        let mut asking = FuturesUnordered::new();
        let mut awaited = BTreeSet::new();
        for (name, request) in requests {
            if let Some(mut connection) = self.connections.remove(&name) {
                awaited.insert(name.clone());
                asking.push(async move {
                    let reply = connection.ask(request).await;
                    (name, connection, reply)
                });
            }
        }
        let mut answers = BTreeMap::new();
        self.console.show_awaited(activity, &awaited);
        while let Some((name, connection, reply)) = asking.next().await {
            awaited.remove(&name);
            self.console.show_awaited(activity, &awaited);
            let answer = match reply {
                Ok(reply) => {
                    self.connections.insert(name.clone(), connection);
                    RequestError::check(reply)
                }
                Err(failure) => {
                    let absence = HostAbsence::Unreachable(failure.clone());
                    self.absent.insert(name.clone(), absence);
                    Err(RequestError::Lost(failure))
                }
            };
            answers.insert(name, answer);
        }
        answers
    }

    /// Observes every connected host; `counters`: with the connection counters of IPVS.
    pub async fn observe(&mut self, counters: bool) -> Observations {
        let all = self.connections.keys().cloned().collect();
        self.observe_hosts(&all, counters).await
    }

    /// Observes those of `hosts` that are connected.
    pub async fn observe_hosts(
        &mut self,
        hosts: &BTreeSet<HostName>,
        counters: bool,
    ) -> Observations {
        let connected = self.connections.keys().filter(|name| hosts.contains(*name));
        let request = |name: &HostName| {
            let desired = self.desired.get(name);
            let mut sysctls =
                desired.map(|desired| sysctls_to_read(&desired.state)).unwrap_or_default();
            if let (Some(host), Some(desired)) = (self.topology.hosts.get(name), desired) {
                sysctls.extend(walk::sysctls(host, &desired.state));
            }
            let topology = self.topology.name.clone();
            (name.clone(), Request::Observe { topology, sysctls, counters })
        };
        let requests = connected.map(request).collect();
        let answers = self.ask(requests).await;
        let observed = answers.into_iter().map(|(name, answer)| match answer {
            Ok(Reply::Observed(observation)) => (name, Ok(*observation)),
            Ok(other) => (name, Err(unexpected(&other))),
            Err(error) => (name, Err(error.into_failure())),
        });
        observed.collect()
    }

    /// Closes all connections.
    pub async fn close(self) {
        let closing: FuturesUnordered<_> =
            self.connections.into_values().map(AgentConnection::close).collect();
        closing.collect::<Vec<_>>().await;
    }
}
