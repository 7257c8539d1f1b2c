//! A host in memory: files that separate written from synced, a kernel that is as strict as the real one,
//! processes that can be killed in the middle of a request, and the power that can fail.

#![allow(clippy::unwrap_used, clippy::panic)]

pub(crate) mod disk;
mod laws;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use self::disk::{Files, Kept};
use self::store::MemoryStore;
use super::super::process::Process;
use super::actor::{Actor, ArmedTimer, Executor, HostRun, WantedSysctls};
use super::reverting::{RevertAttempt, RevertOrder, RevertPart, RevertTimer};
use super::{Agent, journal, receipt};
use crate::kernel::error::{Error, Result};
use crate::kernel::observe::KernelState;
use crate::names::{IfName, TopologyName};
use crate::plan::boot::ReplayScope;
use crate::plan::drift::UnitNeeds;
use crate::plan::simulate;
use crate::protocol::{Fetched, SegmentAnswers};
use crate::state::examination::{Examination, ObservedDrop, RouteQuestion};
use crate::state::{
    AddressKey, BootUnit, DaemonConfiguration, DaemonInstance, LinkManager, Observation,
    OpenTransaction, Protocol, Step, UnitChange,
};

/// What happens at a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process that writes is killed before it writes.
    Process,
    /// The process that writes is killed when half of it is written.
    HalfWay,
    /// The host loses power before it writes.
    Power(Kept),
}

/// Counts writes, of all hosts that share it, and the one at which something happens.
#[derive(Debug, Clone, Default)]
pub(crate) struct CrashPoint {
    pub writes: usize,
    pub at: Option<(usize, Crash)>,
    /// Whether it happened.
    pub happened: bool,
}

/// What the steps of the next request meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepFault {
    /// The step behind so many is refused.
    Refused(usize),
    /// The agent is killed after so many steps.
    Killed(usize),
}

#[derive(Debug, Clone)]
struct RunningTimer {
    pid: u32,
    order: RevertOrder,
}

#[derive(Debug, Clone)]
struct HostMemory {
    files: Files,
    /// The kernel's state as it comes up.
    boot: KernelState,
    kernel: KernelState,
    run: u32,
    clock_ms: u64,
    alive: BTreeSet<u32>,
    next: u32,
    timers: Vec<RunningTimer>,
    locked: bool,
    step_fault: Option<StepFault>,
    announced: Vec<AddressKey>,
    has_boot_unit: bool,
}

/// One host; a clone is the same host.
#[derive(Debug, Clone)]
pub(crate) struct MemoryHost {
    memory: Arc<Mutex<HostMemory>>,
    crash: Arc<Mutex<CrashPoint>>,
}

/// A process on a host: an agent, or a revert timer. A clone is the same process.
#[derive(Debug, Clone)]
pub(crate) struct MemoryProcess {
    host: MemoryHost,
    pid: u32,
    dead: Arc<AtomicBool>,
}

/// A transaction and the receipt, as they lie on a host.
#[derive(Debug, Clone)]
pub(crate) struct HostView {
    /// Without the open transaction.
    pub observation: Observation,
    pub open: Option<OpenTransaction>,
}

impl MemoryHost {
    /// A host that came up as `boot`. Writes are counted in `crash`.
    pub fn new(boot: KernelState, crash: Arc<Mutex<CrashPoint>>) -> Self {
        let memory = HostMemory {
            files: Files::default(),
            kernel: boot.clone(),
            boot,
            run: 1,
            clock_ms: 1_000_000,
            alive: BTreeSet::new(),
            next: 100,
            timers: Vec::new(),
            locked: false,
            step_fault: None,
            announced: Vec::new(),
            has_boot_unit: false,
        };
        Self { memory: Arc::new(Mutex::new(memory)), crash }
    }

    /// Another host that is as this one is now, without its connections.
    pub fn copy(&self, crash: Arc<Mutex<CrashPoint>>) -> Self {
        let mut memory = self.lock().clone();
        memory.alive = memory.timers.iter().map(|timer| timer.pid).collect();
        memory.locked = false;
        Self { memory: Arc::new(Mutex::new(memory)), crash }
    }

    fn lock(&self) -> MutexGuard<'_, HostMemory> {
        self.memory.lock().unwrap()
    }

    /// Starts a process.
    pub fn start(&self) -> MemoryProcess {
        let mut memory = self.lock();
        memory.next += 1;
        let pid = memory.next;
        memory.alive.insert(pid);
        MemoryProcess { host: self.clone(), pid, dead: Arc::default() }
    }

    pub fn kernel(&self) -> KernelState {
        self.lock().kernel.clone()
    }

    pub fn set_kernel(&self, kernel: KernelState) {
        self.lock().kernel = kernel;
    }

    /// The addresses that it announced, in order.
    pub fn announced(&self) -> Vec<AddressKey> {
        self.lock().announced.clone()
    }

    pub fn set_step_fault(&self, fault: Option<StepFault>) {
        self.lock().step_fault = fault;
    }

    /// The kernel's state as it comes up from the next start on.
    pub fn set_boot(&self, boot: KernelState) {
        self.lock().boot = boot;
    }

    /// Whether it starts `agent --boot` as it boots.
    pub fn has_boot_unit(&self) -> bool {
        self.lock().has_boot_unit
    }

    /// The point at which its writes crash.
    pub fn crash_point(&self) -> Arc<Mutex<CrashPoint>> {
        Arc::clone(&self.crash)
    }

    /// All files, by their paths.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().files.all()
    }

    /// How many changes of names on the disk are not synced.
    pub fn unsynced(&self) -> usize {
        self.lock().files.unsynced()
    }

    /// The power fails, and the host comes up again.
    pub fn lose_power(&self, kept: &Kept) {
        let mut memory = self.lock();
        memory.files.crash(kept);
        memory.kernel = memory.boot.clone();
        memory.run += 1;
        memory.clock_ms = 1_000_000;
        memory.alive.clear();
        memory.timers.clear();
        memory.locked = false;
    }

    /// The host is restarted in order; `settles`: its boot unit, if it has one, makes the settled state again.
    pub fn reboot(&self, settles: bool) {
        self.lose_power(&Kept::All);
        if settles && self.has_boot_unit() {
            let process = self.start();
            let store = MemoryStore::new(&process);
            let made =
                super::boot::boot(&store, &process, ReplayScope::All).now_or_never().unwrap();
            assert!(made.unwrap().iter().all(|report| !report.is_failure()), "the boot unit fails");
            process.end();
        }
    }

    /// Another program removes its boot unit.
    pub fn lose_boot_unit(&self) {
        self.lock().has_boot_unit = false;
    }

    /// What lies there for `topology`.
    pub fn view(&self, topology: &TopologyName) -> HostView {
        let process = self.start();
        let store = MemoryStore::new(&process);
        let open = journal::read(&store, topology).unwrap();
        let open = open.map(|files| files.into_open_transaction(&process).unwrap());
        let receipt = receipt::read(&store, topology).unwrap();
        let KernelState { facts, state, counters } = self.kernel();
        process.end();
        let observation = Observation { facts, state, receipt, counters, ..Observation::default() };
        HostView { observation, open }
    }

    /// What the revert timers are to do, and when.
    pub fn due(&self) -> Vec<(u64, RevertPart, u32)> {
        let memory = self.lock();
        let all = memory.timers.iter().flat_map(|RunningTimer { pid, order }| {
            let withdraw = order.withdraw_at_ms.filter(|at| *at < order.build_at_ms);
            let withdraw = withdraw.map(|at| (at, RevertPart::Withdraw, *pid));
            withdraw.into_iter().chain([(order.build_at_ms, RevertPart::All, *pid)])
        });
        all.collect()
    }

    /// The revert timer of that process does its part, unless it ended before.
    pub fn revert(&self, at_ms: u64, part: RevertPart, pid: u32) -> Result<()> {
        let mut memory = self.lock();
        memory.clock_ms = memory.clock_ms.max(at_ms);
        let timer = memory.timers.iter().find(|timer| timer.pid == pid).cloned();
        drop(memory);
        let Some(RunningTimer { pid, order }) = timer else { return Ok(()) };
        let process = MemoryProcess { host: self.clone(), pid, dead: Arc::default() };
        let store = MemoryStore::new(&process);
        let mut work = RevertTimer::new(&store, &process, &order, Vec::new());
        let result = work.attempt(part).now_or_never().unwrap();
        if part == RevertPart::All || matches!(result, Ok(RevertAttempt::NotNeeded)) {
            process.end();
        }
        result.map(drop)
    }
}

impl MemoryProcess {
    /// An agent in this process.
    pub fn agent(&self) -> Agent {
        Agent::new(MemoryStore::new(self), self.clone())
    }

    /// Whether it was killed: then nothing that it still does has an effect.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Kills it in the middle of what it does.
    pub fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.end();
    }

    fn change_boot_unit(&self, installed: bool) -> Result<()> {
        if self.is_dead() {
            return Err(gone());
        }
        self.host.lock().has_boot_unit = installed;
        Ok(())
    }

    /// It ended; a request that it still works at goes on.
    pub fn end(&self) {
        let mut memory = self.host.lock();
        memory.alive.remove(&self.pid);
        memory.timers.retain(|timer| timer.pid != self.pid);
    }
}

/// The configuration that the programs of these hosts do not take.
pub(crate) const REFUSED_LINE: &str = "refused";

fn gone() -> Error {
    Error::new("the process was killed")
}

impl Actor for MemoryProcess {
    fn is_root(&self) -> bool {
        true
    }

    fn observe<'a>(
        &'a self,
        wanted: WantedSysctls<'a>,
        _: bool,
    ) -> BoxFuture<'a, Result<KernelState>> {
        let mut kernel = self.host.kernel();
        let wanted = wanted(&kernel.state.links);
        kernel.state.sysctls.retain(|key, _| wanted.contains(key));
        Box::pin(std::future::ready(Ok(kernel)))
    }

    fn open_executor(&self) -> Result<Box<dyn Executor + '_>> {
        Ok(Box::new(MemoryExecutor(self)))
    }

    fn who_has<'a>(
        &'a self,
        _: &'a IfName,
        _: IpAddr,
        _: Duration,
    ) -> BoxFuture<'a, Result<BTreeSet<String>>> {
        panic!("the network answers this")
    }

    fn find_holders<'a>(
        &'a self,
        _: &'a BTreeSet<AddressKey>,
        _: Duration,
    ) -> BoxFuture<'a, SegmentAnswers> {
        // A host that boots asks this itself; a controller's question is answered by the network.
        Box::pin(std::future::ready(SegmentAnswers::default()))
    }

    fn examine<'a>(&'a self, _: &'a [RouteQuestion]) -> BoxFuture<'a, Result<Examination>> {
        panic!("the network answers this")
    }

    fn watch_drops<'a>(
        &'a self,
        _: &'a BTreeSet<IpAddr>,
        _: Duration,
    ) -> BoxFuture<'a, Result<Vec<ObservedDrop>>> {
        panic!("the network answers this")
    }

    fn announce(&self, addresses: &BTreeSet<AddressKey>) -> Vec<Error> {
        if !self.is_dead() {
            self.host.lock().announced.extend(addresses.iter().cloned());
        }
        Vec::new()
    }

    fn fetch(
        &self,
        _: SocketAddr,
        _: Protocol,
        _: u32,
        _: Duration,
    ) -> BoxFuture<'_, Result<Fetched>> {
        panic!("the network answers this")
    }

    fn boottime_ms(&self) -> u64 {
        self.host.lock().clock_ms
    }

    fn unix_time_s(&self) -> u64 {
        1_700_000_000
    }

    fn run(&self) -> Result<HostRun> {
        let boot = format!("run {}", self.host.lock().run);
        Ok(HostRun { boot, init: None, namespace: None })
    }

    fn own_process(&self) -> Result<Process> {
        Ok(Process { pid: self.pid, start: u64::from(self.pid), boot: self.run()?.boot })
    }

    fn is_alive(&self, process: &Process) -> bool {
        let memory = self.host.lock();
        memory.alive.contains(&process.pid) && process.boot == format!("run {}", memory.run)
    }

    fn kill(&self, process: &Process) -> Result<()> {
        if self.is_alive(process) && !self.is_dead() {
            let mut memory = self.host.lock();
            memory.alive.remove(&process.pid);
            memory.timers.retain(|timer| timer.pid != process.pid);
        }
        Ok(())
    }

    fn random(&self) -> Result<String> {
        let mut memory = self.host.lock();
        memory.next += 1;
        Ok(format!("connection {}", memory.next))
    }

    fn controller_address(&self) -> Option<IpAddr> {
        None
    }

    fn arm(&self, _: &Path, order: &RevertOrder) -> Result<Box<dyn ArmedTimer>> {
        if self.is_dead() {
            return Err(gone());
        }
        let timer = self.host.start();
        let order = order.clone();
        self.host.lock().timers.push(RunningTimer { pid: timer.pid, order });
        Ok(Box::new(MemoryTimer { agent: self.clone(), timer, released: false }))
    }

    fn disarm(&self, timer: Option<&Process>) {
        if let Some(process) = timer {
            let _ = self.kill(process);
        }
    }

    fn boot_unit(&self, _: &UnitNeeds) -> BootUnit {
        if self.host.lock().has_boot_unit { BootUnit::Installed } else { BootUnit::Missing }
    }

    fn link_managers(&self) -> BTreeMap<IfName, LinkManager> {
        BTreeMap::new()
    }

    fn try_out(&self, _: &DaemonInstance, configuration: &DaemonConfiguration) -> Result<()> {
        if configuration.lines == [REFUSED_LINE] {
            Err(Error::new("the program refuses it"))
        } else {
            Ok(())
        }
    }

    fn install_boot_unit(&self, _: &UnitNeeds) -> Result<()> {
        self.change_boot_unit(true)
    }

    fn start_boot_unit(&self) -> Result<()> {
        Ok(())
    }

    fn remove_boot_unit(&self) -> Result<()> {
        self.change_boot_unit(false)
    }

    /// The network that the host is in brings it down.
    fn reboot(&self) -> Result<()> {
        if self.is_dead() { Err(gone()) } else { Ok(()) }
    }

    fn keep_drift_timer(&self, _: Option<u32>) -> Result<()> {
        Ok(())
    }

    fn changed_units(&self, _: &[&str], _: u64) -> Vec<UnitChange> {
        Vec::new()
    }

    fn sleep_until(&self, boottime_ms: u64) -> BoxFuture<'_, Result<()>> {
        let mut memory = self.host.lock();
        memory.clock_ms = memory.clock_ms.max(boottime_ms);
        Box::pin(std::future::ready(Ok(())))
    }
}

struct MemoryTimer {
    agent: MemoryProcess,
    timer: MemoryProcess,
    released: bool,
}

impl ArmedTimer for MemoryTimer {
    fn process(&self) -> Result<Process> {
        self.timer.own_process()
    }

    fn release(mut self: Box<Self>) {
        self.released = true;
    }
}

impl Drop for MemoryTimer {
    /// Where its agent was killed it goes by the disk.
    fn drop(&mut self) {
        if !self.released && !self.agent.is_dead() {
            self.timer.end();
        }
    }
}

struct MemoryExecutor<'p>(&'p MemoryProcess);

impl MemoryExecutor<'_> {
    fn one(&self, step: &Step, done: usize) -> Result<()> {
        let process = self.0;
        let fault = process.host.lock().step_fault;
        if fault == Some(StepFault::Killed(done)) {
            process.die();
        }
        if process.is_dead() {
            return Err(gone());
        }
        if fault == Some(StepFault::Refused(done)) {
            return Err(Error::new("it is in use"));
        }
        let mut memory = process.host.lock();
        let after = simulate(&memory.kernel.state, [&step.edit]);
        memory.kernel.state = after.map_err(|error| Error::new(error.to_string()))?;
        Ok(())
    }
}

impl Executor for MemoryExecutor<'_> {
    fn execute<'a>(&'a self, steps: &'a [Step]) -> BoxFuture<'a, (usize, Option<Error>)> {
        let mut done = 0;
        let mut failed = None;
        for step in steps {
            if let Err(error) = self.one(step, done) {
                failed = Some(error);
                break;
            }
            done += 1;
        }
        Box::pin(std::future::ready((done, failed)))
    }
}
