//! The host on which this process runs, in the network namespace in which it runs: the [`Actor`] of a real
//! host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::process::{self, Process};
use super::transaction::actor::{Actor, ArmedTimer, Executor, HostRun, WantedSysctls};
use super::transaction::reverting::RevertOrder;
use super::{announcer, boot_unit, drift_timer, link_managers, revert};
use crate::kernel::announce::PendingAnnouncements;
use crate::kernel::error::{Error, Result};
use crate::kernel::namespace::NamespaceId;
use crate::kernel::net::Net;
use crate::kernel::observe::{self, KernelState};
use crate::kernel::{
    act, drop_counters, drop_monitor, fault, holders, instances, traffic, who_has,
};
use crate::names::IfName;
use crate::plan::drift::UnitNeeds;
use crate::protocol::{Fetched, SegmentAnswers};
use crate::state::examination::{Examination, ObservedDrop, RouteQuestion};
use crate::state::{
    AddressKey, BootUnit, Controller, DaemonConfiguration, DaemonInstance, LinkManager, Protocol,
    Step, UnitChange,
};

/// The revert timer's process that this process started and released last.
pub(super) type Released = Arc<Mutex<Option<Child>>>;

/// This host.
#[derive(Debug)]
pub struct LocalHost {
    program: PathBuf,
    piped: bool,
    state_dir: Option<PathBuf>,
    is_boot_unit: bool,
    released: Released,
}

impl Default for LocalHost {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            piped: false,
            state_dir: None,
            is_boot_unit: false,
            released: Released::default(),
        }
    }
}

impl LocalHost {
    /// Reached by a pipe from another network namespace of this machine.
    #[must_use]
    pub fn piped(self, piped: bool) -> Self {
        Self { piped, ..self }
    }

    /// With its state in this folder: it may get a boot unit, which reads it there.
    #[must_use]
    pub fn keeping_state_in(self, state_dir: &Path) -> Self {
        Self { state_dir: Some(state_dir.to_owned()), ..self }
    }

    /// Started by the boot unit, or in its place.
    #[must_use]
    pub fn as_boot_unit(self) -> Self {
        Self { is_boot_unit: true, ..self }
    }

    /// With another program than this one for the revert timer and the announcer: where this one is not lvsprov.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }
}

impl Actor for LocalHost {
    fn is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn observe<'a>(
        &'a self,
        wanted: WantedSysctls<'a>,
        counters: bool,
    ) -> BoxFuture<'a, Result<KernelState>> {
        Box::pin(async move {
            let mut read = observe::read(wanted, counters).await?;
            if self.piped && read.facts.controller == Controller::Unknown {
                read.facts.controller = Controller::Pipe;
            }
            Ok(read)
        })
    }

    fn open_executor(&self) -> Result<Box<dyn Executor + '_>> {
        Ok(Box::new(KernelExecutor(Net::open()?)))
    }

    fn who_has<'a>(
        &'a self,
        dev: &'a IfName,
        target: IpAddr,
        wait: Duration,
    ) -> BoxFuture<'a, Result<BTreeSet<String>>> {
        Box::pin(who_has(dev, target, wait))
    }

    fn find_holders<'a>(
        &'a self,
        addresses: &'a BTreeSet<AddressKey>,
        wait: Duration,
    ) -> BoxFuture<'a, SegmentAnswers> {
        Box::pin(holders::find(addresses, wait))
    }

    fn examine<'a>(&'a self, routes: &'a [RouteQuestion]) -> BoxFuture<'a, Result<Examination>> {
        Box::pin(async move {
            let routes = Net::open()?.lookups(routes).await?;
            Ok(Examination { routes, drops: drop_counters::read()? })
        })
    }

    fn watch_drops<'a>(
        &'a self,
        addresses: &'a BTreeSet<IpAddr>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<ObservedDrop>>> {
        // The agent does nothing else meanwhile.
        Box::pin(std::future::ready(drop_monitor::watch(addresses, wait)))
    }

    fn announce(&self, addresses: &BTreeSet<AddressKey>) -> Vec<Error> {
        let (pending, mut failed) = PendingAnnouncements::begin(addresses);
        if !pending.is_empty() {
            failed.extend(announcer::start(&self.program, &pending).err());
        }
        failed
    }

    fn fetch(
        &self,
        target: SocketAddr,
        protocol: Protocol,
        count: u32,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Fetched>> {
        Box::pin(traffic::fetch(target, protocol, count, timeout))
    }

    fn boottime_ms(&self) -> u64 {
        process::boottime_ms()
    }

    fn unix_time_s(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn run(&self) -> Result<HostRun> {
        Ok(HostRun {
            boot: process::boot_id()?,
            init: process::init_start(),
            namespace: NamespaceId::current().ok(),
        })
    }

    fn own_process(&self) -> Result<Process> {
        Process::own()
    }

    fn is_alive(&self, process: &Process) -> bool {
        process.is_alive()
    }

    fn kill(&self, process: &Process) -> Result<()> {
        process.end()
    }

    fn random(&self) -> Result<String> {
        process::by_chance()
    }

    fn controller_address(&self) -> Option<IpAddr> {
        observe::controller()
    }

    fn arm(&self, state_dir: &Path, order: &RevertOrder) -> Result<Box<dyn ArmedTimer>> {
        let released = Arc::clone(&self.released);
        Ok(Box::new(revert::arm(&self.program, state_dir, order, released)?))
    }

    fn disarm(&self, timer: Option<&Process>) {
        if let Some(process) = timer {
            let _ = process.end();
        }
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = released {
            // It may wait for the lock, and would never end by itself then. It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn boot_unit(&self, needs: &UnitNeeds) -> BootUnit {
        let examine = |state_dir| boot_unit::examine(state_dir, needs);
        self.state_dir.as_deref().map_or(BootUnit::Unknown, examine)
    }

    fn link_managers(&self) -> BTreeMap<IfName, LinkManager> {
        let may_have_unit = |state_dir| boot_unit::why_impossible(state_dir).is_none();
        if self.state_dir.as_deref().is_some_and(may_have_unit) {
            link_managers::read()
        } else {
            BTreeMap::new()
        }
    }

    fn try_out(
        &self,
        instance: &DaemonInstance,
        configuration: &DaemonConfiguration,
    ) -> Result<()> {
        instances::try_out(instance, configuration)
    }

    fn install_boot_unit(&self, needs: &UnitNeeds) -> Result<()> {
        boot_unit::install(needs)
    }

    fn start_boot_unit(&self) -> Result<()> {
        boot_unit::start()
    }

    fn remove_boot_unit(&self) -> Result<()> {
        boot_unit::remove(!self.is_boot_unit)
    }

    /// A namespace is no machine: a reboot of it would be one of the machine below.
    fn reboot(&self) -> Result<()> {
        let why = match self.state_dir.as_deref() {
            _ if self.piped => Some("this is a network namespace of a machine".to_owned()),
            Some(state_dir) => boot_unit::why_impossible(state_dir),
            None => Some("it is not known where its receipts lie".to_owned()),
        };
        match why {
            None => boot_unit::reboot(),
            Some(why) => Err(Error::new(format!("lvsprov does not reboot this host: {why}"))
                .cure("reboot it by hand, between `lvsprov maintain` and `lvsprov return`")),
        }
    }

    fn keep_drift_timer(&self, every_s: Option<u32>) -> Result<()> {
        boot_unit::keep_timer(every_s)
    }

    fn changed_units(&self, units: &[&str], since: u64) -> Vec<UnitChange> {
        let may_have_unit = |state_dir| boot_unit::why_impossible(state_dir).is_none();
        if self.state_dir.as_deref().is_some_and(may_have_unit) {
            drift_timer::changed_since(units, since, self.unix_time_s())
        } else {
            Vec::new()
        }
    }

    /// On `CLOCK_BOOTTIME`, which is never set. Blocks the thread: the timer's process has nothing else to
    /// do.
    fn sleep_until(&self, boottime_ms: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let failed = |errno: Errno| Error::new("the revert timer cannot sleep").because(errno);
            let alarm =
                TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC).map_err(failed)?;
            set_alarm(&alarm, boottime_ms)?;
            loop {
                match alarm.wait() {
                    Ok(()) => return Ok(()),
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
        })
    }

    fn retry_pause(&self, pause: Duration) -> Duration {
        fault::pause(pause)
    }

    fn reach(&self, point: &str) {
        fault::at(point);
    }
}

/// Sets `alarm` to a time in milliseconds since the host was started.
pub(super) fn set_alarm(alarm: &TimerFd, boottime_ms: u64) -> Result<()> {
    let at = TimeSpec::from_duration(Duration::from_millis(boottime_ms.max(1)));
    alarm
        .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
        .map_err(|errno| Error::new("the revert timer cannot be set").because(errno))
}

struct KernelExecutor(Net);

impl Executor for KernelExecutor {
    fn execute<'a>(&'a self, steps: &'a [Step]) -> BoxFuture<'a, (usize, Option<Error>)> {
        Box::pin(act::carry_out(&self.0, steps))
    }
}
