//! One look of a host for drift: it plans from its present state to the settled state of each topology, as at boot
//! ([`super::boot`]), and names or mends what differs ([`crate::plan::drift`]).
//!
//! It never waits for a transaction and never closes one: as long as one is open on the host, or has the lock, nothing
//! is looked at. What it finds is kept beside the receipt, for `status`.

use std::fmt;
use std::path::{Path, PathBuf};

use super::actor::Actor;
use super::boot::{BootEnd, TopologyBoot, steps_to};
use super::lock::HeldBy;
use super::store::{Store, cannot_io, remove_if_present, sync_parent, write_durably};
use super::{journal, receipt, requests, settled, unit};
use crate::failure::Failure;
use crate::kernel::error::{Error, Result};
use crate::names::TopologyName;
use crate::plan::boot::ReplayScope;
use crate::plan::drift;
use crate::plan::ownership::Goal;
use crate::state::drift::DriftLook;
use crate::state::{DriftAction, DriftRecord, FoundDrift, Settled, Step};

/// What one look at one topology found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftReport {
    /// The topology.
    pub topology: TopologyName,
    /// What the host does about drift.
    pub action: DriftAction,
    /// How it ended.
    pub end: DriftEnd,
    /// What else an operator should know.
    pub warnings: Vec<String>,
}

/// How one look at one topology ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriftEnd {
    /// It looked.
    Looked(DriftLook),
    /// Nothing was looked at, as a transaction is at work; which.
    Busy(String),
    /// Why it could not look.
    Failed(Failure),
}

impl DriftReport {
    /// Whether the host could not look, or could not mend what it was to mend.
    pub fn is_failure(&self) -> bool {
        match &self.end {
            DriftEnd::Looked(look) => look.failure.is_some(),
            DriftEnd::Busy(_) => false,
            DriftEnd::Failed(_) => true,
        }
    }

    /// Whether drift is left that no health checker explains.
    pub fn has_drift(&self) -> bool {
        matches!(&self.end, DriftEnd::Looked(look) if !look.items.is_empty() && !look.mended)
    }
}

impl fmt::Display for DriftReport {
    /// One line for each item, as the journal of systemd keeps them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topology, action, end, warnings } = self;
        match end {
            DriftEnd::Busy(why) => write!(f, "{topology}: not looked at: {why}")?,
            DriftEnd::Failed(failure) => write!(f, "{topology}: not looked at: {failure}")?,
            DriftEnd::Looked(look) => {
                let count = look.items.len();
                let items = if count == 1 { "1 item".to_owned() } else { format!("{count} items") };
                match (count, look.mended, &look.failure) {
                    (0, ..) => write!(f, "{topology}: no drift")?,
                    (_, true, _) => write!(f, "{topology}: drift of {items}: mended")?,
                    (_, _, Some(failure)) => {
                        write!(f, "{topology}: drift of {items}: not mended: {failure}")?;
                    }
                    _ => write!(f, "{topology}: drift of {items}: left as it is ({action})")?,
                }
                for item in look.items.iter().take(FoundDrift::MOST) {
                    write!(f, "\n{topology}: drift: {item}")?;
                }
                for change in &look.units {
                    write!(
                        f,
                        "\n{topology}: since the last look {} changed its state",
                        change.unit
                    )?;
                }
                for item in look.left.iter().take(FoundDrift::MOST) {
                    write!(f, "\n{topology}: left to a health checker or the next apply: {item}")?;
                }
            }
        }
        warnings.iter().try_for_each(|warning| write!(f, "\n{topology}: {warning}"))
    }
}

/// Looks at each topology of this host that asks for it; with `chosen` at all of them, and does that.
pub async fn look(
    store: &dyn Store,
    actor: &dyn Actor,
    chosen: Option<DriftAction>,
) -> Result<Vec<DriftReport>> {
    requests::check_root(actor)?;
    let mut reports = Vec::new();
    for topology in unit::topologies(store) {
        let mut warnings = Vec::new();
        let end = match look_at(store, actor, &topology, chosen, &mut warnings).await {
            Ok(None) => continue,
            Ok(Some(end)) => end,
            Err(error) => {
                (chosen.unwrap_or(DriftAction::Report), DriftEnd::Failed(error.to_failure()))
            }
        };
        let (action, end) = end;
        reports.push(DriftReport { topology, action, end, warnings });
    }
    Ok(reports)
}

/// `None`: the topology does not ask for it, or nothing is settled here.
async fn look_at(
    store: &dyn Store,
    actor: &dyn Actor,
    topology: &TopologyName,
    chosen: Option<DriftAction>,
    warnings: &mut Vec<String>,
) -> Result<Option<(DriftAction, DriftEnd)>> {
    let own = receipt::read_as_written(store, topology)?.and_then(|receipt| receipt.drift);
    let Some(action) = chosen.or(own.map(|policy| policy.action)) else { return Ok(None) };
    let _lock = match store.try_lock(Some(topology))? {
        Ok(lock) => lock,
        Err(held_by) => return Ok(Some((action, DriftEnd::Busy(busy(held_by))))),
    };
    // One of another topology may touch the same items.
    let open = unit::topologies(store).into_iter();
    let mut open = open.filter(|name| store.kind(&journal::path(store.root(), name)).is_some());
    if let Some(name) = open.next() {
        let why =
            format!("a transaction of {name} is open; `lvsprov status` with its file shows it");
        return Ok(Some((action, DriftEnd::Busy(why))));
    }
    // It may have been another one before the lock.
    let Some(receipt) = receipt::read_as_written(store, topology)? else { return Ok(None) };
    let Some(settled) = settled::read(store, &receipt)? else { return Ok(None) };
    let before = record(store, topology);
    let mut boot = TopologyBoot::new((store, actor), ReplayScope::Drift, topology);
    let look = compare(&mut boot, actor, &settled, action, before.as_ref()).await?;
    if receipt.drift.is_some() {
        let now = actor.unix_time_s();
        let after = DriftRecord::after(before.as_ref(), now, action, &look);
        if let Err(error) = write(store, topology, &after) {
            warnings.push(format!("what was found is not kept for status: {}", error.to_failure()));
        }
    }
    warnings.append(&mut boot.warnings);
    Ok(Some((action, DriftEnd::Looked(look))))
}

fn busy(held_by: HeldBy) -> String {
    held_by.into_error().to_failure().message
}

/// Compares the host with the settled state, and mends it where it is to.
async fn compare(
    boot: &mut TopologyBoot<'_>,
    actor: &dyn Actor,
    settled: &Settled,
    action: DriftAction,
    before: Option<&DriftRecord>,
) -> Result<DriftLook> {
    let seen = boot.observe(settled).await?;
    let fault = |error| Error::new("cannot plan the settled state").because(error);
    let Some(goal) = Goal::replay(settled, &seen).map_err(fault)? else {
        return Ok(DriftLook::default());
    };
    let all = steps_to(&goal, &seen.state)?;
    let steps = steps_to(&goal.sparing_health(&seen.state), &seen.state)?;
    let mut look = DriftLook {
        items: steps.iter().map(|step: &Step| step.edit.to_string()).collect(),
        left: drift::left(&all, &steps),
        ..DriftLook::default()
    };
    if steps.is_empty() {
        return Ok(look);
    }
    let suspects: Vec<&str> = drift::suspects(&steps).into_iter().collect();
    look.units =
        before.map(|before| actor.changed_units(&suspects, before.looked_at)).unwrap_or_default();
    if action == DriftAction::Mend {
        match boot.replay(settled).await {
            Ok(BootEnd::Settled { .. }) if boot.taken.is_empty() => look.mended = true,
            Ok(_) => look.failure = Some(left_out(boot)),
            Err(error) => look.failure = Some(error.to_failure()),
        }
    }
    Ok(look)
}

/// VIPs are left to another machine.
fn left_out(boot: &TopologyBoot<'_>) -> Failure {
    let texts: Vec<&str> = boot.taken.values().map(String::as_str).collect();
    let message =
        if texts.is_empty() { "the receipt is gone".to_owned() } else { texts.join("; ") };
    Error::new(message).to_failure()
}

fn path(root: &Path, topology: &TopologyName) -> PathBuf {
    root.join(topology.as_str()).join("drift.json")
}

/// What the last looks found, if that can be read.
pub(super) fn record(store: &dyn Store, topology: &TopologyName) -> Option<DriftRecord> {
    let text = store.read(&path(store.root(), topology), "record of drift").ok()??;
    serde_json::from_slice(&text).ok()
}

/// Writes it beside the present one, and renames it.
fn write(store: &dyn Store, topology: &TopologyName, record: &DriftRecord) -> Result<()> {
    let target = path(store.root(), topology);
    let failed = |error| cannot_io("write", &target, error);
    let text = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
    let temporary = target.with_file_name(".drift.json.new");
    write_durably(store, &temporary, &text)
        .and_then(|()| store.rename(&temporary, &target))
        .and_then(|()| sync_parent(store, &target))
        .map_err(failed)
}

/// Removes the record of a topology that the host does not look at any more. Only messages show it: it may fail.
pub(super) fn forget_unwatched(store: &dyn Store, topology: &TopologyName) {
    let path = path(store.root(), topology);
    if store.kind(&path).is_none() {
        return;
    }
    let receipt = receipt::read_as_written(store, topology);
    if receipt.is_ok_and(|receipt| receipt.is_none_or(|receipt| receipt.drift.is_none())) {
        let _ = remove_if_present(store, &path);
    }
}
