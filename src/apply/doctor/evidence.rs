//! What was found out about the requests of one client to one service. Plain types: [`super::diagnosis`] judges them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::names::{HostName, ServiceName};
use crate::protocol::Fetched;
use crate::state::Protocol;
use crate::state::examination::{DropCounter, ObservedDrop, RouteAnswer, RouteQuestion};
use crate::walk::{Walk, WalkVerdict};

/// All about one client and one service.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Who asks.
    pub client: HostName,
    /// The service's name in the file.
    pub service: ServiceName,
    /// Its name in reports.
    pub service_name: String,
    /// Its director.
    pub director: HostName,
    /// Where requests go; `None`: the file names no address or port.
    pub target: Option<(Protocol, SocketAddr)>,
    /// What became of real requests.
    pub probe: RealRequests,
    /// One for each real server that gets new connections.
    pub ways: Vec<RequestWay>,
    /// What was read before, between and after further requests, where the first were not answered.
    pub instruments: Option<Instruments>,
}

/// Real requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealRequests {
    /// They were sent.
    Sent(Fetched),
    /// None was; why.
    NotSent(String),
}

/// The way by one real server.
#[derive(Debug, Clone)]
pub struct RequestWay {
    /// The real server.
    pub real_server: HostName,
    /// The walk through the hosts as they are.
    pub walk: Walk,
    /// How it would end after `lvsprov apply`; `None`: there is no plan that could be carried out.
    pub after_apply: Option<WalkVerdict>,
    /// Where the real server itself reaches what serves.
    pub listener: Option<(Protocol, SocketAddr)>,
    /// What came of a request from the real server itself to there.
    pub from_itself: Option<Result<Fetched, String>>,
}

/// What hosts were asked while further requests were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instruments {
    /// How many requests.
    pub sent: u32,
    /// Route lookups on the ways.
    pub lookups: Vec<KernelLookup>,
    /// Counters of drops that rose.
    pub rises: Vec<CounterRise>,
    /// New connections that IPVS gave to each real server; `None`: its counters are not known.
    pub connections: Option<BTreeMap<HostName, u64>>,
    /// Packets of these requests that kernels dropped, by the host whose kernel says so; with the drop monitor.
    pub drops: BTreeMap<HostName, Vec<ObservedDrop>>,
    /// Hosts that could not be asked, and why.
    pub failures: BTreeMap<HostName, String>,
}

/// What a host's kernel says about a packet on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLookup {
    /// The host.
    pub host: HostName,
    /// The packet.
    pub question: RouteQuestion,
    /// Whether the walk has it go on.
    pub passes: bool,
    /// The kernel's answer.
    pub answer: RouteAnswer,
}

/// A counter that rose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterRise {
    /// On this host.
    pub host: HostName,
    /// Which.
    pub counter: DropCounter,
    /// By how much in a second without our requests.
    pub before: u64,
    /// By how much during them.
    pub during: u64,
}

impl Evidence {
    /// How many requests were answered, and how many not; `None`: none was sent.
    pub fn counts(&self) -> Option<(u32, u32)> {
        let RealRequests::Sent(fetched) = &self.probe else { return None };
        Some((fetched.answers.values().sum(), fetched.failures.values().sum()))
    }

    /// Whether requests were sent, and some of them show that they are not answered.
    pub fn is_unanswered(&self) -> bool {
        let counts = self.counts();
        !self.is_undecided() && counts.is_some_and(|(answered, failed)| failed > 0 || answered == 0)
    }

    /// Whether silence shows nothing: an application need not answer a datagram that it does not understand.
    pub fn is_undecided(&self) -> bool {
        let RealRequests::Sent(fetched) = &self.probe else { return false };
        self.target.is_some_and(|(protocol, _)| protocol == Protocol::Udp)
            && fetched.answers.is_empty()
            && fetched.failures.keys().all(|reason| reason == Fetched::TIMED_OUT)
    }
}
