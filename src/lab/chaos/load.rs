//! Constant requests of every client to every service, and connections that stay open.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::fault::Fault;
use super::figures;
use crate::desired::every_request;
use crate::lab::clients::{self, Attempt, ClientRequest, SteadyRequests, SteadyStream, Talk};
use crate::lab::targets::{self, RequestTarget};
use crate::lab::{Lab, LabError};
use crate::names::HostName;
use crate::report::chaos::ConnectionResult;
use crate::state::Protocol;
use crate::topology::{Service, Topology};

/// Shortest and longest time from one request of a stream to the next.
const EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Requests that measure how long one takes.
const MEASURED: usize = 6;
/// How much of the time requests may keep this machine busy: one part of so many.
const ONE_OF: u32 = 2;
/// Open connections of a client to a service: twice as many as real servers, within these bounds.
const TALKS: (usize, usize) = (4, 8);

/// Who asks what.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedService<'t> {
    pub client: &'t HostName,
    pub service: &'t Service,
    pub target: RequestTarget,
}

/// Every client and service between which requests are expected to be answered, each once; of a service its first port.
/// `sctp`: whether the kernel has it.
pub(super) fn asked(topology: &Topology, sctp: bool) -> Vec<AskedService<'_>> {
    let mut all: Vec<AskedService<'_>> = Vec::new();
    for expected in every_request(topology) {
        let (client, service) = (&expected.client.name, expected.service);
        let known = all.iter().any(|it| it.client == client && std::ptr::eq(it.service, service));
        let target = targets::of_service(service).first().copied();
        let target = target.filter(|it| sctp || it.protocol != Protocol::Sctp);
        if let Some(target) = target.filter(|_| !known) {
            all.push(AskedService { client, service, target });
        }
    }
    all
}

/// Services of `topology` that `asked` leaves out, each with the reason.
pub(super) fn not_asked(topology: &Topology, asked: &[AskedService<'_>]) -> Vec<String> {
    let left_out = |service: &&Service| !asked.iter().any(|it| std::ptr::eq(it.service, *service));
    let reason = |service: &Service| {
        let why = match service.vip_address() {
            None => "the file does not have its addresses",
            Some(_)
                if targets::of_service(service).iter().all(|it| it.protocol == Protocol::Sctp) =>
            {
                "the running kernel has no SCTP (module sctp)"
            }
            Some(_) => "no client has an address of its family",
        };
        format!("{}: {why}", service.name)
    };
    topology.services.iter().filter(left_out).map(reason).collect()
}

/// How often each stream may ask, from how long requests take here: so that they leave most of the time to the hosts. The
/// inner error says which request was not answered.
pub(super) async fn pace(
    lab: &Lab,
    asked: &[AskedService<'_>],
    patience: Duration,
) -> Result<Result<Duration, String>, LabError> {
    let started = Instant::now();
    for it in asked {
        let requests = [question(it, patience); MEASURED];
        for result in clients::ask_each(lab, it.client, &requests).await? {
            if let Err(why) = result {
                return Ok(Err(format!("{} from {}: {why}", it.service.name, it.client)));
            }
        }
    }
    let requests = u32::try_from(MEASURED).unwrap_or(1);
    // The time of one request of each stream.
    let round = started.elapsed() / requests;
    Ok(Ok((round * ONE_OF).clamp(EVERY.0, EVERY.1)))
}

fn question(asked: &AskedService<'_>, patience: Duration) -> ClientRequest {
    let RequestTarget { protocol, at } = asked.target;
    ClientRequest { from: None, target: at, protocol, patience }
}

/// Constant requests.
pub(super) struct Load<'t> {
    streams: Vec<RunningStream<'t>>,
}

struct RunningStream<'t> {
    asked: AskedService<'t>,
    requests: SteadyRequests,
    /// `None` while the client has no power.
    running: Option<SteadyStream>,
    /// Of runs before the client lost its power.
    earlier: Vec<Attempt>,
}

impl<'t> Load<'t> {
    pub async fn start(
        lab: &Lab,
        asked: &[AskedService<'t>],
        every: Duration,
        patience: Duration,
    ) -> Result<Self, LabError> {
        let mut streams = Vec::new();
        for it in asked {
            let requests = SteadyRequests { request: question(it, patience), every };
            let running = Some(SteadyStream::start(lab, it.client, requests).await?);
            streams.push(RunningStream { asked: *it, requests, running, earlier: Vec::new() });
        }
        Ok(Self { streams })
    }

    /// `client` loses its power: what was under way is lost, and does not count.
    pub fn cut(&mut self, client: &HostName) {
        for stream in self.streams.iter_mut().filter(|it| it.asked.client == client) {
            if let Some(running) = stream.running.take() {
                stream.earlier.extend(running.so_far());
            }
        }
    }

    /// `client` has its power back.
    pub async fn resume(&mut self, lab: &Lab, client: &HostName) -> Result<(), LabError> {
        for stream in self.streams.iter_mut().filter(|it| it.asked.client == client) {
            if stream.running.is_none() {
                stream.running = Some(SteadyStream::start(lab, client, stream.requests).await?);
            }
        }
        Ok(())
    }

    /// The streams whose last requests since `since` are not all answered, for a message.
    pub fn not_answered(&self, since: Instant) -> Vec<String> {
        let waits = |stream: &&RunningStream<'_>| {
            let wanted = figures::answers_in_a_row(stream.asked.service.real_servers.len());
            let so_far = stream.running.as_ref().map(SteadyStream::so_far).unwrap_or_default();
            !figures::is_answered_again(&so_far, since, wanted)
        };
        let name = |stream: &RunningStream<'_>| {
            format!("{} from {}", stream.asked.service.name, stream.asked.client)
        };
        self.streams.iter().filter(waits).map(name).collect()
    }

    /// Waits for the requests under way, and returns all.
    pub async fn stop(self) -> Vec<(AskedService<'t>, Vec<Attempt>)> {
        let stop = |stream: RunningStream<'t>| async move {
            let mut attempts = stream.earlier;
            if let Some(running) = stream.running {
                attempts.extend(running.stop().await);
            }
            (stream.asked, attempts)
        };
        join_all(self.streams.into_iter().map(stop)).await
    }
}

/// Open connections, each with who opened it to what.
pub(super) struct OpenTalks<'t>(Vec<(AskedService<'t>, Talk)>);

impl<'t> OpenTalks<'t> {
    /// Opens some from each client to each TCP service. The inner error says which could not be opened.
    pub async fn open(
        lab: &Lab,
        asked: &[AskedService<'t>],
        patience: Duration,
    ) -> Result<Result<Self, String>, LabError> {
        let mut all = Vec::new();
        for it in asked.iter().filter(|it| it.target.protocol == Protocol::Tcp) {
            let count = (2 * it.service.real_servers.len()).clamp(TALKS.0, TALKS.1);
            match clients::open_talks(lab, it.client, it.target.at, count, patience).await? {
                Ok(talks) => all.extend(talks.into_iter().map(|talk| (*it, talk))),
                Err(why) => {
                    return Ok(Err(format!(
                        "a connection to {} from {} cannot be opened: {why}",
                        it.service.name, it.client
                    )));
                }
            }
        }
        Ok(Ok(Self(all)))
    }

    /// Asks on each of them after `fault`, all at once.
    pub async fn survived(self, fault: &Fault, patience: Duration) -> ConnectionResult {
        let opened = self.0.len();
        let others = self.0.into_iter().filter(|(asked, talk)| {
            !fault.ends_connection(asked.client, asked.service, &talk.server)
        });
        let works =
            |(_, mut talk): (AskedService<'t>, Talk)| async move { talk.works(patience).await };
        let works: Vec<bool> = join_all(others.map(works)).await;
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        ConnectionResult {
            opened: number(opened),
            ended_with_it: number(opened - works.len()),
            kept: number(works.iter().filter(|works| **works).count()),
        }
    }
}
