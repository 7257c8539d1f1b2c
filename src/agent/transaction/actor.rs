//! The host, as the transaction sees it: the kernel's state, processes, clocks and the revert timer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::super::process::Process;
use super::reverting::RevertOrder;
use crate::kernel::error::{Error, Result};
use crate::kernel::observe::KernelState;
use crate::names::IfName;
use crate::plan::drift::UnitNeeds;
use crate::protocol::{Fetched, SegmentAnswers};
pub use crate::state::HostRun;
use crate::state::examination::{Examination, ObservedDrop, RouteQuestion};
use crate::state::{
    AddressKey, BootUnit, DaemonConfiguration, DaemonInstance, Link, LinkManager, Protocol, Step,
    Sysctl, UnitChange,
};

/// Names the sysctls to read, given the host's links.
pub type WantedSysctls<'a> =
    Box<dyn FnOnce(&BTreeMap<IfName, Link>) -> BTreeSet<Sysctl> + Send + 'a>;

/// The host on which a transaction works.
pub trait Actor: fmt::Debug + Send + Sync {
    /// Whether this process may change the host.
    fn is_root(&self) -> bool;

    /// Reads the kernel. `counters`: the connection counters of IPVS too.
    fn observe<'a>(
        &'a self,
        wanted: WantedSysctls<'a>,
        counters: bool,
    ) -> BoxFuture<'a, Result<KernelState>>;

    /// Opens what executing steps needs.
    fn open_executor(&self) -> Result<Box<dyn Executor + '_>>;

    /// See [`crate::protocol::Request::WhoHas`].
    fn who_has<'a>(
        &'a self,
        dev: &'a IfName,
        target: IpAddr,
        wait: Duration,
    ) -> BoxFuture<'a, Result<BTreeSet<String>>>;

    /// See [`crate::protocol::Request::FindHolders`].
    fn find_holders<'a>(
        &'a self,
        addresses: &'a BTreeSet<AddressKey>,
        wait: Duration,
    ) -> BoxFuture<'a, SegmentAnswers>;

    /// See [`crate::protocol::Request::Examine`].
    fn examine<'a>(&'a self, routes: &'a [RouteQuestion]) -> BoxFuture<'a, Result<Examination>>;

    /// See [`crate::protocol::Request::WatchDrops`].
    fn watch_drops<'a>(
        &'a self,
        addresses: &'a BTreeSet<IpAddr>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<ObservedDrop>>>;

    /// Announces addresses that this host has got ([`crate::state::announcement`]): once before it returns, and again
    /// in the background, even if this process ends. Returns what failed.
    fn announce(&self, addresses: &BTreeSet<AddressKey>) -> Vec<Error>;

    /// See [`crate::protocol::Request::Fetch`].
    fn fetch(
        &self,
        target: SocketAddr,
        protocol: Protocol,
        count: u32,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Fetched>>;

    /// Milliseconds since the host was started, suspension included.
    fn boottime_ms(&self) -> u64;

    /// Seconds since 1970, by the host's clock.
    fn unix_time_s(&self) -> u64;

    /// This run of the host.
    fn run(&self) -> Result<HostRun>;

    /// This process.
    fn own_process(&self) -> Result<Process>;

    /// Whether `process` still runs.
    fn is_alive(&self, process: &Process) -> bool;

    /// Kills `process`, if it still runs.
    fn kill(&self, process: &Process) -> Result<()>;

    /// 128 random bits, as text.
    fn random(&self) -> Result<String>;

    /// The address that this connection's controller is logged in from, where the host knows it.
    fn controller_address(&self) -> Option<IpAddr>;

    /// Starts the revert timer's process, and waits until it runs.
    fn arm(&self, state_dir: &Path, order: &RevertOrder) -> Result<Box<dyn ArmedTimer>>;

    /// Ends the process of a revert timer whose transaction needs it no more, and the one that this
    /// connection released last. The phase on the disk stops a timer too: this only removes the process.
    fn disarm(&self, timer: Option<&Process>);

    /// Whether the boot unit is installed, with what belongs to it for `needs`.
    fn boot_unit(&self, needs: &UnitNeeds) -> BootUnit;

    /// The programs that manage the interfaces; none where the host may have no boot unit.
    fn link_managers(&self) -> BTreeMap<IfName, LinkManager>;

    /// Installs the boot unit with what belongs to it, or brings it to this version. As long as no receipt names a
    /// settled state it does nothing: so it needs no place in a journal.
    fn install_boot_unit(&self, needs: &UnitNeeds) -> Result<()>;

    /// Has systemd start the boot unit, and does not wait for that: from then on it is restarted with the network.
    fn start_boot_unit(&self) -> Result<()>;

    /// Removes the boot unit and its program.
    fn remove_boot_unit(&self) -> Result<()>;

    /// Whether a daemon could run with this configuration: the program itself reads it. An error says why not.
    fn try_out(&self, instance: &DaemonInstance, configuration: &DaemonConfiguration)
    -> Result<()>;

    /// Has the service manager reboot this host, and does not wait for that.
    fn reboot(&self) -> Result<()>;

    /// Has the host look for drift every `every_s` seconds, or no longer. Only where the boot unit stays.
    fn keep_drift_timer(&self, every_s: Option<u32>) -> Result<()>;

    /// Those of `units` that systemd started, reloaded or stopped since `since`, in seconds since 1970.
    fn changed_units(&self, units: &[&str], since: u64) -> Vec<UnitChange>;

    /// Sleeps until so many milliseconds after the host was started.
    fn sleep_until(&self, boottime_ms: u64) -> BoxFuture<'_, Result<()>>;

    /// How long the revert timer waits before it tries again, where it would wait for `pause`; tests wait
    /// less.
    fn retry_pause(&self, pause: Duration) -> Duration {
        pause
    }

    /// A point of [`crate::kernel::fault`].
    fn reach(&self, _point: &str) {}
}

/// Executes steps.
pub trait Executor: Send + Sync {
    /// Executes the steps in order. How many were executed, from the first, and why the next one failed.
    fn execute<'a>(&'a self, steps: &'a [Step]) -> BoxFuture<'a, (usize, Option<Error>)>;
}

/// A revert timer whose process runs. Dropped, it is killed.
pub trait ArmedTimer: Send {
    /// Its process.
    fn process(&self) -> Result<Process>;

    /// Lets it live: from here on the files on the disk decide what it does.
    fn release(self: Box<Self>);
}
