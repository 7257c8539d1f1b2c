//! A cluster in memory: hosts that run the machine of real ones ([`crate::agent::transaction`]) over files
//! and a kernel in memory, and fail on demand. The laws of a transaction are tried on it, cut off at every
//! request and at every write of a host.

#![allow(clippy::unwrap_used, clippy::panic)]

mod announcements;
mod crashes;
mod cut;
mod laws;
mod line;
mod maintenance;
mod traffic;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;

use super::tests::{bare, failure};
use crate::agent::Agent;
use crate::agent::transaction::memory::{
    Crash, CrashPoint, HostView, MemoryHost, MemoryProcess, StepFault,
};
use crate::desired::Reasons;
use crate::failure::Failure;
use crate::kernel::observe::KernelState;
use crate::names::{HostName, TopologyName};
use crate::plan::{Goal, simulate, steps_between};
use crate::protocol::{Decision, Fetched, Reply, Request};
use crate::state::{HostState, Observation, OpenTransaction, TransactionId};
use crate::topology::{Host, Topology};

/// What goes wrong, and when: at the request of this number (from 0) that changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The agent is killed before it does anything.
    AgentBefore,
    /// The agent is killed half-way through its steps.
    AgentHalfway,
    /// The agent is killed when it has done everything, before it answers.
    AgentAfter,
    /// The connection breaks, and the agent goes on all the same: it is done when the host is next asked to
    /// change anything, and not yet when it is looked at.
    AgentLate,
    /// The machine is not reached any more, before it does anything.
    HostBefore,
    /// The same after it did everything.
    HostAfter,
    /// The step in the middle is refused by the kernel; a request without steps is refused.
    Refusal,
    /// The controller is killed before the request arrives.
    ControllerBefore,
    /// The same after it was carried out.
    ControllerAfter,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::AgentBefore,
        Self::AgentHalfway,
        Self::AgentAfter,
        Self::AgentLate,
        Self::HostBefore,
        Self::HostAfter,
        Self::Refusal,
        Self::ControllerBefore,
        Self::ControllerAfter,
    ];
}

/// How requests through the services fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    Answers,
    /// Nothing comes back.
    Drops,
    /// Nothing listens.
    Refuses,
    /// Nothing comes back for so many requests, then they are answered.
    DropsFirst(u32),
    /// The controller is killed once it has asked.
    Kills,
}

impl Serves {
    fn fetch(&mut self, count: u32) -> Reply {
        let failing = |reason: &str| {
            Reply::Fetched(Fetched {
                answers: BTreeMap::new(),
                failures: [(reason.to_owned(), count)].into(),
            })
        };
        match self {
            Self::Refuses => failing(Fetched::REFUSED),
            Self::DropsFirst(0) | Self::Answers | Self::Kills => Reply::Fetched(Fetched {
                answers: [("rs1".to_owned(), count)].into(),
                failures: BTreeMap::new(),
            }),
            Self::Drops => failing(Fetched::TIMED_OUT),
            Self::DropsFirst(left) => {
                *left = left.saturating_sub(count);
                failing(Fetched::TIMED_OUT)
            }
        }
    }
}

/// How hosts come up from a reboot that they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comeback {
    /// As their boot units make them.
    Settled,
    /// Their boot units fail.
    Bare,
    /// They are not reached any more.
    Never,
}

/// One host, as it was at a moment.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Without the open transaction.
    pub observation: Observation,
    pub open: Option<OpenTransaction>,
    pub reached: bool,
}

#[derive(Debug)]
struct HostInWorld {
    memory: MemoryHost,
    reached: bool,
    /// An agent that goes on without its connection, and its request.
    late: Option<(MemoryProcess, Agent, Request)>,
}

impl HostInWorld {
    fn of(memory: MemoryHost) -> Self {
        Self { memory, reached: true, late: None }
    }
}

#[derive(Debug)]
struct Inner {
    topology: TopologyName,
    hosts: BTreeMap<HostName, HostInWorld>,
    /// The writes of all hosts, and the one at which a host crashes.
    crash: Arc<Mutex<CrashPoint>>,
    /// Requests that change something, so far.
    asked: usize,
    faults: Vec<Fault>,
    /// Every host that ever prepared a transaction, and every one that closed it, by the decision.
    begun: BTreeSet<(TransactionId, HostName)>,
    done: BTreeSet<(TransactionId, HostName)>,
    undone: BTreeSet<(TransactionId, HostName)>,
    broken: Vec<String>,
    /// How requests through the services fare.
    serves: Serves,
    /// How many requests were sent through the services.
    fetched: u32,
    /// How hosts come up.
    comeback: Comeback,
    /// The hosts that were rebooted, in their order.
    reboots: Vec<HostName>,
}

/// All hosts.
#[derive(Debug, Clone)]
pub(super) struct World {
    inner: Arc<Mutex<Inner>>,
    /// Rung when the controller is to be killed.
    killed: Arc<tokio::sync::Notify>,
}

impl World {
    /// The addresses that a host has announced, in order.
    pub fn announced(&self, host: &HostName) -> Vec<crate::state::AddressKey> {
        self.inner.lock().unwrap().hosts[host].memory.announced()
    }

    pub fn bare(topology: &Topology) -> Self {
        let crash = Arc::<Mutex<CrashPoint>>::default();
        let host = |name: &HostName| {
            let Observation { facts, state, counters, .. } = bare(topology, name);
            MemoryHost::new(KernelState { facts, state, counters }, Arc::clone(&crash))
        };
        let hosts = topology.hosts.keys().map(|name| (name.clone(), host(name))).collect();
        Self::of(topology.name.clone(), hosts, crash)
    }

    fn of(
        topology: TopologyName,
        hosts: BTreeMap<HostName, MemoryHost>,
        crash: Arc<Mutex<CrashPoint>>,
    ) -> Self {
        let hosts = hosts.into_iter().map(|(name, host)| (name, HostInWorld::of(host))).collect();
        Self {
            killed: Arc::default(),
            inner: Arc::new(Mutex::new(Inner {
                topology,
                hosts,
                crash,
                asked: 0,
                faults: Vec::new(),
                begun: BTreeSet::new(),
                done: BTreeSet::new(),
                undone: BTreeSet::new(),
                broken: Vec::new(),
                serves: Serves::Answers,
                fetched: 0,
                comeback: Comeback::Settled,
                reboots: Vec::new(),
            })),
        }
    }

    /// The same hosts as they are now, in a world of their own.
    pub fn copy(&self) -> Self {
        let inner = self.inner.lock().unwrap();
        let crash = Arc::<Mutex<CrashPoint>>::default();
        let copy = |host: &HostInWorld| host.memory.copy(Arc::clone(&crash));
        let hosts = inner.hosts.iter().map(|(name, host)| (name.clone(), copy(host))).collect();
        Self::of(inner.topology.clone(), hosts, crash)
    }

    pub fn fail(&self, fault: Fault) {
        self.fail_all(vec![fault]);
    }

    pub fn fail_all(&self, faults: Vec<Fault>) {
        let mut inner = self.inner.lock().unwrap();
        inner.faults = faults;
        inner.asked = 0;
    }

    /// At the write of this number, counted over all hosts from now on, its host crashes.
    pub fn crash_at(&self, write: usize, how: Crash) {
        let inner = self.inner.lock().unwrap();
        *inner.crash.lock().unwrap() =
            CrashPoint { at: Some((write, how)), ..CrashPoint::default() };
    }

    /// Whether a host crashed since [`World::crash_at`].
    pub fn crashed(&self) -> bool {
        self.inner.lock().unwrap().crash.lock().unwrap().happened
    }

    pub fn serve(&self, how: Serves) {
        self.inner.lock().unwrap().serves = how;
    }

    pub fn fetched(&self) -> u32 {
        self.inner.lock().unwrap().fetched
    }

    pub fn come_back(&self, how: Comeback) {
        self.inner.lock().unwrap().comeback = how;
    }

    /// The hosts that were asked to reboot and did, in their order.
    pub fn reboots(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.reboots.iter().map(ToString::to_string).collect()
    }

    /// The host loses power, and its boot unit makes its settled state again.
    pub fn reboot(&self, host: &HostName) {
        self.inner.lock().unwrap().hosts[host].memory.reboot(true);
    }

    pub fn lose_boot_unit(&self, host: &HostName) {
        self.inner.lock().unwrap().hosts[host].memory.lose_boot_unit();
    }

    pub fn asked(&self) -> usize {
        self.inner.lock().unwrap().asked
    }

    pub fn hosts(&self) -> BTreeMap<HostName, Machine> {
        let inner = self.inner.lock().unwrap();
        inner.hosts.keys().map(|name| (name.clone(), inner.machine(name))).collect()
    }

    pub fn change(&self, host: &HostName, how: impl FnOnce(&mut Machine)) {
        let inner = self.inner.lock().unwrap();
        let mut machine = inner.machine(host);
        how(&mut machine);
        let Observation { facts, state, counters, .. } = machine.observation;
        inner.hosts[host].memory.set_kernel(KernelState { facts, state, counters });
    }

    /// The result of `acting`; `None` if the controller was killed in the midst of it.
    pub async fn until_killed<T>(&self, acting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            came = acting => Some(came),
            () = self.killed.notified() => None,
        }
    }

    /// Every machine is reached again, and nothing fails any more.
    pub fn heal(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.faults.clear();
        inner.crash.lock().unwrap().at = None;
        for host in inner.hosts.values_mut() {
            host.reached = true;
        }
    }

    /// What must never be, and was.
    pub fn broken(&self) -> Vec<String> {
        self.inner.lock().unwrap().broken.clone()
    }

    /// The time is over on every host: each undoes the transaction that is neither voted for nor closed, in
    /// the order in which the timers wake.
    pub fn time_is_over(&self) {
        let mut inner = self.inner.lock().unwrap();
        let due = |(name, host): (&HostName, &HostInWorld)| {
            let name = name.clone();
            host.memory.due().into_iter().map(move |(at, part, pid)| (at, name.clone(), part, pid))
        };
        let mut due: Vec<_> = inner.hosts.iter().flat_map(due).collect();
        due.sort_by_key(|(at, name, ..)| (*at, name.clone()));
        for (at, name, part, pid) in due {
            if let Err(error) = inner.hosts[&name].memory.revert(at, part, pid) {
                inner.broken.push(format!("{name} does not undo it by itself: {error}"));
            }
        }
    }
}

impl Inner {
    fn fault_of(&mut self, request: &Request) -> Option<Kind> {
        if !changes(request) {
            return None;
        }
        let now = self.asked;
        self.asked += 1;
        self.faults.iter().find(|fault| fault.at == now).map(|fault| fault.kind)
    }

    fn machine(&self, host: &HostName) -> Machine {
        let HostInWorld { memory, reached, late: _ } = &self.hosts[host];
        let HostView { observation, open } = memory.view(&self.topology);
        Machine { observation, open, reached: *reached }
    }

    /// What `agent` on `host` answers.
    fn answer(&mut self, host: &HostName, agent: &mut Agent, request: Request) -> Reply {
        if !changes(&request) {
            return agent.answer(request).now_or_never().unwrap();
        }
        let late = self.hosts.get_mut(host).and_then(|host| host.late.take());
        if let Some((process, mut agent, request)) = late {
            self.answer_and_watch(host, &mut agent, request);
            process.end();
        }
        self.answer_and_watch(host, agent, request)
    }

    /// The same, and whether that may be.
    fn answer_and_watch(&mut self, host: &HostName, agent: &mut Agent, request: Request) -> Reply {
        let before = self.machine(host).open;
        let decision = match &request {
            Request::Close { decision, .. } => Some(*decision),
            _ => None,
        };
        let reply = agent.answer(request).now_or_never().unwrap();
        let after = self.machine(host).open;
        if let Some(open) = &after {
            self.begun.insert((open.journal.transaction.clone(), host.clone()));
        }
        if let (Reply::Executed(_), Some(open)) = (&reply, &before) {
            self.all_have_begun(host, open);
        }
        // A transaction that replaces another is no end of that.
        if let (Some(decision), Some(open), None) = (decision, before, after) {
            let id = (open.journal.transaction.clone(), host.clone());
            match decision {
                Decision::Commit => {
                    self.all_agree(host, &open);
                    self.done.insert(id);
                }
                Decision::Abort => {
                    self.is_as_before(host, &open);
                    self.undone.insert(id);
                }
            }
        }
        reply
    }

    fn who_has(&self, target: IpAddr) -> BTreeSet<String> {
        let kernels = self.hosts.values().map(|host| host.memory.kernel());
        let has = |kernel: &KernelState| {
            let mut keys = kernel.state.addresses.keys();
            keys.any(|key| key.net.addr() == target && key.dev.as_str() == "eth0")
        };
        kernels.filter(has).flat_map(|kernel| kernel.facts.hardware.into_values()).collect()
    }

    /// No host executes steps before all have prepared.
    fn all_have_begun(&mut self, host: &HostName, open: &OpenTransaction) {
        let id = &open.journal.transaction;
        for other in &open.journal.hosts {
            if !self.begun.contains(&(id.clone(), other.clone())) {
                self.broken.push(format!("{host} works at {id}, and {other} has not begun"));
            }
        }
    }

    /// No host commits while another has not voted.
    fn all_agree(&mut self, host: &HostName, open: &OpenTransaction) {
        let id = &open.journal.transaction;
        for other in open.journal.hosts.iter().filter(|other| *other != host) {
            let there = self.machine(other).open;
            let voted = there.is_some_and(|o| o.journal.transaction == *id && o.voted);
            if !voted && !self.done.contains(&(id.clone(), other.clone())) {
                self.broken.push(format!("{host} is settled, and {other} has not agreed"));
            }
        }
    }

    /// No host forgets its state before, before it is in it again.
    fn is_as_before(&mut self, host: &HostName, open: &OpenTransaction) {
        let Machine { observation, .. } = self.machine(host);
        let goal = Goal::undo(open, &observation);
        let state = &observation.state;
        let left = steps_between(state, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
        if !left.into_all().is_empty() {
            self.broken.push(format!("{host} is settled as undone, and is not as before"));
        }
    }
}

/// Whether it is done under the host's lock, one after the other.
fn changes(request: &Request) -> bool {
    !matches!(
        request,
        Request::Observe { .. }
            | Request::WhoHas { .. }
            | Request::FindHolders { .. }
            | Request::Examine { .. }
            | Request::WatchDrops { .. }
            | Request::Fetch { .. }
    )
}

/// Everything that must be as it was, once modules and what they bring are left out.
pub(super) fn essence(state: &HostState, was: &HostState) -> HostState {
    let mut state = state.clone();
    let news: Vec<_> = state.modules.difference(&was.modules).copied().collect();
    let mut with = was.clone();
    for module in &news {
        with = simulate(
            &with,
            [&crate::state::Edit::add::<crate::state::Module>(*module, crate::state::Present)],
        )
        .unwrap();
    }
    for item in with.items() {
        let (mut then, mut here) = (HostState::default(), HostState::default());
        then.copy_item(&item, &with);
        here.copy_item(&item, &state);
        if then == here {
            state.copy_item(&item, was);
        }
    }
    state
}
