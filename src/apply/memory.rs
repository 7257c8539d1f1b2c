//! A cluster in memory: hosts that keep a state, a receipt and a journal as a real one does, take steps
//! as strictly as the kernel does, and fail when they are told to. What holds of a transaction wherever
//! it is cut off is tried on it, at every request.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cut;
mod laws;
mod line;
mod traffic;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::tests::{bare, failure};
use crate::desired::Reasons;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::{Goal, simulate, stages, steps_between};
use crate::protocol::{Busy, Decision, Execution, Fetched, Prepare, Reply, Request, RevertAfter};
use crate::state::{
    Edit, Holder, HostState, Journal, Module, Observation, OpenTransaction, Operator, Present,
    Receipt, Stage, TransactionId,
};
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
    /// The controller is killed before the request is heard.
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

/// An open transaction as it lies on a host.
#[derive(Debug, Clone)]
pub(super) struct Open {
    journal: Journal,
    receipt_before: Option<Receipt>,
    settled: Option<Receipt>,
    pub voted: bool,
    /// Whether whoever works at it knows that it is agreed, and may go back all the same.
    knows: bool,
    /// Which line works at it.
    line: u64,
    by: Operator,
    revert: Option<RevertAfter>,
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

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub observation: Observation,
    pub open: Option<Open>,
    pub reached: bool,
    /// What a connection that is gone is still at.
    late: Option<(u64, Request)>,
}

#[derive(Debug)]
struct Inner {
    hosts: BTreeMap<HostName, Machine>,
    /// Lines that are held by somebody.
    alive: BTreeSet<u64>,
    next: u64,
    /// Requests that change something, so far.
    asked: usize,
    faults: Vec<Fault>,
    /// Every host that ever began a transaction, and every one that settled it as done.
    begun: BTreeSet<(TransactionId, HostName)>,
    done: BTreeSet<(TransactionId, HostName)>,
    undone: BTreeSet<(TransactionId, HostName)>,
    broken: Vec<String>,
    /// How requests through the services fare.
    serves: Serves,
    /// How many requests were sent through the services.
    fetched: u32,
}

/// All hosts.
#[derive(Debug, Clone)]
pub(super) struct World {
    inner: Arc<Mutex<Inner>>,
    /// Rung when the controller is to be killed.
    killed: Arc<tokio::sync::Notify>,
}

impl World {
    pub fn bare(topology: &Topology) -> Self {
        let machine = |name: &HostName| Machine {
            observation: bare(topology, name),
            open: None,
            reached: true,
            late: None,
        };
        let hosts = topology.hosts.keys().map(|name| (name.clone(), machine(name))).collect();
        Self::of(hosts, 0)
    }

    /// Lines are counted from `next`.
    fn of(hosts: BTreeMap<HostName, Machine>, next: u64) -> Self {
        Self {
            killed: Arc::default(),
            inner: Arc::new(Mutex::new(Inner {
                hosts,
                alive: BTreeSet::new(),
                next,
                asked: 0,
                faults: Vec::new(),
                begun: BTreeSet::new(),
                done: BTreeSet::new(),
                undone: BTreeSet::new(),
                broken: Vec::new(),
                serves: Serves::Answers,
                fetched: 0,
            })),
        }
    }

    /// The same hosts as they are now, in a world of their own.
    pub fn copy(&self) -> Self {
        Self::of(self.inner.lock().unwrap().hosts.clone(), 1000)
    }

    pub fn fail(&self, fault: Fault) {
        self.fail_all(vec![fault]);
    }

    pub fn fail_all(&self, faults: Vec<Fault>) {
        let mut inner = self.inner.lock().unwrap();
        inner.faults = faults;
        inner.asked = 0;
    }

    pub fn serve(&self, how: Serves) {
        self.inner.lock().unwrap().serves = how;
    }

    pub fn fetched(&self) -> u32 {
        self.inner.lock().unwrap().fetched
    }

    pub fn asked(&self) -> usize {
        self.inner.lock().unwrap().asked
    }

    pub fn hosts(&self) -> BTreeMap<HostName, Machine> {
        self.inner.lock().unwrap().hosts.clone()
    }

    pub fn change(&self, host: &HostName, how: impl FnOnce(&mut Machine)) {
        how(self.inner.lock().unwrap().hosts.get_mut(host).unwrap());
    }

    /// What came of `acting`; `None` if the controller was killed in the midst of it.
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
        for machine in inner.hosts.values_mut() {
            machine.reached = true;
        }
    }

    /// What must never be, and was.
    pub fn broken(&self) -> Vec<String> {
        self.inner.lock().unwrap().broken.clone()
    }

    /// The time is over on every host: each undoes what is neither agreed nor closed, in the order in
    /// which the timers wake.
    pub fn time_is_over(&self, topology: &Topology) {
        let mut inner = self.inner.lock().unwrap();
        for stage in [Stage::Withdraw, Stage::Ready, Stage::Live] {
            for (name, machine) in &mut inner.hosts {
                let Some(open) = machine.open.as_ref().filter(|o| !o.voted && o.revert.is_some())
                else {
                    continue;
                };
                let unfinished = open.told(false);
                let goal = Goal::undo(&unfinished, &machine.observation);
                let state = &machine.observation.state;
                let steps =
                    steps_between(state, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
                for (of, steps) in stages::stage(&topology.hosts[name], steps) {
                    if of == stage {
                        let changes: Vec<_> = steps.into_iter().map(|step| step.change).collect();
                        machine.observation.state =
                            simulate(&machine.observation.state, &changes).unwrap();
                    }
                }
            }
        }
        for machine in inner.hosts.values_mut() {
            if let Some(open) = machine.open.take_if(|o| !o.voted && o.revert.is_some()) {
                machine.observation.receipt = open.receipt_before;
            }
        }
    }
}

impl Open {
    fn told(&self, alive: bool) -> OpenTransaction {
        OpenTransaction {
            journal: self.journal.clone(),
            receipt_before: self.receipt_before.clone(),
            voted: self.voted,
            holder: alive.then(|| self.holder()),
            reverts_in_ms: self.revert.filter(|_| !self.voted).map(|after| after.build_ms.into()),
            restarted: false,
            notes: Vec::new(),
        }
    }

    fn holder(&self) -> Holder {
        Holder { by: self.by.clone(), from: None, pid: 1, for_s: 1, idle_s: 0, idle_limit_s: 60 }
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

    fn look(&self, host: &HostName) -> Observation {
        let machine = &self.hosts[host];
        let mut observation = machine.observation.clone();
        observation.unfinished =
            machine.open.as_ref().map(|open| Box::new(open.told(self.alive.contains(&open.line))));
        observation
    }

    fn answer(
        &mut self,
        host: &HostName,
        line: u64,
        request: Request,
        at_most: Option<usize>,
    ) -> Reply {
        let changes = changes(&request);
        if let Some((line, late)) = self.hosts.get_mut(host).unwrap().late.take_if(|_| changes) {
            self.answer(host, line, late, None);
        }
        match request {
            Request::Observe { .. } => Reply::Observed(Box::new(self.look(host))),
            Request::Prepare(begin) => self.begin(host, line, *begin),
            Request::Resume { transaction, by, force, .. } => {
                self.resume(host, line, &transaction, by, force)
            }
            Request::Execute { transaction, steps, .. } => {
                if let Err(refused) = self.is_at_work(host, line, &transaction) {
                    return refused;
                }
                let open = self.hosts.get_mut(host).unwrap().open.as_mut().unwrap();
                if open.voted && !open.knows {
                    return Reply::Refused(failure("it is agreed"));
                }
                open.voted = false;
                self.all_have_begun(host, &transaction);
                let changes: Vec<_> = steps.into_iter().map(|step| step.change).collect();
                self.work(host, &changes, at_most)
            }
            Request::Vote { transaction, .. } => {
                if let Err(refused) = self.is_at_work(host, line, &transaction) {
                    return refused;
                }
                self.hosts.get_mut(host).unwrap().open.as_mut().unwrap().voted = true;
                Reply::Voted
            }
            Request::Close { transaction, decision: ending, .. } => {
                if let Err(refused) = self.is_at_work(host, line, &transaction) {
                    return refused;
                }
                let open = self.hosts[host].open.as_ref().unwrap();
                if ending == Decision::Abort && open.voted && !open.knows {
                    return Reply::Refused(failure("it is agreed"));
                }
                if ending == Decision::Commit && !open.voted && open.journal.hosts.len() > 1 {
                    return Reply::Refused(failure("it is not agreed"));
                }
                self.settle(host, ending)
            }
            Request::WhoHas { target, .. } => Reply::Answered(self.who_has(target)),
            Request::Fetch { count, .. } => {
                self.fetched += count;
                self.serves.fetch(count)
            }
        }
    }

    fn who_has(&self, target: IpAddr) -> BTreeSet<String> {
        let has = |machine: &&Machine| {
            let mut keys = machine.observation.state.addresses.keys();
            keys.any(|key| key.net.addr() == target && key.dev.as_str() == "eth0")
        };
        let macs = self.hosts.values().filter(has);
        macs.flat_map(|machine| machine.observation.facts.hardware.values().cloned()).collect()
    }

    fn busy(&self, host: &HostName) -> Option<Reply> {
        let open = self.hosts[host].open.as_ref()?;
        Some(Reply::Busy(Box::new(Busy {
            topology: open.journal.topology.clone(),
            transaction: Some(open.journal.transaction.clone()),
            holder: self.alive.contains(&open.line).then(|| open.holder()),
            reverts_in_ms: open.revert.filter(|_| !open.voted).map(|after| after.build_ms.into()),
        })))
    }

    fn begin(&mut self, host: &HostName, line: u64, begin: Prepare) -> Reply {
        if let Some(open) = &self.hosts[host].open {
            let held = self.alive.contains(&open.line) && open.line != line;
            if held || (open.revert.is_some() && !open.voted) {
                return self.busy(host).unwrap();
            }
        }
        let differences = begin.expected.differences(&self.look(host));
        if !differences.is_empty() {
            return Reply::Changed(differences);
        }
        self.begun.insert((begin.journal.transaction.clone(), host.clone()));
        let machine = self.hosts.get_mut(host).unwrap();
        machine.open = Some(Open {
            by: begin.journal.by.clone(),
            journal: begin.journal,
            receipt_before: begin.receipt_before,
            settled: begin.settled,
            voted: false,
            knows: false,
            line,
            revert: begin.revert,
        });
        machine.observation.receipt = Some(begin.receipt);
        Reply::Prepared
    }

    fn resume(
        &mut self,
        host: &HostName,
        line: u64,
        id: &TransactionId,
        by: Operator,
        force: bool,
    ) -> Reply {
        let Some(open) = &self.hosts[host].open else {
            return Reply::Refused(failure("there is no transaction here"));
        };
        if open.journal.transaction != *id {
            return Reply::Refused(failure("another transaction is here"));
        }
        if self.alive.contains(&open.line) && open.line != line && !force {
            return self.busy(host).unwrap();
        }
        let open = self.hosts.get_mut(host).unwrap().open.as_mut().unwrap();
        open.line = line;
        open.by = by;
        open.knows = open.voted;
        Reply::Prepared
    }

    fn is_at_work(&self, host: &HostName, line: u64, id: &TransactionId) -> Result<(), Reply> {
        match &self.hosts[host].open {
            Some(open) if open.journal.transaction == *id && open.line == line => Ok(()),
            _ => Err(Reply::Refused(failure("that transaction is not this connection's"))),
        }
    }

    fn work(&mut self, host: &HostName, changes: &[Edit], at_most: Option<usize>) -> Reply {
        let mut done = 0;
        let mut refused = None;
        for change in changes {
            if at_most == Some(done) {
                refused = Some(failure("it is in use"));
                break;
            }
            let machine = self.hosts.get_mut(host).unwrap();
            match simulate(&machine.observation.state, [change]) {
                Ok(state) => machine.observation.state = state,
                Err(error) => {
                    refused = Some(failure(&error.to_string()));
                    break;
                }
            }
            done += 1;
        }
        Reply::Executed(Box::new(Execution { done, failure: refused, after: self.look(host) }))
    }

    fn settle(&mut self, host: &HostName, ending: Decision) -> Reply {
        let open = self.hosts.get_mut(host).unwrap().open.take().unwrap();
        let id = open.journal.transaction.clone();
        match ending {
            Decision::Commit => {
                self.all_agree(host, &open);
                self.done.insert((id, host.clone()));
                self.hosts.get_mut(host).unwrap().observation.receipt = open.settled;
            }
            Decision::Abort => {
                self.is_as_before(host, &open);
                self.undone.insert((id, host.clone()));
                self.hosts.get_mut(host).unwrap().observation.receipt = open.receipt_before;
            }
        }
        Reply::Closed
    }

    /// Nobody does anything before all have begun.
    fn all_have_begun(&mut self, host: &HostName, id: &TransactionId) {
        let hosts = self.hosts[host].open.as_ref().unwrap().journal.hosts.clone();
        for other in hosts {
            if !self.begun.contains(&(id.clone(), other.clone())) {
                self.broken.push(format!("{host} works at {id}, and {other} has not begun"));
            }
        }
    }

    /// Nobody is settled as done while another has not agreed.
    fn all_agree(&mut self, host: &HostName, open: &Open) {
        let id = &open.journal.transaction;
        for other in open.journal.hosts.iter().filter(|other| *other != host) {
            let there = self.hosts[other].open.as_ref();
            let agreed = there.is_some_and(|o| o.journal.transaction == *id && o.voted);
            if !agreed && !self.done.contains(&(id.clone(), other.clone())) {
                self.broken.push(format!("{host} is settled, and {other} has not agreed"));
            }
        }
    }

    /// Nobody forgets what was there before it is there again.
    fn is_as_before(&mut self, host: &HostName, open: &Open) {
        let state = &self.hosts[host].observation.state;
        let goal = Goal::undo(&open.told(false), &self.hosts[host].observation);
        let left = steps_between(state, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
        if !left.into_all().is_empty() {
            self.broken.push(format!("{host} is settled as undone, and is not as before"));
        }
    }
}

/// Whether it is done under the host's lock, one after the other.
fn changes(request: &Request) -> bool {
    !matches!(request, Request::Observe { .. } | Request::WhoHas { .. } | Request::Fetch { .. })
}

/// Everything that must be as it was, once modules and what they bring are left out.
pub(super) fn essence(state: &HostState, was: &HostState) -> HostState {
    let mut state = state.clone();
    let news: Vec<_> = state.modules.difference(&was.modules).copied().collect();
    let mut with = was.clone();
    for module in &news {
        let load = Edit::add::<Module>(*module, Present);
        with = simulate(&with, [&load]).unwrap();
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
