//! What a host does by itself after a restart: it makes the settled state of each topology again.
//!
//! It has no controller to ask. So of a transaction that is open it closes only what has one possible end
//! ([`at_boot`]), and makes nothing again of a topology in doubt. It plans as an apply does
//! ([`crate::plan::boot`]), stops at the first step that fails, and takes back what it did: the host has its settled
//! state, or nothing of the topology.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::actor::Actor;
use super::journal::{self, TransactionFiles};
use super::lock::{self, HeldBy};
use super::phase::{AtBoot, Phase, at_boot};
use super::store::Store;
use super::{observe, receipt, records, requests, settled, unit};
use crate::desired::Desired;
use crate::failure::Failure;
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::plan;
use crate::plan::boot::ReplayScope;
use crate::plan::ownership::{Goal, sysctls_to_read};
use crate::plan::{holders, preflight};
use crate::protocol::Decision;
use crate::state::announcement::announced_by;
use crate::state::{HostState, Observation, Receipt, Settled, Step, TransactionId};

/// How long it waits for another process that has the lock.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits before it tries again what failed: an interface may come late. Services that wait for the network
/// wait as long.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// The same after a change of the network: the next change starts it again.
const NETWORK_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// How long it waits for another machine that has an address.
const ANSWER_WAIT: Duration = Duration::from_millis(700);

/// What became of one topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootReport {
    /// The topology.
    pub topology: TopologyName,
    /// The open transaction that was closed, and how.
    pub closed: Option<(TransactionId, Decision)>,
    /// How it ended.
    pub end: BootEnd,
    /// VIPs that the host leaves to another machine, in a sentence each.
    pub left_out: Vec<String>,
    /// What else an operator should know.
    pub warnings: Vec<String>,
}

/// How the boot of one topology ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootEnd {
    /// The host has the settled state; how many steps that took.
    Settled {
        /// 0: it had it already.
        steps: usize,
    },
    /// The topology has nothing to make again here.
    Nothing,
    /// A transaction of this run of the host is open: its controller or its revert timer ends it.
    InProgress(TransactionId),
    /// This host has voted for a transaction before the restart, and does not know its end.
    InDoubt(TransactionId),
    /// Why the settled state could not be made.
    Failed(Failure),
}

impl fmt::Display for BootReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topology, closed, end, left_out, warnings } = self;
        if let Some((id, decision)) = closed {
            let how = match decision {
                Decision::Abort => "was not committed before the restart: undone",
                Decision::Commit => "was committed before the restart: closed",
            };
            writeln!(f, "{topology}: transaction {id} {how}")?;
        }
        write!(f, "{topology}: ")?;
        match end {
            BootEnd::Settled { steps: 0 } => f.write_str("as settled, nothing to do")?,
            BootEnd::Settled { steps: 1 } => f.write_str("as settled, 1 step")?,
            BootEnd::Settled { steps } => write!(f, "as settled, {steps} steps")?,
            BootEnd::Nothing => f.write_str("nothing to make again")?,
            BootEnd::InProgress(id) => write!(f, "transaction {id} is at work: nothing was done")?,
            BootEnd::InDoubt(id) => write!(
                f,
                "this host voted for transaction {id} before the restart, and cannot know whether the others \
                 committed it: nothing of {topology} was made again; `lvsprov apply` or `lvsprov rollback` with its \
                 file decides"
            )?,
            BootEnd::Failed(failure) => write!(f, "not made again: {failure}")?,
        }
        left_out.iter().chain(warnings).try_for_each(|warning| write!(f, "\n{topology}: {warning}"))
    }
}

impl BootReport {
    /// Whether the host lacks what it had before the restart.
    pub fn is_failure(&self) -> bool {
        !self.left_out.is_empty() || matches!(self.end, BootEnd::Failed(_) | BootEnd::InDoubt(_))
    }
}

/// Makes the settled state of every topology of this host again. What fails is tried again for some seconds.
pub async fn boot(
    store: &dyn Store,
    actor: &dyn Actor,
    scope: ReplayScope,
) -> Result<Vec<BootReport>> {
    requests::check_root(actor)?;
    let mut reports = Vec::new();
    for topology in unit::topologies(store) {
        reports.push(boot_topology(store, actor, scope, &topology).await);
    }
    let pauses: &[Duration] = match scope {
        ReplayScope::All => &PAUSES,
        ReplayScope::Network => &NETWORK_PAUSES,
        // The next look tries again.
        ReplayScope::Drift => &[],
    };
    for pause in pauses {
        let failed = |report: &&mut BootReport| matches!(report.end, BootEnd::Failed(_));
        let failed: Vec<&mut BootReport> = reports.iter_mut().filter(failed).collect();
        if failed.is_empty() {
            break;
        }
        let pause = u64::try_from(actor.retry_pause(*pause).as_millis()).unwrap_or(u64::MAX);
        actor.sleep_until(actor.boottime_ms().saturating_add(pause)).await?;
        for report in failed {
            let again = boot_topology(store, actor, scope, &report.topology).await;
            let closed = again.closed.or(report.closed.take());
            *report = BootReport { closed, ..again };
        }
    }
    // A crash may have left it without a receipt.
    unit::tidy(store, actor)?;
    Ok(reports)
}

async fn boot_topology(
    store: &dyn Store,
    actor: &dyn Actor,
    scope: ReplayScope,
    topology: &TopologyName,
) -> BootReport {
    let mut boot = TopologyBoot::new((store, actor), scope, topology);
    let end = match boot.run().await {
        Ok(end) => end,
        Err(error) => BootEnd::Failed(error.to_failure()),
    };
    let TopologyBoot { topology, closed, taken, warnings, .. } = boot;
    let left_out = taken.into_values().collect();
    BootReport { topology: topology.clone(), closed, end, left_out, warnings }
}

/// The boot of one topology.
pub(super) struct TopologyBoot<'a> {
    store: &'a dyn Store,
    actor: &'a dyn Actor,
    scope: ReplayScope,
    topology: &'a TopologyName,
    closed: Option<(TransactionId, Decision)>,
    /// Addresses that another machine has, each with a sentence.
    pub taken: BTreeMap<IpAddr, String>,
    pub warnings: Vec<String>,
}

impl<'a> TopologyBoot<'a> {
    /// Nothing was done yet.
    pub fn new(
        (store, actor): (&'a dyn Store, &'a dyn Actor),
        scope: ReplayScope,
        topology: &'a TopologyName,
    ) -> Self {
        let (closed, taken, warnings) = (None, BTreeMap::new(), Vec::new());
        Self { store, actor, scope, topology, closed, taken, warnings }
    }

    async fn run(&mut self) -> Result<BootEnd> {
        let (store, topology) = (self.store, self.topology);
        let _lock = lock::wait(store, topology, PATIENCE).await?.map_err(HeldBy::into_error)?;
        if let Some(open) = journal::read(store, topology)? {
            let id = open.journal.transaction.clone();
            let lost = self.actor.run()?.lost_state_of(&open.prepared.run());
            match at_boot(open.phase, lost) {
                AtBoot::InProgress => return Ok(BootEnd::InProgress(id)),
                AtBoot::InDoubt => return Ok(BootEnd::InDoubt(id)),
                AtBoot::Close(decision) => {
                    self.close(&open, decision)?;
                    self.closed = Some((id, decision));
                }
            }
        }
        let Some(receipt) = receipt::read_as_written(store, topology)? else {
            return Ok(BootEnd::Nothing);
        };
        match settled::read(store, &receipt)? {
            Some(settled) => self.replay(&settled).await,
            None => Ok(BootEnd::Nothing),
        }
    }

    /// As the revert timer does: the operator reads later that the host undid it by itself.
    fn close(&self, open: &TransactionFiles, decision: Decision) -> Result<()> {
        let (store, actor) = (self.store, self.actor);
        let folder = journal::folder(store.root(), self.topology, &open.journal.transaction);
        let by_itself = decision == Decision::Abort && open.phase != Phase::Aborting;
        if by_itself {
            records::keep_reverted(store, actor, &folder, &open.journal, true);
        }
        journal::close(store, actor, open, decision).inspect_err(|_| {
            if by_itself {
                records::take_reverted_back(store, &folder);
            }
        })
    }

    /// The host, with what the settled state asks for.
    pub async fn observe(&self, settled: &Settled) -> Result<Observation> {
        let sysctls = sysctls_to_read(&settled.state);
        let (store, actor, topology) = (self.store, self.actor, self.topology);
        let mut seen = observe::observe(store, actor, topology, &sysctls, false).await?;
        // A file of the boot unit that is missing is no reason to forget what is made again.
        if let Some(receipt) = &mut seen.receipt {
            receipt.settled = receipt::read_as_written(store, topology)?.and_then(|it| it.settled);
        }
        Ok(seen)
    }

    fn plan(&self, settled: &Settled, seen: &Observation) -> Result<Option<Goal>> {
        let goal = Goal::replay(settled, seen)
            .map_err(|error| Error::new("cannot plan the settled state").because(error))?;
        let taken = self.taken.keys().copied().collect();
        Ok(goal.map(|goal| match self.scope {
            ReplayScope::All => goal.leaving_out(&taken),
            ReplayScope::Network => goal.sparing_services(&seen.state),
            ReplayScope::Drift => goal.leaving_out(&taken).sparing_health(&seen.state),
        }))
    }

    /// Makes the settled state, and verifies it.
    pub async fn replay(&mut self, settled: &Settled) -> Result<BootEnd> {
        let seen = self.observe(settled).await?;
        let Some(goal) = self.plan(settled, &seen)? else { return Ok(BootEnd::Nothing) };
        self.ask_for_holders(&steps_to(&goal, &seen.state)?, &seen).await;
        let goal = self.plan(settled, &seen)?.unwrap_or(goal);
        let desired = Desired {
            state: settled.state.clone(),
            accepted: settled.accepted.clone(),
            ..Desired::default()
        };
        let obstacles = preflight::obstacles(&desired, &goal, &seen);
        let unconfigured = plan::boot::unconfigured(settled, &seen.state);
        if let Some(obstacle) = obstacles.into_iter().chain(unconfigured).next() {
            return Err(Error::new(obstacle.message).because(obstacle.why).cure(obstacle.cure));
        }
        let steps = steps_to(&goal, &seen.state)?;
        let is_bare = steps_to(&goal.withdrawn(&seen.state), &seen.state)?.is_empty();
        if seen.receipt.as_ref() != Some(&goal.receipt) {
            self.write(&goal.receipt)?;
        }
        let mut result = self.execute(&steps).await;
        if result.is_ok() {
            result = self.verify(settled).await;
        }
        match result {
            Ok(()) => Ok(BootEnd::Settled { steps: steps.len() }),
            Err(error) if is_bare => Err(self.withdraw(&goal, settled, error).await),
            Err(error) => Err(error),
        }
    }

    /// Asks whether another machine has an address that `steps` add, as an apply does: it may have taken over while this
    /// host was down. After a change of the network alone nothing is asked: this host had the address a moment ago.
    async fn ask_for_holders(&mut self, steps: &[Step], seen: &Observation) {
        let added = announced_by(steps.iter().map(|step| &step.edit));
        let asked = holders::to_ask(&added, &seen.state);
        if self.scope == ReplayScope::Network || asked.is_empty() {
            return;
        }
        let found = self.actor.find_holders(&asked, ANSWER_WAIT).await;
        for (dev, failure) in found.failures {
            let what = "whether another machine has a VIP that is added on";
            self.warnings.push(format!("{what} {dev} is unknown: {failure}"));
        }
        let none = BTreeSet::new();
        for (key, macs) in found.answers {
            if holders::strangers(&macs, &seen.facts.hardware, &none).is_empty() {
                continue;
            }
            let controls = holders::controls(&key, &seen.state);
            let proxies = self.actor.find_holders(&controls, ANSWER_WAIT).await;
            let proxies = proxies.answers.into_values().flatten().collect();
            let others = holders::strangers(&macs, &seen.facts.hardware, &proxies);
            if !others.is_empty() {
                let others: Vec<String> = others.into_iter().collect();
                let (address, dev, others) = (key.net.addr(), &key.dev, others.join(", "));
                let text = format!(
                    "another machine has {address}: {others} answers for it on {dev}. This host leaves it to that \
                     machine, with its services; once that lets go of it, run `systemctl restart lvsprov-boot.service`"
                );
                self.taken.insert(address, text);
            }
        }
    }

    /// What was found is read anew: on the disk before the first step.
    fn write(&self, receipt: &Receipt) -> Result<()> {
        receipt::write(self.store, receipt)
    }

    /// Executes `steps` up to the first that fails.
    async fn execute(&mut self, steps: &[Step]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let (done, failed) = self.actor.open_executor()?.execute(steps).await;
        self.warnings.extend(requests::announce(self.actor, steps.get(..done).unwrap_or(steps)));
        match failed {
            None => Ok(()),
            Some(error) => {
                let what = steps.get(done).map(|step| step.edit.to_string()).unwrap_or_default();
                Err(Error::new(format!("step {} of {}, {what}", done + 1, steps.len()))
                    .because(error))
            }
        }
    }

    /// Whether the host has the settled state.
    async fn verify(&self, settled: &Settled) -> Result<()> {
        let seen = self.observe(settled).await?;
        let Some(goal) = self.plan(settled, &seen)? else { return Ok(()) };
        match steps_to(&goal, &seen.state)?.first() {
            None => Ok(()),
            Some(step) => Err(Error::new(format!(
                "another program works against it: {} is needed again",
                step.edit
            ))),
        }
    }

    /// Takes back what was done before `error`. The error that says how that went.
    async fn withdraw(&self, goal: &Goal, settled: &Settled, error: Error) -> Error {
        match self.try_withdraw(goal, settled).await {
            Ok(()) => error,
            Err(left) => {
                let left = left.to_failure();
                Error::new(format!("{}; taking it back failed too: {left}", error.to_failure()))
            }
        }
    }

    async fn try_withdraw(&self, goal: &Goal, settled: &Settled) -> Result<()> {
        let seen = self.observe(settled).await?;
        let steps = steps_to(&goal.withdrawn(&seen.state), &seen.state)?;
        let executor = self.actor.open_executor()?;
        let (mut rest, mut first) = (steps.as_slice(), None);
        // Those behind a step that fails are executed too, as the revert timer does.
        while !rest.is_empty() {
            let (done, failed) = executor.execute(rest).await;
            let Some(error) = failed else { break };
            first.get_or_insert(error);
            rest = rest.get(done + 1..).unwrap_or_default();
        }
        first.map_or(Ok(()), Err)
    }
}

/// The steps from the present state to `goal`.
pub(super) fn steps_to(goal: &Goal, seen: &HostState) -> Result<Vec<Step>> {
    goal.replay_steps(seen)
        .map_err(|error| Error::new("cannot plan the settled state").because(error))
}
