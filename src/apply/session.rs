//! The connections to all hosts of a topology, and asking all of them at once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::watch::{Phase, Unwatched, Watch};
use crate::desired::{Desired, desired_for};
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::ownership::sysctls_to_read;
use crate::protocol::{Reply, Request};
use crate::state::Observation;
use crate::topology::{Host, Reach, Topology};
use crate::transport::{Connection, Options};

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

/// How a session comes to its hosts. In production that is [`Settings`]; a test has hosts of its own.
pub trait Dial: Sync {
    /// Whether it is known how `host` is reached.
    fn knows(&self, host: &Host) -> bool;

    /// Whether the user wants `host` left out.
    fn leaves_out(&self, _host: &Host) -> bool {
        false
    }

    /// Connects. `fresh`: over no connection that was kept, so that it is certain that the host can be
    /// reached anew. Takes bounded time.
    fn dial<'d>(
        &'d self,
        host: &'d Host,
        fresh: bool,
    ) -> BoxFuture<'d, Result<Box<dyn Line>, Failure>>;
}

/// A connection to the agent of one host.
pub trait Line: Send {
    /// Asks one thing. After an error the line is of no more use. Takes bounded time.
    fn ask(&mut self, request: Request) -> BoxFuture<'_, Result<Reply, Failure>>;

    /// Lets go of the agent, and waits for its end if that does not take long.
    fn hang_up(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl Settings {
    fn reach(&self, host: &Host) -> Option<Reach> {
        self.reach.get(&host.name).or(host.reach.as_ref()).cloned()
    }
}

impl Dial for Settings {
    fn knows(&self, host: &Host) -> bool {
        self.reach(host).is_some()
    }

    fn leaves_out(&self, host: &Host) -> bool {
        !self.limit.is_empty() && !self.limit.contains(&host.name)
    }

    fn dial<'d>(
        &'d self,
        host: &'d Host,
        fresh: bool,
    ) -> BoxFuture<'d, Result<Box<dyn Line>, Failure>> {
        Box::pin(async move {
            let Some(reach) = self.reach(host) else {
                return Err(gone());
            };
            let mut options = self.transport.clone();
            if fresh {
                // With nothing to be kept, nothing that was kept is taken up either.
                options.keep = std::time::Duration::ZERO;
            }
            match Connection::open(&host.name, &reach, &options).await {
                Ok(connection) => Ok(Box::new(connection) as Box<dyn Line>),
                Err(error) => Err(Failure::from(&error)),
            }
        })
    }
}

impl Line for Connection {
    fn ask(&mut self, request: Request) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move { self.call(request).await.map_err(|error| Failure::from(&error)) })
    }

    fn hang_up(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(Connection::close(*self))
    }
}

/// What is said of a host whose connection broke earlier.
pub fn gone() -> Failure {
    Failure {
        message: "the connection to it is gone".to_owned(),
        causes: Vec::new(),
        cure: Some("run the same command again".to_owned()),
    }
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

/// A topology and the hosts that answer.
pub struct Session<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// What each host must look like.
    pub desired: BTreeMap<HostName, Desired>,
    connections: BTreeMap<HostName, Box<dyn Line>>,
    absent: BTreeMap<HostName, Absent>,
    dial: &'a dyn Dial,
    watch: &'a dyn Watch,
}

impl<'a> Session<'a> {
    /// Connects to every host at once. Hosts that cannot be reached are remembered as absent.
    pub async fn open(topology: &'a Topology, settings: &'a Settings) -> Session<'a> {
        Self::watched(topology, settings, &Unwatched).await
    }

    /// The same with somebody who hears which hosts are still awaited.
    pub async fn watched(
        topology: &'a Topology,
        dial: &'a dyn Dial,
        watch: &'a dyn Watch,
    ) -> Session<'a> {
        let mut session = Session {
            watch,
            dial,
            topology,
            desired: BTreeMap::new(),
            connections: BTreeMap::new(),
            absent: BTreeMap::new(),
        };
        let mut hosts = BTreeSet::new();
        for host in topology.hosts.values() {
            session.desired.insert(host.name.clone(), desired_for(topology, host));
            if dial.leaves_out(host) {
                session.absent.insert(host.name.clone(), Absent::LeftOut);
            } else if dial.knows(host) {
                hosts.insert(host.name.clone());
            } else {
                session.absent.insert(host.name.clone(), Absent::Unmanaged);
            }
        }
        session.dial(&hosts, false).await;
        session
    }

    async fn dial(&mut self, hosts: &BTreeSet<HostName>, fresh: bool) {
        let (dial, topology) = (self.dial, self.topology);
        let mut dialling: FuturesUnordered<_> = hosts
            .iter()
            .filter_map(|name| topology.hosts.get(name))
            .map(async |host| (host.name.clone(), dial.dial(host, fresh).await))
            .collect();
        let mut awaited = hosts.clone();
        self.watch.awaited(Phase::Connecting, &awaited);
        while let Some((name, line)) = dialling.next().await {
            awaited.remove(&name);
            self.watch.awaited(Phase::Connecting, &awaited);
            match line {
                Ok(line) => {
                    self.absent.remove(&name);
                    self.connections.insert(name, line);
                }
                Err(failure) => drop(self.absent.insert(name, Absent::Unreachable(failure))),
            }
        }
    }

    /// Connects to `hosts` anew, after letting go of the connections to them that there are; hosts
    /// that are left out or not managed stay so. `fresh` as in [`Dial::dial`].
    pub async fn renew(&mut self, hosts: &BTreeSet<HostName>, fresh: bool) {
        let hosts: BTreeSet<HostName> = hosts
            .iter()
            .filter(|name| {
                !matches!(self.absent.get(*name), Some(Absent::LeftOut | Absent::Unmanaged))
            })
            .cloned()
            .collect();
        let old = hosts.iter().filter_map(|name| self.connections.remove(name));
        let closing: FuturesUnordered<_> = old.map(Line::hang_up).collect();
        closing.collect::<Vec<_>>().await;
        self.dial(&hosts, fresh).await;
    }

    /// The hosts of these to which there is no connection, though there should be one: also where a
    /// request was given up on the way.
    pub fn lost(&self, hosts: &BTreeSet<HostName>) -> BTreeSet<HostName> {
        let meant = |name: &&HostName| {
            !matches!(self.absent.get(*name), Some(Absent::LeftOut | Absent::Unmanaged))
        };
        let hosts = hosts.iter().filter(|name| self.topology.hosts.contains_key(*name));
        let without = hosts.filter(|name| !self.connections.contains_key(*name));
        without.filter(meant).cloned().collect()
    }

    /// Why there is no connection to a host.
    pub fn why_absent(&self, name: &HostName) -> Failure {
        match self.absent.get(name) {
            Some(Absent::Unreachable(failure)) => failure.clone(),
            Some(Absent::LeftOut) => Failure {
                message: "left out by --limit".to_owned(),
                causes: Vec::new(),
                cure: None,
            },
            Some(Absent::Unmanaged) => Failure {
                message: "the file does not say how it is reached".to_owned(),
                causes: Vec::new(),
                cure: None,
            },
            None => gone(),
        }
    }

    /// Who hears what is waited for.
    pub fn watch(&self) -> &'a dyn Watch {
        self.watch
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
                Err(failure) => {
                    answers.insert(name.clone(), Err(NoAnswer::Lost(failure.clone())));
                    lost.push((name, failure));
                }
            }
        }
        drop(asking);
        for (name, failure) in lost {
            self.absent.insert(name, Absent::Unreachable(failure));
        }
        answers
    }

    /// Looks at every host that can be reached.
    pub async fn look(
        &mut self,
        counters: bool,
    ) -> BTreeMap<HostName, Result<Observation, Failure>> {
        let all = self.connections.keys().cloned().collect();
        self.look_at(&all, counters).await
    }

    /// Looks at those of `hosts` that can be reached.
    pub async fn look_at(
        &mut self,
        hosts: &BTreeSet<HostName>,
        counters: bool,
    ) -> BTreeMap<HostName, Result<Observation, Failure>> {
        let requests = self
            .connections
            .keys()
            .filter(|name| hosts.contains(*name))
            .map(|name| {
                let sysctls = self
                    .desired
                    .get(name)
                    .map(|desired| sysctls_to_read(&desired.state))
                    .unwrap_or_default();
                let topology = self.topology.name.clone();
                (name.clone(), Request::Observe { topology, sysctls, counters })
            })
            .collect();
        let answers = self.ask(requests).await;
        let seen = answers.into_iter().map(|(name, answer)| {
            let sighting = answer.map_err(NoAnswer::into_failure).and_then(|reply| match reply {
                Reply::Observed(sighting) => Ok(*sighting),
                other => Err(unexpected(&other)),
            });
            (name, sighting)
        });
        seen.collect()
    }

    /// Lets go of all hosts.
    pub async fn close(self) {
        let closing: FuturesUnordered<_> =
            self.connections.into_values().map(Line::hang_up).collect();
        closing.collect::<Vec<_>>().await;
    }
}

async fn ask_one(
    name: HostName,
    mut connection: Box<dyn Line>,
    request: Request,
) -> (HostName, Box<dyn Line>, Result<Reply, Failure>) {
    let reply = connection.ask(request).await;
    (name, connection, reply)
}

/// An answer that does not fit the question.
pub fn unexpected(reply: &Reply) -> Failure {
    let kind = match reply {
        Reply::Observed(_) => "observed",
        Reply::Executed(_) => "executed",
        Reply::Prepared => "prepared",
        Reply::Busy(_) => "busy",
        Reply::Changed(_) => "changed",
        Reply::Voted => "voted",
        Reply::Closed => "closed",
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
